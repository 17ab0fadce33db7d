"""Operators that fold dimensions: sums, products, means, extremes, and what is built of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import kernels
from minidl.autograd import Function
from minidl.dtypes import accumulation_dtype, is_floating, is_half
from minidl.kernels import devices
from minidl.kernels.capturing import perhaps
from minidl.ops._common import Array, axes, axis, expect_floating
from minidl.ops.arithmetic import abs, div, pow, where
from minidl.ops.movement import cat, expand, narrow, reshape
from minidl.ops.promotion import cast, fill, floating, in_float32, plain
from minidl.ops.unary import exp, log, sqrt
from minidl.tensor import Tensor

Dim = int | Sequence[int] | None


_PLAIN = (np.dtype(np.float32), np.dtype(np.float64))


class Sum(Function):
    """Sum over axes, kept as size 1. Its adjoint is expand. Integers and bools add up to int64."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        self.dims = dims

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        floats = is_floating(x.dtype)
        if x.ndim == 4 and self.dims == (0, 2, 3) and x.dtype in _PLAIN:  # of a bias, over images
            _, sums = kernels.backend(x).channel_sums(x.transpose(0, 2, 3, 1))
            return sums.reshape(1, -1, 1, 1)
        # float32 images summed over N, H, W: NumPy adds strided rows one by one; float64 accumulation keeps
        # the accuracy
        wide = np.float64 if x.dtype == np.float32 and x.size > 4096 else accumulation_dtype(x.dtype)
        if is_half(x.dtype):
            x, half = x.astype(np.float32), x.dtype
            with np.errstate(over="ignore"):
                return x.sum(self.dims, keepdims=True).astype(half)
        total = x.sum(self.dims, keepdims=True, dtype=wide)
        return total.astype(x.dtype if floats else np.int64, copy=False)

    def backward(self, grad: Tensor) -> Tensor:
        return expand(grad, self.shape)


class Amax(Function):
    """The largest (or smallest) over axes, kept as size 1; NaN wins; ties share the gradient evenly."""

    saved_inputs = (0,)
    saves_output = True

    def __init__(self, dims: tuple[int, ...], largest: bool = True) -> None:
        self.dims, self.largest = dims, largest

    def forward(self, x: Array) -> Array:
        return (x.max if self.largest else x.min)(self.dims, keepdims=True)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        best = self._output
        hit = x.data == best
        lost = np.isnan(best)
        if perhaps(lost):
            hit |= np.isnan(x.data) & lost  # NaN equals nothing, itself included
        share = hit / hit.sum(self.dims, keepdims=True)
        return expand(grad, x.shape) * Tensor._wrap(share.astype(x.dtype))


class Cumsum(Function):
    """Running sums along an axis, from the front or from the back: each is the other's adjoint."""

    def __init__(self, dim: int, backwards: bool = False) -> None:
        self.dim, self.backwards = dim, backwards

    def forward(self, x: Array) -> Array:
        total = accumulation_dtype(x.dtype)
        if self.backwards:
            return np.flip(np.cumsum(np.flip(x, self.dim), self.dim, dtype=total), self.dim)
        return np.cumsum(x, self.dim, dtype=total)

    def backward(self, grad: Tensor) -> Tensor:
        return Cumsum(self.dim, not self.backwards)(grad)


def squeeze_dims(y: Tensor, dims: tuple[int, ...], keepdim: bool) -> Tensor:
    """The result of a reduction that kept its dimensions, without them unless ``keepdim``."""
    if keepdim or not dims:
        return y
    return reshape(y, tuple(n for i, n in enumerate(y.shape) if i not in dims))


def expect_elements(op: str, x: Tensor, dim: Dim) -> None:
    """There is something along ``dim`` (in the tensor when ``None``) to take an extreme of."""
    if 0 in [x.shape[d] for d in axes(op, dim, x.ndim)]:
        raise ValueError(f"{op}: no elements to reduce in shape {x.shape}, dim {dim}")


# --- sums and means -----------------------------------------------------------------------------------------


