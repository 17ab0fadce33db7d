"""Batch normalisation."""

from __future__ import annotations

import numpy as np

from minidl.nn import functional as F
from minidl.nn import init
from minidl.nn._checks import integer, probability, real
from minidl.nn.module import Module
from minidl.tensor import Parameter, Tensor

__all__ = ["BatchNorm2d"]


class BatchNorm2d(Module):
    """Batch normalisation over (N, C, H, W), per channel (Ioffe & Szegedy 2015), by PyTorch's rules.

    In training mode the batch's mean and biased variance normalise, and running_mean and running_var
    (unbiased) move by `momentum` towards them; momentum=None averages all batches seen alike. In eval mode
    the running statistics normalise, and the gradient flows through to the input. track_running_stats=False:
    no statistics are kept, the batch's normalise always. affine=False: no weight and bias.

    `Module.freeze()` holds this layer in eval mode.

    Raises ValueError in training for one value per channel (its variance is 0, so the output would be the
    bias).
    """

    keeps_statistics = True

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__()
        self.num_features = integer("BatchNorm2d: num_features", num_features, 1)
        self.eps = real("BatchNorm2d: eps", eps)
        self.momentum = None if momentum is None else probability("BatchNorm2d: momentum", momentum)
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.weight = Parameter(np.ones(num_features, dtype=np.float32)) if affine else None
        self.bias = Parameter(np.zeros(num_features, dtype=np.float32)) if affine else None
        mean, var = np.zeros(num_features, dtype=np.float32), np.ones(num_features, dtype=np.float32)
        self.register_buffer("running_mean", mean if track_running_stats else None)
        self.register_buffer("running_var", var if track_running_stats else None)
        self.register_buffer(
            "num_batches_tracked", np.zeros((), dtype=np.int64) if track_running_stats else None
        )

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batches seen."""
        if self.running_mean is not None and self.running_var is not None:
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
        if self.num_batches_tracked is not None:
            init.constant_(self.num_batches_tracked, 0)

    def reset_parameters(self) -> None:
        """Weight 1, bias 0 and fresh statistics."""
        self.reset_running_stats()
        if self.weight is not None and self.bias is not None:
            init.ones_(self.weight)
            init.zeros_(self.bias)

    def forward(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """Normalises; then adds `residual` (same shape) and clips at 0 with relu=True, all in one fused
        operator.
        """
        if x.ndim != 4 or x.shape[1] != self.num_features:
            raise ValueError(f"BatchNorm2d: x must be (N, {self.num_features}, H, W), got shape {x.shape}")
        batch_statistics = self.training or self.running_mean is None
        if batch_statistics and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            raise ValueError(
                f"BatchNorm2d: training needs more than one value per channel, got shape {x.shape}; "
                "use a larger batch, or freeze the batch norms"
            )
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.num_batches_tracked is not None:
            seen = self.num_batches_tracked.item() + 1
            if self.momentum is None:
                momentum = 1.0 / seen
            init.constant_(self.num_batches_tracked, seen)
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=batch_statistics,
            momentum=momentum,
            eps=self.eps,
            residual=residual,
            relu=relu,
        )

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )
