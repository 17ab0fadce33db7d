"""Softmax cross-entropy, row by row, in float64 whatever the type of the logits."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.kernels import capturing
from minidl.kernels.cpu import memory
from minidl.kernels.cpu.exponential import exp_negative
from minidl.kernels.cpu.layout import dense, supported
from minidl.kernels.cpu.runtime import jit, kernel, launch, share
from minidl.kernels.reference.checks import Array, expect_shape
from minidl.kernels.reference.loss import Losses


@jit
def _softmax_sum(logits: Any, exps: Any) -> Any:
    """Fill exps with exp(logits - top); return (top, sum of exps)."""
    count = logits.size
    top = logits[0]
    for j in range(1, count):
        top = max(top, logits[j])
    top = np.float64(top)
    for j in range(count):
        exps[j] = exp_negative(np.float64(logits[j]) - top)
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
        capturing.reads(target, "a check of labels")
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
