"""Winograd's convolution: 3x3 windows of stride 1 with a quarter of the multiplications, of stride 2 with 9/16.

The output is cut into tiles of 4x4 pixels (the input gradient of stride 2: 8x8), numbered through all images. Loops,
from the outside in::

    block of tiles
      transform the inputs                        v (points, tiles, C)      in the L2 or L3 cache
      group of output panels
        for each of the points                    36; with stride 2 81, those of one matrix of weights together
          panel of the group                      u (panels, 36, C, cols)   the transformed weights
            tiles of the block, 14 at once        accumulators in registers: v[point] @ u[panel, matrix]
        transform the sums back, add the bias     m (points, tiles, group)  in the L2 cache

winograd_tiles.py and winograd_strided.py have the transforms, winograd_family.py what a tile is. The input gradient is
the same with weights turned about both axes.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from minidl.kernels import get_num_threads
from minidl.kernels.cpu import memory, simd
from minidl.kernels.cpu.compiler import jit
from minidl.kernels.cpu.lanes import LANES, address, drain, fetch_far
from minidl.kernels.cpu.layout import bias_row
from minidl.kernels.cpu.plan import IntArray, TileShape, ceil_div, tile_shapes
from minidl.kernels.cpu.runtime import Kernel, kernel, launch, share
from minidl.kernels.cpu.simd import target
from minidl.kernels.cpu.weights import Call, Panels, kept_value, pack
from minidl.kernels.cpu.winograd_blocks import (
    Layout,
    Picture,
    Tiles,
    by_lanes,
    fetch_lines,
    odd_lines,
    rows_ahead,
)
from minidl.kernels.cpu.winograd_family import MATRICES, SIDE_BY_SIDE, Cut, Family, points_in_order
from minidl.kernels.reference.checks import Array

FEWEST, MOST = 14, 140  # tiles of a block: enough to reuse the weights, few enough for the L2 cache
STREAM_BYTES = 4 << 20  # outputs of this size are written past the caches, which does not read them first
GROUP = 64  # outputs whose sums wait to be transformed back at once


class Grid(NamedTuple):
    """How the tiles are cut, and where a part's operands lie; numbers of elements."""

    block: int  # tiles transformed at once
    group: int  # panels multiplied at once
    u_step: int  # from one point of a panel of transformed weights to the next
    u_size: int  # of a panel
    v_size: int
    m_size: int
    scratch: int


@functools.cache
def panel_transform(family: Family) -> Any:
    """A function that transforms a panel of packed weights (9 taps, ``size``) to u[base:] (36, u_step)."""
    transform_weight = family.transform_weight

    @jit(variant=family.name, borrows=True)
    def transform_panel(
        g: Grid, packed: Any, panel: int, size: int, scratch: Any, free: int, u: Any, base: int
    ) -> None:
        for k in range(0, size, LANES):
            tap = panel * 9 * size + k
            transform_weight(packed, tap, 3 * size, size, scratch, free, u, base + k, g.u_step)

    return transform_panel


@functools.cache
def weight_kernel(family: Family) -> Kernel:
    """A kernel that transforms all panels of packed weights."""
    transform_panel = panel_transform(family)

    @kernel(variant=family.name, borrows=True)
    def transform_weights(
        g: Grid, packed: Any, panels: int, size: int, scratch: Any, u: Any, part: int, parts: int
    ) -> None:
        first, last = share(panels, part, parts)
        for panel in range(first, last):
            transform_panel(g, packed, panel, size, scratch, part * g.scratch, u, panel * g.u_size)

    return transform_weights


