"""Convolution and matrix product of bfloat16 arrays: the float32 kernels, on pairs of channels.

Two bfloat16 numbers that are neighbours in the reduction are one 32-bit element. With elements of pairs, a
bfloat16 convolution of C channels is a gather of C/2 elements (`gather.py`), laid out and cut like any other;
only the micro-kernel differs, which multiplies both halves and adds both products to a float32 sum
(`simd.py`). Sums are float32 from the first product to the last, then bias, residual and ReLU, and one
rounding to bfloat16. A number of channels that is odd is made even with a zero.

The weight gradient reduces over pixels, which are not neighbours in memory; it runs in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.kernels import get_num_threads
from minidl.kernels.cpu import memory
from minidl.kernels.cpu.gather import gather, plan_gather
from minidl.kernels.cpu.layout import SMALL_COPY, dense_order
from minidl.kernels.cpu.plan import Phase, Source, Window
from minidl.kernels.cpu.runtime import kernel, launch, recording, share
from minidl.kernels.cpu.weights import Panels, kept_value, pack
from minidl.kernels.reference.checks import Array, Pair

BY_IMAGE = 4 << 20  # bytes of images of a half type that are pooled one by one


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
    return array.dtype.kind not in "fiub" and array.dtype.name == "bfloat16"  # the name takes microseconds


def is_half(array: Array) -> bool:
    """Whether the array holds float16 or bfloat16 numbers."""
    return array.dtype == np.float16 or is_bfloat16(array)


@kernel
def _widen(source: Any, out: Any, part: int, parts: int) -> None:
    """bfloat16 (uint16) -> the bits of float32."""
    first, last = share(source.size, part, parts)
    source, out = source[first:last], out[first:last]
    for i in range(source.size):
        out[i] = np.uint32(source[i]) << np.uint32(16)


@kernel
def _narrow(source: Any, out: Any, part: int, parts: int) -> None:
    """The bits of float32 -> bfloat16 (uint16), to nearest even; NaN stays NaN."""
    first, last = share(source.size, part, parts)
    source, out = source[first:last], out[first:last]
    for i in range(source.size):
        number = source[i]
        rounded = number + np.uint32(0x7FFF) + ((number >> np.uint32(16)) & np.uint32(1))
        nan = (number & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        out[i] = ((number | np.uint32(0x400000)) if nan else rounded) >> np.uint32(16)


@kernel
def _copy(source: Any, out: Any, part: int, parts: int) -> None:
    first, last = share(source.size, part, parts)
    source, out = source[first:last], out[first:last]
    for i in range(source.size):
        out[i] = source[i]


def cast(array: Array, dtype: Any) -> Array:
    """The array in another dtype (itself when it has it), with its memory layout; bfloat16 by kernels of our own."""
    dtype = np.dtype(dtype)
    if array.dtype == dtype:
        return array
    pair = (array.dtype.name, dtype.name)
    axes = dense_order(array) if array.size >= SMALL_COPY or recording() else None
    if axes is None or pair not in (("bfloat16", "float32"), ("float32", "bfloat16")):
        with np.errstate(all="ignore"):  # what is too large is infinite, silently, as on every device
            return array.astype(dtype)
    ordered = array.transpose(axes)
    out = memory.empty(ordered.shape, np.uint32 if dtype == np.float32 else np.uint16)
    _cast_dense(ordered, out)
    return out.view(dtype).transpose(np.argsort(axes))


def _cast_dense(source: Array, out: Array) -> None:
    """Write the numbers of a C-contiguous array to another: bfloat16 to float32's bits, or float32 to bfloat16's."""
    down = out.dtype == np.uint16
    flat = source.view(np.uint32 if down else np.uint16).reshape(-1)
    launch(_narrow if down else _widen, flat, out.reshape(-1), work=out.size)


def widen(array: Array) -> Array:
    """A half array as float32."""
    return cast(array, np.float32)


def narrow(array: Array, dtype: Any) -> Array:
    """A float32 array rounded to a half type."""
    return cast(array, dtype)


def in_float32(name: str) -> Any:
    """A kernel of the back end that computes half types in float32 and rounds its results once."""

    def run(self: Any, *args: Any, **options: Any) -> Any:
        kernel = getattr(super(HalfMixin, self), name)
        halves = {a.dtype for a in args if isinstance(a, np.ndarray) and is_half(a)}
        if not halves:
            return kernel(*args, **options)
        dtype = halves.pop()
        out = kernel(*(widen(a) if isinstance(a, np.ndarray) and is_half(a) else a for a in args), **options)

        def back(a: Any) -> Any:
            return narrow(a, dtype) if isinstance(a, np.ndarray) and a.dtype == np.float32 else a

        return tuple(map(back, out)) if isinstance(out, tuple) else back(out)

    run.__name__ = name
    return run


class HalfMixin:
    """Pooling and products of half types, in float32. Convolutions take them as they are."""

    _max_pool2d = in_float32("max_pool2d")

    def max_pool2d(self, x: Array, *window: Any) -> tuple[Array, Array]:
        """See the reference. Half types go image by image, so that their float32 numbers stay in the caches."""
        if not is_bfloat16(x) or x.nbytes < BY_IMAGE:
            return self._max_pool2d(x, *window)
        kernel: Any = super().max_pool2d  # type: ignore[misc]
        y = index = np.empty(0, np.uint16)
        for n in range(len(x)):
            values, places = kernel(widen(x[n : n + 1]), *window)
            if n == 0:
                shape = (len(x), *values.shape[1:])
                y, index = memory.empty(shape, np.uint16), memory.empty(shape, places.dtype)
            _cast_dense(values, y[n])
            launch(_copy, places.reshape(-1), index[n].reshape(-1), work=places.size)
        return y.view(x.dtype), index

    max_pool2d_scatter = in_float32("max_pool2d_scatter")
    max_pool2d_gather = in_float32("max_pool2d_gather")
    avg_pool2d = in_float32("avg_pool2d")
    avg_pool2d_backward = in_float32("avg_pool2d_backward")
    adaptive_avg_pool2d = in_float32("adaptive_avg_pool2d")
    adaptive_avg_pool2d_backward = in_float32("adaptive_avg_pool2d_backward")
    linear = in_float32("linear")
    matmul = in_float32("matmul")

    def cast(self, x: Array, dtype: Any) -> Array:
        """See the reference."""
        return cast(x, dtype)


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


@kernel
def _even_channels(x: Any, channels: int, out: Any, part: int, parts: int) -> None:
    """x (pixels, channels) uint16 flat, of an odd number of channels -> out (pixels, channels + 1)."""
    first, last = share(x.size // channels, part, parts)
    for p in range(first, last):
        for c in range(channels):
            out[p * (channels + 1) + c] = x[p * channels + c]
        out[p * (channels + 1) + channels] = 0


def pixel_pairs(x: Array) -> Array:
    """x (..., C) bfloat16, C-contiguous, as uint32 pairs of channels (..., C/2); C is made even."""
    channels = x.shape[-1]
    if channels % 2 == 0:
        return bits(x).view(np.uint32)
    out = memory.empty((*x.shape[:-1], channels + 1), np.uint16)
    launch(_even_channels, bits(x).reshape(-1), channels, out.reshape(-1), work=out.size)
    return out.view(np.uint32)


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
    kept: dict[Any, Any] | None,
) -> None:
    """y = [relu](convolution + bias + residual), all bfloat16 and C-contiguous; see ``gather.gather``.

    Args:
        source, window, taps: of one group, in bfloat16 elements.
        x: (N, H, W, C), C/groups even if there are groups.
        weight: (O, C/groups, KH*KW).
        bias: (O,) of any float dtype.
        residual, y: (N, OH, OW, O).
        groups: each reads its own C/groups channels.
        kept: where the panels of this weight are kept, or None.
    """
    _, oh, ow, outputs = y.shape
    per = outputs // groups
    source = pair_source(source)
    plan = plan_gather(source, window, per, True, 0, get_num_threads(), pairs=True)
    pairs = pixel_pairs(x)
    more = None if residual is None else bits(residual)
    for group in range(groups):
        own = slice(group * per, (group + 1) * per)
        make = functools.partial(pack_pairs, weight[own], taps, False, plan.cols)
        packed = kept_value(kept, (group, plan.cols), make)
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
        plan = plan_gather(source, window, depth, stride == (1, 1), 0, get_num_threads(), pairs=True)
        for group in range(groups):
            packed = pack_pairs(weight[group * per : (group + 1) * per], taps, True, plan.cols)
            origin = (row * width + col) * channels + group * depth
            places = (origin, height * width * channels, stride[0] * width * channels, stride[1] * channels)
            gather(plan, pairs, group * source.channels, packed, None, False, result, depth, places)
