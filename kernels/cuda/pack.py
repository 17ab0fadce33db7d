"""Weights in the order that the matrix kernels read."""

from __future__ import annotations

import numpy as np

from minidl.kernels.cuda.device import Device, blocks
from minidl.kernels.cuda.launch import DIVISOR, divisor, element, expect_int32, struct, total
from minidl.kernels.reference.checks import Array

ORDER = np.dtype(
    [(f"size{i}", DIVISOR) for i in range(1, 5)]
    + [("limit", "i4"), ("origin", "i8"), *((f"stride{i}", "i8") for i in range(5))],
    align=True,
)


def permute(
    device: Device,
    source: Array,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    origin: int = 0,
    limit: int | None = None,
    tf32: bool = False,
) -> Array:
    """A contiguous array of ``shape`` (5 axes) whose element i is source[origin + sum of i * strides], both counted in
    elements of ``source``, which must be C-contiguous. From ``limit`` on, the last axis is zeros. ``tf32``: rounded."""
    y = device.empty(shape, source.dtype)
    count = total(shape)
    if count:
        expect_int32("permute", elements=count)
        instance = "permute<float, true>" if tf32 else f"permute<{element(source)}>"
        kernel = device.compile("pack.cu", instances=[instance])[instance]
        order = struct(
            ORDER, *(divisor(s) for s in shape[1:]), shape[4] if limit is None else limit, origin, *strides
        )
        device.launch(kernel, blocks(count, 256), 256, (source, y, order, count))
    return y


def flat_weight(device: Device, w: Array) -> Array:
    """w (O, KH, KW, C) as it lies in memory where it is PyTorch's (O, C, KH, KW): contiguous, without a copy then."""
    return device.xp.ascontiguousarray(w.transpose(0, 3, 1, 2))


def pack_forward(device: Device, w: Array, channels: int, tf32: bool) -> Array:
    """w (O, KH, KW, C) in that order in memory, with zeros up to ``channels``; ``tf32``: rounded."""
    o, kh, kw, c = w.shape
    if w.flags.c_contiguous and channels == c and not tf32:
        return w
    taps = kh * kw
    strides = (0, c * taps, kw, 1, taps)
    packed = permute(device, flat_weight(device, w), (1, o, kh, kw, channels), strides, 0, c, tf32)
    return packed.reshape(o, kh, kw, channels)


def pad_channels(device: Device, x: Array, channels: int) -> Array:
    """x (N, H, W, C) with zeros up to ``channels``."""
    n, h, w, c = x.shape
    if channels == c:
        return x
    padded = permute(device, x, (1, 1, 1, n * h * w, channels), (0, 0, 0, c, 1), 0, c)
    return padded.reshape(n, h, w, channels)


def pack_taps(device: Device, flat: Array, rows: tuple[int, int, int], cols: tuple[int, int, int]) -> Array:
    """The taps (first, step, count) of rows and columns of a depthwise weight: (taps down, taps across, C) from flat
    (C, 1, KH, KW)."""
    c, _, kh, kw = flat.shape
    shape, strides = (1, 1, rows[2], cols[2], c), (0, 0, rows[1] * kw, cols[1], kh * kw)
    return permute(device, flat, shape, strides, rows[0] * kw + cols[0])


def pack_backward(
    device: Device,
    flat: Array,
    groups: int,
    rows: tuple[int, int, int],
    cols: tuple[int, int, int],
    tf32: bool,
) -> Array:
    """The taps (first, step, count) of rows and columns of a weight, for a convolution of the output gradient:
    (groups, C, taps down, taps across, O / groups) from flat (O, C, KH, KW); ``tf32``: rounded."""
    o, c, kh, kw = flat.shape
    image = kh * kw
    shape = (groups * c, rows[2], cols[2], o // groups)
    per_group = o // groups * c * image
    return permute(
        device,
        flat,
        (groups, c, *shape[1:]),
        (per_group, image, rows[1] * kw, cols[1], c * image),
        rows[0] * kw + cols[0],
        tf32=tf32,
    )
