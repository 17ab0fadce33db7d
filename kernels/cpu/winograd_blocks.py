"""Blocks of tiles on their way between images and matrices: the transforms of Winograd's convolution at the edges.

A convolution's tiles are numbered through all images, row by row. A run of tiles beside each other is a *strip*. Its
columns are transformed first, each once, although neighbours share some of them; with tiles of 4x4 outputs, stride 1::

         tile t          tile t+1
    . x x x x x x x x x x x x x x x         6 rows of pixels -> 6 rows of transformed columns, in the L1 cache
     |___________|   |                      tile t takes columns 4t..4t+5 of them and transforms their rows
             |___________|

What lies outside the image is zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from minidl.kernels.cpu.compiler import jit
from minidl.kernels.cpu.lanes import LANES, address, at_least, fetch, fetch_far, load, splat, store, stream
from minidl.kernels.cpu.lines import lines
from minidl.kernels.cpu.plan import ceil_div
from minidl.kernels.cpu.runtime import share
from minidl.kernels.cpu.winograd_tiles import on_columns

AHEAD = (
    64 << 10
)  # elements of the next block to ask for at most: they must not push the weights out of the cache


class Tiles(NamedTuple):
    """The tiles of a convolution: ``down`` x ``across`` for each image."""

    images: int
    down: int
    across: int


class Picture(NamedTuple):
    """Images (N, height, width, channels), and which of their pixels belong to a tile."""

    height: int
    width: int
    channels: int
    top: int  # how far the first tile's pixels start above and left of the image's
    left: int
    size: int  # pixels of a tile in each direction
    step: int  # pixels from a tile to the next


class Layout(NamedTuple):
    """Where the values of a block's tiles lie, in elements."""

    pitch: int  # from a tile to the next
    apart: int  # from 16 channels to the next 16
    step: int  # from a point to the next


def odd_lines(step: int) -> int:
    """At least ``step`` elements, an odd number of cache lines: of a power of two of them only a few places in the L1
    cache would be used by neighbours."""
    return (ceil_div(step, LANES) | 1) * LANES


def by_tile(tiles: int, channels: int) -> Layout:
    """The layout (points, tiles, channels)."""
    pitch = odd_lines(channels)
    return Layout(pitch, LANES, odd_lines(tiles * pitch))


def by_lanes(tiles: int, channels: int) -> Layout:
    """The layout (points, channels / 16, tiles, 16): the same channel of neighbouring tiles lies at constant
    distances."""
    apart = odd_lines(tiles * LANES)
    return Layout(LANES, apart, odd_lines(ceil_div(channels, LANES) * apart))


@jit(borrows=True)
def tile_place(tiles: Tiles, p: Picture, tile: int) -> tuple[int, int, int]:
    """Image, and row and column of the first pixel, of a tile."""
    n = tile // (tiles.down * tiles.across)
    rest = tile - n * tiles.down * tiles.across
    return n, rest // tiles.across * p.step - p.top, rest % tiles.across * p.step - p.left


@jit(borrows=True)
def rows_end(tiles: Tiles, p: Picture, tile: int) -> int:
    """Element past the last row of pixels that a tile reads."""
    n, top, _ = tile_place(tiles, p, tile)
    return (n * p.height + min(max(top + p.size, 0), p.height)) * p.width * p.channels


@jit(borrows=True)
def rows_ahead(tiles: Tiles, p: Picture, first: int, block: int) -> tuple[int, int]:
    """First element and number of elements of the rows that ``block`` tiles from ``first`` on read and those before
    do not; (0, 0) where there are none, or too many to ask for."""
    count = tiles.images * tiles.down * tiles.across
    if first >= count:
        return 0, 0
    start = rows_end(tiles, p, first - 1)
    size = rows_end(tiles, p, min(first + block, count) - 1) - start
    return (start, size) if size <= AHEAD else (0, 0)


