"""Wrong uses of the operators, each with the exact text of its error.

Those in which something else stands in the place of a tensor need no list: they follow from the annotations, see
:func:`not_a_tensor`.
"""

from __future__ import annotations

import functools
from typing import Any

from minidl import ops
from minidl.ops.arguments import tensor_parameters
from minidl.testing.cases.wrong import losses, math, neural, shape
from minidl.testing.cases.wrong.use import ARRAY, MATRIX, Wrong

__all__ = ["ANY_TENSOR", "SPEAKS_AS", "WRITTEN", "WRONG", "Wrong", "not_a_tensor"]


def not_a_tensor(name: str) -> list[Wrong]:
    """An array in the place of each tensor that an operator takes, with tensors in the places before it."""
    found = []
    before: dict[str, Any] = {}
    for _, parameter, _ in tensor_parameters(getattr(ops, name)):
        call = functools.partial(_call, name, {**before, parameter: ARRAY})
        text = f"{name}: {parameter} expects a Tensor, got ndarray; minidl.tensor(...) makes one"
        found.append(Wrong(name, call, TypeError, text))
        before[parameter] = MATRIX
    return found


def _call(name: str, options: dict[str, Any], m: Any, F: Any) -> Any:
    return getattr(m.ops, name)(**options)


WRITTEN: list[Wrong] = [*math.TABLE, *shape.TABLE, *neural.TABLE, *losses.TABLE]
WRONG: list[Wrong] = [*[use for name in ops.__all__ for use in not_a_tensor(name)], *WRITTEN]

SPEAKS_AS: dict[str, str] = {
    **{f"{name}_": name for name in ("add", "clamp", "masked_fill", "mul", "neg", "sub")},
    "assign": "setitem",
    "broadcast_to": "expand",
    "cast": "dtype",
    "compare": "lt",
    "logical": "bitwise_and",
    "to_device": "device 'tpu'",
    "zero_": "fill_",
}
"""Operators whose message names the one that they consist of, or the argument."""

ANY_TENSOR: tuple[str, ...] = (
    "acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "clone", "contiguous", "cos", "cosh", "equal",
    "erf", "exp", "exp2", "expm1", "floor", "isfinite", "isinf", "isnan", "log", "log10", "log1p", "log2",
    "logical_not", "nan_to_num", "nonzero", "reciprocal", "relu", "rsqrt", "sigmoid", "sign", "sin", "sinh", "sqrt",
    "square", "tan", "tanh", "trunc",
)  # fmt: skip
"""Operators that work on tensors of every shape and dtype and have no option that could be wrong: their only wrong use
is something that is no tensor."""
