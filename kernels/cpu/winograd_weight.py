"""The weight gradient of 3x3 convolutions of stride 1 by Winograd's algorithm.

With the transforms of winograd_tiles.py, for each of the 36 points a matrix product that sums over tiles::

    m[point, c, o] = sum over tiles of  v[point, tile, c] * s[point, tile, o]
                     v: transformed inputs, s: transformed output gradients

and m, transformed back, is the gradient of the 9 taps. The tiles are dealt to a number of *slices* that depends
on the shape alone; the slices' gradients are added in order, so that threads do not change the bits. Loops, from
the outside in::

    slice of the tiles
      block of tiles
        transform inputs and output gradients   v (36, tiles, C), s (36, tiles, O)    in the L2 or L3 cache
        block of C, block of O
          for each of the 36 points
            register tile of channels x outputs accumulators in registers: all tiles of the block
      transform the sums back                   m (36, block of C, block of O)        in the L2 cache

With few channels a block of tiles is what the L2 cache holds, and the sums wait there for the next block. With many
channels the sums are large, and the block is the whole slice.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from minidl.kernels import get_num_threads
from minidl.kernels.cpu import memory, simd
from minidl.kernels.cpu.lanes import LANES
from minidl.kernels.cpu.plan import Source, TileShape, Window, ceil_div, even_split
from minidl.kernels.cpu.runtime import Kernel, kernel, launch, share
from minidl.kernels.cpu.simd import target
from minidl.kernels.cpu.weight_grad import share_out
from minidl.kernels.cpu.weights import collect_weight, output_places
from minidl.kernels.cpu.winograd import INPUT, OUTPUT_BACK, PRODUCTS, applies_winograd, whole_panels
from minidl.kernels.cpu.winograd_blocks import (
    Layout,
    Picture,
    Tiles,
    by_tile,
    fetch_lines,
    pictures_of,
    rows_ahead,
    strip_elements,
    tiles_of,
    transform_gradients,
    transform_inputs,
)
from minidl.kernels.cpu.winograd_tiles import POINTS, SCRATCH, TILE, weight_gradient_back
from minidl.kernels.reference.checks import Array

SLICE_BYTES = 4 << 20  # of transformed inputs and output gradients of a slice
SLICE_TILES = 128  # at least; fewer would not pay for transforming the sums back
MOST_SLICES = 16
BLOCK = 64  # channels, and outputs, whose sums are transformed back at once
OPERAND_BYTES = 148 << 10  # of transformed inputs and output gradients of a block of tiles
SUM_BYTES = 256 << 10  # sums that wait in the L2 cache for the next block of tiles


class GradientGrid(NamedTuple):
    """How the tiles are dealt out, and where a part's operands lie; numbers of elements."""

    slices: int
    block: int  # tiles transformed at once
    v_size: int
    s_size: int
    m_size: int
    scratch: int


