"""Operators that rearrange whole dimensions: mirrored, rolled, repeated, cut into pieces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.autograd import Function
from minidl.autograd.function import expect_broadcast
from minidl.kernels import devices
from minidl.ops._common import Array, axes, axis, expect_tensors
from minidl.ops.movement import expand, getitem, narrow, permute, reshape, transpose, unsqueeze
from minidl.tensor import Tensor

Dims = int | Sequence[int]


class Flip(Function):
    """The order along some dimensions reversed; its own adjoint."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        self.dims = dims

    def forward(self, x: Array) -> Array:
        return np.flip(x, self.dims).copy(order="K")

    def backward(self, grad: Tensor) -> Tensor:
        return Flip(self.dims)(grad)


class Roll(Function):
    """Elements moved along dimensions, those that leave at one end return at the other; adjoint: rolled back."""

    def __init__(self, shifts: tuple[int, ...], dims: tuple[int, ...]) -> None:
        self.shifts, self.dims = shifts, dims

    def forward(self, x: Array) -> Array:
        return np.roll(x, self.shifts, self.dims)

    def backward(self, grad: Tensor) -> Tensor:
        return Roll(tuple(-s for s in self.shifts), self.dims)(grad)


class Contiguous(Function):
    """A copy whose elements lie in memory in the order of their indices."""

    def forward(self, x: Array) -> Array:
        return x.copy(order="C")

    def backward(self, grad: Tensor) -> Tensor:
        return grad


def _several(value: Dims) -> tuple[int, ...]:
    return (int(value),) if isinstance(value, (int, np.integer)) else tuple(int(v) for v in value)


def contiguous(x: Tensor) -> Tensor:
    """A copy whose elements lie in memory in the order of their indices."""
    return Contiguous()(x)


