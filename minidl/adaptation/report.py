"""What an adaptation changed: accuracies, distances between the domains, classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import minidl
from minidl.adaptation.coral import coral_loss
from minidl.adaptation.mmd import mmd_loss
from minidl.adaptation.trainer import Features
from minidl.nn import Module
from minidl.training.metrics import Evaluation, log_softmax, score
from minidl.training.reporting import Reporter
from minidl.training.trainer import Loader, device_of

__all__ = ["DomainReport", "Look", "look", "make_report"]

SAMPLE = 1000
"""So many images of each domain, evenly spread over them, decide the distances and stand in the clouds."""


@dataclass(frozen=True)
class Look:
    """What a network makes of some images: features (N, F), logits (N, C), and their labels (N,)."""

    features: np.ndarray
    logits: np.ndarray
    labels: np.ndarray

    @property
    def predictions(self) -> np.ndarray:
        return self.logits.argmax(axis=1)

    @property
    def confidence(self) -> float:
        """The mean probability of the predicted class."""
        return float(np.exp(log_softmax(self.logits).max(axis=1)).mean())

    def sample(self, count: int = SAMPLE) -> Look:
        """At most `count` of the images, evenly spread."""
        rows = np.unique(np.linspace(0, len(self.labels) - 1, min(count, len(self.labels))).astype(np.int64))
        return Look(self.features[rows], self.logits[rows], self.labels[rows])


def look(model: Module, classifier: str, loader: Loader, reporter: Reporter, title: str) -> Look:
    """Run `model` over all batches of `loader` in evaluation mode; its mode is restored afterwards."""
    features = Features(model, classifier)
    was_training = model.training
    model.eval()
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    reporter.begin(title, len(loader))
    try:
        with minidl.no_grad():
            for number, (images, labels) in enumerate(loader.iterate(), 1):
                entering, logits = (t.cpu().numpy() for t in features(images.to(device_of(model))))
                parts.append((np.array(entering), np.array(logits), labels))
                reporter.advance(number)
    finally:
        reporter.end()
        model.train(was_training)
    return Look(*(np.concatenate(column) for column in zip(*parts, strict=True)))


@dataclass(frozen=True)
class DomainReport:
    """Before and after of both domains.

    `source` and `target` are (before, after); `target` is None when its labels are unknown. `confidence` is
    the mean probability of the predicted class on target images, `changed` the share of them whose predicted
    class is another one now, `given` how many of them were and are given to each class (2, C). `distances`
    maps "coral" and "mmd" to (before, after), of the features of `SAMPLE` images of each domain, which are
    divided by their common standard deviation first (an overall scale does not count).
    """

    classes: tuple[str, ...]
    source: tuple[Evaluation, Evaluation] | None
    target: tuple[Evaluation, Evaluation] | None
    confidence: tuple[float, float]
    changed: float
    given: np.ndarray
    distances: Mapping[str, tuple[float, float]]

    def per_class(self) -> list[tuple[str, float | None, float | None, int, int]]:
        """For each class: its name, the recall on the target before and after (None when unknown), and how many
        target images were and are taken for it.
        """
        recalls: list[Any] = [[None] * len(self.classes)] * 2
        if self.target is not None:
            recalls = [[s.recall for s in evaluation.per_class()] for evaluation in self.target]
        return [
            (name, recalls[0][i], recalls[1][i], int(self.given[0, i]), int(self.given[1, i]))
            for i, name in enumerate(self.classes)
        ]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary of every figure."""

        def pair(both: tuple[Evaluation, Evaluation] | None) -> dict[str, Any] | None:
            return None if both is None else {"before": both[0].to_dict(), "after": both[1].to_dict()}

        return {
            "classes": list(self.classes),
            "source": pair(self.source),
            "target": pair(self.target),
            "confidence": list(self.confidence),
            "changed": self.changed,
            "given": self.given.tolist(),
            "distances": {name: list(values) for name, values in self.distances.items()},
        }


def make_report(
    classes: list[str],
    source: tuple[Look, Look] | None,
    target: tuple[Look, Look],
    labelled: bool,
) -> DomainReport:
    """The report of (before, after) looks at both domains; `labelled` says whether the target's labels are known,
    `source` is None where the source has no validation images.
    """

    def scores(both: tuple[Look, Look]) -> tuple[Evaluation, Evaluation]:
        before, after = (score(each.logits, each.labels, classes) for each in both)
        return before, after

    distances: dict[str, tuple[float, float]] = {}
    if source is not None:
        pairs = [domain_distances(s, t) for s, t in zip(source, target, strict=True)]
        distances = {name: (pairs[0][name], pairs[1][name]) for name in pairs[0]}
    before, after = (each.predictions for each in target)
    return DomainReport(
        classes=tuple(classes),
        source=None if source is None else scores(source),
        target=scores(target) if labelled else None,
        confidence=(target[0].confidence, target[1].confidence),
        changed=float((before != after).mean()),
        given=np.stack([np.bincount(each, minlength=len(classes)) for each in (before, after)]),
        distances=distances,
    )


def domain_distances(source: Look, target: Look) -> dict[str, float]:
    """CORAL and MMD^2 between the features of two domains, whatever their scale; empty for fewer than 2 images."""
    rows = [source.sample().features.astype(np.float64), target.sample().features.astype(np.float64)]
    if min(map(len, rows)) < 2:
        return {}
    scale = np.concatenate(rows).std() or 1.0
    first, second = (minidl.Tensor(x / scale) for x in rows)
    return {"coral": float(coral_loss(first, second).item()), "mmd": float(mmd_loss(first, second).item())}
