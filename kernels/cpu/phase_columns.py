"""The input gradient of few channels: the phases of the stride side by side in the columns of one tile.

A transposed convolution to an image of 3 channels fills 3 of the 16 lanes of a vector. With stride 2 its output has
four phases, pixels (2i + row, 2j + col), and each is a gather over the same few output gradients. So one gather
of stride 1 gives all four::

    columns      phase (0, 0)   phase (0, 1)   phase (1, 0)   phase (1, 1)
                 r  g  b        r  g  b        r  g  b        r  g  b        0  0  0  0
                 \\_________ row 2i ________/  \\_______ row 2i + 1 _______/

over the taps of all phases; a phase's weight is 0 at a tap of others. That is 16 products for 9 useful ones in a 3x3
kernel, in a quarter of the vectors. Two neighbouring phases of one row are next to each other in the image too, so the
second step, which brings the columns to their pixels, copies stretches.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from minidl.kernels import get_num_threads
from minidl.kernels.cpu import memory, simd
from minidl.kernels.cpu.gather import gather, plan_gather
from minidl.kernels.cpu.lanes import LANES, at_least, load, splat, store
from minidl.kernels.cpu.layout import repeated
from minidl.kernels.cpu.plan import IntArray, Phase, Source, Window, ceil_div
from minidl.kernels.cpu.runtime import kernel, launch, share
from minidl.kernels.cpu.weights import Panels
from minidl.kernels.reference.checks import Array


class Columns(NamedTuple):
    """The gather of all phases."""

    window: Window
    taps: IntArray  # (phase, tap): the weight's tap, or one past the last where the phase has none


def takes_phase_columns(
    phases: tuple[Phase, ...], stride: tuple[int, int], channels: int, itemsize: int
) -> bool:
    """Whether there are all phases of the stride, and so many channels of them fit into one vector."""
    count = stride[0] * stride[1]
    fits = count * channels <= simd.target().float_lanes * 4 // itemsize
    return 1 < count == len(phases) and fits and any(phase.window for phase in phases)


@functools.lru_cache(maxsize=1024)
def columns_of(phases: tuple[Phase, ...], grid: tuple[int, int], count: int) -> Columns:
    """The window over the taps of all phases, of a grid of so many rows and columns; ``count``: taps of the weight."""
    reads: list[dict[tuple[int, int], int]] = []
    for phase in sorted(phases, key=lambda p: (p.row, p.col)):
        w = phase.window
        places = [(r - w.pad_top, c - w.pad_left) for r, c in w.taps] if w else []
        reads.append(dict(zip(places, phase.taps, strict=True)))
    places = sorted({place for own in reads for place in own})
    top, left = min(r for r, _ in places), min(c for _, c in places)
    taps = tuple((r - top, c - left) for r, c in places)
    window = Window(*grid, 1, 1, -top, -left, taps)
    return Columns(window, np.array([[own.get(place, count) for place in places] for own in reads], np.int64))


@kernel
def _pack_phases(
    weight: Any, taps: IntArray, channels: int, count: int, cols: int, packed: Any, part: int, parts: int
) -> None:
    """packed[(tap, o), (phase, c)] = weight[o, c, taps[phase, tap]], 0 where the phase has none and past the phases.

    ``weight`` is flat, of ``count`` taps; ``packed`` is one panel of ``cols``, flat.
    """
    outputs = weight.size // (channels * count)
    first, last = share(outputs, part, parts)
    for o in range(first, last):
        for t in range(taps.shape[1]):
            row = (t * outputs + o) * cols
            for x in range(cols):
                packed[row + x] = 0
            for phase in range(taps.shape[0]):
                if taps[phase, t] < count:
                    for c in range(channels):
                        value = weight[(o * channels + c) * count + taps[phase, t]]
                        packed[row + phase * channels + c] = value


@kernel
def _spread(
    columns: Any,
    grid: tuple[int, int, int],
    stride: tuple[int, int],
    bias: Any,
    residual: Any,
    plus: bool,
    relu: bool,
    out: Any,
    part: int,
    parts: int,
) -> None:
    """out[n, s*i + row, s*j + col, c] = [relu](columns[n, i, j, (row, col, c)] + bias[s*j + col, c] [+ residual]).

    ``columns`` is flat, grid its rows, columns and elements for each pixel. The output is (images, rows, columns *
    channels), the bias one row of it.
    """
    images, height, width = out.shape
    rows, cols, pixel = grid
    run = bias.size // cols
    low = splat(bias.dtype.type(0) if relu else -bias.dtype.type(np.inf))
    line = np.empty(bias.size + LANES, bias.dtype)
    first, last = share(images * height, part, parts)
    for item in range(first, last):
        n, y = item // height, item % height
        start = (n * rows + y // stride[0]) * cols * pixel + y % stride[0] * run
        for j in range(cols):  # each overwrites what the one before has written too much
            store(line, j * run, load(columns, start + j * pixel))
        to = item * width
        whole = width // LANES * LANES
        for x in range(0, whole, LANES):
            value = load(line, x) + load(bias, x)
            if plus:
                value = value + load(residual, to + x)
            store(out, to + x, at_least(value, low))
        for x in range(whole, width):
            rest = line[x] + bias[x]
            if plus:
                rest += residual[n, y, x]
            out[n, y, x] = bias.dtype.type(0) if relu and rest < 0 else rest


def phase_columns(
    source: Source,
    phases: tuple[Phase, ...],
    stride: tuple[int, int],
    gy: Array,
    weight: Array,
    bias: Array | None,
    residual: Array | None,
    relu: bool,
    gx: Array,
) -> None:
    """Compute the input gradient of one group.

    Args:
        source: the output gradient.
        phases: of the gradient.
        stride: of the convolution.
        gy: C-contiguous images of the output gradient.
        weight: (O, C, taps), C-contiguous.
        bias: (C,) or None.
        residual: added after the bias: C-contiguous, of the shape of gx, or None.
        relu: end in max(y, 0).
        gx: (N, H, W, C), C-contiguous.
    """
    lanes = simd.lanes_of(gx.dtype)
    channels = gx.shape[3]
    grid = ceil_div(gx.shape[1], stride[0]), ceil_div(gx.shape[2], stride[1])
    window, taps = columns_of(phases, grid, weight.shape[2])
    plan = plan_gather(source, window, lanes, True, 0, get_num_threads())
    packed = memory.empty(taps.shape[1] * len(weight) * plan.cols, weight.dtype)
    launch(
        *(_pack_phases, weight.reshape(-1), taps, channels, weight.shape[2], plan.cols, packed),
        work=packed.size,
    )
    panels = Panels(packed, taps.shape[1] * len(weight))
    pixels = window.rows * window.cols
    # The step after it reads on past the last pixel.
    columns = memory.empty(source.images * pixels * lanes + LANES, gx.dtype)
    gather(plan, gy, 0, panels, None, False, columns, lanes, (0, pixels * lanes, window.cols * lanes, lanes))
    size = window.cols * stride[1] * channels
    row = np.zeros(size, gx.dtype) if bias is None else repeated(np.asarray(bias, gx.dtype), size, size)
    rest = gx if residual is None else residual
    lines = (gx.shape[0], gx.shape[1], gx.shape[2] * channels)
    launch(
        *(_spread, columns, (window.rows, window.cols, lanes), stride, row),
        *(rest.reshape(lines), residual is not None, relu, gx.reshape(lines)),
        work=gx.size,
    )
