"""Squared, absolute and logistic losses and their gradients, one pass each over memory.

The sum is taken in float64, by blocks of a fixed length that are added up in order: the same bits for any number of
threads.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from minidl.kernels.cpu import memory
from minidl.kernels.cpu.elementwise import in_memory_order, sigmoid_of
from minidl.kernels.cpu.exponential import exp_negative, exp_negative_32
from minidl.kernels.cpu.lanes import LANES, load_wide, splat, store
from minidl.kernels.cpu.runtime import jit, kernel, launch, share
from minidl.kernels.reference.checks import Array, expect_shape
from minidl.kernels.reference.pair_loss import PairLoss, PairLosses, expect_pair

BLOCK = 2048  # elements: their losses stay in the first cache until they are added up


@functools.cache
def log1p_of(dtype: str) -> Any:
    """log(1 + e) for 0 <= e <= 1: 2 artanh(s), s = e / (2 + e) <= 1/3, by its Taylor series."""
    terms = 8 if dtype == "float32" else 17  # the next one is below half a unit of the last place
    kind = np.dtype(dtype).type
    series = tuple(kind(2 / (2 * k + 1)) for k in reversed(range(terms)))
    two, zero = kind(2), kind(0)

    @jit(variant=dtype)
    def log1p(e: Any) -> Any:
        s = e / (two + e)
        square = s * s
        total = zero
        for c in series:
            total = total * square + c
        return total * s

    return log1p


@functools.cache
def loss_of(kind: PairLoss, dtype: str) -> Any:
    """The loss of one pair."""
    if kind == "squared":

        @jit(variant=f"{kind}-{dtype}")
        def loss(x: Any, t: Any) -> Any:
            return (x - t) * (x - t)

    elif kind == "absolute":

        @jit(variant=f"{kind}-{dtype}")
        def loss(x: Any, t: Any) -> Any:
            return abs(x - t)

    else:
        log1p = log1p_of(dtype)
        exp = exp_negative_32 if dtype == "float32" else exp_negative
        zero = np.dtype(dtype).type(0)

        @jit(variant=f"{kind}-{dtype}")
        def loss(x: Any, t: Any) -> Any:
            return (zero if x < zero else x) - x * t + log1p(exp(-abs(x)))

    return loss


@functools.cache
def slope_of(kind: PairLoss, dtype: str) -> Any:
    """The derivative by x of the loss of one pair."""
    one, two = np.dtype(dtype).type(1), np.dtype(dtype).type(2)
    if kind == "squared":

        @jit(variant=f"{kind}-{dtype}")
        def slope(x: Any, t: Any) -> Any:
            return two * (x - t)

    elif kind == "absolute":

        @jit(variant=f"{kind}-{dtype}")
        def slope(x: Any, t: Any) -> Any:
            d = x - t
            return one if d > 0 else (-one if d < 0 else d)  # of NaN: NaN

    else:
        sigmoid = sigmoid_of(dtype)

        @jit(variant=f"{kind}-{dtype}")
        def slope(x: Any, t: Any) -> Any:
            return sigmoid(x) - t

    return slope


@functools.cache
def loss_kernel(kind: PairLoss, dtype: str) -> Any:
    """Kernel: sums[b] = the sum of the losses of block b of x and t, flat."""
    loss = loss_of(kind, dtype)

    @kernel(variant=f"{kind}-{dtype}")
    def pair_loss(x: Any, t: Any, sums: Any, part: Any, parts: Any) -> None:
        losses, column = np.empty(BLOCK, x.dtype), np.empty(LANES)
        first, last = share(sums.size, part, parts)
        for block in range(first, last):
            start = block * BLOCK
            xs, ts = x[start : start + BLOCK], t[start : start + BLOCK]
            count = xs.size
            for i in range(count):  # from 0 on: an index that might be negative is not turned into vectors
                losses[i] = loss(xs[i], ts[i])
            lanes = splat(0.0)
            whole = count // LANES * LANES
            for i in range(0, whole, LANES):
                lanes = lanes + load_wide(losses, i)
            store(column, 0, lanes)
            total = 0.0
            for i in range(LANES):
                total += column[i]
            for i in range(whole, count):
                total += losses[i]
            sums[block] = total

    return pair_loss


@functools.cache
def slope_kernel(kind: PairLoss, dtype: str) -> Any:
    """Kernel: gx = g times the derivative by x, for x and t, flat."""
    slope = slope_of(kind, dtype)

    @kernel(variant=f"{kind}-{dtype}")
    def pair_loss_backward(g: Any, x: Any, t: Any, gx: Any, part: Any, parts: Any) -> None:
        first, last = share(x.size, part, parts)
        x, t, gx = x[first:last], t[first:last], gx[first:last]
        for i in range(x.size):  # from 0 on: an index that might be negative is not turned into vectors
            gx[i] = g * slope(x[i], t[i])

    return pair_loss_backward


class PairLossMixin(PairLosses):
    """The pair losses of large arrays that lie in memory in one order; the rest goes to the reference."""

    def pair_loss(self, kind: PairLoss, x: Array, t: Array) -> Array:
        """See the reference."""
        expect_pair("pair_loss", kind, x, t)
        found = in_memory_order(x, t)
        if found is None:
            return super().pair_loss(kind, x, t)
        x, t = (array.reshape(-1) for array in found[0])
        sums = np.empty(-(-x.size // BLOCK))
        launch(loss_kernel(kind, str(x.dtype)), x, t, sums, work=x.size)
        return np.asarray(sums.sum(), x.dtype)

    def pair_loss_backward(self, kind: PairLoss, g: Array, x: Array, t: Array) -> Array:
        """See the reference."""
        expect_pair("pair_loss_backward", kind, x, t)
        expect_shape("pair_loss_backward", "g", g, ())
        found = in_memory_order(x, t)
        if found is None:
            return super().pair_loss_backward(kind, g, x, t)
        ordered, back = found
        gx = memory.empty(ordered[0].shape, x.dtype)
        flat = (array.reshape(-1) for array in (*ordered, gx))
        launch(slope_kernel(kind, str(x.dtype)), x.dtype.type(g), *flat, work=x.size)
        return gx.transpose(back)
