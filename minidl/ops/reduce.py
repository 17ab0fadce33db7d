"""Operators that fold dimensions: sums, means, maxima, and what is built of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from minidl.autograd import Function
from minidl.ops._common import Array, axes, expect_floating
from minidl.ops.elementwise import exp, log
from minidl.ops.movement import expand, reshape
from minidl.tensor import Tensor

Dim = int | Sequence[int] | None


class Sum(Function):
    """Sum over axes, kept as size 1. Its adjoint is expand."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        self.dims = dims

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        dtype = np.int64 if x.dtype == np.bool_ else x.dtype
        # float32 images summed over N, H, W: NumPy adds strided rows one by one; float64 accumulation keeps
        # the accuracy
        wide = np.float64 if x.dtype == np.float32 and x.size > 4096 else dtype
        return np.asarray(x.sum(self.dims, keepdims=True, dtype=wide), dtype)

    def backward(self, grad: Tensor) -> Tensor:
        return expand(grad, self.shape)


class Max(Function):
    """Maximum over axes, kept as size 1; ties share the gradient evenly; NaN wins."""

    saved_inputs = (0,)
    saves_output = True

    def __init__(self, dims: tuple[int, ...]) -> None:
        self.dims = dims

    def forward(self, x: Array) -> Array:
        return x.max(self.dims, keepdims=True)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        hit = x.data == self._output
        share = hit / np.maximum(hit.sum(self.dims, keepdims=True), 1)
        return expand(grad, x.shape) * Tensor._wrap(share.astype(x.dtype))


def _squeeze(y: Tensor, dims: tuple[int, ...], keepdim: bool) -> Tensor:
    if keepdim or not dims:
        return y
    return reshape(y, tuple(n for i, n in enumerate(y.shape) if i not in dims))


def sum(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Sum over ``dim`` (all dimensions when ``None``)."""
    dims = axes("sum", dim, x.ndim)
    return _squeeze(Sum(dims)(x), dims, keepdim)


def mean(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Mean over ``dim``; NaN over nothing."""
    expect_floating("mean", "x", x)
    dims = axes("mean", dim, x.ndim)
    count = math.prod(x.shape[d] for d in dims)
    total = sum(x, dims, keepdim) if dims else x
    return total * (1.0 / count if count else math.nan)


def var(x: Tensor, dim: Dim = None, correction: int = 1, keepdim: bool = False) -> Tensor:
    """Variance over ``dim``, two passes, divided by n - ``correction``."""
    expect_floating("var", "x", x)
    dims = axes("var", dim, x.ndim)
    count = math.prod(x.shape[d] for d in dims)
    centred = x - mean(x, dims, keepdim=True)
    divisor = count - correction
    return sum(centred * centred, dims, keepdim) * (1.0 / divisor if divisor > 0 else math.nan)


def max(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Maximum over ``dim``; an empty dimension is an error."""
    dims = axes("max", dim, x.ndim)
    if any(x.shape[d] == 0 for d in dims):
        raise ValueError(f"max: no elements to take a maximum of in shape {x.shape}, dim {dim}")
    return _squeeze(Max(dims)(x), dims, keepdim)


def logsumexp(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """log(sum(exp(x))), each slice shifted by its own maximum."""
    expect_floating("logsumexp", "x", x)
    dims = axes("logsumexp", dim, x.ndim)
    peak = x.data.max(dims, keepdims=True)
    shift = Tensor._wrap(np.where(np.isfinite(peak), peak, 0).astype(x.dtype))
    y = log(sum(exp(x - shift), dims, keepdim=True)) + shift
    return _squeeze(y, dims, keepdim)


class Softmax(Function):
    """exp(x) / sum(exp(x)) along one axis, each slice shifted by its own maximum."""

    saves_output = True

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, x: Array) -> Array:
        e = np.exp(x - x.max(self.dim, keepdims=True))
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
        shifted = x - x.max(self.dim, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(self.dim, keepdims=True))

    def backward(self, grad: Tensor) -> Tensor:
        return grad - exp(self.saved_output()) * sum(grad, self.dim, keepdim=True)


def softmax(x: Tensor, dim: int = -1) -> Tensor:
    """Softmax along ``dim``."""
    expect_floating("softmax", "x", x)
    return Softmax(axes("softmax", dim, x.ndim)[0])(x)


def log_softmax(x: Tensor, dim: int = -1) -> Tensor:
    """Logarithm of the softmax along ``dim``."""
    expect_floating("log_softmax", "x", x)
    return LogSoftmax(axes("log_softmax", dim, x.ndim)[0])(x)


def sum_to(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Undo broadcasting from ``shape``: sum over added and stretched dimensions."""
    shape = tuple(shape)
    if x.shape == shape:
        return x
    extra = x.ndim - len(shape)
    if extra < 0 or any(n not in (1, x.shape[extra + i]) for i, n in enumerate(shape)):
        raise ValueError(f"sum_to: shape {shape} does not broadcast to {x.shape}")
    dims = tuple(range(extra)) + tuple(
        extra + i for i, n in enumerate(shape) if n == 1 and x.shape[extra + i] != 1
    )
    return reshape(sum(x, dims, keepdim=True), shape)
