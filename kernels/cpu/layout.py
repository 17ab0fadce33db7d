"""What kernels ask of their arrays: dense memory, one supported type, and the flat order of a permuted
layout.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.kernels.cpu import memory
from minidl.kernels.cpu.runtime import kernel, launch, share
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


def dense(array: Array) -> Array:
    """The array itself when C-contiguous and aligned, else a copy."""
    if array.flags.c_contiguous and array.flags.aligned:
        return array
    copy = memory.empty(array.shape, array.dtype)
    last = array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
    if array.ndim == 4 and array.size >= SMALL_COPY and supported(array) and last.flags.c_contiguous:
        # Channels-last memory seen as (N, C, H, W), as the gradient of a weight is: NumPy copies it slowly.
        n, c, h, w = array.shape
        launch(_swap, last.reshape(n, h * w, c), copy.reshape(n, c, h * w), work=array.size)
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


def per_channel(array: Array, dtype: Any, fold: int) -> Array:
    """A (C,) array repeated `fold` times, so that it lines up with `fold` neighbouring pixels."""
    return np.tile(np.asarray(array, dtype), fold)
