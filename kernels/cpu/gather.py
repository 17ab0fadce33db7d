"""Convolution as a gather: every output pixel collects weighted source pixels. Forward and input gradient
are both this.

Loops, from the outside in, and where their operands live::

    chunk of output pixels                 slab in L2
      block of the reduction
        panel of output channels           packed weights of block x panel, in L1 or L2
          tile of output pixels            accumulators in registers
            k in block                     one rank-1 update of the tile

Each update also asks memory for one cache line of what comes later: the next panel's weights, which no other
access announces; where the source is read in place, the next tile's pixels; or the next tile's residual.

A residual, as a shortcut's, mostly comes from memory. Then a tile meets a *run* of panels one after the other, as
many as stay in the L2 cache, and reads its residual and writes its results in long stretches of memory. The last
panel of a run asks for the next run's weights, the others share the next tile's residual.

The scheme is Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008), without its
packing of the left operand: the slab takes that place, once for all taps.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import numpy as np

from minidl.kernels.cpu import memory, simd
from minidl.kernels.cpu.compiler import jit
from minidl.kernels.cpu.groups import group_fma
from minidl.kernels.cpu.lanes import address, drain, fetch_far
from minidl.kernels.cpu.layout import bias_row
from minidl.kernels.cpu.plan import (
    DEPTH_BLOCK,
    FAR_BYTES,
    GATHER_SLAB,
    NAMES,
    SMALL,
    Geometry,
    IntArray,
    Source,
    TileShape,
    Window,
    ceil_div,
    depth_blocks,
    flatten,
    geometry,
    is_plain,
    runs,
    split_grid,
    tap_offsets,
    tile_shapes,
)
from minidl.kernels.cpu.runtime import Kernel, kernel, launch, share
from minidl.kernels.cpu.simd import number, put
from minidl.kernels.cpu.slab import chunk_range, fill_slab
from minidl.kernels.cpu.weights import Call, Panels
from minidl.kernels.reference.checks import Array

FINISH = 3.0  # cycles from the last multiply-add of a register to the first of the next tile
READ, FILL = 40.0, 10.0  # bytes per cycle of a source read in place; of weights, and into a slab
MANY_PIXELS = 512  # for which a kernel is worth compiling that is a little faster with large pixels
MANY_TILES = 16  # that share a panel's weights
RUN_BYTES = 256 * 1024  # of weights of a block that a tile meets one panel after the other


@jit(borrows=True)
def store_edge(
    g: Geometry,
    tile_sums: tuple[Any, int, int],
    pixels: tuple[int, int, int, int],
    out: Any,
    place: tuple[int, int, int],
    width: int,
    stage: tuple[bool, bool],
    epilogue: tuple[Any, Any, bool, bool],
    first_bias: int,
) -> None:
    """Finish a tile of which only some rows or columns count, element by element, as the kernel does with
    vectors.

    Args:
        tile_sums: an array, the first of the tile's sums there, and how many a row has.
        pixels: line of the tile, its first pixel, the first and past-the-last pixel that count.
        place: element of out of pixel (0, 0), elements per output row and column.
        width: columns that count.
        stage: whether there are sums in out already, and whether no more sums come: only then the epilogue follows.
        epilogue: the bias, from ``first_bias`` on; the residual; whether there is one; whether to end in ReLU.
    """
    edges, edge, cols = tile_sums
    line, tile_first, first, end = pixels
    origin, out_row, out_col = place
    add, last = stage
    bias, residual, plus, relu = epilogue
    line_pixels = g.a_row // g.a_col
    for p in range(first, end):
        r, c = line, p
        if g.linear:
            r, c = p // line_pixels, p % line_pixels
            if c >= g.cols:  # between the end of a row and the start of the next
                continue
        at = origin + r * out_row + c * out_col
        for x in range(width):
            value = edges[edge + (p - tile_first) * cols + x]
            if add:
                value += number(out, at + x)
            if last:
                value += bias[first_bias + x]
                if plus:
                    value += number(residual, at + x)
                if relu and value < 0:
                    value = edges.dtype.type(0)
            put(out, at + x, value)


@functools.cache
def gather_kernel(dtype: str, rows: int, vectors: int, group: int = 0) -> Kernel:
    """The gather convolution with a tile of ``rows`` pixels x ``vectors`` registers of output channels.

    dtype: of the tile. "bfloat16": source and weights are uint32, pairs of channels; the bias is float32, residual
    and output are uint16.

    group: not 0 for groups of so many channels and outputs, side by side in the lanes (see groups.py); a stretch of
    the reduction is one tap then.

    Arguments of the kernel: geometry; the flat source and its first channel; a slab and room for a tile per part;
    packed weights, rows of a panel and its first row to use; segments and blocks of the reduction; the bias
    (zero-padded to whole panels); the flat residual, laid out like the output, and whether there is one; whether to
    end in ReLU; the flat output, its number of channels, and the elements from (0, 0, 0) and from one image, row and
    column to the next; whether to write it past the caches; how many parts share a chunk's panels; which
    part's slab and tile to use, if negative those of the part itself.
    """
    tile = simd.tile(dtype, rows, vectors)
    zero, fma, add, store, stream = tile.zero, tile.fma, tile.add, tile.store, tile.stream
    fma_groups: Any = group_fma(dtype, rows, vectors, group) if group else None
    add_row, relu_tile = tile.add_row, tile.relu
    cols = tile.cols

    @kernel(variant=f"{tile.name}{f'-groups-of-{group}' if group else ''}", borrows=True)
    def gather(
        g: Geometry,
        source: Any,
        channel: int,
        slabs: Any,
        edges: Any,
        packed: Any,
        panel_rows: int,
        first_row: int,
        segments: IntArray,
        blocks: IntArray,
        bias: Any,
        residual: Any,
        plus: bool,
        relu: bool,
        out: Any,
        outputs: int,
        places: tuple[int, int, int, int],
        streams: bool,
        panel_parts: int,
        slot: int,
        part: int,
        parts: int,
    ) -> None:
        out_base, out_image, out_row, out_col = places
        panels = -(-outputs // cols)
        last_block = blocks.size - 2
        panel_first, panel_last = share(panels, part % panel_parts, panel_parts)
        chunk_first, chunk_last = share(g.chunks, part // panel_parts, parts // panel_parts)
        line_pixels = g.a_row // g.a_col  # pixels of the grid from one slab row to the next, in linear mode
        mine = part if slot < 0 else slot
        own_edge = mine * rows * cols  # for tiles of which only some rows or columns count
        a = source if g.direct else slabs
        for chunk in range(chunk_first, chunk_last):
            n, n_end, i, i_end, j, j_end = chunk_range(g, chunk)
            limit = j_end - j
            a_base = mine * g.slab_size
            if g.direct:
                a_base = channel + j * g.a_col
                limit = g.cols - j
            else:
                fill_slab(g, source, channel, slabs, a_base, chunk)
            lines = 1 if g.linear else i_end - i
            length = (i_end - i - 1) * line_pixels + j_end - j if g.linear else j_end - j
            limit = max(limit, length)
            tiles = (n_end - n) * lines * (-(-length // rows))
            for block in range(last_block + 1):
                first, end, last = blocks[block], blocks[block + 1], block == last_block
                depth = segments[end - 1, 2] + segments[end - 1, 1] - segments[first, 2]
                panel_bytes = depth * cols * packed.itemsize
                # Weights can wait that serve many tiles or lie in a cache; the first sight of pixels cannot.
                again = chunk > chunk_first and (panel_last - panel_first) * panel_bytes <= RUN_BYTES
                many = g.direct and (tiles > MANY_TILES or again)
                far = g.direct and plus and last and (tiles > MANY_TILES or chunk_last - chunk_first > 1)
                run = max(1, RUN_BYTES // panel_bytes) if far else 1
                for run_first in range(panel_first, panel_last, run):
                    run_last = min(run_first + run, panel_last)
                    pixels_ahead = many and run_first == panel_first
                    weights_ahead = (
                        run_last - 1 if run_last - run_first < panel_last - panel_first else run_last
                    )
                    shares = (weights_ahead if far else run_first) - run_first - (1 if pixels_ahead else 0)
                    later = run_last if run_last < panel_last else panel_first
                    weights = address(packed, (later * panel_rows + first_row + segments[first, 2]) * cols)
                    weights_step = packed.itemsize * (-(-cols * (run_last - run_first) // tiles))
                    for item in range((n_end - n) * lines):
                        image, line = item // lines, item % lines
                        origin = out_base + (n + image) * out_image + i * out_row + j * out_col
                        for t in range(0, length, rows):
                            # A last tile that would end early starts early instead and repeats some rows.
                            q = min(t, limit - rows)
                            if not g.direct:
                                q = max(q, 0)
                            row, col = line, q
                            inside = q == t and q + rows <= length
                            if g.linear:
                                row, col = q // line_pixels, q % line_pixels
                                inside = inside and col + rows <= g.cols
                            at = origin + row * out_row + col * out_col
                            a_tile = a_base + image * g.a_image + line * g.a_row + q * g.a_col
                            for panel in range(run_first, run_last):
                                column = panel * cols
                                if pixels_ahead and panel == panel_first:
                                    ahead, step = address(a, a_tile + rows * g.a_col), rows * a.itemsize
                                elif shares > 0 and panel < weights_ahead:
                                    piece = rows * out_col // shares
                                    place = at + rows * out_col + (weights_ahead - 1 - panel) * piece
                                    ahead, step = address(residual, place), piece * residual.itemsize // depth
                                else:
                                    ahead, step = weights, weights_step
                                    weights += depth * step
                                acc = zero()
                                for s in range(first, end):
                                    ai = a_tile + segments[s, 0]
                                    bi = (
                                        panel * panel_rows + first_row + segments[s, 2] * max(group, 1)
                                    ) * cols
                                    if group:
                                        acc = fma_groups(acc, a, ai + column, g.a_col, packed, bi)
                                    else:
                                        for k in range(segments[s, 1]):
                                            acc = fma(acc, a, ai + k, g.a_col, packed, bi + k * cols)
                                            fetch_far(ahead)
                                            ahead += step

                                width = min(cols, outputs - column)
                                if inside and width == cols:
                                    if block > 0:
                                        acc = add(acc, out, at + column, out_col)
                                    if last:
                                        acc = add_row(acc, bias, column)
                                        if plus:
                                            acc = add(acc, residual, at + column, out_col)
                                        if relu:
                                            acc = relu_tile(acc)
                                    if streams:
                                        stream(acc, out, at + column, out_col)
                                    else:
                                        store(acc, out, at + column, out_col)
                                else:
                                    store(acc, edges, own_edge, cols)
                                    pixels = (line, q, t, min(q + rows, length))
                                    where = (origin + column, out_row, out_col)
                                    stage = (block > 0, last)
                                    epilogue = (bias, residual, plus, relu)
                                    tile_sums = (edges, own_edge, cols)
                                    store_edge(
                                        g, tile_sums, pixels, out, where, width, stage, epilogue, column
                                    )
        if streams:
            drain()

    return gather


class GatherPlan(NamedTuple):
    geometry: Geometry
    kernel: Kernel
    tile: TileShape
    cols: int  # of a panel
    bias_size: int  # whole panels
    segments: IntArray
    blocks: IntArray
    parts: int
    panel_parts: int  # parts that share a chunk's panels
    slab_size: int  # of all parts

    @property
    def tile_size(self) -> int:
        """Numbers of a tile."""
        return self.tile.rows * self.cols


def costs(g: Geometry, shape: TileShape, depth: int, outputs: int, itemsize: int) -> tuple[int, float, float]:
    """Panels, and estimated cycles of filling the slab of a chunk and of multiplying it by a panel."""
    cols = shape.vectors * (simd.target().float_lanes * 4 // itemsize)
    if g.linear:
        tiles = ceil_div((g.chunk_rows - 1) * (g.a_row // g.a_col) + g.cols, shape.rows)
    else:
        tiles = g.chunk_rows * ceil_div(g.chunk_cols, shape.rows)
    registers = shape.rows * shape.vectors
    tile = depth * registers / (2 * shape.speed) + FINISH * registers
    fill = g.chunk_cols * g.source_pixel * itemsize / READ if g.direct else g.slab_size * itemsize / FILL
    weights = depth * cols * itemsize / FILL
    return ceil_div(outputs, cols), fill, weights + g.chunk_images * tiles * tile


@functools.lru_cache(maxsize=4096)
def plan_gather(
    source: Source,
    window: Window,
    outputs: int,
    dense: bool,
    group: int,
    threads: int,
    pairs: bool = False,
    most_pixels: int = 1 << 16,
) -> GatherPlan:
    """Choose tile, chunks and reduction blocks of a gather convolution by the estimated time of the longest part.

    Args:
        source, window: what is read by what.
        outputs: output channels.
        dense: the grid's outputs follow each other in memory like its pixels.
        group: channels of groups that lie side by side in the lanes, see groups.py; 0 for one group alone.
        threads: how many there are to use.
        pairs: elements of the source are pairs of bfloat16 numbers. Sums between blocks of the reduction would be
            rounded to bfloat16, so there is one block.
        most_pixels: aim of a chunk's number of output pixels.
    """
    if dense and is_plain(source, window):
        source, window = flatten(source, window)
    small = source.images * window.rows * window.cols * len(window.taps) * source.channels * outputs < SMALL
    threads = 1 if small else threads
    best: tuple[float, TileShape, Geometry, int, int] | None = None
    for shape in tile_shapes():
        if shape.vectors > 2 and (group or source.images * window.rows * window.cols < MANY_PIXELS):
            continue
        for linear, pieces in itertools.product((False, True), {1, threads}):
            # By groups a tile reads whole vectors of channels, past the last one: only a slab has room for that.
            together = 0 if group else shape.rows
            g = geometry(source, window, GATHER_SLAB, most_pixels, shape.rows, linear, pieces, together)
            if g.linear != linear:
                continue
            depth = len(window.taps) * (group or source.channels)
            chunk_parts, panel_parts, cost = split_grid(
                threads, g.chunks, *costs(g, shape, depth, outputs, source.itemsize)
            )
            if best is None or cost < best[0]:
                best = (cost, shape, g, chunk_parts, panel_parts)
    assert best is not None
    _, shape, g, chunk_parts, panel_parts = best
    lanes = simd.target().float_lanes * 4 // source.itemsize
    cols = shape.vectors * lanes
    panels = ceil_div(outputs, cols)
    parts = chunk_parts * panel_parts
    stretches = [(offset, 1) for offset in tap_offsets(g, window)] if group else runs(g, window)
    depth = sum(length for _, length in stretches)
    segments, blocks = depth_blocks(stretches, depth if pairs else DEPTH_BLOCK)
    dtype = "bfloat16" if pairs else NAMES[source.itemsize]
    kernel = gather_kernel(dtype, shape.rows, shape.vectors, group)
    slab_size = max(1, parts * g.slab_size)
    return GatherPlan(g, kernel, shape, cols, panels * cols, segments, blocks, parts, panel_parts, slab_size)


def prepare_gather(
    plan: GatherPlan,
    channel: int,
    panels: Panels,
    bias: Array | None,
    relu: bool,
    outputs: int,
    places: tuple[int, int, int, int],
) -> Call:
    """A gather convolution of which all is known but its images.

    Args:
        plan: its plan.
        channel: first channel of the source to read.
        panels: the packed weights, panels of ``plan.cols``.
        bias: one number for each output, or None.
        relu: end in max(y, 0).
        outputs: how many output channels.
        places: element of the output of grid position (0, 0, 0), and elements per image, row and column.

    Returns:
        a function of the source, C-contiguous images; the output, C-contiguous, of which what is not of this grid is
        left alone; and the residual, added after the bias: C-contiguous, of the shape of the output; or None.
    """
    row = bias_row(
        bias, plan.bias_size, np.float32 if panels.array.dtype == np.uint32 else panels.array.dtype
    )
    vector = simd.target().float_lanes  # numbers that a store of the kernel writes at once
    # The sums of earlier blocks of the reduction are read again: they stay in the caches.
    may_stream = len(plan.blocks) == 2 and not any(place % vector for place in places)

    def run(source: Array, out: Array, residual: Array | None) -> None:
        streams = may_stream and out.nbytes >= FAR_BYTES and out.ctypes.data % memory.ALIGNMENT == 0
        launch(
            plan.kernel,
            plan.geometry,
            source.reshape(-1),
            channel,
            memory.empty(plan.slab_size, source.dtype),
            memory.empty(plan.parts * plan.tile_size, row.dtype),
            panels.array,
            panels.rows,
            panels.first,
            plan.segments,
            plan.blocks,
            row,
            (out if residual is None else residual).reshape(-1),
            residual is not None,
            relu,
            out.reshape(-1),
            outputs,
            places,
            streams,
            plan.panel_parts,
            -1,
            parts=plan.parts,
        )

    return run


def gather(
    plan: GatherPlan,
    source: Array,
    channel: int,
    panels: Panels,
    bias: Array | None,
    relu: bool,
    out: Array,
    outputs: int,
    places: tuple[int, int, int, int],
    residual: Array | None = None,
) -> None:
    """Run one gather convolution; see :func:`prepare_gather`."""
    prepare_gather(plan, channel, panels, bias, relu, outputs, places)(source, out, residual)
