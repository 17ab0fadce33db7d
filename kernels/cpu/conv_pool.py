"""Convolution and max pooling in one kernel: what lies between them never leaves the L2 cache.

A thread works on one chunk of rows after the other. The gather convolution (gather.py) writes them into a scratch
image, and the windows that end in them are pooled from there. Rows that later windows need as well are moved to the
top::

    scratch      rows kept from the chunk before      at most the window's height - 1
                 rows of this chunk                   by the gather, with bias and ReLU

Each number comes from the same additions and comparisons in the same order as by the two kernels one after the
other, so that the bits are the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.kernels import get_conv_algorithm, get_num_threads
from minidl.kernels.cpu import memory
from minidl.kernels.cpu.conv import FLOATS, Forward, flat_taps, forward_of, operand
from minidl.kernels.cpu.gather import GatherPlan, plan_gather
from minidl.kernels.cpu.groups import group_width
from minidl.kernels.cpu.indirect import takes_indirect
from minidl.kernels.cpu.lanes import LANES
from minidl.kernels.cpu.layout import bias_row
from minidl.kernels.cpu.parallel import BLOCK_WORDS, call_packed
from minidl.kernels.cpu.plan import Geometry, IntArray, Phase, Source, Window
from minidl.kernels.cpu.pool import max_row, window_numbers, window_taps
from minidl.kernels.cpu.runtime import Kernel, kernel, launch, share
from minidl.kernels.cpu.simd import copy
from minidl.kernels.cpu.slab import chunk_range
from minidl.kernels.cpu.weights import kept_value, pack
from minidl.kernels.cpu.winograd import takes_winograd
from minidl.kernels.cpu.winograd_family import cut_forward
from minidl.kernels.reference import ReferenceBackend
from minidl.kernels.reference.checks import Array, Pad, Pair, expect_ndim, expect_pool, expect_shape
from minidl.kernels.reference.pool import MaxPool

Pooled = Callable[[Array], Array]  # of x: the maxima of its convolution
SCRATCH = 128 * 1024  # bytes of a chunk of the convolution's result, which stay in the L2 cache


@functools.cache
def pooled_kernel(kernel_h: int, kernel_w: int) -> Kernel:
    """Chunks of a gather convolution, and max pooling of its result in windows of kernel_h x kernel_w.

    Arguments of the kernel: the address of the gather's code; its arguments from the geometry to the bias, but for the
    first channel and row, which are 0; whether to apply ReLU; a scratch image per part; output channels; False, 0 and
    1, for the gather's code takes no constants; stride, top and left pad and dilation of the pooling windows, and how
    many there are; the flat output.
    """
    pool_row = max_row(kernel_h, kernel_w)

    @kernel(variant=f"{kernel_h}x{kernel_w}")
    def gather_pool(
        gather: int,
        g: Geometry,
        source: Any,
        slabs: Any,
        edges: Any,
        packed: Any,
        panel_rows: int,
        segments: IntArray,
        blocks: IntArray,
        bias: Any,
        relu: bool,
        scratch: Any,
        outputs: int,
        no: bool,
        zero: int,
        one: int,
        window: tuple[int, int, int, int, int, int],
        out_hw: tuple[int, int],
        y: Any,
        part: int,
        parts: int,
    ) -> None:
        stride_h, stride_w, top, left, dilation_h, dilation_w = window
        across = stride_w, left, dilation_w
        extent = (kernel_h - 1) * dilation_h + 1
        row = g.cols * outputs
        base = part * (extent - 1 + g.chunk_rows) * row
        words = np.empty(BLOCK_WORDS, np.int64)
        chunk_first, chunk_last = share(g.chunks, part, parts)
        lead = 1 if chunk_range(g, chunk_first)[2] > 0 else 0  # windows reach into the chunk before the first
        have = 0  # rows in the scratch image
        for chunk in range(chunk_first - lead, chunk_last):
            n, _, i, i_end, _, _ = chunk_range(g, chunk)
            # Windows from `first` to before `last` end in this chunk.
            first = min(max((i + top - extent) // stride_h + 1, 0), out_hw[0]) if i > 0 else 0
            last = min(max((i_end + top - extent) // stride_h + 1, 0), out_hw[0])
            if i_end == g.rows:
                last = out_hw[0]
            kept = max(i - max(first * stride_h - top, 0), 0)
            for r in range(kept if have > kept else 0):
                copy(scratch, base + r * row, scratch, base + (have - kept + r) * row, row)
            have = kept + i_end - i
            top_at = base + (kept - i) * row  # where row 0 of the image would be
            places = (top_at, zero, row, outputs)
            inputs = (g, source, zero, slabs, edges, packed, panel_rows, zero, segments, blocks)
            outcome = (bias, scratch, no, relu, scratch, outputs, places, no, one, part)
            call_packed(gather, words, inputs + outcome, chunk, g.chunks)
            for p in range(first, last if chunk >= chunk_first else first):
                h = p * stride_h - top
                low, high = window_taps(h, g.rows, kernel_h, dilation_h)
                taps = top_at + (h + low * dilation_h) * row, high - low, dilation_h * row
                pool_row(
                    scratch, taps, g.cols, outputs, across, y, (n * out_hw[0] + p) * out_hw[1], out_hw[1]
                )

    return gather_pool


@functools.lru_cache(maxsize=256)
def plan_pooled(
    source: Source, window: Window, outputs: int, pool: MaxPool, threads: int
) -> GatherPlan | None:
    """The plan of the convolution: chunks of whole rows of one image; None where there are none such."""
    pixels = max(1, SCRATCH // (outputs * source.itemsize))
    plan = plan_gather(source, window, outputs, False, 0, threads, most_pixels=pixels)
    g = plan.geometry
    extent = (pool[0][0] - 1) * pool[3][0] + 1
    if g.direct or g.chunk_images > 1 or g.chunk_cols < g.cols or g.chunk_rows < extent - 1:
        return None
    return plan


def prepare_pooled(
    call: Forward, w: Array, bias: Array | None, relu: bool, pool: MaxPool, kept: dict[Any, Any] | None
) -> Pooled | None:
    """The kernel's call for weight (O, KH, KW, C) and what is known beside; None where two kernels are better."""
    source, window, o = call.source, call.window, len(w)
    threads, dtype = get_num_threads(), w.dtype
    only, cut = (Phase(0, 0, window, call.taps),), cut_forward(source, window, o)
    if (
        (cut is not None and takes_winograd(cut, get_conv_algorithm(), kept is not None))
        or takes_indirect(source, only, o)
        or group_width(o, source.channels, 1, source.itemsize)
    ):
        return None
    plan = plan_pooled(source, window, o, pool, threads)
    if plan is None:
        return None
    panels = kept_value(kept, (0, plan.cols), lambda: pack(flat_taps(w, dtype), call.taps, False, plan.cols))
    g, out_hw, extent = plan.geometry, pool[4], (pool[0][0] - 1) * pool[3][0] + 1
    parts = 1 if plan.parts == 1 else min(threads, g.chunks)
    run, row = pooled_kernel(*pool[0]), bias_row(bias, plan.bias_size, dtype)
    any_array = np.empty(1, dtype)
    gather = plan.kernel.code(
        *(g, any_array, 0, any_array, any_array, panels.array, 0, 0, plan.segments, plan.blocks),
        *(row, any_array, False, relu, any_array, 0, (0, 0, 0, 0), False, 1, 0),
    )
    numbers = window_numbers(*pool[:4])[2:]
    scratch = parts * (extent - 1 + g.chunk_rows) * g.cols * o

    def pooled(x: Array) -> Array:
        y = memory.empty((source.images, *out_hw, o), dtype)
        launch(
            run,
            gather,
            g,
            operand(x, dtype).reshape(-1),
            memory.empty(max(1, parts * g.slab_size), dtype),
            memory.empty(parts * plan.tile_size, dtype),
            panels.array,
            panels.rows,
            plan.segments,
            plan.blocks,
            row,
            relu,
            memory.empty(scratch, dtype),
            o,
            *(False, 0, 1),
            numbers,
            out_hw,
            y.reshape(-1),
            parts=parts,
        )
        return y

    return pooled


