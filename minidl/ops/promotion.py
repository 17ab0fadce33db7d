"""Operands of several dtypes: PyTorch's promotion, and half types that are computed in float32."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from minidl import autograd, kernels
from minidl.autograd import Function
from minidl.autograd.mode import mode, without_autocast
from minidl.dtypes import (
    as_dtype,
    default_dtype,
    float32,
    is_floating,
    is_half,
    result_of,
    scalar_dtype,
)
from minidl.kernels import devices
from minidl.tensor import Tensor

Array = Any
F = TypeVar("F", bound=Callable[..., Tensor])
NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)
"""What counts as a Python number: those, and NumPy's scalars."""


class Cast(Function):
    """Another dtype; the gradient is cast back by the walk."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = as_dtype(dtype)

    def forward(self, x: Array) -> Array:
        return kernels.backend(x).cast(x, self.dtype)

    def backward(self, grad: Tensor) -> Tensor:
        return grad


def plain(compute: Callable[..., Array], *operands: Tensor) -> Tensor:
    """What ``compute`` makes of the operands' arrays, as a tensor without gradient."""
    arrays = [t.data for t in operands]
    if mode.witness is not None:
        return Tensor._wrap(mode.witness.compute(compute, operands, arrays))
    return Tensor._wrap(compute(*arrays))


def cast(x: Tensor, dtype: Any) -> Tensor:
    """x in another dtype (itself when it has it already); differentiable between floating dtypes."""
    dtype = as_dtype(dtype)
    if x.dtype == dtype:
        return x
    if not is_floating(dtype):
        return plain(Cast(dtype).forward, x)
    return Cast(dtype)(x)


def result_type(*operands: Any) -> np.dtype[Any]:
    """The dtype that an operator on these tensors and Python numbers computes in; PyTorch's rules.

    Tensors with dimensions decide; 0-d tensors, then Python numbers, count only when they are of a higher kind
    (bool < integer < float): ``float32 tensor * float64 0-d tensor`` is float32, ``int64 tensor * 0.5`` is float32.

    Raises:
        TypeError: an operand is not a number, or no dtype holds them all.
    """
    ranks: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    for x in operands:
        if isinstance(x, NUMBERS):
            ranks[2].append(scalar_dtype(x))
        else:
            t = x if isinstance(x, Tensor) else _operand("result_type", x, None)
            ranks[0 if t.data.ndim else 1].append(t.data.dtype)
    return result_of(*ranks)


def as_tensor(value: Any, like: Tensor | None = None) -> Tensor:
    """A tensor from an argument. Python numbers take the dtype of ``like`` unless it is of a lower kind (scalars never
    promote)."""
    if isinstance(value, Tensor):
        return value
    if like is not None and isinstance(value, NUMBERS):
        dtype = like.data.dtype
        if dtype.kind in "iub":
            dtype = result_of((), (dtype,), (scalar_dtype(value),))
        return fill(like, value, dtype=dtype)
    return Tensor(value)


def _operand(op: str, value: Any, other: Any) -> Tensor:
    try:
        return as_tensor(value, other if isinstance(other, Tensor) else None)
    except TypeError:
        raise TypeError(f"{op}: expects tensors or real numbers, got {type(value).__name__}") from None


def fill(x: Tensor, value: Any, shape: tuple[int, ...] = (), dtype: Any = None) -> Tensor:
    """One value in a shape, on the device of x and in its dtype unless another is given."""
    dtype = x.data.dtype if dtype is None else dtype
    if not shape and isinstance(x.data, np.ndarray):
        return Tensor._wrap(np.asarray(value, dtype))  # the quick way for what is done most
    return Tensor._wrap(x.xp.full(shape, value, dtype))


def both(op: str, a: Any, b: Any) -> tuple[Tensor, Tensor]:
    """The two operands of a binary operator as tensors of one dtype, see :func:`result_type`.

    Raises:
        TypeError: one is neither a tensor nor numbers.
    """
    if not isinstance(a, Tensor):
        a = _operand(op, a, b)
    if not isinstance(b, Tensor):
        b = _operand(op, b, a)
    if type(a.data) is not type(b.data):
        a, b = _together(a, b)
    da, db = a.data.dtype, b.data.dtype
    if da == db:
        return a, b
    if (a.data.ndim == 0) == (b.data.ndim == 0):
        dtype = result_of((), (da, db), ())
    else:
        dtype = result_of(*(((da,), (db,)) if a.data.ndim else ((db,), (da,))), ())
    return cast(a, dtype), cast(b, dtype)


