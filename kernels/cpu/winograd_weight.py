"""The weight gradient of 3x3 convolutions of stride 1 by Winograd's algorithm.

With the transforms of winograd_tiles.py, for each of the 36 points a matrix product that sums over tiles::

    m[point, c, o] = sum over tiles of  v[point, tile, c] * s[point, tile, o]
                     v: transformed inputs, s: transformed output gradients

and m, transformed back, is the gradient of the 9 taps. The tiles are dealt to a number of *slices* that depends
on the shape alone; the slices' gradients are added in order, so that threads do not change the bits. Loops, from
the outside in::

    slice of the tiles
      transform inputs and output gradients     v (36, tiles, C), s (36, tiles, O)    in the L3 cache
      block of C, block of O
        for each of the 36 points
          register tile of channels x outputs   accumulators in registers: all tiles of the slice
        transform the sums back                 m (36, block of C, block of O)        in the L2 cache

So no sum ever waits in memory for more tiles to come.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from minidl.kernels import get_num_threads
from minidl.kernels.cpu import memory, simd
from minidl.kernels.cpu.compiler import jit
from minidl.kernels.cpu.lanes import LANES, load, store
from minidl.kernels.cpu.plan import Source, TileShape, Window, ceil_div, tile_shapes
from minidl.kernels.cpu.runtime import Kernel, kernel, launch, share
from minidl.kernels.cpu.simd import target
from minidl.kernels.cpu.weight_grad import share_out
from minidl.kernels.cpu.weights import collect_weight, output_places
from minidl.kernels.cpu.winograd import (
    AHEAD,
    INPUT,
    OUTPUT_BACK,
    PRODUCTS,
    applies_winograd,
    crowded,
    fetch_ahead,
    tile_place,
    transform_block,
)
from minidl.kernels.cpu.winograd_tiles import (
    OUTPUT,
    POINTS,
    SCRATCH,
    transform_gradient,
    weight_gradient_back,
)
from minidl.kernels.reference.checks import Array

SLICE_BYTES = 4 << 20  # of transformed inputs and output gradients of a slice
SLICE_TILES = 128  # at least; fewer would not pay for transforming the sums back
MOST_SLICES = 16
BLOCK = 64  # channels, and outputs, whose sums are transformed back at once


class GradientGrid(NamedTuple):
    """The tiles of a weight gradient, and where their operands lie; numbers of elements. See winograd.Grid."""

    images: int
    source_h: int
    source_w: int
    channels: int
    pad_top: int
    pad_left: int
    rows: int  # of the output
    cols: int
    outputs: int
    down: int  # tiles of an image
    across: int
    slices: int
    v_pitch: int  # from one tile's inputs to the next tile's
    v_step: int  # from one point to the next
    s_pitch: int
    s_step: int
    m_step: int
    v_size: int
    s_size: int
    m_size: int


@jit
def transform_gradients(
    g: GradientGrid,
    gy: Any,
    first: int,
    last: int,
    low: int,
    high: int,
    scratch: Any,
    free: int,
    s: Any,
    base: int,
) -> None:
    """Transform the channels low..high-1 of the output gradients of the tiles first..last-1 to s[base:].

    Pixels outside the image are 0.
    """
    patch = free + POINTS * LANES
    row = g.cols * g.outputs
    for tile in range(first, last):
        n, top, left = tile_place(g, tile)
        height, across = min(OUTPUT, g.rows - top), min(OUTPUT, g.cols - left)
        at = ((n * g.rows + top) * g.cols + left) * g.outputs + low
        to = base + (tile - first) * g.s_pitch
        fetch_ahead(gy, at + AHEAD * OUTPUT * g.outputs, row, g.outputs, high - low)
        if height == OUTPUT and across == OUTPUT:
            for c in range(0, high - low, LANES):
                transform_gradient(gy, at + c, row, g.outputs, scratch, free, s, to + c, g.s_step)
        else:
            for k in range(patch, patch + OUTPUT * OUTPUT * LANES):
                scratch[k] = 0
            for c in range(0, high - low, LANES):
                for i in range(height):
                    for j in range(across):
                        pixel = load(gy, at + i * row + j * g.outputs + c)
                        store(scratch, patch + (i * OUTPUT + j) * LANES, pixel)
                transform_gradient(scratch, patch, OUTPUT * LANES, LANES, scratch, free, s, to + c, g.s_step)


@functools.cache
def winograd_weight_kernel(rows: int, vectors: int) -> Kernel:
    """Winograd's weight gradient with a register tile of ``rows`` channels x ``vectors`` registers of outputs.

    Arguments of the kernel: the grid; the flat source and output gradient; room for v, s, m and scratch, for each
    part; the gradients of each slice, (slices, panels, 9 taps, C, cols); how many parts share the slices.
    """
    tile = simd.tile("float32", rows, vectors)
    zero, fma, put, cols = tile.zero, tile.fma, tile.store, tile.cols

    @kernel(variant=tile.name)
    def winograd_weight(
        g: GradientGrid,
        source: Any,
        gy: Any,
        vs: Any,
        ss: Any,
        ms: Any,
        scratch: Any,
        partial: Any,
        slice_parts: int,
        part: int,
        parts: int,
    ) -> None:
        tiles = g.images * g.down * g.across
        panels = -(-g.outputs // cols)
        slice_first, slice_last = share(g.slices, part % slice_parts, slice_parts)
        panel_first, panel_last = share(panels, part // slice_parts, parts // slice_parts)
        low, high = panel_first * cols, min(panel_last * cols, g.outputs)
        v_base, s_base, m_base, free = part * g.v_size, part * g.s_size, part * g.m_size, part * SCRATCH
        for piece in range(slice_first, slice_last):
            first, last = share(tiles, piece, g.slices)
            transform_block(g, source, first, last, scratch, free, vs, v_base)
            transform_gradients(g, gy, first, last, low, high, scratch, free, ss, s_base)
            for o in range(low, high, BLOCK):
                width = min(BLOCK, high - o)
                for c in range(0, g.channels, BLOCK):
                    height = min(BLOCK, g.channels - c)
                    for point in range(POINTS):
                        for x in range(0, width, cols):
                            for y in range(0, height, rows):
                                i = min(y, height - rows)  # a last tile repeats rows rather than end early
                                a = v_base + point * g.v_step + c + i
                                b = s_base + point * g.s_step + o - low + x
                                acc = zero()
                                for t in range(last - first):
                                    acc = fma(acc, vs, a + t * g.v_pitch, 1, ss, b + t * g.s_pitch)
                                put(acc, ms, m_base + point * g.m_step + i * BLOCK + x, BLOCK)
                    for i in range(height):
                        for x in range(0, width, LANES):
                            panel = (o + x) // cols
                            to = (piece * panels + panel) * 9 * g.channels * cols + (c + i) * cols
                            to += o + x - panel * cols
                            at = m_base + i * BLOCK + x
                            weight_gradient_back(
                                ms, at, g.m_step, scratch, free, partial, to, g.channels * cols
                            )

    return winograd_weight


class WinogradWeightPlan(NamedTuple):
    grid: GradientGrid
    kernel: Kernel
    cols: int
    panels: int


@functools.lru_cache(maxsize=4096)
def takes_winograd_weight(source: Source, window: Window, outputs: int, algorithm: str) -> bool:
    """Whether to take Winograd's weight gradient; see :func:`winograd.takes_winograd`."""
    if not applies_winograd(source, window, outputs) or algorithm == "direct":
        return False
    tiles = source.images * ceil_div(window.rows, OUTPUT) * ceil_div(window.cols, OUTPUT)
    weights = source.channels * outputs
    direct = source.images * window.rows * window.cols * 9 * weights / PRODUCTS
    back = BACK * count_slices(tiles, source, outputs) * weights
    winograd = tiles * (INPUT * source.channels + OUTPUT_BACK * outputs) + back
    winograd += tiles * POINTS * weights / PRODUCTS
    return algorithm == "winograd" or winograd < 0.9 * direct


