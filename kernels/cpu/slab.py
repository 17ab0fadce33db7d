"""Copies the source pixels of one chunk into its slab (see plan.py for the layout)."""

from __future__ import annotations

from typing import Any

from minidl.kernels.cpu.plan import Geometry
from minidl.kernels.cpu.runtime import jit
from minidl.kernels.cpu.simd import copy


@jit
def chunk_range(g: Geometry, chunk: int) -> tuple[int, int, int, int, int, int]:
    """First and past-the-last image, row and column of a chunk."""
    across = -(-g.cols // g.chunk_cols)
    down = -(-g.rows // g.chunk_rows)
    n = chunk // (across * down) * g.chunk_images
    i = chunk // across % down * g.chunk_rows
    j = chunk % across * g.chunk_cols
    n_end = min(n + g.chunk_images, g.images)
    return n, n_end, i, min(i + g.chunk_rows, g.rows), j, min(j + g.chunk_cols, g.cols)


@jit
def clear(slab: Any, first: int, count: int) -> None:
    target = slab[first : first + count]  # counted from 0, LLVM makes it vectors
    for k in range(target.size):
        target[k] = 0


@jit
def fill_slab(g: Geometry, source: Any, channel: int, slab: Any, base: int, chunk: int) -> None:
    """Copy the source pixels of ``chunk``, from ``channel`` on, to ``slab[base:]``, with zeros where there
    are none.

    ``source`` is flat: (images, source_h, source_w, source_pixel) elements.
    """
    n, n_end, i, i_end, j, _ = chunk_range(g, chunk)
    reach = g.plane_rows - g.chunk_rows
    left = j * g.stride_w - g.pad_left  # source column of slab column 0
    lo = min(max(-left, 0), g.pitch)  # slab columns lo..hi have a source pixel
    hi = max(min(g.source_w - left, g.pitch), lo)
    whole = g.pixel == g.channels and g.source_pixel == g.channels
    width = g.pitch * g.pixel
    at = base
    for image in range(n, n_end):
        for phase in range(g.planes):
            plane = base + ((image - n) * g.planes + phase) * g.plane_rows * width
            for r in range(i_end - i + reach):
                at = plane + r * width
                row = (i + r) * g.stride_h + phase - g.pad_top
                if row < 0 or row >= g.source_h:
                    clear(slab, at, width)
                else:
                    start = ((image * g.source_h + row) * g.source_w + left + lo) * g.source_pixel + channel
                    clear(slab, at, lo * g.pixel)
                    if whole:
                        copy(slab, at + lo * g.pixel, source, start, (hi - lo) * g.pixel)
                    else:
                        for c in range(hi - lo):
                            copy(
                                slab, at + (lo + c) * g.pixel, source, start + c * g.source_pixel, g.channels
                            )
                    clear(slab, at + hi * g.pixel, (g.pitch - hi) * g.pixel)
            # The last row's right padding: for every other row the zeros left of the next row serve.
            clear(slab, at + width, max(g.pad_left, 0) * g.pixel)
