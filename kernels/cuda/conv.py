"""Convolution and its two gradients, launched: ``conv.cu``'s gather (see ``window.cuh``) and ``conv_weight.cu``."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.kernels.cuda import depthwise, tiling, tuning
from minidl.kernels.cuda.device import Device, blocks
from minidl.kernels.cuda.launch import (
    DIVISOR,
    copy_width,
    divisor,
    element,
    expect_int32,
    operand,
    struct,
)
from minidl.kernels.cuda.norm import merge_moments
from minidl.kernels.cuda.pack import flat_weight, pack_backward, pack_forward, pack_taps, pad_channels
from minidl.kernels.cuda.tiling import Tiling
from minidl.kernels.cuda.window import Axis, phases, pixel_place, window
from minidl.kernels.reference import ReferenceBackend
from minidl.kernels.reference.checks import Array, Pad, Pair, expect_conv, expect_ndim, expect_shape
from minidl.kernels.reference.conv import expect_epilogue


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
    statistics: list[Array] | None = None,
) -> None:
    """Launch ``conv2d``: x (N, H, W, C), packed w (O, taps, C / groups), rounded if :func:`in_tf32`, y written at
    ``place`` (origin, image pitch, row pitch, column pitch). Mean and variance of y's channels go to ``statistics``."""
    n, depth, outputs = len(x), x.shape[3] // groups, w.shape[0] // groups
    pixels = n * out[0] * out[1]
    expect_int32("conv2d", pixels=pixels, source_pixels=n * x.shape[1] * x.shape[2], weights=w.size)
    name = element(x)
    assert name is not None
    width = copy_width(x, depth)
    arithmetic = tiling.arithmetic(device, name)
    table = tiling.candidates(device, arithmetic, x.dtype.itemsize, width)
    wide = outputs % 4 == 0 and all(p % 4 == 0 for p in place)
    args = (
        x,
        w,
        bias,
        residual,
        y,
        window(*axes, out, n, depth, x.shape[3]),
        pixel_place(out, place),
        outputs,
        int(relu),
        int(wide),
    )

    def run(tile: Tiling) -> None:
        instance = f"conv2d<{name}, {tile.arithmetic(arithmetic)}, {tile.arguments()}, {width}>"
        tiles = -(-pixels // tile.bm) * -(-outputs // tile.bn)
        expect_int32("conv2d", tiles=tiles)
        kernel = device.compile("conv.cu", instances=[instance])[instance]
        channels, slabs = groups * outputs, -(-pixels // tile.bm)
        moments: Any = None if statistics is None else device.empty((slabs, 2, channels), np.float32)
        device.launch(kernel, (tiles, 1, groups), tile.threads, (*args, moments), tile.shared_bytes)
        if statistics is not None:
            statistics[:] = merge_moments(device, moments, pixels, channels, tile.bm)

    default = tiling.choose(device, table, pixels, outputs, groups, splits=False)
    key = f"conv2d {name} {arithmetic} {x.shape} {w.shape} {groups} {axes} {out}"
    run(tuning.pick(device, key, default, table, run))


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
    width = copy_width(x, depth, outputs)
    arithmetic = tiling.arithmetic(device, name)
    table = tiling.candidates(device, arithmetic, x.dtype.itemsize, width, across=True)
    place = window(*axes, (oh, ow), n, depth, x.shape[3])
    sizes = struct(DIVISOR, *divisor(depth)), struct(DIVISOR, *divisor(taps))

    def run(tile: Tiling) -> None:
        tiles = -(-outputs // tile.bm) * -(-columns // tile.bn)
        splits, each = tiling.split(device, tile, tiles * groups, pixels, gy.dtype.itemsize)
        partial = device.empty((splits, o, columns), np.float32)
        instance = f"conv2d_weight<{name}, {tile.arithmetic(arithmetic)}, {tile.arguments()}, {width}>"
        kernel = device.compile("conv_weight.cu", instances=[instance])[instance]
        args = (gy, x, partial, place, outputs, each)
        device.launch(kernel, (tiles, splits, groups), tile.threads, args, tile.shared_bytes)
        add = f"add_weight_splits<{name}>"
        kernel = device.compile("conv_weight.cu", instances=[add])[add]
        device.launch(kernel, blocks(gw.size, 256), 256, (partial, gw, splits, gw.size, *sizes))

    default = tiling.choose(device, table, outputs, columns, groups, splits=True)
    key = f"conv2d_weight {name} {arithmetic} {gy.shape} {x.shape} {groups} {axes}"
    run(tuning.pick(device, key, default, table, run))


def in_tf32(device: Device, x: Array) -> bool:
    """Whether the factors are rounded to tf32: weights are, when they are packed."""
    return str(x.dtype) == "float32" and tiling.arithmetic(device, "float") == "TENSOR"


def padded(channels: int, groups: int) -> int:
    """The channels that an image is read with: 3 become 4 (a first layer's), 7 become 8, so that copies are wider. One
    more channel costs a small pass over the image, and a third more products at most."""
    return channels + 1 if groups == 1 and channels % 4 == 3 else channels


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
        statistics: list[Array] | None = None,
    ) -> Array:
        """Cross-correlation of x (N, H, W, C) with w (O, KH, KW, C/groups), plus bias (O,), plus residual
        (N, OH, OW, O): y (N, OH, OW, O).

        relu=True ends in max(y, 0), NaN stays NaN. kept: a dictionary that stays with w and bias as long as their
        values do; both are kept there as kernels read them. statistics: a list that gets mean and variance of y's
        channels, computed along; it stays empty where no kernel does that. Half types add up in float32; bias and
        residual are rounded to x's dtype. Raises ValueError when shapes do not fit together.
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
            residual = None if residual is None else operand(device, residual, x.dtype)
            place = (0, out[0] * out[1] * o, out[1] * o, o)
            x, kept = operand(device, x), {} if kept is None else kept
            if bias is not None:  # a fused network's is float32
                if (device.name, "bias") not in kept:
                    kept[device.name, "bias"] = operand(device, bias, x.dtype)
                bias = kept[device.name, "bias"]
            if depthwise.is_depthwise(o, w.shape[3], groups):
                if device.name not in kept:
                    kept[device.name] = pack_taps(device, flat_weight(device, w), (0, 1, kh), (0, 1, kw))
                depthwise.gather(device, x, kept[device.name], bias, residual, y, axes, out, place, relu)
                return y
            channels = padded(c, groups)
            tf32 = in_tf32(device, x)
            if (device.name, tf32) not in kept:
                kept[device.name, tf32] = pack_forward(device, w, max(w.shape[3], channels // groups), tf32)
            x = pad_channels(device, x, channels)
            packed = kept[device.name, tf32]
            gather(device, x, packed, bias, residual, y, axes, out, place, groups, relu, statistics)
        return y

    def conv2d_input_grad(
        self,
        gy: Array,
        w: Array,
        input_hw: Pair,
        stride: Pair,
        pad: Pad,
        dilation: Pair,
        groups: int,
        *,
        bias: Array | None = None,
        relu: bool = False,
        residual: Array | None = None,
    ) -> Array:
        """Gradient of conv2d by x: gy (N, OH, OW, O), w (O, KH, KW, C/groups) -> gx (N, H, W, C).

        One launch for each phase of the stride: the pixels of a phase take the same taps. bias (C,), residual
        (N, H, W, C) and relu work as in conv2d.
        """
        expect_ndim("conv2d_input_grad", "gy", gy, 4)
        expect_ndim("conv2d_input_grad", "w", w, 4)
        n, c = len(gy), w.shape[3] * groups
        o, kh, kw, _ = w.shape
        out = expect_conv("conv2d_input_grad", c, w.shape, groups, input_hw, stride, pad, dilation)
        expect_shape("conv2d_input_grad", "gy", gy, (n, *out, o))
        h, width = input_hw
        expect_epilogue("conv2d_input_grad", (n, h, width, c), bias, residual)
        down = phases(h, out[0], kh, stride[0], pad[0][0], dilation[0])
        across = phases(width, out[1], kw, stride[1], pad[1][0], dilation[1])
        fits = all(p.axis.fits(p.count) for p in (*down, *across))
        if element(gy) is None or not w.size or not fits:
            rest: dict[str, Any] = {"bias": bias, "relu": relu, "residual": residual}
            return super().conv2d_input_grad(gy, w, input_hw, stride, pad, dilation, groups, **rest)
        device = self.device
        gx = device.empty((n, h, width, c), gy.dtype)
        if not gx.size:
            return gx
        gy, flat = operand(device, gy), flat_weight(device, w)
        bias = None if bias is None else operand(device, bias, gy.dtype)
        residual = None if residual is None else operand(device, residual, gy.dtype)
        for row in down:
            for col in across:
                place = (
                    (row.phase * width + col.phase) * c,
                    h * width * c,
                    stride[0] * width * c,
                    stride[1] * c,
                )
                counts = (row.count, col.count)
                axes = (row.axis, col.axis)
                if depthwise.is_depthwise(o, w.shape[3], groups):
                    packed = pack_taps(device, flat, row.taps, col.taps)
                    depthwise.gather(device, gy, packed, bias, residual, gx, axes, counts, place, relu)
                    continue
                packed = pack_backward(device, flat, groups, row.taps, col.taps, in_tf32(device, gy))
                packed = packed.reshape(c, -1, o // groups)
                gather(device, gy, packed, bias, residual, gx, axes, counts, place, groups, relu)
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
        gy, x = operand(device, gy), operand(device, x)
        channels = max(depth, padded(c, groups) // groups)
        gw = device.empty((o, channels, kh, kw), gy.dtype)
        if depthwise.is_depthwise(o, depth, groups):
            depthwise.weight_gradient(device, gy, x, axes, gw)
        else:
            weight_gradient(device, gy, pad_channels(device, x, channels * groups), axes, gw, groups)
        if channels != depth:
            gw = device.xp.ascontiguousarray(gw[:, :depth])
        return gw.transpose(0, 2, 3, 1)
