"""Comparison, logic, and questions about numbers: bool results without gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.autograd.function import expect_broadcast
from minidl.dtypes import is_floating
from minidl.kernels.capturing import reads
from minidl.ops.arithmetic import compare, where
from minidl.ops.promotion import Array, both, plain
from minidl.tensor import Tensor


def _together(op: str, a: Any, b: Any) -> tuple[Tensor, Tensor]:
    x, y = both(op, a, b)
    expect_broadcast(op, x.shape, y.shape)
    return x, y


def eq(a: Any, b: Any) -> Tensor:
    """a == b, elementwise."""
    return compare(np.equal, a, b)


def ne(a: Any, b: Any) -> Tensor:
    """a != b, elementwise."""
    return compare(np.not_equal, a, b)


def lt(a: Any, b: Any) -> Tensor:
    """a < b, elementwise."""
    return compare(np.less, a, b)


def le(a: Any, b: Any) -> Tensor:
    """a <= b, elementwise."""
    return compare(np.less_equal, a, b)


def gt(a: Any, b: Any) -> Tensor:
    """a > b, elementwise."""
    return compare(np.greater, a, b)


def ge(a: Any, b: Any) -> Tensor:
    """a >= b, elementwise."""
    return compare(np.greater_equal, a, b)


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have one shape and equal elements (NaN equals nothing)."""
    reads(a.data, "equal()")
    return a.shape == b.shape and bool((a.data == b.data).all())


def isclose(a: Tensor, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """Whether |a - b| <= atol + rtol * |b|, elementwise."""
    x, y = _together("isclose", a, b)
    return plain(lambda a, b: np.isclose(a, b, rtol, atol, equal_nan), x, y)


def allclose(a: Tensor, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether :func:`isclose` holds for all elements."""
    x, y = _together("allclose", a, b)
    reads(x.data, "allclose()")
    return bool(isclose(x, y, rtol, atol, equal_nan).data.all())


def logical(ufunc: Callable[..., Array], a: Any, b: Any = None) -> Tensor:
    """``~``, ``&``, ``|``, ``^`` on bools and integers.

    Raises:
        TypeError: for floats.
    """
    operands = (a,) if b is None else _together(ufunc.__name__, a, b)
    for t in operands:
        if is_floating(t.data.dtype):
            raise TypeError(f"{ufunc.__name__}: expects bool or integer tensors, got dtype {t.dtype}")
    return plain(ufunc, *operands)


def logical_and(a: Any, b: Any) -> Tensor:
    """Whether neither is 0."""
    x, y = _together("logical_and", a, b)
    return plain(lambda a, b: (a != 0) & (b != 0), x, y)


def logical_or(a: Any, b: Any) -> Tensor:
    """Whether one of the two is not 0."""
    x, y = _together("logical_or", a, b)
    return plain(lambda a, b: (a != 0) | (b != 0), x, y)


def logical_xor(a: Any, b: Any) -> Tensor:
    """Whether just one of the two is not 0."""
    x, y = _together("logical_xor", a, b)
    return plain(lambda a, b: (a != 0) ^ (b != 0), x, y)


def logical_not(x: Tensor) -> Tensor:
    """Whether each element is 0."""
    return plain(lambda a: a == 0, x)


def isnan(x: Tensor) -> Tensor:
    """Whether each element is NaN."""
    return plain(np.isnan, x)


def isinf(x: Tensor) -> Tensor:
    """Whether each element is inf or -inf."""
    return plain(np.isinf, x)


def isfinite(x: Tensor) -> Tensor:
    """Whether each element is neither infinite nor NaN."""
    return plain(np.isfinite, x)


def nan_to_num(
    x: Tensor, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """NaN replaced by ``nan``, infinities by the largest numbers of the dtype unless others are given; the gradient
    is 0 where something was replaced."""
    if not is_floating(x.data.dtype):
        return x.clone()
    if x.data.dtype.kind == "f":
        largest = float(np.finfo(x.data.dtype).max)
    else:
        largest = 3.3895313892515355e38  # bfloat16: 2**128 - 2**120
    y = where(np.isnan(x.data), nan, x)
    y = where(x.data == np.inf, largest if posinf is None else posinf, y)
    return where(x.data == -np.inf, -largest if neginf is None else neginf, y)
