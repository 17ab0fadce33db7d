"""Batch normalisation at the speed of memory.

Pixels lie one after the other with their C channels innermost, so M x C values are one flat run. The kernels
cut it into *rows* of `width` values: `fold` whole pixels, chosen so that a row is a multiple of LANES and not
too short (4 pixels of 16 channels, 16 pixels of 13). Value i of a row then belongs to channel i % C, and
per-channel tables are repeated `fold` times. The few pixels after the last whole row go through the
reference.

Sums run in three steps, in an order that depends on the shape alone: 8 rows in registers, many rows in
float64 (one *chunk*), then all chunks and the `fold` copies in float64.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd
from typing import Any, NamedTuple

import numpy as np

from minidl.kernels.cpu import memory
from minidl.kernels.cpu.lanes import (
    LANES,
    at_least,
    drain,
    fma,
    load,
    prefetch,
    splat,
    store,
    stream,
    where_positive,
    widen,
    zeros_like,
)
from minidl.kernels.cpu.layout import dense, per_channel, streams, supported
from minidl.kernels.cpu.runtime import kernel, launch, share
from minidl.kernels.reference.checks import Array, expect_shape
from minidl.kernels.reference.norm import Normalisation, expect_channels

GROUP = 8  # rows summed in registers before they go to float64
# Elements. The groups jump between rows, which hides the order of reading from the hardware's prefetcher.
AHEAD = 4096
MAX_CHUNKS = 64
SHIFT_ROWS = 64


@kernel
def _moments(x: Any, shift: Any, partial: Any, rows: Any, chunk_rows: Any, part: Any, parts: Any) -> None:
    """partial[chunk] = (sum of x - shift, sum of (x - shift)^2) over the rows of that chunk, by column."""
    width = shift.size
    first_chunk, last_chunk = share(partial.shape[0], part, parts)
    for chunk in range(first_chunk, last_chunk):
        sums, squares = partial[chunk, 0], partial[chunk, 1]
        end = min(rows, (chunk + 1) * chunk_rows)
        for row in range(chunk * chunk_rows, end, GROUP):
            group = min(GROUP, end - row)
            for j in range(0, width, LANES):
                k = load(shift, j)
                d = load(x, row * width + j) - k
                s, q = d, d * d
                prefetch(x, row * width + j + AHEAD)
                for i in range(row + 1, row + group):
                    d = load(x, i * width + j) - k
                    prefetch(x, i * width + j + AHEAD)
                    s = s + d
                    q = fma(d, d, q)
                store(sums, j, load(sums, j) + widen(s))
                store(squares, j, load(squares, j) + widen(q))


@kernel
def _affine(
    x: Any,
    scale: Any,
    shift: Any,
    residual: Any,
    y: Any,
    floor: Any,
    add: Any,
    past: Any,
    part: Any,
    parts: Any,
) -> None:
    """y = max(x * scale + shift [+ residual], floor) over whole rows; past: write past the caches."""
    low = splat(floor)
    width = scale.size
    first, last = share(x.size // width, part, parts)
    for row in range(first, last):
        for j in range(0, width, LANES):
            i = row * width + j
            value = fma(load(x, i), load(scale, j), load(shift, j))
            if add:
                value = value + load(residual, i)
            value = at_least(value, low)
            if past:
                stream(y, i, value)
            else:
                store(y, i, value)
    if past:
        drain()


@kernel
def _gradient_sums(
    gy: Any,
    x: Any,
    y: Any,
    mean: Any,
    g: Any,
    partial: Any,
    rows: Any,
    chunk_rows: Any,
    masked: Any,
    keep: Any,
    part: Any,
    parts: Any,
) -> None:
    """partial[chunk] = (sum of g, sum of g * (x - mean)), by column; g = gy, masked by y > 0, written when
    keep.
    """
    width = mean.size
    first_chunk, last_chunk = share(partial.shape[0], part, parts)
    for chunk in range(first_chunk, last_chunk):
        sums, products = partial[chunk, 0], partial[chunk, 1]
        end = min(rows, (chunk + 1) * chunk_rows)
        for row in range(chunk * chunk_rows, end, GROUP):
            group = min(GROUP, end - row)
            for j in range(0, width, LANES):
                k = load(mean, j)
                s = zeros_like(k)
                p = zeros_like(k)
                for r in range(row, row + group):
                    i = r * width + j
                    v = load(gy, i)
                    prefetch(gy, i + AHEAD)
                    prefetch(x, i + AHEAD)
                    if masked:
                        v = where_positive(load(y, i), v)
                        prefetch(y, i + AHEAD)
                        if keep:
                            store(g, i, v)
                    s = s + v
                    p = fma(v, load(x, i) - k, p)
                store(sums, j, load(sums, j) + widen(s))
                store(products, j, load(products, j) + widen(p))


@kernel
def _masked_sums(
    gy: Any, y: Any, g: Any, partial: Any, rows: Any, chunk_rows: Any, masked: Any, part: Any, parts: Any
) -> None:
    """partial[chunk] = sum of g by column; g = gy, masked by y > 0 and written when masked."""
    width = partial.shape[1]
    first_chunk, last_chunk = share(partial.shape[0], part, parts)
    for chunk in range(first_chunk, last_chunk):
        sums = partial[chunk]
        end = min(rows, (chunk + 1) * chunk_rows)
        for row in range(chunk * chunk_rows, end, GROUP):
            group = min(GROUP, end - row)
            for j in range(0, width, LANES):
                s = zeros_like(load(gy, j))
                for r in range(row, row + group):
                    i = r * width + j
                    v = load(gy, i)
                    prefetch(gy, i + AHEAD)
                    if masked:
                        v = where_positive(load(y, i), v)
                        prefetch(y, i + AHEAD)
                        store(g, i, v)
                    s = s + v
                store(sums, j, load(sums, j) + widen(s))


@kernel
def _input_gradient(
    gy: Any,
    x: Any,
    y: Any,
    mean: Any,
    coefficients: Any,
    gx: Any,
    masked: Any,
    training: Any,
    past: Any,
    part: Any,
    parts: Any,
) -> None:
    """gx = a * g [+ b * (x - mean) + c], with a, b, c the rows of coefficients; g = gy masked by y > 0."""
    width = mean.size
    a, b, c = coefficients[0], coefficients[1], coefficients[2]
    first, last = share(gy.size // width, part, parts)
    for row in range(first, last):
        for j in range(0, width, LANES):
            i = row * width + j
            v = load(gy, i)
            if masked:
                v = where_positive(load(y, i), v)
            if training:
                v = fma(load(a, j), v, fma(load(b, j), load(x, i) - load(mean, j), load(c, j)))
            else:
                v = load(a, j) * v
            if past:
                stream(gx, i, v)
            else:
                store(gx, i, v)
    if past:
        drain()


class _Plan(NamedTuple):
    fold: int  # pixels in a row
    rows: int  # whole rows
    chunks: int
    chunk_rows: int
    whole: int  # pixels in whole rows


@lru_cache(maxsize=1024)
def _plan(pixels: int, channels: int) -> _Plan:
    step = LANES // gcd(channels, LANES)
    fold = step * -(-4 * LANES // (channels * step))
    rows = pixels // fold
    width = fold * channels
    # A chunk is long enough that adding up its float64 sums costs little beside reading it.
    wanted = min(MAX_CHUNKS, max(1, rows * width // max(1 << 16, 64 * width)))
    chunk_rows = -(-max(rows, 1) // (wanted * GROUP)) * GROUP
    return _Plan(fold, rows, -(-rows // chunk_rows), chunk_rows, rows * fold)


def _total(partial: Array, channels: int) -> Array:
    """Add up chunks and folded columns: (chunks, 2, width) -> (2, C)."""
    return partial.sum(axis=0).reshape(2, -1, channels).sum(axis=1)


class NormMixin(Normalisation):
    """Batch normalisation for C-contiguous float32 and float64 arrays; the rest goes to the reference."""

    def batch_norm_stats(self, x: Array) -> tuple[Array, Array]:
        """See the reference. One pass over the data, and a second one for data with a far outlier."""
        expect_channels("batch_norm_stats", x)
        channels = x.shape[-1]
        if not supported(x) or not x.size:
            return super().batch_norm_stats(x)
        pixels = x.size // channels
        flat = dense(x).reshape(pixels, channels)
        with np.errstate(invalid="ignore", over="ignore"):
            # Squares about a value near the mean lose nothing to cancellation. An odd step meets every image
            # column.
            step = max(1, (pixels // SHIFT_ROWS - 1) | 1)
            shift = flat[::step][:SHIFT_ROWS].mean(axis=0, dtype=np.float64)
            mean, var = self._shifted_moments(flat, shift)
            if np.any(np.square(mean - shift) > 4 * var):
                mean, var = self._shifted_moments(flat, mean)
            return mean.astype(x.dtype), var.astype(x.dtype)

    def _shifted_moments(self, flat: Array, shift: Array) -> tuple[Array, Array]:
        """Mean and biased variance, float64, of the columns of flat (M, C), from sums about shift (C,)."""
        pixels, channels = flat.shape
        plan = _plan(pixels, channels)
        shift = shift.astype(flat.dtype)
        shift[~np.isfinite(shift)] = 0
        sums = np.zeros((2, channels))
        if plan.rows:
            partial = memory.zeros((plan.chunks, 2, plan.fold * channels), np.float64)
            table = per_channel(shift, flat.dtype, plan.fold)
            launch(_moments, flat, table, partial, plan.rows, plan.chunk_rows, work=flat.size)
            sums += _total(partial, channels)
        if plan.whole < pixels:
            rest = flat[plan.whole :].astype(np.float64) - shift
            sums += rest.sum(axis=0), np.square(rest).sum(axis=0)
        offset = sums[0] / pixels
        return shift + offset, np.maximum(sums[1] / pixels - np.square(offset), 0)

    def channel_sums(self, g: Array, y: Array | None = None) -> tuple[Array, Array]:
        """See the reference. One pass."""
        expect_channels("channel_sums", g)
        if y is not None:
            expect_shape("channel_sums", "y", y, g.shape)
        if not supported(g, y) or not g.size:
            return super().channel_sums(g, y)
        channels = g.shape[-1]
        pixels = g.size // channels
        plan = _plan(pixels, channels)
        flat_g = dense(g).reshape(pixels, channels)
        flat_y = flat_g if y is None else dense(y).reshape(pixels, channels)
        out = flat_g if y is None else memory.empty(flat_g.shape, g.dtype)
        sums = np.zeros(channels)
        if plan.rows:
            partial = memory.zeros((plan.chunks, plan.fold * channels), np.float64)
            masked = y is not None
            launch(
                *(_masked_sums, flat_g, flat_y, out, partial, plan.rows, plan.chunk_rows, masked),
                work=g.size,
            )
            sums += partial.sum(axis=0).reshape(-1, channels).sum(axis=0)
        if plan.whole < pixels:
            rest = slice(plan.whole, None)
            if y is not None:
                out[rest] = np.where(flat_y[rest] > 0, flat_g[rest], 0)
            sums += out[rest].sum(axis=0, dtype=np.float64)
        return (g if y is None else out.reshape(g.shape)), sums.astype(g.dtype)

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
        plan = _plan(x.size // channels, channels)
        x = dense(x)
        other = x if residual is None else dense(residual)
        y = memory.empty(x.shape, x.dtype)
        flat_x, flat_other, flat_y = (a.reshape(-1, channels) for a in (x, other, y))
        if plan.rows:
            tables = (per_channel(table, x.dtype, plan.fold) for table in (scale, shift))
            add = residual is not None
            floor = x.dtype.type(0 if relu else -np.inf)
            launch(_affine, flat_x, *tables, flat_other, flat_y, floor, add, streams(y), work=x.size)
        if plan.whole < len(flat_x):
            rest = slice(plan.whole, None)
            tail = None if residual is None else flat_other[rest]
            flat_y[rest] = super().batch_norm_apply(flat_x[rest], scale, shift, tail, relu)
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
    ) -> tuple[Array | None, Array | None, Array | None, Array | None]:
        """See the reference. One pass of sums and one that writes gx; gresidual is written by the first of
        them.
        """
        kernel_name = "batch_norm_backward"
        expect_channels(kernel_name, x, mean=mean, rstd=rstd, weight=weight)
        expect_shape(kernel_name, "gy", gy, x.shape)
        if y is not None:
            expect_shape(kernel_name, "y", y, x.shape)
        if not supported(gy, x, y, mean, rstd, weight) or not x.size:
            return super().batch_norm_backward(
                gy, x, mean, rstd, weight, y, training, needs_x, needs_residual, needs_weight
            )
        channels = x.shape[-1]
        pixels = x.size // channels
        plan = _plan(pixels, channels)
        flat_g, flat_x = dense(gy).reshape(pixels, channels), dense(x).reshape(pixels, channels)
        flat_y = flat_g if y is None else dense(y).reshape(pixels, channels)
        masked = y is not None
        keep = masked and needs_residual
        kept = memory.empty(flat_g.shape, gy.dtype) if keep else flat_g
        rest = slice(plan.whole, None)
        table = per_channel(mean, x.dtype, plan.fold)
        if keep and plan.whole < pixels:
            kept[rest] = np.where(flat_y[rest] > 0, flat_g[rest], 0)

        sums = np.zeros((2, channels))
        if needs_weight or (training and needs_x):
            if plan.rows:
                partial = memory.zeros((plan.chunks, 2, plan.fold * channels), np.float64)
                launch(
                    *(_gradient_sums, flat_g, flat_x, flat_y, table, kept, partial),
                    *(plan.rows, plan.chunk_rows, masked, keep),
                    work=x.size,
                )
                sums += _total(partial, channels)
            if plan.whole < pixels:
                tail = np.where(flat_y[rest] > 0, flat_g[rest], 0) if masked else flat_g[rest]
                tail = tail.astype(np.float64)
                sums += tail.sum(axis=0), (tail * (flat_x[rest] - mean)).sum(axis=0)
        elif keep:
            np.copyto(kept, np.where(flat_y > 0, flat_g, 0))
        if keep:  # the mask is applied and stored
            flat_g, masked = kept, False

        gx = None
        gbias, gweight = sums[0], sums[1] * rstd
        if needs_x:
            gx = memory.empty(flat_x.shape, x.dtype)
            a = weight.astype(np.float64) * rstd
            rows = np.stack([a, -a * rstd * gweight / pixels, -a * gbias / pixels]).astype(x.dtype)
            if plan.rows:
                launch(
                    *(_input_gradient, flat_g, flat_x, flat_y, table, np.tile(rows, plan.fold), gx),
                    *(masked, bool(training), streams(gx)),
                    work=x.size,
                )
            if plan.whole < pixels:
                tail = np.where(flat_y[rest] > 0, flat_g[rest], 0) if masked else flat_g[rest]
                gx[rest] = rows[0] * tail
                if training:
                    gx[rest] += rows[1] * (flat_x[rest] - mean) + rows[2]
            gx = gx.reshape(x.shape)
        gresidual = None
        if needs_residual:
            gresidual = gy if y is None else kept.reshape(gy.shape)
        if not needs_weight:
            return gx, None, None, gresidual
        return gx, gweight.astype(x.dtype), gbias.astype(x.dtype), gresidual
