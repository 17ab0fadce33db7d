"""Recognising a data set from its path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from minidl.data.cifar import CIFAR10, cifar_folder
from minidl.data.dataset import Dataset, Subset, stratified_split
from minidl.data.files import Source, open_source, reason
from minidl.data.folder import IMAGE_EXTENSIONS, ImageFolder, class_files
from minidl.data.idx import FASHION_MNIST_CLASSES, MNIST, idx_files, read_idx
from minidl.errors import MinidlError

Split = Literal["train", "val"]
_TRAIN_NAMES = ("train", "training")
_VAL_NAMES = ("val", "valid", "validation", "test")
_NOTHING = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Splits:
    """A data set in two parts with the same classes. A part that was not asked for, or is empty, has length
    0.

    `kind` is "folder", "zip", "cifar10" or "idx".
    """

    train: Dataset
    val: Dataset
    classes: list[str]
    kind: str


def open_dataset(
    path: str | Path, split: Split | None = None, val_split: float = 0.2, seed: int = 0, channels: int = 3
) -> Splits:
    """Opens a data set of any known layout; `split` opens only that part.

    Known layouts:

    - `train/CLASS/*` and `val/CLASS/*` (also `valid`, `validation`, `test`; the first of these that exists);
    - `CLASS/*`: `val_split` of every class becomes the validation part, drawn by `seed`
      (`stratified_split`; 0 leaves
      all in train, 1 all in val). The same happens when there is no validation folder beside `train`;
    - either inside one folder more, and either as a zip archive;
    - CIFAR-10's original files, in the folder or in `cifar-10-batches-py` inside it;
    - idx files `train-*` and `t10k-*`, raw or `.gz`. Classes: the lines of `classes.txt`; else
      Fashion-MNIST's when
      the folder's name contains "fashion"; else the numbers.

    `channels` (3 or 1) is how the files of an image folder are decoded. Raises MinidlError, in one sentence
    that names the file or folder, for everything that is missing, empty, damaged, has one class only, or
    has other classes in train than in val. Raises ValueError for wrong arguments.
    """
    if split not in (None, "train", "val"):
        raise ValueError(f'open_dataset: split must be "train", "val" or None, got {split!r}')
    if not 0.0 <= val_split <= 1.0:
        raise ValueError(f"open_dataset: val_split must be between 0 and 1, got {val_split}")
    place = Path(path)
    try:
        if not place.exists():
            raise MinidlError(f"{place}: no such file or folder")
        is_folder = place.is_dir()
        if is_folder and not any(place.iterdir()):
            raise MinidlError(f"{place}: the folder is empty")
    except OSError as error:
        raise MinidlError(f"{place}: cannot be read: {reason(error)}") from error

    batches = cifar_folder(place) if is_folder else None
    if batches is not None:
        has_test, has_train = (batches / "test_batch").is_file(), any(batches.glob("data_batch_*"))
        splits = _open_arrays(
            lambda train: CIFAR10(batches, train), has_train, has_test, split, val_split, seed, batches
        )
        return _checked(splits, "cifar10", batches)
    train_files, val_files = idx_files(place, train=True), idx_files(place, train=False)
    if train_files or val_files:
        names = _idx_classes(place, [labels for _, labels in filter(None, (train_files, val_files))])
        splits = _open_arrays(
            lambda train: MNIST(place, train, names),
            bool(train_files),
            bool(val_files),
            split,
            val_split,
            seed,
            place,
        )
        return _checked(splits, "idx", place)
    splits = _open_folders(open_source(place), split, val_split, seed, channels)
    return _checked(splits, "folder" if is_folder else "zip", place)


def _checked(parts: tuple[Dataset, Dataset], kind: str, path: Path) -> Splits:
    train, val = parts
    if not len(train) and not len(val):
        raise MinidlError(f"{path}: the data set has no samples")
    if len(train.classes) < 2:
        raise MinidlError(f"{path}: only one class ({train.classes[0]!r}); at least two are needed")
    return Splits(train, val, train.classes, kind)


def _divide(whole: Dataset, split: Split | None, val_split: float, seed: int) -> tuple[Dataset, Dataset]:
    train, val = stratified_split(whole.targets, val_split, seed)
    return Subset(whole, _NOTHING if split == "val" else train), Subset(
        whole, _NOTHING if split == "train" else val
    )


def _open_arrays(
    read: Callable[[bool], Dataset],
    has_train: bool,
    has_val: bool,
    split: Split | None,
    val_split: float,
    seed: int,
    path: Path,
) -> tuple[Dataset, Dataset]:
    """The two parts of a data set that `read(train)` loads whole: a part that is not asked for is not
    loaded.
    """
    if has_train and not has_val:
        return _divide(read(True), split, val_split, seed)
    if split == "train" and not has_train:
        raise MinidlError(f"{path}: no training files here, only test files")
    train = read(True) if has_train and split != "val" else None
    val = read(False) if split != "train" else None
    if train is None or val is None:
        some = train or val
        assert some is not None
        return train or Subset(some, _NOTHING), val or Subset(some, _NOTHING)
    return train, val


def _idx_classes(folder: Path, label_files: list[Path]) -> list[str]:
    if "fashion" in folder.resolve().name.lower():
        return list(FASHION_MNIST_CLASSES)
    largest = max(int(read_idx(path).max(initial=0)) for path in label_files)
    return [str(number) for number in range(largest + 1)]


def _open_folders(
    source: Source, split: Split | None, val_split: float, seed: int, channels: int
) -> tuple[Dataset, Dataset]:
    prefix = _descend(source)
    train_name, val_name = part_names(source, prefix)
    if train_name is None and val_name is None:
        return _divide(ImageFolder(source, prefix=prefix, channels=channels), split, val_split, seed)
    if train_name is None and split == "train":
        raise MinidlError(f"{source.path}: no folder {' or '.join(_TRAIN_NAMES)} here, only {val_name}")
    opened = {
        name: ImageFolder(source, prefix=prefix + name, channels=channels)
        for name in (train_name, val_name)
        if name
    }
    if train_name is None or val_name is None:
        (only,) = opened.values()
        return _divide(only, split, 1.0 if train_name is None else val_split, seed)
    train, val = opened[train_name], opened[val_name]
    _same_classes(source, prefix, train_name, train, val_name, val)
    empty = Subset(train, _NOTHING)
    return (empty if split == "val" else train), (empty if split == "train" else val)


def _same_classes(
    source: Source, prefix: str, train_name: str, train: Dataset, val_name: str, val: Dataset
) -> None:
    for here, those, there, others in (
        (train_name, train.classes, val_name, val.classes),
        (val_name, val.classes, train_name, train.classes),
    ):
        missing = sorted(set(those) - set(others))
        if missing:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            has, lacks = source.where(prefix + here), source.where(prefix + there)
            raise MinidlError(f"{lacks}: lacks {len(missing)} of the classes of {has}: {shown}")


def folders_in(source: Source, prefix: str) -> list[str]:
    """The names of the folders directly under `prefix`."""
    return [
        name[len(prefix) :]
        for name in source.folders
        if name.startswith(prefix) and "/" not in name[len(prefix) :]
    ]


def part_names(source: Source, prefix: str) -> tuple[str | None, str | None]:
    """The names of the training and the validation folder under `prefix`.

    Without a training folder, a folder called "test" is the validation part only when it holds class folders.
    """
    children = {name.lower(): name for name in folders_in(source, prefix)}
    train = next((children[name] for name in _TRAIN_NAMES if name in children), None)
    val = next((children[name] for name in _VAL_NAMES if name in children), None)
    if (
        train is None
        and val is not None
        and not any(class_files(source, f"{prefix}{val}/", IMAGE_EXTENSIONS).values())
    ):
        val = None
    return train, val


def _descend(source: Source) -> str:
    """The prefix of the data set: past a single folder that holds all the others ("photos/" in
    "photos/ants/1.jpg").
    """
    prefix = ""
    while True:
        children = folders_in(source, prefix)
        if len(children) != 1 or any(part_names(source, prefix)):
            return prefix
        inner = f"{prefix}{children[0]}/"
        images = class_files(source, prefix, IMAGE_EXTENSIONS)[children[0]]
        if not images or any("/" not in name[len(inner) :] for name in images):
            return prefix
        prefix = inner