BACK = 15.0  # cycles of transforming one weight back and adding it to those of the other slices


def count_slices(tiles: int, source: Source, outputs: int) -> int:
    """How many slices the tiles are dealt to: a power of two, by the shape alone."""
    per_tile = POINTS * source.itemsize * (source.channels + outputs)
    wanted = tiles / max(SLICE_TILES, SLICE_BYTES / per_tile)
    slices = 1
    while slices < min(wanted, MOST_SLICES):
        slices *= 2
    return slices


def weight_tile_shape(channels: int, outputs: int) -> TileShape:
    """The register tile with the largest share of useful arithmetic."""
    lanes = target().float_lanes

    def useful(shape: TileShape) -> float:
        height = min(channels, BLOCK)
        wide = shape.vectors * lanes
        whole = ceil_div(height, shape.rows) * shape.rows * ceil_div(outputs, wide) * wide
        return shape.speed * height * outputs / whole

    return max((s for s in tile_shapes() if s.rows != 7), key=useful)


@functools.lru_cache(maxsize=4096)
def plan_winograd_weight(source: Source, window: Window, outputs: int) -> WinogradWeightPlan:
    """Choose slices and register tile by the shape alone, never by the number of threads."""
    shape = weight_tile_shape(source.channels, outputs)
    cols = shape.vectors * target().float_lanes
    panels = ceil_div(outputs, cols)
    down, across = ceil_div(window.rows, OUTPUT), ceil_div(window.cols, OUTPUT)
    tiles = source.images * down * across
    slices = count_slices(tiles, source, outputs)
    longest = ceil_div(tiles, slices)
    v_pitch, s_pitch = crowded(source.channels), crowded(panels * cols)
    v_step, s_step, m_step = crowded(longest * v_pitch), crowded(longest * s_pitch), crowded(BLOCK * BLOCK)
    grid = GradientGrid(
        images=source.images,
        source_h=source.height,
        source_w=source.width,
        channels=source.channels,
        pad_top=window.pad_top,
        pad_left=window.pad_left,
        rows=window.rows,
        cols=window.cols,
        outputs=outputs,
        down=down,
        across=across,
        slices=slices,
        v_pitch=v_pitch,
        v_step=v_step,
        s_pitch=s_pitch,
        s_step=s_step,
        m_step=m_step,
        v_size=POINTS * v_step,
        s_size=POINTS * s_step,
        m_size=POINTS * m_step,
    )
    return WinogradWeightPlan(grid, winograd_weight_kernel(shape.rows, shape.vectors), cols, panels)


