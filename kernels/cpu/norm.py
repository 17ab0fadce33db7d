"""Batch normalisation at the speed of memory: what is launched, and when. The loops are in norm_kernels.py."""

from __future__ import annotations

from functools import lru_cache
from math import gcd
from typing import NamedTuple

import numpy as np

from minidl.kernels.cpu import memory
from minidl.kernels.cpu import norm_kernels as loops
from minidl.kernels.cpu.lanes import LANES
from minidl.kernels.cpu.layout import dense, per_channel, streams, supported
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


def _plain(*tables: Array | None) -> bool:
    """Whether per-channel arrays are as the loops between two passes read them."""
    return supported(*tables) and all(t is None or (t.flags.c_contiguous and t.flags.aligned) for t in tables)


class NormMixin(Normalisation):
    """Batch normalisation for C-contiguous float32 and float64 arrays; the rest goes to the reference."""

    def batch_norm_stats(self, x: Array) -> tuple[Array, Array]:
        """See the reference. One pass over the data, and a second one for data with a far outlier."""
        expect_channels("batch_norm_stats", x)
        channels = x.shape[-1]
        if not supported(x) or not x.size:
            return super().batch_norm_stats(x)
        plan = _plan(x.size // channels, channels)
        flat = dense(x).reshape(-1)
        # Squares about a value near the mean lose nothing to cancellation.
        origin = np.empty(plan.width, x.dtype)
        loops.sample_means(flat, channels, origin)
        exact = np.empty((2, channels))
        partial = memory.empty((plan.chunks, 2, plan.width), np.float64)
        for _ in range(2):
            launch(loops.moments, flat, origin, partial, plan.rows, plan.chunk_rows, work=x.size)
            if not loops.merge_moments(partial, origin, flat, plan.rows, exact[0], exact[1]):
                break
            loops.spread(exact[0], origin)
        mean, var = exact.astype(x.dtype)
        return mean, var

    def batch_norm_affine(
        self, mean: Array, var: Array, eps: float, weight: Array | None, bias: Array | None
    ) -> tuple[Array, Array, Array]:
        """See the reference."""
        if not _plain(mean, var, weight, bias):
            return super().batch_norm_affine(mean, var, eps, weight, bias)
        weight = np.ones_like(mean) if weight is None else weight
        bias = np.zeros_like(mean) if bias is None else bias
        rstd, scale, shift = np.empty((3, mean.size), mean.dtype)
        loops.affine_of(mean, var, eps, weight, bias, rstd, scale, shift)
        return rstd, scale, shift

    def batch_norm_track(self, running: Array, batch: Array, momentum: float, factor: float = 1.0) -> None:
        """See the reference."""
        if _plain(running, batch):
            loops.track(running, batch, momentum, factor)
        else:
            super().batch_norm_track(running, batch, momentum, factor)

    def channel_sums(self, g: Array, y: Array | None = None) -> tuple[Array, Array]:
        """See the reference. One pass."""
        expect_channels("channel_sums", g)
        if y is not None:
            expect_shape("channel_sums", "y", y, g.shape)
        if not supported(g, y) or not g.size:
            return super().channel_sums(g, y)
        channels = g.shape[-1]
        plan = _plan(g.size // channels, channels)
        flat = dense(g).reshape(-1)
        other = flat if y is None else dense(y).reshape(-1)
        out = flat if y is None else memory.empty(flat.shape, g.dtype)
        partial = memory.empty((plan.chunks, 1, plan.width), np.float64)
        launch(
            *(loops.masked_sums, flat, other, out, partial, plan.rows, plan.chunk_rows, y is not None),
            work=g.size,
        )
        sums = np.empty(channels, g.dtype)
        loops.merge_sums(partial, out, plan.rows, sums)
        return (g if y is None else out.reshape(g.shape)), sums

    def batch_norm_apply(
        self, x: Array, scale: Array, shift: Array, residual: Array | None, relu: bool
    ) -> Array:
        """See the reference."""
        expect_channels("batch_norm_apply", x, scale=scale, shift=shift)
        if residual is not None:
            expect_shape("batch_norm_apply", "residual", residual, x.shape)
        if not supported(x, residual, scale, shift) or not x.size:
            return super().batch_norm_apply(x, scale, shift, residual, relu)
        channels = x.shape[-1]
        fold = _plan(x.size // channels, channels).fold
        x = dense(x)
        other = x if residual is None else dense(residual)
        y = memory.empty(x.shape, x.dtype)
        launch(
            loops.affine,
            x.reshape(-1),
            per_channel(scale, fold),
            per_channel(shift, fold),
            other.reshape(-1),
            y.reshape(-1),
            x.dtype.type(0 if relu else -np.inf),
            residual is not None,
            streams(y),
            work=x.size,
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
        scale, shift = (mean, mean) if affine is None else affine
        expect_channels(kernel, x, mean=mean, rstd=rstd, weight=weight, scale=scale, shift=shift)
        expect_shape(kernel, "gy", gy, x.shape)
        if y is not None:
            expect_shape(kernel, "y", y, x.shape)
        if not supported(gy, x, y, mean, rstd, weight, scale, shift) or not x.size:
            needs = (needs_x, needs_residual, needs_weight)
            return super().batch_norm_backward(gy, x, mean, rstd, weight, y, training, *needs, affine)
        channels = x.shape[-1]
        plan = _plan(x.size // channels, channels)
        flat_g, flat_x = dense(gy).reshape(-1), dense(x).reshape(-1)
        source, masked = flat_x, y is not None or affine is not None
        if y is not None:
            source, scale, shift = dense(y).reshape(-1), np.ones_like(mean), np.zeros_like(mean)
        keep = needs_residual and masked
        kept = memory.empty(flat_g.shape, gy.dtype) if keep else flat_g
        tables = [per_channel(table, plan.fold) for table in (mean, scale, shift)]

        summed = needs_weight or keep or (training and needs_x)
        partial = memory.empty((plan.chunks if summed else 0, 2, plan.width), np.float64)
        if summed:
            launch(
                *(loops.gradient_sums, flat_g, flat_x, source, *tables, kept, partial),
                *(plan.rows, plan.chunk_rows, masked, keep),
                work=x.size,
            )
        if keep:  # the mask is applied and stored
            flat_g, masked = kept, False
        gweight, gbias = np.empty((2, channels), x.dtype)
        coefficients = np.empty((3, plan.width), x.dtype)
        loops.merge_gradients(
            *(partial, flat_g, flat_x, source, *tables, np.ascontiguousarray(rstd)),
            *(np.ascontiguousarray(weight), plan.rows, masked, gweight, gbias, coefficients),
        )
        gx = None
        if needs_x:
            gx = memory.empty(x.shape, x.dtype)
            launch(
                *(loops.input_gradient, flat_g, flat_x, source, *tables, coefficients, gx.reshape(-1)),
                *(masked, bool(training), streams(gx)),
                work=x.size,
            )
        gresidual = None
        if needs_residual:
            gresidual = kept.reshape(gy.shape) if keep else gy
        return gx, gweight if needs_weight else None, gbias if needs_weight else None, gresidual
