"""Softmax cross-entropy, row by row, in float64 whatever the type of the logits.

Numba's `exp` is a call for every element; `_exp` below is a polynomial that LLVM turns into vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.kernels.cpu import memory
from minidl.kernels.cpu.layout import dense, supported
from minidl.kernels.cpu.runtime import jit, kernel, launch, share
from minidl.kernels.reference.checks import Array, expect_shape
from minidl.kernels.reference.loss import Losses

# x = n * ln 2 + r with |r| <= ln 2 / 2. Adding 1.5 * 2^52 rounds n to an integer and leaves it in the low
# bits; # ln 2 in two parts keeps r exact (Cody and Waite 1980, "Software manual for the elementary
# functions").
_LOG2_E = 1.4426950408889634
_ROUND = 6755399441055744.0
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10
_LOWEST = -708.0  # exp of less is no normal number; it counts as 0


@jit
def _exp(x: Any) -> Any:
    """exp(x) for x <= 0, relative error below 1e-15; 0 below -708 and NaN for NaN."""
    bounded = _LOWEST if x < _LOWEST else x
    shifted = bounded * _LOG2_E + _ROUND
    n = shifted - _ROUND
    r = (bounded - n * _LN2_HIGH) - n * _LN2_LOW
    # The Taylor series of exp up to r^13, whose next term is below 5e-18.
    e = 1.6059043836821613e-10
    e = e * r + 2.08767569878681e-09
    e = e * r + 2.505210838544172e-08
    e = e * r + 2.755731922398589e-07
    e = e * r + 2.7557319223985893e-06
    e = e * r + 2.48015873015873e-05
    e = e * r + 0.0001984126984126984
    e = e * r + 0.001388888888888889
    e = e * r + 0.008333333333333333
    e = e * r + 0.041666666666666664
    e = e * r + 0.16666666666666666
    e = e * r + 0.5
    e = e * r + 1.0
    e = e * r + 1.0
    # Shifted left by 52, the low bits of n land in the exponent: adding them multiplies by 2^n.
    exponent = np.float64(shifted).view(np.int64) << 52
    power = np.int64(np.float64(e).view(np.int64) + exponent).view(np.float64)
    return power if x >= _LOWEST else (0.0 if x < _LOWEST else x)


@jit
def _softmax_sum(logits: Any, exps: Any) -> Any:
    """Fill exps with exp(logits - top); return (top, sum of exps)."""
    count = logits.size
    top = logits[0]
    for j in range(1, count):
        top = max(top, logits[j])
    top = np.float64(top)
    for j in range(count):
        exps[j] = _exp(np.float64(logits[j]) - top)
    total = 0.0
    for j in range(count):
        total += exps[j]
    return top, total


@kernel
def _loss_rows(
    logits: Any,
    target: Any,
    weights: Any,
    ignore: Any,
    smoothing: Any,
    loss: Any,
    row_weight: Any,
    part: Any,
    parts: Any,
) -> None:
    """loss = -(1 - e) * w[t] * log p[t] - e / K * sum of w[j] * log p[j], -log p = log(total) - (x - top)."""
    count = logits.shape[1]
    exps = np.empty(count)
    first, last = share(logits.shape[0], part, parts)
    for row in range(first, last):
        t = target[row]
        if t == ignore:
            loss[row] = 0
            row_weight[row] = 0
            continue
        x = logits[row]
        top, total = _softmax_sum(x, exps)
        log_total = np.log(total)
        # x - top first: it is exact for the large terms, while top + log(total) would round.
        value = (1 - smoothing) * weights[t] * (log_total - (x[t] - top))
        if smoothing > 0:
            rest = 0.0
            for j in range(count):
                rest += weights[j] * (log_total - (x[j] - top))
            value += smoothing / count * rest
        loss[row] = value
        row_weight[row] = weights[t]


@kernel
def _loss_gradient(
    g: Any,
    logits: Any,
    target: Any,
    weights: Any,
    ignore: Any,
    smoothing: Any,
    glogits: Any,
    part: Any,
    parts: Any,
) -> None:
    """glogits[j] = g * ((1 - e) * w[t] * (p[j] - [j == t]) + e / K * (p[j] * sum(w) - w[j]))."""
    count = logits.shape[1]
    exps = np.empty(count)
    spread = smoothing / count
    weight_sum = 0.0
    for j in range(count):
        weight_sum += weights[j]
    first, last = share(logits.shape[0], part, parts)
    for row in range(first, last):
        t = target[row]
        out = glogits[row]
        if t == ignore:
            for j in range(count):
                out[j] = 0
            continue
        _, total = _softmax_sum(logits[row], exps)
        hit = g[row] * (1 - smoothing) * weights[t]
        scale = (hit + g[row] * spread * weight_sum) / total
        share_of_all = g[row] * spread
        at_target = exps[t] * scale - share_of_all * weights[t] - hit
        for j in range(count):
            out[j] = exps[j] * scale - share_of_all * weights[j]
        out[t] = at_target


class LossMixin(Losses):
    """Softmax cross-entropy for float32 and float64 logits; the rest goes to the reference."""

    def softmax_cross_entropy(
        self, logits: Array, target: Array, weight: Array | None, ignore_index: int, label_smoothing: float
    ) -> tuple[Array, Array]:
        """See the reference."""
        self._check_loss("softmax_cross_entropy", logits, target, weight, ignore_index, label_smoothing)
        if not supported(logits) or not logits.size:
            return super().softmax_cross_entropy(logits, target, weight, ignore_index, label_smoothing)
        rows, classes = logits.shape
        loss, row_weight = memory.empty(rows, logits.dtype), memory.empty(rows, logits.dtype)
        labels, weights = self._labels(target, weight, classes)
        launch(
            *(_loss_rows, dense(logits), labels, weights, int(ignore_index), float(label_smoothing)),
            *(loss, row_weight),
            work=8 * logits.size,
        )
        return loss, row_weight

    def softmax_cross_entropy_backward(
        self,
        g_per_row: Array,
        logits: Array,
        target: Array,
        weight: Array | None,
        ignore_index: int,
        label_smoothing: float,
    ) -> Array:
        """See the reference."""
        name = "softmax_cross_entropy_backward"
        self._check_loss(name, logits, target, weight, ignore_index, label_smoothing)
        expect_shape(name, "g_per_row", g_per_row, (logits.shape[0],))
        if not supported(logits) or not logits.size:
            return super().softmax_cross_entropy_backward(
                g_per_row, logits, target, weight, ignore_index, label_smoothing
            )
        glogits = memory.empty(logits.shape, logits.dtype)
        labels, weights = self._labels(target, weight, logits.shape[1])
        launch(
            *(_loss_gradient, np.ascontiguousarray(g_per_row, np.float64), dense(logits), labels, weights),
            *(int(ignore_index), float(label_smoothing), glogits),
            work=8 * logits.size,
        )
        return glogits

    def _labels(self, target: Array, weight: Array | None, classes: int) -> tuple[Array, Array]:
        """Targets and class weights in the types that the kernels take."""
        weights = np.ones(classes) if weight is None else np.ascontiguousarray(weight, np.float64)
        return np.ascontiguousarray(target, np.int64), weights
