"""Losses of pairs of numbers, summed: prediction x and target t of one shape.

kind          loss                                          its derivative by x
"squared"     (x - t)^2                                     2 (x - t)
"absolute"    |x - t|                                       sign(x - t), 0 where they are equal
"logistic"    -t log s(x) - (1 - t) log(1 - s(x))           s(x) - t             with s = 1 / (1 + exp(-x))
            = max(x, 0) - x t + log(1 + exp(-|x|))
"""

from __future__ import annotations

from typing import Literal

from minidl.kernels.reference.checks import Array, expect, expect_shape
from minidl.kernels.reference.elementwise import Elementwise

PairLoss = Literal["squared", "absolute", "logistic"]
KINDS: tuple[PairLoss, ...] = ("squared", "absolute", "logistic")


def expect_pair(kernel: str, kind: str, x: Array, t: Array) -> None:
    """A known kind, and a target of the shape of x."""
    expect(kind in KINDS, kernel, f"kind expects one of {KINDS}, got {kind!r}")
    expect_shape(kernel, "t", t, x.shape)


class PairLosses(Elementwise):
    """The pair loss family of the reference back end."""

    def pair_loss(self, kind: PairLoss, x: Array, t: Array) -> Array:
        """The sum of the losses of all pairs: shape (), dtype of x, added up in float64."""
        expect_pair("pair_loss", kind, x, t)
        xp = self.xp
        d = x - t
        if kind == "squared":
            loss = d * d
        elif kind == "absolute":
            loss = abs(d)
        else:
            loss = self.xp.maximum(x, 0) - x * t + xp.log1p(xp.exp(-abs(x)))
        return xp.asarray(loss.sum(dtype=xp.float64)).astype(x.dtype)

    def pair_loss_backward(self, kind: PairLoss, g: Array, x: Array, t: Array) -> Array:
        """g, of shape (), times the derivative by x of each pair's loss: the shape of x."""
        expect_pair("pair_loss_backward", kind, x, t)
        expect_shape("pair_loss_backward", "g", g, ())
        if kind == "squared":
            return (x - t) * (2 * g)
        if kind == "absolute":
            return self.xp.sign(x - t) * g
        return (self.sigmoid(x) - t) * g