def winograd_weight_gradient(
    source_array: Array, source: Source, window: Window, gy: Array, out: Array
) -> None:
    """Compute the weight gradient of one convolution of 3x3 windows, stride 1.

    Args:
        source_array: float32 images (N, H, W, C), C-contiguous.
        source, window: what is read by what; see :func:`takes_winograd_weight`.
        gy: float32 output gradient (N, OH, OW, O), C-contiguous.
        out: (O, C, 9), C-contiguous.
    """
    outputs, dtype = out.shape[0], out.dtype
    plan = plan_winograd_weight(source, window, outputs)
    g = plan.grid
    slice_parts, panel_parts, _ = share_out(get_num_threads(), g.slices, plan.panels, 1)
    parts = slice_parts * panel_parts
    panel_size = 9 * source.channels * plan.cols
    partial = memory.empty(g.slices * plan.panels * panel_size, dtype)
    launch(
        plan.kernel,
        g,
        source_array.reshape(-1),
        gy.reshape(-1),
        memory.empty(parts * g.v_size, dtype),
        memory.empty(parts * g.s_size, dtype),
        memory.empty(parts * g.m_size, dtype),
        memory.empty(max(parts * SCRATCH, memory.SMALL), dtype),
        partial,
        slice_parts,
        parts=parts,
    )
    places = output_places(tuple(range(9)), 9, source.channels, plan.cols)
    launch(
        collect_weight("float32"),
        partial,
        g.slices,
        places,
        plan.cols,
        panel_size,
        outputs,
        out.reshape(-1),
        work=out.size * g.slices,
    )
