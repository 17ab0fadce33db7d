"""Where everything lies: how a convolution is cut into chunks, slabs and register tiles.

All three convolutions walk over an *output grid* of images x rows x cols. The grid is cut into chunks that
a thread works on alone. For each chunk the needed part of the source image is copied once into a *slab*: a
padded image that stays in the L2 cache, laid out so that every kernel tap reads it with constant strides.

    plane 0   . . . . . . .     rows  stride_h*r + 0 of the padded source
              . x x x x x x
              . x x x x x x     `pitch` pixels per row. The zeros left of a row also serve as the zeros
              right of the
    plane 1   . x x x x x x     row above it: one padding column instead of two.
              . x x x x x x
              . x x x x x x     rows  stride_h*r + 1, and so on: one plane for each row phase of the stride

Output pixel (i, j) at tap (r, c) reads slab pixel  plane[r % stride_h], row i + r // stride_h, column
j*stride_w + c: an address linear in i and j, plus an offset of the tap alone. So there is no im2col matrix:
a register tile of pixels next to each other reads the slab with one constant row stride, and a tap, or a
run of taps whose pixels touch, is one contiguous stretch of the reduction.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from minidl.kernels.cpu.simd import target

IntArray = npt.NDArray[np.int64]

NAMES = {4: "float32", 8: "float64"}  # the supported dtypes by their bytes
SMALL = 1 << 19  # multiplications: less work stays in one thread
# Bytes of source that a chunk of a gather convolution keeps in the L2 cache, of which processors with AVX-512
# have 1 MiB or more. Few large chunks read few weights: this decides where there is one image only.
GATHER_SLAB = (640 if target().float_lanes == 16 else 192) * 1024
DEPTH_BLOCK = (
    768  # the reduction is cut into blocks of about this length: a block of a weight panel stays in L2
)
WEIGHT_PIXELS = 128, 640  # least and most pixels that a chunk of the weight gradient reduces to a partial sum
WEIGHT_BYTES = (
    400_000  # aim of such a chunk's source and output gradient: they and the next chunk's stay in L2
)
WEIGHT_SLAB = 2 << 20  # bytes of source that such a chunk may use
FAR_BYTES = 12 << 20  # so much does not stay in the last-level cache beside what else is read
ALIASING = 2048  # pixels a multiple of this many bytes apart compete for the same few lines of the L1 cache
WAY, WAYS = (
    4096,
    8,
)  # what lies so many bytes apart competes for one line in each of so many ways of the L1 cache


class Source(NamedTuple):
    """The image that is read: ``images`` x ``height`` x ``width`` pixels, of which ``channels`` elements count."""

    images: int
    height: int
    width: int
    pixel: int  # elements from one pixel to the next
    channels: int
    itemsize: int


class Window(NamedTuple):
    """Which source pixels an output pixel reads: row i*stride_h - pad_top + r for each tap (r, c), columns alike."""

    rows: int  # of the output grid, per image
    cols: int
    stride_h: int
    stride_w: int
    pad_top: int  # may be negative: the first rows are skipped
    pad_left: int
    taps: tuple[tuple[int, int], ...]  # (r, c) >= 0, ascending


class Phase(NamedTuple):
    """The input pixels (stride*i + row, stride*j + col), as a gather of stride 1 over the output gradient."""

    row: int
    col: int
    window: Window | None  # None where no tap reaches these pixels
    taps: tuple[int, ...]


class Geometry(NamedTuple):
    """The numbers that kernels need, all in pixels or elements (not bytes)."""

    images: int
    rows: int
    cols: int
    chunk_images: int
    chunk_rows: int
    chunk_cols: int
    chunks: int
    direct: int  # 1: read the source itself, which is then one long row of pixels
    linear: int  # 1: tiles run over the ends of rows, and what falls between rows is dropped
    source_h: int
    source_w: int
    source_pixel: int
    channels: int
    stride_h: int
    stride_w: int
    pad_top: int
    pad_left: int
    planes: int
    plane_rows: int
    pitch: int  # pixels from one slab row to the next
    pixel: int  # elements from one slab pixel to the next
    a_image: int  # elements from an output pixel's operand to that of the next image, row, column
    a_row: int
    a_col: int
    slab_size: int  # elements, with slack for tiles that read past the end


class TileShape(NamedTuple):
    rows: int
    vectors: int
    speed: float  # relative, when every row and column is useful


@functools.cache
def tile_shapes() -> tuple[TileShape, ...]:
    """The register tiles that this machine's register file holds, fastest first."""
    if target().registers == 32:
        # rows*vectors accumulators + vectors + 1 must fit. Few rows cost loads of b, one vector broadcasts.
        return (
            TileShape(14, 2, 1.0),
            TileShape(8, 2, 0.97),
            TileShape(7, 2, 0.96),
            TileShape(6, 4, 0.98),
            TileShape(16, 1, 0.85),
        )
    return (TileShape(6, 2, 1.0), TileShape(4, 2, 0.8), TileShape(8, 1, 0.7))


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def even_split(total: int, largest: int) -> int:
    """The length of equal pieces of ``total`` of which none exceeds ``largest``."""
    return ceil_div(total, ceil_div(total, max(1, largest)))


