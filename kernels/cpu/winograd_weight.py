"""The weight gradient of 3x3 convolutions by Winograd's algorithm.

With the transforms of winograd_tiles.py, for each of the 36 points a matrix product that sums over tiles::

    m[point, c, o] = sum over tiles of  v[point, tile, c] * s[point, tile, o]
                     v: transformed inputs, s: transformed output gradients

and m, transformed back, is the gradient of the 9 taps. With stride 2 (winograd_strided.py) there are 81 points, and
those of one weight are summed up together, so that m has 36 values there too. The tiles are dealt to a number of
*slices* that depends on the shape alone; the slices' gradients are added in order, so that threads do not change the
bits. Loops, from the outside in::

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
from minidl.kernels.cpu.plan import TileShape, ceil_div, even_split
from minidl.kernels.cpu.runtime import Kernel, kernel, launch, share
from minidl.kernels.cpu.simd import target
from minidl.kernels.cpu.weight_grad import share_out
from minidl.kernels.cpu.weights import collect_weight, output_places
from minidl.kernels.cpu.winograd import ITEM, PRODUCTS, whole_panels
from minidl.kernels.cpu.winograd_blocks import Layout, Picture, Tiles, by_tile, fetch_lines, rows_ahead
from minidl.kernels.cpu.winograd_family import LINE, MATRICES, SIDE_BY_SIDE, Cut, Family
from minidl.kernels.reference.checks import Array

SLICE_BYTES = 4 << 20  # of transformed inputs and output gradients of a slice
SLICE_TILES = 128  # at least, of 36 points; fewer would not pay for transforming the sums back
MOST_SLICES = 16
BLOCK = 64  # channels, and outputs, whose sums are transformed back at once


class GradientGrid(NamedTuple):
    """How the tiles are dealt out, and where a part's operands lie; numbers of elements."""

    slices: int
    block: int  # tiles transformed at once
    piece: int  # channels, and outputs, multiplied at once: all where sums wait for the next block
    v_size: int
    s_size: int
    m_size: int
    scratch: int


@functools.cache
def winograd_weight_kernel(family: Family, rows: int, vectors: int) -> Kernel:
    """Winograd's weight gradient with a register tile of ``rows`` channels x ``vectors`` registers of outputs.

    Arguments of the kernel: the grid, the tiles, the source and the output gradient; layouts of v, s and m; the flat
    source and output gradient; room for v, s, m and scratch, for each part; the gradients of each slice, (slices,
    panels, 9 taps, C, cols); how many parts share the slices.
    """
    tile = simd.tile("float32", rows, vectors)
    zero, fma, put, add, cols = tile.zero, tile.fma, tile.store, tile.add, tile.cols
    points, weight_gradient_back = family.points, family.weight_gradient_back
    transform_inputs, transform_gradients = family.transform_inputs, family.transform_gradients

    @kernel(variant=f"{family.name} {tile.name}", borrows=True)
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
                for o in range(low, high, g.piece):
                    width = min(g.piece, high - o)
                    for c in range(0, read.channels, g.piece):
                        height = min(g.piece, read.channels - c)
                        for matrix in range(MATRICES):
                            if o == low and c == 0:  # meanwhile the pixels of the next block come
                                fetch_lines(source, x_rows, x_size, matrix, MATRICES)
                                fetch_lines(gy, y_rows, y_size, matrix, MATRICES)
                            # The last matrix of a line takes all further points of it.
                            row, col = matrix // LINE, matrix % LINE
                            row_last = points if row == LINE - 1 else row + 1
                            col_last = points if col == LINE - 1 else col + 1
                            for x in range(0, width, cols):
                                for y in range(0, height, rows):
                                    i = min(
                                        y, height - rows
                                    )  # a last tile repeats rows rather than end early
                                    home = m_base + matrix * ml.step + i * ml.pitch + x
                                    acc = zero()
                                    for p in range(row, row_last):
                                        for q in range(col, col_last):
                                            point = p * points + q
                                            a = v_base + point * vl.step + c + i
                                            b = s_base + point * sl.step + o - low + x
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
                                    ms, at, LINE * ml.step, ml.step, scratch, free, partial, to, step
                                )

    return winograd_weight


class WinogradWeightPlan(NamedTuple):
    grid: GradientGrid
    v: Layout
    s: Layout
    m: Layout
    kernel: Kernel
    cols: int
    panels: int


