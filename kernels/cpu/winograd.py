"""Winograd's convolution: 3x3 windows of stride 1 with a quarter of the multiplications.

The output is cut into tiles of 4x4 pixels, numbered through all images. Loops, from the outside in::

    block of tiles
      transform the inputs                        v (36, tiles, C)        in the L2 or L3 cache
      group of output panels
        for each of the 36 points
          panel of the group                      u (panels, 36, C, cols) the transformed weights
            tiles of the block, 14 at once        accumulators in registers: v[point] @ u[panel, point]
        transform the sums back, add the bias     m (36, tiles, group)    in the L2 cache

winograd_tiles.py has the transforms. The input gradient is the same with weights turned about both axes.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from minidl.kernels import get_num_threads
from minidl.kernels.cpu import memory, simd
from minidl.kernels.cpu.compiler import jit
from minidl.kernels.cpu.lanes import LANES, address, at_least, fetch_far, load, prefetch, splat, store
from minidl.kernels.cpu.plan import Source, TileShape, Window, ceil_div, tile_shapes
from minidl.kernels.cpu.runtime import Kernel, kernel, launch, share
from minidl.kernels.cpu.simd import target
from minidl.kernels.cpu.weights import Call, Panels, kept_value, pack
from minidl.kernels.cpu.winograd_tiles import (
    OUTPUT,
    POINTS,
    SCRATCH,
    TILE,
    output_columns,
    output_row,
    transform_input,
    transform_weight,
)
from minidl.kernels.reference.checks import Array

FEWEST, MOST = 28, 140  # tiles of a block: enough to reuse the weights, few enough for the L2 cache
AHEAD = 2  # tiles between the one that memory is asked for and the one transformed now
GROUP = 64  # outputs whose sums wait to be transformed back at once


class Grid(NamedTuple):
    """The tiles of a convolution, and where their operands lie; numbers of elements."""

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
    block: int  # tiles transformed at once
    group: int  # panels multiplied at once
    v_pitch: int  # from one tile's inputs to the next tile's
    v_step: int  # from one point to the next
    m_pitch: int
    m_step: int
    u_step: int
    v_size: int
    m_size: int
    u_size: int  # of a panel


def crowded(step: int) -> int:
    """``step`` elements, and one cache line more where neighbours would compete for cache lines."""
    return step + LANES if step % 512 == 0 else step


@jit
def tile_place(g: Grid, tile: int) -> tuple[int, int, int]:
    """Image, and row and column of the first output, of a tile."""
    n = tile // (g.down * g.across)
    rest = tile - n * g.down * g.across
    return n, rest // g.across * OUTPUT, rest % g.across * OUTPUT


@jit
def fetch_ahead(a: Any, at: int, row: int, pixel: int, channels: int) -> None:
    """Ask for the 4x4 pixels at a[at:]. The processor does not see such a pattern coming by itself."""
    for i in range(OUTPUT):
        for j in range(OUTPUT):
            for c in range(0, channels, LANES):
                prefetch(a, at + i * row + j * pixel + c)


@jit
def transform_block(
    g: Grid, source: Any, first: int, last: int, scratch: Any, free: int, v: Any, base: int
) -> None:
    """Transform the inputs of the tiles first..last-1 to v[base:]; pixels outside the image are 0."""
    patch = free + POINTS * LANES
    for tile in range(first, last):
        n, top, left = tile_place(g, tile)
        top -= g.pad_top
        left -= g.pad_left
        to = base + (tile - first) * g.v_pitch
        row = g.source_w * g.channels
        at = ((n * g.source_h + top) * g.source_w + left) * g.channels
        below = at + (TILE - OUTPUT) * row  # the rows above were read with the tiles above
        fetch_ahead(source, below + AHEAD * OUTPUT * g.channels, row, g.channels, g.channels)
        if top >= 0 and left >= 0 and top + TILE <= g.source_h and left + TILE <= g.source_w:
            for c in range(0, g.channels, LANES):
                transform_input(source, at + c, row, g.channels, scratch, free, v, to + c, g.v_step)
        else:
            i_first, i_last = max(-top, 0), min(g.source_h - top, TILE)
            j_first, j_last = max(-left, 0), min(g.source_w - left, TILE)
            for k in range(patch, patch + POINTS * LANES):
                scratch[k] = 0
            for c in range(0, g.channels, LANES):
                for i in range(i_first, i_last):
                    for j in range(j_first, j_last):
                        pixel = load(source, at + i * row + j * g.channels + c)
                        store(scratch, patch + (i * TILE + j) * LANES, pixel)
                transform_input(scratch, patch, TILE * LANES, LANES, scratch, free, v, to + c, g.v_step)


@jit
def finish_block(
    g: Grid,
    m: Any,
    base: int,
    first: int,
    last: int,
    channel: int,
    width: int,
    scratch: Any,
    free: int,
    bias: Any,
    residual: Any,
    plus: bool,
    floor: Any,
    out: Any,
) -> None:
    """Transform the sums m[base:] of ``width`` outputs from ``channel`` on back, add bias and, if ``plus``,
    residual, and store the pixels."""
    lowest = splat(floor)
    for tile in range(first, last):
        n, top, left = tile_place(g, tile)
        height, across = min(OUTPUT, g.rows - top), min(OUTPUT, g.cols - left)
        here = ((n * g.rows + top) * g.cols + left) * g.outputs + channel
        fetch_ahead(out, here + AHEAD * OUTPUT * g.outputs, g.cols * g.outputs, g.outputs, width)
        for c in range(0, width, LANES):
            output_columns(m, base + (tile - first) * g.m_pitch + c, g.m_step, scratch, free)
            shift = load(bias, channel + c)
            at = here + c
            for i in range(height):
                output_row(scratch, free, i, scratch, free + POINTS * LANES)
                for j in range(across):
                    y = load(scratch, free + (POINTS + j) * LANES) + shift
                    if plus:
                        y = y + load(residual, at + j * g.outputs)
                    store(out, at + j * g.outputs, at_least(y, lowest))
                at += g.cols * g.outputs


@jit
def transform_panel(
    g: Grid, packed: Any, panel: int, cols: int, scratch: Any, free: int, u: Any, base: int
) -> None:
    """Transform a panel of packed weights (9 taps, C, cols) to u[base:] (36, C, cols)."""
    start = panel * 9 * g.channels * cols
    for k in range(0, g.channels * cols, LANES):
        transform_weight(packed, start + k, g.channels * cols, scratch, free, u, base + k, g.u_step)


@kernel
def transform_weights(g: Grid, packed: Any, cols: int, scratch: Any, u: Any, part: int, parts: int) -> None:
    """Transform all panels of packed weights."""
    first, last = share(-(-g.outputs // cols), part, parts)
    for panel in range(first, last):
        transform_panel(g, packed, panel, cols, scratch, part * SCRATCH, u, panel * g.u_size)


@functools.cache
def winograd_kernel(rows: int, vectors: int) -> Kernel:
    """Winograd's convolution with a register tile of ``rows`` tiles x ``vectors`` registers of output channels.

    Arguments of the kernel: the grid; the flat source; weights, transformed or packed; room for v, for m, for a
    group of transformed panels (empty where the weights are transformed already), and scratch, for each part; the
    bias, zero-padded to whole panels; the flat residual and whether there is one; the least value of an output;
    the flat output; how many parts share a block's panels.
    """
    tile = simd.tile("float32", rows, vectors)
    zero, fma, put, cols = tile.zero, tile.fma, tile.store, tile.cols

    @kernel(variant=tile.name)
    def winograd(
        g: Grid,
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
        panel_parts: int,
        part: int,
        parts: int,
    ) -> None:
        tiles = g.images * g.down * g.across
        panel_first, panel_last = share(-(-g.outputs // cols), part % panel_parts, panel_parts)
        block_first, block_last = share(-(-tiles // g.block), part // panel_parts, parts // panel_parts)
        v_base, m_base, free = part * g.v_size, part * g.m_size, part * SCRATCH
        for block in range(block_first, block_last):
            first = block * g.block
            last = min(first + g.block, tiles)
            transform_block(g, source, first, last, scratch, free, vs, v_base)
            share_ahead = weights.itemsize * (-(-cols * rows // (last - first)))
            for group in range(panel_first, panel_last, g.group):
                group_last = min(group + g.group, panel_last)
                u, u_base = weights, group * g.u_size
                if us.size:
                    u, u_base = us, part * g.group * g.u_size
                    for panel in range(group, group_last):
                        at = u_base + (panel - group) * g.u_size
                        transform_panel(g, weights, panel, cols, scratch, free, us, at)
                for point in range(POINTS):
                    for panel in range(group_last - group):
                        b = u_base + panel * g.u_size + point * g.u_step
                        # Meanwhile memory is asked for the weights that come next, a share in each tile.
                        following = (
                            b + g.u_size
                            if panel + 1 < group_last - group
                            else b + g.u_step - panel * g.u_size
                        )
                        ahead = address(u, following)
                        for t in range(0, last - first, rows):
                            acc = zero()
                            a = v_base + point * g.v_step + t * g.v_pitch
                            for k in range(g.channels):
                                acc = fma(acc, vs, a + k, g.v_pitch, u, b + k * cols)
                                fetch_far(ahead)
                                ahead += share_ahead
                            put(acc, ms, m_base + point * g.m_step + t * g.m_pitch + panel * cols, g.m_pitch)
                channel = group * cols
                width = min((group_last - group) * cols, g.outputs - channel)
                finish_block(
                    g,
                    ms,
                    m_base,
                    first,
                    last,
                    channel,
                    width,
                    scratch,
                    free,
                    bias,
                    residual,
                    plus,
                    floor,
                    out,
                )

    return winograd


class WinogradPlan(NamedTuple):
    grid: Grid
    kernel: Kernel
    cols: int
    panels: int
    parts: int
    panel_parts: int  # parts that share a block's panels
    ready: bool  # the weights are transformed once before the kernel, not by each part of it


def tile_shape(outputs: int, tiles: int) -> TileShape:
    """The register tile of which most is useful. Those made for rows of 7 pixels or for large ones have little to
    offer here, and each tile's kernel is compiled for its own."""
    lanes = target().float_lanes

    def useful(shape: TileShape) -> float:
        whole = (
            ceil_div(outputs, shape.vectors * lanes)
            * shape.vectors
            * ceil_div(tiles, shape.rows)
            * shape.rows
        )
        return shape.speed * outputs * tiles / whole

    return max((s for s in tile_shapes() if s.vectors <= 2 and s.rows != 7), key=useful)