def widened(x: Array) -> Array:
    """Half types as float32, for sums; others as they are."""
    return x.astype(float32) if is_half(x.dtype) else x


def _together(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors on one device: one without dimensions follows the other, as in PyTorch.

    Raises:
        ValueError: both have dimensions and lie on two devices.
    """
    from minidl.ops.device import to_device

    if a.device == b.device:
        return a, b
    if b.data.ndim == 0:
        return a, to_device(b, a.device)
    if a.data.ndim == 0:
        return to_device(a, b.device), b
    raise ValueError(
        f"operands on two devices: shape {a.shape} on {a.device}, shape {b.shape} on {b.device}; "
        f"move one with .to({a.device!r})"
    )


def beside(values: Any, x: Tensor) -> Array:
    """The array in ``values`` (a tensor, an array or a list) on the device of x: a copy if it lies elsewhere."""
    array = values.data if isinstance(values, Tensor) else values
    if isinstance(x.data, np.ndarray):
        return devices.host(array) if devices.is_array(array) else np.asarray(array)
    return devices.move(array if devices.is_array(array) else np.asarray(array), x.device)


def constant(values: Any, x: Tensor | None = None) -> Array:
    """The array of an index, a mask or labels, which backward reads again: a copy while operators are recorded, so that
    the caller may write to its own. The copy is read-only, and is not copied again. With x it lies on the device of x.
    """
    array = values.data if isinstance(values, Tensor) else values
    if x is not None and not isinstance(x.data, np.ndarray):
        array = beside(array, x)
    if devices.is_array(array):  # CuPy's arrays cannot be made read-only
        return array.copy() if autograd.is_grad_enabled() else array
    array = np.asarray(array)
    own = array.flags.owndata and not array.flags.writeable
    if own or not autograd.is_grad_enabled() or mode.witness is not None:  # replays write to it
        return array
    array = array.copy()
    array.flags.writeable = False
    return array


def floating(x: Any) -> Tensor:
    """The operand of a function with real values: integers and bools become the default float."""
    t = x if isinstance(x, Tensor) else Tensor(x)
    return t if is_floating(t.data.dtype) else cast(t, default_dtype)


def in_float32(function: F) -> F:
    """Decorator: half-type tensor arguments are computed in float32 and the result is converted back.

    For operators that add many elements (sums, means, norms, matrix products): in float16 a sum stops growing at 2048
    ones, in bfloat16 at 256. Arguments of several floating dtypes are left to the function. Under ``minidl.autocast``
    half types are computed in float32 beside float32 ones, and the result stays float32.
    """

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Tensor:
        floats = {
            a.data.dtype
            for a in (*args, *options.values())
            if isinstance(a, Tensor) and is_floating(a.data.dtype)
        }
        halves = [d for d in floats if is_half(d)]
        if not halves or (len(floats) != 1 and mode.autocast is None):
            return function(*args, **options)

        def wide(a: Any) -> Any:
            return cast(a, float32) if isinstance(a, Tensor) and a.data.dtype in halves else a

        y = function(*[wide(a) for a in args], **{k: wide(a) for k, a in options.items()})
        return cast(y, halves[0]) if y.data.dtype == float32 and mode.autocast is None else y

    return run  # type: ignore[return-value]


def product(function: F) -> F:
    """Decorator of convolutions and matrix products: ``minidl.autocast`` casts their float32 tensors to its dtype."""

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Tensor:
        half = mode.autocast
        if half is None:
            return function(*args, **options)

        def narrow(a: Any) -> Any:
            return cast(a, half) if isinstance(a, Tensor) and a.data.dtype == float32 else a

        with without_autocast():
            return function(*[narrow(a) for a in args], **{k: narrow(a) for k, a in options.items()})

    return run  # type: ignore[return-value]


def mixed(a: np.dtype[Any], b: np.dtype[Any]) -> bool:
    """Whether ``minidl.autocast`` lets these dtypes meet where one dtype is expected: float32 and its own."""
    return mode.autocast is not None and {a, b} == {float32, mode.autocast}


def alike(x: Tensor, t: Any) -> Any:
    """``t`` in the dtype of x if the two are :func:`mixed`, else as it is."""
    return cast(t, x.dtype) if isinstance(t, Tensor) and mixed(t.dtype, x.dtype) else t


def has_half_kernels(x: Any) -> bool:
    """Whether the products of this tensor's device add half types up in float32 by themselves."""
    return isinstance(x, Tensor) and not isinstance(x.data, np.ndarray) and is_half(x.data.dtype)
