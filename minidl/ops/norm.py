"""Batch normalisation (Ioffe & Szegedy 2015), with the ReLU and the residual addition that follow it in one
pass over memory."""

from __future__ import annotations

import math

from minidl import kernels
from minidl.autograd import Function, is_grad_enabled, is_recomputing
from minidl.dtypes import float32, is_half
from minidl.ops._common import Array, expect_floating, expect_same_dtype
from minidl.ops.deferred import Recipe, defer, may_defer, statistics
from minidl.ops.elementwise import ReLUBackward, sqrt
from minidl.ops.movement import reshape
from minidl.ops.promotion import alike, cast
from minidl.ops.reduce import mean, sum
from minidl.tensor import Tensor


def channels_last(a: Array) -> Array:
    """(N, C, ...) -> (N, ..., C), a view: how kernels see it."""
    return a.transpose(0, 2, 3, 1) if a.ndim == 4 else a.transpose(0, *range(2, a.ndim), 1)


def channels_second(a: Array) -> Array:
    """(N, ..., C) -> (N, C, ...), a view: how users see it."""
    return a.transpose(0, 3, 1, 2) if a.ndim == 4 else a.transpose(0, a.ndim - 1, *range(1, a.ndim - 1))


class BatchNorm(Function):
    """y = [relu]((x - mean) * rstd * weight + bias [+ residual]), per channel (dimension 1).

    In training mean and variance are those of the batch and gradients flow through them; otherwise they are
    the constants given (the frozen batch norm of fine-tuning), and gradients still reach x, weight and bias.
    """

    saved_inputs = (0, 1)

    def __init__(
        self, mean: Array, rstd: Array, affine: tuple[Array, Array], eps: float, training: bool, relu: bool
    ) -> None:
        self.mean, self.rstd, self.affine = mean, rstd, affine
        self.eps, self.training, self.relu = eps, training, relu

    def forward(self, x: Array, weight: Array | None, bias: Array | None, residual: Array | None) -> Array:
        be = kernels.backend(x)
        self.saves_output = self.relu and residual is not None
        rest = None if residual is None else channels_last(residual)
        y = be.batch_norm_apply(channels_last(x), *self.affine, rest, self.relu)
        return channels_second(y)

    def backward(self, grad: Tensor) -> tuple[Tensor | None, ...]:
        if is_grad_enabled():
            return self._differentiable_backward(grad)
        x, weight = self.saved()
        needs = self.needs_input_grad
        gx, gw, gb, gr = kernels.backend(x.data).batch_norm_backward(
            channels_last(grad.data),
            channels_last(x.data),
            self.mean,
            self.rstd,
            x.xp.ones(x.shape[1], x.dtype) if weight is None else weight.data,
            channels_last(self._output) if self.saves_output else None,
            self.training,
            needs[0],
            needs[3],
            needs[1] or needs[2],
            self.affine if self.relu and not self.saves_output else None,
        )
        return (
            Tensor._wrap(channels_second(gx)) if needs[0] else None,
            Tensor._wrap(gw) if needs[1] else None,
            Tensor._wrap(gb) if needs[2] else None,
            Tensor._wrap(channels_second(gr)) if needs[3] else None,
        )

    def _after_relu(self, x: Tensor) -> Tensor:
        """The output again, as a constant, for an operator that ended in ReLU."""
        if self.saves_output:
            return self.saved_output().detach()
        y = kernels.backend(x.data).batch_norm_apply(channels_last(x.data), *self.affine, None, True)
        return Tensor._wrap(channels_second(y))

    def _differentiable_backward(self, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The same gradients out of differentiable operators, for gradients of gradients."""
        x, weight = self.saved()
        if self.relu:
            grad = ReLUBackward()(grad, self._after_relu(x))
        dims = (0, *range(2, x.ndim))
        channel = (1, x.shape[1], *[1] * (x.ndim - 2))
        if self.training:
            centred = x - mean(x, dims, keepdim=True)
            rstd = 1.0 / sqrt(mean(centred * centred, dims, keepdim=True) + self.eps)
        else:
            centred = x - Tensor._wrap(self.mean.reshape(channel))
            rstd = Tensor._wrap(self.rstd.reshape(channel))
        xhat = centred * rstd
        gw = sum(grad * xhat, dims) if self.needs_input_grad[1] else None
        gb = sum(grad, dims) if self.needs_input_grad[2] else None
        gx = None
        if self.needs_input_grad[0]:
            scale = rstd if weight is None else rstd * reshape(weight, channel)
            if self.training:  # term 1: through x; term 2: through the mean; term 3: through the variance
                gx = scale * (
                    grad - mean(grad, dims, keepdim=True) - xhat * mean(grad * xhat, dims, keepdim=True)
                )
            else:
                gx = scale * grad
        return gx, gw, gb, grad if self.needs_input_grad[3] else None


class Normalised(Recipe):
    """A batch norm whose statistics are known, to be applied together with what follows."""

    def __init__(self, operator: BatchNorm, operands: tuple[Tensor | None, ...], like: Tensor) -> None:
        super().__init__()
        self.operator, self.operands = operator, operands
        self.shape, self.dtype = like.shape, like.dtype
        self.open_to_residual = operands[3] is None

    def finish(self, residual: Tensor | None, relu: bool) -> Tensor:
        self.operator.relu = relu
        *first, own = self.operands
        return self.operator(*first, own if residual is None else residual)


def _normalise(operator: BatchNorm, x: Tensor, *others: Tensor | None) -> Tensor:
    """The operator of x, weight, bias and residual, deferred where a ReLU may follow."""
    if not operator.relu and may_defer():
        return defer(Normalised(operator, (x, *others), x))
    return operator(x, *others)


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Batch normalisation over every dimension but 1, as ``torch.nn.functional.batch_norm``.

    Args:
        x: (N, C) or (N, C, ...), floating.
        running_mean, running_var: (C,). Used when not training; when training they move towards the batch's
            mean and *unbiased* variance by ``momentum``, in place (may be None then).
        weight, bias: (C,) or None.
        residual: added after the normalisation, shape of ``x``.
        relu: apply ReLU last. Residual and ReLU run in the same pass over memory, forward and backward.
    """
    op = "batch_norm"
    expect_floating(op, "x", x)
    if x.ndim < 2:
        raise ValueError(f"{op}: x expects at least 2 dimensions (N, C, ...), got shape {x.shape}")
    channels = x.shape[1]
    residual = alike(x, residual)
    half = is_half(x.dtype)  # then parameters may be float32: mixed precision
    own = [None if t is None or (half and t.dtype == float32) else t for t in (weight, bias)]
    expect_same_dtype(op, x, weight=own[0], bias=own[1], residual=residual)
    names = "running_mean", "running_var", "weight", "bias"
    for name, t in zip(names, (running_mean, running_var, weight, bias), strict=True):
        if t is not None and t.shape != (channels,):
            raise ValueError(f"{op}: {name} expects shape ({channels},), got {t.shape}")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"{op}: residual expects the shape of x {x.shape}, got {residual.shape}")
    if half:  # the squares of float16 numbers above 255 are infinite
        w, b, r = (None if t is None else cast(t, float32) for t in (weight, bias, residual))
        moved = (running_mean, running_var)
        x32 = cast(x, float32)
        y = batch_norm(x32, *moved, w, b, training, momentum, eps, residual=r, relu=relu)
        return cast(y, x.dtype)
    parameters = [None if t is None else t.data for t in (weight, bias)]
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError(f"{op}: running_mean and running_var are needed when not training")
        # copies: the constants of this call must not move before backward reads them
        x_mean, x_var = running_mean.data.astype(x.dtype), running_var.data.astype(x.dtype)
        rstd, scale, shift = kernels.backend(x_mean).batch_norm_affine(x_mean, x_var, eps, *parameters)
        operator = BatchNorm(x_mean, rstd, (scale, shift), eps, False, relu)
        return _normalise(operator, x, weight, bias, residual)
    count = math.prod(x.shape) // channels if channels else 0
    if count <= 1:
        raise ValueError(f"{op}: training needs more than one value per channel, got x of shape {x.shape}")
    moving = [None if t is None or is_recomputing() else t for t in (running_mean, running_var)]
    given = statistics(x)
    be = kernels.backend(x.data)
    if given:
        x_mean, x_var = given
        rstd, scale, shift = be.batch_norm_affine(x_mean, x_var, eps, *parameters)
        for running, batch, factor in zip(moving, given, (1.0, count / (count - 1)), strict=True):
            if running is not None:
                be.batch_norm_track(running.data, batch, momentum, factor)
    else:
        arrays = [None if t is None else t.data for t in moving]
        x_mean, _, rstd, scale, shift = be.batch_norm_fit(
            channels_last(x.data), *parameters, eps, *arrays, momentum
        )
    for running in moving:
        if running is not None:
            running.mark_changed()
    return _normalise(BatchNorm(x_mean, rstd, (scale, shift), eps, True, relu), x, weight, bias, residual)
