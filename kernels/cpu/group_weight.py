"""The weight gradient of small groups and of depthwise convolutions: groups side by side in vector lanes.

    gw[tap, i, c] = sum over pixels p of  slab[p + tap, channel i of c's group] * gy[p, c]

A register tile holds some taps x all channels of a group, so that each pixel of gy is read once for all of them.
The forward and the input gradient of such convolutions are the gather of gather.py with groups.py's multiply-add.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from minidl.kernels import get_num_threads
from minidl.kernels.cpu import memory, simd
from minidl.kernels.cpu.groups import group_outer
from minidl.kernels.cpu.lanes import prefetch
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

AHEAD = 2  # panels between the one that memory is asked for and the one summed now
SLICES = 8  # of the chunks, each summed by itself


@functools.cache
def group_weight_kernel(dtype: str, taps: int, width: int) -> Kernel:
    """Sums of one slice of chunks: partial (slices, panels, passes, taps * width, lanes) += slab * gy.

    taps: how many are summed at once, in one pass over the pixels.

    Arguments of the kernel: geometry; the flat source; a slab per part; the flat output gradient and its channels; a
    packing buffer per part and its size, 0 to read gy in place; the slab offset of each tap, in whole passes; the
    partial sums; the number of slices.
    """
    tile = simd.tile(dtype, taps * width, 1)
    zero, add, store, lanes = tile.zero, tile.add, tile.store, tile.cols
    outer = group_outer(dtype, taps, width)
    pack_gradient = gradient_packer(dtype, 1)
    size = taps * width * lanes

    @kernel(variant=f"{tile.name}-groups-of-{width}")
    def group_weight_gradient(
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
        passes = offsets.size // taps
        first, last = share(slices, part, parts)
        b_array = packed if pack_size else gy
        b_step = lanes if pack_size else channels
        for piece in range(first, last):
            chunk_first, chunk_last = share(g.chunks, piece, slices)
            for chunk in range(chunk_first, chunk_last):
                n, n_end, i, i_end, j, j_end = chunk_range(g, chunk)
                length, height = j_end - j, i_end - i
                fill_slab(g, source, 0, slabs, part * g.slab_size, chunk)
                if pack_size:
                    pack_gradient(g, gy, 0, channels, channels, packed, part * pack_size, chunk, 0, panels)
                for item in range(panels * passes):
                    panel, turn = item // passes, item % passes
                    home = (piece * panels * passes + item) * size
                    acc = zero()
                    for line in range((n_end - n) * height):
                        image, row = line // height, line % height
                        a = part * g.slab_size + image * g.a_image + row * g.a_row + panel * lanes
                        b = (
                            ((n + image) * g.rows + i + row) * g.cols * channels
                            + j * channels
                            + panel * lanes
                        )
                        if pack_size:
                            b = part * pack_size + ((panel * (n_end - n) * height) + line) * length * lanes
                        for p in range(length):
                            # The next panels' lines of gy lie far apart: the processor does not see them coming.
                            prefetch(b_array, b + p * b_step + AHEAD * lanes)
                            acc = outer(
                                acc, slabs, a + p * g.a_col, offsets, turn * taps, b_array, b + p * b_step
                            )
                    if chunk > chunk_first:
                        acc = add(acc, partial, home, lanes)
                    store(acc, partial, home, lanes)

    return group_weight_gradient


class GroupPlan(NamedTuple):
    geometry: Geometry
    offsets: IntArray  # the slab offset of each tap, the last one repeated to fill the last pass
    taps: int  # of a pass
    slices: int


@functools.lru_cache(maxsize=1024)
def plan_group_weight(source: Source, window: Window, width: int) -> GroupPlan:
    """Cut the pixels into chunks and slices and the taps into passes: by the shape alone."""
    machine = simd.target()
    lanes = machine.float_lanes * 4 // source.itemsize
    g = geometry(source, window, GATHER_SLAB, 1 << 16, lanes, False, SLICES, 0)
    offsets = tap_offsets(g, window)
    most = max(1, (machine.registers - 6) // width)
    passes = ceil_div(len(offsets), most)
    taps = ceil_div(len(offsets), passes)
    offsets += offsets[-1:] * (passes * taps - len(offsets))
    return GroupPlan(g, np.array(offsets, np.int64), taps, min(SLICES, g.chunks))


def group_weight_gradient(source_array: Array, source: Source, window: Window, gy: Array, out: Array) -> None:
    """The weight gradient of a convolution whose groups fit side by side into a vector (see groups.py).

    Args:
        source_array: C-contiguous images (N, H, W, C).
        source, window: what is read by what, all channels of it.
        gy: C-contiguous output gradient (N, OH, OW, C).
        out: (C, channels of a group, taps).
    """
    channels, width, count = out.shape
    plan = plan_group_weight(source, window, width)
    g, dtype = plan.geometry, gy.dtype
    lanes = simd.target().float_lanes * 4 // source.itemsize
    panels = ceil_div(channels, lanes)
    parts = min(get_num_threads(), plan.slices) if gy.size * count * width >= SMALL else 1
    pack_size = g.chunk_images * g.chunk_rows * g.chunk_cols * panels * lanes if channels % lanes else 0
    rows = plan.offsets.size * width
    partial = memory.empty(plan.slices * panels * rows * lanes, dtype)
    launch(
        group_weight_kernel(NAMES[source.itemsize], plan.taps, width),
        g,
        source_array.reshape(-1),
        memory.empty(parts * g.slab_size, dtype),
        gy.reshape(-1),
        channels,
        memory.empty(max(1, parts * pack_size), dtype),
        pack_size,
        plan.offsets,
        partial,
        plan.slices,
        parts=parts,
    )
    sums = partial.reshape(plan.slices, panels, plan.offsets.size, width, lanes)
    total = sums[0].copy()
    for piece in range(1, plan.slices):
        total += sums[piece]
    out[...] = total[:, :count].transpose(0, 3, 2, 1).reshape(panels * lanes, width, count)[:channels]
