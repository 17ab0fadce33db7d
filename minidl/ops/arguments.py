"""What the public operators are called on: a parameter annotated ``Tensor`` takes a tensor.

An array or a list in its place is an error that names operator and argument, as in PyTorch; it is not converted.
Parameters annotated ``Any`` are operands and take numbers, arrays and lists as well (``add(x, 2)``, labels, indices,
masks).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from minidl.methods import Methods
from minidl.ops._common import expect_tensor
from minidl.tensor import Tensor

__all__ = ["check_tensors", "tensor_parameters"]

Parameter = tuple[int, str, bool]
"""Position, name, and whether None is allowed."""


def tensor_parameters(function: Callable[..., Any]) -> list[Parameter]:
    """The parameters of a function that its annotations say are tensors, each by itself (not ``*tensors``)."""
    if (
        inspect.unwrap(function).__code__.co_flags & inspect.CO_VARARGS
        and "tensors" in function.__annotations__
    ):
        return []
    return [
        (i, name, annotation != "Tensor")
        for i, (name, annotation) in enumerate(function.__annotations__.items())
        if annotation in ("Tensor", "Tensor | None") and name != "return"
    ]


def check_tensors(ops: ModuleType) -> None:
    """Give every operator of the module a check of its tensors, before anything is computed.

    A method is called on a tensor: only those that take further tensors are checked.
    """
    for name in ops.__all__:
        function = getattr(ops, name)
        parameters = tensor_parameters(function)
        if parameters:
            setattr(ops, name, _checked(function, parameters))
        if name in Methods.__annotations__ and len(parameters) > 1:
            setattr(Tensor, name, getattr(ops, name))


def _checked(function: Callable[..., Any], parameters: list[Parameter]) -> Callable[..., Any]:
    """The function; an argument that must be a tensor and is something else is a TypeError that names it."""
    op, first, alone = function.__name__, parameters[0][0], len(parameters) == 1

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        if not (alone and len(args) > first and isinstance(args[first], Tensor)):
            for i, name, optional in parameters:
                if i < len(args):
                    value = args[i]
                elif name in options:
                    value = options[name]
                else:
                    continue  # a default, or one that Python itself reports as missing
                if value is not None or not optional:
                    expect_tensor(op, name, value)
        return function(*args, **options)

    return run