class ConvPoolMixin(ReferenceBackend):
    """conv2d_max_pool2d."""

    def conv2d_max_pool2d(
        self,
        x: Array,
        w: Array,
        bias: Array | None,
        stride: Pair,
        pad: Pad,
        dilation: Pair,
        groups: int,
        pool: MaxPool,
        *,
        relu: bool = False,
        kept: dict[Any, Any] | None = None,
    ) -> Array:
        """See the reference. One kernel where the convolution is the gather of gather.py, else two."""
        name, place = "conv2d_max_pool2d", (stride, pad, dilation, groups)
        key = (name, x.shape, x.dtype, *place, pool, relu, get_num_threads(), get_conv_algorithm())
        known: tuple[Array | None, Pooled] | None = None if kept is None else kept.get(key)
        if known is not None and known[0] is bias:
            return known[1](x)
        expect_ndim(name, "x", x, 4)
        call = forward_of(name, x.shape, w.shape, *place, x.itemsize)
        if bias is not None:
            expect_shape(name, "bias", bias, w.shape[:1])
        expect_pool(name, call.out_hw, *pool)
        pooled = None
        if groups == 1 and x.dtype in FLOATS and w.dtype == x.dtype and x.size and w.size and len(w) >= LANES:
            pooled = prepare_pooled(call, w, bias, relu, pool, kept)
        if pooled is None:
            return super().conv2d_max_pool2d(x, w, bias, *place, pool, relu=relu, kept=kept)
        if kept is not None:
            kept[key] = bias, pooled
        return pooled(x)
