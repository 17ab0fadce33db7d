"""Losses as modules; each says in :mod:`minidl.nn.functional` what it computes.

reduction: "mean", "sum" or "none" (KLDivLoss: also "batchmean"). PyTorch's deprecated ``size_average`` and
``reduce`` do not exist.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from minidl.nn import functional as F
from minidl.nn._checks import choice, integer, probability
from minidl.nn.module import Module
from minidl.tensor import Tensor

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CosineEmbeddingLoss",
    "CrossEntropyLoss",
    "HingeEmbeddingLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "MSELoss",
    "MarginRankingLoss",
    "NLLLoss",
    "SmoothL1Loss",
    "TripletMarginLoss",
]

Weights = Tensor | np.ndarray | None


class _Loss(Module):
    """A reduction."""

    reductions: ClassVar[tuple[str, ...]] = ("mean", "sum", "none")

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = choice(f"{type(self).__name__}: reduction", reduction, self.reductions)


class _ClassLoss(_Loss):
    """A reduction, factors of the classes and a target that counts for nothing."""

    weight: Tensor | None

    def __init__(self, weight: Weights, ignore_index: int, reduction: str) -> None:
        super().__init__(reduction)
        name = type(self).__name__
        self.register_buffer("weight", weight)
        if self.weight is not None and self.weight.ndim != 1:
            raise ValueError(f"{name}: weight must be (classes,), got shape {self.weight.shape}")
        self.ignore_index = integer(f"{name}: ignore_index", ignore_index, -(2**31))


class CrossEntropyLoss(_ClassLoss):
    """Softmax cross-entropy of logits (N, classes) with integer targets (N,) or probabilities (N, classes).

    Args:
        weight: (classes,) factors of the classes; the mean divides by the summed weights of the targets.
        ignore_index: a target value that counts for nothing.
        reduction: "mean", "sum" or "none".
        label_smoothing: in [0, 1]: this share of the target is spread over all classes.
    """

    def __init__(
        self,
        weight: Weights = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight, ignore_index, reduction)
        self.label_smoothing = probability("CrossEntropyLoss: label_smoothing", label_smoothing)

    def forward(self, logits: Tensor, target: Any) -> Tensor:
        return F.cross_entropy(
            logits, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing
        )


class NLLLoss(_ClassLoss):
    """Minus the log-probability (N, classes) of integer targets (N,)."""

    def __init__(self, weight: Weights = None, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(weight, ignore_index, reduction)

    def forward(self, x: Tensor, target: Any) -> Tensor:
        return F.nll_loss(x, target, self.weight, self.ignore_index, self.reduction)


class MSELoss(_Loss):
    """(x - target)**2."""

    def forward(self, x: Tensor, target: Any) -> Tensor:
        return F.mse_loss(x, target, self.reduction)


class L1Loss(_Loss):
    """|x - target|."""

    def forward(self, x: Tensor, target: Any) -> Tensor:
        return F.l1_loss(x, target, self.reduction)


class SmoothL1Loss(_Loss):
    """d**2 / (2 beta) for d = x - target up to |d| = beta, |d| - beta / 2 beyond."""

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        if beta < 0:
            raise ValueError(f"SmoothL1Loss: beta must be at least 0, got {beta}")
        self.beta = beta

    def forward(self, x: Tensor, target: Any) -> Tensor:
        return F.smooth_l1_loss(x, target, self.reduction, self.beta)


class HuberLoss(_Loss):
    """d**2 / 2 for d = x - target up to |d| = delta, delta * (|d| - delta / 2) beyond."""

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        if delta <= 0:
            raise ValueError(f"HuberLoss: delta must be greater than 0, got {delta}")
        self.delta = delta

    def forward(self, x: Tensor, target: Any) -> Tensor:
        return F.huber_loss(x, target, self.reduction, self.delta)


class BCELoss(_Loss):
    """Cross-entropy of probabilities x with targets in [0, 1]; weight broadcasts against them."""

    weight: Tensor | None

    def __init__(self, weight: Weights = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor, target: Any) -> Tensor:
        return F.binary_cross_entropy(x, target, self.weight, self.reduction)


class BCEWithLogitsLoss(_Loss):
    """Cross-entropy of sigmoid(x) with targets in [0, 1]; pos_weight is a factor of their positive part."""

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(self, weight: Weights = None, reduction: str = "mean", pos_weight: Weights = None) -> None:
        super().__init__(reduction)
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, x: Tensor, target: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(x, target, self.weight, self.reduction, self.pos_weight)


class KLDivLoss(_Loss):
    """target * (log(target) - x) for log-probabilities x; log_target: the target is a logarithm too.

    The divergence's mean over the samples is reduction="batchmean"; "mean" divides by all elements.
    """

    reductions = ("mean", "sum", "none", "batchmean")

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__(reduction)
        self.log_target = bool(log_target)

    def forward(self, x: Tensor, target: Any) -> Tensor:
        return F.kl_div(x, target, self.reduction, self.log_target)


class CosineEmbeddingLoss(_Loss):
    """1 - cos(x1, x2) where the target is 1, max(cos - margin, 0) where it is -1."""

    def __init__(self, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = margin

    def forward(self, x1: Tensor, x2: Tensor, target: Any) -> Tensor:
        return F.cosine_embedding_loss(x1, x2, target, self.margin, self.reduction)


class TripletMarginLoss(_Loss):
    """max(d(anchor, positive) - d(anchor, negative) + margin, 0)."""

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        if margin <= 0:
            raise ValueError(f"TripletMarginLoss: margin must be greater than 0, got {margin}")
        self.margin, self.p, self.eps, self.swap = margin, p, eps, swap

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        return F.triplet_margin_loss(
            anchor, positive, negative, self.margin, self.p, self.eps, self.swap, self.reduction
        )


class HingeEmbeddingLoss(_Loss):
    """x where the target is 1, max(margin - x, 0) where it is -1."""

    def __init__(self, margin: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = margin

    def forward(self, x: Tensor, target: Any) -> Tensor:
        return F.hinge_embedding_loss(x, target, self.margin, self.reduction)


class MarginRankingLoss(_Loss):
    """max(-target * (x1 - x2) + margin, 0)."""

    def __init__(self, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = margin

    def forward(self, x1: Tensor, x2: Tensor, target: Any) -> Tensor:
        return F.margin_ranking_loss(x1, x2, target, self.margin, self.reduction)
