"""Operators that move elements without changing them, in adjoint pairs: expand and sum, pad and crop, getitem
and put."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import kernels
from minidl.autograd import Function
from minidl.kernels import devices
from minidl.kernels.capturing import reads
from minidl.kernels.reference.place import empty_in_order
from minidl.ops._common import Array, axes, axis, expect_tensors
from minidl.ops.promotion import cast, constant, result_type, widened
from minidl.tensor import Tensor


class Reshape(Function):
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def forward(self, x: Array) -> Array:
        self.input_shape = x.shape
        return x.reshape(self.shape)

    def backward(self, grad: Tensor) -> Tensor:
        return Reshape(self.input_shape)(grad)


class Permute(Function):
    def __init__(self, dims: tuple[int, ...]) -> None:
        self.dims = dims

    def forward(self, x: Array) -> Array:
        return x.transpose(self.dims)

    def backward(self, grad: Tensor) -> Tensor:
        return Permute(tuple(int(i) for i in np.argsort(self.dims)))(grad)


class Expand(Function):
    """Repeats size-1 dimensions as a view. The walk sums the gradient back: the adjoint of a broadcast is a
    sum."""

    broadcasts = True

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def forward(self, x: Array) -> Array:
        return np.broadcast_to(x, self.shape)

    def backward(self, grad: Tensor) -> Tensor:
        return grad


class Pad(Function):
    """A constant around the last dimensions; adjoint: crop."""

    def __init__(self, widths: tuple[tuple[int, int], ...], value: float) -> None:
        self.widths, self.value = widths, value

    def forward(self, x: Array) -> Array:
        shape = tuple(n + a + b for n, (a, b) in zip(x.shape, self.widths, strict=True))
        inner = tuple(slice(a, a + n) for n, (a, _) in zip(x.shape, self.widths, strict=True))
        self.inner = inner
        out: Array = kernels.backend(x).place(x, shape, inner, self.value)
        return out

    def backward(self, grad: Tensor) -> Tensor:
        return GetItem(self.inner)(grad)


class GetItem(Function):
    """Selected elements; adjoint: put them back into zeros, adding where an element was selected twice."""

    def __init__(self, index: Any) -> None:
        self.index = index

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        try:
            return x[self.index]
        except IndexError as error:
            raise IndexError(f"getitem: {error}; x has shape {x.shape}") from None

    def backward(self, grad: Tensor) -> Tensor:
        return Put(self.index, self.shape)(grad)


class Put(Function):
    """Zeros of a shape with the input added at an index."""

    def __init__(self, index: Any, shape: tuple[int, ...]) -> None:
        self.index, self.shape = index, shape

    def forward(self, x: Array) -> Array:
        if not _is_basic(self.index):
            return add_at(self.shape, self.index, x)
        if _is_slices(self.index, x.ndim) and x.ndim == len(self.shape):
            placed: Array = kernels.backend(x).place(x, self.shape, self.index)
            return placed
        out = (
            devices.module_of(x).zeros(self.shape, x.dtype)
            if x.ndim != len(self.shape)
            else _zeros_like_layout(x, self.shape)
        )
        out[self.index] = x
        return out

    def backward(self, grad: Tensor) -> Tensor:
        return GetItem(self.index)(grad)


def add_at(shape: tuple[int, ...], index: Any, x: Array) -> Array:
    """Zeros of a shape with x added at an index of any kind; where it occurs several times, in order, in float32."""
    values = widened(x)
    xp = devices.module_of(x)
    if isinstance(values, np.ndarray):
        like = values.ndim == len(shape)
        out = _zeros_like_layout(values, shape) if like else np.zeros(shape, values.dtype)
        np.add.at(out, index, values)
    else:
        size = math.prod(shape)
        places = xp.arange(size).reshape(shape)[index]
        flat = np.broadcast_to(values, places.shape).reshape(-1, 1)
        out = kernels.backend(x).scatter_add(flat, places.reshape(-1), size).reshape(shape)
    return out.astype(x.dtype, copy=False)


class Cat(Function):
    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, *xs: Array) -> Array:
        self.sizes = [x.shape[self.dim] for x in xs]
        return np.concatenate(xs, self.dim)

    def backward(self, grad: Tensor) -> tuple[Tensor | None, ...]:
        out: list[Tensor | None] = []
        start = 0
        for size, needs in zip(self.sizes, self.needs_input_grad, strict=True):
            index = (slice(None),) * self.dim + (slice(start, start + size),)
            out.append(GetItem(index)(grad) if needs else None)
            start += size
        return tuple(out)


def _is_basic(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(
        isinstance(p, (int, np.integer, slice, type(None), type(Ellipsis))) and not isinstance(p, bool)
        for p in parts
    )


def _is_slices(index: Any, ndim: int) -> bool:
    """Whether an index is a slice for each dimension."""
    return isinstance(index, tuple) and len(index) == ndim and all(isinstance(p, slice) for p in index)


def _zeros_like_layout(x: Array, shape: tuple[int, ...]) -> Array:
    out = empty_in_order(kernels.backend(x).empty, x, shape)
    out[...] = 0
    return out


def view_of(y: Tensor, x: Tensor) -> Tensor:
    """y, which may look at the memory of x: then the two share their version, so that writing to one is seen by what
    saved the other."""
    if np.may_share_memory(y.data, x.data):
        x._version[1] = 1
        y._version = x._version
    return y


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Another shape with as many elements; one size may be -1."""
    sizes = tuple(int(s) for s in shape)
    unknown = sizes.count(-1)
    known = math.prod(s for s in sizes if s != -1)
    if (
        unknown > 1
        or any(s < -1 for s in sizes)
        or (known != x.size if not unknown else known == 0 or x.size % known)
    ):
        raise ValueError(
            f"reshape: a tensor of shape {x.shape} ({x.size} elements) does not fit into {sizes}"
        )
    return x if sizes == x.shape else view_of(Reshape(sizes)(x), x)