# Cycles of one core with two 16-lane multiply-adds in each, measured on AMD Zen 5. Only their ratios matter.
PRODUCTS = 27.0  # products per cycle of the micro-kernel
INPUT, OUTPUT_BACK, WEIGHT = 28.0, 12.0, 20.0  # cycles of transforming a channel of a tile, and one weight
STREAM = 24.0  # bytes per cycle of transformed weights from the L3 cache
L2_BYTES = 1 << 20  # where a block's inputs and sums are to stay
LARGE = 16 << 20  # bytes of transformed weights that do not stay in the L3 cache


def cycles(source: Source, window: Window, outputs: int, kept: bool) -> tuple[float, float]:
    """Estimates of the direct and of Winograd's convolution on one core, from the shape alone.

    kept: transformed weights are kept from call to call.
    """
    tiles = source.images * ceil_div(window.rows, OUTPUT) * ceil_div(window.cols, OUTPUT)
    weights = source.channels * outputs
    per_weight = POINTS * source.itemsize / STREAM
    if not kept or weights * POINTS * source.itemsize > LARGE:
        per_weight += WEIGHT
    direct = source.images * window.rows * window.cols * 9 * weights / PRODUCTS
    transforms = tiles * (INPUT * source.channels + OUTPUT_BACK * outputs) + per_weight * weights
    return direct, transforms + tiles * POINTS * weights / PRODUCTS


