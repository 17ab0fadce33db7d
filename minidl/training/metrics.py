"""Figures of a classifier: accuracy, top-5, precision, recall, F1 and the confusion matrix, from plain
NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Count how often each true class was given each predicted class.

    `labels` and `predictions` are integer arrays (N,) with values in 0 .. num_classes - 1. Returns int64
    (num_classes, num_classes): row = true class, column = predicted class. Raises ValueError when a value
    is out of range or the lengths differ.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape or labels.ndim != 1:
        raise ValueError(
            "confusion_matrix: labels and predictions must be one-dimensional and of one length, "
            f"got shapes {labels.shape} and {predictions.shape}"
        )
    for name, values in (("labels", labels), ("predictions", predictions)):
        if values.size and (values.min() < 0 or values.max() >= num_classes):
            raise ValueError(
                f"confusion_matrix: {name} must lie in 0 .. {num_classes - 1}, got {values.min()} .. {values.max()}"
            )
    cells = labels.astype(np.int64) * num_classes + predictions.astype(np.int64)
    return np.bincount(cells, minlength=num_classes * num_classes).reshape(num_classes, num_classes)


def top_k_correct(logits: np.ndarray, labels: np.ndarray, k: int) -> int:
    """How many rows of `logits` (N, C) have their label among the k largest values; ties go to the lower
    class index.
    """
    best = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return int((best == np.asarray(labels)[:, None]).any(axis=1).sum())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log probabilities (N, C) in float64 of logits (N, C)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class ClassScore:
    """Precision, recall and F1 of one class; a ratio with an empty denominator is 0."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Evaluation:
    """The figures of one pass over a labelled data set.

    `confusion` is int64 (C, C), row = true class, column = predicted class; `loss` is the mean
    cross-entropy in nats; `top5` is a fraction, or None where there are five classes or fewer (it would
    always be 1).
    """

    classes: tuple[str, ...]
    confusion: np.ndarray
    loss: float
    top5: float | None

    @property
    def total(self) -> int:
        return int(self.confusion.sum())

    @property
    def correct(self) -> int:
        return int(np.trace(self.confusion))

    @property
    def accuracy(self) -> float:
        return self.correct / self.total if self.total else 0.0

    def per_class(self) -> list[ClassScore]:
        hit = np.diag(self.confusion).astype(np.float64)
        predicted = self.confusion.sum(axis=0)
        support = self.confusion.sum(axis=1)
        precision = hit / np.maximum(predicted, 1)
        recall = hit / np.maximum(support, 1)
        f1 = 2 * hit / np.maximum(predicted + support, 1)
        return [
            ClassScore(name, float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
            for i, name in enumerate(self.classes)
        ]

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the classes, each counting the same."""
        scores = self.per_class()
        return sum(score.f1 for score in scores) / len(scores) if scores else 0.0

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary of every figure."""
        return {
            "images": self.total,
            "correct": self.correct,
            "accuracy": self.accuracy,
            "top5": self.top5,
            "loss": self.loss,
            "macro_f1": self.macro_f1,
            "classes": [
                {
                    "name": s.name,
                    "precision": s.precision,
                    "recall": s.recall,
                    "f1": s.f1,
                    "support": s.support,
                }
                for s in self.per_class()
            ],
            "confusion": self.confusion.tolist(),
        }


def score(logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Evaluation:
    """The figures of logits (N, C) against integer labels (N,); raises ValueError when C differs from
    len(classes).
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 2 or logits.shape != (len(labels), len(classes)):
        raise ValueError(
            f"score: expected logits of shape ({len(labels)}, {len(classes)}), got {logits.shape}"
        )
    count = len(labels)
    if not count:
        return Evaluation(tuple(classes), np.zeros((len(classes),) * 2, np.int64), 0.0, None)
    losses = -log_softmax(logits)[np.arange(count), labels]
    top5 = top_k_correct(logits, labels, 5) / count if len(classes) > 5 else None
    confusion = confusion_matrix(labels, logits.argmax(axis=1), len(classes))
    return Evaluation(tuple(classes), confusion, float(losses.mean()), top5)
