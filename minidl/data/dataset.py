"""What a data set is, and the data sets made of other data sets or of arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from PIL import Image

ImageLike: TypeAlias = "Image.Image | NDArray[np.uint8]"
"""A Pillow image in mode RGB or L, or a uint8 array (H, W, C) with C 1 or 3."""


class Dataset(ABC):
    """A sequence of `(image, label)` pairs whose labels are known without decoding an image.

    `classes` names the labels, `targets` holds the label of every sample as int64 (N,).
    """

    classes: list[str]
    targets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.targets)

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[ImageLike, int]:
        """The image and the label of sample `index`; IndexError outside -N..N-1."""

    def name(self, index: int) -> str:
        """A name of sample `index` for people: a path where the sample has one."""
        return f"sample {self._position(index)}"

    def _position(self, index: int) -> int:
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"{type(self).__name__}: index {index} outside of {count} samples")
        return int(index) % count

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} samples, {len(self.classes)} classes)"


class ArrayDataset(Dataset):
    """Images that lie in memory as one array.

    `images` is uint8 (N, H, W, C) with C 1 or 3, or (N, H, W); it is kept, not copied. `labels` are N
    integers that index `classes`, `names` the names of the samples. Items are views: do not write to them.
    Raises TypeError for another dtype and ValueError for shapes or labels that do not fit.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: ArrayLike,
        classes: Sequence[str],
        names: Sequence[str] | None = None,
    ) -> None:
        images = np.asarray(images)
        if images.dtype != np.uint8:
            raise TypeError(f"ArrayDataset: images must be uint8, got {images.dtype}")
        if images.ndim == 3:
            images = images[..., None]
        if images.ndim != 4 or images.shape[3] not in (1, 3):
            raise ValueError(f"ArrayDataset: images must be (N, H, W, C) with C 1 or 3, got {images.shape}")
        given = np.asarray(labels)
        if given.shape != (len(images),):
            raise ValueError(
                f"ArrayDataset: {len(images)} images need labels of shape ({len(images)},), got {given.shape}"
            )
        if given.size and not np.issubdtype(given.dtype, np.integer):
            raise TypeError(f"ArrayDataset: labels must be integers, got {given.dtype}")
        if given.size and (given.min() < 0 or given.max() >= len(classes)):
            wrong = int(given.min() if given.min() < 0 else given.max())
            raise ValueError(f"ArrayDataset: label {wrong} outside of the {len(classes)} classes")
        if names is not None and len(names) != len(images):
            raise ValueError(f"ArrayDataset: {len(images)} images, {len(names)} names")
        self.images = images
        self.targets = given.astype(np.int64)
        self.classes = list(classes)
        self._names = names

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        position = self._position(index)
        return self.images[position], int(self.targets[position])

    def name(self, index: int) -> str:
        position = self._position(index)
        return f"sample {position}" if self._names is None else self._names[position]


class Subset(Dataset):
    """The samples of `dataset` at `indices`, in that order. Raises IndexError for an index outside of it."""

    def __init__(self, dataset: Dataset, indices: ArrayLike) -> None:
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(dataset)):
            raise IndexError(
                f"Subset: indices {chosen.min()}..{chosen.max()} outside of {len(dataset)} samples"
            )
        self.dataset = dataset
        self.indices = chosen
        self.classes = dataset.classes
        self.targets = dataset.targets[chosen]

    def __getitem__(self, index: int) -> tuple[ImageLike, int]:
        return self.dataset[int(self.indices[self._position(index)])]

    def name(self, index: int) -> str:
        return self.dataset.name(int(self.indices[self._position(index)]))


class ConcatDataset(Dataset):
    """Several data sets one after the other; all must have the same classes in one order (ValueError)."""

    def __init__(self, datasets: Sequence[Dataset]) -> None:
        if not datasets:
            raise ValueError("ConcatDataset: at least one data set is needed")
        for other in datasets[1:]:
            if other.classes != datasets[0].classes:
                raise ValueError(f"ConcatDataset: classes differ: {datasets[0].classes} and {other.classes}")
        self.datasets = list(datasets)
        self.classes = datasets[0].classes
        self.targets = np.concatenate([part.targets for part in datasets])
        self._starts = np.cumsum([0] + [len(part) for part in datasets]).tolist()

    def _find(self, index: int) -> tuple[Dataset, int]:
        position = self._position(index)
        part = bisect_right(self._starts, position) - 1
        return self.datasets[part], position - self._starts[part]

    def __getitem__(self, index: int) -> tuple[ImageLike, int]:
        part, position = self._find(index)
        return part[position]

    def name(self, index: int) -> str:
        part, position = self._find(index)
        return part.name(position)


def stratified_split(
    targets: ArrayLike, val_split: float, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two sorted index arrays (train, val), with the fraction `val_split` of every class in val.

    Each class gives `round(count * val_split)` samples; when 0 < val_split < 1, at least one and at most
    all but one (a class of one sample stays in train). The draw depends on the seed, the class and the
    class's count only. Raises ValueError when val_split is outside of 0..1.
    """
    if not 0.0 <= val_split <= 1.0:
        raise ValueError(f"val_split must be between 0 and 1, got {val_split}")
    labels = np.asarray(targets, dtype=np.int64).reshape(-1)
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = round(len(members) * val_split)
        if 0.0 < val_split < 1.0:
            count = min(max(count, 1), len(members) - 1)
        rng = np.random.Generator(np.random.Philox(key=[seed % 2**64, int(label)]))
        chosen[rng.permutation(members)[:count]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def few_per_class(
    targets: ArrayLike, count: int, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two sorted index arrays: `count` samples of every class that occurs, drawn by `seed`, and the others.

    The draw for a class depends on the seed, the class and its samples only, and a larger count contains the
    draw of a smaller one. Raises ValueError naming a class that has fewer samples.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"few_per_class: count must be a positive integer, got {count!r}")
    labels = np.asarray(targets, dtype=np.int64).reshape(-1)
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < count:
            raise ValueError(f"class {label} has {len(members)} samples, fewer than {count}")
        rng = np.random.Generator(np.random.Philox(key=[seed % 2**64, int(label)]))
        chosen[rng.permutation(members)[:count]] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)
