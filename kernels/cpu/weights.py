"""Weights into the panels that the micro-kernels read, and weight gradients back out of them.

A weight lies in memory as (O, C, taps). A gather wants it as (panels of outputs, taps, C, outputs of the
panel), the input gradient as (panels of C, taps, O, channels of the panel). Both are transpositions, done
in registers, a square tile at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from minidl.kernels.cpu import memory
from minidl.kernels.cpu.plan import NAMES, IntArray, ceil_div
from minidl.kernels.cpu.runtime import Kernel, kernel, launch, share
from minidl.kernels.cpu.square import square as square_tile
from minidl.kernels.reference.checks import Array


@functools.cache
def pack_outputs(dtype: str) -> Kernel:
    """w (O, C*taps) flat -> packed (panels, C*taps, cols), with zeros past the last output.

    ``places``: for each (c, tap), in memory order, cols times its row in a panel; negative for taps left
    out. ``depth``: rows of a panel.
    """
    square = square_tile(dtype)
    load, transpose, store_at = square.load, square.transpose, square.store_at
    lanes = square.lanes

    @kernel(variant=f"{dtype}x{lanes}")
    def pack_outputs(
        w: Any, outputs: int, places: IntArray, depth: int, cols: int, packed: Any, part: int, parts: int
    ) -> None:
        row = places.size
        blocks = -(-row // lanes)
        first, last = share(-(-outputs // cols) * blocks, part, parts)
        for item in range(first, last):
            panel, start = item // blocks, item % blocks * lanes
            base = panel * depth * cols
            for x in range(0, cols, lanes):
                o = panel * cols + x
                if o + lanes <= outputs and start + lanes <= row:
                    store_at(transpose(load(w, o * row + start, row)), packed, base + x, places, start)
                else:
                    for m in range(start, min(start + lanes, row)):
                        if places[m] >= 0:
                            for i in range(lanes):
                                at = base + places[m] + x + i
                                packed[at] = w[(o + i) * row + m] if o + i < outputs else 0

    return pack_outputs


@functools.cache
def pack_inputs(dtype: str) -> Kernel:
    """w (O, C, taps) flat -> packed (panels of C, rows, cols), row = place of the tap + o, zeros past the
    last channel.

    ``places``: for each tap, cols times the row of its first output in a panel; negative for taps left out,
    and negative entries up to a multiple of the vector length. ``depth``: rows of a panel.
    """
    square = square_tile(dtype)
    load, transpose, store, store_at = square.load, square.transpose, square.store, square.store_at
    lanes = square.lanes

    @kernel(variant=f"{dtype}x{lanes}")
    def pack_inputs(
        w: Any,
        outputs: int,
        channels: int,
        taps: int,
        places: IntArray,
        depth: int,
        cols: int,
        packed: Any,
        part: int,
        parts: int,
    ) -> None:
        panels = -(-channels // cols)
        first, last = share(-(-outputs // lanes), part, parts)
        for block in range(first, last):
            o_first = block * lanes
            o_last = min(o_first + lanes, outputs)
            for item in range(panels * (cols // lanes)):
                c = item * lanes
                panel = c // cols
                base = panel * depth * cols + c - panel * cols
                whole = c + lanes <= channels
                if taps == 1 and whole and o_first + lanes <= outputs:
                    tile = load(w, o_first * channels + c, channels)  # nothing to turn
                    store(tile, packed, base + places[0] + o_first * cols, cols)
                    continue
                for o in range(o_first, o_last):
                    for tap in range(0, taps, lanes):
                        at = (o * channels + c) * taps + tap
                        to = base + o * cols
                        # A square reads on past the taps of its last channel: not where the array ends.
                        if whole and at + (lanes - 1) * taps + lanes <= w.size:
                            store_at(transpose(load(w, at, taps)), packed, to, places, tap)
                        else:
                            for t in range(tap, min(tap + lanes, taps)):
                                if places[t] >= 0:
                                    for i in range(lanes):
                                        value = w[at + i * taps + t - tap] if c + i < channels else 0
                                        packed[to + places[t] + i] = value

    return pack_inputs


@functools.cache
def collect_weight(dtype: str) -> Kernel:
    """Add the slices of a weight gradient's partial sums and put them in place: out (O, C*taps) flat.

    partial: (slices, panels, panel_size) flat. places: for each (c, tap), in memory order, the element of a
    panel that holds its column 0.
    """
    square = square_tile(dtype)
    load_at, add_at, transpose, store = square.load_at, square.add_at, square.transpose, square.store
    lanes = square.lanes

    @kernel(variant=f"{dtype}x{lanes}")
    def collect_weight(
        partial: Any,
        slices: int,
        places: IntArray,
        cols: int,
        panel_size: int,
        outputs: int,
        out: Any,
        part: int,
        parts: int,
    ) -> None:
        row = places.size
        panels = -(-outputs // cols)
        blocks = -(-row // lanes)
        first, last = share(panels * blocks, part, parts)
        for item in range(first, last):
            panel, start = item // blocks, item % blocks * lanes
            for x in range(0, cols, lanes):
                o = panel * cols + x
                base = panel * panel_size + x
                if o + lanes <= outputs and start + lanes <= row:
                    tile = load_at(partial, base, places, start)
                    for piece in range(1, slices):
                        tile = add_at(tile, partial, base + piece * panels * panel_size, places, start)
                    store(transpose(tile), out, o * row + start, row)
                else:
                    for i in range(min(lanes, outputs - o)):
                        for m in range(start, min(start + lanes, row)):
                            total = partial[base + places[m] + i]
                            for piece in range(1, slices):
                                total += partial[piece * panels * panel_size + base + places[m] + i]
                            out[(o + i) * row + m] = total

    return collect_weight


@functools.lru_cache(maxsize=1024)
def output_places(taps: tuple[int, ...], count: int, channels: int, cols: int) -> IntArray:
    """For each (c, tap) in memory order, cols times its row (place of the tap, c); -1 for taps that are left out."""
    places = np.full((channels, count), -1, np.int64)
    for number, tap in enumerate(taps):
        places[:, tap] = (number * channels + np.arange(channels)) * cols
    return places.reshape(-1)


@functools.lru_cache(maxsize=1024)
def input_places(taps: tuple[int, ...], count: int, outputs: int, cols: int, lanes: int) -> IntArray:
    """For each tap in memory order, cols times its first row; -1 for taps left out and up to a multiple of lanes."""
    places = np.full(ceil_div(count, lanes) * lanes, -1, np.int64)
    places[list(taps)] = np.arange(len(taps)) * outputs * cols
    return places


class Panels(NamedTuple):
    """Packed weights (panels, rows, cols), of which a gather may use a part of the rows."""

    array: Array
    rows: int  # of a panel
    first: int = 0


Call = Callable[[Array, Array, Array | None], None]  # of a source, an output, and a residual or None
T = TypeVar("T")


def kept_value(kept: dict[Any, Any] | None, key: Any, make: Callable[[], T]) -> T:
    """``make()``, or what it gave when it was called for this key before: ``kept`` belongs to one weight."""
    if kept is None:
        return make()
    found: T | None = kept.get(key)
    if found is None:
        found = kept[key] = make()
    return found


def pack(weight: Array, taps: tuple[int, ...], turned: bool, cols: int) -> Panels:
    """The panels of a weight (O, C, taps), C-contiguous.

    Args:
        weight: the weight.
        taps: the taps to take, in the order of the reduction.
        turned: panels of C, reduction over (tap, O), instead of panels of O, reduction over (tap, C).
        cols: columns of a panel.
    """
    outputs, channels, count = weight.shape
    flat, name = weight.reshape(-1), NAMES[weight.itemsize]
    wide, deep = (channels, outputs) if turned else (outputs, channels)
    depth = len(taps) * deep
    packed = memory.empty(ceil_div(wide, cols) * depth * cols, weight.dtype)
    if turned:
        places = input_places(taps, count, outputs, cols, square_tile(name).lanes)
        launch(
            pack_inputs(name), flat, outputs, channels, count, places, depth, cols, packed, work=packed.size
        )
    else:
        places = output_places(taps, count, channels, cols)
        launch(pack_outputs(name), flat, outputs, places, depth, cols, packed, work=packed.size)
    return Panels(packed, depth)
