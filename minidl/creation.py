"""Tensors from numbers: copies, constants, ranges, random values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import dlpack, random
from minidl.dtypes import as_dtype, float32, int64, is_floating, scalar_dtype
from minidl.tensor import Scalar, Tensor, as_array, sizes

__all__ = [
    "arange",
    "as_tensor",
    "empty",
    "empty_like",
    "eye",
    "from_dlpack",
    "from_numpy",
    "full",
    "full_like",
    "linspace",
    "ones",
    "ones_like",
    "rand",
    "rand_like",
    "randint",
    "randn",
    "randn_like",
    "randperm",
    "tensor",
    "zeros",
    "zeros_like",
]


# --- from data ----------------------------------------------------------------------------------------------


def tensor(data: Any, requires_grad: bool = False, dtype: Any = None) -> Tensor:
    """A tensor around a copy of ``data``; see :class:`Tensor` for dtypes."""
    return Tensor(np.array(as_array(data, dtype), order="K"), requires_grad)


def as_tensor(data: Any, dtype: Any = None) -> Tensor:
    """``data`` itself when it is a tensor of that dtype, else a tensor that shares an array's memory if it can."""
    if isinstance(data, Tensor):
        return data if dtype is None else data.to(dtype)
    return Tensor(data, dtype=dtype)


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor that shares the memory of ``array``.

    Raises:
        TypeError: not a NumPy array, or a dtype that tensors do not hold.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: array expects a numpy.ndarray, got {type(array).__name__}")
    return Tensor(array)


def from_dlpack(source: Any) -> Tensor:
    """A tensor that shares the memory of ``source``, an object of another library with ``__dlpack__`` (a PyTorch CPU
    tensor, a NumPy array).

    Raises:
        TypeError: ``source`` does not speak DLPack.
        BufferError: its memory is not in main memory, or of a dtype that NumPy does not know.
    """
    return Tensor(dlpack.take(source))


# --- constants ----------------------------------------------------------------------------------------------


