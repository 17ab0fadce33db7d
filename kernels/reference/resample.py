"""Resampling along one axis: each output is a weighted sum of a few inputs; and its adjoint.

Interpolation of an image is separable: one resampling along the height, one along the width. `index` and
`weight` are (T, OUT): output o = sum over t of weight[t, o] * input[index[t, o]], with every row of `index`
ascending, so that the adjoint is a sum over runs of equal indices and needs no scattered additions.
"""

from __future__ import annotations

from typing import Any

import numpy

from minidl.kernels.capturing import may_read
from minidl.kernels.reference.checks import Array, expect, expect_shape
from minidl.kernels.reference.half import in_float32


class Resampling:
    """The resampling family of the reference back end."""

    xp: Any

    def _check_taps(self, kernel: str, index: Array, weight: Array, size: int) -> None:
        expect_shape(kernel, "weight", weight, index.shape)
        if index.size and (isinstance(index, numpy.ndarray) or may_read()):  # the taps are a plan, not data
            low, high = int(index.min()), int(index.max())
            expect(low >= 0 and high < size, kernel, f"index expects 0 to {size - 1}, got {low} to {high}")
            expect(bool((index[:, 1:] >= index[:, :-1]).all()), kernel, "index expects ascending rows")

    @in_float32
    def resample(self, x: Array, axis: int, index: Array, weight: Array) -> Array:
        """x (..., IN, ...) -> (..., OUT, ...) along `axis`; index and weight (T, OUT)."""
        self._check_taps("resample", index, weight, x.shape[axis])
        shape = [1] * x.ndim
        shape[axis] = -1
        weight = weight.astype(x.dtype)
        y = self.xp.take(x, index[0], axis) * weight[0].reshape(shape)
        for t in range(1, index.shape[0]):
            y += self.xp.take(x, index[t], axis) * weight[t].reshape(shape)
        return y

    @in_float32
    def resample_adjoint(self, gy: Array, axis: int, index: Array, weight: Array, size: int) -> Array:
        """gy (..., OUT, ...) -> (..., size, ...): each number goes back to the inputs it was made of."""
        xp = self.xp
        self._check_taps("resample_adjoint", index, weight, size)
        shape = [1] * gy.ndim
        shape[axis] = -1
        out_shape = list(gy.shape)
        out_shape[axis] = size
        weight = weight.astype(gy.dtype)
        gx = xp.zeros(out_shape, gy.dtype)
        for t in range(index.shape[0]):
            starts = xp.flatnonzero(xp.concatenate([xp.ones(1, bool), index[t, 1:] != index[t, :-1]]))
            runs = xp.add.reduceat(gy * weight[t].reshape(shape), starts, axis)
            gx[(slice(None),) * axis + (index[t, starts],)] += runs
        return gx
