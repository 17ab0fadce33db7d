"""Picking elements and putting them somewhere, by numbers along a dimension: gather and scatter-add are adjoint."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.autograd import Function
from minidl.autograd.function import expect_broadcast
from minidl.kernels import devices
from minidl.kernels.capturing import may_read, reads
from minidl.ops._common import Array, axis
from minidl.ops.arithmetic import add, where
from minidl.ops.movement import add_at, expand, fixed_index, getitem, permute
from minidl.ops.promotion import as_tensor, beside, cast, constant, fill, result_type
from minidl.tensor import Tensor


def _places(index: Array, dim: int) -> tuple[Array, ...]:
    """Full indices, one array for each dimension: ``index`` along ``dim``, its own place along the others."""
    xp, ndim = devices.module_of(index), index.ndim
    return tuple(
        index if d == dim else xp.arange(n).reshape((-1,) + (1,) * (ndim - 1 - d))
        for d, n in enumerate(index.shape)
    )


class Gather(Function):
    """y[i, j, k] = x[i, index[i, j, k], k] for dim 1; adjoint: scatter-add."""

    def __init__(self, dim: int, index: Array) -> None:
        self.dim, self.index = dim, index

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return x[_places(self.index, self.dim)]

    def backward(self, grad: Tensor) -> Tensor:
        return ScatterAdd(self.dim, self.index, self.shape)(grad)


class ScatterAdd(Function):
    """Zeros of a shape with x added at y[i, index[i, j, k], k] for dim 1; adjoint: gather."""

    def __init__(self, dim: int, index: Array, shape: tuple[int, ...]) -> None:
        self.dim, self.index, self.shape = dim, index, shape

    def forward(self, x: Array) -> Array:
        return add_at(self.shape, _places(self.index, self.dim), x)

    def backward(self, grad: Tensor) -> Tensor:
        return Gather(self.dim, self.index)(grad)


def _index_of(op: str, index: Any, x: Tensor | None = None) -> Array:
    array = constant(index, x)
    if array.size == 0 and array.dtype.kind == "f" and not isinstance(index, (Tensor, np.ndarray)):
        array = array.astype(np.int64)  # an empty list
    if array.dtype.kind not in "iu":
        raise TypeError(f"{op}: index expects integers, got dtype {array.dtype}")
    return array


def _expect_inside(op: str, index: Array, size: int, along: int) -> None:
    if may_read() and index.size and (index.min() < 0 or index.max() >= size):
        wrong = int(index.min() if index.min() < 0 else index.max())
        raise IndexError(f"{op}: index {wrong} is out of range for dim {along} with size {size}")


def _checked(op: str, x: Tensor, dim: int, index: Any, source: Tensor | None) -> tuple[int, Array]:
    """The dimension and the index of a gather or scatter, checked against x."""
    along, array = axis(op, dim, x.ndim), _index_of(op, index, x)
    if array.ndim != x.ndim:
        raise ValueError(f"{op}: index expects {x.ndim} dimensions as x has, got shape {array.shape}")
    if any(n > m for d, (n, m) in enumerate(zip(array.shape, x.shape, strict=True)) if d != along):
        raise ValueError(f"{op}: index of shape {array.shape} is larger than x {x.shape} beside dim {dim}")
    if source is not None and (
        source.ndim != array.ndim or any(n > m for n, m in zip(array.shape, source.shape, strict=True))
    ):
        raise ValueError(f"{op}: source of shape {source.shape} is smaller than index {array.shape}")
    _expect_inside(op, array, x.shape[along] if x.ndim else 1, along)
    return along, array


def gather(x: Tensor, dim: int, index: Any) -> Tensor:
    """Elements of x at ``index`` along ``dim``: y[i, j, k] = x[i, index[i, j, k], k] for dim 1.

    Args:
        x: any shape.
        dim: the dimension that ``index`` counts along.
        index: integers >= 0 with as many dimensions as x, no larger than x beside ``dim``.

    Returns:
        The shape of ``index``.

    Raises:
        IndexError: an index is negative or too large.
    """
    along, array = _checked("gather", x, dim, index, None)
    return Gather(along, array)(x) if x.ndim else expand(x, array.shape)


def take_along_dim(x: Tensor, index: Any, dim: int | None = None) -> Tensor:
    """As :func:`gather`, with x and index broadcast against each other beside ``dim``; flattened when ``dim`` is
    None."""
    array = _index_of("take_along_dim", index, x)
    if dim is None:
        _expect_inside("take_along_dim", array, x.numel(), 0)
        return gather(x.flatten(), 0, array.reshape(-1))
    along = axis("take_along_dim", dim, x.ndim)
    if array.ndim != x.ndim:
        raise ValueError(f"take_along_dim: index expects {x.ndim} dimensions, got shape {array.shape}")
    _expect_inside("take_along_dim", array, x.shape[along] if x.ndim else 1, along)
    common = np.broadcast_shapes(
        tuple(1 if d == along else n for d, n in enumerate(x.shape)),
        tuple(1 if d == along else n for d, n in enumerate(array.shape)),
    )
    wide = tuple(x.shape[d] if d == along else n for d, n in enumerate(common))
    full = tuple(array.shape[d] if d == along else n for d, n in enumerate(common))
    return gather(expand(x, wide), along, np.broadcast_to(array, full))


def scatter_add(x: Tensor, dim: int, index: Any, source: Tensor) -> Tensor:
    """x with ``source`` added at ``index`` along ``dim``: y[i, index[i, j, k], k] += source[i, j, k] for dim 1.

    Where an index occurs several times all its elements are added. Arguments as in :func:`gather`; ``source`` has the
    dtype of x and is at least as large as ``index``.
    """
    along, array = _checked("scatter_add", x, dim, index, source)
    if source.dtype != x.dtype:
        raise TypeError(f"scatter_add: source expects dtype {x.dtype}, got {source.dtype}")
    if x.ndim == 0:
        return add(x, source) if array.size else x * 1
    return add(x, ScatterAdd(along, array, x.shape)(getitem(source, tuple(slice(n) for n in array.shape))))


def scatter(x: Tensor, dim: int, index: Any, source: Any) -> Tensor:
    """x with elements replaced by ``source`` (a tensor or a number) at ``index`` along ``dim``.

    Where an index occurs several times the last one in row order wins, and the gradient is its alone.
    """
    along, array = _checked("scatter", x, dim, index, source if isinstance(source, Tensor) else None)
    values = expand(as_tensor(source, x), array.shape) if not isinstance(source, Tensor) else source
    if values.dtype != x.dtype:
        raise TypeError(f"scatter: source expects dtype {x.dtype}, got {values.dtype}")
    values = getitem(values, tuple(slice(n) for n in array.shape))
    return assign(x, _places(array, along) if x.ndim else (), values)


class Assign(Function):
    """x with the elements at an index replaced by v."""

    def __init__(self, index: Any) -> None:
        self.index = index

    def forward(self, x: Array, v: Array) -> Array:
        out = x.copy(order="K")
        try:
            out[self.index] = v
        except (IndexError, ValueError) as error:
            raise type(error)(f"setitem: {error}; x has shape {x.shape}, the value {v.shape}") from None
        self.v_shape = v.shape
        return out

    def backward(self, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        gx = gv = None
        if self.needs_input_grad[0]:
            gx = Assign(self.index)(grad, fill(grad, 0))
        if self.needs_input_grad[1]:
            gv = getitem(grad, self.index)
            # the element that was written last at its place is the one that is there
            number = grad.xp.arange(gv.numel()).reshape(gv.shape)
            last = grad.xp.zeros(grad.shape, np.int64)
            last[self.index] = number
            gv = where(last[self.index] == number, gv, fill(grad, 0))
            extra = len(self.v_shape) - gv.ndim
            if extra > 0:  # NumPy drops leading dimensions of size 1 from the value
                gv = gv.reshape(*(1,) * extra, *gv.shape)
            gv = gv.sum_to(self.v_shape)
        return gx, gv


def assign(x: Tensor, index: Any, value: Tensor) -> Tensor:
    """A copy of x in which ``x[index] = value`` was done; ``value`` broadcasts and has the dtype of x.

    Where an index occurs several times the last one in row order wins, and the gradient is its alone.
    """
    return Assign(fixed_index(index, x))(x, value)


def index_select(x: Tensor, dim: int, index: Any) -> Tensor:
    """The slices of x along ``dim`` whose numbers ``index`` (1-D) lists.

    Raises:
        IndexError: a number is negative or too large.
    """
    along, array = axis("index_select", dim, x.ndim), _index_of("index_select", index, x)
    if array.ndim > 1:
        raise ValueError(f"index_select: index expects 1 dimension, got shape {array.shape}")
    _expect_inside("index_select", array, x.shape[along] if x.ndim else 1, along)
    return getitem(x, (*(slice(None),) * along, array.reshape(-1)))


def masked_fill(x: Tensor, mask: Any, value: Any) -> Tensor:
    """x with ``value`` (a number or a 0-d tensor) where the bool ``mask`` holds; the two broadcast.

    Raises:
        TypeError: value is of a higher kind than x (a float into integers).
    """
    array = constant(mask, x)
    if array.dtype != np.bool_:
        raise TypeError(f"masked_fill: mask expects dtype bool, got {array.dtype}")
    expect_broadcast("masked_fill", x.shape, array.shape)
    v = as_tensor(value)
    if v.ndim:
        raise ValueError(f"masked_fill: value expects a number or a 0-d tensor, got shape {v.shape}")
    if result_type(x, value) != x.dtype:
        raise TypeError(f"masked_fill: value {value!r} does not fit into dtype {x.dtype}")
    return where(array, cast(v, x.dtype), x)


def masked_select(x: Tensor, mask: Any) -> Tensor:
    """The elements of x where the bool ``mask`` holds, as one dimension; the two broadcast."""
    array = constant(mask, x)
    if array.dtype != np.bool_:
        raise TypeError(f"masked_select: mask expects dtype bool, got {array.dtype}")
    expect_broadcast("masked_select", x.shape, array.shape)
    shape = np.broadcast_shapes(x.shape, array.shape)
    return getitem(expand(x, shape), np.broadcast_to(array, shape))


def one_hot(labels: Any, num_classes: int = -1) -> Tensor:
    """int64 rows with a 1 at each label: shape (..., num_classes); not differentiable.

    ``num_classes`` -1 takes the largest label plus one.
    """
    array = _index_of("one_hot", labels)
    classes = num_classes
    if classes == -1:
        if array.size == 0:
            raise ValueError("one_hot: num_classes is needed for no labels")
        classes = int(array.max()) + 1
    if classes < 1:
        raise ValueError(f"one_hot: num_classes expects at least 1, or -1, got {num_classes}")
    if may_read() and array.size and (array.min() < 0 or array.max() >= classes):
        raise ValueError(f"one_hot: labels lie outside of [0, {classes})")
    return Tensor._wrap((array[..., None] == devices.module_of(array).arange(classes)).astype(np.int64))


def nonzero(x: Tensor, *, as_tuple: bool = False) -> Any:
    """Indices of the elements that are not 0, int64: (count, ndim), or with ``as_tuple`` one tensor for each
    dimension. Not differentiable."""
    reads(x.data, "nonzero()")
    if as_tuple:
        return tuple([Tensor._wrap(i) for i in np.nonzero(np.atleast_1d(x.data))])
    return Tensor._wrap(np.argwhere(x.data).astype(np.int64))


def unique(
    x: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """The different values in ascending order (the different slices along ``dim``); not differentiable.

    Returns:
        The values; with ``return_inverse`` also, for each element, the number of its value; with ``return_counts``
        also how often each occurs. Several come as a tuple.
    """
    along = None if dim is None else axis("unique", dim, x.ndim)
    reads(x.data, "unique()")
    values, inverse, counts = np.unique(x.data, return_inverse=True, return_counts=True, axis=along)
    inverse = inverse.reshape(x.shape if along is None else (-1,))
    found = [values, *([inverse] if return_inverse else []), *([counts] if return_counts else [])]
    tensors = tuple([Tensor._wrap(a) for a in found])
    return tensors if len(tensors) > 1 else tensors[0]


def diagonal(x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The elements whose indices along ``dim1`` and ``dim2`` differ by ``offset``, as a new last dimension (a copy)."""
    a, b = axis("diagonal", dim1, x.ndim), axis("diagonal", dim2, x.ndim)
    if x.ndim < 2 or a == b:
        raise ValueError(f"diagonal: dim1 and dim2 expect two dimensions of {x.shape}, got {dim1} and {dim2}")
    rest = [d for d in range(x.ndim) if d not in (a, b)]
    first, second = max(-offset, 0), max(offset, 0)
    number = x.xp.arange(max(min(x.shape[a] - first, x.shape[b] - second), 0))
    return getitem(permute(x, (*rest, a, b)), (..., number + first, number + second))


def trace(x: Tensor) -> Tensor:
    """The sum of the diagonal of a matrix."""
    if x.ndim != 2:
        raise ValueError(f"trace: expects a matrix, got shape {x.shape}")
    return diagonal(x).sum()


def _triangle(op: str, x: Tensor, diagonal: int, lower: bool) -> Tensor:
    if x.ndim < 2:
        raise ValueError(f"{op}: expects at least 2 dimensions, got shape {x.shape}")
    rows, columns = np.ogrid[: x.shape[-2], : x.shape[-1]]
    keep = columns - rows <= diagonal if lower else columns - rows >= diagonal
    return where(beside(keep, x), x, fill(x, 0))


def tril(x: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle of the last two dimensions, zeros above ``diagonal``."""
    return _triangle("tril", x, diagonal, True)


def triu(x: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle of the last two dimensions, zeros below ``diagonal``."""
    return _triangle("triu", x, diagonal, False)
