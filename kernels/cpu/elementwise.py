"""ReLU, the sigmoid, their gradients and addition over large arrays: loops that keep the layout of their inputs.

An array whose axes are permuted but whose memory has no gaps (a channels-last view) is worked on in memory
order. Small arrays and other layouts are NumPy's.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from minidl.kernels.cpu import memory
from minidl.kernels.cpu.exponential import exp_negative, exp_negative_32
from minidl.kernels.cpu.lanes import LANES, at_least, drain, load, splat, store, stream, where_positive
from minidl.kernels.cpu.layout import dense_order, streams, supported
from minidl.kernels.cpu.runtime import jit, kernel, launch, share
from minidl.kernels.reference.checks import Array, expect_shape
from minidl.kernels.reference.elementwise import Elementwise

SMALL = 1 << 14  # elements: below this NumPy's call costs less than a compiled one saves


@jit
def _my_vectors(size: Any, part: Any, parts: Any) -> Any:
    """This share of the whole vectors, as elements, and where the scalar rest ends (the last share has
    it).
    """
    first, last = share(size // LANES, part, parts)
    end = size if part == parts - 1 else last * LANES
    return first * LANES, last * LANES, end


@kernel
def _relu(x: Any, y: Any, past: Any, part: Any, parts: Any) -> None:
    zero = x.dtype.type(0)
    low = splat(zero)
    first, last, end = _my_vectors(x.size, part, parts)
    for i in range(first, last, LANES):
        value = at_least(load(x, i), low)
        if past:
            stream(y, i, value)
        else:
            store(y, i, value)
    for i in range(last, end):
        y[i] = zero if zero > x[i] else x[i]
    if past:
        drain()


@kernel
def _mask(gy: Any, y: Any, gx: Any, past: Any, part: Any, parts: Any) -> None:
    first, last, end = _my_vectors(gy.size, part, parts)
    for i in range(first, last, LANES):
        value = where_positive(load(y, i), load(gy, i))
        if past:
            stream(gx, i, value)
        else:
            store(gx, i, value)
    for i in range(last, end):
        gx[i] = gy[i] if y[i] > 0 else 0
    if past:
        drain()


@kernel
def _sum(a: Any, b: Any, c: Any, past: Any, part: Any, parts: Any) -> None:
    first, last, end = _my_vectors(a.size, part, parts)
    for i in range(first, last, LANES):
        value = load(a, i) + load(b, i)
        if past:
            stream(c, i, value)
        else:
            store(c, i, value)
    for i in range(last, end):
        c[i] = a[i] + b[i]
    if past:
        drain()


@functools.cache
def sigmoid_of(dtype: str) -> Any:
    """The sigmoid of a number of this dtype. exp(-|x|) does not overflow, and 1 - sigmoid(|x|) is not rounded away."""
    exp = exp_negative_32 if dtype == "float32" else exp_negative
    one = np.dtype(dtype).type(1)

    @jit(variant=dtype)
    def sigmoid(x: Any) -> Any:
        e = exp(-abs(x))
        return (e if x < 0 else one) / (one + e)

    return sigmoid


@functools.cache
def _sigmoid(dtype: str) -> Any:
    sigmoid = sigmoid_of(dtype)

    @kernel(variant=dtype)
    def fill_sigmoid(x: Any, y: Any, past: Any, part: Any, parts: Any) -> None:
        first, _, end = _my_vectors(x.size, part, parts)
        x, y = x[first:end], y[first:end]
        for i in range(x.size):  # from 0 on: an index that might be negative is not turned into vectors
            y[i] = sigmoid(x[i])

    return fill_sigmoid


@kernel
def _sigmoid_gradient(gy: Any, y: Any, gx: Any, past: Any, part: Any, parts: Any) -> None:
    one = splat(gy.dtype.type(1))
    first, last, end = _my_vectors(gy.size, part, parts)
    for i in range(first, last, LANES):
        value = load(y, i)
        value = load(gy, i) * (value * (one - value))
        if past:
            stream(gx, i, value)
        else:
            store(gx, i, value)
    for i in range(last, end):
        gx[i] = gy[i] * (y[i] * (gy.dtype.type(1) - y[i]))
    if past:
        drain()


def in_memory_order(*arrays: Array) -> tuple[list[Array], tuple[int, ...]] | None:
    """The arrays transposed to one common C-contiguous order, and the axes that undo it; None when there is
    none.
    """
    if arrays[0].size < SMALL or not supported(*arrays):
        return None
    axes = dense_order(arrays[0])
    if axes is None:
        return None
    ordered = [array.transpose(axes) for array in arrays]
    if not all(array.flags.c_contiguous and array.flags.aligned for array in ordered):
        return None
    return ordered, tuple(np.argsort(axes))


class ElementwiseMixin(Elementwise):
    """Element-wise kernels for large dense arrays; the rest goes to the reference."""

    def relu(self, x: Array) -> Array:
        """See the reference."""
        result = self._run(_relu, x)
        return super().relu(x) if result is None else result

    def relu_backward(self, gy: Array, y: Array) -> Array:
        """See the reference."""
        expect_shape("relu_backward", "y", y, gy.shape)
        result = self._run(_mask, gy, y)
        return super().relu_backward(gy, y) if result is None else result

    def sigmoid(self, x: Array) -> Array:
        """See the reference."""
        result = self._run(_sigmoid(str(x.dtype)), x) if supported(x) else None
        return super().sigmoid(x) if result is None else result

    def sigmoid_backward(self, gy: Array, y: Array) -> Array:
        """See the reference."""
        expect_shape("sigmoid_backward", "y", y, gy.shape)
        result = self._run(_sigmoid_gradient, gy, y)
        return super().sigmoid_backward(gy, y) if result is None else result

    def add(self, a: Array, b: Array) -> Array:
        """See the reference."""
        expect_shape("add", "b", b, a.shape)
        result = self._run(_sum, a, b)
        return super().add(a, b) if result is None else result

    def _run(self, function: Any, *arrays: Array) -> Array | None:
        found = in_memory_order(*arrays)
        if found is None:
            return None
        ordered, back = found
        out = memory.empty(ordered[0].shape, ordered[0].dtype)
        launch(function, *(array.reshape(-1) for array in (*ordered, out)), streams(out), work=out.size)
        return out.transpose(back)
