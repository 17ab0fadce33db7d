"""Layer, group and instance normalisation: one operator that standardises over some axes.

Batch normalisation, whose statistics run over the batch, has its own operator and kernels (:mod:`.norm`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from minidl import kernels
from minidl.autograd import Function, is_grad_enabled
from minidl.ops._common import Array, expect_floating, expect_same_dtype, in_float32
from minidl.ops.elementwise import mul, sqrt
from minidl.ops.movement import reshape
from minidl.ops.norm import batch_norm
from minidl.ops.reduce import mean, sum_to
from minidl.tensor import Tensor

__all__ = ["group_norm", "instance_norm", "layer_norm"]


class Standardize(Function):
    """y = (x - mean) * rstd * weight + bias, mean and biased variance over ``dims``; weight and bias
    broadcast."""

    saved_inputs = (0, 1)
    broadcasts = True

    def __init__(self, dims: tuple[int, ...], eps: float) -> None:
        self.dims, self.eps = dims, eps

    def forward(self, x: Array, weight: Array | None, bias: Array | None) -> Array:
        y, self.mean, self.rstd = kernels.backend(x).standardize(x, self.dims, weight, bias, self.eps)
        return y

    def backward(self, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = self.saved()
        needs_x, needs_weight, needs_bias = self.needs_input_grad
        bias = grad if needs_bias else None  # summed to the shape of the bias by the walk
        if is_grad_enabled():
            return (*self._differentiable(grad, x, weight), bias)
        gx, gw = kernels.backend(x.data).standardize_backward(
            grad.data,
            x.data,
            self.dims,
            self.mean,
            self.rstd,
            None if weight is None else weight.data,
            needs_x,
            needs_weight,
        )
        return (
            None if gx is None else Tensor._wrap(gx),
            None if gw is None else Tensor._wrap(gw),
            bias,
        )

    def _differentiable(
        self, grad: Tensor, x: Tensor, weight: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """The same gradients out of differentiable operators, for gradients of gradients."""
        needs_x, needs_weight, _ = self.needs_input_grad
        centred = x - mean(x, self.dims, keepdim=True)
        rstd = 1.0 / sqrt(mean(mul(centred, centred), self.dims, keepdim=True) + self.eps)
        xhat = centred * rstd
        gw = sum_to(grad * xhat, weight.shape) if needs_weight and weight is not None else None
        if not needs_x:
            return None, gw
        g = grad if weight is None else grad * weight
        through_mean = mean(g, self.dims, keepdim=True)
        through_rstd = xhat * mean(g * xhat, self.dims, keepdim=True)
        return rstd * (g - through_mean - through_rstd), gw

    def _free(self) -> None:
        super()._free()
        self.mean = self.rstd = None


@in_float32
def layer_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Layer normalisation over the last dimensions, as ``torch.nn.functional.layer_norm`` (Ba et al. 2016).

    Args:
        x: (..., *normalized_shape), floating.
        normalized_shape: the sizes of the last dimensions, which mean and biased variance run over.
        weight, bias: shape ``normalized_shape`` or None.
        eps: added to the variance.
    """
    op = "layer_norm"
    expect_floating(op, "x", x)
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or x.shape[-len(shape) :] != shape:
        raise ValueError(f"{op}: x expects a shape that ends in {shape}, got {x.shape}")
    expect_same_dtype(op, x, weight=weight, bias=bias)
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None and t.shape != shape:
            raise ValueError(f"{op}: {name} expects shape {shape}, got {t.shape}")
    return Standardize(tuple(range(x.ndim - len(shape), x.ndim)), eps)(x, weight, bias)


def _grouped(
    op: str, x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Statistics of each image and group of channels, an affine map of each channel."""
    channels = x.shape[1]
    expect_same_dtype(op, x, weight=weight, bias=bias)
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None and t.shape != (channels,):
            raise ValueError(f"{op}: {name} expects shape ({channels},), got {t.shape}")
    split = reshape(x, (x.shape[0], groups, channels // groups, *x.shape[2:]))
    per_channel = (1, groups, channels // groups, *[1] * (x.ndim - 2))
    w, b = (None if t is None else reshape(t, per_channel) for t in (weight, bias))
    return reshape(Standardize(tuple(range(2, split.ndim)), eps)(split, w, b), x.shape)


@in_float32
def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Group normalisation, as ``torch.nn.functional.group_norm`` (Wu & He 2018).

    Args:
        x: (N, C, ...), floating. Mean and biased variance are those of one sample's group of channels.
        num_groups: a divisor of C.
        weight, bias: (C,) or None.
        eps: added to the variance.
    """
    op = "group_norm"
    expect_floating(op, "x", x)
    if x.ndim < 2:
        raise ValueError(f"{op}: x expects at least 2 dimensions (N, C, ...), got shape {x.shape}")
    if not isinstance(num_groups, int) or num_groups < 1 or x.shape[1] % num_groups:
        raise ValueError(
            f"{op}: num_groups expects a divisor of the {x.shape[1]} channels, got {num_groups!r}"
        )
    if x.size and x.size == x.shape[0] * num_groups:
        raise ValueError(f"{op}: more than one value per group is needed, got x of shape {x.shape}")
    return _grouped(op, x, num_groups, weight, bias, eps)


@in_float32
def instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Instance normalisation: each channel of each sample by its own mean and variance, as
    ``torch.nn.functional.instance_norm`` (Ulyanov et al. 2016).

    Args:
        x: (N, C, L) or (N, C, H, W), floating.
        running_mean, running_var: (C,) or None. With ``use_input_stats`` they move, in place, by ``momentum``
            towards the mean over the batch of the means and unbiased variances; without it they normalise.
        weight, bias: (C,) or None.
        use_input_stats: False normalises by the running statistics, as a batch norm in evaluation does.
        eps: added to the variance.
    """
    op = "instance_norm"
    expect_floating(op, "x", x)
    if x.ndim < 3:
        raise ValueError(f"{op}: x expects at least 3 dimensions (N, C, L, ...), got shape {x.shape}")
    if not use_input_stats:
        if running_mean is None or running_var is None:
            raise ValueError(f"{op}: running_mean and running_var are needed without use_input_stats")
        return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    count = math.prod(x.shape[2:])
    if count < 2:
        raise ValueError(f"{op}: more than one value per channel is needed, got x of shape {x.shape}")
    for running, unbiased in ((running_mean, False), (running_var, True)):
        if running is not None:
            if running.shape != (x.shape[1],):
                raise ValueError(
                    f"{op}: running statistics expect shape ({x.shape[1]},), got {running.shape}"
                )
            axes = tuple(range(2, x.ndim))
            seen = (x.data.var(axes, ddof=1) if unbiased else x.data.mean(axes)).mean(0)
            running.data += (momentum * (seen - running.data)).astype(running.dtype)
            running.mark_changed()
    return _grouped(op, x, x.shape[1], weight, bias, eps)
