"""What kernels ask of their arrays: dense memory, one supported type, and the flat order of a permuted
layout.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.kernels.cpu import memory
from minidl.kernels.reference.checks import Array

# Outputs of this many bytes leave the last-level cache before anyone reads them, so they are written past it.
STREAM_BYTES = 32 << 20

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def supported(*arrays: Array | None) -> bool:
    """Whether all arrays have the same dtype, float32 or float64, in the machine's byte order."""
    kinds = {array.dtype for array in arrays if array is not None}
    return len(kinds) == 1 and kinds.pop() in _FLOATS


def dense(array: Array) -> Array:
    """The array itself when C-contiguous and aligned, else a copy."""
    if array.flags.c_contiguous and array.flags.aligned:
        return array
    copy = memory.empty(array.shape, array.dtype)
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
