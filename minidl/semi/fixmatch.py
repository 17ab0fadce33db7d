"""FixMatch: a network is trained on its own predictions, where it is sure of them.

Sohn et al.: FixMatch: simplifying semi-supervised learning with consistency and confidence, 2020. With B
labelled images x and ratio * B images u without labels, a weak augmentation w (crop, flip) and a strong one s,

    loss = mean H(y, p(w(x)))  +  weight * mean [max q >= threshold] H(argmax q, p(s(u))),     q = p(w(u))

where no gradient flows through q (eq. 3 and 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import minidl
from minidl.data import DataLoader, Dataset, Subset, train_transform
from minidl.data.transforms import Compose, RandomRotation
from minidl.nn import functional as F
from minidl.tensor import Tensor

__all__ = ["FixMatchLoader", "TwoViews", "fixmatch_loss", "strong_transform"]


def fixmatch_loss(
    logits: Tensor,
    labels: np.ndarray,
    threshold: float = 0.95,
    weight: float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The loss above, a scalar in nats.

    `logits` (B + 2U, C) are those of B labelled images, of U images changed weakly, and of the same U changed
    strongly, as one batch, so that batch norms see them together; `labels` int64 (B,).
    """
    known, classes = len(labels), logits.shape[1]
    unknown = (logits.shape[0] - known) // 2
    if logits.shape[0] != known + 2 * unknown or not known:
        raise ValueError(f"fixmatch_loss: {known} labels need B + 2U rows of logits, got {logits.shape[0]}")
    supervised = F.cross_entropy(logits[:known], labels, label_smoothing=label_smoothing)
    if not unknown:
        return supervised
    weak = logits[known : known + unknown].detach().cpu().numpy()
    odds = np.exp(weak - weak.max(axis=1, keepdims=True))
    sure = odds.max(axis=1) >= threshold * odds.sum(axis=1)
    targets = np.where(sure, weak.argmax(axis=1), classes)  # the class that does not exist is left out
    strong = F.cross_entropy(logits[known + unknown :], targets, ignore_index=classes, reduction="sum")
    return supervised + (weight / unknown) * strong


@dataclass(frozen=True)
class TwoViews:
    """Two transforms of the same image, drawn one after the other, as 2C channels: first `weak`, then
    `strong`.
    """

    weak: Callable[..., Any]
    strong: Callable[..., Any]
    random: ClassVar[bool] = True

    def __call__(self, image: Any, rng: np.random.Generator | None = None) -> np.ndarray:
        views = [np.moveaxis(view(image, rng), 0, 2) for view in (self.weak, self.strong)]
        return np.moveaxis(np.concatenate(views, axis=2), 2, 0)


def strong_transform(cfg: Mapping[str, Any]) -> Compose:
    """`train_transform(cfg, "strong")` with a rotation of up to 30 degrees before the colours change."""
    steps = list(train_transform(cfg, "strong").transforms)
    before = next(i for i, step in enumerate(steps) if type(step).__name__ == "ColorJitter")
    return Compose([*steps[:before], RandomRotation(30.0, "bilinear"), *steps[before:]])


class FixMatchLoader:
    """Batches for `fixmatch_loss`: (images (B + 2U, C, H, W), labels (B,)); an epoch shows every image of
    `unlabelled` once.

    U is `ratio * batch_size`, or all images where there are fewer; the last, smaller batch is left out.
    `augment` is the level of the weak augmentation (see `train_transform`). Everything random depends on
    (seed, epoch, index) alone.
    """

    def __init__(
        self,
        labelled: Dataset,
        unlabelled: Dataset,
        cfg: Mapping[str, Any],
        batch_size: int,
        ratio: int = 3,
        *,
        augment: str = "basic",
        seed: int = 0,
        workers: int = 2,
        cache: int = 0,
    ) -> None:
        for name, part in (("labelled", labelled), ("unlabelled", unlabelled)):
            if not len(part):
                raise ValueError(f"FixMatchLoader: there are no {name} images")
        size = min(ratio * batch_size, len(unlabelled))
        weak = train_transform(cfg, augment)  # type: ignore[arg-type]
        self._unlabelled = DataLoader(
            unlabelled, size, True, TwoViews(weak, strong_transform(cfg)), workers, True, seed, cache=cache
        )
        # Repeated until an epoch is full: each repetition has an index, and so an augmentation, of its own.
        needed = len(self._unlabelled) * batch_size
        rows = np.arange(needed) % len(labelled)
        self._labelled = DataLoader(
            Subset(labelled, rows), batch_size, True, weak, workers, False, seed, cache=cache
        )

    def __len__(self) -> int:
        return len(self._unlabelled)

    def set_epoch(self, epoch: int) -> None:
        self._labelled.set_epoch(epoch)
        self._unlabelled.set_epoch(epoch)

    def iterate(self, start: int = 0) -> Iterator[tuple[Tensor, np.ndarray]]:
        """The batches of the epoch from number `start` on."""
        pairs = zip(self._labelled.iterate(start), self._unlabelled.iterate(start), strict=True)
        for (images, labels), (views, _) in pairs:
            channels = images.shape[1]
            parts = (images.data, views.data[:, :channels], views.data[:, channels:])
            joined = np.concatenate([part.transpose(0, 2, 3, 1) for part in parts])  # channels last in memory
            yield minidl.Tensor(joined.transpose(0, 3, 1, 2)), labels