def sum(x: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Sum over ``dim`` (all dimensions when ``None``).

    Integers and bools add up to int64. Half types are added in float32, float32 in float64 when there are many.

    Args:
        x: any shape and dtype.
        dim: one dimension or several, counted from the end when negative.
        keepdim: keep the summed dimensions with size 1.
        dtype: convert to this dtype first.
    """
    x = x if dtype is None else cast(x, dtype)
    dims = axes("sum", dim, x.ndim)
    return squeeze_dims(Sum(dims)(x), dims, keepdim)


def mean(x: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Mean over ``dim`` (all dimensions when ``None``); NaN over nothing. Arguments as in :func:`sum`.

    Raises:
        TypeError: x is not floating.
    """
    return _mean(x if dtype is None else cast(x, dtype), dim, keepdim)


@in_float32
def _mean(x: Tensor, dim: Dim, keepdim: bool) -> Tensor:
    expect_floating("mean", "x", x)
    dims = axes("mean", dim, x.ndim)
    count = math.prod(x.shape[d] for d in dims)
    total = sum(x, dims, keepdim) if dims else x
    return total * (1.0 / count if count else math.nan)


@in_float32
def var(
    x: Tensor,
    dim: Dim = None,
    correction: float = 1,
    keepdim: bool = False,
    *,
    unbiased: bool | None = None,
) -> Tensor:
    """Variance over ``dim``, two passes, divided by n - ``correction``; NaN for a single element.

    Args:
        x: floating, any shape.
        dim: one dimension or several; all when ``None``.
        correction: 1 for the sample variance, 0 for the mean squared deviation.
        keepdim: keep the dimensions with size 1.
        unbiased: the older name: True is ``correction=1``, False is ``correction=0``.
    """
    expect_floating("var", "x", x)
    dims = axes("var", dim, x.ndim)
    count = math.prod(x.shape[d] for d in dims)
    centred = x - mean(x, dims, keepdim=True)
    divisor = count - (correction if unbiased is None else int(unbiased))
    total = sum(centred * centred, dims, keepdim)
    return total * (1.0 / divisor) if divisor > 0 else div(total, 0.0)


@in_float32
def std(
    x: Tensor,
    dim: Dim = None,
    correction: float = 1,
    keepdim: bool = False,
    *,
    unbiased: bool | None = None,
) -> Tensor:
    """Standard deviation over ``dim``: the square root of :func:`var`, same arguments; its gradient is 0 where all
    elements are equal."""
    expect_floating("std", "x", x)
    axes("std", dim, x.ndim)
    return _root(var(x, dim, correction, keepdim, unbiased=unbiased), 2)


def _peak(x: Array, dims: Any) -> Array:
    """The maximum over ``dims``, -inf of nothing."""
    if isinstance(x, np.ndarray):
        return x.max(dims, keepdims=True, initial=-np.inf)
    kept = (dims,) if isinstance(dims, int) else dims  # CuPy has no ``initial``
    empty = 0 in [x.shape[d] for d in kept]
    shape = tuple(1 if d in [k % x.ndim for k in kept] else n for d, n in enumerate(x.shape))
    return devices.module_of(x).full(shape, -np.inf, x.dtype) if empty else x.max(dims, keepdims=True)


@in_float32
def logsumexp(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """log(sum(exp(x))) over ``dim``, each slice shifted by its own maximum; -inf over nothing."""
    x = floating(x)
    dims = axes("logsumexp", dim, x.ndim)

    def finite_peak(array: Array) -> Array:
        peak = _peak(array, dims)
        return np.where(np.isfinite(peak), peak, 0).astype(array.dtype)

    shift = plain(finite_peak, x)
    y = log(sum(exp(x - shift), dims, keepdim=True)) + shift
    return squeeze_dims(y, dims, keepdim)


@in_float32
def norm(x: Tensor, p: float | str = 2.0, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """The p-norm of the elements, over ``dim`` (all when ``None``): sum(|x| ** p) ** (1 / p).

    ``p`` may be inf (the largest magnitude), -inf (the smallest) or 0 (how many are not 0). The gradient of a zero
    vector is 0.
    """
    expect_floating("norm", "x", x)
    if not isinstance(p, (int, float)):
        if p != "fro":
            raise ValueError(f"norm: p expects a number or 'fro', got {p!r}")
        p = 2.0  # the Frobenius norm is the 2-norm of all elements
    if p in (math.inf, -math.inf):
        return (amax if p > 0 else amin)(abs(x), dim, keepdim)
    if p == 0:
        return sum(plain(lambda array: (array != 0).astype(array.dtype), x), dim, keepdim)
    if p == 1:
        return sum(abs(x), dim, keepdim)
    total = sum(x * x if p == 2 else pow(abs(x), p), dim, keepdim)
    return _root(total, p)


def _root(total: Tensor, p: float) -> Tensor:
    """total ** (1 / p) for totals >= 0. The root has an infinite slope at 0: there the gradient is 0."""
    zero = total.data == 0
    positive = where(zero, fill(total, 1), total)
    root = sqrt(positive) if p == 2 else pow(positive, 1.0 / p)
    return where(zero, fill(total, 0), root) if perhaps(zero) else root


# --- products -----------------------------------------------------------------------------------------------


@in_float32
def _prod(x: Tensor, dims: tuple[int, ...], keepdim: bool) -> Tensor:
    """A tree of products of halves. Its gradients need no division, so that zeros among the factors are exact."""
    if not is_floating(x.dtype):
        x = cast(x, np.int64)
    rest = tuple(n for i, n in enumerate(x.shape) if i not in dims)
    front = tuple(i for i in range(x.ndim) if i not in dims)
    count = math.prod(x.shape[d] for d in dims)
    y = reshape(x.permute(*front, *dims), (*rest, count))
    if count == 0:
        y = sum(y, -1, keepdim=True) + 1  # a part of the graph, as every result
    while (n := y.shape[-1]) > 1:
        half = n // 2
        pairs = narrow(y, -1, 0, half) * narrow(y, -1, half, half)
        y = pairs if n % 2 == 0 else cat([pairs, narrow(y, -1, n - 1, 1)], -1)
    kept = tuple(1 if i in dims else n for i, n in enumerate(x.shape))
    return squeeze_dims(reshape(y, kept), dims, keepdim)


def prod(x: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Product over ``dim`` (all dimensions when ``None``); 1 over nothing. Arguments as in :func:`sum`.

    The gradient is exact where factors are zero, in any order.
    """
    x = x if dtype is None else cast(x, dtype)
    return _prod(x, axes("prod", dim, x.ndim), keepdim)


def cumsum(x: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Running sums along ``dim``; integers and bools add up to int64."""
    return _cumsum(x if dtype is None else cast(x, dtype), dim)


@in_float32
def _cumsum(x: Tensor, dim: int) -> Tensor:
    along = axis("cumsum", dim, x.ndim)
    return Cumsum(along)(x) if x.ndim else x * 1


def cumprod(x: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Running products along ``dim``; the gradient is exact where factors are zero, in any order."""
    return _cumprod(x if dtype is None else cast(x, dtype), dim)


@in_float32
def _cumprod(x: Tensor, dim: int) -> Tensor:
    """Doubling (Hillis & Steele 1986): after step k each element holds the product of 2**k factors. No division."""
    along = axis("cumprod", dim, x.ndim)
    y = (x if is_floating(x.dtype) else cast(x, np.int64)) * 1
    if x.ndim == 0:
        return y
    n, step = x.shape[along], 1
    while step < n:
        done = narrow(y, along, 0, step)
        y = cat([done, narrow(y, along, step, n - step) * narrow(y, along, 0, n - step)], along)
        step *= 2
    return y


# --- extremes, any, all -------------------------------------------------------------------------------------


def amax(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """The largest over ``dim`` (all dimensions when ``None``); NaN wins; ties share the gradient evenly.

    Raises:
        ValueError: there are no elements.
    """
    dims = axes("amax", dim, x.ndim)
    expect_elements("amax", x, dim)
    return squeeze_dims(Amax(dims)(x), dims, keepdim)


def amin(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """The smallest over ``dim`` (all dimensions when ``None``); NaN wins; ties share the gradient evenly.

    Raises:
        ValueError: there are no elements.
    """
    dims = axes("amin", dim, x.ndim)
    expect_elements("amin", x, dim)
    return squeeze_dims(Amax(dims, largest=False)(x), dims, keepdim)


def _arg(op: str, x: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    along = None if dim is None else axis(op, dim, x.ndim)
    expect_elements(op, x, dim)
    if x.ndim == 0:
        return fill(x, 0, dtype=np.int64)
    find = np.argmax if op == "argmax" else np.argmin
    return plain(lambda array: find(array, along, keepdims=keepdim).astype(np.int64), x)


def argmax(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index of the first maximum along ``dim`` (in the flattened tensor when ``None``), int64; the first NaN wins.
    Not differentiable."""
    return _arg("argmax", x, dim, keepdim)


def argmin(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index of the first minimum along ``dim`` (in the flattened tensor when ``None``), int64; the first NaN wins.
    Not differentiable."""
    return _arg("argmin", x, dim, keepdim)


def any(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Whether some element over ``dim`` is not 0, as bool. Not differentiable."""
    dims = axes("any", dim, x.ndim)
    return plain(lambda array: (array != 0).any(dims, keepdims=keepdim), x)


def all(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Whether no element over ``dim`` is 0, as bool. Not differentiable."""
    dims = axes("all", dim, x.ndim)
    return plain(lambda array: (array != 0).all(dims, keepdims=keepdim), x)


def count_nonzero(x: Tensor, dim: Dim = None) -> Tensor:
    """How many elements over ``dim`` are not 0, int64. Not differentiable."""
    return sum(plain(lambda array: array != 0, x), axes("count_nonzero", dim, x.ndim))


# --- softmax ------------------------------------------------------------------------------------------------


class Softmax(Function):
    """exp(x) / sum(exp(x)) along one axis, each slice shifted by its own maximum."""

    saves_output = True

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, x: Array) -> Array:
        with np.errstate(invalid="ignore"):  # a slice of -inf alone is NaN
            e = np.exp(x - _peak(x, self.dim))
            e /= e.sum(self.dim, keepdims=True)
        return e

    def backward(self, grad: Tensor) -> Tensor:
        y = self.saved_output()
        gy = grad * y
        return gy - y * sum(gy, self.dim, keepdim=True)


class LogSoftmax(Function):
    """x - logsumexp(x) along one axis."""

    saves_output = True

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, x: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            shifted = x - _peak(x, self.dim)
            return shifted - np.log(np.exp(shifted).sum(self.dim, keepdims=True))

    def backward(self, grad: Tensor) -> Tensor:
        return grad - exp(self.saved_output()) * sum(grad, self.dim, keepdim=True)


@in_float32
def softmax(x: Tensor, dim: int = -1) -> Tensor:
    """Softmax along ``dim``."""
    expect_floating("softmax", "x", x)
    along = axis("softmax", dim, x.ndim)
    return Softmax(along)(x) if x.ndim else exp(x - x)


@in_float32
def log_softmax(x: Tensor, dim: int = -1) -> Tensor:
    """Logarithm of the softmax along ``dim``."""
    expect_floating("log_softmax", "x", x)
    along = axis("log_softmax", dim, x.ndim)
    return LogSoftmax(along)(x) if x.ndim else x - x


def sum_to(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Undo broadcasting from ``shape``: sum over added and stretched dimensions."""
    shape = tuple(shape)
    if x.shape == shape:
        return x
    extra = x.ndim - len(shape)
    if extra < 0 or not {n in (1, x.shape[extra + i]) for i, n in enumerate(shape)} <= {True}:
        raise ValueError(f"sum_to: shape {shape} does not broadcast to {x.shape}")
    dims = tuple(range(extra)) + tuple(
        extra + i for i, n in enumerate(shape) if n == 1 and x.shape[extra + i] != 1
    )
    return reshape(sum(x, dims, keepdim=True), shape)
