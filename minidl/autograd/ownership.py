"""A gradient that is handed to the user has an array of its own: optimizers and clipping write to it.

Inside the walk gradients share arrays freely: the gradient of a sum is one tensor for both terms, that of
``expand`` a view with strides of 0. An array is copied on its way out unless nobody else can see it, which
CPython's reference counts tell; where there are none, it is always copied.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from minidl.tensor import Tensor

__all__ = ["owned"]

_count: Callable[[Any], int] | None = getattr(sys, "getrefcount", None)
_alone: tuple[int, ...] = ()


def owned(entry: list[Any], connected: bool) -> Tensor:
    """The gradient ``entry[1]``, which is taken out of the list, with an array that nothing else refers to.

    Args:
        entry: (anything, gradient); the list must be the gradient's only holder for its array to be reused.
        connected: keep the gradient's graph (the copy is then a recorded operator).
    """
    from minidl.tensor import Tensor

    global _alone
    if not _alone and _count is not None:
        # what the counts are when nobody else holds anything: one array, and a view of one
        _alone = _holders([None, Tensor._wrap(np.empty((2, 1)).T)])
    free = _count is not None and _is_alone(_holders(entry), entry[1].data)
    g: Tensor = entry.pop()
    if connected:
        return g if free else g.clone()
    return Tensor._wrap(g.data if free else g.data.copy(order="K"))


def _holders(entry: list[Any]) -> tuple[int, ...]:
    """Reference counts of the gradient, its array, and the arrays that this one is a view of."""
    assert _count is not None
    g = entry[1]
    array = g.data
    counts = [_count(g), _count(array)]
    base = array.base
    del g
    while base is not None and not hasattr(base, "block"):  # the pool's memory has more holders, and one user
        counts.append(_count(base))
        base = getattr(base, "base", None)
    return tuple(counts)


def _is_alone(counts: tuple[int, ...], array: Any) -> bool:
    if not isinstance(array, np.ndarray):  # of another device: views are copied
        return counts == _alone[:2]
    expected = [*_alone[:2], *[_alone[2]] * (len(counts) - 2)]
    if list(counts) != expected or not array.flags.writeable:
        return False
    owner = array
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    if not isinstance(owner, np.ndarray) or not owner.flags.owndata:  # anything else may be shared
        return False
    order = sorted(range(array.ndim), key=lambda d: -array.strides[d])
    return bool(array.transpose(order).flags.c_contiguous)
