"""The weight gradient of depthwise convolutions: every channel by itself, channels in vector lanes.

    gw[tap, c] = sum over pixels p of  slab[p + tap, c] * gy[p, c]

The forward and the input gradient of such convolutions are the gather of gather.py, lane by lane.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from minidl.kernels import get_num_threads
from minidl.kernels.cpu import memory, simd
from minidl.kernels.cpu.plan import (
    GATHER_SLAB,
    NAMES,
    SMALL,
    Geometry,
    IntArray,
    Source,
    Window,
    ceil_div,
    geometry,
    tap_offsets,
)
from minidl.kernels.cpu.runtime import Kernel, kernel, launch, share
from minidl.kernels.cpu.slab import chunk_range, fill_slab
from minidl.kernels.cpu.weight_grad import gradient_packer
from minidl.kernels.reference.checks import Array

PIXELS = 4  # summed side by side, so that one addition need not wait for the one before
SLICES = 8  # of the chunks, each summed by itself


@functools.cache
def channel_weight_kernel(dtype: str) -> Kernel:
    """Sums of one slice of chunks: partial (slices, panels, taps, lanes) += slab * gy.

    Arguments of the kernel: geometry; the flat source; a slab per part; the flat output gradient and its channels; a
    packing buffer per part and its size; the slab offset of each tap; the partial sums; the number of slices.
    """
    tile = simd.tile(dtype, PIXELS, 1)
    single = simd.tile(dtype, 1, 1)
    zero, fma_lanes, store, lanes = tile.zero, tile.fma_lanes, tile.store, tile.cols
    one_zero, one_fma, one_store = single.zero, single.fma_lanes, single.store
    pack_gradient = gradient_packer(dtype, 1)

    @kernel(variant=tile.name)
    def channel_weight_gradient(
        g: Geometry,
        source: Any,
        slabs: Any,
        gy: Any,
        channels: int,
        packed: Any,
        pack_size: int,
        offsets: IntArray,
        partial: Any,
        slices: int,
        part: int,
        parts: int,
    ) -> None:
        panels = -(-channels // lanes)
        sums = np.empty((PIXELS + 1) * lanes, gy.dtype)
        first, last = share(slices, part, parts)
        for piece in range(first, last):
            home = piece * panels * offsets.size * lanes
            for x in range(panels * offsets.size * lanes):
                partial[home + x] = 0
            chunk_first, chunk_last = share(g.chunks, piece, slices)
            for chunk in range(chunk_first, chunk_last):
                n, n_end, i, i_end, j, j_end = chunk_range(g, chunk)
                length, height = j_end - j, i_end - i
                fill_slab(g, source, 0, slabs, part * g.slab_size, chunk)
                pack_gradient(g, gy, 0, channels, channels, packed, part * pack_size, chunk)
                for item in range(panels * offsets.size):
                    panel, tap = item // offsets.size, item % offsets.size
                    acc = zero()
                    rest = one_zero()
                    for line in range((n_end - n) * height):
                        image, row = line // height, line % height
                        a = (
                            part * g.slab_size
                            + image * g.a_image
                            + row * g.a_row
                            + offsets[tap]
                            + panel * lanes
                        )
                        b = part * pack_size + ((panel * (n_end - n) * height) + line) * length * lanes
                        whole = length // PIXELS * PIXELS
                        for p in range(0, whole, PIXELS):
                            acc = fma_lanes(
                                acc, slabs, a + p * g.a_col, g.a_col, packed, b + p * lanes, lanes
                            )
                        for p in range(whole, length):
                            rest = one_fma(rest, slabs, a + p * g.a_col, 0, packed, b + p * lanes, 0)
                    store(acc, sums, 0, lanes)
                    one_store(rest, sums, PIXELS * lanes, 0)
                    for r in range(PIXELS + 1):
                        for x in range(lanes):
                            partial[home + item * lanes + x] += sums[r * lanes + x]

    return channel_weight_gradient


@functools.lru_cache(maxsize=1024)
def plan_channel_weight(source: Source, window: Window) -> tuple[Geometry, IntArray, int]:
    """Geometry, the slab offset of each tap, and the number of slices: by the shape alone."""
    lanes = simd.target().float_lanes * 4 // source.itemsize
    g = geometry(source, window, GATHER_SLAB, 1 << 16, max(PIXELS, lanes), False, SLICES, 0)
    return g, np.array(tap_offsets(g, window), np.int64), min(SLICES, g.chunks)


def channel_weight_gradient(
    source_array: Array, source: Source, window: Window, gy: Array, out: Array
) -> None:
    """The weight gradient of a depthwise convolution.

    Args:
        source_array: C-contiguous images (N, H, W, C).
        gy: C-contiguous output gradient (N, OH, OW, C).
        out: (C, taps).
    """
    g, offsets, slices = plan_channel_weight(source, window)
    channels, dtype = source.channels, gy.dtype
    lanes = simd.target().float_lanes * 4 // source.itemsize
    panels = ceil_div(channels, lanes)
    parts = min(get_num_threads(), slices) if gy.size * offsets.size >= SMALL else 1
    pack_size = g.chunk_images * g.chunk_rows * g.chunk_cols * panels * lanes
    partial = memory.empty(slices * panels * offsets.size * lanes, dtype)
    launch(
        channel_weight_kernel(NAMES[source.itemsize]),
        g,
        source_array.reshape(-1),
        memory.empty(parts * g.slab_size, dtype),
        gy.reshape(-1),
        channels,
        memory.empty(parts * pack_size, dtype),
        pack_size,
        offsets,
        partial,
        slices,
        parts=parts,
    )
    sums = partial.reshape(slices, panels, offsets.size, lanes)
    total = sums[0].copy()
    for piece in range(1, slices):
        total += sums[piece]
    out[...] = total.transpose(0, 2, 1).reshape(panels * lanes, offsets.size)[:channels]
