"""CIFAR-10 in the layout it is published in: pickles of 3072-byte rows.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009),
    https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl.data.dataset import ArrayDataset
from minidl.data.files import read_file, reason
from minidl.data.pickles import load_dict
from minidl.errors import MinidlError

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_MAX_BATCH_BYTES = 256 * 2**20
_ROW = 3 * 32 * 32


def cifar_folder(root: str | Path) -> Path | None:
    """`root`, or `cifar-10-batches-py` inside it, when it holds CIFAR-10's files; None otherwise."""
    for folder in (Path(root), Path(root) / "cifar-10-batches-py"):
        if _batch_files(folder, train=True) or _batch_files(folder, train=False):
            return folder
    return None


def _batch_files(folder: Path, train: bool) -> list[Path]:
    try:
        if not train:
            return [path for path in (folder / "test_batch",) if path.is_file()]
        found = [path for path in folder.glob("data_batch_*") if re.fullmatch(r"data_batch_\d+", path.name)]
    except OSError as error:
        raise MinidlError(f"{folder}: cannot be read: {reason(error)}") from error
    return sorted(found, key=lambda path: int(path.name.rsplit("_", 1)[1]))


class CIFAR10(ArrayDataset):
    """The training (`data_batch_1`, `data_batch_2`, ... of any size) or test images (`test_batch`) of
    CIFAR-10.

    Images are uint8 (32, 32, 3), RGB. The classes come from `batches.meta` when it is there. `root` is the
    folder of the files or the one around `cifar-10-batches-py`. The pickles are read by
    `minidl.data.pickles`, which runs no code. Raises MinidlError for missing, damaged or truncated files.
    """

    def __init__(self, root: str | Path, train: bool = True) -> None:
        folder = cifar_folder(root)
        if folder is None:
            raise MinidlError(f"{root}: no CIFAR-10 files (data_batch_1 ..., test_batch) here")
        files = _batch_files(folder, train)
        if not files:
            raise MinidlError(f"{folder}: no {'data_batch_1' if train else 'test_batch'} here")
        classes = _read_classes(folder / "batches.meta")
        parts = [_read_batch(path, len(classes)) for path in files]
        super().__init__(
            np.concatenate([images for images, _, _ in parts]),
            np.concatenate([labels for _, labels, _ in parts]),
            classes,
            [name for _, _, names in parts for name in names],
        )


def _read_classes(path: Path) -> list[str]:
    if not path.exists():
        return list(CIFAR10_CLASSES)
    names = load_dict(read_file(path, 2**20), str(path)).get("label_names")
    if not isinstance(names, list) or not names or not all(isinstance(name, (bytes, str)) for name in names):
        raise MinidlError(f"{path}: label_names is not a list of names")
    return [name.decode("latin1") if isinstance(name, bytes) else name for name in names]


def _read_batch(path: Path, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    batch = load_dict(read_file(path, _MAX_BATCH_BYTES), str(path))
    rows = batch.get("data")
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != _ROW:
        raise MinidlError(f"{path}: data is not a uint8 array of {_ROW} columns")
    labels = _labels(path, batch.get("labels"), len(rows), classes)
    images = np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return images, labels, [f"{path}: {name}" for name in _names(batch.get("filenames"), len(rows))]


def _labels(path: Path, found: Any, count: int, classes: int) -> NDArray[np.int64]:
    values = found.tolist() if isinstance(found, np.ndarray) else found
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise MinidlError(f"{path}: labels is not a list of integers")
    if len(values) != count:
        raise MinidlError(f"{path}: {count} images but {len(values)} labels")
    for value in values:
        if not 0 <= value < classes:
            raise MinidlError(f"{path}: label {value} outside of the {classes} classes")
    return np.array(values, dtype=np.int64)


def _names(found: Any, count: int) -> list[str]:
    """The file names inside the batch; they serve messages only, so missing or odd ones become numbers."""
    if (
        isinstance(found, list)
        and len(found) == count
        and all(isinstance(name, (bytes, str)) for name in found)
    ):
        return [name.decode("latin1") if isinstance(name, bytes) else name for name in found]
    return [f"image {number}" for number in range(count)]
