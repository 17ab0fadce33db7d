"""The idx files of MNIST and its relatives, raw or gzip-compressed.

Layout (Y. LeCun, "The MNIST database"): two zero bytes, a type code (8: unsigned byte), the number of
dimensions, each dimension as a big-endian 32-bit number, then the values in row-major order.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from minidl.data.dataset import ArrayDataset
from minidl.data.files import reason
from minidl.errors import MinidlError

if TYPE_CHECKING:
    import gzip

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_MAX_BYTES = 2**30
_CHUNK = 2**20
# Deflate never packs tighter than 1032:1, so a header that promises more lies.
_MAX_RATIO = 1040


def read_idx(path: str | Path) -> NDArray[np.uint8]:
    """The uint8 array in an idx file, `.gz` or raw (told by the content), of at most 1 GiB.

    The dimensions are checked against the size of the file before anything is allocated, and the data must
    end where the header says. Raises MinidlError naming the file.
    """
    place = Path(path)
    try:
        with open(place, "rb") as file:
            size = place.stat().st_size
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not packed:
                return _read(file, place, size)
            import gzip

            with gzip.GzipFile(fileobj=file) as unpacked:
                return _read(unpacked, place, size * _MAX_RATIO)
    except (OSError, EOFError, zlib.error) as error:  # gzip.BadGzipFile is an OSError
        raise MinidlError(f"{place}: cannot be read: {reason(error)}") from error


def _read(file: IO[bytes] | gzip.GzipFile, path: Path, available: int) -> NDArray[np.uint8]:
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0":
        raise MinidlError(f"{path}: not an idx file: it starts with {start!r}")
    if start[2] != 8:
        raise MinidlError(f"{path}: idx values of type 0x{start[2]:02x}; only unsigned bytes (0x08) are read")
    if not 1 <= start[3] <= 4:
        raise MinidlError(f"{path}: {start[3]} dimensions; labels have 1, images 3 or 4")
    header = file.read(4 * start[3])
    if len(header) != 4 * start[3]:
        raise MinidlError(f"{path}: the file is truncated")
    shape = struct.unpack(f">{start[3]}I", header)
    count = math.prod(shape)
    if count > min(_MAX_BYTES, available):
        raise MinidlError(f"{path}: the header promises {count} bytes {shape}, more than the file can hold")
    # In pieces: what is allocated never exceeds what the file really gives.
    values = bytearray()
    while len(values) <= count and (piece := file.read(min(_CHUNK, count + 1 - len(values)))):
        values += piece
    if len(values) != count:
        came = f"has {len(values)}" if len(values) < count else "has more"
        raise MinidlError(f"{path}: the header promises {count} bytes {shape}, the file {came}")
    return np.frombuffer(values, np.uint8).reshape(shape)


def idx_pixels(path: str | Path) -> NDArray[np.uint8]:
    """The images uint8 (N, H, W) or (N, H, W, 1 or 3) of an idx file; MinidlError for one that holds something else."""
    pixels = read_idx(path)
    if pixels.ndim < 3 or (pixels.ndim == 4 and pixels.shape[3] not in (1, 3)) or 0 in pixels.shape[1:]:
        raise MinidlError(f"{path}: expected images (N, H, W) or (N, H, W, 1 or 3), got shape {pixels.shape}")
    return pixels


class Idx(ArrayDataset):
    """A data set of two idx files: images (N, H, W) or (N, H, W, C), labels (N,).

    `classes` names the labels; by default they are called "0", "1", ... up to the largest label.
    Raises MinidlError for files that are damaged or do not fit together.
    """

    def __init__(self, images: str | Path, labels: str | Path, classes: Sequence[str] | None = None) -> None:
        pixels, targets = idx_pixels(images), read_idx(labels)
        if targets.ndim != 1 or len(targets) != len(pixels):
            raise MinidlError(
                f"{labels}: {len(pixels)} images need as many labels, got shape {targets.shape}"
            )
        largest = int(targets.max(initial=0))
        if classes is None:
            classes = [str(number) for number in range(largest + 1)]
        elif largest >= len(classes):
            raise MinidlError(f"{labels}: label {largest} outside of the {len(classes)} classes")
        self._file = str(images)
        super().__init__(pixels, targets, classes)

    def name(self, index: int) -> str:
        return f"{self._file}: image {self._position(index)}"


def idx_files(root: str | Path, train: bool) -> tuple[Path, Path] | None:
    """The (images, labels) idx files of a folder for training (`train-*`) or testing (`t10k-*`, `test-*`),
    or None.
    """
    found: dict[str, Path] = {}
    pattern = re.compile(rf"({'train' if train else 't10k|test'})-(images|labels)[-.]idx[134]-ubyte(\.gz)?")
    try:
        names = sorted(path.name for path in Path(root).iterdir()) if Path(root).is_dir() else []
    except OSError as error:
        raise MinidlError(f"{root}: cannot be read: {reason(error)}") from error
    for name in reversed(names):  # the raw file before its .gz
        if match := pattern.fullmatch(name):
            found[match[2]] = Path(root) / name
    return (found["images"], found["labels"]) if len(found) == 2 else None


def idx_images(root: str | Path) -> Path | None:
    """The idx file of training images in a folder that has no labels beside it, or None."""
    pattern = re.compile(r"(train-)?images[-.]idx[34]-ubyte(\.gz)?")
    place = Path(root)
    try:
        found = sorted(p for p in place.iterdir() if pattern.fullmatch(p.name)) if place.is_dir() else []
    except OSError as error:
        raise MinidlError(f"{root}: cannot be read: {reason(error)}") from error
    return found[0] if found else None


class MNIST(Idx):
    """A folder of the four files `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-...` (raw or
    `.gz`).

    Images are uint8 (H, W, 1). The classes are the lines of `classes.txt` in the folder when it is there,
    otherwise `classes`, otherwise the numbers. Raises MinidlError for missing or damaged files.
    """

    def __init__(self, root: str | Path, train: bool = True, classes: Sequence[str] | None = None) -> None:
        files = idx_files(root, train)
        if files is None:
            prefix = "train" if train else "t10k"
            raise MinidlError(
                f"{root}: no {prefix}-images-idx3-ubyte and {prefix}-labels-idx1-ubyte (or .gz) here"
            )
        super().__init__(*files, classes=_named_classes(Path(root)) or classes)


class FashionMNIST(MNIST):
    """`MNIST` with the class names of Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017)."""

    def __init__(self, root: str | Path, train: bool = True) -> None:
        super().__init__(root, train, FASHION_MNIST_CLASSES)


def _named_classes(root: Path) -> list[str] | None:
    path = root / "classes.txt"
    if not path.is_file():
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MinidlError(f"{path}: cannot be read: {reason(error)}") from error
    return [line.strip() for line in lines if line.strip()]
