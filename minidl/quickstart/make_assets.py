"""Cut the part of Fashion-MNIST that ships with the package out of the complete data set.

    python -m minidl.quickstart.make_assets FASHION_MNIST_FOLDER [--out DIR]

FASHION_MNIST_FOLDER holds the four idx `.gz` files and LICENSE of
https://github.com/zalandoresearch/fashion-mnist (MIT). Written are the same four files with the first
`TRAIN` training and `TEST` test images of each class, in their original order, classes.txt, and the
licence's text as fashion-mnist-LICENSE.txt. The bytes written depend on the input alone.
"""

from __future__ import annotations

import argparse
import gzip
import io
from pathlib import Path

import numpy as np

from minidl.data import FASHION_MNIST_CLASSES, read_idx
from minidl.weights import atomic_write

TRAIN, TEST = 100, 250
"""Images of each class."""

ASSETS = Path(__file__).parent / "assets"


def main() -> None:
    """Read the complete data set, write the part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder of the complete data set")
    parser.add_argument("--out", type=Path, default=ASSETS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", TRAIN), ("t10k", TEST)):
        images = read_idx(arguments.source / f"{part}-images-idx3-ubyte.gz")
        labels = read_idx(arguments.source / f"{part}-labels-idx1-ubyte.gz")
        chosen = first_of_each_class(labels, count)
        write(arguments.out / f"{part}-images-idx3-ubyte.gz", idx_bytes(images[chosen]))
        write(arguments.out / f"{part}-labels-idx1-ubyte.gz", idx_bytes(labels[chosen]))
    names = "".join(f"{name}\n" for name in FASHION_MNIST_CLASSES)
    (arguments.out / "classes.txt").write_text(names, encoding="utf-8", newline="\n")
    notice = (arguments.source / "LICENSE").read_text(encoding="utf-8")
    (arguments.out / "fashion-mnist-LICENSE.txt").write_text(notice, encoding="utf-8", newline="\n")
    for path in sorted(arguments.out.iterdir()):
        print(f"{path.stat().st_size:>10,} {path.name}")


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """The sorted indices of the first `count` samples of each class of labels (N,)."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]))


def idx_bytes(array: np.ndarray) -> bytes:
    """A uint8 array as a gzip-compressed idx file."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    packed = io.BytesIO()
    # no name and no time in the header: the same input gives the same bytes
    with gzip.GzipFile("", "wb", 9, packed, mtime=0) as file:
        file.write(header + np.ascontiguousarray(array, np.uint8).tobytes())
    return packed.getvalue()


def write(path: Path, data: bytes) -> None:
    """Write a file, all or nothing."""
    with atomic_write(path) as file:
        file.write(data)


if __name__ == "__main__":
    main()
