"""Elementwise operators: one number in (or a broadcast pair), one number out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import kernels
from minidl.autograd import Function
from minidl.ops._common import Array, both
from minidl.tensor import Tensor


def _quiet() -> np.errstate:
    """log(0) is -inf and log(-1) is NaN: values, not warnings."""
    return np.errstate(all="ignore")


# --- two operands, broadcast against each other -------------------------------------------------------------


class Add(Function):
    broadcasts = True

    def forward(self, a: Array, b: Array) -> Array:
        if a.shape == b.shape:
            return kernels.backend(a).add(a, b)
        return a + b

    def backward(self, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, grad


class Sub(Function):
    broadcasts = True

    def forward(self, a: Array, b: Array) -> Array:
        return a - b

    def backward(self, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        return grad, -grad if self.needs_input_grad[1] else None


class Mul(Function):
    saved_inputs = (0, 1)
    broadcasts = True

    def forward(self, a: Array, b: Array) -> Array:
        return a * b

    def backward(self, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = self.saved()
        return grad * b if self.needs_input_grad[0] else None, grad * a if self.needs_input_grad[1] else None


class Div(Function):
    saved_inputs = (0, 1)
    broadcasts = True

    def forward(self, a: Array, b: Array) -> Array:
        with _quiet():
            out = a / b
        if out.dtype == np.float64 and not (a.dtype == np.float64 or b.dtype == np.float64):
            out = out.astype(np.float32)  # integers divided: the default float, as in PyTorch
        return out

    def backward(self, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = self.saved()
        ga = grad / b if self.needs_input_grad[0] else None
        gb = -grad * a / (b * b) if self.needs_input_grad[1] else None
        return ga, gb


class Pow(Function):
    """a ** b. Where a = 0 the gradient by b is 0 (its limit from b > 0)."""

    saved_inputs = (0, 1)
    broadcasts = True

    def forward(self, a: Array, b: Array) -> Array:
        with _quiet():
            return np.power(a, b)

    def backward(self, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = self.saved()
        ga = gb = None
        if self.needs_input_grad[0]:
            # b == 0 makes a constant: keep 0 * 0**-1 from becoming NaN
            exponent = where(b.data == 0, Tensor._wrap(np.asarray(1, b.dtype)), b) - 1
            ga = grad * b * pow(a, exponent)
        if self.needs_input_grad[1]:
            positive = a.data > 0
            gb = grad * pow(a, b) * log(where(positive, a, Tensor._wrap(np.asarray(1, a.dtype))))
        return ga, gb


class Where(Function):
    """Elements of a where the condition holds, of b elsewhere."""

    broadcasts = True

    def __init__(self, condition: Array) -> None:
        self.condition = condition

    def forward(self, a: Array, b: Array) -> Array:
        return np.where(self.condition, a, b)

    def backward(self, grad: Tensor) -> tuple[Tensor, Tensor]:
        zero = Tensor._wrap(np.zeros((), grad.dtype))
        return where(self.condition, grad, zero), where(self.condition, zero, grad)


# --- one operand --------------------------------------------------------------------------------------------


class Neg(Function):
    def forward(self, x: Array) -> Array:
        return -x

    def backward(self, grad: Tensor) -> Tensor:
        return -grad


class Exp(Function):
    saves_output = True

    def forward(self, x: Array) -> Array:
        with _quiet():
            return np.exp(x)

    def backward(self, grad: Tensor) -> Tensor:
        return grad * self.saved_output()


class Log(Function):
    saved_inputs = (0,)

    def forward(self, x: Array) -> Array:
        with _quiet():
            return np.log(x)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        return grad / x


class Sqrt(Function):
    saves_output = True

    def forward(self, x: Array) -> Array:
        with _quiet():
            return np.sqrt(x)

    def backward(self, grad: Tensor) -> Tensor:
        return grad / (self.saved_output() * 2)


class Tanh(Function):
    saves_output = True

    def forward(self, x: Array) -> Array:
        return np.tanh(x)

    def backward(self, grad: Tensor) -> Tensor:
        y = self.saved_output()
        return grad * (1 - y * y)


class Sigmoid(Function):
    saves_output = True

    def forward(self, x: Array) -> Array:
        # 1 / (1 + exp(-x)) overflows for large negative x; tanh does not
        half = x.dtype.type(0.5)
        return half * np.tanh(half * x) + half

    def backward(self, grad: Tensor) -> Tensor:
        y = self.saved_output()
        return grad * y * (1 - y)


class ReLU(Function):
    saves_output = True

    def forward(self, x: Array) -> Array:
        return kernels.backend(x).relu(x)

    def backward(self, grad: Tensor) -> Tensor:
        assert self._output is not None or self.saved() is None
        return ReLUBackward(self._output)(grad)


class ReLUBackward(Function):
    """The gradient where the output was positive, 0 elsewhere; linear in the gradient, so its own
    backward."""

    def __init__(self, y: Array) -> None:
        self.y = y

    def forward(self, grad: Array) -> Array:
        return kernels.backend(grad).relu_backward(grad, self.y)

    def backward(self, grad: Tensor) -> Tensor:
        return ReLUBackward(self.y)(grad)


class Abs(Function):
    """Gradient sign(x), 0 at 0."""

    saved_inputs = (0,)

    def forward(self, x: Array) -> Array:
        return np.abs(x)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        return grad * Tensor._wrap(np.sign(x.data))


class Clamp(Function):
    """Values limited to [low, high]; the gradient passes where low <= x <= high."""

    saved_inputs = (0,)

    def __init__(self, low: float | None, high: float | None) -> None:
        self.low, self.high = low, high

    def forward(self, x: Array) -> Array:
        return np.clip(x, self.low, self.high)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        inside = np.ones(x.shape, bool)
        if self.low is not None:
            inside &= x.data >= self.low
        if self.high is not None:
            inside &= x.data <= self.high
        return where(inside, grad, Tensor._wrap(np.zeros((), grad.dtype)))


class Cast(Function):
    """Another dtype; the gradient is cast back by the walk."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)

    def forward(self, x: Array) -> Array:
        return x.astype(self.dtype)

    def backward(self, grad: Tensor) -> Tensor:
        return grad


