"""Convolution and its two gradients, launched: ``conv.cu``'s gather (see ``window.cuh``) and ``conv_weight.cu``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.kernels.cuda import tiling
from minidl.kernels.cuda.device import Device, blocks
from minidl.kernels.cuda.launch import (
    DIVISOR,
    divisor,
    element,
    expect_int32,
    operand,
    piece,
    struct,
)
from minidl.kernels.cuda.pack import flat_weight, pack_backward, pack_forward
from minidl.kernels.reference import ReferenceBackend
from minidl.kernels.reference.checks import Array, Pad, Pair, expect_conv, expect_ndim, expect_shape

AXIS = np.dtype([(name, "i4") for name in ("size", "step", "first", "tap", "taps")])
WINDOW = np.dtype(
    [("h", AXIS), ("w", AXIS), ("area", DIVISOR), ("columns", DIVISOR)]
    + [(name, "i4") for name in ("pixels", "channels", "pitch")]
)
PIXEL_PLACE = np.dtype(
    [("area", DIVISOR), ("columns", DIVISOR)]
    + [(name, "i8") for name in ("origin", "image_pitch", "row_pitch", "column_pitch")],
    align=True,
)
CORNER_LIMIT = 1 << 15
"""A window's corner is kept as two 16-bit numbers."""


@dataclass(frozen=True)
class Axis:
    """One axis of a gather: source = step * i + first + tap * r for r < taps, and sources run to ``size``."""

    size: int
    step: int
    first: int
    tap: int
    taps: int

    def fields(self) -> tuple[int, ...]:
        return self.size, self.step, self.first, self.tap, self.taps

    def fits(self, outputs: int) -> bool:
        """Whether every corner of ``outputs`` windows, and their taps, are 16-bit numbers."""
        corners = (self.first, self.first + self.step * max(outputs - 1, 0))
        reach = abs(self.tap) * max(self.taps - 1, 0)
        return max(abs(c) for c in corners) + reach < CORNER_LIMIT and self.size < CORNER_LIMIT


@dataclass(frozen=True)
class Phase:
    """Those positions phase, phase + stride, ... of an axis that take the same taps: the gather over the output
    gradient, how many positions there are, and which taps of the weight (first, step, count)."""

    phase: int
    count: int
    axis: Axis
    taps: tuple[int, int, int]


