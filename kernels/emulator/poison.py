"""Memory of the emulated device that nobody has written to yet: a pattern that a checked launch may not read."""

from __future__ import annotations

from typing import Any

import numpy as np

POISON = np.uint16(0xFFFE)
"""What fills it: a NaN in every floating format, which arithmetic never makes."""
ALIGNMENT = 256
"""Where it begins: at a multiple of as many bytes, as on a card, so that counts of sectors are a kernel's own."""


def empty(shape: Any, dtype: Any, order: Any = "C") -> np.ndarray:
    """An array in main memory that is filled with :data:`POISON`."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    if kind.hasobject or not size:
        return np.empty(shape, kind, order)
    memory = bytearray(size + ALIGNMENT)  # no array, so that the one made of it has no base
    begin = -np.frombuffer(memory, np.uint8).ctypes.data % ALIGNMENT
    array: np.ndarray = np.ndarray(shape, kind, memory, begin, order=order)
    fill(array)
    return array


def fill(array: np.ndarray) -> None:
    """Fill an array without gaps, its axes in any order, with :data:`POISON`."""
    order = sorted(range(array.ndim), key=lambda d: -array.strides[d])
    raw = array.transpose(order).reshape(-1).view(np.uint8)
    raw[: len(raw) // 2 * 2].view(np.uint16)[...] = POISON
    raw[len(raw) // 2 * 2 :] = 0xFE
