"""Pooling with the channels of a pixel in the vector lanes.

Every output element is computed by one thread, over its window in row order. The last vector of a pixel may
overlap the one before it (with 40 channels: 0-15, 16-31, 24-39); both write the same values. Fewer channels
than LANES go to the reference.

Means are driven by tables, one per axis, so one kernel serves windows and adaptive grids: window i covers the
pixels edges[i, 0] up to edges[i, 1] and divides by counts[i]; pixel h lies in the windows cover[h, 0] up to
cover[h, 1].
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.kernels import capturing
from minidl.kernels.cpu import memory
from minidl.kernels.cpu.lanes import (
    LANES,
    at_least,
    beats,
    drain,
    equal,
    has_nan,
    load,
    load_wide,
    select,
    splat,
    store,
    stream,
    zeros_like,
)
from minidl.kernels.cpu.layout import dense, streams, supported
from minidl.kernels.cpu.runtime import jit, kernel, launch, parts_for, share
from minidl.kernels.reference.checks import Array, Pad, Pair, expect, expect_ndim, expect_pool, expect_shape
from minidl.kernels.reference.pool import Pooling, Window, adaptive_edges, window_counts

MAX_INDEX = 2**31 - 1


@jit
def window_taps(first: Any, size: Any, window: Any, dilation: Any) -> Any:
    """The taps of a window starting at pixel `first` that lie in 0..size-1: half-open range."""
    low = (-first + dilation - 1) // dilation if first < 0 else 0
    high = (size - first + dilation - 1) // dilation
    return low, min(window, high)


@kernel
def _maximum(x: Any, y: Any, index: Any, geometry: Any, part: Any, parts: Any) -> None:
    """y and index over the output rows of this share; geometry = kernel, stride, top and left pad,
    dilation.
    """
    kernel_h, kernel_w, stride_h, stride_w, top, left, dilation_h, dilation_w = geometry
    _, height, width, channels = x.shape
    n, out_h, out_w, _ = y.shape
    taps = np.empty(kernel_h * kernel_w, np.int32)
    first_row, last_row = share(n * out_h, part, parts)
    for row in range(first_row, last_row):
        image = row // out_h * height * width
        h = row % out_h * stride_h - top
        low_h, high_h = window_taps(h, height, kernel_h, dilation_h)
        for column in range(out_w):
            w = column * stride_w - left
            low_w, high_w = window_taps(w, width, kernel_w, dilation_w)
            count = 0
            for a in range(low_h, high_h):
                for b in range(low_w, high_w):
                    taps[count] = (h + a * dilation_h) * width + w + b * dilation_w
                    count += 1
            target = (row * out_w + column) * channels
            # Two vectors at a time: each comparison waits for the one before it, the two chains do not.
            for j0 in range(0, channels, 2 * LANES):
                j = min(j0, channels - LANES)
                k = min(j0 + LANES, channels - LANES)
                source = (image + taps[0]) * channels
                best_j, best_k = load(x, source + j), load(x, source + k)
                place_j = splat(taps[0])
                place_k = place_j
                for t in range(1, count):
                    source = (image + taps[t]) * channels
                    place = splat(taps[t])
                    value = load(x, source + j)
                    wins = beats(value, best_j)
                    best_j, place_j = select(wins, value, best_j), select(wins, place, place_j)
                    value = load(x, source + k)
                    wins = beats(value, best_k)
                    best_k, place_k = select(wins, value, best_k), select(wins, place, place_k)
                store(y, target + j, best_j)
                store(y, target + k, best_k)
                store(index, target + j, place_j)
                store(index, target + k, place_k)


@jit(borrows=True)
def _max_window(x: Any, first: int, rows: int, row_step: int, columns: int, column_step: int) -> Any:
    """The maximum of a window of vectors, by _maximum's comparisons."""
    best = load(x, first)
    for a in range(rows):
        for b in range(columns):
            value = load(x, first + a * row_step + b * column_step)
            best = select(beats(value, best), value, best)
    return best


