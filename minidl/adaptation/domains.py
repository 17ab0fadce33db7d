"""The two domains as data: a labelled source, a target whose labels are seen by the report alone, and batches of
both.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minidl.data import (
    ANY_CLASS,
    DataLoader,
    Dataset,
    ImageLike,
    Splits,
    Subset,
    few_per_class,
    open_dataset,
    open_images,
    train_transform,
)
from minidl.errors import MinidlError
from minidl.semi.fixmatch import TwoViews
from minidl.tensor import Tensor
from minidl.training.reporting import Reporter, printable

__all__ = ["Domains", "PairLoader", "PairOfBatches", "labelled_few", "open_domains"]

SHOWN = 5


class _Relabelled(Dataset):
    """The images of a data set with other labels."""

    def __init__(self, dataset: Dataset, targets: np.ndarray, classes: list[str]) -> None:
        self._dataset, self.targets, self.classes = dataset, np.asarray(targets, np.int64), list(classes)

    def __getitem__(self, index: int) -> tuple[ImageLike, int]:
        position = self._position(index)
        return self._dataset[position][0], int(self.targets[position])

    def name(self, index: int) -> str:
        return self._dataset.name(index)


@dataclass(frozen=True)
class Domains:
    """`source` has labels; `target_train` is learned from without its labels; `target_test` scores the result.

    `labelled` says whether the labels of the target are known (they are 0 otherwise).
    """

    source: Splits
    target_train: Dataset
    target_test: Dataset
    labelled: bool

    @property
    def unlabelled(self) -> Dataset:
        """`target_train` without its labels: what training sees."""
        return _Relabelled(self.target_train, np.zeros(len(self.target_train)), [ANY_CLASS])


def open_domains(
    source: str | Path | Splits,
    target: str | Path | Splits,
    val_split: float,
    seed: int,
    reporter: Reporter,
    ignore_labels: bool = False,
) -> Domains:
    """Open both domains; says in the log what was found.

    Layouts of the source as `open_dataset` knows them, of the target also a folder of images without class
    folders. The target's training part is learned from; its validation part (or `val_split` of it) is set
    aside to score the result. Classes of the target are matched with the source's by name; it may lack some.

    Raises MinidlError for a target with classes that the source lacks (unless `ignore_labels`), and for
    fewer than two images to learn from.
    """
    where = "the source" if isinstance(source, Splits) else str(source)
    known = source if isinstance(source, Splits) else open_dataset(source, None, val_split, seed)
    if not len(known.train):
        raise MinidlError(f"{where}: has no training images")
    place = "the target" if isinstance(target, Splits) else str(target)
    found = target if isinstance(target, Splits) else open_images(target, val_split, seed)
    labelled = found.classes != [ANY_CLASS] and not ignore_labels
    if labelled:
        found = _matched(found, known.classes, where, place, reporter)
    if len(found.train) < 2:
        raise MinidlError(
            f"{place}: has {len(found.train)} training images; at least 2 are needed to adapt to"
        )
    test = found.val if len(found.val) else found.train
    if not labelled:
        test = _Relabelled(test, np.zeros(len(test)), known.classes)
    reporter.log(
        f"source {where}: {len(known.train):,} training and {len(known.val):,} validation images, "
        f"{len(known.classes)} classes"
    )
    purpose = (
        "its labels are used for the report only" if labelled else "without labels: nothing can be scored"
    )
    reporter.log(
        f"target {place}: {len(found.train):,} images to learn from, {len(test):,} to look at the result; {purpose}"
    )
    return Domains(known, found.train, test, labelled)


def _matched(found: Splits, classes: list[str], where: str, place: str, reporter: Reporter) -> Splits:
    """The target's labels as positions in the source's classes."""
    extra = [name for name in found.classes if name not in classes]
    if extra:
        count = f"{len(extra)} class" + "es" * (len(extra) > 1)
        raise MinidlError(
            f"{place}: has {count} that {where} lacks: {_few(extra)}; give them the source's names, or ignore the "
            "labels of the target (--ignore-target-labels)"
        )
    lacking = [name for name in classes if name not in found.classes]
    if lacking:
        reporter.log(
            f"{place}: lacks {len(lacking)} of the source's classes: {_few(lacking)}; methods that assume equally "
            "frequent classes (infomax, balanced self-training) may give images to them"
        )
    if found.classes == classes:
        return found
    numbers = np.array([classes.index(name) for name in found.classes], np.int64)
    train, val = (
        _Relabelled(part, numbers[part.targets], classes) if len(part) else Subset(part, [])
        for part in (found.train, found.val)
    )
    return Splits(train, val, classes, found.kind)


def _few(names: list[str]) -> str:
    return ", ".join(map(printable, names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")


def labelled_few(domains: Domains, per_class: int, seed: int, place: str = "the target") -> Dataset:
    """`per_class` training images of every class of the target with their labels. MinidlError when there are not
    so many.
    """
    if not domains.labelled:
        raise MinidlError(
            f"{place}: has no labels; the method finetune learns from a few labelled target images"
        )
    try:
        few, _ = few_per_class(domains.target_train.targets, per_class, seed)
    except ValueError as error:
        raise MinidlError(f"{place}: {error} (labels per class)") from error
    return Subset(domains.target_train, few)


@dataclass(frozen=True)
class PairOfBatches:
    """Images of both domains, (n, C, H, W) and (m, C, H, W): source, target, and the same target images weakly
    augmented (None without self-training).
    """

    source: Tensor
    target: Tensor | None
    weak: Tensor | None = None


class PairLoader:
    """`steps` batches an epoch, of the labelled images and of the target, each data set again and again.

    A batch is `(PairOfBatches, labels of the labelled images int64 (n,))`. A data set smaller than its batch
    size gives batches of all its images. Everything random depends on (seed, pass, index) alone, so training
    can be continued at any step.

    `student_augment` gives each target image twice, with this augmentation and with that of the source
    (`weak`); None gives it once, with that of the source. `unlabelled` None leaves the target out.
    """

    def __init__(
        self,
        labelled: Dataset,
        unlabelled: Dataset | None,
        cfg: Mapping[str, Any],
        steps: int,
        *,
        sizes: tuple[int, int] = (64, 128),
        augment: Any = "basic",
        student_augment: Any = None,
        seed: int = 0,
        workers: int = 2,
        cache: int = 0,
    ) -> None:
        weak = train_transform(cfg, augment)

        def loader(dataset: Dataset, size: int, transform: Any) -> DataLoader:
            size = min(size, len(dataset))
            return DataLoader(dataset, size, True, transform, workers, True, seed, cache=cache)

        self._two_views, self._steps, self._epoch = student_augment is not None, steps, 0
        self._source = loader(labelled, sizes[0], weak)
        self._target = None
        if unlabelled is not None:
            views = TwoViews(weak, train_transform(cfg, student_augment)) if self._two_views else weak
            self._target = loader(unlabelled, sizes[1], views)

    def __len__(self) -> int:
        return self._steps

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def iterate(self, start: int = 0) -> Iterator[tuple[Any, np.ndarray]]:
        """The batches of the epoch from number `start` on."""
        first = self._epoch * self._steps + start
        with closing(_endless(self._source, first)) as sources:
            if self._target is None:
                for _, (images, labels) in zip(range(start, self._steps), sources, strict=False):
                    yield PairOfBatches(images, None), labels
                return
            with closing(_endless(self._target, first)) as targets:
                pairs = zip(range(start, self._steps), sources, targets, strict=False)
                for _, (images, labels), (views, _) in pairs:
                    yield PairOfBatches(images, *self._split(views)), labels

    def _split(self, views: Tensor) -> tuple[Tensor, Tensor | None]:
        """(target, weak) of what the loader gave."""
        if not self._two_views:
            return views, None
        stacked = views.data.transpose(0, 2, 3, 1)  # (m, H, W, 2C): the weak channels, then the strong ones
        half = stacked.shape[3] // 2
        weak, strong = np.ascontiguousarray(stacked[..., :half]), np.ascontiguousarray(stacked[..., half:])
        return Tensor(strong.transpose(0, 3, 1, 2)), Tensor(weak.transpose(0, 3, 1, 2))


def _endless(loader: DataLoader, start: int) -> Generator[Any, None, None]:
    """The batches of pass after pass, from number `start` of all on."""
    number, offset = divmod(start, len(loader))
    while True:
        loader.set_epoch(number)
        with closing(loader.iterate(offset)) as batches:
            yield from batches
        number, offset = number + 1, 0
