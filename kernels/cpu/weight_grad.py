"""The weight gradient: for every weight, the sum over all pixels of source times output gradient.

    gw[o, tap, c] = sum over pixels p of  slab[p + tap, c] * gy[p, o]

The micro-kernel is that of the gather, with other roles: a tile is some (tap, c) x some o, the reduction
runs over the pixels of a chunk, and both operands are read where they lie: 14 channels next to each other
of the slab, broadcast, and 32 output channels next to each other of gy. Tiles wait in `partial` between
chunks, each a block of its own.

Threads share out the tiles, so each weight is summed by one thread in one order. Where tiles are too few
for that, or many threads would fill many slabs for little arithmetic, the chunks are dealt to a number of
*slices* that depends on the shape alone, and the slices' sums are added in order afterwards. So the bits
never depend on the number of threads.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from minidl.kernels import get_num_threads
from minidl.kernels.cpu import memory, simd
from minidl.kernels.cpu.compiler import jit
from minidl.kernels.cpu.lanes import LANES, address, fetch_far, prefetch
from minidl.kernels.cpu.plan import (
    FAR_BYTES,
    NAMES,
    SMALL,
    WEIGHT_BYTES,
    WEIGHT_PIXELS,
    WEIGHT_SLAB,
    Geometry,
    IntArray,
    Source,
    TileShape,
    Window,
    ceil_div,
    flatten,
    geometry,
    is_plain,
    runs,
    tile_shapes,
)
from minidl.kernels.cpu.runtime import Kernel, kernel, launch, share
from minidl.kernels.cpu.slab import chunk_range, fill_slab
from minidl.kernels.cpu.weights import collect_weight
from minidl.kernels.reference.checks import Array

BETWEEN = 32  # pixels of a long row between the moments at which memory is asked for what comes later


@functools.cache
def gradient_packer(dtype: str, vectors: int) -> Any:
    """A function that copies a chunk's pixels of gy to panels (panel, pixel, cols), with zeros past the
    last output; of all panels, those from panel_first to before panel_last.

    gy is read once, along its rows: read panel by panel its pixels would come from memory one cache line at
    a time.
    """
    pixel = simd.tile(dtype, 1, vectors)
    load, store, cols = pixel.load, pixel.store, pixel.cols

    @jit(variant=pixel.name)
    def pack_gradient(
        g: Geometry,
        gy: Any,
        first: int,
        gy_pixel: int,
        outputs: int,
        packed: Any,
        base: int,
        chunk: int,
        panel_first: int,
        panel_last: int,
    ) -> None:
        n, n_end, i, i_end, j, j_end = chunk_range(g, chunk)
        length = j_end - j
        full = outputs // cols
        rest = outputs - full * cols
        panel_size = (n_end - n) * (i_end - i) * length * cols
        for item in range((n_end - n) * (i_end - i)):
            image, row = n + item // (i_end - i), i + item % (i_end - i)
            start = ((image * g.rows + row) * g.cols + j) * gy_pixel + first
            to = base + item * length * cols
            for p in range(length):
                for panel in range(panel_first, min(full, panel_last)):
                    source = start + p * gy_pixel + panel * cols
                    store(load(gy, source, 0), packed, to + p * cols + panel * panel_size, 0)
                if rest and panel_last > full:
                    source = start + p * gy_pixel + full * cols
                    at = to + p * cols + full * panel_size
                    for x in range(cols):
                        packed[at + x] = gy[source + x] if x < rest else 0

    return pack_gradient


@jit
def chunk_ahead(
    g: Geometry, source: Any, gy: Any, gy_pixel: int, chunk: int, tiles: int, far: bool
) -> tuple[int, int, int, int]:
    """What to ask memory for before ``chunk`` comes: the addresses of its source and of its output gradient, the bytes
    of the source, and how many bytes to ask for with each pixel of each of ``tiles`` tiles; 0 unless ``far``.
    """
    n, n_end, i, i_end, j, j_end = chunk_range(g, chunk)
    pixels = (n_end - n) * (i_end - i) * (j_end - j)
    row = (n * g.source_h + i * g.stride_h) * g.source_w
    x = address(source, (row + j * g.stride_w) * g.source_pixel)
    x_bytes = pixels * g.stride_h * g.stride_w * g.source_pixel * source.itemsize
    if g.planes < g.stride_h:  # most of it is skipped
        x_bytes = 0
    gy_bytes = pixels * gy_pixel * gy.itemsize
    step = min(64, -(-(x_bytes + gy_bytes) // max(1, pixels * tiles))) if far else 0
    return x, address(gy, ((n * g.rows + i) * g.cols + j) * gy_pixel), x_bytes, step


@functools.cache
def weight_kernel(dtype: str, rows: int, vectors: int) -> Kernel:
    """The weight gradient with a tile of ``rows`` (tap, channel) x ``vectors`` registers of output channels.

    Arguments of the kernel: geometry; the flat source and its first channel; a slab per part; the flat
    output gradient, its first channel, channels to take and elements per pixel; a packing buffer per part
    and its size, 0 to read gy in place; whether source and gy come from far; the slab offset of each tile; the
    partial sums (slices, panels, tiles, rows * cols); the number of slices; how many parts share the slices, and
    the panels, the rest sharing the tiles.
    """
    tile = simd.tile(dtype, rows, vectors)
    zero, fma, add, store = tile.zero, tile.fma, tile.add, tile.store
    cols = tile.cols
    pack_gradient = gradient_packer(dtype, vectors)

    @kernel(variant=tile.name)
    def weight_gradient(
        g: Geometry,
        source: Any,
        channel: int,
        slabs: Any,
        gy: Any,
        gy_first: int,
        outputs: int,
        gy_pixel: int,
        packed: Any,
        pack_size: int,
        far: bool,
        offsets: IntArray,
        partial: Any,
        slices: int,
        slice_parts: int,
        panel_parts: int,
        part: int,
        parts: int,
    ) -> None:
        panels = -(-outputs // cols)
        tiles = offsets.size
        slice_first, slice_last = share(slices, part % slice_parts, slice_parts)
        panel_first, panel_last = share(panels, part // slice_parts % panel_parts, panel_parts)
        tile_parts = parts // (slice_parts * panel_parts)
        tile_first, tile_last = share(tiles, part // (slice_parts * panel_parts), tile_parts)
        a = source if g.direct else slabs
        b = packed if pack_size else gy
        b_step = cols if pack_size else gy_pixel
        for piece in range(slice_first, slice_last):
            chunk_first, chunk_last = share(g.chunks, piece, slices)
            for chunk in range(chunk_first, chunk_last):
                n, n_end, i, i_end, j, j_end = chunk_range(g, chunk)
                if g.direct:
                    a_base = channel + j * g.a_col
                else:
                    a_base = part * g.slab_size
                    fill_slab(g, source, channel, slabs, a_base, chunk)
                length, height, a_row = j_end - j, i_end - i, g.a_row
                pixels = height * length
                if g.direct:  # one long row, taken as rows of a few pixels
                    length, height, a_row = BETWEEN, -(-pixels // BETWEEN), BETWEEN * g.a_col
                if pack_size:
                    at = part * pack_size
                    own = (panel_first, panel_last)
                    pack_gradient(g, gy, gy_first, gy_pixel, outputs, packed, at, chunk, *own)
                later = chunk + 1 if chunk + 1 < chunk_last else chunk
                x_next, gy_next, x_bytes, ahead_step = chunk_ahead(
                    g, source, gy, gy_pixel, later, (panel_last - panel_first) * (tile_last - tile_first), far
                )
                done = 0
                for panel in range(panel_first, panel_last):
                    if pack_size:
                        b_row = length * cols
                        b_image = pixels * cols
                        b_base = part * pack_size + panel * (n_end - n) * b_image
                    else:
                        b_row = (length if g.direct else g.cols) * gy_pixel
                        b_image = g.rows * g.cols * gy_pixel
                        b_base = gy_first + panel * cols + n * b_image + (i * g.cols + j) * gy_pixel
                    for t in range(tile_first, tile_last):
                        home = ((piece * panels + panel) * tiles + t) * (rows * cols)
                        if chunk > chunk_first:
                            for x in range(0, rows * cols, LANES):
                                prefetch(partial, home + x)
                        ahead = x_next + done if done < x_bytes else gy_next + done - x_bytes
                        acc = zero()
                        for item in range((n_end - n) * height):
                            image, row = item // height, item % height
                            ai = a_base + offsets[t] + image * g.a_image + row * a_row
                            bi = b_base + image * b_image + row * b_row
                            for p in range(min(length, pixels - row * length)):
                                acc = fma(acc, a, ai + p * g.a_col, 1, b, bi + p * b_step)
                            line, ahead = ahead, ahead + length * ahead_step
                            while line < ahead:
                                fetch_far(line)
                                line += 64
                        done += (n_end - n) * pixels * ahead_step
                        if chunk > chunk_first:
                            acc = add(acc, partial, home, cols)
                        store(acc, partial, home, cols)

    return weight_gradient


class WeightPlan(NamedTuple):
    geometry: Geometry
    kernel: Kernel
    cols: int  # of a panel
    offsets: IntArray  # of each tile in the slab
    places: IntArray  # of each (c, tap), in memory order, in a panel of partial sums
    slices: int
    panel_size: int  # elements of a panel of partial sums
    partial_size: int  # of all slices
    pack_size: int  # of a part's packed gy; 0: gy is read in place


def cut_tiles(g: Geometry, window: Window, shape: TileShape, cols: int) -> tuple[IntArray, IntArray]:
    """Cut the (tap, channel) rows into tiles; returns their slab offsets and the place of each row in a
    panel.

    Rows that touch in the slab are cut as one stretch. Where taps do not touch, tiles of the same channels
    come one after the other: they read the same pixels, which are then still in the cache.
    """
    tiles: list[tuple[int, int, int, int]] = []  # first row in its stretch, slab offset, place, rows
    depth = 0
    for offset, length in runs(g, window):
        for row in range(0, length, shape.rows):
            start = max(min(row, length - shape.rows), 0)  # the last tile repeats rows rather than end early
            tiles.append((start, offset + start, depth + start, min(shape.rows, length - start)))
        depth += length
    tiles.sort()
    places = np.zeros(depth, np.int64)
    for number, (_, _, place, rows) in enumerate(tiles):
        for r in range(rows):
            places[place + r] = (number * shape.rows + r) * cols
    in_memory_order = np.ascontiguousarray(places.reshape(len(window.taps), g.channels).T).reshape(-1)
    return np.array([offset for _, offset, _, _ in tiles], np.int64), in_memory_order


@functools.lru_cache(maxsize=4096)
def plan_weight(source: Source, window: Window, outputs: int) -> WeightPlan:
    """Choose tile, chunks and slices by the shape alone, never by the number of threads."""
    if is_plain(source, window):
        source, window = flatten(source, window)
    lanes = simd.target().float_lanes * 4 // source.itemsize
    least, most = WEIGHT_PIXELS
    pixels = max(least, min(most, WEIGHT_BYTES // ((source.channels + outputs) * source.itemsize)))
    best: tuple[float, TileShape, Geometry, IntArray, IntArray] | None = None
    for shape in tile_shapes():
        if shape.rows == 7:  # made for rows of 7 pixels, which do not matter here
            continue
        g = geometry(source, window, WEIGHT_SLAB, pixels, shape.rows, False, 1, 1)
        cols = shape.vectors * lanes
        offsets, places = cut_tiles(g, window, shape, cols)
        useful = places.size * outputs / (offsets.size * shape.rows * ceil_div(outputs, cols) * cols)
        if best is None or useful * shape.speed > best[0]:
            best = (useful * shape.speed, shape, g, offsets, places)
    assert best is not None
    _, shape, g, offsets, places = best
    cols = shape.vectors * lanes
    panels = ceil_div(outputs, cols)
    panel_size = offsets.size * shape.rows * cols
    slices = 1
    if offsets.size * panels < 64 or (not g.direct and len(window.taps) * outputs < 512):
        slices = max(1, min(16, g.chunks, (1 << 22) // (panels * panel_size)))
    pack_size = 0
    if outputs % cols or (panels > 1 and offsets.size >= 4):
        pack_size = g.chunk_images * g.chunk_rows * g.chunk_cols * panels * cols
    kernel = weight_kernel(NAMES[source.itemsize], shape.rows, shape.vectors)
    partial_size = slices * panels * panel_size
    return WeightPlan(g, kernel, cols, offsets, places, slices, panel_size, partial_size, pack_size)


@functools.lru_cache(maxsize=4096)
def share_out(threads: int, slices: int, panels: int, tiles: int) -> tuple[int, int, int]:
    """How many parts share the slices, the panels and the tiles: about ``threads`` in all."""
    slice_parts = min(threads, slices)
    rest = max(1, threads // slice_parts)
    panel_parts = max(p for p in range(1, min(rest, panels) + 1) if rest % p == 0 or p == 1)
    return slice_parts, panel_parts, max(1, min(rest // panel_parts, tiles))


def weight_gradient(
    source_array: Array, channel: int, source: Source, window: Window, gy: Array, gy_first: int, out: Array
) -> None:
    """Compute the gradient of the weights of one group.

    Args:
        source_array: C-contiguous images.
        channel: first channel of the source to read.
        gy: C-contiguous output gradient (N, OH, OW, channels).
        gy_first: first channel of gy to read.
        out: (O, C, taps), C-contiguous.
    """
    outputs = out.shape[0]
    plan = plan_weight(source, window, outputs)
    g, dtype = plan.geometry, gy.dtype
    threads = get_num_threads()
    if g.images * g.rows * g.cols * plan.places.size * outputs < SMALL:
        threads = 1
    slice_parts, panel_parts, tile_parts = share_out(
        threads, plan.slices, ceil_div(outputs, plan.cols), plan.offsets.size
    )
    parts = slice_parts * panel_parts * tile_parts
    partial = memory.empty(plan.partial_size, dtype)
    launch(
        plan.kernel,
        g,
        source_array.reshape(-1),
        channel,
        memory.empty(max(1, parts * g.slab_size), dtype),
        gy.reshape(-1),
        gy_first,
        outputs,
        gy.shape[3],
        memory.empty(max(1, parts * plan.pack_size), dtype),
        plan.pack_size,
        source_array.nbytes + gy.nbytes >= FAR_BYTES,
        plan.offsets,
        partial,
        plan.slices,
        slice_parts,
        panel_parts,
        parts=parts,
    )
    launch(
        collect_weight(NAMES[source.itemsize]),
        partial,
        plan.slices,
        plan.places,
        plan.cols,
        plan.panel_size,
        outputs,
        out.reshape(-1),
        work=out.size,
    )
