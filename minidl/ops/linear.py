"""Matrix products and the fully-connected layer."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from minidl import kernels
from minidl.autograd import Function
from minidl.autograd.function import expect_broadcast
from minidl.dtypes import is_floating
from minidl.ops._common import Array, both, expect_floating, expect_same_dtype, in_float32
from minidl.ops.movement import reshape, transpose
from minidl.ops.promotion import has_half_kernels, product
from minidl.ops.reduce import sum
from minidl.tensor import Tensor


class MatMul(Function):
    """a @ b for matrices, or stacks of them that broadcast."""

    saved_inputs = (0, 1)
    saved_for: ClassVar = {0: 1, 1: 0}
    broadcasts = True

    def forward(self, a: Array, b: Array) -> Array:
        if a.ndim == 2 and b.ndim == 2 and is_floating(a.dtype) and a.dtype == b.dtype:
            return kernels.backend(a).matmul(a, b)
        return np.matmul(a, b)

    def backward(self, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = self.saved()
        ga = matmul(grad, transpose(b, -1, -2)) if self.needs_input_grad[0] else None
        gb = matmul(transpose(a, -1, -2), grad) if self.needs_input_grad[1] else None
        return ga, gb


class Linear(Function):
    """x @ weight.T + bias for a matrix x."""

    saved_inputs = (0, 1)
    saved_for: ClassVar = {0: 1, 1: 0}

    def forward(self, x: Array, weight: Array, bias: Array | None) -> Array:
        return kernels.backend(x).linear(x, weight, bias)

    def backward(self, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = self.saved()
        gx = matmul(grad, weight) if self.needs_input_grad[0] else None
        gw = matmul(transpose(grad, 0, 1), x) if self.needs_input_grad[1] else None
        gb = sum(grad, 0) if self.needs_input_grad[2] else None
        return gx, gw, gb


@product
def matmul(a: Any, b: Any) -> Tensor:
    """Matrix product with PyTorch's rules: vectors are rows on the left and columns on the right, stacks
    broadcast."""
    if has_half_kernels(a) and has_half_kernels(b) and a.ndim == b.ndim == 2 and a.dtype == b.dtype:
        return _matmul(a, b)
    return _wide_matmul(a, b)


def _matmul(a: Any, b: Any) -> Tensor:
    a, b = both("matmul", a, b)
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError(f"matmul: expects at least one dimension, got shapes {a.shape} and {b.shape}")
    if a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
        raise ValueError(f"matmul: the inner sizes of {a.shape} and {b.shape} differ")
    if a.ndim > 2 and b.ndim > 2:
        expect_broadcast("matmul", a.shape[:-2], b.shape[:-2])
    if a.ndim == 1 and b.ndim == 1:
        return sum(a * b)
    if a.ndim == 1:
        y = MatMul()(reshape(a, (1, a.shape[0])), b)
        return reshape(y, (*y.shape[:-2], y.shape[-1]))
    if b.ndim == 1:
        y = MatMul()(a, reshape(b, (b.shape[0], 1)))
        return reshape(y, y.shape[:-1])
    return MatMul()(a, b)


_wide_matmul = in_float32(_matmul)


@product
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Fully-connected layer: (..., in) x (out, in) -> (..., out)."""
    if has_half_kernels(x):
        return _linear(x, weight, bias)
    return _wide_linear(x, weight, bias)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    expect_floating("linear", "x", x)
    expect_same_dtype("linear", x, weight=weight, bias=bias)
    if weight.ndim != 2:
        raise ValueError(f"linear: weight expects 2 dimensions (out, in), got shape {weight.shape}")
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"linear: weight expects {weight.shape[1]} input features, x has shape {x.shape}")
    if bias is not None and bias.shape != (weight.shape[0],):
        raise ValueError(f"linear: bias expects shape ({weight.shape[0]},), got {bias.shape}")
    rows = x if x.ndim == 2 else reshape(x, (int(np.prod(x.shape[:-1])), x.shape[-1]))
    y = Linear()(rows, weight, bias)
    return y if x.ndim == 2 else reshape(y, (*x.shape[:-1], weight.shape[0]))


_wide_linear = in_float32(_linear)


def _product(op: str, a: Tensor, b: Tensor, a_ndim: int, b_ndim: int) -> Tensor:
    if a.ndim != a_ndim or b.ndim != b_ndim:
        raise ValueError(
            f"{op}: expects {a_ndim} and {b_ndim} dimensions, got shapes {a.shape} and {b.shape}"
        )
    if a.shape[-1] != b.shape[-2 if b_ndim > 1 else 0]:
        raise ValueError(f"{op}: the inner sizes of {a.shape} and {b.shape} differ")
    return matmul(a, b)


def mm(a: Tensor, b: Tensor) -> Tensor:
    """The product of two matrices, (n, k) x (k, m) -> (n, m)."""
    return _product("mm", a, b, 2, 2)


def mv(a: Tensor, b: Tensor) -> Tensor:
    """A matrix times a vector, (n, k) x (k,) -> (n,)."""
    return _product("mv", a, b, 2, 1)


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """Products of pairs of matrices, (batch, n, k) x (batch, k, m) -> (batch, n, m), without broadcasting."""
    if a.ndim == b.ndim == 3 and a.shape[0] != b.shape[0]:
        raise ValueError(f"bmm: expects one batch size, got shapes {a.shape} and {b.shape}")
    return _product("bmm", a, b, 3, 3)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of two vectors of one length."""
    return _product("dot", a, b, 1, 1)


def outer(a: Tensor, b: Tensor) -> Tensor:
    """All products of elements of two vectors, (n,) x (m,) -> (n, m)."""
    if a.ndim != 1 or b.ndim != 1:
        raise ValueError(f"outer: expects two vectors, got shapes {a.shape} and {b.shape}")
    return reshape(a, (a.shape[0], 1)) * b
