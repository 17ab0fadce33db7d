"""Element by element: ReLU and the sigmoid, their gradients, addition. The output keeps the memory layout of the input
(channels-last views stay so).
"""

from __future__ import annotations

from typing import Any

import numpy

from minidl.kernels.reference.checks import Array, expect_shape
from minidl.kernels.reference.half import in_float32


class Elementwise:
    """The element-wise family of the reference back end."""

    xp: Any

    def relu(self, x: Array) -> Array:
        """max(x, 0), any shape; NaN stays NaN."""
        return self.xp.maximum(x, self.xp.zeros((), x.dtype))

    def relu_backward(self, gy: Array, y: Array) -> Array:
        """gy where the output y of ReLU is positive, 0 elsewhere (also where y is NaN)."""
        expect_shape("relu_backward", "y", y, gy.shape)
        return self.xp.where(y > 0, gy, self.xp.zeros((), gy.dtype))

    @in_float32
    def sigmoid(self, x: Array) -> Array:
        """1 / (1 + exp(-x)), written with exp(-|x|): it does not overflow, and what is near 0 keeps its relative
        precision."""
        e, one = self.xp.exp(-abs(x)), x.dtype.type(1)
        return self.xp.where(x < 0, e, one) / (one + e)

    @in_float32
    def sigmoid_backward(self, gy: Array, y: Array) -> Array:
        """gy * y * (1 - y), for the output y of the sigmoid."""
        expect_shape("sigmoid_backward", "y", y, gy.shape)
        return gy * (y * (1 - y))

    def add(self, a: Array, b: Array) -> Array:
        """a + b, both of one shape."""
        expect_shape("add", "b", b, a.shape)
        return a + b

    def cast(self, x: Array, dtype: Any) -> Array:
        """x in another dtype (itself when it has it); what that cannot hold is inf, or some integer."""
        with numpy.errstate(all="ignore"):
            return x.astype(dtype, copy=False)
