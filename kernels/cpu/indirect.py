"""Convolution by addresses: every row of a register tile is an output pixel with addresses of its own.

The gather of gather.py copies its source to a slab, where pixels next to each other lie at one constant distance. Here
nothing is copied: a table says for each tap where each output pixel reads an image, and a tile's pixels follow each
other through rows and images, so that small images fill it too (Dukhan 2019, "The indirect convolution
algorithm")::

    tile of 14 pixels              tap 0            tap 1        ...     address in the source of that tap's
      image 6, pixel (3, 2)       x + 17408        x + 17536             channels, which follow each other there;
      image 6, pixel (3, 3)       x + 17664        x + 17792             an address of zeros in the padding
      image 7, pixel (0, 0)       zeros            zeros
      ...

The input gradient of stride s is s * s such convolutions, one for each *phase*: the pixels (s*i + row, s*j + col),
which the same taps reach. They run in one launch, one after the other for each chunk of images, which then is in the
cache. A phase that no tap reaches is a convolution of no taps: its pixels become 0, plus bias and residual.

Loops, from the outside in::

    chunk of pixels (of each phase)
      block of the reduction
        group of panels                    packed weights of block x panels in L2
          tile of output pixels            the addresses of its rows
            panel of output channels       accumulators in registers
              tap in block
                k in channels              one rank-1 update of the tile
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from minidl.kernels import get_num_threads
from minidl.kernels.cpu import simd
from minidl.kernels.cpu.addresses import DEPTH, Tables, Target, lay_tables
from minidl.kernels.cpu.compiler import jit
from minidl.kernels.cpu.layout import bias_row
from minidl.kernels.cpu.plan import (
    ALIASING,
    NAMES,
    SMALL,
    IntArray,
    Phase,
    Source,
    TileShape,
    ceil_div,
    is_plain,
    split_grid,
    tile_shapes,
)
from minidl.kernels.cpu.runtime import Kernel, address_of, kernel, launch, share
from minidl.kernels.cpu.simd import fetch, number, put
from minidl.kernels.cpu.weights import kept_value, pack
from minidl.kernels.reference.checks import Array

CHUNK = 512 * 1024  # bytes of the source that a chunk's pixels read in one block of the reduction
GROUP = 384 * 1024  # bytes of weights of a block that a tile of pixels meets one panel after the other
FEW_TILES = 8  # of pixels, with which weights come from memory more often than from the caches
TABLE = 1 << 21  # bytes of a table; larger images are left to the slab


class Layout(NamedTuple):
    """The numbers that the kernel needs."""

    images: int
    image_in: int  # bytes of a source image
    image_out: int  # elements of an output image
    chunks: int
    most_segments: int  # of a block
    group_panels: int  # panels whose weights of a block stay in the L2 cache
    panel_parts: int  # parts that share a chunk's panels


@jit
def lay_tile(
    g: Layout,
    tables: tuple[Any, Any, Any],
    block: tuple[int, int, int, int],
    bases: tuple[int, int],
    tile: int,
    rows: tuple[Any, Any],
    addresses: Any,
    out_at: Any,
) -> None:
    """Fill the addresses that each row of a tile reads in each segment, and the element of its output.

    Rows are pixels that follow each other through all images; past the last one it is repeated.

    Args:
        tables: offsets, places and segments.
        block: of the reduction: pixels and first place of its phase, its first segment and past its last.
        bases: the addresses of the first channel to read and of zeros.
        rows: a buffer for each row's bytes to its image and for its pixel there.
    """
    pixels, first_place, first_segment, last_segment = block
    source_at, zeros_at = bases
    offsets, places, pieces = tables
    image, pixel = rows
    first = tile * out_at.size
    n, q = first // pixels, first % pixels
    left = g.images * pixels - 1 - first
    for r in range(out_at.size):
        put(image, r, n * g.image_in)
        put(pixel, r, q)
        put(out_at, r, n * g.image_out + number(places, first_place + q))
        if r < left:
            q += 1
            if q == pixels:
                q = 0
                n += 1
    to = 0
    for s in range(first_segment, last_segment):
        start, byte = pieces[s, 0], source_at + pieces[s, 1]
        for r in range(out_at.size):
            offset = number(offsets, start + number(pixel, r))
            put(addresses, to + r, byte + number(image, r) + offset if offset >= 0 else zeros_at)
        to += out_at.size


@jit
def fetch_tile(pieces: Any, first: int, last: int, rows: int, itemsize: int, addresses: Any) -> None:
    """Ask for what a tile will read in the segments from first to before last."""
    for s in range(first, last):
        for r in range(rows):
            address = number(addresses, (s - first) * rows + r)
            for byte in range(0, pieces[s, 2] * itemsize, 64):
                fetch(address + byte)


@functools.cache
def finish_tile(dtype: str, rows: int, vectors: int) -> Any:
    """A function that takes a tile's sums of one block of the reduction to the output: after the last block with bias,
    residual and ReLU. Where only some columns count, they go through a small buffer."""
    tile = simd.tile(dtype, rows, vectors)
    add, add_at, add_row, relu_tile = tile.add, tile.add_at, tile.add_row, tile.relu
    store, store_at, cols = tile.store, tile.store_at, tile.cols

    @jit(variant=tile.name, forceinline=True)
    def finish(
        acc: Any,
        panel: int,
        width: int,
        stage: tuple[bool, bool],
        epilogue: tuple[Any, Any, bool, bool],
        out: Any,
        out_at: Any,
        at: int,
        edge: Any,
    ) -> None:
        more, last = stage
        bias, residual, plus, relu = epilogue
        if more:
            if width == cols:
                acc = add_at(acc, out, out_at, at)
            else:
                for r in range(rows):
                    for x in range(width):
                        edge[r * cols + x] = out[out_at[r] + at + x]
                acc = add(acc, edge, 0, cols)
        if last:
            acc = add_row(acc, bias, panel * cols)
            if plus:
                if width == cols:
                    acc = add_at(acc, residual, out_at, at)
                else:
                    for r in range(rows):
                        for x in range(width):
                            edge[r * cols + x] = residual[out_at[r] + at + x]
                    acc = add(acc, edge, 0, cols)
            if relu:
                acc = relu_tile(acc)
        if width == cols:
            store_at(acc, out, out_at, at)
        else:
            store(acc, edge, 0, cols)
            for r in range(rows):
                for x in range(width):
                    out[out_at[r] + at + x] = edge[r * cols + x]

    return finish


@functools.cache
def indirect_kernel(dtype: str, rows: int, vectors: int) -> Kernel:
    """The convolution by addresses with a tile of ``rows`` pixels x ``vectors`` registers of output channels.

    Arguments of the kernel: layout and tables; the addresses of the first channel to read and of as many zeros; packed
    weights and rows of a panel; bias (zero-padded to whole panels); the flat residual, laid out like the output, and
    whether there is one; whether to end in ReLU; the flat output, its first element to write and its number of
    channels.
    """
    tile = simd.tile(dtype, rows, vectors)
    zero, fma_at, cols = tile.zero, tile.fma_at, tile.cols
    finish = finish_tile(dtype, rows, vectors)

    @kernel(variant=tile.name)
    def indirect(
        g: Layout,
        phases: IntArray,
        offsets: Any,
        places: Any,
        segments: IntArray,
        blocks: IntArray,
        source_at: int,
        zeros_at: int,
        packed: Any,
        panel_rows: int,
        bias: Any,
        residual: Any,
        plus: bool,
        relu: bool,
        out: Any,
        out_first: int,
        outputs: int,
        part: int,
        parts: int,
    ) -> None:
        panels = -(-outputs // cols)
        panel_first, panel_last = share(panels, part % g.panel_parts, g.panel_parts)
        chunk_first, chunk_last = share(g.chunks, part // g.panel_parts, parts // g.panel_parts)
        edge = np.zeros(rows * cols, bias.dtype)  # for tiles of which only some columns count
        buffers = np.empty(rows, np.int64), np.empty(rows, np.int64)
        out_at, next_out = np.empty(rows, np.int64), np.empty(rows, np.int64)
        addresses = np.empty(g.most_segments * rows, np.int64)
        ahead = np.empty_like(addresses)
        tables, bases = (offsets, places, segments), (source_at, zeros_at)
        epilogue = bias, residual, plus, relu
        for chunk in range(chunk_first, chunk_last):
            for phase in range(phases.shape[0]):
                pixels, block_first, block_last = phases[phase, 0], phases[phase, 2], phases[phase, 3]
                tile_first, tile_last = share(-(-g.images * pixels // rows), chunk, g.chunks)
                for block in range(block_first, block_last):
                    stage = block > block_first, block == block_last - 1
                    first, end = blocks[block], blocks[block + 1]
                    own = pixels, phases[phase, 1], first, end
                    for group in range(panel_first, panel_last, g.group_panels):
                        lay_tile(g, tables, own, bases, tile_first, buffers, addresses, out_at)
                        for t in range(tile_first, tile_last):
                            if t + 1 < tile_last:
                                lay_tile(g, tables, own, bases, t + 1, buffers, ahead, next_out)
                                if phase == 0 and group == panel_first:
                                    fetch_tile(segments, first, end, rows, bias.itemsize, ahead)
                            for panel in range(group, min(group + g.group_panels, panel_last)):
                                acc = zero()
                                for s in range(first, end):
                                    b = (panel * panel_rows + segments[s, 3]) * cols
                                    row = (s - first) * rows
                                    for k in range(segments[s, 2]):
                                        acc = fma_at(acc, addresses, row, k, packed, b + k * cols)
                                width = min(cols, outputs - panel * cols)
                                at = out_first + panel * cols
                                finish(acc, panel, width, stage, epilogue, out, out_at, at, edge)
                            addresses, ahead = ahead, addresses
                            out_at, next_out = next_out, out_at

    return indirect


class IndirectPlan(NamedTuple):
    kernel: Kernel
    cols: int  # of a panel
    layout: Layout
    tables: Tables
    parts: int


def takes_indirect(source: Source, phases: tuple[Phase, ...], outputs: int) -> bool:
    """Whether addresses pay: rows that fill no register tile, with enough arithmetic to each address.

    A slab is better where all pixels of a tile would compete for one set of the L1 cache, or where pixels are so few
    that weights come from memory for each panel; and tables must not be large.
    """
    lanes = simd.target().float_lanes * 4 // source.itemsize
    windows = [p.window for p in phases if p.window]
    if source.channels < lanes or outputs <= lanes or not windows or is_plain(source, windows[0]):
        return False
    cols, tiles = windows[0].cols, tile_shapes()
    ragged = cols < tiles[0].rows and (
        outputs > tiles[0].vectors * lanes or all(cols % t.rows for t in tiles)
    )
    crowded = source.pixel * source.itemsize * windows[0].stride_w % (2 * ALIASING) == 0
    few = source.images * windows[0].rows * cols < FEW_TILES * tiles[0].rows
    entries = sum(w.rows * w.cols * len(w.taps) for w in windows)
    image = source.height * source.width * source.pixel * source.itemsize
    return ragged and not few and not crowded and 4 * entries <= TABLE and image < 1 << 31


@functools.lru_cache(maxsize=512)
def plan_indirect(
    source: Source, phases: tuple[Phase, ...], target: Target, outputs: int, threads: int
) -> IndirectPlan:
    """Lay out tables and choose the tile by the share of useful arithmetic."""
    tables = lay_tables(source, phases, target)
    lanes = simd.target().float_lanes * 4 // source.itemsize
    pixels = int(tables.phases[:, 0].max()) * source.images

    def cost(shape: TileShape) -> float:
        cols = shape.vectors * lanes
        return ceil_div(pixels, shape.rows) * shape.rows * ceil_div(outputs, cols) * cols / shape.speed

    shape = min(tile_shapes(), key=cost)
    cols = shape.vectors * lanes
    panels, tiles = ceil_div(outputs, cols), ceil_div(pixels, shape.rows)
    depth = int(tables.segments[:, 2].sum())
    if pixels * depth * outputs < SMALL:
        threads = 1
    block = max(1, min(DEPTH, depth)) * source.itemsize
    chunks = ceil_div(tiles, max(1, CHUNK // (block * shape.rows)))
    chunks = min(tiles, ceil_div(chunks, threads) * threads)
    chunk_parts, panel_parts, _ = split_grid(threads, chunks, panels, 0.04, 1)
    layout = Layout(
        images=source.images,
        image_in=source.height * source.width * source.pixel * source.itemsize,
        image_out=target.height * target.width * target.pixel,
        chunks=chunks,
        most_segments=max(1, int(np.diff(tables.blocks).max())),
        group_panels=max(1, GROUP // (block * cols)),
        panel_parts=panel_parts,
    )
    run = indirect_kernel(NAMES[source.itemsize], shape.rows, shape.vectors)
    return IndirectPlan(run, cols, layout, tables, chunk_parts * panel_parts)


def indirect(
    source: Source,
    phases: tuple[Phase, ...],
    target: Target,
    images: Array,
    weight: Array,
    turned: bool,
    groups: int,
    bias: Array | None,
    residual: Array | None,
    relu: bool,
    out: Array,
    kept: dict[Any, Any] | None = None,
) -> None:
    """Compute the phases of a convolution, group by group.

    Args:
        source, phases, target: of one group: what is read by what, and where it goes.
        images: C-contiguous, what is read.
        weight: (O, C, taps), C-contiguous.
        turned: the input gradient, which sums over the outputs, instead of the forward direction.
        groups: their number; their channels and outputs follow each other.
        bias: one number for each channel of out, or None.
        residual: added after the bias: C-contiguous, of the shape of out.
        relu: end in max(y, 0).
        out: C-contiguous.
        kept: where the packed weights may stay.
    """
    outputs = target.pixel // groups
    plan = plan_indirect(source, phases, target, outputs, get_num_threads())
    taps = tuple(tap for phase in phases for tap in phase.taps)
    columns = ceil_div(outputs, plan.cols) * plan.cols
    zeros = _zeros(source.channels, str(out.dtype))
    per = len(weight) // groups
    for group in range(groups):
        make = functools.partial(pack, weight[group * per : (group + 1) * per], taps, turned, plan.cols)
        panels = kept_value(kept, (group, plan.cols), make)
        own = None if bias is None else bias[group * outputs : (group + 1) * outputs]
        launch(
            *(plan.kernel, plan.layout, *plan.tables),
            address_of(images) + group * source.channels * source.itemsize,
            address_of(zeros),
            *(panels.array, panels.rows, bias_row(own, columns, out.dtype)),
            *((out if residual is None else residual).reshape(-1), residual is not None, relu),
            *(out.reshape(-1), group * outputs, outputs),
            parts=plan.parts,
        )


@functools.lru_cache(maxsize=64)
def _zeros(count: int, dtype: str) -> Array:
    """What a tap reads in the padding."""
    return np.zeros(count, dtype)
