"""Losses between predictions and targets, with PyTorch's formulas and reductions.

Differences from PyTorch, on purpose: shapes that differ are an error where PyTorch warns and broadcasts, and
the deprecated arguments ``size_average`` and ``reduce`` do not exist. Half types are computed in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import kernels
from minidl.autograd import Function, is_grad_enabled
from minidl.kernels.capturing import may_read
from minidl.kernels.reference.pair_loss import PairLoss
from minidl.ops._common import Array, expect_floating, expect_same_dtype, in_float32
from minidl.ops.activations import logsigmoid
from minidl.ops.distance import pairwise_distance
from minidl.ops.elementwise import clamp, exp, log, mask, maximum, relu, sigmoid, sqrt, where
from minidl.ops.movement import getitem, reshape
from minidl.ops.promotion import beside, fill
from minidl.ops.reduce import log_softmax, mean, sum
from minidl.tensor import Tensor

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cosine_embedding_loss",
    "hinge_embedding_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "margin_ranking_loss",
    "mse_loss",
    "nll_loss",
    "reduced",
    "smooth_l1_loss",
    "soft_cross_entropy",
    "triplet_margin_loss",
]

REDUCTIONS = ("mean", "sum", "none")


def reduced(op: str, loss: Tensor, reduction: str) -> Tensor:
    """The losses as they are ("none"), their sum, or their mean."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"{op}: reduction expects 'mean', 'sum' or 'none', got {reduction!r}")
    if reduction == "none":
        return loss
    return sum(loss) if reduction == "sum" else mean(loss)


def _target(op: str, x: Tensor, target: Any, name: str = "target") -> Tensor:
    """The target as a tensor of the shape and dtype of x."""
    expect_floating(op, "x", x)
    try:
        t = target if isinstance(target, Tensor) else Tensor(beside(np.asarray(target, x.dtype), x))
    except (TypeError, ValueError):
        raise TypeError(f"{op}: {name} expects numbers, got {type(target).__name__}") from None
    expect_same_dtype(op, x, **{name: t})
    if t.shape != x.shape:
        raise ValueError(f"{op}: {name} expects the shape of x {x.shape}, got {t.shape}")
    return t


def expect_constant(op: str, name: str, t: Tensor | None) -> None:
    """An argument that the loss is not differentiated by must not ask for a gradient.

    Raises:
        RuntimeError: it does, and operators are recorded.
    """
    if t is not None and t.requires_grad and is_grad_enabled():
        raise RuntimeError(f"{op}: {name} requires a gradient but is a constant here; use {name}.detach()")


def _signs(op: str, target: Any, shape: tuple[int, ...], x: Tensor) -> Array:
    """An array of 1 and -1 as booleans."""
    t = beside(target, x)
    if t.shape != shape:
        raise ValueError(f"{op}: target expects shape {shape}, got {t.shape}")
    if may_read() and not ((t == 1) | (t == -1)).all():
        raise ValueError(f"{op}: target expects 1 and -1, got other values")
    return t == 1