@jit(borrows=True)
def fetch_lines(a: Any, first: int, count: int, part: int, parts: int) -> None:
    """Ask memory for one of so many parts of a[first : first + count]."""
    start, end = share(count // LANES, part, parts)
    for line in range(start, end):
        fetch_far(address(a, first + line * LANES))


def into_block(apply: Callable[..., Any], size: int, points: int, step: int) -> Any:
    """A function that transforms the pixels of a block of tiles, ``size`` x ``size`` for each tile, ``step`` from a
    tile to the next.

    Args:
        apply: from lines of ``size`` vectors to lines of ``points``.

    Returns:
        transform_block(tiles, p, a, first, last, low, high, scratch, free, v, base, to): transform the channels
        low..high-1 of the tiles first..last-1 of the images a to v[base:], which is laid out as ``to`` says.
    """
    load_inside, load_line = lines(size).load_inside, lines(size).load
    store_line, zeros = lines(points).store, lines(points).zeros

    @jit(variant=apply.__name__, borrows=True)
    def strip_columns(
        p: Picture, a: Any, at: int, top: int, left: int, width: int, scratch: Any, free: int, more: bool
    ) -> None:
        """Transform the columns left..left+width-1 of 16 channels of the rows from ``top`` on.

        more: ask memory for the next 16 channels meanwhile.
        """
        first, last = min(max(-left, 0), width), min(max(p.width - left, 0), width)
        row = width * LANES
        for j in range(first):
            store_line(scratch, free + j * LANES, row, zeros(scratch))
        for j in range(first, last):
            line = load_inside(a, at + j * p.channels, p.width * p.channels, -top, p.height - top)
            store_line(scratch, free + j * LANES, row, apply(line))
            if more:
                for i in range(size):
                    fetch(address(a, at + (i * p.width + j) * p.channels + LANES))
        for j in range(max(first, last), width):
            store_line(scratch, free + j * LANES, row, zeros(scratch))

    @jit(variant=apply.__name__, borrows=True)
    def transform_block(
        tiles: Tiles,
        p: Picture,
        a: Any,
        first: int,
        last: int,
        low: int,
        high: int,
        scratch: Any,
        free: int,
        v: Any,
        base: int,
        to: Layout,
    ) -> None:
        tile = first
        while tile < last:
            n, top, left = tile_place(tiles, p, tile)
            count = min(last - tile, tiles.across - tile % tiles.across)
            width = (count - 1) * step + size
            for c in range(low, high, LANES):
                at = ((n * p.height + top) * p.width + left) * p.channels + c
                strip_columns(p, a, at, top, left, width, scratch, free, c + LANES < high)
                for t in range(count):
                    value = base + (tile + t - first) * to.pitch + (c - low) // LANES * to.apart
                    for i in range(points):
                        line = load_line(scratch, free + (i * width + t * step) * LANES, LANES)
                        store_line(v, value + i * points * to.step, to.step, apply(line))
            tile += count

    return transform_block


@jit(borrows=True)
def finish_pixel(
    y: Any, shift: Any, residual: Any, plus: bool, lowest: Any, out: Any, at: int, streams: bool
) -> None:
    """out[at:] = y + shift, plus residual[at:] if ``plus``, at least ``lowest``; past the caches if ``streams``."""
    y = y + shift
    if plus:
        y = y + load(residual, at)
    y = at_least(y, lowest)
    if streams:
        stream(out, at, y)
    else:
        store(out, at, y)


@jit(borrows=True, inline="always")
def finish_four(
    line: Any,
    first: int,
    last: int,
    shift: Any,
    residual: Any,
    plus: bool,
    lowest: Any,
    out: Any,
    at: int,
    pixel: int,
    streams: bool,
) -> None:
    """Finish the first ``last`` of 4 pixels that are ``pixel`` elements from each other."""
    y0, y1, y2, y3 = line
    if last > 0:
        finish_pixel(y0, shift, residual, plus, lowest, out, at, streams)
    if last > 1:
        finish_pixel(y1, shift, residual, plus, lowest, out, at + pixel, streams)
    if last > 2:
        finish_pixel(y2, shift, residual, plus, lowest, out, at + 2 * pixel, streams)
    if last > 3:
        finish_pixel(y3, shift, residual, plus, lowest, out, at + 3 * pixel, streams)


@jit(borrows=True, inline="always")
def finish_eight(
    line: Any,
    first: int,
    last: int,
    shift: Any,
    residual: Any,
    plus: bool,
    lowest: Any,
    out: Any,
    at: int,
    pixel: int,
    streams: bool,
) -> None:
    """Finish those of 8 pixels that lie before ``last``, without the very first where ``first`` is 1."""
    y0, y1, y2, y3, y4, y5, y6, y7 = line
    if first == 0:
        finish_pixel(y0, shift, residual, plus, lowest, out, at, streams)
    line1, line2 = (y1, y2, y3, y4), (y5, y6, y7, y7)
    at += pixel
    finish_four(line1, 0, last - 1, shift, residual, plus, lowest, out, at, pixel, streams)
    at += 4 * pixel
    finish_four(line2, 0, min(last - 5, 3), shift, residual, plus, lowest, out, at, pixel, streams)


def out_of_block(apply: Callable[..., Any], points: int, size: int) -> Any:
    """A function that transforms the sums of a block of tiles back to pixels, ``size`` x ``size`` for each tile.

    Args:
        apply: from lines of ``points`` vectors to lines of ``size``, which is 4 or 8.

    Returns:
        finish_block(tiles, p, m, base, of, first, last, low, high, scratch, free, bias, residual, plus, floor, out,
        streams): transform the sums m[base:] of the outputs low..high-1 back, add bias and, if ``plus``, residual,
        and store the pixels that lie inside the image, past the caches if ``streams``.
    """
    columns = on_columns(apply, points, size)
    load_line, finish_line = lines(points).load, {4: finish_four, 8: finish_eight}[size]

    @jit(variant=apply.__name__, borrows=True)
    def finish_block(
        tiles: Tiles,
        p: Picture,
        m: Any,
        base: int,
        of: Layout,
        first: int,
        last: int,
        low: int,
        high: int,
        scratch: Any,
        free: int,
        bias: Any,
        residual: Any,
        plus: bool,
        floor: Any,
        out: Any,
        streams: bool,
    ) -> None:
        lowest = splat(floor)
        pixel = p.channels
        for tile in range(first, last):
            n, top, left = tile_place(tiles, p, tile)
            row_first, row_last = max(-top, 0), min(size, p.height - top)
            col_first, col_last = max(-left, 0), min(size, p.width - left)
            here = ((n * p.height + top) * p.width + left) * pixel
            for c in range(low, high, LANES):
                sums = base + (tile - first) * of.pitch + (c - low) // LANES * of.apart
                columns(m, sums, points * of.step, of.step, points, scratch, free, points * LANES)
                shift = load(bias, c)
                at = here + c + row_first * p.width * pixel
                for i in range(row_first, row_last):
                    line = apply(load_line(scratch, free + i * points * LANES, LANES))
                    finish_line(
                        line, col_first, col_last, shift, residual, plus, lowest, out, at, pixel, streams
                    )
                    at += p.width * pixel

    return finish_block
