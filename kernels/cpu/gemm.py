"""The fully-connected layer and the matrix product: convolutions of one pixel per row."""

from __future__ import annotations

from typing import Any

from minidl.kernels import get_num_threads
from minidl.kernels.cpu import memory
from minidl.kernels.cpu.conv import FLOATS, operand
from minidl.kernels.cpu.gather import gather, plan_gather
from minidl.kernels.cpu.plan import Source, Window
from minidl.kernels.cpu.weight_grad import weight_gradient
from minidl.kernels.cpu.weights import kept_value, pack
from minidl.kernels.reference import ReferenceBackend
from minidl.kernels.reference.checks import Array, expect, expect_ndim, expect_shape

SMALL = 8192  # multiplications: below this the way to a kernel costs more than NumPy's product


def _rows(x: Array) -> tuple[Source, Window]:
    """The rows of a C-contiguous matrix as pixels, and the grid that reads each once."""
    count, depth = x.shape
    return Source(1, 1, count, depth, depth, x.dtype.itemsize), Window(1, count, 1, 1, 0, 0, ((0, 0),))


def _product(
    x: Array,
    weight: Array,
    turned: bool,
    bias: Array | None,
    out: Array,
    kept: dict[Any, Any] | None = None,
) -> Array:
    """x (M, K) times weight (N, K, 1), or turned (K, N, 1), to out (M, N); all C-contiguous."""
    m, n = out.shape
    plan = plan_gather(*_rows(x), n, True, 0, get_num_threads())
    packed = kept_value(kept, plan.cols, lambda: pack(weight, (0,), turned, plan.cols))
    gather(plan, x, 0, packed, bias, False, out, n, (0, m * n, m * n, n))
    return out


class GemmMixin(ReferenceBackend):
    """linear and matmul."""

    def linear(self, x: Array, w: Array, bias: Array | None, *, kept: dict[Any, Any] | None = None) -> Array:
        """x (M, K) times w (N, K) transposed, plus bias (N,): y (M, N). Raises ValueError when shapes do not fit."""
        expect_ndim("linear", "x", x, 2)
        expect_ndim("linear", "weight", w, 2)
        (m, k), n = x.shape, w.shape[0]
        expect(k == w.shape[1], "linear", f"weight expects {w.shape[1]} input features, x has {k}")
        if bias is not None:
            expect_shape("linear", "bias", bias, (n,))
        small = m * n * k < SMALL and kept is None  # kept weights are packed already
        if x.dtype not in FLOATS or x.dtype != w.dtype or small or not m * n * k:
            return super().linear(x, w, bias)
        y = memory.empty((m, n), x.dtype)
        weight = operand(w, w.dtype).reshape(n, k, 1)
        return _product(operand(x, x.dtype), weight, False, bias, y, kept)

    def matmul(self, a: Array, b: Array) -> Array:
        """a (M, K) times b (K, N): (M, N), C-contiguous. Raises ValueError when shapes do not fit."""
        expect_ndim("matmul", "a", a, 2)
        expect_ndim("matmul", "b", b, 2)
        (m, k), n = a.shape, b.shape[1]
        expect(k == b.shape[0], "matmul", f"b expects {k} rows, got shape {b.shape}")
        if a.dtype not in FLOATS or a.dtype != b.dtype or m * n * k < SMALL:
            return super().matmul(a, b)
        c = memory.empty((m, n), a.dtype)
        if a.T.flags.c_contiguous and not a.flags.c_contiguous:
            # a.T @ b sums over the rows of both: a weight gradient.
            b = operand(b, b.dtype)
            weight_gradient(b, 0, *_rows(b), operand(a.T, a.dtype)[None, None], 0, c.reshape(m, n, 1))
            return c
        turned = not b.T.flags.c_contiguous
        weight = operand(b, b.dtype).reshape(k, n, 1) if turned else operand(b.T, b.dtype).reshape(n, k, 1)
        return _product(operand(a, a.dtype), weight, turned, None, c)
