"""Convolution and matrix product of bfloat16 arrays: the float32 kernels, on pairs of channels.

Two bfloat16 numbers that are neighbours in the reduction are one 32-bit element. With elements of pairs, a
bfloat16 convolution of C channels is a gather of C/2 elements (`gather.py`), laid out and cut like any other;
only the micro-kernel differs, which multiplies both halves and adds both products to a float32 sum
(`simd.py`). Sums are float32 from the first product to the last, then bias, residual and ReLU, and one
rounding to bfloat16. A number of channels that is odd is made even with a zero.

The weight gradient reduces over pixels, which are not neighbours in memory; it runs in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.kernels import get_num_threads
from minidl.kernels.cpu import memory
from minidl.kernels.cpu.gather import gather, plan_gather
from minidl.kernels.cpu.plan import Phase, Source, Window
from minidl.kernels.cpu.runtime import kernel, launch, share
from minidl.kernels.cpu.weights import Panels, pack
from minidl.kernels.reference.checks import Array, Pair


@kernel
def _join(a: Any, count: int, length: int, out: Any, part: int, parts: int) -> None:
    """a (count, 2, length) uint16 flat -> out (count, length) uint32: the first of a pair in the low half."""
    first, last = share(count, part, parts)
    for i in range(first, last):
        low, high, to = 2 * i * length, (2 * i + 1) * length, i * length
        for j in range(length):
            out[to + j] = np.uint32(a[low + j]) | (np.uint32(a[high + j]) << np.uint32(16))


def is_bfloat16(array: Array) -> bool:
    """Whether the array holds bfloat16 numbers."""
    return array.dtype.name == "bfloat16"


def is_half(array: Array) -> bool:
    """Whether the array holds float16 or bfloat16 numbers."""
    return array.dtype == np.float16 or is_bfloat16(array)


def widen(array: Array) -> Array:
    """A half array as float32."""
    return array.astype(np.float32)


def narrow(array: Array, dtype: Any) -> Array:
    """A float32 array rounded to a half type; what is too large is infinite, silently, as on every device."""
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def bits(array: Array) -> Array:
    """The uint16 view of a C-contiguous, writable bfloat16 array."""
    return array.view(np.uint16)


def even(array: Array, axis: int) -> Array:
    """The array with a zero more along an axis of odd length."""
    if array.shape[axis] % 2 == 0:
        return array
    width = [(0, 0)] * array.ndim
    width[axis] = (0, 1)
    return np.pad(array, width)


def pixel_pairs(x: Array) -> Array:
    """x (..., C) bfloat16, C-contiguous, as uint32 pairs of channels (..., C/2); C is made even."""
    return even(bits(x), -1).view(np.uint32)


def pair_source(source: Source) -> Source:
    """A source of bfloat16 numbers as one of pairs."""
    return source._replace(pixel=(source.pixel + 1) // 2, channels=(source.channels + 1) // 2, itemsize=4)


def pack_pairs(weight: Array, taps: tuple[int, ...], turned: bool, cols: int) -> Panels:
    """The panels of a bfloat16 weight (O, C, taps), C-contiguous: uint32, pairs along the reduction.

    The reduction is over (tap, C), or over (tap, O) if ``turned``; see :func:`minidl.kernels.cpu.weights.pack`.
    """
    weight = even(bits(weight), 0 if turned else 1)
    outputs, channels, count = weight.shape
    shape = (outputs // 2, channels, count) if turned else (outputs, channels // 2, count)
    joined = memory.empty(shape, np.uint32)
    length = channels * count if turned else count
    launch(_join, weight.reshape(-1), joined.size // length, length, joined.reshape(-1), work=joined.size)
    panels = pack(joined.view(np.float32), taps, turned, cols)  # moves bits, computes nothing
    return panels._replace(array=panels.array.view(np.uint32))


def conv2d(
    source: Source,
    window: Window,
    taps: tuple[int, ...],
    x: Array,
    weight: Array,
    bias: Array | None,
    residual: Array | None,
    relu: bool,
    y: Array,
    groups: int,
) -> None:
    """y = [relu](convolution + bias + residual), all bfloat16 and C-contiguous; see ``gather.gather``.

    Args:
        source, window, taps: of one group, in bfloat16 elements.
        x: (N, H, W, C), C/groups even if there are groups.
        weight: (O, C/groups, KH*KW).
        bias: (O,) of any float dtype.
        residual, y: (N, OH, OW, O).
        groups: each reads its own C/groups channels.
    """
    _, oh, ow, outputs = y.shape
    per = outputs // groups
    source = pair_source(source)
    plan = plan_gather(source, window, per, True, False, get_num_threads(), pairs=True)
    pairs = pixel_pairs(x)
    more = None if residual is None else bits(residual)
    for group in range(groups):
        own = slice(group * per, (group + 1) * per)
        packed = pack_pairs(weight[own], taps, False, plan.cols)
        places = (group * per, oh * ow * outputs, ow * outputs, outputs)
        row = None if bias is None else bias[own].astype(np.float32)
        gather(plan, pairs, group * source.channels, packed, row, relu, bits(y), per, places, more)


def conv2d_input_grad(
    phases: Sequence[Phase], stride: Pair, gy: Array, weight: Array, gx: Array, groups: int
) -> None:
    """gx (N, H, W, C) from gy (N, OH, OW, O) and weight (O, C/groups, KH*KW), all bfloat16 and C-contiguous.

    O/groups must be even if there are groups.
    """
    n, oh, ow, outputs = gy.shape
    _, height, width, channels = gx.shape
    per, depth = outputs // groups, channels // groups
    source = pair_source(Source(n, oh, ow, outputs, per, 2))
    pairs, result = pixel_pairs(gy), bits(gx)
    for row, col, window, taps in phases:
        if window is None:
            result[:, row :: stride[0], col :: stride[1]] = 0
            continue
        plan = plan_gather(source, window, depth, stride == (1, 1), False, get_num_threads(), pairs=True)
        for group in range(groups):
            packed = pack_pairs(weight[group * per : (group + 1) * per], taps, True, plan.cols)
            origin = (row * width + col) * channels + group * depth
            places = (origin, height * width * channels, stride[0] * width * channels, stride[1] * channels)
            gather(plan, pairs, group * source.channels, packed, None, False, result, depth, places)
