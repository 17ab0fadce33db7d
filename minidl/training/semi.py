"""Where the images without labels of a fine-tuning run come from, and what its method makes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from minidl import semi
from minidl.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    ImageLike,
    Splits,
    Subset,
    eval_transform,
    few_per_class,
    open_images,
)
from minidl.errors import MinidlError
from minidl.semi.spread import NO_SCIKIT_LEARN
from minidl.tensor import Tensor
from minidl.training.features import compute_features
from minidl.training.network import Network
from minidl.training.reporting import Reporter
from minidl.training.settings import Settings

BATCH = 64


class Relabelled(Dataset):
    """The samples of `dataset` at `indices` with other labels: `targets` (N,), which index `classes`."""

    def __init__(
        self, dataset: Dataset, indices: np.ndarray, targets: np.ndarray, classes: list[str]
    ) -> None:
        if len(indices) != len(targets):
            raise ValueError(f"Relabelled: {len(indices)} indices, {len(targets)} targets")
        self._images = Subset(dataset, indices)
        self.targets, self.classes = np.asarray(targets, np.int64), list(classes)

    def __getitem__(self, index: int) -> tuple[ImageLike, int]:
        position = self._position(index)
        return self._images[position][0], int(self.targets[position])

    def name(self, index: int) -> str:
        return self._images.name(index)


def choose_images(
    splits: Splits, settings: Settings, where: str, reporter: Reporter
) -> tuple[Splits, Dataset | None]:
    """The data with `labels_per_class` labels only, and the images without labels (None without a method).

    Raises MinidlError when a class has fewer labels, or when there is no image without a label.
    """
    labelled = splits.train
    unlabelled: Dataset | None = None
    if settings.labels_per_class is not None:
        counts = Counter(labelled.targets.tolist())
        fewest = min(counts, key=lambda label: counts[label])
        if counts[fewest] < settings.labels_per_class:
            raise MinidlError(
                f"{where}: class {splits.classes[fewest]!r} has {counts[fewest]} training images, fewer than the "
                f"{settings.labels_per_class} of labels_per_class"
            )
        few, others = few_per_class(labelled.targets, settings.labels_per_class, settings.seed)
        labelled, unlabelled = Subset(splits.train, few), Subset(splits.train, others)
        reporter.log(
            f"labels of {len(few):,} training images are used, {settings.labels_per_class} of each class"
        )
    if settings.semi is None:
        return replace(splits, train=labelled), None
    place = "the training images whose labels are not used"
    if settings.unlabelled is not None:
        place = settings.unlabelled
        unlabelled = open_images(settings.unlabelled, 0.0, settings.seed).train
    if unlabelled is None or not len(unlabelled):
        raise MinidlError(f"{place}: there are no images to learn from without labels")
    reporter.log(f"{settings.semi}: {len(unlabelled):,} images without labels, {place}")
    return replace(splits, train=labelled), unlabelled


def make_objective(settings: Settings) -> Callable[[Tensor, np.ndarray], Tensor] | None:
    """The loss of the settings' method; None stands for cross-entropy."""
    if settings.semi != "fixmatch":
        return None
    options = semi.check_options("fixmatch", settings.semi_options)
    smoothing = settings.label_smoothing
    return partial(
        semi.fixmatch_loss,
        threshold=options["threshold"],
        weight=options["weight"],
        label_smoothing=smoothing,
    )


def fixmatch_loader(
    labelled: Dataset,
    unlabelled: Dataset,
    cfg: Mapping[str, Any],
    settings: Settings,
    workers: int,
    cache: int,
) -> semi.FixMatchLoader:
    """The batches of FixMatch."""
    ratio = semi.check_options("fixmatch", settings.semi_options)["ratio"]
    return semi.FixMatchLoader(
        labelled,
        unlabelled,
        cfg,
        settings.batch_size,
        ratio,
        augment=str(settings.augment),
        seed=settings.seed,
        workers=workers,
        cache=cache,
    )


def give_labels(
    splits: Splits,
    unlabelled: Dataset,
    network: Network,
    settings: Settings,
    workers: int,
    reporter: Reporter,
) -> Splits:
    """The data with the surest of the labels that `spread` or `cluster` gave to the images without.

    The features are what enters the classifier of the network as it is before training. Of each class the
    surest `keep` of its images are kept, so that an easy class does not crowd out the others.
    """
    if not semi.have_scikit_learn():
        raise MinidlError(NO_SCIKIT_LEARN)
    options = semi.check_options(str(settings.semi), settings.semi_options)
    keep = options.pop("keep")
    transform = eval_transform(network.preprocessing)
    parts = []
    for name, part in (("labelled", splits.train), ("unlabelled", unlabelled)):
        loader = DataLoader(part, BATCH, transform=transform, num_workers=workers)
        title = f"features of the {name} images"
        parts.append(compute_features(network.model, network.classifier, loader, reporter, title)[0])
    features = np.concatenate(parts)
    labels = np.concatenate([splits.train.targets, np.full(len(unlabelled), -1, np.int64)])
    if settings.semi == "spread":
        found, sure = semi.spread_labels(features, labels, **options)
    else:
        found, sure = semi.cluster_labels(features, labels, **options, seed=settings.seed)
    found, sure = found[len(splits.train) :], sure[len(splits.train) :]
    kept = np.sort(np.concatenate([_surest(found == c, sure, keep) for c in range(len(splits.classes))]))
    right = ""
    if unlabelled.classes == splits.classes:  # they are known after all: for the report, not for the training
        hits = found[kept] == unlabelled.targets[kept]
        right = f", {100 * float(hits.mean()) if len(kept) else 0.0:.1f} % of them right"
    reporter.log(f"{settings.semi}: {len(kept):,} of {len(found):,} images are given a label{right}")
    added = Relabelled(unlabelled, kept, found[kept], splits.classes)
    return replace(splits, train=ConcatDataset([splits.train, added]) if len(kept) else splits.train)


def _surest(members: np.ndarray, sure: np.ndarray, keep: float) -> np.ndarray:
    """Indices of the share `keep` of the members that are surest; those of sureness 0 never."""
    indices = np.flatnonzero(members & (sure > 0))
    order = np.argsort(-sure[indices], kind="stable")
    return indices[order[: round(keep * len(indices))]]
