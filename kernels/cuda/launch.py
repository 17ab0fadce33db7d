"""What every launcher needs: element types, the structs that kernels take, arrays as kernels read them."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from minidl.kernels.cuda.device import INT32_MAX, Device
from minidl.kernels.reference.checks import Array

ELEMENTS = {"float32": "float", "bfloat16": "bf16", "float16": "f16"}
"""The names in CUDA of the dtypes that kernels compute on; all others go to the reference's operators."""

DIVISOR = np.dtype([("value", "i4"), ("factor", "u4"), ("shift", "u4")])
"""types.cuh: Divisor."""


def element(array: Array) -> str | None:
    """The element type's name in CUDA, or None where no kernel takes it."""
    return ELEMENTS.get(str(array.dtype))


def piece(array: Array) -> int:
    """How many elements are 16 bytes, the most that one thread moves at once."""
    return 16 // int(array.dtype.itemsize)


def copy_width(array: Array, *sizes: int) -> int:
    """How many elements a copy may move: the largest power of two, at most 16 bytes' worth, that divides all sizes."""
    width = piece(array)
    while any(size % width for size in sizes):
        width //= 2
    return width


def pointer(array: Array) -> int:
    """The address of the first element, on whichever device."""
    host: Any = getattr(array, "host", array)  # an array of the emulated device holds a NumPy array
    return int(host.ctypes.data if hasattr(host, "ctypes") else host.data.ptr)


def operand(device: Device, array: Array, dtype: Any = None) -> Array:
    """``array`` as kernels read it: C-contiguous, starting at a multiple of 16 bytes, in ``dtype`` if one is given."""
    if dtype is not None:
        array = array.astype(dtype, copy=False)
    array = device.xp.ascontiguousarray(array).reshape(array.shape)  # which makes one axis of none
    if array.size and pointer(array) % 16:
        aligned = device.empty(array.shape, array.dtype)
        aligned[...] = array
        return aligned
    return array


@functools.lru_cache(maxsize=4096)
def divisor(value: int) -> tuple[int, int, int]:
    """The fields of a ``Divisor``: for 0 <= n < 2^31, n // value is (n * factor >> 32) >> shift.

    With 2^s >= value > 2^(s-1), factor = ceil(2^(31+s) / value) is less than 2^32 and its error, below 1 in
    2^(31+s), never reaches the next whole number (Granlund and Montgomery, 1994). A value of 1 is a case of its own.
    """
    if value <= 1:
        return 1, 0, 0
    bits = (value - 1).bit_length()
    return value, -(-(1 << (31 + bits)) // value), bits - 1


def struct(dtype: np.dtype[Any], *fields: Any) -> np.ndarray:
    """A struct argument: a 0-d array of ``dtype`` with these fields, in order."""
    return np.array(fields, dtype)


def expect_int32(kernel: str, **sizes: int) -> None:
    """Raise ValueError for a size that a kernel's int cannot hold."""
    for name, size in sizes.items():
        if size > INT32_MAX:
            raise ValueError(f"{kernel}: {name} expects at most {INT32_MAX}, got {size}")


def total(shape: tuple[int, ...]) -> int:
    """The number of elements."""
    return math.prod(shape)
