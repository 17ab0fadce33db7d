"""Elementwise functions of one real number: exponentials, logarithms, roots, trigonometric and hyperbolic functions.

Integers and bools become float32 first. Outside of a function's domain the value is NaN, at a pole it is infinite.
Derivatives: Abramowitz & Stegun, 4.2 - 4.6 and 7.1.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from minidl import kernels
from minidl.autograd import Function, is_grad_enabled
from minidl.ops.arithmetic import quiet, where
from minidl.ops.promotion import Array, both, fill, floating
from minidl.ops.special import erf_array
from minidl.tensor import Tensor

# --- exponentials and logarithms ----------------------------------------------------------------------------


class Exp(Function):
    saves_output = True

    def forward(self, x: Array) -> Array:
        with quiet():
            return np.exp(x)

    def backward(self, grad: Tensor) -> Tensor:
        return grad * self.saved_output()


class Exp2(Function):
    saves_output = True

    def forward(self, x: Array) -> Array:
        with quiet():
            return np.exp2(x)

    def backward(self, grad: Tensor) -> Tensor:
        return grad * self.saved_output() * math.log(2)


class Expm1(Function):
    saves_output = True

    def forward(self, x: Array) -> Array:
        with quiet():
            return np.expm1(x)

    def backward(self, grad: Tensor) -> Tensor:
        return grad * (self.saved_output() + 1)


class Log(Function):
    saved_inputs = (0,)

    def forward(self, x: Array) -> Array:
        with quiet():
            return np.log(x)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        return grad / x


class Log1p(Function):
    saved_inputs = (0,)

    def forward(self, x: Array) -> Array:
        with quiet():
            return np.log1p(x)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        return grad / (x + 1)


class Log2(Function):
    saved_inputs = (0,)

    def forward(self, x: Array) -> Array:
        with quiet():
            return np.log2(x)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        return grad / (x * math.log(2))


class Log10(Function):
    saved_inputs = (0,)

    def forward(self, x: Array) -> Array:
        with quiet():
            return np.log10(x)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        return grad / (x * math.log(10))


# --- powers -------------------------------------------------------------------------------------------------


class Sqrt(Function):
    saves_output = True

    def forward(self, x: Array) -> Array:
        with quiet():
            return np.sqrt(x)

    def backward(self, grad: Tensor) -> Tensor:
        return grad / (self.saved_output() * 2)


class Rsqrt(Function):
    """x ** -1/2, with derivative -1/2 x ** -3/2."""

    saves_output = True

    def forward(self, x: Array) -> Array:
        with quiet():
            return np.reciprocal(np.sqrt(x))

    def backward(self, grad: Tensor) -> Tensor:
        y = self.saved_output()
        return grad * (y * y * y) * -0.5


class Reciprocal(Function):
    saves_output = True

    def forward(self, x: Array) -> Array:
        with quiet():
            return np.reciprocal(x)

    def backward(self, grad: Tensor) -> Tensor:
        y = self.saved_output()
        return -grad * (y * y)


# --- trigonometric functions and their inverses -------------------------------------------------------------


class Sin(Function):
    saved_inputs = (0,)

    def forward(self, x: Array) -> Array:
        with quiet():
            return np.sin(x)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        return grad * cos(x)


class Cos(Function):
    saved_inputs = (0,)

    def forward(self, x: Array) -> Array:
        with quiet():
            return np.cos(x)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        return -grad * sin(x)


class Tan(Function):
    saves_output = True

    def forward(self, x: Array) -> Array:
        with quiet():
            return np.tan(x)

    def backward(self, grad: Tensor) -> Tensor:
        y = self.saved_output()
        return grad * (y * y + 1)


class Asin(Function):
    saved_inputs = (0,)

    def forward(self, x: Array) -> Array:
        with quiet():
            return np.arcsin(x)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        return grad * rsqrt((1 - x) * (1 + x))  # 1 - x*x would lose the digits of x near 1


class Acos(Function):
    saved_inputs = (0,)

    def forward(self, x: Array) -> Array:
        with quiet():
            return np.arccos(x)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        return -grad * rsqrt((1 - x) * (1 + x))


class Atan(Function):
    saved_inputs = (0,)

    def forward(self, x: Array) -> Array:
        return np.arctan(x)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        return grad / (x * x + 1)


class Atan2(Function):
    """The angle of the point (x, y), in (-pi, pi]; the gradient at the origin is 0, as in PyTorch."""

    saved_inputs = (0, 1)
    broadcasts = True

    def forward(self, y: Array, x: Array) -> Array:
        return np.arctan2(y, x)

    def backward(self, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        y, x = self.saved()
        square = x * x + y * y
        scaled = grad / where(square.data == 0, fill(square, 1), square)
        gy = scaled * x if self.needs_input_grad[0] else None
        gx = -scaled * y if self.needs_input_grad[1] else None
        return gy, gx


# --- hyperbolic functions and their inverses ----------------------------------------------------------------


class Sinh(Function):
    saved_inputs = (0,)

    def forward(self, x: Array) -> Array:
        with quiet():
            return np.sinh(x)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        return grad * cosh(x)


class Cosh(Function):
    saved_inputs = (0,)

    def forward(self, x: Array) -> Array:
        with quiet():
            return np.cosh(x)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        return grad * sinh(x)


class Tanh(Function):
    saves_output = True

    def forward(self, x: Array) -> Array:
        return np.tanh(x)

    def backward(self, grad: Tensor) -> Tensor:
        return TanhBackward()(grad, self.saved_output())


class TanhBackward(Function):
    """grad * (1 - y * y) as one operator: a chain of small tensors costs what its operators cost."""

    saved_inputs = (0, 1)
    saved_for: ClassVar = {0: 1}

    def forward(self, grad: Array, y: Array) -> Array:
        return grad * (1 - y * y)

    def backward(self, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        grad, y = self.saved()
        ggrad = TanhBackward()(g, y) if self.needs_input_grad[0] else None
        gy = g * grad * y * -2 if self.needs_input_grad[1] else None
        return ggrad, gy


class Asinh(Function):
    saved_inputs = (0,)

    def forward(self, x: Array) -> Array:
        return np.arcsinh(x)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        return grad * rsqrt(x * x + 1)


class Acosh(Function):
    saved_inputs = (0,)

    def forward(self, x: Array) -> Array:
        with quiet():
            return np.arccosh(x)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        return grad * rsqrt((x - 1) * (x + 1))


class Atanh(Function):
    saved_inputs = (0,)

    def forward(self, x: Array) -> Array:
        with quiet():
            return np.arctanh(x)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        return grad / ((1 - x) * (1 + x))


class Sigmoid(Function):
    """1 / (1 + exp(-x)), without overflow."""

    saves_output = True

    def forward(self, x: Array) -> Array:
        return kernels.backend(x).sigmoid(x)

    def backward(self, grad: Tensor) -> Tensor:
        if not is_grad_enabled():
            return Tensor._wrap(kernels.backend(grad.data).sigmoid_backward(grad.data, self._output))
        y = self.saved_output()
        return grad * (y * (1 - y))


class Erf(Function):
    """The error function, with derivative 2/sqrt(pi) exp(-x*x)."""

    saved_inputs = (0,)

    def forward(self, x: Array) -> Array:
        return erf_array(x)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        return grad * exp(-(x * x)) * (2 / math.sqrt(math.pi))


# --- the functions ------------------------------------------------------------------------------------------


def exp(x: Tensor) -> Tensor:
    """e ** x."""
    return Exp()(floating(x))


def exp2(x: Tensor) -> Tensor:
    """2 ** x."""
    return Exp2()(floating(x))


def expm1(x: Tensor) -> Tensor:
    """e ** x - 1, accurate near 0."""
    return Expm1()(floating(x))


def log(x: Tensor) -> Tensor:
    """Natural logarithm; -inf at 0, NaN below."""
    return Log()(floating(x))


def log1p(x: Tensor) -> Tensor:
    """Natural logarithm of 1 + x, accurate near 0."""
    return Log1p()(floating(x))


def log2(x: Tensor) -> Tensor:
    """Logarithm to base 2."""
    return Log2()(floating(x))


def log10(x: Tensor) -> Tensor:
    """Logarithm to base 10."""
    return Log10()(floating(x))


def sqrt(x: Tensor) -> Tensor:
    """Square root; NaN below 0."""
    return Sqrt()(floating(x))


def rsqrt(x: Tensor) -> Tensor:
    """1 / sqrt(x); infinite at 0, NaN below."""
    return Rsqrt()(floating(x))


def reciprocal(x: Tensor) -> Tensor:
    """1 / x."""
    return Reciprocal()(floating(x))


def sin(x: Tensor) -> Tensor:
    """Sine of x in radians."""
    return Sin()(floating(x))


def cos(x: Tensor) -> Tensor:
    """Cosine of x in radians."""
    return Cos()(floating(x))


def tan(x: Tensor) -> Tensor:
    """Tangent of x in radians."""
    return Tan()(floating(x))


def asin(x: Tensor) -> Tensor:
    """Inverse sine, in [-pi/2, pi/2]; NaN outside of [-1, 1]."""
    return Asin()(floating(x))


def acos(x: Tensor) -> Tensor:
    """Inverse cosine, in [0, pi]; NaN outside of [-1, 1]."""
    return Acos()(floating(x))


def atan(x: Tensor) -> Tensor:
    """Inverse tangent, in (-pi/2, pi/2)."""
    return Atan()(floating(x))


def atan2(y: Any, x: Any) -> Tensor:
    """The angle of the point (x, y) in (-pi, pi], with broadcasting and promotion; gradient 0 at the origin."""
    a, b = both("atan2", y, x)
    return Atan2()(floating(a), floating(b))


def sinh(x: Tensor) -> Tensor:
    """Hyperbolic sine."""
    return Sinh()(floating(x))


def cosh(x: Tensor) -> Tensor:
    """Hyperbolic cosine."""
    return Cosh()(floating(x))


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    return Tanh()(floating(x))


def asinh(x: Tensor) -> Tensor:
    """Inverse hyperbolic sine."""
    return Asinh()(floating(x))


def acosh(x: Tensor) -> Tensor:
    """Inverse hyperbolic cosine, at least 0; NaN below 1."""
    return Acosh()(floating(x))


def atanh(x: Tensor) -> Tensor:
    """Inverse hyperbolic tangent; infinite at -1 and 1, NaN outside."""
    return Atanh()(floating(x))


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e ** -x)."""
    return Sigmoid()(floating(x))


def erf(x: Tensor) -> Tensor:
    """The error function 2/sqrt(pi) times the integral of exp(-t*t) from 0 to x."""
    return Erf()(floating(x))