def split_grid(threads: int, chunks: int, panels: int, fill: float, work: float) -> tuple[int, int, float]:
    """Into how many parts to split chunks and panels, so that the largest share is smallest.

    Args:
        threads, chunks, panels: how many there are.
        fill: cost of the slab of a chunk, which each of the parts that share the chunk pays.
        work: cost of a panel of a chunk.

    Returns:
        parts of the chunks, parts of the panels, and the cost of the largest share.
    """

    def longest(panel_parts: int) -> float:
        chunk_parts = min(threads // panel_parts, chunks)
        return ceil_div(chunks, chunk_parts) * (fill + ceil_div(panels, panel_parts) * work)

    panel_parts = min(range(1, min(threads, panels) + 1), key=longest)
    return min(threads // panel_parts, chunks), panel_parts, longest(panel_parts)


def slab_pixel(source: Source, window: Window) -> int:
    """Elements between slab pixels: one cache line more than the channels where they would compete for cache lines."""
    step = source.channels * source.itemsize
    crowded = (step * window.stride_w) % ALIASING == 0 and source.channels > 0
    return source.channels + (64 // source.itemsize if crowded else 0)


def reads_in_place(source: Source, window: Window, tile_rows: int, together: int) -> bool:
    """Whether tiles can read a flat source itself, without a slab.

    Tiles read up to tile_rows pixels past a row; the source itself must be long enough for one whole tile. A weight
    gradient's tile reads tile_rows channels, also of the last pixel. And the pixels that are read together must fit
    into the lines of the L1 cache that they compete for.
    """
    competing = together * math.gcd(source.pixel * source.itemsize, WAY) // WAY
    return (
        is_plain(source, window)
        and source.height * source.images == 1
        and window.cols >= tile_rows
        and source.channels >= tile_rows
        and together > 0
        and competing <= WAYS
    )


def is_plain(source: Source, window: Window) -> bool:
    """Whether the output grid is the source: one tap, no stride, no padding."""
    return (
        window.taps == ((0, 0),)
        and window[2:6] == (1, 1, 0, 0)
        and (window.rows, window.cols) == (source.height, source.width)
    )


def flatten(source: Source, window: Window) -> tuple[Source, Window]:
    """A plain window over one long row instead of many images: no tile ends early at the end of a row."""
    pixels = source.images * source.height * source.width
    return source._replace(images=1, height=1, width=pixels), window._replace(rows=1, cols=pixels)


def geometry(
    source: Source,
    window: Window,
    slab_bytes: int,
    max_pixels: int,
    tile_rows: int,
    linear: bool,
    pieces: int,
    together: int,
) -> Geometry:
    """Cut the grid into chunks and lay out their slab.

    Args:
        source, window: what is read by what.
        slab_bytes: aim of a chunk's slab.
        max_pixels: aim of a chunk's number of output pixels.
        tile_rows: rows of the register tile.
        linear: tiles may run over the ends of rows.
        pieces: cut into at least so many chunks, where there are rows or tiles enough.
        together: pixels that a tile reads together where the source is read in place; 0 if it never is.
    """
    direct = reads_in_place(source, window, tile_rows, together)
    pixel = source.channels if direct else slab_pixel(source, window)
    reach_h = max(r for r, _ in window.taps)
    reach_w = max(c for _, c in window.taps)
    stride_h, stride_w = window.stride_h, window.stride_w
    planes = min(stride_h, reach_h + 1)
    budget = max(1, slab_bytes // source.itemsize)

    def pitch_for(cols: int) -> int:
        last = (cols - 1) * stride_w + reach_w
        if cols < window.cols:
            return last + 1
        left = window.pad_left
        own = min(source.width, last + 1 - left)
        pitch = max(left + own, last + 1 - max(left, 0), cols * stride_w)
        return ceil_div(pitch, stride_w) * stride_w

    def rows_within(cols: int) -> int:
        """Output rows of one image whose slab is within the budget."""
        return budget // (planes * pitch_for(cols) * pixel) - reach_h // stride_h

    images, rows, cols = 1, window.rows, window.cols
    while cols > 4 * tile_rows and (rows_within(cols) < 1 or cols > max_pixels):
        cols = min(even_split(window.cols, cols // 2), cols - 1)
    rows = even_split(window.rows, min(rows_within(cols), ceil_div(max_pixels, cols)))
    if rows == window.rows and cols == window.cols:
        per_image = planes * (rows + reach_h // stride_h) * pitch_for(cols) * pixel
        fit = min(budget // per_image, ceil_div(max_pixels, rows * cols))
        images = even_split(source.images, min(fit, ceil_div(source.images, pieces)))
    if source.images < pieces and window.rows > 1:
        rows = ceil_div(window.rows, pieces * ceil_div(ceil_div(window.rows, rows), pieces))
    elif source.images < pieces:
        cols = min(cols, max(ceil_div(window.cols, pieces), tile_rows))
    if cols < window.cols:
        linear = False
        cols = ceil_div(cols, tile_rows) * tile_rows
    chunks = ceil_div(source.images, images) * ceil_div(window.rows, rows) * ceil_div(window.cols, cols)
    pitch = pitch_for(cols)
    plane_rows = rows + reach_h // stride_h
    step = source.pixel if direct else pixel
    slack = tile_rows * stride_w * pixel + max(window.pad_left, 0) * pixel + reach_w * pixel + 64
    return Geometry(
        images=source.images,
        rows=window.rows,
        cols=window.cols,
        chunk_images=images,
        chunk_rows=rows,
        chunk_cols=cols,
        chunks=chunks,
        direct=int(direct),
        linear=int(linear and not direct),
        source_h=source.height,
        source_w=source.width,
        source_pixel=source.pixel,
        channels=source.channels,
        stride_h=stride_h,
        stride_w=stride_w,
        pad_top=window.pad_top,
        pad_left=window.pad_left,
        planes=planes,
        plane_rows=plane_rows,
        pitch=pitch,
        pixel=pixel,
        a_image=planes * plane_rows * pitch * pixel,
        a_row=pitch * pixel,
        a_col=stride_w * step,
        slab_size=0 if direct else images * planes * plane_rows * pitch * pixel + slack,
    )


def tap_offsets(g: Geometry, window: Window) -> list[int]:
    """Elements from an output pixel's operand to each of its taps."""
    out = []
    for r, c in window.taps:
        plane, row = r % g.stride_h, r // g.stride_h
        out.append(((plane * g.plane_rows + row) * g.pitch + c) * g.pixel)
    return out


def runs(g: Geometry, window: Window) -> list[tuple[int, int]]:
    """The reduction (tap, channel) as contiguous stretches (offset, length): taps that touch are one stretch."""
    out: list[tuple[int, int]] = []
    for offset in tap_offsets(g, window):
        if out and out[-1][0] + out[-1][1] == offset:
            out[-1] = (out[-1][0], out[-1][1] + g.channels)
        else:
            out.append((offset, g.channels))
    return out


def depth_blocks(stretches: list[tuple[int, int]], largest: int) -> tuple[IntArray, IntArray]:
    """Cut the reduction into blocks of at most ``largest``.

    Returns:
        segments (n, 3): operand offset, length, and place in the reduction; and the first segment of each
        block, with n at the end.
    """
    depth = sum(length for _, length in stretches)
    block = even_split(depth, largest)
    segments: list[tuple[int, int, int]] = []
    starts = [0]
    done = 0
    for offset, length in stretches:
        while length:
            take = min(length, (done // block + 1) * block - done)
            segments.append((offset, take, done))
            offset, length, done = offset + take, length - take, done + take
            if done % block == 0 or done == depth:
                starts.append(len(segments))
    return np.array(segments, np.int64).reshape(-1, 3), np.array(starts, np.int64)
