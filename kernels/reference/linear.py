"""The fully-connected layer and the matrix product."""

from __future__ import annotations

from typing import Any

from minidl.kernels.reference.checks import Array, expect, expect_ndim, expect_shape


class Products:
    """The matrix products of the reference back end."""

    xp: Any

    def linear(self, x: Array, w: Array, bias: Array | None, *, kept: dict[Any, Any] | None = None) -> Array:
        """x (M, K) times w (N, K) transposed, plus bias (N,): y (M, N). Raises ValueError when shapes do not
        fit.
        """
        expect_ndim("linear", "x", x, 2)
        expect_ndim("linear", "weight", w, 2)
        expect(
            x.shape[1] == w.shape[1],
            "linear",
            f"weight expects {w.shape[1]} input features, x has {x.shape[1]}",
        )
        y = x @ w.T
        if bias is not None:
            expect_shape("linear", "bias", bias, (w.shape[0],))
            y = y + bias
        return y

    def matmul(self, a: Array, b: Array) -> Array:
        """a (M, K) times b (K, N): (M, N). Raises ValueError when shapes do not fit."""
        expect_ndim("matmul", "a", a, 2)
        expect_ndim("matmul", "b", b, 2)
        expect(a.shape[1] == b.shape[0], "matmul", f"b expects {a.shape[1]} rows, got shape {b.shape}")
        return self.xp.ascontiguousarray(a @ b)