@functools.cache
def max_row(kernel_h: int, kernel_w: int) -> Any:
    """A function that computes the maxima of one row of windows of this size, the same as _maximum's.

    Arguments of the function: a flat image: the first element of the windows' first row, rows that lie inside,
    elements from one to the next, pixels and channels of a row; stride, left pad and dilation of the columns; a flat
    result, its first pixel and how many pixels to write.
    """

    @jit(variant=f"{kernel_h}x{kernel_w}", borrows=True)
    def max_row(
        x: Any,
        taps: tuple[int, int, int],
        width: int,
        channels: int,
        across: tuple[int, int, int],
        y: Any,
        pixel: int,
        columns: int,
    ) -> None:
        first_row, rows, row_step = taps
        stride, left, dilation = across
        step = dilation * channels
        for column in range(columns):
            w = column * stride - left
            target = (pixel + column) * channels
            inside = rows == kernel_h and w >= 0 and w + (kernel_w - 1) * dilation < width
            low, high = (0, kernel_w) if inside else window_taps(w, width, kernel_w, dilation)
            for c0 in range(0, channels, LANES):
                c = min(c0, channels - LANES)
                first = first_row + (w + low * dilation) * channels + c
                best = load(x, first)
                total = zeros_like(best)
                if inside:  # loops of constant length are unrolled
                    for a in range(kernel_h):
                        for b in range(kernel_w):
                            value = load(x, first + a * row_step + b * step)
                            best = at_least(best, value)
                            total = total + value
                # A NaN, which _maximum prefers to all numbers, makes the sum NaN; so may infinities.
                if not inside or has_nan(total):
                    best = _max_window(x, first, rows, row_step, high - low, step)
                store(y, target + c, best)

    return max_row


@kernel
def _scatter(gy: Any, index: Any, gx: Any, blocks: Any, wrong: Any, part: Any, parts: Any) -> None:
    """gx[n, index, c] += gy, for shares of images and blocks of channels; wrong[part] counts bad indices."""
    n, area, channels = gx.shape
    pixels = gy.shape[1]
    first_item, last_item = share(n * blocks, part, parts)
    for item in range(first_item, last_item):
        image = item // blocks
        low, high = share(channels, item % blocks, blocks)
        target = gx[image]
        for pixel in range(area):
            for c in range(low, high):
                target[pixel, c] = 0
        for pixel in range(pixels):
            places, values = index[image, pixel], gy[image, pixel]
            for c in range(low, high):
                place = places[c]
                if 0 <= place < area:
                    target[place, c] += values[c]
                else:
                    wrong[part] += 1


