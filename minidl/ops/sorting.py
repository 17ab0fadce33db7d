"""Operators that order elements: each finds indices with NumPy and picks the values with gather, which carries the
gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minidl.kernels.capturing import perhaps
from minidl.ops._common import Array, axis
from minidl.ops.indexing import gather
from minidl.ops.movement import narrow
from minidl.ops.promotion import plain
from minidl.ops.reduce import amax, amin, argmax, argmin, expect_elements, squeeze_dims
from minidl.tensor import Tensor


class Ordered(NamedTuple):
    """Values, and where they were along the dimension (int64)."""

    values: Tensor
    indices: Tensor


def _order(x: Array, dim: int, descending: bool) -> Array:
    """Indices that sort along ``dim``; equal elements keep their order; NaN counts as the largest."""
    if not descending:
        return np.argsort(x, dim, kind="stable")
    # the ascending order of the reversed array, read backwards, keeps equal elements in their order
    n = x.shape[dim]
    return np.flip(n - 1 - np.argsort(np.flip(x, dim), dim, kind="stable"), dim)


def _picked(x: Tensor, dim: int, indices: Array) -> Ordered:
    index = indices.astype(np.int64, order="C", copy=False)
    return Ordered(gather(x, dim, index), Tensor._wrap(index))


def _scalar(x: Tensor) -> Ordered:
    return Ordered(x * 1, Tensor._wrap(x.xp.zeros((), np.int64)))


def sort(x: Tensor, dim: int = -1, descending: bool = False, stable: bool = True) -> Ordered:
    """Sorted along ``dim``: (values, indices). Equal elements keep their order; NaN counts as the largest.

    ``stable`` is accepted for PyTorch's sake; the order is always stable.
    """
    along = axis("sort", dim, x.ndim)
    return _picked(x, along, _order(x.data, along, descending)) if x.ndim else _scalar(x)


def argsort(x: Tensor, dim: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The indices of :func:`sort`, int64. Not differentiable."""
    along = axis("argsort", dim, x.ndim)
    if x.ndim == 0:
        return Tensor._wrap(x.xp.zeros((), np.int64))
    return plain(lambda array: _order(array, along, descending).astype(np.int64, order="C", copy=False), x)


def topk(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Ordered:
    """The ``k`` largest (or smallest) along ``dim``, best first: (values, indices); of equal ones the first.

    ``sorted`` is accepted for PyTorch's sake; the result is always sorted.

    Raises:
        ValueError: k is negative or larger than the dimension.
    """
    along = axis("topk", dim, x.ndim)
    size = x.shape[along] if x.ndim else 1
    if not isinstance(k, (int, np.integer)) or not 0 <= k <= size:
        raise ValueError(f"topk: k expects an int from 0 to {size}, got {k!r}")
    if x.ndim == 0:
        return _scalar(x)
    order = _order(x.data, along, largest)
    return _picked(x, along, order[(*(slice(None),) * along, slice(int(k)))])


def _best(op: str, x: Tensor, dim: int, keepdim: bool, index: Tensor) -> Ordered:
    """The values at an index that was found along ``dim`` with ``keepdim``."""
    if x.ndim == 0:
        return _scalar(x)
    along = axis(op, dim, x.ndim)
    values = squeeze_dims(gather(x, along, index), (along,), keepdim)
    return Ordered(values, squeeze_dims(index, (along,), keepdim))


def max(x: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The maximum of all elements, or (values, indices) along one ``dim``, or with a tensor :func:`maximum` of the two.

    NaN wins. Of all elements, ties share the gradient evenly (as :func:`amax`); along a dimension the first maximum is
    the one that is returned and gets the gradient.
    """
    if dim is None:
        expect_elements("max", x, dim)
        return amax(x)
    if isinstance(dim, Tensor):
        return x.maximum(dim)
    expect_elements("max", x, dim)
    return _best("max", x, dim, keepdim, argmax(x, dim, True))


def min(x: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The minimum of all elements, or (values, indices) along one ``dim``, or with a tensor :func:`minimum` of the two;
    see :func:`max`."""
    if dim is None:
        expect_elements("min", x, dim)
        return amin(x)
    if isinstance(dim, Tensor):
        return x.minimum(dim)
    expect_elements("min", x, dim)
    return _best("min", x, dim, keepdim, argmin(x, dim, True))


def kthvalue(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Ordered:
    """The k-th smallest along ``dim``, counted from 1: (values, indices)."""
    along = axis("kthvalue", dim, x.ndim)
    size = x.shape[along] if x.ndim else 1
    if not isinstance(k, (int, np.integer)) or not 1 <= k <= size:
        raise ValueError(f"kthvalue: k expects an int from 1 to {size}, got {k!r}")
    if x.ndim == 0:
        return _scalar(x)
    index = narrow(argsort(x, along), along, int(k) - 1, 1)
    return _best("kthvalue", x, along, keepdim, index)


def median(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The median of all elements, or (values, indices) along ``dim``: the lower of the two in the middle; NaN wins.

    Raises:
        ValueError: there are no elements.
    """
    if dim is None:
        flat = x.flatten()
        return median(flat, 0).values
    along = axis("median", dim, x.ndim)
    size = x.shape[along] if x.ndim else 1
    if size == 0:
        raise ValueError(f"median: no elements along dim {dim} of shape {x.shape}")
    if x.ndim == 0:
        return _scalar(x)
    index = narrow(argsort(x, along), along, (size - 1) // 2, 1).data
    lost = x.data != x.data
    if perhaps(lost):
        index = np.where(lost.any(along, keepdims=True), lost.argmax(along, keepdims=True), index)
    return _best("median", x, along, keepdim, Tensor._wrap(index))