def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Merge the dimensions from ``start_dim`` to ``end_dim``, both included."""
    if x.ndim == 0:
        return reshape(x, (1,))
    (start,), (end,) = axes("flatten", start_dim, x.ndim), axes("flatten", end_dim, x.ndim)
    if start > end:
        raise ValueError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}")
    return reshape(x, (*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :]))


def permute(x: Tensor, dims: Sequence[int]) -> Tensor:
    """Dimensions in another order."""
    if not all(isinstance(d, (int, np.integer)) for d in dims):
        raise TypeError(f"permute: dims expects ints, got {tuple(dims)}")
    order = tuple(d % x.ndim if -x.ndim <= d < x.ndim else x.ndim for d in dims)
    if sorted(order) != list(range(x.ndim)):
        raise ValueError(f"permute: dims {tuple(dims)} is not an order of {x.ndim} dimensions")
    return view_of(Permute(order)(x), x)


def transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dimensions swapped."""
    (a,), (b,) = axes("transpose", dim0, x.ndim), axes("transpose", dim1, x.ndim)
    order = list(range(x.ndim))
    order[a], order[b] = b, a
    return view_of(Permute(tuple(order))(x), x)


def expand(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Dimensions of size 1 repeated to ``shape``; -1 keeps a size."""
    sizes = list(shape)
    extra = len(sizes) - x.ndim
    for i in range(len(sizes)):
        if sizes[i] == -1 and i >= extra:
            sizes[i] = x.shape[i - extra]
    if (
        extra < 0
        or any(n not in (1, sizes[extra + i]) for i, n in enumerate(x.shape))
        or min(sizes, default=0) < 0
    ):
        raise ValueError(f"expand: a tensor of shape {x.shape} does not expand to {tuple(shape)}")
    return x if tuple(sizes) == x.shape else view_of(Expand(tuple(sizes))(x), x)


def squeeze(x: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    """Dimensions of size 1 dropped: all, or those of ``dim`` that have size 1."""
    drop = axes("squeeze", dim, x.ndim)
    return reshape(x, tuple(n for i, n in enumerate(x.shape) if not (n == 1 and i in drop)))


def unsqueeze(x: Tensor, dim: int) -> Tensor:
    """A dimension of size 1 inserted before ``dim``."""
    if not isinstance(dim, (int, np.integer)):
        raise TypeError(f"unsqueeze: dim expects an int, got {dim!r}")
    if not -x.ndim - 1 <= dim <= x.ndim:
        raise IndexError(f"unsqueeze: dim {dim} is out of range for a tensor of {x.ndim} dimensions")
    at = dim % (x.ndim + 1)
    return reshape(x, (*x.shape[:at], 1, *x.shape[at:]))


def pad(x: Tensor, widths: Sequence[int], value: float = 0.0) -> Tensor:
    """A constant border. ``widths`` counts from the last dimension, (left, right, top, bottom, ...), as in
    PyTorch; not negative."""
    if len(widths) % 2 or len(widths) > 2 * x.ndim or any(w < 0 for w in widths):
        raise ValueError(
            f"pad: widths expects pairs of ints >= 0 for at most {x.ndim} dimensions, got {tuple(widths)}"
        )
    per_dim = [(0, 0)] * (x.ndim - len(widths) // 2)
    pairs = [(int(widths[i]), int(widths[i + 1])) for i in range(0, len(widths), 2)]
    return Pad(tuple(per_dim + pairs[::-1]), value)(x)


def two_steps(index: Any, ndim: int) -> tuple[Any, Any] | None:
    """An index that mixes whole numbers with arrays, as the two that PyTorch applies one after the other.

    NumPy counts a whole number beside arrays as one more array, and moves their dimension to the front when a slice
    stands between them. Taking the numbers first leaves it where it is.
    """
    parts = index if isinstance(index, tuple) else (index,)
    arrays = [p for p in parts if _is_list(p)]
    if not arrays or not any(isinstance(p, (int, np.integer)) and not isinstance(p, bool) for p in parts):
        return None
    first: list[Any] = []
    second: list[Any] = []
    for p in parts:
        if _is_list(p):
            array = np.asarray(p) if isinstance(p, list) else p
            first += [slice(None)] * (array.ndim if array.dtype == np.bool_ else 1)
            second.append(p)
        else:
            first.append(p)
            if p is Ellipsis:
                used = [
                    np.ndim(q) if _is_mask(q) else 1 for q in parts if q is not None and q is not Ellipsis
                ]
                second += [slice(None)] * (ndim - sum(used))
            elif not isinstance(p, (int, np.integer)):
                second.append(slice(None))
    return tuple(first), tuple(second)


def _is_mask(part: Any) -> bool:
    if isinstance(part, list):
        part = np.asarray(part)
    return _is_list(part) and part.dtype == np.bool_


def fixed_index(index: Any, x: Tensor) -> Any:
    """The index with arrays and lists of its own on the device of x, see :func:`.promotion.constant`."""
    if isinstance(index, tuple):
        return tuple([fixed_index(part, x) for part in index])
    if _is_mask(index):
        reads(index, "an index of bools")
    return constant(index, x) if _is_list(index) and (not isinstance(index, list) or index) else index


def _is_list(part: Any) -> bool:
    """An array of any device, or a list."""
    return isinstance(part, (np.ndarray, list)) or devices.is_array(part)


def getitem(x: Tensor, index: Any) -> Tensor:
    """x[index] with basic and advanced indexing; basic indexing gives a view.

    As NumPy's, except that whole numbers beside arrays are taken first, as in PyTorch.
    """
    steps = two_steps(index, x.ndim)
    if steps is not None:
        return getitem(getitem(x, steps[0]), steps[1])
    return view_of(GetItem(fixed_index(index, x))(x), x)


def narrow(x: Tensor, dim: int, start: int, length: int) -> Tensor:
    """``length`` elements along ``dim`` from ``start`` on, as a view.

    Raises:
        IndexError: they reach beyond the tensor.
    """
    along = axis("narrow", dim, x.ndim)
    size = x.shape[along] if x.ndim else 0
    first = start + size if start < 0 else start
    if not (0 <= first <= size and 0 <= length <= size - first):
        raise IndexError(
            f"narrow: start {start} and length {length} reach beyond the {size} elements of dim {dim}"
        )
    return getitem(x, (*(slice(None),) * along, slice(first, first + length)))


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors joined along an existing dimension; several dtypes are promoted to one.

    Raises:
        ValueError: the tensors differ in another dimension, have none, or there are none.
    """
    expect_tensors("cat", tensors)
    if not tensors:
        raise ValueError("cat: tensors expects at least one tensor, got none")
    first = tensors[0].shape
    if not first:
        raise ValueError("cat: tensors expects at least one dimension, got 0-d tensors; use stack")
    along = axis("cat", dim, len(first))
    if len({t.data.dtype for t in tensors}) > 1:
        dtype = result_type(*tensors)
        tensors = [cast(t, dtype) for t in tensors]
    for i, t in enumerate(tensors):
        if t.ndim != len(first) or any(
            a != b for d, (a, b) in enumerate(zip(first, t.shape, strict=True)) if d != along
        ):
            raise ValueError(
                f"cat: tensor {i} has shape {t.shape}, which does not join {first} along dim {dim}"
            )
    return Cat(along)(*tensors)


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape joined along a new dimension.

    Raises:
        ValueError: the shapes differ, or there are no tensors.
    """
    expect_tensors("stack", tensors)
    if tensors:
        axis("stack", dim, tensors[0].ndim + 1)
    shapes = {t.shape for t in tensors}
    if len(shapes) != 1:
        raise ValueError(f"stack: tensors expects tensors of one shape, got {sorted(shapes) or 'none'}")
    return cat([unsqueeze(t, dim) for t in tensors], dim)
