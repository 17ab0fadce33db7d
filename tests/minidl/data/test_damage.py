"""Files cut off or with one bit flipped, at 200 random places each: they still decode, or a MinidlError names them.

Where a format carries checksums (PNG, gzip, zip), every change must be noticed.
"""

from __future__ import annotations

import gzip
import random
import re
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minidl.data import CIFAR10, MNIST, ImageFolder, decode_file
from minidl.errors import MinidlError
from tests.minidl.data.conftest import encoded, picture
from tests.minidl.data.test_cifar import batch, write
from tests.minidl.data.test_idx import IMAGES, LABELS, idx

PLACES = 200


def damaged(data: bytes) -> Iterator[bytes]:
    """A quarter cut off at random places, the others with a flipped bit, a third of those in the first 300 bytes."""
    rng = random.Random(4)
    for number in range(PLACES):
        if number % 4 == 0:
            yield data[: rng.randrange(len(data))]
        else:
            at = rng.randrange(min(300, len(data)) if number % 4 == 1 else len(data))
            yield data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def survivors(path: Path, read: Callable[[], object], limit: int = 64 * 2**20) -> int:
    """How many damaged versions of the file are read without complaint; every complaint must be in order."""
    intact = path.read_bytes()
    read()
    count = 0
    tracemalloc.start()
    try:
        for data in damaged(intact):
            path.write_bytes(data)
            try:
                read()
                count += 1
            except MinidlError as error:
                assert re.search(re.escape(path.parent.name), str(error)) and "\n" not in str(error)
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()
        path.write_bytes(intact)
    return count


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")  # damaged TIFF tags
@pytest.mark.parametrize(
    "kind", ["JPEG", "PROGRESSIVE", "PNG", "GIF", "ANIMATED", "BMP", "WEBP", "TIFF", "LZW"]
)
def test_damaged_images_are_decoded_or_refused_by_name(tmp_path: Path, kind: str) -> None:
    image = picture(60, 80)
    data = {
        "PROGRESSIVE": lambda: encoded(image, "JPEG", progressive=True),
        "ANIMATED": lambda: encoded(image, "GIF", save_all=True, append_images=[picture(60, 80, seed=3)]),
        "LZW": lambda: encoded(image, "TIFF", compression="tiff_lzw"),
    }.get(kind, lambda: encoded(image, kind))()
    path = tmp_path / "picture"
    path.write_bytes(data)
    read_whole = survivors(path, lambda: decode_file(path))
    if kind == "PNG":
        assert read_whole == 0


def test_a_real_jpeg_damaged_anywhere_is_decoded_or_refused(tmp_path: Path, real_data: Path) -> None:
    source = sorted((real_data / "images" / "hymenoptera" / "val" / "bees").glob("*.jpg"))[0]
    path = tmp_path / "photo.jpg"
    path.write_bytes(source.read_bytes())
    assert survivors(path, lambda: decode_file(path)) < PLACES


def test_a_truncated_jpeg_is_always_refused(tmp_path: Path) -> None:
    data = encoded(picture(120, 160), "JPEG")
    path = tmp_path / "photo.jpg"
    for end in range(0, len(data) - 2, 37):
        path.write_bytes(data[:end])
        with pytest.raises(MinidlError, match=r"photo\.jpg: "):
            decode_file(path)


def test_damaged_cifar_files_are_read_or_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, "batches.meta", {"label_names": [f"class {number}" for number in range(10)]})
    write(tmp_path, "test_batch", batch(20))
    for name in ("test_batch", "batches.meta"):
        assert survivors(tmp_path / name, lambda: CIFAR10(tmp_path, train=False)) < PLACES


def test_damaged_idx_files_are_read_or_refused_by_name(tmp_path: Path) -> None:
    contents = {"t10k-images-idx3-ubyte": idx(IMAGES), "t10k-labels-idx1-ubyte": idx(LABELS)}
    for packed in (False, True):
        folder = tmp_path / ("packed" if packed else "raw")
        folder.mkdir()
        for name, data in contents.items():
            (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(data, mtime=0) if packed else data)
        for name in contents:
            read_whole = survivors(
                folder / (name + ".gz" * packed), lambda folder=folder: MNIST(folder, train=False)
            )
            assert read_whole < (
                PLACES // 4 if packed else PLACES
            )  # gzip's header has bytes that mean nothing here


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_zip_archives_are_read_or_refused_by_name(tmp_path: Path, method: int) -> None:
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for label in "ab":
            for number in range(3):
                archive.writestr(f"{label}/{number}.jpg", encoded(picture(seed=number), "JPEG"))

    def read() -> None:
        data = ImageFolder(path)
        for index in range(len(data)):
            data[index]

    assert survivors(path, read) < PLACES // 2
