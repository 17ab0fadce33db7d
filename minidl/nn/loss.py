"""Losses as modules."""

from __future__ import annotations

from typing import Literal

import numpy as np

from minidl.nn import functional as F
from minidl.nn._checks import integer, probability
from minidl.nn.module import Module
from minidl.tensor import Tensor

__all__ = ["CrossEntropyLoss"]


class CrossEntropyLoss(Module):
    """Softmax cross-entropy of logits (N, classes) with integer targets (N,).

    Args:
        weight: (classes,) factors of the classes; the mean divides by the summed weights of the targets.
        ignore_index: a target value that counts for nothing.
        reduction: "mean", "sum" or "none".
        label_smoothing: in [0, 1]: this share of the target is spread over all classes.
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | np.ndarray | None = None,
        ignore_index: int = -100,
        reduction: Literal["mean", "sum", "none"] = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(
                f"CrossEntropyLoss: reduction must be 'mean', 'sum' or 'none', got {reduction!r}"
            )
        self.register_buffer("weight", weight)
        if self.weight is not None and self.weight.ndim != 1:
            raise ValueError(f"CrossEntropyLoss: weight must be (classes,), got shape {self.weight.shape}")
        self.ignore_index = integer("CrossEntropyLoss: ignore_index", ignore_index, -(2**31))
        self.reduction = reduction
        self.label_smoothing = probability("CrossEntropyLoss: label_smoothing", label_smoothing)

    def forward(self, logits: Tensor, target: Tensor | np.ndarray) -> Tensor:
        return F.cross_entropy(
            logits, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing
        )

    def extra_repr(self) -> str:
        text = f"reduction={self.reduction!r}, label_smoothing={self.label_smoothing}"
        return text if self.ignore_index == -100 else f"ignore_index={self.ignore_index}, {text}"