@kernel
def _scatter_windows(gy: Any, index: Any, gx: Any, geometry: Any, past: Any, part: Any, parts: Any) -> None:
    """The same sums from the other side: each pixel looks for itself in the windows that cover it, in
    order.
    """
    kernel_h, kernel_w, stride_h, stride_w, top, left, dilation_h, dilation_w = geometry
    n, height, width, channels = gx.shape
    _, out_h, out_w, _ = gy.shape
    first, last = share(n * height, part, parts)
    for item in range(first, last):
        h = item % height
        image = item // height * out_h
        low_i = max(-(((kernel_h - 1) * dilation_h - h - top) // stride_h), 0)
        high_i = min((h + top) // stride_h + 1, out_h)
        for w in range(width):
            low_j = max(-(((kernel_w - 1) * dilation_w - w - left) // stride_w), 0)
            high_j = min((w + left) // stride_w + 1, out_w)
            me = splat(np.int32(h * width + w))
            target = (item * width + w) * channels
            for c0 in range(0, channels, LANES):
                c = min(c0, channels - LANES)
                total = zeros_like(load(gy, 0))
                zero = total
                for i in range(low_i, high_i):
                    for pixel in range((image + i) * out_w + low_j, (image + i) * out_w + high_j):
                        source = pixel * channels + c
                        hit = equal(load(index, source), me)
                        total = total + select(hit, load(gy, source), zero)
                if past:
                    stream(gx, target + c, total)
                else:
                    store(gx, target + c, total)
    if past:
        drain()


@kernel
def _gather(x: Any, index: Any, y: Any, wrong: Any, part: Any, parts: Any) -> None:
    """y = x[n, index, c] for shares of the output pixels of all images; wrong[part] counts bad indices."""
    n, area, channels = x.shape
    pixels = index.shape[1]
    first, last = share(n * pixels, part, parts)
    for item in range(first, last):
        image, pixel = item // pixels, item % pixels
        source, places, values = x[image], index[image, pixel], y[image, pixel]
        for c in range(channels):
            place = places[c]
            if 0 <= place < area:
                values[c] = source[place, c]
            else:
                wrong[part] += 1


@kernel
def _mean(
    x: Any,
    y: Any,
    row_edges: Any,
    column_edges: Any,
    row_counts: Any,
    column_counts: Any,
    part: Any,
    parts: Any,
) -> None:
    """y = sum over the window / (row count * column count), summed in float64."""
    _, height, width, channels = x.shape
    n, out_h, out_w, _ = y.shape
    first, last = share(n * out_h * out_w, part, parts)
    for item in range(first, last):
        column, row = item % out_w, item // out_w % out_h
        image = item // (out_w * out_h) * height
        scale = splat(1.0 / (row_counts[row] * column_counts[column]))
        top, bottom = row_edges[row, 0], row_edges[row, 1]
        left, right = column_edges[column, 0], column_edges[column, 1]
        for j0 in range(0, channels, 2 * LANES):
            j = min(j0, channels - LANES)
            k = min(j0 + LANES, channels - LANES)
            total_j = zeros_like(scale)
            total_k = total_j
            for h in range(top, bottom):
                for pixel in range((image + h) * width + left, (image + h) * width + right):
                    total_j = total_j + load_wide(x, pixel * channels + j)
                    total_k = total_k + load_wide(x, pixel * channels + k)
            store(y, item * channels + j, total_j * scale)
            store(y, item * channels + k, total_k * scale)


@kernel
def _mean_adjoint(
    gy: Any,
    gx: Any,
    row_cover: Any,
    column_cover: Any,
    row_counts: Any,
    column_counts: Any,
    part: Any,
    parts: Any,
) -> None:
    """gx = sum over the windows that cover a pixel of gy / (row count * column count), summed in float64."""
    n, height, width, channels = gx.shape
    _, out_h, out_w, _ = gy.shape
    first, last = share(n * height, part, parts)
    for item in range(first, last):
        h = item % height
        image = item // height * out_h
        for w in range(width):
            target = (item * width + w) * channels
            for j0 in range(0, channels, LANES):
                j = min(j0, channels - LANES)
                total = zeros_like(splat(0.0))
                for row in range(row_cover[h, 0], row_cover[h, 1]):
                    for column in range(column_cover[w, 0], column_cover[w, 1]):
                        scale = splat(1.0 / (row_counts[row] * column_counts[column]))
                        value = load_wide(gy, ((image + row) * out_w + column) * channels + j)
                        total = total + value * scale
                store(gx, target + j, total)


def _window_edges(size: int, window: int, stride: int, before: int, out: int) -> list[Pair]:
    """The pixels of each window that lie inside the input, half-open."""
    return [(max(i * stride - before, 0), min(i * stride - before + window, size)) for i in range(out)]


def _cover(edges: Sequence[Pair], size: int) -> Array:
    """For each pixel the half-open range of windows that cover it; both ends of the windows never
    decrease.
    """
    first = np.searchsorted([end for _, end in edges], np.arange(size), side="right")
    last = np.searchsorted([start for start, _ in edges], np.arange(size), side="right")
    return np.stack([first, np.maximum(first, last)], axis=1)


def window_numbers(kernel: Pair, stride: Pair, pad: Pad, dilation: Pair) -> tuple[int, ...]:
    """Windows as kernels take them: height and width of kernel, stride, top and left pad, dilation."""
    return tuple(int(v) for v in (*kernel, *stride, pad[0][0], pad[1][0], *dilation))


class PoolMixin(Pooling):
    """Pooling for float32 and float64 images of LANES channels or more; the rest goes to the reference."""

    def max_pool2d(
        self, x: Array, kernel: Pair, stride: Pair, pad: Pad, dilation: Pair, out_hw: Pair
    ) -> tuple[Array, Array]:
        """See the reference."""
        expect_ndim("max_pool2d", "x", x, 4)
        n, h, w, c = x.shape
        expect_pool("max_pool2d", (h, w), kernel, stride, pad, dilation, out_hw)
        if not supported(x) or c < LANES or h * w > MAX_INDEX:
            return super().max_pool2d(x, kernel, stride, pad, dilation, out_hw)
        y = memory.empty((n, *out_hw, c), x.dtype)
        index = memory.empty((n, *out_hw, c), np.int32)
        geometry = window_numbers(kernel, stride, pad, dilation)
        launch(_maximum, dense(x), y, index, geometry, work=y.size * kernel[0] * kernel[1])
        return y, index

    def max_pool2d_scatter(
        self, gy: Array, index: Array, input_hw: Pair, window: Window | None = None
    ) -> Array:
        """See the reference. The window spares a random access for every element of gy."""
        name = "max_pool2d_scatter"
        expect_ndim(name, "gy", gy, 4)
        expect_shape(name, "index", index, gy.shape)
        if not supported(gy) or index.dtype != np.int32:
            return super().max_pool2d_scatter(gy, index, input_hw, window)
        n, oh, ow, c = gy.shape
        if window is not None and c >= LANES and gy.size:
            kernel, stride, pad, dilation = window
            expect_pool(name, input_hw, kernel, stride, pad, dilation, (oh, ow))
            gx = memory.empty((n, *input_hw, c), gy.dtype)
            past = streams(gx) and c % LANES == 0
            geometry = window_numbers(kernel, stride, pad, dilation)
            launch(_scatter_windows, dense(gy), dense(index), gx, geometry, past, work=gx.size)
            return gx
        gx = memory.empty((n, input_hw[0] * input_hw[1], c), gy.dtype)
        parts = parts_for(gy.size + gx.size)  # asked once: another thread may change the number of threads
        wrong = np.zeros(parts, np.int64)
        flat_gy, flat_index = (dense(a).reshape(n, oh * ow, c) for a in (gy, index))
        # Few images are split by channels too; that changes no order of additions.
        blocks = 1 if n >= 2 * parts else -(-c // LANES)
        launch(_scatter, flat_gy, flat_index, gx, blocks, wrong, parts=parts)
        self._expect_inside(name, wrong, index, input_hw)
        return gx.reshape(n, *input_hw, c)

    def max_pool2d_gather(self, x: Array, index: Array) -> Array:
        """See the reference."""
        name = "max_pool2d_gather"
        expect_ndim(name, "x", x, 4)
        expect_ndim(name, "index", index, 4)
        n, h, w, c = x.shape
        expect_shape(name, "index", index, (n, index.shape[1], index.shape[2], c))
        if not supported(x) or index.dtype != np.int32:
            return super().max_pool2d_gather(x, index)
        y = memory.empty(index.shape, x.dtype)
        parts = parts_for(y.size)
        wrong = np.zeros(parts, np.int64)
        pixels = index.shape[1] * index.shape[2]
        arrays = dense(x).reshape(n, h * w, c), dense(index).reshape(n, pixels, c), y.reshape(n, pixels, c)
        launch(_gather, *arrays, wrong, parts=parts)
        self._expect_inside(name, wrong, index, (h, w))
        return y

    def _expect_inside(self, name: str, wrong: Array, index: Array, input_hw: Pair) -> None:
        capturing.reads(wrong, "a check of indices")
        if wrong.any():
            area = input_hw[0] * input_hw[1]
            expect(False, name, f"index expects 0 to {area - 1}, got {index.min()} to {index.max()}")

    def avg_pool2d(
        self, x: Array, kernel: Pair, stride: Pair, pad: Pad, out_hw: Pair, count_include_pad: bool
    ) -> Array:
        """See the reference."""
        expect_ndim("avg_pool2d", "x", x, 4)
        input_hw = (x.shape[1], x.shape[2])
        expect_pool("avg_pool2d", input_hw, kernel, stride, pad, (1, 1), out_hw)
        if not supported(x) or x.shape[3] < LANES:
            return super().avg_pool2d(x, kernel, stride, pad, out_hw, count_include_pad)
        edges = [_window_edges(input_hw[a], kernel[a], stride[a], pad[a][0], out_hw[a]) for a in (0, 1)]
        counts = [
            window_counts(input_hw[a], kernel[a], stride[a], pad[a], out_hw[a], count_include_pad)
            for a in (0, 1)
        ]
        return self._window_mean(x, edges, counts)

    def avg_pool2d_backward(
        self, gy: Array, input_hw: Pair, kernel: Pair, stride: Pair, pad: Pad, count_include_pad: bool
    ) -> Array:
        """See the reference."""
        expect_ndim("avg_pool2d_backward", "gy", gy, 4)
        out_hw = (gy.shape[1], gy.shape[2])
        expect_pool("avg_pool2d_backward", input_hw, kernel, stride, pad, (1, 1), out_hw)
        if not supported(gy) or gy.shape[3] < LANES:
            return super().avg_pool2d_backward(gy, input_hw, kernel, stride, pad, count_include_pad)
        edges = [_window_edges(input_hw[a], kernel[a], stride[a], pad[a][0], out_hw[a]) for a in (0, 1)]
        counts = [
            window_counts(input_hw[a], kernel[a], stride[a], pad[a], out_hw[a], count_include_pad)
            for a in (0, 1)
        ]
        return self._window_mean_adjoint(gy, input_hw, edges, counts)

    def adaptive_avg_pool2d(self, x: Array, out_hw: Pair) -> Array:
        """See the reference."""
        expect_ndim("adaptive_avg_pool2d", "x", x, 4)
        input_hw = (x.shape[1], x.shape[2])
        self._check_grid("adaptive_avg_pool2d", input_hw, out_hw)
        if not supported(x) or x.shape[3] < LANES:
            return super().adaptive_avg_pool2d(x, out_hw)
        edges = [adaptive_edges(input_hw[a], out_hw[a]) for a in (0, 1)]
        return self._window_mean(x, edges, [[end - start for start, end in axis] for axis in edges])

    def adaptive_avg_pool2d_backward(self, gy: Array, input_hw: Pair) -> Array:
        """See the reference."""
        expect_ndim("adaptive_avg_pool2d_backward", "gy", gy, 4)
        out_hw = (gy.shape[1], gy.shape[2])
        self._check_grid("adaptive_avg_pool2d_backward", input_hw, out_hw)
        if not supported(gy) or gy.shape[3] < LANES:
            return super().adaptive_avg_pool2d_backward(gy, input_hw)
        edges = [adaptive_edges(input_hw[a], out_hw[a]) for a in (0, 1)]
        counts = [[end - start for start, end in axis] for axis in edges]
        return self._window_mean_adjoint(gy, input_hw, edges, counts)

    def _window_mean(self, x: Array, edges: list[list[Pair]], counts: list[list[int]]) -> Array:
        y = memory.empty((x.shape[0], len(edges[0]), len(edges[1]), x.shape[3]), x.dtype)
        spans, divisors = [np.array(e, np.int64) for e in edges], [np.array(c, np.float64) for c in counts]
        launch(_mean, dense(x), y, *spans, *divisors, work=x.size)
        return y

    def _window_mean_adjoint(
        self, gy: Array, input_hw: Pair, edges: list[list[Pair]], counts: list[list[int]]
    ) -> Array:
        gx = memory.empty((gy.shape[0], *input_hw, gy.shape[3]), gy.dtype)
        covers = [_cover(edges[a], input_hw[a]) for a in (0, 1)]
        divisors = [np.array(c, np.float64) for c in counts]
        launch(_mean_adjoint, dense(gy), gx, *covers, *divisors, work=gx.size)
        return gx
