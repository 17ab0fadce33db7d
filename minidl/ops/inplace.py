"""Operators that write into their first operand.

Outside of the graph (``no_grad``, or nothing requires a gradient) they write to the memory and raise the version, so
that an operator that saved the old values reports it instead of giving a wrong gradient. Inside, the operator is
recorded as if it had made a new tensor, whose values and place in the graph the operand then takes. Two cases are
refused:

- a leaf that requires a gradient (a parameter): its gradient would be that of a value that is gone;
- a tensor that is a view or has been viewed: the others that look at the same memory are not told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import autograd, random
from minidl.autograd.hooks import move_retained
from minidl.autograd.mode import mode, settle
from minidl.dtypes import promote_types
from minidl.ops.arithmetic import add, clamp, div, mul, neg, pow, relu, sub
from minidl.ops.deferred import Deferred, add_in_place
from minidl.ops.device import to_device
from minidl.ops.indexing import assign, masked_fill
from minidl.ops.movement import expand, two_steps
from minidl.ops.promotion import as_tensor, cast
from minidl.tensor import Tensor


def _write(op: str, x: Tensor, function: Callable[..., Tensor], *args: Any, **options: Any) -> Tensor:
    """Let x become ``function(x, *args, **options)``."""
    settle()
    if mode.witness is not None:
        mode.witness.tensors(x)
    recorded = autograd.is_grad_enabled() and any(
        isinstance(a, Tensor) and a.requires_grad for a in (x, *args, *options.values())
    )
    if isinstance(x.data, np.ndarray) and not x.data.flags.writeable:
        raise RuntimeError(
            f"{op}: the memory of this tensor is read-only (an expanded view?); use .clone() first"
        )
    if recorded and x.requires_grad and x._node is None:
        raise RuntimeError(
            f"{op}: a leaf that requires a gradient cannot be changed in place; do it under no_grad()"
        )
    if recorded and x._version[1]:
        raise RuntimeError(
            f"{op}: this tensor is a view or has views, and writing to it would not be recorded in theirs; "
            "use the operator that is not in place"
        )
    if recorded:  # the operator may save its operand: it gets one with the old values
        old = Tensor._wrap(x.data.copy(order="K"), x._node)
        y = function(old, *args, **options)
        y = (
            y.clone() if y._node is None else y
        )  # copy_ of a leaf: x becomes an operator's result, not the leaf
    else:
        with autograd.no_grad():
            y = function(x, *args, **options)
    if y.shape != x.shape:
        raise ValueError(f"{op}: the result has shape {y.shape}, which does not fit into {x.shape}")
    if y.dtype != x.dtype:
        if promote_types(y.dtype, x.dtype) != x.dtype and (
            y.dtype.kind != x.dtype.kind or x.dtype.kind == "b"
        ):
            raise TypeError(f"{op}: a result of dtype {y.dtype} does not fit into {x.dtype}")
        y = cast(y, x.dtype)
    x.data[...] = y.data
    if mode.witness is not None:
        mode.witness.write(y.data, x.data)
    x.mark_changed()
    if recorded:
        before = x._node
        x._node, x.requires_grad = y._node, y.requires_grad
        move_retained(x, before)
    return x


def add_(x: Tensor, other: Any, *, alpha: float = 1) -> Tensor:
    """x += alpha * other."""
    if type(x) is Deferred and isinstance(other, Tensor) and alpha == 1 and add_in_place(x, other):
        return x
    return _write("add_", x, add, other, alpha=alpha)


def sub_(x: Tensor, other: Any, *, alpha: float = 1) -> Tensor:
    """x -= alpha * other."""
    return _write("sub_", x, sub, other, alpha=alpha)


def mul_(x: Tensor, other: Any) -> Tensor:
    """x *= other."""
    return _write("mul_", x, mul, other)


def div_(x: Tensor, other: Any) -> Tensor:
    """x /= other."""
    return _write("div_", x, div, other)


def pow_(x: Tensor, other: Any) -> Tensor:
    """x **= other."""
    return _write("pow_", x, pow, other)


def neg_(x: Tensor) -> Tensor:
    """x becomes -x."""
    return _write("neg_", x, neg)


def relu_(x: Tensor) -> Tensor:
    """x becomes max(x, 0)."""
    return _write("relu_", x, relu)


def clamp_(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """x becomes x limited to [min, max]."""
    return _write("clamp_", x, clamp, min, max)


def masked_fill_(x: Tensor, mask: Any, value: Any) -> Tensor:
    """x becomes ``value`` where ``mask`` holds."""
    return _write("masked_fill_", x, masked_fill, mask, value)


def _replaced(x: Tensor, source: Tensor) -> Tensor:
    return expand(cast(source, x.dtype), x.shape)


def copy_(x: Tensor, source: Any) -> Tensor:
    """The elements of x become those of ``source`` (a tensor, an array or a number), converted to its dtype.

    ``source`` broadcasts to the shape of x. The gradient flows to ``source``.

    Raises:
        ValueError: the shapes do not fit.
    """
    t = to_device(as_tensor(source, x), x.device)
    extra = t.ndim - x.ndim
    if extra > 0 or any(
        n not in (1, m) for n, m in zip(t.shape, x.shape[-t.ndim :] if t.ndim else (), strict=True)
    ):
        raise ValueError(f"copy_: source has shape {t.shape}, expected {x.shape}")
    return _write("copy_", x, _replaced, t)


def fill_(x: Tensor, value: Any) -> Tensor:
    """All elements of x become ``value``, a number or a 0-d tensor."""
    t = as_tensor(value, x)
    if t.ndim:
        raise ValueError(f"fill_: value expects a number or a 0-d tensor, got shape {t.shape}")
    return _write("fill_", x, _replaced, t)


def zero_(x: Tensor) -> Tensor:
    """All elements of x become 0."""
    return fill_(x, 0)


def uniform_(x: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """The elements of x become uniform in [low, high), from the library's generator (:func:`minidl.manual_seed`)."""
    if not low <= high:
        raise ValueError(f"uniform_: low expects at most high = {high}, got {low}")
    return copy_(
        x, Tensor._wrap(random.drawn(lambda: random.generator().uniform(low, high, x.shape), x.device))
    )