class PairLossSum(Function):
    """The sum of the losses of pairs of numbers (kinds and formulas: kernels/reference/pair_loss.py)."""

    saved_inputs = (0, 1)

    def __init__(self, kind: PairLoss) -> None:
        self.kind = kind

    def forward(self, x: Array, t: Array) -> Array:
        return kernels.backend(x).pair_loss(self.kind, x, t)

    def backward(self, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, t = self.saved()
        if not is_grad_enabled():
            gx = Tensor._wrap(
                kernels.backend(x.data).pair_loss_backward(self.kind, grad.data, x.data, t.data)
            )
        elif self.kind == "squared":
            gx = (x - t) * (grad * 2)
        elif self.kind == "absolute":
            gx = grad * Tensor._wrap(np.sign(x.data - t.data))
        else:
            gx = (sigmoid(x) - t) * grad
        if not self.needs_input_grad[1]:
            return gx, None
        return gx, -(x * grad) if self.kind == "logistic" else -gx


def _pair_loss(kind: PairLoss, x: Tensor, t: Tensor, reduction: str) -> Tensor | None:
    """The sum or the mean of the losses, in one pass; None where each is asked for."""
    if reduction not in ("sum", "mean"):
        return None
    total = PairLossSum(kind)(x, t)
    return total if reduction == "sum" else total * (1 / x.size if x.size else float("nan"))


@in_float32
def mse_loss(x: Tensor, target: Any, reduction: str = "mean") -> Tensor:
    """(x - target)**2, any shape, as ``torch.nn.functional.mse_loss``."""
    t = _target("mse_loss", x, target)
    total = _pair_loss("squared", x, t, reduction)
    return reduced("mse_loss", (x - t) * (x - t), reduction) if total is None else total


@in_float32
def l1_loss(x: Tensor, target: Any, reduction: str = "mean") -> Tensor:
    """|x - target|, any shape, as ``torch.nn.functional.l1_loss``; gradient 0 where they are equal."""
    t = _target("l1_loss", x, target)
    total = _pair_loss("absolute", x, t, reduction)
    return reduced("l1_loss", (x - t).abs(), reduction) if total is None else total


class Huber(Function):
    """d**2 / 2 up to |d| = delta, a line of slope delta beyond (Huber 1964). Its derivative is d limited to
    [-delta, delta]."""

    saved_inputs = (0,)

    def __init__(self, delta: float) -> None:
        self.delta = delta

    def forward(self, d: Array) -> Array:
        limited = np.clip(d, -self.delta, self.delta)
        return limited * (d - limited * d.dtype.type(0.5))

    def backward(self, grad: Tensor) -> Tensor:
        (d,) = self.saved()
        return grad * clamp(d, -self.delta, self.delta)


@in_float32
def huber_loss(x: Tensor, target: Any, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """d**2 / 2 for d = x - target up to |d| = delta, delta * (|d| - delta / 2) beyond, as
    ``torch.nn.functional.huber_loss``."""
    if delta <= 0:
        raise ValueError(f"huber_loss: delta expects a number > 0, got {delta}")
    return reduced("huber_loss", Huber(delta)(x - _target("huber_loss", x, target)), reduction)


@in_float32
def smooth_l1_loss(x: Tensor, target: Any, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """d**2 / (2 beta) for d = x - target up to |d| = beta, |d| - beta / 2 beyond, as
    ``torch.nn.functional.smooth_l1_loss`` (Girshick 2015); ``beta=0`` is the L1 loss."""
    if beta < 0:
        raise ValueError(f"smooth_l1_loss: beta expects a number >= 0, got {beta}")
    d = x - _target("smooth_l1_loss", x, target)
    return reduced("smooth_l1_loss", Huber(beta)(d) * (1 / beta) if beta else d.abs(), reduction)


class BinaryCrossEntropy(Function):
    """-t log(x) - (1 - t) log(1 - x), logarithms no lower than -100 (PyTorch's limit), so that x = 0 and 1
    cost a finite amount; the divisor of the gradient is at least 1e-12."""

    saved_inputs = (0, 1)

    def forward(self, x: Array, t: Array) -> Array:
        with np.errstate(divide="ignore"):
            return (t - 1) * np.maximum(np.log1p(-x), -100) - t * np.maximum(np.log(x), -100)

    def backward(self, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, t = self.saved()
        gx = gt = None
        if self.needs_input_grad[0]:
            gx = grad * (x - t) / clamp(x * (1 - x), min=1e-12)
        if self.needs_input_grad[1]:
            gt = grad * (clamp(log(1 - x), min=-100) - clamp(log(x), min=-100))
        return gx, gt


@in_float32
def binary_cross_entropy(
    x: Tensor, target: Any, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy of probabilities x in [0, 1], as ``torch.nn.functional.binary_cross_entropy``.

    Args:
        x: any shape. From logits, :func:`binary_cross_entropy_with_logits` is more accurate.
        target: probabilities in [0, 1], shape of ``x``.
        weight: a factor for each loss; broadcasts against ``x``.
        reduction: "mean", "sum" or "none".
    """
    op = "binary_cross_entropy"
    t = _target(op, x, target)
    if may_read() and x.size and not (x.data.min() >= 0 and x.data.max() <= 1):
        raise ValueError(f"{op}: x expects values in [0, 1], got {x.data.min()} to {x.data.max()}")
    loss = BinaryCrossEntropy()(x, t)
    return reduced(op, loss if weight is None else loss * weight, reduction)


@in_float32
def binary_cross_entropy_with_logits(
    x: Tensor,
    target: Any,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of sigmoid(x), as ``torch.nn.functional.binary_cross_entropy_with_logits``.

    Args:
        x: logits, any shape.
        target: probabilities in [0, 1], shape of ``x``.
        weight: a factor for each loss; broadcasts against ``x``.
        reduction: "mean", "sum" or "none".
        pos_weight: a factor of the targets' positive part; broadcasts against ``x``.
    """
    op = "binary_cross_entropy_with_logits"
    t = _target(op, x, target)
    expect_same_dtype(op, x, weight=weight, pos_weight=pos_weight)
    if weight is None and pos_weight is None:
        total = _pair_loss("logistic", x, t, reduction)
        if total is not None:
            return total
    factor: Any = 1 if pos_weight is None else (pos_weight - 1) * t + 1
    loss = (1 - t) * x - logsigmoid(x) * factor
    return reduced(op, loss if weight is None else loss * weight, reduction)


@in_float32
def nll_loss(
    x: Tensor,
    target: Any,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Minus the log-probability of each target, as ``torch.nn.functional.nll_loss``.

    Args:
        x: log-probabilities (N, C), (N, C, d1, ...) or, for one sample, (C,).
        target: class indices or ``ignore_index``, shape of ``x`` without C.
        weight: (C,), a factor for each class; the mean divides by the targets' total weight.
        reduction: "mean", "sum" or "none".
    """
    op = "nll_loss"
    expect_floating(op, "x", x)
    labels = beside(target, x)
    if x.ndim == 0 or labels.shape != (x.shape[:1] if x.ndim > 1 else ()) + x.shape[2:]:
        raise ValueError(
            f"{op}: x of shape {x.shape} expects a target of that shape without C, got {labels.shape}"
        )
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{op}: target expects integer class indices, got {labels.dtype}")
    if x.ndim == 1:
        x, labels = reshape(x, (1, x.shape[0])), labels.reshape(1)
        single = True
    else:
        single = False
    classes = x.shape[1]
    expect_same_dtype(op, x, weight=weight)
    expect_constant(op, "weight", weight)
    if weight is not None and weight.shape != (classes,):
        raise ValueError(f"{op}: weight expects shape ({classes},), got {weight.shape}")
    kept = labels != ignore_index
    wrong = kept & ((labels < 0) | (labels >= classes))
    if may_read() and wrong.any():
        raise ValueError(f"{op}: target {int(labels[wrong][0])} is not a class index in [0, {classes})")
    safe = np.where(kept, labels, 0)
    factor = kept.astype(x.dtype)
    if weight is not None:
        factor = factor * weight.data[safe]
    rank = labels.ndim
    places = [x.xp.arange(n).reshape((-1,) + (1,) * (rank - 1 - d)) for d, n in enumerate(labels.shape)]
    picked = getitem(x, (places[0], safe, *places[1:]))
    # where, not a product: an ignored log-probability may be -inf
    zero = fill(x, 0)
    loss = mask(where(kept, -picked, zero), factor)
    if single and reduction == "none":
        return reshape(loss, ())
    if reduction != "mean":
        return reduced(op, loss, reduction)
    counted = factor.sum(dtype=np.float64)  # 0 where every target is ignored: then 0 / 0
    return sum(loss) / Tensor._wrap(counted.astype(x.dtype))


def soft_cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None, reduction: str, label_smoothing: float
) -> Tensor:
    """Cross-entropy between logits and class probabilities of the same shape (N, C, ...): the part of
    :func:`cross_entropy` for soft targets. The mean is over the samples (and positions), whatever their
    weights."""
    op = "cross_entropy"
    target = _target(op, logits, target)
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / logits.shape[1]
    if weight is not None:
        target = target * reshape(weight, (logits.shape[1], *[1] * (logits.ndim - 2)))
    loss = -sum(log_softmax(logits, 1) * target, 1)
    return reduced(op, loss, reduction)


@in_float32
def kl_div(x: Tensor, target: Any, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """Kullback-Leibler divergence target * (log(target) - x), as ``torch.nn.functional.kl_div``.

    Args:
        x: log-probabilities, any shape.
        target: probabilities of the same shape, 0 included; with ``log_target`` their logarithms.
        reduction: "batchmean" (the divergence's mathematical mean: sum / N), "mean" (over all elements),
            "sum" or "none".
    """
    op = "kl_div"
    t = _target(op, x, target)
    if log_target:
        loss = exp(t) * (t - x)
    else:
        one = fill(t, 1)
        loss = t * (log(where(t.data > 0, t, one)) - x)
    if reduction == "batchmean":
        return sum(loss) / (x.shape[0] if x.ndim else 1)
    return reduced(op, loss, reduction)


@in_float32
def cosine_embedding_loss(
    x1: Tensor, x2: Tensor, target: Any, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """1 - cos(x1, x2) where the target is 1, max(cos - margin, 0) where it is -1, as
    ``torch.nn.functional.cosine_embedding_loss``.

    Args:
        x1, x2: (N, D), or (D,) with a target of shape ().
        target: 1 and -1, shape (N,).
    """
    op = "cosine_embedding_loss"
    _target(op, x1, x2, "x2")
    if x1.ndim not in (1, 2):
        raise ValueError(f"{op}: x1 expects shape (N, D) or (D,), got {x1.shape}")
    same = _signs(op, target, x1.shape[:-1], x1)
    lengths = (sum(x1 * x1, -1) + 1e-12) * (sum(x2 * x2, -1) + 1e-12)
    cos = sum(x1 * x2, -1) / sqrt(lengths)
    return reduced(op, where(same, 1 - cos, relu(cos - margin)), reduction)


@in_float32
def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """max(d(anchor, positive) - d(anchor, negative) + margin, 0), as
    ``torch.nn.functional.triplet_margin_loss`` (Balntas et al. 2016).

    Args:
        anchor, positive, negative: (N, D) or (D,).
        p, eps: of the distance, see :func:`pairwise_distance`.
        swap: take the smaller of d(anchor, negative) and d(positive, negative).
    """
    op = "triplet_margin_loss"
    _target(op, anchor, positive, "positive")
    _target(op, anchor, negative, "negative")
    if margin <= 0:
        raise ValueError(f"{op}: margin expects a number > 0, got {margin}")
    near = pairwise_distance(anchor, positive, p, eps)
    far = pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = -maximum(-far, -pairwise_distance(positive, negative, p, eps))
    return reduced(op, relu(near - far + margin), reduction)


@in_float32
def hinge_embedding_loss(x: Tensor, target: Any, margin: float = 1.0, reduction: str = "mean") -> Tensor:
    """x where the target is 1, max(margin - x, 0) where it is -1, as
    ``torch.nn.functional.hinge_embedding_loss``."""
    op = "hinge_embedding_loss"
    expect_floating(op, "x", x)
    return reduced(op, where(_signs(op, target, x.shape, x), x, relu(margin - x)), reduction)


@in_float32
def margin_ranking_loss(
    x1: Tensor, x2: Tensor, target: Any, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """max(-target * (x1 - x2) + margin, 0), as ``torch.nn.functional.margin_ranking_loss``: target 1 wants x1
    above x2, -1 below."""
    op = "margin_ranking_loss"
    d = x1 - _target(op, x1, x2, "x2")
    first = _signs(op, target, x1.shape, x1)
    return reduced(op, relu(where(first, -d, d) + margin), reduction)