class Clone(Function):
    def forward(self, x: Array) -> Array:
        return x.copy(order="K")

    def backward(self, grad: Tensor) -> Tensor:
        return grad


class Mask(Function):
    """Multiplication by a constant array: dropout."""

    def __init__(self, mask: Array) -> None:
        self.mask = mask

    def forward(self, x: Array) -> Array:
        return x * self.mask

    def backward(self, grad: Tensor) -> Tensor:
        return Mask(self.mask)(grad)


# --- the functions ------------------------------------------------------------------------------------------


def add(a: Any, b: Any) -> Tensor:
    """a + b."""
    return Add()(*both(a, b))


def sub(a: Any, b: Any) -> Tensor:
    """a - b."""
    return Sub()(*both(a, b))


def mul(a: Any, b: Any) -> Tensor:
    """a * b."""
    return Mul()(*both(a, b))


def div(a: Any, b: Any) -> Tensor:
    """a / b; integers divide to floats."""
    return Div()(*both(a, b))


def pow(a: Any, b: Any) -> Tensor:
    """a ** b."""
    if isinstance(b, int) and b == 2 and isinstance(a, Tensor):
        return mul(a, a)
    return Pow()(*both(a, b))


def where(condition: Any, a: Any, b: Any) -> Tensor:
    """a where ``condition`` holds, b elsewhere."""
    array = condition.data if isinstance(condition, Tensor) else np.asarray(condition)
    if array.dtype != np.bool_:
        raise TypeError(f"where: condition expects dtype bool, got {array.dtype}")
    return Where(array)(*both(a, b))


def neg(x: Tensor) -> Tensor:
    """-x."""
    return Neg()(x)


def exp(x: Tensor) -> Tensor:
    """e ** x."""
    return Exp()(x)


def log(x: Tensor) -> Tensor:
    """Natural logarithm."""
    return Log()(x)


def sqrt(x: Tensor) -> Tensor:
    """Square root."""
    return Sqrt()(x)


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    return Tanh()(x)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e ** -x)."""
    return Sigmoid()(x)


def relu(x: Tensor) -> Tensor:
    """max(x, 0); gradient 0 at 0; NaN stays NaN."""
    return ReLU()(x)


def abs(x: Tensor) -> Tensor:
    """Absolute value; gradient 0 at 0."""
    return Abs()(x)


def clamp(x: Tensor, min: float | None = None, max: float | None = None) -> Tensor:
    """x limited to [min, max]."""
    if min is None and max is None:
        raise ValueError("clamp: at least one of min and max must be given")
    return Clamp(min, max)(x)


def cast(x: Tensor, dtype: np.dtype[Any]) -> Tensor:
    """x in another dtype (itself when it has it already)."""
    return x if x.dtype == dtype else Cast(dtype)(x)


def clone(x: Tensor) -> Tensor:
    """A copy."""
    return Clone()(x)


def compare(ufunc: Callable[[Array, Array], Array], a: Any, b: Any) -> Tensor:
    """A bool tensor from a NumPy comparison; not differentiable."""
    x, y = both(a, b)
    return Tensor._wrap(ufunc(x.data, y.data))


def mask(x: Tensor, values: Array) -> Tensor:
    """x times a constant array of the same shape."""
    if tuple(values.shape) != x.shape:
        raise ValueError(f"mask: values has shape {tuple(values.shape)}, expected {x.shape}")
    return Mask(values)(x)


def maximum(a: Any, b: Any) -> Tensor:
    """The larger of two, elementwise; ties share the gradient evenly."""
    x, y = both(a, b)
    return where(x.data == y.data, (x + y) * 0.5, where(x.data > y.data, x, y))
