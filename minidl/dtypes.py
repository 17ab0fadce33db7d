"""The element types: their names, PyTorch's promotion between them, and which type sums are kept in.

A dtype is a ``numpy.dtype``. bfloat16 comes from the optional package ``ml_dtypes``, imported by the first use
of the name.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

__all__ = [
    "accumulation_dtype",
    "bfloat16",
    "bool_",
    "default_dtype",
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "is_floating",
    "promote_types",
    "uint8",
]

float64, float32, float16 = np.dtype(np.float64), np.dtype(np.float32), np.dtype(np.float16)
int64, int32, int16, int8 = np.dtype(np.int64), np.dtype(np.int32), np.dtype(np.int16), np.dtype(np.int8)
uint8, bool_ = np.dtype(np.uint8), np.dtype(np.bool_)
default_dtype = float32
"""What Python floats become."""

bfloat16: np.dtype[Any]
"""Storage with float32's range and 8 bits of precision; needs ``ml_dtypes``."""

_ALIASES = {"double": float64, "float": float32, "half": float16, "long": int64, "int": int32, "short": int16}


def __getattr__(name: str) -> Any:
    if name == "bfloat16":
        try:
            return np.dtype(importlib.import_module("ml_dtypes").bfloat16)
        except ImportError:
            raise ImportError("bfloat16 needs the package ml_dtypes: pip install 'minidl[bf16]'") from None
    if name in _ALIASES:
        return _ALIASES[name]
    raise AttributeError(f"module 'minidl.dtypes' has no attribute {name!r}")


def as_dtype(dtype: Any) -> np.dtype[Any]:
    """A ``numpy.dtype`` from what a user may write for one: a dtype, a NumPy type, a name.

    Raises:
        TypeError: not a dtype, or one that tensors do not hold (complex numbers, strings, objects).
    """
    if isinstance(dtype, str) and dtype == "bfloat16":
        return __getattr__("bfloat16")
    try:
        found = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"dtype: expects a dtype such as minidl.float32, got {dtype!r}") from None
    if dtype is None or not is_supported(found):
        raise TypeError(f"dtype: tensors hold real numbers and bools, not {dtype!r}")
    return found


def is_supported(dtype: np.dtype[Any]) -> bool:
    """Whether tensors may hold this dtype: floats, bfloat16, integers and bool."""
    return dtype.kind in "fiub" or dtype.name == "bfloat16"


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether the dtype is a float, bfloat16 included (NumPy itself does not count it as one)."""
    return dtype.kind == "f" or (dtype.kind == "V" and dtype.name == "bfloat16")


def is_half(dtype: np.dtype[Any]) -> bool:
    """float16 or bfloat16: types for storage, whose sums are kept in float32."""
    return dtype.itemsize == 2 and is_floating(dtype)


def accumulation_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that sums of many elements are kept in: float32 for half types, int64 for integers and bools."""
    if is_floating(dtype):
        return float32 if is_half(dtype) else dtype
    return int64


def _category(dtype: np.dtype[Any]) -> int:
    """bool < integer < float."""
    return 2 if is_floating(dtype) else 0 if dtype.kind == "b" else 1


def promote_types(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any]:
    """The smallest dtype that holds both, as ``torch.promote_types``: a float beside an integer keeps its width;
    float16 beside bfloat16 is float32.

    Raises:
        TypeError: uint64 beside a signed integer: no integer holds both.
    """
    if a == b:
        return a
    high, low = (a, b) if _category(a) >= _category(b) else (b, a)
    if _category(high) > _category(low):
        return high
    if is_half(high) and is_half(low):
        return float32
    if _category(high) == 2:  # bfloat16 has a number of its own in NumPy's table
        return high if high.itemsize >= low.itemsize else low
    joined = np.promote_types(high, low)
    if joined.kind == "f":
        raise TypeError(f"no integer dtype holds both {a} and {b}; convert one of them with .to(dtype)")
    return joined


def scalar_dtype(value: Any) -> np.dtype[Any]:
    """The dtype of a Python number (or a NumPy scalar, which counts as one) on its own."""
    if isinstance(value, (bool, np.bool_)):
        return bool_
    return int64 if isinstance(value, (int, np.integer)) else default_dtype


def result_of(dimensioned: Any, zero_d: Any, numbers: Any) -> np.dtype[Any]:
    """The dtype of an operator's operands, by PyTorch's three ranks.

    Tensors with dimensions decide; 0-d tensors, and after them Python numbers, change the result only when they are of
    a higher kind (bool < integer < float).

    Args:
        dimensioned, zero_d, numbers: dtypes of the operands of each rank.
    """
    result: np.dtype[Any] | None = None
    for dtypes in (dimensioned, zero_d, numbers):
        rank: np.dtype[Any] | None = None
        for dtype in dtypes:
            rank = dtype if rank is None else promote_types(rank, dtype)
        if result is None or (rank is not None and _category(rank) > _category(result)):
            result = rank
    return default_dtype if result is None else result
