"""Batch normalisation at the speed of memory: what is launched, and when. The loops are in norm_kernels.py."""

from __future__ import annotations

from functools import lru_cache
from math import gcd
from typing import Any, NamedTuple

import numpy as np

from minidl.kernels.cpu import memory
from minidl.kernels.cpu import norm_kernels as loops
from minidl.kernels.cpu.lanes import LANES
from minidl.kernels.cpu.layout import dense, per_channel, streams, supported
from minidl.kernels.cpu.program import again
from minidl.kernels.cpu.runtime import launch
from minidl.kernels.reference.checks import Array, expect_shape
from minidl.kernels.reference.norm import Normalisation, expect_channels

MAX_CHUNKS = 64


class _Plan(NamedTuple):
    fold: int  # pixels in a row
    width: int  # values in a row
    rows: int  # whole rows
    chunks: int
    chunk_rows: int


@lru_cache(maxsize=1024)
def _plan(pixels: int, channels: int) -> _Plan:
    step = LANES // gcd(channels, LANES)
    fold = step * -(-4 * LANES // (channels * step))
    rows = pixels // fold
    width = fold * channels
    # A chunk is long enough that adding up its float64 sums costs little beside reading it.
    wanted = min(MAX_CHUNKS, max(1, rows * width // max(1 << 16, 64 * width)))
    chunk_rows = -(-max(rows, 1) // (wanted * loops.GROUP)) * loops.GROUP
    return _Plan(fold, width, rows, -(-rows // chunk_rows), chunk_rows)


def _plain(dtype: np.dtype[Any], *tables: Array | None) -> bool:
    """Whether per-channel arrays are as the loops between two passes read and write them."""
    return all(t is None or (t.dtype == dtype and t.flags.carray) for t in tables)


def _stats(x: Array, mean: Array, var: Array) -> None:
    """Mean and biased variance (C,) from sums about what a few pixels say: squares about a value near the mean lose
    nothing to cancellation."""
    channels = x.shape[-1]
    plan = _plan(x.size // channels, channels)
    flat = x.reshape(-1)
    origin = memory.empty(plan.width, x.dtype)
    partial = memory.empty((plan.chunks, 2, plan.width), np.float64)
    launch(loops.sample_means, flat, channels, origin, parts=1)
    launch(loops.moments, flat, origin, partial, plan.rows, plan.chunk_rows, work=x.size)
    launch(loops.merge_moments, partial, origin, flat, plan.rows, plan.chunk_rows, mean, var, parts=1)


def _own_stats(x: Array) -> tuple[Array, Array]:
    mean, var = memory.empty(x.shape[-1], x.dtype), memory.empty(x.shape[-1], x.dtype)
    _stats(x, mean, var)
    return mean, var


def _affine(
    mean: Array, var: Array, eps: float, weight: Array | None, bias: Array | None, out: tuple[Array, ...]
) -> None:
    """rstd, scale and shift into ``out``."""
    weight = np.ones_like(mean) if weight is None else weight
    bias = np.zeros_like(mean) if bias is None else bias
    launch(loops.affine_of, mean, var, eps, weight, bias, *out, parts=1)


def _fit(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    eps: float,
    momentum: float,
) -> Array:
    """(5, C): mean, variance, and their rstd, scale and shift; the running statistics move."""
    channels = x.shape[-1]
    table = memory.empty((5, channels), x.dtype)
    mean, var, *affine = table
    _stats(x, mean, var)
    _affine(mean, var, eps, weight, bias, tuple(affine))
    count = x.size // channels
    for running, batch, factor in ((running_mean, mean, 1.0), (running_var, var, count / (count - 1))):
        if running is not None:
            launch(loops.track, running, batch, momentum, factor, parts=1)
    return table


def _channel_sums(g: Array, y: Array | None) -> Any:
    """The sums of g by channel; with y those of what passes, and before them what passes."""
    channels = g.shape[-1]
    plan = _plan(g.size // channels, channels)
    flat = g.reshape(-1)
    other = flat if y is None else y.reshape(-1)
    out = memory.empty(0 if y is None else g.shape, g.dtype)  # not g itself, which may be read-only
    passed = flat if y is None else out.reshape(-1)
    partial = memory.empty((plan.chunks, 1, plan.width), np.float64)
    launch(
        *(
            loops.masked_sums,
            flat,
            other,
            out.reshape(-1),
            partial,
            plan.rows,
            plan.chunk_rows,
            y is not None,
        ),
        work=g.size,
    )
    sums = memory.empty(channels, g.dtype)
    launch(loops.merge_sums, partial, passed, plan.rows, sums, parts=1)
    return sums if y is None else (out, sums)


def scale_and_shift(
    x: Array, scale: Array, shift: Array, residual: Array | None, relu: bool, y: Array
) -> None:
    """y = [relu](x * scale + shift [+ residual]), by channel; x, residual and y are C-contiguous, y may be x."""
    channels = x.shape[-1]
    fold = _plan(x.size // channels, channels).fold
    launch(
        loops.affine,
        x.reshape(-1),
        per_channel(scale, fold),
        per_channel(shift, fold),
        (x if residual is None else residual).reshape(-1),
        y.reshape(-1),
        x.dtype.type(0 if relu else -np.inf),
        residual is not None,
        streams(y),
        work=x.size,
    )


def _apply(x: Array, scale: Array, shift: Array, residual: Array | None, relu: bool) -> Array:
    y = memory.empty(x.shape, x.dtype)
    scale_and_shift(x, scale, shift, residual, relu, y)
    return y


class _Wanted(NamedTuple):
    """What a batch norm's backward pass is to give, and how its forward pass was."""

    training: bool
    x: bool
    residual: bool
    weight: bool


def _backward(
    gy: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    weight: Array,
    y: Array | None,
    scale: Array | None,
    shift: Array | None,
    wanted: _Wanted,
) -> tuple[Array, ...]:
    """The gradients of weight and bias, then of x if wanted, then what passed of gy if wanted and there was a ReLU.

    A ReLU's mask is made of its output y, or of x by scale and shift; without both there was none.
    """
    channels = x.shape[-1]
    plan = _plan(x.size // channels, channels)
    flat_g, flat_x = gy.reshape(-1), x.reshape(-1)
    source, masked = flat_x, y is not None or scale is not None
    if y is not None or scale is None or shift is None:
        scale, shift = np.ones_like(mean), np.zeros_like(mean)
    if y is not None:
        source = y.reshape(-1)
    keep = wanted.residual and masked
    kept = memory.empty(gy.shape if keep else 0, gy.dtype)
    tables = [per_channel(table, plan.fold) for table in (mean, scale, shift)]
    summed = wanted.weight or keep or (wanted.training and wanted.x)
    partial = memory.empty((plan.chunks if summed else 0, 2, plan.width), np.float64)
    if summed:
        launch(
            *(loops.gradient_sums, flat_g, flat_x, source, *tables, kept.reshape(-1), partial),
            *(plan.rows, plan.chunk_rows, masked, keep),
            work=x.size,
        )
    if keep:  # the mask is applied and stored
        flat_g, masked = kept.reshape(-1), False
    gweight, gbias = memory.empty(channels, x.dtype), memory.empty(channels, x.dtype)
    coefficients = memory.empty((3, plan.width), x.dtype)
    launch(
        *(loops.merge_gradients, partial, flat_g, flat_x, source, *tables, rstd, weight),
        *(plan.rows, masked, gweight, gbias, coefficients),
        parts=1,
    )
    made = [gweight, gbias]
    if wanted.x:
        gx = memory.empty(x.shape, x.dtype)
        launch(
            *(loops.input_gradient, flat_g, flat_x, source, *tables, coefficients, gx.reshape(-1)),
            *(masked, wanted.training, streams(gx)),
            work=x.size,
        )
        made.append(gx)
    return (*made, kept) if keep else tuple(made)


class NormMixin(Normalisation):
    """Batch normalisation for C-contiguous float32 and float64 arrays; the rest goes to the reference."""

    def batch_norm_stats(self, x: Array) -> tuple[Array, Array]:
        """See the reference. One pass over the data, and a second one for data with a far outlier."""
        expect_channels("batch_norm_stats", x)
        if not supported(x) or not x.size:
            return super().batch_norm_stats(x)
        mean, var = again("batch_norm_stats", _own_stats, (dense(x),))
        return mean, var

    def batch_norm_fit(
        self,
        x: Array,
        weight: Array | None,
        bias: Array | None,
        eps: float,
        running_mean: Array | None = None,
        running_var: Array | None = None,
        momentum: float = 0.0,
    ) -> tuple[Array, ...]:
        """See the reference."""
        tables = weight, bias, running_mean, running_var
        if not supported(x) or x.size <= x.shape[-1] or not _plain(x.dtype, *tables):
            return super().batch_norm_fit(x, weight, bias, eps, running_mean, running_var, momentum)
        expect_channels(
            *("batch_norm_fit", x),
            weight=weight,
            bias=bias,
            running_mean=running_mean,
            running_var=running_var,
        )
        return tuple(again("batch_norm_fit", _fit, (dense(x), *tables), float(eps), float(momentum)))

    def batch_norm_affine(
        self, mean: Array, var: Array, eps: float, weight: Array | None, bias: Array | None
    ) -> tuple[Array, Array, Array]:
        """See the reference."""
        if not supported(mean) or not _plain(mean.dtype, mean, var, weight, bias):
            return super().batch_norm_affine(mean, var, eps, weight, bias)
        rstd, scale, shift = np.empty((3, mean.size), mean.dtype)
        _affine(mean, var, eps, weight, bias, (rstd, scale, shift))
        return rstd, scale, shift

    def batch_norm_track(self, running: Array, batch: Array, momentum: float, factor: float = 1.0) -> None:
        """See the reference."""
        if supported(running) and _plain(running.dtype, running, batch):
            launch(loops.track, running, batch, momentum, factor, parts=1)
        else:
            super().batch_norm_track(running, batch, momentum, factor)

    def channel_sums(self, g: Array, y: Array | None = None) -> tuple[Array, Array]:
        """See the reference. One pass."""
        expect_channels("channel_sums", g)
        if y is not None:
            expect_shape("channel_sums", "y", y, g.shape)
        if not supported(g, y) or not g.size:
            return super().channel_sums(g, y)
        g = dense(g)
        made = again("channel_sums", _channel_sums, (g, None if y is None else dense(y)))
        return (g, made) if y is None else made

    def batch_norm_apply(
        self, x: Array, scale: Array, shift: Array, residual: Array | None, relu: bool
    ) -> Array:
        """See the reference."""
        expect_channels("batch_norm_apply", x, scale=scale, shift=shift)
        if residual is not None:
            expect_shape("batch_norm_apply", "residual", residual, x.shape)
        if not supported(x, residual, scale, shift) or not x.size:
            return super().batch_norm_apply(x, scale, shift, residual, relu)
        other = None if residual is None else dense(residual)
        y: Array = again(
            "batch_norm_apply", _apply, (dense(x), dense(scale), dense(shift), other), bool(relu)
        )
        return y

    def batch_norm_backward(
        self,
        gy: Array,
        x: Array,
        mean: Array,
        rstd: Array,
        weight: Array,
        y: Array | None,
        training: bool,
        needs_x: bool = True,
        needs_residual: bool = True,
        needs_weight: bool = True,
        affine: tuple[Array, Array] | None = None,
    ) -> tuple[Array | None, Array | None, Array | None, Array | None]:
        """See the reference. One pass of sums and one that writes gx; gresidual is written by the first of
        them.
        """
        kernel = "batch_norm_backward"
        scale, shift = (None, None) if affine is None else affine
        expect_channels(kernel, x, mean=mean, rstd=rstd, weight=weight)
        if affine is not None:
            expect_channels(kernel, x, scale=scale, shift=shift)
        expect_shape(kernel, "gy", gy, x.shape)
        if y is not None:
            expect_shape(kernel, "y", y, x.shape)
        if not supported(gy, x, y, mean, rstd, weight, scale, shift) or not x.size:
            needs = (needs_x, needs_residual, needs_weight)
            return super().batch_norm_backward(gy, x, mean, rstd, weight, y, training, *needs, affine)
        arrays = (gy, x, mean, rstd, weight, y, scale, shift)
        inputs = tuple([None if array is None else dense(array) for array in arrays])
        wanted = _Wanted(bool(training), needs_x, needs_residual, needs_weight)
        gweight, gbias, *others = again(kernel, _backward, inputs, wanted)
        gx = others.pop(0) if needs_x else None
        gresidual = (others[0] if others else gy) if needs_residual else None
        return gx, gweight if needs_weight else None, gbias if needs_weight else None, gresidual
