"""Elementwise arithmetic: one number in (or a broadcast pair), one number out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from minidl import kernels
from minidl.autograd import Function
from minidl.autograd.function import expect_broadcast
from minidl.dtypes import is_floating
from minidl.kernels.capturing import may_read, reads
from minidl.ops.deferred import Deferred, continued
from minidl.ops.promotion import NUMBERS, Array, both, cast, constant, fill, plain, result_type
from minidl.tensor import Tensor


def quiet() -> np.errstate:
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
    saved_for: ClassVar = {0: 1, 1: 0}
    broadcasts = True

    def forward(self, a: Array, b: Array) -> Array:
        return a * b

    def backward(self, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = self.saved()
        return grad * b if self.needs_input_grad[0] else None, grad * a if self.needs_input_grad[1] else None


class Div(Function):
    saved_inputs = (0, 1)
    saved_for: ClassVar = {0: 1}
    broadcasts = True

    def forward(self, a: Array, b: Array) -> Array:
        with quiet():
            return a / b

    def backward(self, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = self.saved()
        ga = grad / b if self.needs_input_grad[0] else None
        gb = -grad * a / (b * b) if self.needs_input_grad[1] else None
        return ga, gb


class Pow(Function):
    """a ** b. The gradient by b is 0 where a = 0 and b >= 0 (its limit from b > 0), and NaN where a < 0."""

    saved_inputs = (0, 1)
    broadcasts = True

    def forward(self, a: Array, b: Array) -> Array:
        with quiet():
            return np.power(a, b)

    def backward(self, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = self.saved()
        ga = gb = None
        if self.needs_input_grad[0]:
            # b * a**(b - 1) is 0 where b is 0, but 0 * 0**-1 would be NaN. A constant exponent of 0 is taken out
            # altogether; one that is differentiated only where it must be: d/db of the gradient is 1/a there.
            flat = b.data == 0
            if self.needs_input_grad[1]:
                flat = flat & (a.data == 0)
            exponent = where(flat, _scalar(1, b), b) - 1
            ga = grad * b * pow(a, exponent)
        if self.needs_input_grad[1]:
            at_zero = (a.data == 0) & (b.data >= 0)
            gb = grad * pow(a, b) * where(at_zero, _scalar(1, a), a).log()
        return ga, gb


class Where(Function):
    """Elements of a where the condition holds, of b elsewhere."""

    broadcasts = True

    def __init__(self, condition: Array) -> None:
        self.condition = condition

    def forward(self, a: Array, b: Array) -> Array:
        try:
            return np.where(self.condition, a, b)
        except ValueError:
            expect_broadcast("where", self.condition.shape, a.shape, b.shape)
            raise

    def backward(self, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        zero = _scalar(0, grad)
        ga = where(self.condition, grad, zero) if self.needs_input_grad[0] else None
        gb = where(self.condition, zero, grad) if self.needs_input_grad[1] else None
        return ga, gb


class Extreme(Function):
    """The larger (or smaller) of two; NaN wins; ties share the gradient evenly."""

    saved_inputs = (0, 1)
    broadcasts = True

    def __init__(self, largest: bool) -> None:
        self.largest = largest

    @property
    def name(self) -> str:
        return "Maximum" if self.largest else "Minimum"

    def forward(self, a: Array, b: Array) -> Array:
        return np.maximum(a, b) if self.largest else np.minimum(a, b)

    def backward(self, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = (t.data for t in self.saved())
        upper, lower = (a, b) if self.largest else (b, a)
        share = np.where(a == b, 0.5, np.greater(upper, lower)).astype(grad.dtype)  # of the gradient, for a
        ga = grad * Tensor._wrap(share) if self.needs_input_grad[0] else None
        gb = grad * Tensor._wrap((1 - share).astype(grad.dtype)) if self.needs_input_grad[1] else None
        return ga, gb


# --- one operand --------------------------------------------------------------------------------------------


class Neg(Function):
    def forward(self, x: Array) -> Array:
        return -x

    def backward(self, grad: Tensor) -> Tensor:
        return -grad


class ReLU(Function):
    saves_output = True

    def forward(self, x: Array) -> Array:
        return kernels.backend(x).relu(x)

    def backward(self, grad: Tensor) -> Tensor:
        return ReLUBackward()(grad, self.saved_output().detach())


class ReLUBackward(Function):
    """The gradient where the output was positive, 0 elsewhere; linear in the gradient, so its own
    backward."""

    saved_inputs = (1,)

    def forward(self, grad: Array, y: Array) -> Array:
        return kernels.backend(grad).relu_backward(grad, y)

    def backward(self, grad: Tensor) -> tuple[Tensor, None]:
        return ReLUBackward()(grad, *self.saved()), None


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

    def __init__(self, low: Any, high: Any) -> None:
        self.low, self.high = low, high

    def forward(self, x: Array) -> Array:
        if self.low is not None:
            x = np.maximum(x, x.dtype.type(self.low))
        return x if self.high is None else np.minimum(x, x.dtype.type(self.high))

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        inside = x.xp.ones(x.shape, bool)
        if self.low is not None:
            inside &= x.data >= x.dtype.type(self.low)
        if self.high is not None:
            inside &= x.data <= x.dtype.type(self.high)
        return where(inside, grad, _scalar(0, grad))


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


def _scalar(value: float, like: Tensor) -> Tensor:
    return fill(like, value)


def _not_bool(op: str, a: Tensor) -> Tensor:
    if a.data.dtype == np.bool_:
        raise TypeError(f"{op}: not defined for bool tensors; use logical_not or logical_xor")
    return a


def add(a: Any, b: Any, *, alpha: float = 1) -> Tensor:
    """a + alpha * b, with broadcasting and promotion (:func:`result_type`)."""
    if (type(a) is Deferred or type(b) is Deferred) and alpha == 1 and a is not b:
        for x, y in ((a, b), (b, a)):
            later = continued(x, y, False) if isinstance(y, Tensor) else None
            if later is not None:
                return later
    return Add()(*both("add", a, b if alpha == 1 else mul(b, alpha)))


def sub(a: Any, b: Any, *, alpha: float = 1) -> Tensor:
    """a - alpha * b, with broadcasting and promotion.

    Raises:
        TypeError: for two bool tensors.
    """
    x, y = both("sub", a, b if alpha == 1 else mul(b, alpha))
    return Sub()(_not_bool("sub", x), y)


def mul(a: Any, b: Any) -> Tensor:
    """a * b, with broadcasting and promotion."""
    return Mul()(*both("mul", a, b))


def div(a: Any, b: Any, *, rounding_mode: str | None = None) -> Tensor:
    """a / b, with broadcasting and promotion; integers divide to floats.

    ``rounding_mode`` "floor" or "trunc" rounds the quotient, keeps integers, and has gradient 0.
    """
    if rounding_mode is not None:
        from minidl.ops.rounding import rounded_div

        return rounded_div(a, b, rounding_mode)
    x, y = both("div", a, b)
    if not is_floating(x.data.dtype):
        x, y = cast(x, np.float32), cast(y, np.float32)
    return Div()(x, y)


def pow(a: Any, b: Any) -> Tensor:
    """a ** b, with broadcasting and promotion; 0 ** 0 is 1.

    Raises:
        ValueError: integers to a negative integer power.
    """
    if isinstance(b, int) and b == 2 and isinstance(a, Tensor) and a.data.dtype != np.bool_:
        return mul(a, a)
    x, y = both("pow", a, b)
    if x.data.dtype.kind in "iu" and may_read() and (y.data < 0).any():
        raise ValueError("pow: b expects integers >= 0 where both are integers, got a negative one")
    return Pow()(x, y)


def where(condition: Any, a: Any = None, b: Any = None) -> Any:
    """a where ``condition`` holds, b elsewhere, all three broadcast; with the condition alone, the indices where it
    holds: one int64 tensor for each dimension.

    Raises:
        TypeError: the condition is not bool, or one of a and b is missing.
    """
    near = next((t for t in (a, b, condition) if isinstance(t, Tensor)), None)
    array = constant(condition, near)
    if a is None and b is None:
        reads(array, "where() with a condition alone")
        return tuple([Tensor._wrap(i) for i in np.nonzero(array)])
    if a is None or b is None:
        raise TypeError("where: expects both a and b, or neither")
    if array.dtype != np.bool_:
        raise TypeError(f"where: condition expects dtype bool, got {array.dtype}")
    return Where(array)(*both("where", a, b))


def maximum(a: Any, b: Any) -> Tensor:
    """The larger of two, elementwise; NaN wins; ties share the gradient evenly."""
    return Extreme(True)(*both("maximum", a, b))


def minimum(a: Any, b: Any) -> Tensor:
    """The smaller of two, elementwise; NaN wins; ties share the gradient evenly."""
    return Extreme(False)(*both("minimum", a, b))


def neg(x: Tensor) -> Tensor:
    """-x."""
    return Neg()(_not_bool("neg", x))


def relu(x: Tensor) -> Tensor:
    """max(x, 0); gradient 0 at 0; NaN stays NaN."""
    if type(x) is Deferred:
        later = continued(x, None, True)
        if later is not None:
            return later
    return ReLU()(x)


def abs(x: Tensor) -> Tensor:
    """Absolute value; gradient 0 at 0."""
    return Abs()(_not_bool("abs", x))


def clamp(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """x limited to [min, max], numbers or tensors; the gradient passes where min <= x <= max.

    Where min > max the result is max. NaN stays NaN. A bound that is a tensor gets the gradient of the elements that
    it replaces.

    Raises:
        ValueError: neither bound is given.
    """
    if min is None and max is None:
        raise ValueError("clamp: at least one of min and max must be given")
    if all(bound is None or isinstance(bound, NUMBERS) for bound in (min, max)):
        return Clamp(min, max)(cast(x, result_type(x, *[v for v in (min, max) if v is not None])))
    if min is not None:
        x, low = both("clamp", x, min)
        expect_broadcast("clamp", x.shape, low.shape)
        x = where(x.data < low.data, low, x)
    if max is not None:
        x, high = both("clamp", x, max)
        expect_broadcast("clamp", x.shape, high.shape)
        x = where(x.data > high.data, high, x)
    return x


def clone(x: Tensor) -> Tensor:
    """A copy with the same layout in memory."""
    return Clone()(x)


COMPARISONS = {
    "equal": "eq",
    "not_equal": "ne",
    "less": "lt",
    "less_equal": "le",
    "greater": "gt",
    "greater_equal": "ge",
}
"""NumPy's names and the operators'."""


def compare(ufunc: Callable[[Array, Array], Array], a: Any, b: Any) -> Tensor:
    """A bool tensor from a NumPy comparison, with broadcasting and promotion; not differentiable."""
    if isinstance(b, int) and isinstance(a, Tensor) and a.data.dtype.kind in "iu":
        return plain(lambda x: ufunc(x, b), a)  # NumPy compares with ints that the dtype does not hold
    op = COMPARISONS.get(ufunc.__name__, ufunc.__name__)
    x, y = both(op, a, b)
    try:
        return plain(ufunc, x, y)
    except ValueError:
        expect_broadcast(op, x.shape, y.shape)
        raise


def mask(x: Tensor, values: Array) -> Tensor:
    """x times a constant array of the same shape."""
    if tuple(values.shape) != x.shape:
        raise ValueError(f"mask: values has shape {tuple(values.shape)}, expected {x.shape}")
    return Mask(values)(x)


def lerp(start: Any, end: Any, weight: Any) -> Tensor:
    """start + weight * (end - start)."""
    a, b = both("lerp", start, end)
    expect_broadcast("lerp", a.shape, b.shape)
    return add(a, mul(sub(b, a), weight))


def square(x: Tensor) -> Tensor:
    """x * x."""
    return mul(x, x)