@functools.cache
def winograd_weight_kernel(rows: int, vectors: int) -> Kernel:
    """Winograd's weight gradient with a register tile of ``rows`` channels x ``vectors`` registers of outputs.

    Arguments of the kernel: the grid, the tiles, the source and the output gradient; layouts of v, s and m; the flat
    source and output gradient; room for v, s, m and scratch, for each part; the gradients of each slice, (slices,
    panels, 9 taps, C, cols); how many parts share the slices.
    """
    tile = simd.tile("float32", rows, vectors)
    zero, fma, put, add, cols = tile.zero, tile.fma, tile.store, tile.add, tile.cols

    @kernel(variant=tile.name, borrows=True)
    def winograd_weight(
        g: GradientGrid,
        tiles: Tiles,
        read: Picture,
        given: Picture,
        vl: Layout,
        sl: Layout,
        ml: Layout,
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
        panels = -(-given.channels // cols)
        slice_first, slice_last = share(g.slices, part % slice_parts, slice_parts)
        panel_first, panel_last = share(panels, part // slice_parts, parts // slice_parts)
        low, high = panel_first * cols, min(panel_last * cols, given.channels)
        v_base, s_base, m_base, free = part * g.v_size, part * g.s_size, part * g.m_size, part * g.scratch
        for piece in range(slice_first, slice_last):
            start, end = share(tiles.images * tiles.down * tiles.across, piece, g.slices)
            for first in range(start, end, g.block):
                last = min(first + g.block, end)
                transform_inputs(
                    tiles, read, source, first, last, 0, read.channels, scratch, free, vs, v_base, vl
                )
                transform_gradients(tiles, given, gy, first, last, low, high, scratch, free, ss, s_base, sl)
                x_rows, x_size = rows_ahead(tiles, read, last, g.block)
                y_rows, y_size = rows_ahead(tiles, given, last, g.block)
                for o in range(low, high, BLOCK):
                    width = min(BLOCK, high - o)
                    for c in range(0, read.channels, BLOCK):
                        height = min(BLOCK, read.channels - c)
                        for point in range(POINTS):
                            if o == low and c == 0:  # meanwhile the pixels of the next block come
                                fetch_lines(source, x_rows, x_size, point, POINTS)
                                fetch_lines(gy, y_rows, y_size, point, POINTS)
                            for x in range(0, width, cols):
                                for y in range(0, height, rows):
                                    i = min(
                                        y, height - rows
                                    )  # a last tile repeats rows rather than end early
                                    a = v_base + point * vl.step + c + i
                                    b = s_base + point * sl.step + o - low + x
                                    home = m_base + point * ml.step + i * ml.pitch + x
                                    acc = zero()
                                    for t in range(last - first):
                                        acc = fma(acc, vs, a + t * vl.pitch, 1, ss, b + t * sl.pitch)
                                    if first > start:
                                        acc = add(acc, ms, home, ml.pitch)
                                    put(acc, ms, home, ml.pitch)
                        if last < end:
                            continue
                        for i in range(height):
                            for x in range(0, width, LANES):
                                panel = (o + x) // cols
                                to = (piece * panels + panel) * 9 * read.channels * cols + (c + i) * cols
                                to += o + x - panel * cols
                                at = m_base + i * ml.pitch + x
                                step = read.channels * cols
                                weight_gradient_back(
                                    ms, at, TILE * ml.step, ml.step, scratch, free, partial, to, step
                                )

    return winograd_weight


class WinogradWeightPlan(NamedTuple):
    grid: GradientGrid
    tiles: Tiles
    read: Picture
    given: Picture
    v: Layout
    s: Layout
    m: Layout
    kernel: Kernel
    cols: int
    panels: int


@functools.lru_cache(maxsize=4096)
def takes_winograd_weight(source: Source, window: Window, outputs: int, algorithm: str) -> bool:
    """Whether to take Winograd's weight gradient; see :func:`winograd.takes_winograd`."""
    if not applies_winograd(source, window, outputs) or algorithm == "direct":
        return False
    tiles = math.prod(tiles_of(source, window))
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


def count_block(tiles: int, channels: int, outputs: int) -> int:
    """How many of a slice's tiles to transform at once: all, or as many as stay in the L2 cache beside their sums."""
    if max(channels, outputs) > BLOCK or POINTS * 4 * channels * outputs > SUM_BYTES:
        return tiles
    return even_split(tiles, OPERAND_BYTES // (POINTS * 4 * (channels + outputs)))


def weight_tile_shape(channels: int, outputs: int, again: bool) -> TileShape:
    """The register tile with the largest share of useful arithmetic.

    again: sums are read again; then no tile may repeat rows of another, which would be added twice.
    """
    lanes = target().float_lanes

    def useful(shape: TileShape) -> float:
        height = min(channels, BLOCK)
        wide = shape.vectors * lanes
        whole = ceil_div(height, shape.rows) * shape.rows * ceil_div(outputs, wide) * wide
        return shape.speed * height * outputs / whole

    return max((s for s in whole_panels() if s.rows != 7 and not (again and LANES % s.rows)), key=useful)


@functools.lru_cache(maxsize=4096)
def plan_winograd_weight(source: Source, window: Window, outputs: int) -> WinogradWeightPlan:
    """Choose slices and register tile by the shape alone, never by the number of threads."""
    channels = source.channels
    tiles = tiles_of(source, window)
    slices = count_slices(math.prod(tiles), source, outputs)
    longest = ceil_div(math.prod(tiles), slices)
    block = count_block(longest, channels, outputs)
    shape = weight_tile_shape(channels, outputs, again=block < longest)
    cols = shape.vectors * target().float_lanes
    panels = ceil_div(outputs, cols)
    v, s = by_tile(block, channels), by_tile(block, panels * cols)
    m = by_tile(min(BLOCK, channels), min(BLOCK, panels * cols))
    grid = GradientGrid(
        slices=slices,
        block=block,
        v_size=POINTS * v.step,
        s_size=POINTS * s.step,
        m_size=POINTS * m.step,
        scratch=max(strip_elements(tiles), SCRATCH),
    )
    kernel = winograd_weight_kernel(shape.rows, shape.vectors)
    return WinogradWeightPlan(
        grid, tiles, *pictures_of(source, window, outputs), v, s, m, kernel, cols, panels
    )


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
        plan.tiles,
        plan.read,
        plan.given,
        plan.v,
        plan.s,
        plan.m,
        source_array.reshape(-1),
        gy.reshape(-1),
        memory.empty(parts * g.v_size, dtype),
        memory.empty(parts * g.s_size, dtype),
        memory.empty(parts * g.m_size, dtype),
        memory.empty(max(parts * g.scratch, memory.SMALL), dtype),
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