@functools.lru_cache(maxsize=4096)
def takes_winograd_weight(cut: Cut, algorithm: str) -> bool:
    """Whether to take Winograd's weight gradient; see :func:`winograd.takes_winograd`.

    Of stride 2 only where a slice need not be transformed as a whole: that takes the time that its products save.
    """
    if algorithm == "direct" or not whole_panels():
        return False
    family, tiles = cut.family, math.prod(cut.tiles)
    channels, outputs = cut.read.channels, cut.written.channels
    if algorithm == "auto" and cut.family is not SIDE_BY_SIDE and not sums_wait(cut):
        return False
    back = BACK * count_slices(cut) * channels * outputs
    winograd = tiles * (family.input_cost * channels + family.gradient_cost * outputs) + back
    winograd += tiles * family.points**2 * channels * outputs / PRODUCTS
    return algorithm == "winograd" or winograd < 0.9 * cut.products / family.direct_weight


BACK = 15.0  # cycles of transforming one weight back and adding it to those of the other slices


def count_slices(cut: Cut) -> int:
    """How many slices the tiles are dealt to: a power of two, by the shape alone."""
    points = cut.family.points**2
    per_tile = points * ITEM * (cut.read.channels + cut.written.channels)
    wanted = math.prod(cut.tiles) / max(SLICE_TILES * MATRICES / points, SLICE_BYTES / per_tile)
    slices = 1
    while slices < min(wanted, MOST_SLICES):
        slices *= 2
    return slices


def sums_wait(cut: Cut) -> bool:
    """Whether the sums of all channels and outputs stay in the caches from one block of tiles to the next."""
    return MATRICES * ITEM * cut.read.channels * cut.written.channels <= cut.family.sum_bytes


def count_block(cut: Cut, tiles: int) -> int:
    """How many of a slice's tiles to transform at once: all, or as many as stay in the L2 cache beside their sums."""
    if not sums_wait(cut):
        return tiles
    per_tile = cut.family.points**2 * ITEM * (cut.read.channels + cut.written.channels)
    return even_split(tiles, cut.family.operand_bytes // per_tile)


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
def plan_winograd_weight(cut: Cut) -> WinogradWeightPlan:
    """Choose slices and register tile by the shape alone, never by the number of threads."""
    channels, outputs = cut.read.channels, cut.written.channels
    tiles, points = math.prod(cut.tiles), cut.family.points**2
    slices = count_slices(cut)
    longest = ceil_div(tiles, slices)
    block = count_block(cut, longest)
    again = block < longest
    shape = weight_tile_shape(channels, outputs, again)
    cols = shape.vectors * target().float_lanes
    panels = ceil_div(outputs, cols)
    v, s = by_tile(block, channels), by_tile(block, panels * cols)
    piece = max(channels, panels * cols) if again else BLOCK
    m = by_tile(min(piece, channels), min(piece, panels * cols))
    grid = GradientGrid(
        slices=slices,
        block=block,
        piece=piece,
        v_size=points * v.step,
        s_size=points * s.step,
        m_size=MATRICES * m.step,
        scratch=cut.scratch,
    )
    kernel = winograd_weight_kernel(cut.family, shape.rows, shape.vectors)
    return WinogradWeightPlan(grid, v, s, m, kernel, cols, panels)


def winograd_weight_gradient(images: Array, cut: Cut, gy: Array, out: Array) -> None:
    """Compute the weight gradient of one convolution of 3x3 windows.

    Args:
        images: float32 images (N, H, W, C), C-contiguous.
        cut: the forward convolution; see :func:`takes_winograd_weight`.
        gy: float32 output gradient (N, OH, OW, O), C-contiguous.
        out: (O, C, 9), C-contiguous.
    """
    (outputs, channels, _), dtype = out.shape, out.dtype
    plan = plan_winograd_weight(cut)
    g = plan.grid
    slice_parts, panel_parts, _ = share_out(get_num_threads(), g.slices, plan.panels, 1)
    parts = slice_parts * panel_parts
    panel_size = 9 * channels * plan.cols
    sizes = [parts * size for size in (g.v_size, g.s_size, g.m_size, g.scratch)]
    vs, ss, ms, scratch, partial = memory.workspace((*sizes, g.slices * plan.panels * panel_size), dtype)
    launch(
        plan.kernel,
        g,
        *cut[1:],
        plan.v,
        plan.s,
        plan.m,
        images.reshape(-1),
        gy.reshape(-1),
        vs,
        ss,
        ms,
        scratch,
        partial,
        slice_parts,
        parts=parts,
    )
    places = output_places(tuple(range(9)), 9, channels, plan.cols)
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