@functools.cache
def winograd_kernel(family: Family, rows: int, vectors: int) -> Kernel:
    """Winograd's convolution with a register tile of ``rows`` tiles x ``vectors`` registers of output channels.

    Arguments of the kernel: the grid, the tiles, the source and the output; layouts of v and m; the points in their
    order, each with its matrix of weights; the flat source; weights, transformed or packed; room for v, for m, for a
    group of transformed panels (empty where the weights are transformed already), and scratch, for each part; the bias,
    zero-padded to whole panels; the flat residual and whether there is one; the least value of an output; the flat
    output and whether to write it past the caches; how many parts share a block's panels.
    """
    tile = simd.tile("float32", rows, vectors)
    zero, fma, put, cols = tile.zero, tile.fma, tile.store_apart, tile.cols
    points, transform_panel = family.points**2, panel_transform(family)
    transform_inputs, finish_block = family.transform_inputs, family.finish_block

    @kernel(variant=f"{family.name} {tile.name}", borrows=True)
    def winograd(
        g: Grid,
        tiles: Tiles,
        read: Picture,
        written: Picture,
        vl: Layout,
        ml: Layout,
        order: IntArray,
        source: Any,
        weights: Any,
        vs: Any,
        ms: Any,
        us: Any,
        scratch: Any,
        bias: Any,
        residual: Any,
        plus: bool,
        floor: Any,
        out: Any,
        streams: bool,
        panel_parts: int,
        part: int,
        parts: int,
    ) -> None:
        count = tiles.images * tiles.down * tiles.across
        panel_first, panel_last = share(-(-written.channels // cols), part % panel_parts, panel_parts)
        block_first, block_last = share(-(-count // g.block), part // panel_parts, parts // panel_parts)
        v_base, m_base, free = part * g.v_size, part * g.m_size, part * g.scratch
        for block in range(block_first, block_last):
            first = block * g.block
            last = min(first + g.block, count)
            transform_inputs(
                tiles, read, source, first, last, 0, read.channels, scratch, free, vs, v_base, vl
            )
            u_share = weights.itemsize * (-(-cols * rows // (last - first)))
            next_rows, size = rows_ahead(tiles, read, last, g.block)
            for group in range(panel_first, panel_last, g.group):
                group_last = min(group + g.group, panel_last)
                low, high = group * cols, min(group_last * cols, written.channels)
                u, u_base = weights, group * g.u_size
                if us.size:
                    u, u_base = us, part * g.group * g.u_size
                    for panel in range(group, group_last):
                        at = u_base + (panel - group) * g.u_size
                        transform_panel(g, weights, panel, read.channels * cols, scratch, free, us, at)
                for number in range(points):
                    if group == panel_first:  # meanwhile the pixels of the next block come
                        fetch_lines(source, next_rows, size, number, points)
                    point, matrix = order[number, 0], order[number, 1]
                    following = order[min(number + 1, points - 1), 1]
                    for panel in range(group_last - group):
                        b = u_base + panel * g.u_size + matrix * g.u_step
                        column = panel * cols
                        home = m_base + point * ml.step + column // LANES * ml.apart + column % LANES
                        # Meanwhile memory is asked for the weights that come next, a share with each product.
                        ahead = address(u, b + g.u_size)
                        if panel + 1 == group_last - group:
                            ahead = address(u, u_base + following * g.u_step)
                        for t in range(0, last - first, rows):
                            acc = zero()
                            a = v_base + point * vl.step + t * LANES
                            for c in range(0, read.channels, LANES):
                                for k in range(LANES):
                                    acc = fma(acc, vs, a + k, LANES, u, b + (c + k) * cols)
                                    fetch_far(ahead)
                                    ahead += u_share
                                a += vl.apart
                            put(acc, ms, home + t * LANES, LANES, ml.apart)
                finish_block(
                    tiles,
                    written,
                    ms,
                    m_base,
                    ml,
                    first,
                    last,
                    low,
                    high,
                    scratch,
                    free,
                    bias,
                    residual,
                    plus,
                    floor,
                    out,
                    streams,
                )
        if streams:
            drain()

    return winograd


class WinogradPlan(NamedTuple):
    grid: Grid
    v: Layout
    m: Layout
    kernel: Kernel
    cols: int
    panels: int
    parts: int
    panel_parts: int  # parts that share a block's panels
    ready: bool  # the weights are transformed once before the kernel, not by each part of it


def whole_panels() -> list[TileShape]:
    """The register tiles whose columns are whole vectors of the transforms, the smallest such; none where vectors are
    short and registers few."""
    lanes = target().float_lanes
    whole = [s for s in tile_shapes() if s.vectors * lanes % LANES == 0]
    return [s for s in whole if s.vectors <= max(2, LANES // lanes)]


def tile_shape(outputs: int, tiles: int) -> TileShape:
    """The register tile of which most is useful. Those made for rows of 7 pixels or for large ones have little to
    offer here, and each tile's kernel is compiled for its own."""
    lanes = target().float_lanes

    def useful(shape: TileShape) -> float:
        cols = shape.vectors * lanes
        whole = ceil_div(outputs, cols) * cols * ceil_div(tiles, shape.rows) * shape.rows
        return shape.speed * outputs * tiles / whole

    return max((s for s in whole_panels() if s.rows != 7), key=useful)


# Cycles, as those of the families.
PRODUCTS = 27.0  # products per cycle of the micro-kernel
NARROW = 0.8  # speed of the direct convolution where there is one vector of outputs only
WEIGHT = 20.0  # cycles of transforming one weight
# Bytes per cycle from the L3 cache; of weights in the L2 cache, asked for ahead; and from main memory.
STREAM, NEAR, MEMORY = 24.0, 64.0, 8.0
L2_BYTES = (
    512 << 10
)  # for a block's inputs and sums; they miss the L2 cache in proportion, as it holds much else
LARGE = (
    16 << 20
)  # bytes of transformed weights that do not stay in the L3 cache: the kernel transforms them itself
LARGE_KEPT = 64 << 20  # unless they are kept: reading four times the bytes ahead is faster still
ITEM = 4  # bytes


def cycles(cut: Cut, kept: bool) -> tuple[float, float]:
    """Estimates of the direct and of Winograd's convolution on one core, from the shape alone.

    kept: transformed weights are kept from call to call.
    """
    family, tiles, points = cut.family, math.prod(cut.tiles), cut.family.points**2
    channels, outputs = cut.read.channels, cut.written.channels
    weights = channels * outputs
    size = weights * MATRICES * ITEM
    per_weight = MATRICES * ITEM / (MEMORY if kept and size > LARGE else STREAM)
    if not kept or size > LARGE_KEPT:
        per_weight += WEIGHT
    transforms = tiles * (family.input_cost * channels + family.output_cost * outputs) + per_weight * weights
    # Inputs of many channels do not stay in the L2 cache while one group of outputs after the other reads them.
    far = min(1, FEWEST * points * channels * ITEM / L2_BYTES)
    transforms += far * tiles * points * channels * ITEM / STREAM * ceil_div(outputs, GROUP)
    direct = family.direct * (NARROW if outputs <= LANES else 1)
    return cut.products / direct, transforms + tiles * points * weights / PRODUCTS


@functools.lru_cache(maxsize=4096)
def takes_winograd(cut: Cut, algorithm: str, kept: bool = False) -> bool:
    """Whether to take Winograd's convolution: by the shape alone, so that threads do not change the bits.

    ``algorithm`` is "auto", "direct" or "winograd"; see :func:`minidl.kernels.conv_algorithm`. ``kept``: transformed
    weights are kept from call to call.
    """
    if algorithm == "direct" or not whole_panels():
        return False
    if algorithm == "auto" and kept and cut.tiles.images == 1 and cut.family is not SIDE_BY_SIDE:
        return False  # seconds of compiling before a first prediction, for a tenth of a millisecond in each
    direct, winograd = cycles(cut, kept)
    return algorithm == "winograd" or winograd < 0.9 * direct


@functools.lru_cache(maxsize=4096)
def plan_winograd(cut: Cut, threads: int, kept: bool = False) -> WinogradPlan:
    """Cut the tiles into blocks, and blocks and panels into parts, by the estimated time of the longest part."""
    family, tiles = cut.family, math.prod(cut.tiles)
    channels, outputs = cut.read.channels, cut.written.channels
    points = family.points**2
    shape = tile_shape(outputs, tiles)
    cols = shape.vectors * target().float_lanes
    panels = ceil_div(outputs, cols)
    u_step = odd_lines(channels * cols)
    large = panels * MATRICES * u_step * ITEM > (LARGE_KEPT if kept else LARGE)

    def longest(block: int, panel_parts: int) -> float:
        """Estimated cycles of the longest part."""
        chunk_parts = max(1, threads // panel_parts)
        blocks = ceil_div(ceil_div(tiles, block), chunk_parts)
        done, own = blocks * block, ceil_div(panels, panel_parts)
        products = done * own * cols * points * channels / PRODUCTS
        u_bytes = own * u_step * MATRICES * ITEM
        weights = blocks * u_bytes / (STREAM if u_bytes > 2 * L2_BYTES else NEAR)
        if large or (blocks == 1 and not kept):
            weights += blocks * own * cols * channels * WEIGHT
        elif not kept:
            weights += panels * cols * channels * WEIGHT / threads
        transforms = done * (family.input_cost * channels + family.output_cost * own * cols)
        moved = block * points * (channels + min(own * cols, GROUP)) * ITEM
        if panels == 1:  # sums take the place of inputs
            moved = block * points * max(channels, cols) * ITEM
        transforms += 2 * moved * blocks / STREAM * min(1, moved / L2_BYTES)  # written and read again
        return products + weights + transforms

    fewest = ceil_div(min(FEWEST, tiles), shape.rows)
    counts = range(fewest, max(fewest, MOST // shape.rows) + 1)
    choices = [(n * shape.rows, p) for p in range(1, min(threads, panels) + 1) for n in counts]
    block, panel_parts = min(choices, key=lambda choice: longest(*choice))
    chunk_parts = min(max(1, threads // panel_parts), ceil_div(tiles, block))
    group = min(ceil_div(GROUP, cols), ceil_div(panels, panel_parts))
    v, m = by_lanes(block, channels), by_lanes(block, group * cols)
    if panels == 1:  # then sums take the place of what they were made of
        v = m = by_lanes(block, max(channels, cols))
    grid = Grid(
        block=block,
        group=group,
        u_step=u_step,
        u_size=MATRICES * u_step,
        v_size=points * v.step,
        m_size=points * m.step,
        scratch=cut.scratch,
    )
    ready = not large and (kept or ceil_div(tiles, block) > chunk_parts)
    kernel = winograd_kernel(family, shape.rows, shape.vectors)
    return WinogradPlan(grid, v, m, kernel, cols, panels, chunk_parts * panel_parts, panel_parts, ready)


def prepare_winograd(
    cut: Cut,
    weight: Array,
    turned: bool,
    bias: Array | None,
    relu: bool,
    kept: dict[Any, Any] | None = None,
) -> Call:
    """A convolution of 3x3 windows of which all is known but its images.

    Args:
        cut: what is read by what; see :func:`takes_winograd`.
        weight: float32 (O, C, 9), C-contiguous.
        turned: the input gradient: the outputs are C, and the taps are read backwards.
        bias: one number for each output, or None.
        relu: end in max(y, 0).
        kept: a dictionary that stays with the weight as long as its values do.

    Returns:
        a function of the source, C-contiguous images; the output (images, rows, cols, outputs), C-contiguous; and the
        residual, added after the bias: C-contiguous, of the shape of the output; or None.
    """
    dtype = weight.dtype
    plan = plan_winograd(cut, get_num_threads(), kept is not None)
    g = plan.grid
    row = bias_row(bias, plan.panels * plan.cols, dtype)
    floor = dtype.type(0 if relu else -np.inf)

    def make() -> Panels:
        packed = pack(weight, tuple(range(9))[:: -1 if turned else 1], turned, plan.cols)
        if not plan.ready:
            return packed
        parts, size = min(plan.parts, plan.panels), plan.panels * g.u_size
        (scratch,) = memory.workspace((parts * g.scratch,), dtype)
        (u,) = memory.workspace((size,), dtype) if kept is None else (memory.empty(size, dtype),)
        size = cut.read.channels * plan.cols
        launch(weight_kernel(cut.family), g, packed.array, plan.panels, size, scratch, u, parts=parts)
        return Panels(u, packed.rows)

    weights = kept_value(kept, ("winograd", cut.family.name, plan.cols, plan.ready), make).array

    def run(images: Array, out: Array, residual: Array | None) -> None:
        m_size = 0 if plan.panels == 1 else g.m_size
        u_size = 0 if plan.ready else g.group * g.u_size
        sizes = tuple(plan.parts * size for size in (g.scratch, g.v_size, m_size, u_size))
        scratch, vs, ms, us = memory.workspace(sizes, dtype)
        launch(
            plan.kernel,
            g,
            *cut[1:],
            plan.v,
            plan.m,
            points_in_order(cut.family.points),
            images.reshape(-1),
            weights,
            vs,
            ms if ms.size else vs,
            us,
            scratch,
            row,
            (out if residual is None else residual).reshape(-1),
            residual is not None,
            floor,
            out.reshape(-1),
            out.nbytes >= STREAM_BYTES and out.ctypes.data % memory.ALIGNMENT == 0,
            plan.panel_parts,
            parts=plan.parts,
        )

    return run