THREE_BY_THREE = tuple((r, c) for r in range(3) for c in range(3))


def applies_winograd(source: Source, window: Window, outputs: int) -> bool:
    """Whether it can be computed so: float32, 3x3 windows side by side, whole vectors of channels, one group."""
    plain = window.taps == THREE_BY_THREE and window[2:4] == (1, 1) and source.pixel == source.channels
    return plain and source.itemsize == 4 and source.channels % LANES == 0 == outputs % LANES


@functools.lru_cache(maxsize=4096)
def takes_winograd(source: Source, window: Window, outputs: int, algorithm: str, kept: bool = False) -> bool:
    """Whether to take Winograd's convolution: by the shape alone, so that threads do not change the bits.

    ``algorithm`` is "auto", "direct" or "winograd"; see :func:`minidl.kernels.conv_algorithm`. ``kept``: transformed
    weights are kept from call to call.
    """
    if not applies_winograd(source, window, outputs) or algorithm == "direct":
        return False
    direct, winograd = cycles(source, window, outputs, kept)
    return algorithm == "winograd" or winograd < 0.9 * direct


@functools.lru_cache(maxsize=4096)
def plan_winograd(
    source: Source, window: Window, outputs: int, threads: int, kept: bool = False
) -> WinogradPlan:
    """Cut the tiles into blocks, and blocks and panels into parts, by the estimated time of the longest part."""
    down, across = ceil_div(window.rows, OUTPUT), ceil_div(window.cols, OUTPUT)
    tiles = source.images * down * across
    shape = tile_shape(outputs, tiles)
    cols = shape.vectors * target().float_lanes
    panels = ceil_div(outputs, cols)
    u_step = crowded(source.channels * cols)
    large = panels * POINTS * u_step * source.itemsize > LARGE

    def longest(block: int, panel_parts: int) -> float:
        """Estimated cycles of the longest part."""
        chunk_parts = max(1, threads // panel_parts)
        blocks = ceil_div(ceil_div(tiles, block), chunk_parts)
        done, own = blocks * block, ceil_div(panels, panel_parts)
        products = done * own * cols * POINTS * source.channels / PRODUCTS
        weights = blocks * own * u_step * POINTS * source.itemsize / STREAM
        if large or (blocks == 1 and not kept):
            weights += blocks * own * cols * source.channels * WEIGHT
        elif not kept:
            weights += panels * cols * source.channels * WEIGHT / threads
        transforms = done * (INPUT * source.channels + OUTPUT_BACK * own * cols)
        moved = block * POINTS * (source.channels + min(own * cols, GROUP)) * source.itemsize
        if moved > L2_BYTES:  # written to the L3 cache and read again
            transforms += 2 * moved * blocks / STREAM
        return products + weights + transforms

    fewest = ceil_div(min(FEWEST, tiles), shape.rows)
    counts = range(fewest, max(fewest, MOST // shape.rows) + 1)
    choices = [(n * shape.rows, p) for p in range(1, min(threads, panels) + 1) for n in counts]
    block, panel_parts = min(choices, key=lambda choice: longest(*choice))
    chunk_parts = min(max(1, threads // panel_parts), ceil_div(tiles, block))
    group = min(ceil_div(GROUP, cols), ceil_div(panels, panel_parts))
    v_pitch, m_pitch = crowded(source.channels), crowded(group * cols)
    v_step, m_step = crowded(block * v_pitch), crowded(block * m_pitch)
    grid = Grid(
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
        block=block,
        group=group,
        v_pitch=v_pitch,
        v_step=v_step,
        m_pitch=m_pitch,
        m_step=m_step,
        u_step=u_step,
        v_size=POINTS * v_step,
        m_size=POINTS * m_step,
        u_size=POINTS * u_step,
    )
    ready = not large and (kept or ceil_div(tiles, block) > chunk_parts)
    kernel = winograd_kernel(shape.rows, shape.vectors)
    return WinogradPlan(grid, kernel, cols, panels, chunk_parts * panel_parts, panel_parts, ready)


def prepare_winograd(
    source: Source,
    window: Window,
    weight: Array,
    taps: tuple[int, ...],
    turned: bool,
    bias: Array | None,
    relu: bool,
    kept: dict[Any, Any] | None = None,
) -> Call:
    """A convolution of 3x3 windows, stride 1, of which all is known but its images.

    Args:
        source, window: what is read by what; see :func:`takes_winograd`.
        weight: float32 (O, C, 9), C-contiguous.
        taps: which of the 9 weights belongs to each tap of the window.
        turned: the outputs are C, as for the input gradient.
        bias: one number for each output, or None.
        relu: end in max(y, 0).
        kept: a dictionary that stays with the weight as long as its values do.

    Returns:
        a function of the source, C-contiguous images; the output (images, rows, cols, outputs), C-contiguous; and the
        residual, added after the bias: C-contiguous, of the shape of the output; or None.
    """
    outputs, dtype = weight.shape[1 if turned else 0], weight.dtype
    plan = plan_winograd(source, window, outputs, get_num_threads(), kept is not None)
    g = plan.grid
    row = np.zeros(plan.panels * plan.cols, dtype)
    if bias is not None:
        row[:outputs] = bias
    floor = dtype.type(0 if relu else -np.inf)
    # One array for all scratch, so that it is large enough to be aligned to vectors.
    scratch_size = max(plan.parts * SCRATCH, memory.SMALL)

    def make() -> Panels:
        packed = pack(weight, taps, turned, plan.cols)
        if not plan.ready:
            return packed
        u, scratch = memory.empty(plan.panels * g.u_size, dtype), memory.empty(scratch_size, dtype)
        parts = min(plan.parts, plan.panels)
        launch(transform_weights, g, packed.array, plan.cols, scratch, u, parts=parts)
        return Panels(u, packed.rows)

    weights = kept_value(kept, ("winograd", plan.cols, plan.ready), make).array

    def run(images: Array, out: Array, residual: Array | None) -> None:
        launch(
            plan.kernel,
            g,
            images.reshape(-1),
            weights,
            memory.empty(plan.parts * g.v_size, dtype),
            memory.empty(plan.parts * g.m_size, dtype),
            memory.empty(0 if plan.ready else plan.parts * g.group * g.u_size, dtype),
            memory.empty(scratch_size, dtype),
            row,
            (out if residual is None else residual).reshape(-1),
            residual is not None,
            floor,
            out.reshape(-1),
            plan.panel_parts,
            parts=plan.parts,
        )

    return run
