"""Convolution and its gradients on the CPU: plans them, packs weights, launches the kernels."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from minidl.kernels import get_num_threads
from minidl.kernels.cpu import memory, simd
from minidl.kernels.cpu.gather import gather_kernel, pack_weight
from minidl.kernels.cpu.plan import (
    DEPTH_BLOCK,
    GATHER_SLAB,
    Geometry,
    IntArray,
    Source,
    TileShape,
    Window,
    ceil_div,
    depth_blocks,
    flatten,
    geometry,
    is_plain,
    runs,
    tile_shapes,
)
from minidl.kernels.cpu.runtime import launch
from minidl.kernels.reference.checks import Array, Pad, Pair, expect_conv, expect_ndim, expect_shape


class GatherPlan(NamedTuple):
    geometry: Geometry
    shape: TileShape
    segments: IntArray
    blocks: IntArray
    panel_parts: int
    chunk_parts: int


@functools.lru_cache(maxsize=1024)
def plan_gather(source: Source, window: Window, outputs: int, threads: int) -> GatherPlan:
    """Choose tile, chunks and reduction blocks of a gather convolution by the share of useful arithmetic."""
    lanes = simd.target().float_lanes * 4 // source.itemsize
    best: tuple[float, GatherPlan] | None = None
    for shape in tile_shapes():
        for linear in (False, True):
            g = geometry(source, window, GATHER_SLAB, 1 << 16, shape.rows, linear, threads)
            if g.linear != linear:
                continue
            if g.linear:
                length = (g.chunk_rows - 1) * (g.a_row // g.a_col) + g.cols
                useful = g.chunk_rows * g.cols / (ceil_div(length, shape.rows) * shape.rows)
            else:
                useful = g.chunk_cols / (ceil_div(g.chunk_cols, shape.rows) * shape.rows)
            width = shape.vectors * lanes
            useful *= outputs / (ceil_div(outputs, width) * width)
            if best is None or useful * shape.speed > best[0]:
                segments, blocks = depth_blocks(runs(g, window), DEPTH_BLOCK)
                panels = ceil_div(outputs, width)
                panel_parts = 1
                if g.chunks < 2 * threads and g.chunks % threads:
                    panel_parts = min(threads, panels)
                plan = GatherPlan(g, shape, segments, blocks, panel_parts, max(1, threads // panel_parts))
                best = (useful * shape.speed, plan)
    assert best is not None
    return best[1]


def gather(
    source_array: Array,
    channel: int,
    source: Source,
    window: Window,
    w: Array,
    taps: IntArray,
    bias: Array | None,
    relu: bool,
    out: Array,
    places: tuple[int, int, int, int],
) -> None:
    """Run one gather convolution.

    Args:
        source_array: C-contiguous images.
        channel: first channel of the source to read.
        w: (outputs, KH, KW, channels) of any strides.
        taps: (kh, kw) of each tap of the window, in its order.
        out: C-contiguous; the rest of it is left alone.
        places: element of out of grid position (0, 0, 0), and elements per image, row and column.
    """
    outputs = w.shape[0]
    if is_plain(source, window) and places[1:] == (
        window.rows * places[2],
        window.cols * places[3],
        places[3],
    ):
        source, window = flatten(source, window)
    plan = plan_gather(source, window, outputs, get_num_threads())
    g, dtype = plan.geometry, out.dtype
    tile = simd.tile(dtype.name, plan.shape.rows, plan.shape.vectors)
    panels = ceil_div(outputs, tile.cols)
    depth = len(taps) * source.channels
    packed = memory.empty(panels * depth * tile.cols, dtype)
    launch(pack_weight, w, taps, tile.cols, packed, work=packed.size)
    row = np.zeros(panels * tile.cols, dtype)
    if bias is not None:
        row[:outputs] = bias
    parts = plan.panel_parts * plan.chunk_parts
    work = g.images * g.rows * g.cols * depth * outputs
    panel_parts = plan.panel_parts
    if work < 32 * 16384:
        parts = panel_parts = 1
    slabs = memory.empty(max(1, parts * g.slab_size), dtype)
    kernel = gather_kernel(dtype.name, plan.shape.rows, plan.shape.vectors)
    launch(
        kernel,
        g,
        source_array.reshape(-1),
        channel,
        slabs,
        packed,
        plan.segments,
        plan.blocks,
        row,
        relu,
        out.reshape(-1),
        outputs,
        places,
        panel_parts,
        parts=parts,
    )


@functools.lru_cache(maxsize=1024)
def tap_table(taps: tuple[Pair, ...]) -> IntArray:
    return np.array(taps, np.int64).reshape(-1, 2)


@functools.lru_cache(maxsize=1024)
def gradient_phase(
    phase: Pair, input_hw: Pair, kernel_hw: Pair, stride: Pair, top_left: Pair, dilation: Pair
) -> tuple[Window, tuple[Pair, ...]] | None:
    """The input pixels (stride*i + phase) as outputs of a gather of stride 1 over gy.

    y[p] takes x[p*stride - pad + k*dilation] times w[k], so x[stride*i + phase] goes to p = i + (phase +
    pad - k*dilation) / stride for each tap k for which that is whole.

    Returns:
        The window and its taps (kh, kw) in order; None where no tap reaches these pixels.
    """
    reached: list[list[tuple[int, int]]] = []
    for axis in (0, 1):
        steps = []
        for k in range(kernel_hw[axis]):
            distance = phase[axis] + top_left[axis] - k * dilation[axis]
            if distance % stride[axis] == 0:
                steps.append((distance // stride[axis], k))
        reached.append(sorted(steps))
    down, across = reached
    if not down or not across:
        return None
    rows, cols = (ceil_div(input_hw[a] - phase[a], stride[a]) for a in (0, 1))
    first_r, first_c = down[0][0], across[0][0]
    taps = tuple((r - first_r, c - first_c) for r, _ in down for c, _ in across)
    kernel_taps = tuple((kh, kw) for _, kh in down for _, kw in across)
    return Window(rows, cols, 1, 1, -first_r, -first_c, taps), kernel_taps


class ConvMixin:
    """conv2d and its two gradients."""

    def conv2d(
        self,
        x: Array,
        w: Array,
        bias: Array | None,
        stride: Pair,
        pad: Pad,
        dilation: Pair,
        groups: int,
        *,
        relu: bool = False,
    ) -> Array:
        """Cross-correlation of x (N, H, W, C) with w (O, KH, KW, C/groups), plus bias (O,): y (N, OH, OW, O).

        relu=True ends in max(y, 0), NaN stays NaN. Raises ValueError when shapes do not fit together.
        """
        expect_ndim("conv2d", "x", x, 4)
        n, h, width, c = x.shape
        oh, ow = expect_conv("conv2d", c, w.shape, groups, (h, width), stride, pad, dilation)
        o, kh, kw, depth = w.shape
        if bias is not None:
            expect_shape("conv2d", "bias", bias, (o,))
        x = np.ascontiguousarray(x)
        w = w.astype(x.dtype, copy=False)
        y = memory.empty((n, oh, ow, o), x.dtype)
        source = Source(n, h, width, c, depth, x.dtype.itemsize)
        grid = tuple((r, s) for r in range(kh) for s in range(kw))
        taps = tuple((r * dilation[0], s * dilation[1]) for r, s in grid)
        window = Window(oh, ow, *stride, pad[0][0], pad[1][0], taps)
        per = o // groups
        for group in range(groups if y.size else 0):
            outputs = slice(group * per, (group + 1) * per)
            group_bias = None if bias is None else bias[outputs]
            places = (group * per, oh * ow * o, ow * o, o)
            gather(x, group * depth, source, window, w[outputs], tap_table(grid), group_bias, relu, y, places)
        return y

    def conv2d_input_grad(
        self, gy: Array, w: Array, input_hw: Pair, stride: Pair, pad: Pad, dilation: Pair, groups: int
    ) -> Array:
        """Gradient of conv2d by x: gy (N, OH, OW, O), w (O, KH, KW, C/groups) -> gx (N, H, W, C)."""
        expect_ndim("conv2d_input_grad", "gy", gy, 4)
        expect_ndim("conv2d_input_grad", "w", w, 4)
        n, o, per_c = gy.shape[0], w.shape[0], w.shape[3]
        c = per_c * groups
        oh, ow = expect_conv("conv2d_input_grad", c, w.shape, groups, input_hw, stride, pad, dilation)
        expect_shape("conv2d_input_grad", "gy", gy, (n, oh, ow, o))
        gy = np.ascontiguousarray(gy)
        w = w.astype(gy.dtype, copy=False)
        h, width = input_hw
        gx = memory.empty((n, h, width, c), gy.dtype)
        if not gx.size:
            return gx
        per_o = o // groups
        source = Source(n, oh, ow, o, per_o, gy.dtype.itemsize)
        top_left = (pad[0][0], pad[1][0])
        for phase in [(a, b) for a in range(min(stride[0], h)) for b in range(min(stride[1], width))]:
            found = gradient_phase(phase, input_hw, w.shape[1:3], stride, top_left, dilation)
            if found is None:
                gx[:, phase[0] :: stride[0], phase[1] :: stride[1]] = 0
                continue
            window, taps = found
            for group in range(groups):
                swapped = w[group * per_o : (group + 1) * per_o].transpose(3, 1, 2, 0)
                base = (phase[0] * width + phase[1]) * c + group * per_c
                places = (base, h * width * c, stride[0] * width * c, stride[1] * c)
                gather(gy, group * per_o, source, window, swapped, tap_table(taps), None, False, gx, places)
        return gx