def normal_(x: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """The elements of x become normal, from the library's generator (:func:`minidl.manual_seed`)."""
    if not std >= 0:
        raise ValueError(f"normal_: std expects a number >= 0, got {std}")
    return copy_(
        x, Tensor._wrap(random.drawn(lambda: random.generator().normal(mean, std, x.shape), x.device))
    )


def setitem(x: Tensor, index: Any, value: Any) -> Tensor:
    """x[index] = value, which broadcasts and is converted to the dtype of x.

    Where the index names an element several times the last value wins, and the gradient is its alone.
    """
    settle()
    t = to_device(cast(as_tensor(value, x), x.dtype), x.device)
    recorded = autograd.is_grad_enabled() and (x.requires_grad or t.requires_grad)
    steps = two_steps(index, x.ndim)
    if recorded:
        if steps is not None:
            index = x.xp.unravel_index(x.xp.arange(x.numel()).reshape(x.shape)[steps[0]][steps[1]], x.shape)
        return _write("setitem", x, assign, index, t)
    if isinstance(x.data, np.ndarray) and not x.data.flags.writeable:
        raise RuntimeError(
            "setitem: the memory of this tensor is read-only (an expanded view?); use .clone() first"
        )
    target = x.data if steps is None else x.data[steps[0]]
    try:
        target[index if steps is None else steps[1]] = t.data
    except (IndexError, ValueError) as error:
        raise type(error)(f"setitem: {error}; x has shape {x.shape}, the value {t.shape}") from None
    x.mark_changed()
    return x
