"""Functions that jump: rounding, signs, remainders. Between the jumps they are constant (gradient 0) or linear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.autograd import Function
from minidl.autograd.function import expect_broadcast
from minidl.dtypes import is_floating
from minidl.kernels.capturing import may_read
from minidl.ops.arithmetic import div, mul, quiet
from minidl.ops.promotion import Array, both
from minidl.tensor import Tensor


class Zeros(Function):
    """Zeros in place of the input: the gradient of a constant, and its own gradient."""

    def forward(self, x: Array) -> Array:
        return np.zeros_like(x)

    def backward(self, grad: Tensor) -> Tensor:
        return Zeros()(grad)


class Step(Function):
    """A function that is constant between jumps, by its NumPy name."""

    def __init__(self, function: Callable[[Array], Array], name: str) -> None:
        self.function, self._name = function, name

    @property
    def name(self) -> str:
        return self._name

    def forward(self, x: Array) -> Array:
        return self.function(x)

    def backward(self, grad: Tensor) -> Tensor:
        return Zeros()(grad)


class RoundedDiv(Function):
    """a / b rounded down or towards zero: gradient 0."""

    broadcasts = True

    def __init__(self, down: bool) -> None:
        self.down = down

    def forward(self, a: Array, b: Array) -> Array:
        with quiet():
            if self.down:
                return np.floor_divide(a, b)
            if a.dtype.kind in "iu":
                return (a - np.fmod(a, b)) // b
            return np.trunc(a / b)

    def backward(self, grad: Tensor) -> tuple[Tensor, Tensor]:
        return Zeros()(grad), Zeros()(grad)


class Remainder(Function):
    """a - b * q, with q = a / b rounded down (the sign of b) or towards zero (the sign of a)."""

    saved_inputs = (0, 1)
    broadcasts = True

    def __init__(self, down: bool) -> None:
        self.down = down

    def forward(self, a: Array, b: Array) -> Array:
        with quiet():
            return np.remainder(a, b) if self.down else np.fmod(a, b)

    def backward(self, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        a, b = self.saved()
        if not self.needs_input_grad[1]:
            return grad, None
        return grad, -grad * RoundedDiv(self.down)(a, b)


def _step(function: Callable[[Array], Array], name: str, x: Tensor) -> Tensor:
    return Step(function, name)(x) if is_floating(x.data.dtype) else x.clone()


def floor(x: Tensor) -> Tensor:
    """Rounded down; gradient 0."""
    return _step(np.floor, "Floor", x)


def ceil(x: Tensor) -> Tensor:
    """Rounded up; gradient 0."""
    return _step(np.ceil, "Ceil", x)


def trunc(x: Tensor) -> Tensor:
    """Rounded towards zero; gradient 0."""
    return _step(np.trunc, "Trunc", x)


def round(x: Tensor, *, decimals: int = 0) -> Tensor:
    """Rounded to the nearest number of ``decimals`` digits, halves to the even one; gradient 0."""
    if not isinstance(decimals, (int, np.integer)):
        raise TypeError(f"round: decimals expects an int, got {decimals!r}")
    if decimals == 0:
        return _step(np.rint, "Round", x)
    scale = 10.0 ** (decimals if decimals > 0 else -decimals)
    if decimals > 0:
        return div(_step(np.rint, "Round", mul(x, scale)), scale)
    return mul(_step(np.rint, "Round", div(x, scale)), scale)


def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1; NaN stays NaN; gradient 0."""
    return x.clone() if x.data.dtype == np.bool_ else Step(np.sign, "Sign")(x)


def frac(x: Tensor) -> Tensor:
    """x minus x rounded towards zero.

    Raises:
        TypeError: x is not floating.
    """
    if not is_floating(x.data.dtype):
        raise TypeError(f"frac: x expects a floating dtype, got {x.dtype}")
    return x - trunc(x)


def _operands(op: str, a: Any, b: Any) -> tuple[Tensor, Tensor]:
    x, y = both(op, a, b)
    expect_broadcast(op, x.shape, y.shape)
    if x.data.dtype == np.bool_:
        raise TypeError(f"{op}: not defined for bool tensors")
    if x.data.dtype.kind in "iu" and may_read() and not y.data.all():
        raise ZeroDivisionError(f"{op}: an integer divided by zero")
    return x, y


def rounded_div(a: Any, b: Any, rounding_mode: str) -> Tensor:
    """a / b rounded "floor" (down) or "trunc" (towards zero)."""
    if rounding_mode not in ("floor", "trunc"):
        raise ValueError(f"div: rounding_mode expects None, 'floor' or 'trunc', got {rounding_mode!r}")
    return RoundedDiv(rounding_mode == "floor")(*_operands("div", a, b))


def floor_divide(a: Any, b: Any) -> Tensor:
    """a // b: the quotient rounded down, also for integers; gradient 0.

    Raises:
        ZeroDivisionError: an integer divided by zero.
    """
    return RoundedDiv(True)(*_operands("floor_divide", a, b))


def remainder(a: Any, b: Any) -> Tensor:
    """a % b, with the sign of b, as Python's: a - b * floor(a / b).

    Raises:
        ZeroDivisionError: an integer divided by zero.
    """
    return Remainder(True)(*_operands("remainder", a, b))


def fmod(a: Any, b: Any) -> Tensor:
    """The remainder with the sign of a, as C's: a - b * trunc(a / b).

    Raises:
        ZeroDivisionError: an integer divided by zero.
    """
    return Remainder(False)(*_operands("fmod", a, b))
