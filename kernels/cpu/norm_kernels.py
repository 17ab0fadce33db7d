"""The loops of batch normalisation: one pass over memory each, and what joins two passes.

Pixels lie one after the other with their C channels innermost, so M x C values are one flat run. The kernels
cut it into *rows* of `width` values: `fold` whole pixels, chosen so that a row is a multiple of LANES and not
too short (4 pixels of 16 channels, 16 pixels of 13). Value i of a row then belongs to channel i % C, and
per-channel tables are repeated `fold` times. The few values after the last whole row are taken one by one.

Sums run in three steps, in an order that depends on the shape alone: 8 rows in registers, many rows in
float64 (one *chunk*), then all chunks and the `fold` copies in float64.

Through a ReLU at the end of the forward pass gradients pass where source * scale + shift > 0: the source is x with the
scale and shift of the forward pass, or its output y with 1 and 0.

The first pass over an array goes backwards: what the kernel before wrote last is still in the cache. The second
goes forwards, and begins with what the first read last.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.kernels.cpu.compiler import jit
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
from minidl.kernels.cpu.runtime import kernel, share

GROUP = 8  # rows summed in registers before they go to float64
# Elements. The groups jump between rows, which hides the order of reading from the hardware's prefetcher.
AHEAD = 4096
SAMPLE = 16  # pixels, each a miss of the caches, whose mean is the origin of the squares


@jit(inline="always")
def _clear(partial: Any) -> None:
    """partial (.., width) = 0."""
    for k in range(partial.shape[0]):
        for j in range(partial.shape[1]):
            partial[k, j] = 0.0


@jit(inline="always")
def _passed(gy: Any, source: Any, scale: Any, shift: Any, masked: bool, i: int, j: int) -> Any:
    """Element i of gy, column j, or 0 where it does not pass."""
    return gy.dtype.type(0) if masked and not source[i] * scale[j] + shift[j] > 0 else gy[i]


@jit
def _moments(
    x: Any, origin: Any, partial: Any, rows: Any, chunk_rows: Any, first_chunk: Any, last_chunk: Any
) -> None:
    width = origin.size
    for chunk in range(last_chunk - 1, first_chunk - 1, -1):
        _clear(partial[chunk])
        sums, squares = partial[chunk, 0], partial[chunk, 1]
        end = min(rows, (chunk + 1) * chunk_rows)
        for row in range(chunk * chunk_rows, end, GROUP):
            group = min(GROUP, end - row)
            for j in range(0, width, LANES):
                k = load(origin, j)
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
def moments(x: Any, origin: Any, partial: Any, rows: Any, chunk_rows: Any, part: Any, parts: Any) -> None:
    """partial[chunk] = (sum of x - origin, sum of (x - origin)^2) over the rows of that chunk, by column."""
    first_chunk, last_chunk = share(partial.shape[0], part, parts)
    _moments(x, origin, partial, rows, chunk_rows, first_chunk, last_chunk)


@kernel
def affine(
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
    """y = max(x * scale + shift [+ residual], floor); past: write past the caches."""
    low = splat(floor)
    width = scale.size
    rows = x.size // width
    first, last = share(rows, part, parts)
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
    if part == parts - 1:
        for i in range(rows * width, x.size):
            number = x[i] * scale[i - rows * width] + shift[i - rows * width]
            if add:
                number += residual[i]
            y[i] = floor if number < floor else number


@kernel
def gradient_sums(
    gy: Any,
    x: Any,
    source: Any,
    mean: Any,
    scale: Any,
    shift: Any,
    g: Any,
    partial: Any,
    rows: Any,
    chunk_rows: Any,
    masked: Any,
    keep: Any,
    part: Any,
    parts: Any,
) -> None:
    """partial[chunk] = (sum of g, sum of g * (x - mean)), by column; g: what passes of gy, written when keep."""
    width = mean.size
    first_chunk, last_chunk = share(partial.shape[0], part, parts)
    for chunk in range(last_chunk - 1, first_chunk - 1, -1):
        _clear(partial[chunk])
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
                        prefetch(source, i + AHEAD)
                        v = where_positive(fma(load(source, i), load(scale, j), load(shift, j)), v)
                    if keep:
                        store(g, i, v)
                    s = s + v
                    p = fma(v, load(x, i) - k, p)
                store(sums, j, load(sums, j) + widen(s))
                store(products, j, load(products, j) + widen(p))
    if keep and part == parts - 1:
        for i in range(rows * width, gy.size):
            g[i] = _passed(gy, source, scale, shift, masked, i, i - rows * width)


@kernel
def masked_sums(
    gy: Any, y: Any, g: Any, partial: Any, rows: Any, chunk_rows: Any, masked: Any, part: Any, parts: Any
) -> None:
    """partial[chunk, 0] = sum of g by column; g = gy, masked by y > 0 and written when masked."""
    width = partial.shape[2]
    first_chunk, last_chunk = share(partial.shape[0], part, parts)
    for chunk in range(first_chunk, last_chunk):
        _clear(partial[chunk])
        sums = partial[chunk, 0]
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
    if masked and part == parts - 1:
        for i in range(rows * width, gy.size):
            g[i] = gy[i] if y[i] > 0 else gy.dtype.type(0)


@kernel
def input_gradient(
    gy: Any,
    x: Any,
    source: Any,
    mean: Any,
    scale: Any,
    shift: Any,
    coefficients: Any,
    gx: Any,
    masked: Any,
    training: Any,
    past: Any,
    part: Any,
    parts: Any,
) -> None:
    """gx = a * g [+ b * (x - mean) + c], with a, b, c the rows of coefficients; g: what passes of gy."""
    width = mean.size
    a, b, c = coefficients[0], coefficients[1], coefficients[2]
    rows = gy.size // width
    first, last = share(rows, part, parts)
    for row in range(first, last):
        for j in range(0, width, LANES):
            i = row * width + j
            v = load(gy, i)
            if masked:
                v = where_positive(fma(load(source, i), load(scale, j), load(shift, j)), v)
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
    if part == parts - 1:
        for i in range(rows * width, gy.size):
            j = i - rows * width
            number = a[j] * _passed(gy, source, scale, shift, masked, i, j)
            if training:
                number += b[j] * (x[i] - mean[j]) + c[j]
            gx[i] = number


# ---- between two passes: C numbers, one part ------------------------------------------------------------


@jit
def _spread(values: Any, table: Any) -> None:
    """Repeat values (C,) in table; what is not finite becomes 0, so that it stays in its channel."""
    for i in range(table.size):
        value = values[i % values.size]
        table[i] = value if np.isfinite(value) else 0


@kernel
def sample_means(flat: Any, channels: int, origin: Any, part: Any, parts: Any) -> None:
    """origin: the means of SAMPLE pixels, repeated. An odd step meets every image column."""
    pixels = flat.size // channels
    step = max(1, (pixels // SAMPLE - 1) | 1)
    count = min(SAMPLE, -(-pixels // step))
    means = np.zeros(channels)
    for p in range(count):
        for c in range(channels):
            means[c] += flat[p * step * channels + c]
    _spread(means / count, origin)


@jit
def _columns(partial: Any) -> Any:
    """The sums (2, width) of all chunks (chunks, 2, width)."""
    sums = np.zeros(partial.shape[1:])
    for chunk in range(partial.shape[0]):
        for k in range(partial.shape[1]):
            for j in range(partial.shape[2]):
                sums[k, j] += partial[chunk, k, j]
    return sums


@jit
def _merge_moments(partial: Any, origin: Any, flat: Any, rows: int, mean: Any, var: Any) -> bool:
    """Returns whether a mean is so far from the origin that its squares have cancelled."""
    sums = _columns(partial)
    channels, width = mean.size, origin.size
    pixels = flat.size // channels
    far = False
    for c in range(channels):
        total, squares = 0.0, 0.0
        for j in range(c, width, channels):
            total += sums[0, j]
            squares += sums[1, j]
        for i in range(rows * width + c, flat.size, channels):
            d = np.float64(flat[i]) - origin[c]
            total += d
            squares += d * d
        offset = total / pixels
        spread_out = squares / pixels - offset * offset
        if spread_out < 0:
            spread_out = 0.0
        far |= offset * offset > 4 * spread_out
        mean[c] = origin[c] + offset
        var[c] = spread_out
    return far


@kernel
def merge_moments(
    partial: Any,
    origin: Any,
    flat: Any,
    rows: int,
    chunk_rows: int,
    mean: Any,
    var: Any,
    part: Any,
    parts: Any,
) -> None:
    """Mean and biased variance (C,) from the sums about ``origin`` and the values after the last row.

    Where a mean is far from the origin, the sums are taken anew about the means; rare, and by one thread.
    """
    if _merge_moments(partial, origin, flat, rows, mean, var):
        _spread(mean, origin)
        _moments(flat, origin, partial, rows, chunk_rows, 0, partial.shape[0])
        _merge_moments(partial, origin, flat, rows, mean, var)


@kernel
def merge_sums(partial: Any, flat: Any, rows: int, sums: Any, part: Any, parts: Any) -> None:
    """sums (C,) from those of all chunks and the values after the last row."""
    columns = _columns(partial)
    channels, width = sums.size, partial.shape[2]
    for c in range(channels):
        total = 0.0
        for j in range(c, width, channels):
            total += columns[0, j]
        for i in range(rows * width + c, flat.size, channels):
            total += flat[i]
        sums[c] = total


@kernel
def merge_gradients(
    partial: Any,
    gy: Any,
    x: Any,
    source: Any,
    mean: Any,
    scale: Any,
    shift: Any,
    rstd: Any,
    weight: Any,
    rows: int,
    masked: bool,
    gweight: Any,
    gbias: Any,
    coefficients: Any,
    part: Any,
    parts: Any,
) -> None:
    """gweight and gbias (C,), and the coefficients of ``input_gradient`` (3, width), from the sums."""
    sums = _columns(partial)
    channels, width = gweight.size, mean.size
    pixels = gy.size // channels
    for c in range(channels):
        total, product = 0.0, 0.0
        for j in range(c, width, channels):
            total += sums[0, j]
            product += sums[1, j]
        for i in range(rows * width + c, gy.size, channels):
            g = np.float64(_passed(gy, source, scale, shift, masked, i, i - rows * width))
            total += g
            product += g * (np.float64(x[i]) - mean[c])
        product *= rstd[c]
        gbias[c] = total
        gweight[c] = product
        a = np.float64(weight[c]) * rstd[c]
        for j in range(c, width, channels):
            coefficients[0, j] = a
            coefficients[1, j] = -a * rstd[c] * product / pixels
            coefficients[2, j] = -a * total / pixels


@kernel
def affine_of(
    mean: Any,
    var: Any,
    eps: float,
    weight: Any,
    bias: Any,
    rstd: Any,
    scale: Any,
    shift: Any,
    part: Any,
    parts: Any,
) -> None:
    """rstd = 1 / sqrt(var + eps), scale = rstd * weight, shift = bias - mean * scale, in float64 up to the end."""
    for c in range(mean.size):
        r = 1 / np.sqrt(np.float64(var[c]) + eps)
        s = r * weight[c]
        rstd[c] = r
        scale[c] = s
        shift[c] = bias[c] - mean[c] * s


@kernel
def track(running: Any, batch: Any, momentum: float, factor: float, part: Any, parts: Any) -> None:
    """running += momentum * (batch * factor - running)."""
    for c in range(running.size):
        running[c] += momentum * (batch[c] * factor - running[c])
