"""Normalisation: batch, layer, group and instance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from minidl.autograd import is_recomputing
from minidl.nn import functional as F
from minidl.nn import init
from minidl.nn._checks import integer, probability, real
from minidl.nn.module import Module
from minidl.tensor import Parameter, Tensor

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "LayerNorm",
]


def _affine(shape: tuple[int, ...], weight: bool, bias: bool) -> tuple[Parameter | None, Parameter | None]:
    """Weight 1 and bias 0, each None unless wanted."""
    return (
        Parameter(np.ones(shape, dtype=np.float32)) if weight else None,
        Parameter(np.zeros(shape, dtype=np.float32)) if bias else None,
    )


def _reset(weight: Parameter | None, bias: Parameter | None) -> None:
    if weight is not None:
        init.ones_(weight)
    if bias is not None:
        init.zeros_(bias)


class _Statistics(Module):
    """What batch and instance norms share: an affine map of each channel and running statistics."""

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    layouts: ClassVar[tuple[tuple[int, str], ...]]

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        bias: bool,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.num_features = integer(f"{name}: num_features", num_features, 1)
        self.eps = real(f"{name}: eps", eps)
        self.momentum = None if momentum is None else probability(f"{name}: momentum", momentum)
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.weight, self.bias = _affine((num_features,), affine, affine and bias)
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
        _reset(self.weight, self.bias)

    def _count_batch(self) -> float:
        """One batch more; the share that its statistics get."""
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.num_batches_tracked is not None and not is_recomputing():
            self.num_batches_tracked.data += 1  # where it lies: nobody waits for a device to count
            self.num_batches_tracked.mark_changed()
            if self.momentum is None:
                momentum = 1.0 / self.num_batches_tracked.item()
        return momentum

    def _expect(self, x: Tensor, channel: int) -> None:
        if x.ndim not in [n for n, _ in self.layouts] or x.shape[channel] != self.num_features:
            expected = " or ".join(text.replace("C", str(self.num_features)) for _, text in self.layouts)
            raise ValueError(f"{type(self).__name__}: x must be {expected}, got shape {x.shape}")

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class BatchNorm2d(_Statistics):
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
    layouts: ClassVar[tuple[tuple[int, str], ...]] = ((4, "(N, C, H, W)"),)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias)

    def forward(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """Normalises; then adds `residual` (same shape) and clips at 0 with relu=True, all in one fused
        operator.
        """
        self._expect(x, 1)
        batch_statistics = self.training or self.running_mean is None
        if batch_statistics and math.prod(x.shape) == self.num_features:
            raise ValueError(
                f"{type(self).__name__}: training needs more than one value per channel, got shape "
                f"{x.shape}; use a larger batch, or freeze the batch norms"
            )
        momentum = self._count_batch() if self.training else 0.0
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


class BatchNorm1d(BatchNorm2d):
    """Batch normalisation over (N, C) or (N, C, L), per channel; otherwise as :class:`BatchNorm2d`."""

    layouts = ((2, "(N, C)"), (3, "(N, C, L)"))


class InstanceNorm2d(_Statistics):
    """Each channel of each image by its own mean and variance (Ulyanov et al. 2016): (N, C, H, W) or
    (C, H, W).

    With track_running_stats=True the means over each batch move running statistics as a batch norm's, and
    these normalise in eval mode. Unlike a batch norm it has no weight and bias unless affine=True.
    """

    layouts = ((4, "(N, C, H, W)"), (3, "(C, H, W)"))

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias)

    def forward(self, x: Tensor) -> Tensor:
        single = x.ndim < self.layouts[0][0]
        self._expect(x, 0 if single else 1)
        batch = x.unsqueeze(0) if single else x
        # PyTorch counts no batches here: with momentum=None its statistics never move
        y = F.instance_norm(
            batch,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            use_input_stats=self.training or self.running_mean is None,
            momentum=0.0 if self.momentum is None else self.momentum,
            eps=self.eps,
        )
        return y.squeeze(0) if single else y


class InstanceNorm1d(InstanceNorm2d):
    """Each channel of each signal by its own mean and variance: (N, C, L) or (C, L); see
    :class:`InstanceNorm2d`."""

    layouts = ((3, "(N, C, L)"), (2, "(C, L)"))


class LayerNorm(Module):
    """Normalisation over the last dimensions (Ba et al. 2016): (..., *normalized_shape) -> the same.

    Args:
        normalized_shape: an int or the sizes of the last dimensions.
        eps: added to the variance.
        elementwise_affine: learn a weight and a bias of normalized_shape; bias=False leaves out the latter.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        sizes = (
            tuple(normalized_shape)
            if isinstance(normalized_shape, Sequence | np.ndarray)
            else (normalized_shape,)
        )
        self.normalized_shape = tuple(integer("LayerNorm: normalized_shape", n, 1) for n in sizes)
        if not self.normalized_shape:
            raise ValueError("LayerNorm: normalized_shape must name at least one dimension")
        self.eps = real("LayerNorm: eps", eps)
        self.elementwise_affine = elementwise_affine
        self.weight, self.bias = _affine(
            self.normalized_shape, elementwise_affine, elementwise_affine and bias
        )

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        _reset(self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class GroupNorm(Module):
    """Each sample's groups of channels by their own mean and variance (Wu & He 2018): (N, C, ...).

    Args:
        num_groups: a divisor of num_channels.
        num_channels: C.
        eps: added to the variance.
        affine: learn a weight and a bias for each channel; bias=False leaves out the latter.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_groups = integer("GroupNorm: num_groups", num_groups, 1)
        self.num_channels = integer("GroupNorm: num_channels", num_channels, 1)
        if num_channels % num_groups:
            raise ValueError(
                f"GroupNorm: num_channels {num_channels} is not divisible by num_groups {num_groups}"
            )
        self.eps = real("GroupNorm: eps", eps)
        self.affine = affine
        self.weight, self.bias = _affine((num_channels,), affine, affine and bias)

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        _reset(self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )
