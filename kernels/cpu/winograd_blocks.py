"""Blocks of tiles on their way between images and matrices: the transforms of Winograd's convolution at the edges.

The 4x4 outputs of a convolution's tiles are numbered through all images, row by row. A run of tiles beside each
other is a *strip*. Its columns are transformed first, each once, although neighbours share two of them::

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
from minidl.kernels.cpu.plan import Source, Window, ceil_div
from minidl.kernels.cpu.runtime import share
from minidl.kernels.cpu.winograd_tiles import (
    OUTPUT,
    TILE,
    gradient_line,
    input_line,
    output_columns,
    output_line,
)

AHEAD = (
    64 << 10
)  # elements of the next block to ask for at most: they must not push the weights out of the cache


class Tiles(NamedTuple):
    """The tiles of a convolution's output: ``down`` x ``across`` for each image."""

    images: int
    down: int
    across: int


class Picture(NamedTuple):
    """Images (N, height, width, channels), and how far a tile's pixels start above and left of its 4x4 outputs."""

    height: int
    width: int
    channels: int
    top: int
    left: int


class Layout(NamedTuple):
    """Where the 36 values of a block's tiles lie, in elements."""

    pitch: int  # from a tile to the next
    apart: int  # from 16 channels to the next 16
    step: int  # from a point to the next


def tiles_of(source: Source, window: Window) -> Tiles:
    return Tiles(source.images, ceil_div(window.rows, OUTPUT), ceil_div(window.cols, OUTPUT))


def pictures_of(source: Source, window: Window, outputs: int) -> tuple[Picture, Picture]:
    """The source and the output of a convolution."""
    read = Picture(source.height, source.width, source.channels, window.pad_top, window.pad_left)
    return read, Picture(window.rows, window.cols, outputs, 0, 0)


def crowded(step: int) -> int:
    """``step`` elements, and one cache line more where neighbours would compete for cache lines."""
    return step + LANES if step % 512 == 0 else step


def by_tile(tiles: int, channels: int) -> Layout:
    """The layout (36, tiles, channels)."""
    pitch = crowded(channels)
    return Layout(pitch, LANES, crowded(tiles * pitch))


def by_lanes(tiles: int, channels: int) -> Layout:
    """The layout (36, channels / 16, tiles, 16): the same channel of neighbouring tiles lies at constant distances."""
    apart = crowded(tiles * LANES)
    return Layout(LANES, apart, ceil_div(channels, LANES) * apart)


def strip_elements(tiles: Tiles) -> int:
    """Elements of the scratch memory that strips need."""
    return TILE * (tiles.across * OUTPUT + TILE - OUTPUT) * LANES


@jit(borrows=True)
def tile_place(tiles: Tiles, tile: int) -> tuple[int, int, int]:
    """Image, and row and column of the first output, of a tile."""
    n = tile // (tiles.down * tiles.across)
    rest = tile - n * tiles.down * tiles.across
    return n, rest // tiles.across * OUTPUT, rest % tiles.across * OUTPUT


@jit(borrows=True)
def rows_end(tiles: Tiles, p: Picture, tile: int) -> int:
    """Element past the last row of pixels that a tile reads."""
    n, top, _ = tile_place(tiles, tile)
    return (n * p.height + min(max(top - p.top + TILE, 0), p.height)) * p.width * p.channels


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


def on_block(apply: Callable[..., Any], size: int) -> Any:
    """A function that transforms the pixels of a block of tiles, ``size`` x ``size`` for each tile.

    Args:
        apply: from lines of ``size`` vectors to lines of 6.

    Returns:
        transform_block(tiles, p, a, first, last, low, high, scratch, free, v, base, to): transform the channels
        low..high-1 of the tiles first..last-1 of the images a to v[base:], which is laid out as ``to`` says.
    """
    load_inside, load_line = lines(size).load_inside, lines(size).load
    store_line, zeros = lines(TILE).store, lines(TILE).zeros

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
            n, top, left = tile_place(tiles, tile)
            count = min(last - tile, tiles.across - left // OUTPUT)
            top, left = top - p.top, left - p.left
            width = count * OUTPUT + size - OUTPUT
            for c in range(low, high, LANES):
                at = ((n * p.height + top) * p.width + left) * p.channels + c
                strip_columns(p, a, at, top, left, width, scratch, free, c + LANES < high)
                for t in range(count):
                    value = base + (tile + t - first) * to.pitch + (c - low) // LANES * to.apart
                    for i in range(TILE):
                        line = load_line(scratch, free + (i * width + t * OUTPUT) * LANES, LANES)
                        store_line(v, value + i * TILE * to.step, to.step, apply(line))
            tile += count

    return transform_block


transform_inputs = on_block(input_line, TILE)  # B' d B
transform_gradients = on_block(gradient_line, OUTPUT)  # A gy A'

_load_line = lines(TILE).load


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


@jit(borrows=True)
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
    """Transform the sums m[base:] of the outputs low..high-1 back, add bias and, if ``plus``, residual, and store
    the pixels, past the caches if ``streams``."""
    lowest = splat(floor)
    pixel = p.channels
    for tile in range(first, last):
        n, top, left = tile_place(tiles, tile)
        height, across = min(OUTPUT, p.height - top), min(OUTPUT, p.width - left)
        here = ((n * p.height + top) * p.width + left) * pixel
        for c in range(low, high, LANES):
            sums = base + (tile - first) * of.pitch + (c - low) // LANES * of.apart
            output_columns(m, sums, TILE * of.step, of.step, TILE, scratch, free, TILE * LANES)
            shift = load(bias, c)
            at = here + c
            for i in range(height):
                line = _load_line(scratch, free + i * TILE * LANES, LANES)
                y0, y1, y2, y3 = output_line(line)
                finish_pixel(y0, shift, residual, plus, lowest, out, at, streams)
                if across > 1:
                    finish_pixel(y1, shift, residual, plus, lowest, out, at + pixel, streams)
                if across > 2:
                    finish_pixel(y2, shift, residual, plus, lowest, out, at + 2 * pixel, streams)
                if across > 3:
                    finish_pixel(y3, shift, residual, plus, lowest, out, at + 3 * pixel, streams)
                at += p.width * pixel