def phases(size: int, out: int, kernel: int, stride: int, pad: int, dilation: int) -> list[Phase]:
    """The input gradient along one axis.

    Position p takes gy[(p + pad - k * dilation) / stride] for those taps k for which that is whole. For p = stride * i
    + phase they are every (stride / gcd)-th tap, and each lies dilation / gcd further back: gcd of stride and dilation.
    """
    common = math.gcd(stride, dilation)
    every, back = stride // common, dilation // common
    found = []
    for phase in range(min(stride, size)):
        taps = [k for k in range(kernel) if (phase + pad - k * dilation) % stride == 0]
        first = (phase + pad - taps[0] * dilation) // stride if taps else 0
        axis = Axis(out, 1, first, -back, len(taps))
        start = taps[0] if taps else 0
        found.append(Phase(phase, -(-(size - phase) // stride), axis, (start, every, len(taps))))
    return found


def window(h: Axis, w: Axis, out: Pair, images: int, channels: int, pitch: int) -> np.ndarray:
    """The struct of window.cuh for ``images`` images of ``out`` positions."""
    area = out[0] * out[1]
    return struct(
        WINDOW,
        h.fields(),
        w.fields(),
        divisor(area),
        divisor(out[1]),
        images * area,
        channels,
        pitch,
    )


def gather(
    device: Device,
    x: Array,
    w: Array,
    bias: Array | None,
    residual: Array | None,
    y: Array,
    axes: tuple[Axis, Axis],
    out: Pair,
    place: tuple[int, int, int, int],
    groups: int,
    relu: bool,
) -> None:
    """Launch ``conv2d``: x (N, H, W, C), packed w (O, taps, C / groups), y written at ``place`` (origin, image pitch,
    row pitch, column pitch)."""
    n, depth, outputs = len(x), x.shape[3] // groups, w.shape[0] // groups
    pixels = n * out[0] * out[1]
    expect_int32("conv2d", pixels=pixels, source_pixels=n * x.shape[1] * x.shape[2], weights=w.size)
    name = element(x)
    assert name is not None
    aligned = depth % piece(x) == 0
    arithmetic = tiling.arithmetic(device, name)
    tile = tiling.choose(device, arithmetic, pixels, outputs, groups, aligned)
    instance = f"conv2d<{name}, {arithmetic}, {tile.arguments()}, {piece(x) if aligned else 1}>"
    wide = outputs % 4 == 0 and all(p % 4 == 0 for p in place)
    args = (
        x,
        w,
        bias,
        residual,
        y,
        window(*axes, out, n, depth, x.shape[3]),
        struct(PIXEL_PLACE, divisor(out[0] * out[1]), divisor(out[1]), *place),
        outputs,
        int(relu),
        int(wide),
    )
    tiles = -(-pixels // tile.bm) * -(-outputs // tile.bn)
    expect_int32("conv2d", tiles=tiles)
    kernel = device.compile("conv.cu", instances=[instance])[instance]
    device.launch(kernel, (tiles, 1, groups), tile.threads, args, tile.shared_bytes)


def weight_gradient(
    device: Device,
    gy: Array,
    x: Array,
    axes: tuple[Axis, Axis],
    gw: Array,
    groups: int,
) -> None:
    """Launch ``conv2d_weight`` and add up its splits: gy (N, OH, OW, O), x (N, H, W, C), gw (O, C/groups, KH, KW)."""
    n, oh, ow, o = gy.shape
    outputs, depth = o // groups, x.shape[3] // groups
    taps = axes[0].taps * axes[1].taps
    columns, pixels = depth * taps, n * oh * ow
    expect_int32(
        "conv2d_weight_grad", pixels=pixels, source_pixels=n * x.shape[1] * x.shape[2], weights=gw.size
    )
    name = element(gy)
    assert name is not None
    aligned = depth % piece(x) == 0 and outputs % piece(x) == 0
    arithmetic = tiling.arithmetic(device, name)
    tile = tiling.choose(device, arithmetic, outputs, columns, groups, aligned, wide_across=name == "float")
    tiles = -(-outputs // tile.bm) * -(-columns // tile.bn)
    splits, each = tiling.split(device, tile, tiles * groups, pixels, gy.dtype.itemsize)
    partial = device.empty((splits, o, columns), np.float32)
    instance = f"conv2d_weight<{name}, {arithmetic}, {tile.arguments()}, {piece(x) if aligned else 1}>"
    total = f"add_weight_splits<{name}>"
    module = device.compile("conv_weight.cu", instances=[instance])
    place = window(*axes, (oh, ow), n, depth, x.shape[3])
    args = (gy, x, partial, place, outputs, each)
    device.launch(module[instance], (tiles, splits, groups), tile.threads, args, tile.shared_bytes)
    module = device.compile("conv_weight.cu", instances=[total])
    sizes = struct(DIVISOR, *divisor(depth)), struct(DIVISOR, *divisor(taps))
    device.launch(module[total], blocks(gw.size, 256), 256, (partial, gw, splits, gw.size, *sizes))


class ConvMixin(ReferenceBackend):
    """conv2d and its two gradients."""

    device: Device

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
        residual: Array | None = None,
        kept: dict[Any, Any] | None = None,
    ) -> Array:
        """Cross-correlation of x (N, H, W, C) with w (O, KH, KW, C/groups), plus bias (O,), plus residual
        (N, OH, OW, O): y (N, OH, OW, O).

        relu=True ends in max(y, 0), NaN stays NaN. kept: a dictionary that stays with w as long as its values do; the
        packed weight is kept there. Half types add up in float32. Raises ValueError when shapes do not fit together.
        """
        expect_ndim("conv2d", "x", x, 4)
        n, h, width, c = x.shape
        o, kh, kw, _ = w.shape
        out = expect_conv("conv2d", c, w.shape, groups, (h, width), stride, pad, dilation)
        if bias is not None:
            expect_shape("conv2d", "bias", bias, (o,))
        if residual is not None:
            expect_shape("conv2d", "residual", residual, (n, *out, o))
        axes = (
            Axis(h, stride[0], -pad[0][0], dilation[0], kh),
            Axis(width, stride[1], -pad[1][0], dilation[1], kw),
        )
        if element(x) is None or not w.size or not (axes[0].fits(out[0]) and axes[1].fits(out[1])):
            return super().conv2d(
                x, w, bias, stride, pad, dilation, groups, relu=relu, residual=residual, kept=kept
            )
        device = self.device
        y = device.empty((n, *out, o), x.dtype)
        if y.size:
            bias = None if bias is None else operand(device, bias)
            residual = None if residual is None else operand(device, residual)
            place = (0, out[0] * out[1] * o, out[1] * o, o)
            kept = {} if kept is None else kept
            if device.name not in kept:
                kept[device.name] = pack_forward(device, w)
            packed = kept[device.name]
            gather(device, operand(device, x), packed, bias, residual, y, axes, out, place, groups, relu)
        return y

    def conv2d_input_grad(
        self, gy: Array, w: Array, input_hw: Pair, stride: Pair, pad: Pad, dilation: Pair, groups: int
    ) -> Array:
        """Gradient of conv2d by x: gy (N, OH, OW, O), w (O, KH, KW, C/groups) -> gx (N, H, W, C).

        One launch for each phase of the stride: the pixels of a phase take the same taps.
        """
        expect_ndim("conv2d_input_grad", "gy", gy, 4)
        expect_ndim("conv2d_input_grad", "w", w, 4)
        n, c = len(gy), w.shape[3] * groups
        o, kh, kw, _ = w.shape
        out = expect_conv("conv2d_input_grad", c, w.shape, groups, input_hw, stride, pad, dilation)
        expect_shape("conv2d_input_grad", "gy", gy, (n, *out, o))
        h, width = input_hw
        down = phases(h, out[0], kh, stride[0], pad[0][0], dilation[0])
        across = phases(width, out[1], kw, stride[1], pad[1][0], dilation[1])
        fits = all(p.axis.fits(p.count) for p in (*down, *across))
        if element(gy) is None or not w.size or not fits:
            return super().conv2d_input_grad(gy, w, input_hw, stride, pad, dilation, groups)
        device = self.device
        gx = device.empty((n, h, width, c), gy.dtype)
        if not gx.size:
            return gx
        gy, flat = operand(device, gy), flat_weight(device, w)
        for row in down:
            for col in across:
                packed = pack_backward(device, flat, groups, row.taps, col.taps)
                packed = packed.reshape(c, -1, o // groups)
                place = (
                    (row.phase * width + col.phase) * c,
                    h * width * c,
                    stride[0] * width * c,
                    stride[1] * c,
                )
                counts = (row.count, col.count)
                gather(device, gy, packed, None, None, gx, (row.axis, col.axis), counts, place, groups, False)
        return gx

    def conv2d_weight_grad(
        self, gy: Array, x: Array, kernel_hw: Pair, stride: Pair, pad: Pad, dilation: Pair, groups: int
    ) -> Array:
        """Gradient of conv2d by w: gy (N, OH, OW, O), x (N, H, W, C) -> gw (O, KH, KW, C/groups).

        The result lies in memory as (O, C/groups, KH, KW), like the weight it belongs to.
        """
        expect_ndim("conv2d_weight_grad", "x", x, 4)
        expect_ndim("conv2d_weight_grad", "gy", gy, 4)
        n, h, width, c = x.shape
        o, (kh, kw), depth = gy.shape[3], kernel_hw, c // max(groups, 1)
        w_shape = (o, kh, kw, depth)
        out = expect_conv("conv2d_weight_grad", c, w_shape, groups, (h, width), stride, pad, dilation)
        expect_shape("conv2d_weight_grad", "gy", gy, (n, *out, o))
        if element(gy) is None or not gy.size or not x.size:
            return super().conv2d_weight_grad(gy, x, kernel_hw, stride, pad, dilation, groups)
        device = self.device
        axes = (
            Axis(h, stride[0], -pad[0][0], dilation[0], kh),
            Axis(width, stride[1], -pad[1][0], dilation[1], kw),
        )
        gw = device.empty((o, depth, kh, kw), gy.dtype)
        weight_gradient(device, operand(device, gy), operand(device, x), axes, gw, groups)
        return gw.transpose(0, 2, 3, 1)
