"""Tensors from numbers: copies, constants, ranges, random values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import random
from minidl.tensor import Scalar, Tensor, as_array, sizes

__all__ = ["arange", "full", "ones", "ones_like", "randn", "tensor", "zeros", "zeros_like"]


def tensor(data: Any, requires_grad: bool = False, dtype: Any = None) -> Tensor:
    """A tensor around a copy of ``data``; see :class:`Tensor` for dtypes."""
    return Tensor(np.array(as_array(data, dtype), order="K"), requires_grad)


def zeros(*shape: Any, dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros."""
    return Tensor(np.zeros(sizes(shape), dtype), requires_grad)


def ones(*shape: Any, dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """A tensor of ones."""
    return Tensor(np.ones(sizes(shape), dtype), requires_grad)


def full(shape: Sequence[int], value: Scalar, dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """A tensor filled with ``value``."""
    return Tensor(np.full(tuple(shape), value, dtype), requires_grad)


def zeros_like(t: Tensor) -> Tensor:
    """Zeros with the shape, dtype and memory layout of ``t``."""
    return Tensor(np.zeros_like(t.data))


def ones_like(t: Tensor) -> Tensor:
    """Ones with the shape, dtype and memory layout of ``t``."""
    return Tensor(np.ones_like(t.data))


def arange(*args: Any, dtype: Any = None) -> Tensor:
    """Evenly spaced numbers, as ``numpy.arange``; floats become float32."""
    return Tensor(
        as_array(np.arange(*args).tolist() if dtype is None else np.arange(*args, dtype=dtype), dtype)
    )


def randn(*shape: Any, dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """Standard normal numbers from the library's generator (:func:`minidl.manual_seed`)."""
    return Tensor(random.generator().standard_normal(sizes(shape)).astype(dtype), requires_grad)