def zeros(*shape: Any, dtype: Any = float32, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros."""
    return Tensor(np.zeros(sizes(shape), as_dtype(dtype)), requires_grad)


def ones(*shape: Any, dtype: Any = float32, requires_grad: bool = False) -> Tensor:
    """A tensor of ones."""
    return Tensor(np.ones(sizes(shape), as_dtype(dtype)), requires_grad)


def empty(*shape: Any, dtype: Any = float32, requires_grad: bool = False) -> Tensor:
    """A tensor of elements that are not set: whatever lay in the memory."""
    return Tensor(np.empty(sizes(shape), as_dtype(dtype)), requires_grad)


def full(shape: Sequence[int], value: Scalar, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor filled with ``value``; its dtype is that of the number (bool, int64 or float32) unless given."""
    kind = scalar_dtype(value) if dtype is None else as_dtype(dtype)
    return Tensor(np.full(sizes(tuple(shape)), value, kind), requires_grad)


def _like(t: Tensor, dtype: Any) -> np.dtype[Any]:
    return t.dtype if dtype is None else as_dtype(dtype)


def zeros_like(t: Tensor, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros with the shape, memory layout and (unless given) dtype of ``t``."""
    return Tensor(np.zeros_like(t.data, _like(t, dtype)), requires_grad)


def ones_like(t: Tensor, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones with the shape, memory layout and (unless given) dtype of ``t``."""
    return Tensor(np.ones_like(t.data, _like(t, dtype)), requires_grad)


def full_like(t: Tensor, value: Scalar, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """``value`` with the shape, memory layout and (unless given) dtype of ``t``."""
    return Tensor(np.full_like(t.data, value, _like(t, dtype)), requires_grad)


def empty_like(t: Tensor, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Unset elements with the shape, memory layout and (unless given) dtype of ``t``."""
    return Tensor(np.empty_like(t.data, _like(t, dtype)), requires_grad)


def eye(n: int, m: int | None = None, dtype: Any = float32, requires_grad: bool = False) -> Tensor:
    """The n x m matrix (n x n unless given) with ones on its diagonal."""
    return Tensor(np.eye(n, m, dtype=as_dtype(dtype)), requires_grad)


# --- ranges -------------------------------------------------------------------------------------------------


def arange(*args: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """``arange(end)``, ``arange(start, end)`` or ``arange(start, end, step)``: from start in steps to before end.

    int64 for whole numbers, float32 when one is a float, unless given.

    Raises:
        ValueError: the step is 0, or leads away from the end.
    """
    if not 1 <= len(args) <= 3:
        raise TypeError(f"arange: expects 1 to 3 numbers (start, end, step), got {len(args)}")
    numbers = [a.item() if isinstance(a, Tensor) else a for a in args]
    start, end = (0, numbers[0]) if len(numbers) == 1 else numbers[:2]
    step = numbers[2] if len(numbers) == 3 else 1
    if step == 0 or (end - start) * step < 0:
        raise ValueError(f"arange: no way from {start} to {end} in steps of {step}")
    whole = all(isinstance(a, (int, np.integer)) for a in numbers)
    kind = (int64 if whole else float32) if dtype is None else as_dtype(dtype)
    count = math.ceil((end - start) / step) if not whole else -((start - end) // step)
    values = (
        np.arange(count) * step + start
    )  # counted in float64: numpy.arange would round the step to float32
    return Tensor(values.astype(kind), requires_grad)


def linspace(
    start: float, end: float, steps: int, dtype: Any = float32, requires_grad: bool = False
) -> Tensor:
    """``steps`` numbers at even distances from ``start`` to ``end``, both included."""
    if steps < 0:
        raise ValueError(f"linspace: steps expects an int >= 0, got {steps}")
    values = np.linspace(start, end, steps)
    return Tensor(values.astype(as_dtype(dtype)), requires_grad)


# --- random values, from the library's generator (minidl.manual_seed) ---------------------------------------


def _floating(op: str, dtype: Any) -> np.dtype[Any]:
    kind = as_dtype(dtype)
    if not is_floating(kind):
        raise TypeError(f"{op}: dtype expects a floating dtype, got {kind}")
    return kind


def randn(*shape: Any, dtype: Any = float32, requires_grad: bool = False) -> Tensor:
    """Standard normal numbers from the library's generator (:func:`minidl.manual_seed`)."""
    kind = _floating("randn", dtype)
    return Tensor(np.asarray(random.generator().standard_normal(sizes(shape))).astype(kind), requires_grad)


def rand(*shape: Any, dtype: Any = float32, requires_grad: bool = False) -> Tensor:
    """Uniform numbers in [0, 1) from the library's generator (:func:`minidl.manual_seed`)."""
    kind = _floating("rand", dtype)
    precision = np.float64 if kind == np.float64 else np.float32
    values = np.asarray(random.generator().random(sizes(shape), precision))
    if kind.itemsize == 2:  # rounding to fewer digits must not reach 1
        bits = 2048 if kind.kind == "f" else 256
        values = np.floor(values * bits) / np.float32(bits)
    return Tensor(values.astype(kind), requires_grad)


def randn_like(t: Tensor, dtype: Any = None) -> Tensor:
    """Standard normal numbers with the shape and (unless given) dtype of ``t``."""
    return randn(*t.shape, dtype=_like(t, dtype))


def rand_like(t: Tensor, dtype: Any = None) -> Tensor:
    """Uniform numbers in [0, 1) with the shape and (unless given) dtype of ``t``."""
    return rand(*t.shape, dtype=_like(t, dtype))


def randint(low: int, high: Any, size: Any = None, dtype: Any = int64) -> Tensor:
    """Uniform whole numbers from ``low`` to before ``high``; ``randint(high, size)`` starts at 0."""
    if size is None:
        low, high, size = 0, low, high
    if not low < high:
        raise ValueError(f"randint: expects low < high, got {low} and {high}")
    return Tensor(np.asarray(random.generator().integers(low, high, sizes((size,)))).astype(as_dtype(dtype)))


def randperm(n: int, dtype: Any = int64) -> Tensor:
    """The numbers from 0 to before ``n`` in random order."""
    return Tensor(random.generator().permutation(n).astype(as_dtype(dtype)))
