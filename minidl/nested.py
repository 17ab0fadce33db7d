"""The tensors and arrays in nested lists, tuples and dicts: what a captured step takes and returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import numpy as np

from minidl.kernels import devices
from minidl.tensor import Tensor

__all__ = ["copied", "filled", "leaves", "like", "map_leaves", "signature"]


def map_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    """``value`` with the tensors and NumPy arrays in its nested lists, tuples and dicts changed, in order."""
    if isinstance(value, Tensor | np.ndarray):
        return change(value)
    if isinstance(value, dict):
        items = {k: map_leaves(v, change) for k, v in value.items()}
        if type(value) is dict:
            return items
        result = copy(value)  # an OrderedDict, a defaultdict with its factory
        result.update(items)
        return result
    if isinstance(value, list | tuple):
        values = [map_leaves(v, change) for v in value]
        return type(value)(*values) if hasattr(value, "_fields") else type(value)(values)
    return value


def leaves(value: Any) -> list[Tensor | np.ndarray]:
    """The tensors and NumPy arrays in ``value``, in order."""
    found: list[Tensor | np.ndarray] = []
    map_leaves(value, found.append)
    return found


def signature(value: Any, place: devices.Place) -> Any:
    """What a capture depends on, as far as it comes from the arguments."""
    if isinstance(value, Tensor | np.ndarray):
        array = value.data if isinstance(value, Tensor) else value
        grad = isinstance(value, Tensor) and value.requires_grad
        return "tensor", array.shape, str(array.dtype), array.strides, grad, place.holds(array)
    if isinstance(value, dict):
        return (type(value), *((k, signature(v, place)) for k, v in value.items()))
    if isinstance(value, list | tuple):
        return (type(value), *(signature(v, place) for v in value))
    if value is None or isinstance(value, bool | int | float | str | np.generic):
        return type(value), repr(value)  # -0.0 equals 0.0
    return "object", id(value)  # held by the capture, so that no other gets this number


def like(tensor: Tensor, array: Any) -> Tensor:
    """An array as a tensor that asks for a gradient where ``tensor`` does."""
    return Tensor._wrap(array).requires_grad_(tensor.requires_grad)


def copied(value: Any) -> Any:
    """``value`` with a copy of each tensor, without a graph, and of each array."""

    def copy_of(leaf: Tensor | np.ndarray) -> Tensor | np.ndarray:
        return Tensor._wrap(leaf.data.copy(order="K")) if isinstance(leaf, Tensor) else leaf.copy(order="K")

    return map_leaves(value, copy_of)


def filled(value: Any, tensors: Sequence[Tensor | np.ndarray]) -> Any:
    """``value`` with its tensors and arrays replaced by these, in order."""
    rest = iter(tensors)
    return map_leaves(value, lambda _: next(rest))
