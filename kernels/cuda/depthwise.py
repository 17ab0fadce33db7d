"""Depthwise convolution, launched: as many groups as channels, one output channel for each."""

from __future__ import annotations

import numpy as np

from minidl.kernels.cuda.device import Device, blocks
from minidl.kernels.cuda.launch import DIVISOR, copy_width, divisor, element, expect_int32, struct
from minidl.kernels.cuda.window import Axis, pixel_place, window
from minidl.kernels.reference.checks import Array, Pair

RUN = 4
"""Pixels of a thread (depthwise.cu)."""


def is_depthwise(outputs: int, depth: int, groups: int) -> bool:
    """Whether each output channel is made of one input channel of its own."""
    return outputs == groups > 1 and depth == 1


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
    relu: bool,
) -> None:
    """Launch ``depthwise``: x (N, H, W, C), w packed as (taps, C), y written at ``place`` (see conv.gather)."""
    n, _, _, channels = x.shape
    pixels = n * out[0] * out[1]
    vec = min(copy_width(x, channels), 4)
    lanes = channels // vec
    threads = lanes * -(-pixels // RUN)
    expect_int32("conv2d", pixels=pixels, source_pixels=n * x.shape[1] * x.shape[2], threads=threads)
    instance = f"depthwise<{element(x)}, {vec}>"
    kernel = device.compile("depthwise.cu", instances=[instance])[instance]
    args = (
        *(x, w, bias, residual, y),
        window(*axes, out, n, channels, channels),
        pixel_place(out, place),
        struct(DIVISOR, *divisor(lanes)),
        threads,
        int(relu),
    )
    device.launch(kernel, blocks(threads, 256), 256, args)


def weight_gradient(device: Device, gy: Array, x: Array, axes: tuple[Axis, Axis], gw: Array) -> None:
    """Launch ``depthwise_weight`` and add up its slabs: gy (N, OH, OW, C), x (N, H, W, C), gw (C, 1, KH, KW)."""
    n, oh, ow, channels = gy.shape
    pixels, taps = n * oh * ow, axes[0].taps * axes[1].taps
    expect_int32("conv2d_weight_grad", pixels=pixels, source_pixels=n * x.shape[1] * x.shape[2])
    vec = min(copy_width(x, channels), 4)
    across = 1
    while across < 32 and across * vec < channels:
        across *= 2
    tiles = blocks(channels, across * vec)
    slabs = max(min(8 * device.multiprocessors // (tiles * taps), pixels * across // 1024, 65535), 1)
    height = -(-pixels // slabs)
    slabs = -(-pixels // height)
    partial = device.empty((slabs, taps, channels), np.float32)
    instance = f"depthwise_weight<{element(x)}, {vec}>"
    kernel = device.compile("depthwise.cu", instances=[instance])[instance]
    place = window(*axes, (oh, ow), n, channels, channels)
    device.launch(kernel, (tiles, slabs, taps), 256, (gy, x, partial, place, across, height))
    add = f"add_weight_splits<{element(x)}>"
    kernel = device.compile("conv_weight.cu", instances=[add])[add]
    sizes = struct(DIVISOR, *divisor(channels)), struct(DIVISOR, *divisor(taps))
    device.launch(kernel, blocks(gw.size, 256), 256, (partial, gw, slabs, gw.size, *sizes))
