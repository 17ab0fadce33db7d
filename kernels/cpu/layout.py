"""What kernels ask of their arrays: dense memory, one supported type, and the flat order of a permuted
layout.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import carray, types

from minidl.kernels.cpu import memory
from minidl.kernels.cpu.compiler import jit
from minidl.kernels.cpu.lanes import intrinsic
from minidl.kernels.cpu.runtime import kernel, launch, recording, share
from minidl.kernels.reference.checks import Array

# Outputs of this many bytes leave the last-level cache before anyone reads them, so they are written past it.
STREAM_BYTES = 32 << 20
SMALL_COPY = 1 << 14  # elements: NumPy copies fewer than this just as fast

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def supported(*arrays: Array | None) -> bool:
    """Whether all arrays have the same dtype, float32 or float64, in the machine's byte order."""
    kinds = {array.dtype for array in arrays if array is not None}
    return len(kinds) == 1 and kinds.pop() in _FLOATS


@kernel
def _swap(source: Any, target: Any, part: Any, parts: Any) -> None:
    """target[n, c, p] = source[n, p, c], in blocks that stay in the first cache."""
    n, pixels, channels = source.shape
    first, last = share(n, part, parts)
    for image in range(first, last):
        for low in range(0, channels, 64):
            for p in range(pixels):
                for c in range(low, min(low + 64, channels)):
                    target[image, c, p] = source[image, p, c]


@kernel
def _interleave(source: Any, target: Any, part: Any, parts: Any) -> None:
    """target[n, p, c] = source[n, c, p], in blocks that stay in the first cache."""
    n, channels, pixels = source.shape
    blocks = -(-pixels // 128)
    first, last = share(n * blocks, part, parts)
    for item in range(first, last):
        image, low = item // blocks, item % blocks * 128
        for c in range(channels):
            for p in range(low, min(low + 128, pixels)):
                target[image, p, c] = source[image, c, p]


@intrinsic
def _pointer(typing: Any, address: Any, like: Any) -> Any:
    """The address as a pointer to elements of the array ``like``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(types.intp, like), generate


@jit(inline="always")
def elements(address: int, first: int, last: int, like: Any) -> Any:
    """Elements first..last-1 of the array at an address, of the dtype of ``like``, counted from 0: LLVM then knows that
    no index is negative, which vectors need."""
    return carray(_pointer(address + first * like.itemsize, like), (last - first,))


@kernel
def _clear(target: Any, part: Any, parts: Any) -> None:
    first, last = share(target.size, part, parts)
    mine = target[first:last]  # counted from 0: an index that might be negative keeps LLVM from vectors
    for i in range(mine.size):
        mine[i] = 0


def clear(array: Array) -> None:
    """Set a C-contiguous array to 0, on all threads: one thread alone reaches half of what memory can take."""
    launch(_clear, array.reshape(-1), work=array.size)


def dense(array: Array) -> Array:
    """The array itself when C-contiguous and aligned, else a copy."""
    if array.flags.c_contiguous and array.flags.aligned:
        return array
    copy = memory.empty(array.shape, array.dtype)
    small = array.size < SMALL_COPY and not recording()
    if array.ndim != 4 or small or array.itemsize not in (2, 4, 8):
        np.copyto(copy, array)
        return copy
    # Channels-last memory seen as (N, C, H, W), as the gradient of a weight is, or the opposite, as a user's images
    # are: NumPy copies both slowly. Bits are moved, whatever they mean.
    bits = np.dtype(f"u{array.itemsize}")
    last, first = array.transpose(0, 2, 3, 1), array.transpose(0, 3, 1, 2)
    if last.flags.c_contiguous and last.flags.aligned:
        n, c, h, w = array.shape
        launch(
            _swap, last.view(bits).reshape(n, h * w, c), copy.view(bits).reshape(n, c, h * w), work=array.size
        )
    elif first.flags.c_contiguous and first.flags.aligned:
        n, h, w, c = array.shape
        launch(
            _interleave,
            first.view(bits).reshape(n, c, h * w),
            copy.view(bits).reshape(n, h * w, c),
            work=array.size,
        )
    else:
        np.copyto(copy, array)
    return copy


def dense_order(array: Array) -> tuple[int, ...] | None:
    """The axes that make `array.transpose(axes)` C-contiguous, or None when its memory has gaps or
    overlaps.
    """
    axes = tuple(sorted(range(array.ndim), key=lambda axis: (-array.strides[axis], axis)))
    # Axes of length 1 may have any stride; NumPy's flag knows that, the order above may not matter for them.
    return axes if array.transpose(axes).flags.c_contiguous and array.flags.aligned else None


def streams(array: Array) -> bool:
    """Whether a kernel should write this C-contiguous array past the caches: it is large and its vectors are
    aligned.
    """
    return array.nbytes >= STREAM_BYTES and array.ctypes.data % memory.ALIGNMENT == 0


@kernel
def _repeat(values: Any, count: int, row: Any, part: Any, parts: Any) -> None:
    first, last = share(row.size, part, parts)
    for i in range(first, last):
        row[i] = values[i % values.size] if i < count else 0


def repeated(values: Array, count: int, size: int) -> Array:
    """(size,): the values again and again up to ``count`` numbers, then zeros. It may be ``values`` itself."""
    values = dense(values)
    if values.size == count == size:
        return values
    row = memory.empty(size, values.dtype)
    launch(_repeat, values, count, row, work=size)
    return row


def per_channel(array: Array, fold: int) -> Array:
    """A (C,) array repeated `fold` times, so that it lines up with `fold` neighbouring pixels."""
    return repeated(array, array.size * fold, array.size * fold)


def bias_row(bias: Array | None, size: int, dtype: npt.DTypeLike) -> Array:
    """The bias of each column of some panels: zero past its end, or everywhere."""
    return np.zeros(size, dtype) if bias is None else repeated(np.asarray(bias, dtype), bias.size, size)