def unflatten(x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """One dimension split into several of the given sizes (one may be -1); the inverse of :func:`flatten`."""
    along = axis("unflatten", dim, x.ndim)
    if not x.ndim:
        raise ValueError("unflatten: expects at least one dimension, got a 0-d tensor")
    parts = [int(n) for n in sizes]
    known = math.prod(n for n in parts if n != -1)
    if parts.count(-1) == 1 and known > 0:
        parts[parts.index(-1)] = x.shape[along] // known
    if min(parts, default=0) < 0 or math.prod(parts) != x.shape[along]:
        raise ValueError(
            f"unflatten: sizes {tuple(sizes)} do not multiply to the {x.shape[along]} of dim {dim}"
        )
    return reshape(x, (*x.shape[:along], *parts, *x.shape[along + 1 :]))


def flip(x: Tensor, dims: Dims) -> Tensor:
    """The order along ``dims`` reversed (a copy)."""
    return Flip(axes("flip", _several(dims), x.ndim))(x)


def roll(x: Tensor, shifts: Dims, dims: Dims | None = None) -> Tensor:
    """Elements moved by ``shifts`` along ``dims``, around the end; of the flattened tensor when ``dims`` is None."""
    steps = _several(shifts)
    if dims is None:
        if len(steps) != 1:
            raise ValueError(f"roll: shifts expects one int without dims, got {shifts}")
        return reshape(roll(x.flatten(), steps, 0), x.shape)
    along = tuple(axis("roll", d, x.ndim) for d in _several(dims))
    if len(along) != len(steps):
        raise ValueError(f"roll: shifts and dims expect one length, got {shifts} and {dims}")
    return Roll(steps, along)(x) if x.ndim else x * 1


def repeat(x: Tensor, *counts: Any) -> Tensor:
    """The tensor repeated along each dimension, ``counts`` times (as ``numpy.tile``); further counts on the left add
    dimensions. A copy.

    Raises:
        ValueError: fewer counts than dimensions, or a negative one.
    """
    times = _several(counts[0] if len(counts) == 1 else counts)
    if len(times) < x.ndim or min(times, default=0) < 0:
        raise ValueError(f"repeat: counts expects at least {x.ndim} ints >= 0, got {times}")
    shape = (1,) * (len(times) - x.ndim) + x.shape
    split = [n for pair in zip((1,) * len(shape), shape, strict=True) for n in pair]
    wide = [n for pair in zip(times, shape, strict=True) for n in pair]
    y = reshape(expand(reshape(x, split), wide), [t * n for t, n in zip(times, shape, strict=True)])
    return y.clone() if np.may_share_memory(y.data, x.data) else y


def tile(x: Tensor, *counts: Any) -> Tensor:
    """As :func:`repeat`; missing counts on the left are 1."""
    times = _several(counts[0] if len(counts) == 1 else counts)
    if min(times, default=0) < 0:
        raise ValueError(f"tile: counts expects ints >= 0, got {times}")
    return repeat(x, (1,) * (x.ndim - len(times)) + times)


def repeat_interleave(x: Tensor, repeats: Any, dim: int | None = None) -> Tensor:
    """Each slice along ``dim`` repeated in place: ``repeats`` times, or as often as its own entry of ``repeats``; of
    the flattened tensor when ``dim`` is None."""
    if dim is None:
        return repeat_interleave(x.flatten(), repeats, 0)
    along = axis("repeat_interleave", dim, x.ndim)
    counts = devices.host(repeats.data) if isinstance(repeats, Tensor) else np.asarray(repeats)
    if (
        counts.dtype.kind not in "iu"
        or (counts < 0).any()
        or counts.shape not in ((), (1,), x.shape[along : along + 1])
    ):
        raise ValueError(
            f"repeat_interleave: repeats expects an int >= 0, or one for each slice, got {repeats}"
        )
    number = np.repeat(np.arange(x.shape[along]), counts.reshape(-1) if counts.ndim else int(counts))
    return getitem(x, (*(slice(None),) * along, number))


def movedim(x: Tensor, source: Dims, destination: Dims) -> Tensor:
    """Dimensions moved to other places, the rest in their order."""
    a = [axis("movedim", d, x.ndim) for d in _several(source)]
    b = [axis("movedim", d, x.ndim) for d in _several(destination)]
    if len(a) != len(b) or len(set(a)) != len(a) or len(set(b)) != len(b):
        raise ValueError(f"movedim: expects as many different dimensions, got {source} and {destination}")
    rest = iter([d for d in range(x.ndim) if d not in a])
    place = dict(zip(b, a, strict=True))
    return permute(x, [place[d] if d in place else next(rest) for d in range(x.ndim)])


def swapaxes(x: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dimensions swapped; :func:`transpose` under NumPy's name."""
    return transpose(x, axis("swapaxes", dim0, x.ndim), axis("swapaxes", dim1, x.ndim))


def split(x: Tensor, split_size: Dims, dim: int = 0) -> tuple[Tensor, ...]:
    """Pieces along ``dim``, as views: of ``split_size`` elements each (the last may be smaller), or of listed sizes.

    Raises:
        ValueError: sizes that do not add up to the dimension.
    """
    along = axis("split", dim, x.ndim)
    size = x.shape[along] if x.ndim else 0
    if isinstance(split_size, (int, np.integer)):
        if split_size < 1:
            raise ValueError(f"split: split_size expects at least 1, got {split_size}")
        lengths = [min(int(split_size), size - start) for start in range(0, max(size, 1), int(split_size))]
    else:
        lengths = [int(n) for n in split_size]
        if sum(lengths) != size or min(lengths, default=0) < 0:
            raise ValueError(f"split: sizes {lengths} do not add up to the {size} elements of dim {dim}")
    pieces, start = [], 0
    for length in lengths:
        pieces.append(narrow(x, along, start, length))
        start += length
    return tuple(pieces)


def chunk(x: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most ``chunks`` pieces of one size along ``dim``, the last smaller, as views."""
    if not isinstance(chunks, (int, np.integer)) or chunks < 1:
        raise ValueError(f"chunk: chunks expects an int of at least 1, got {chunks!r}")
    along = axis("chunk", dim, x.ndim)
    size = x.shape[along] if x.ndim else 0
    if size == 0:
        return tuple([narrow(x, along, 0, 0)] * int(chunks))
    return split(x, -(-size // int(chunks)), along)


def select(x: Tensor, dim: int, index: int) -> Tensor:
    """One slice along ``dim``, which disappears; a view."""
    along = axis("select", dim, x.ndim)
    if x.ndim == 0 or not -x.shape[along] <= index < x.shape[along]:
        raise IndexError(f"select: index {index} is out of range for dim {dim} of shape {x.shape}")
    return getitem(x, (*(slice(None),) * along, int(index)))


def unbind(x: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """All slices along ``dim``, as views."""
    along = axis("unbind", dim, x.ndim)
    if x.ndim == 0:
        raise ValueError("unbind: expects at least one dimension, got a 0-d tensor")
    return tuple([select(x, along, i) for i in range(x.shape[along])])


def broadcast_to(x: Tensor, shape: Sequence[int]) -> Tensor:
    """x repeated to ``shape`` as a view; :func:`expand` under NumPy's name."""
    return expand(x, shape)


def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors repeated to their common shape, as views."""
    expect_tensors("broadcast_tensors", tensors)
    expect_broadcast("broadcast_tensors", *[t.shape for t in tensors])
    shape = np.broadcast_shapes(*[t.shape for t in tensors])
    return tuple([expand(t, shape) for t in tensors])


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Tensor, ...]:
    """The coordinates of a grid, from one vector for each dimension: tensor i varies along dimension i.

    ``indexing`` "xy" swaps the first two dimensions.
    """
    if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)):
        tensors = tuple(tensors[0])
    expect_tensors("meshgrid", tensors)
    if indexing not in ("ij", "xy"):
        raise ValueError(f"meshgrid: indexing expects 'ij' or 'xy', got {indexing!r}")
    if any(t.ndim > 1 for t in tensors):
        raise ValueError(f"meshgrid: expects vectors, got shapes {[t.shape for t in tensors]}")
    flat = [t.reshape(-1) for t in tensors]
    shape = [t.shape[0] for t in flat]
    grids = [
        expand(reshape(t, [-1 if d == i else 1 for d in range(len(flat))]), shape) for i, t in enumerate(flat)
    ]
    return tuple([g.transpose(0, 1) if indexing == "xy" and len(grids) > 1 else g for g in grids])


def atleast_1d(x: Tensor) -> Tensor:
    """x, or a vector of its element when it has no dimension."""
    return x if x.ndim else unsqueeze(x, 0)
