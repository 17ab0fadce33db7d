"""Softmax and cross-entropy in one operator: stable, and its gradient is softmax minus target."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import kernels
from minidl.autograd import Function, is_grad_enabled
from minidl.kernels import devices
from minidl.ops._common import Array, expect_floating, expect_same_dtype, in_float32
from minidl.ops.losses import expect_constant, soft_cross_entropy
from minidl.ops.movement import permute, reshape, unsqueeze
from minidl.ops.promotion import beside
from minidl.ops.reduce import softmax, sum
from minidl.tensor import Tensor


class SoftmaxCrossEntropy(Function):
    """Loss of each row of logits (M, C) against its class; rows of ``ignore_index`` cost 0."""

    saved_inputs = (0,)

    def __init__(
        self, target: Array, weight: Array | None, ignore_index: int, label_smoothing: float
    ) -> None:
        self.options = (target, weight, ignore_index, label_smoothing)

    def forward(self, logits: Array) -> Array:
        loss, self.row_weight = kernels.backend(logits).softmax_cross_entropy(logits, *self.options)
        return loss

    def backward(self, grad: Tensor) -> Tensor:
        (logits,) = self.saved()
        if not is_grad_enabled():
            be = kernels.backend(logits.data)
            return Tensor._wrap(be.softmax_cross_entropy_backward(grad.data, logits.data, *self.options))
        # loss_i = -sum_c q_ic log softmax(x_i)_c with constant q, so d loss_i / d x_i = softmax(x_i) sum_c
        # q_ic - q_i
        q = Tensor._wrap(self._target_distribution(logits))
        return unsqueeze(grad, 1) * (softmax(logits, 1) * sum(q, 1, keepdim=True) - q)

    def _target_distribution(self, logits: Tensor) -> Array:
        """The rows q_i above: class weight and smoothing included, 0 where ignored."""
        target, weight, ignore_index, smoothing = self.options
        m, c = logits.shape
        kept = target != ignore_index
        xp = logits.xp
        w = xp.ones(c, logits.dtype) if weight is None else weight
        q = xp.zeros((m, c), logits.dtype)
        rows = xp.flatnonzero(kept)
        q[rows, target[rows]] = (1 - smoothing) * w[target[rows]]
        q += kept[:, None] * (smoothing / c) * w
        return q.astype(logits.dtype, copy=False)


@in_float32
def cross_entropy(
    logits: Tensor,
    target: Any,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy between logits and targets, as ``torch.nn.functional.cross_entropy``.

    Args:
        logits: (N, C) or (N, C, d1, ...), unnormalised; or (C,) for one sample.
        target: class indices in [0, C) or ``ignore_index``, shape (N,) or (N, d1, ...): an integer tensor or
            array. Or class probabilities, floating, shape of ``logits``; the gradient reaches them too.
        weight: (C,), a weight for each class; with ``reduction="mean"`` and class indices the sum is divided
            by the targets' total weight.
        ignore_index: this target costs nothing and does not count (class indices only).
        reduction: "mean", "sum" or "none" (a loss for each target).
        label_smoothing: share of the target taken from the class and spread evenly over all (Szegedy et al.
            2016).

    Raises:
        ValueError: a target in main memory is no class. One that lies on a device already is not waited for: there its
            loss, and so the mean, is NaN.
    """
    op = "cross_entropy"
    expect_floating(op, "logits", logits)
    if logits.ndim == 1:  # one sample
        lifted = target[None] if isinstance(target, Tensor) else np.asarray(target)[None]
        loss = cross_entropy(unsqueeze(logits, 0), lifted, weight, ignore_index, reduction, label_smoothing)
        return reshape(loss, ()) if loss.ndim else loss
    labels = target.data if isinstance(target, Tensor) else target
    labels = labels if devices.is_array(labels) else np.asarray(labels)
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{op}: reduction expects 'mean', 'sum' or 'none', got {reduction!r}")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"{op}: label_smoothing expects a value from 0 to 1, got {label_smoothing}")
    classes = logits.shape[1] if logits.ndim > 1 else 0
    if weight is not None:
        expect_same_dtype(op, logits, weight=weight)
        if weight.shape != (classes,):
            raise ValueError(f"{op}: weight expects shape ({classes},), got {weight.shape}")
    if labels.shape == logits.shape and labels.dtype.kind not in "iub" and logits.ndim > 1:
        soft = target if isinstance(target, Tensor) else Tensor._wrap(beside(labels, logits))
        return soft_cross_entropy(logits, soft, weight, reduction, label_smoothing)
    flat = _class_indices(op, labels, logits, ignore_index)
    expect_constant(op, "weight", weight)
    rows = logits
    if logits.ndim > 2:
        rows = reshape(permute(logits, (0, *range(2, logits.ndim), 1)), (flat.size, classes))
    node = SoftmaxCrossEntropy(
        flat, None if weight is None else weight.data.copy(), ignore_index, label_smoothing
    )
    losses = node(rows)
    if reduction == "none":
        return reshape(losses, labels.shape)
    total = sum(losses)
    if reduction == "sum":
        return total
    counted = node.row_weight.sum(dtype=np.float64)  # 0 where every target is ignored: then 0 / 0
    return total / Tensor._wrap(counted.astype(logits.dtype))


def _class_indices(op: str, labels: Array, logits: Tensor, ignore_index: int) -> Array:
    """The labels int64 (rows,) of logits (N, C, ...), checked, beside them; an array of its own for backward."""
    if logits.ndim < 2 or labels.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"{op}: logits of shape {logits.shape} expect a target of shape (N, ...) without C, got "
            f"{labels.shape}"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"{op}: target expects integer class indices, got {labels.dtype}")
    flat = labels.astype(np.int64, order="C").reshape(-1)
    if isinstance(flat, np.ndarray):  # a label on a device would have to be waited for: its loss is NaN
        classes = logits.shape[1]
        wrong = (flat != ignore_index) & ((flat < 0) | (flat >= classes))
        if wrong.any():
            raise ValueError(f"{op}: target {int(flat[wrong][0])} is not a class index in [0, {classes})")
    return beside(flat, logits)
