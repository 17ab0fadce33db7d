from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from minidl.data import MNIST, FashionMNIST, Idx, read_idx
from minidl.errors import MinidlError


def idx(values: np.ndarray) -> bytes:
    return (
        struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
        + values.astype(np.uint8).tobytes()
    )


IMAGES = np.arange(6 * 4 * 5).reshape(6, 4, 5).astype(np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2], np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for prefix in ("train", "t10k"):
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES), mtime=0))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(LABELS))
    return tmp_path


def test_raw_and_compressed_files_are_told_by_their_content(tmp_path: Path) -> None:
    for name, data in (("raw.gz", idx(IMAGES)), ("packed", gzip.compress(idx(IMAGES), mtime=0))):
        (tmp_path / name).write_bytes(data)
        assert np.array_equal(read_idx(tmp_path / name), IMAGES)


def test_a_folder_of_four_files_is_a_dataset(folder: Path) -> None:
    data = MNIST(folder)
    assert len(data) == 6 and data.classes == ["0", "1", "2"] and data.targets.tolist() == LABELS.tolist()
    image, label = data[4]
    assert np.array_equal(image[:, :, 0], IMAGES[4]) and label == 1
    assert data.name(4).endswith("train-images-idx3-ubyte.gz: image 4")
    assert len(MNIST(folder, train=False)) == 6
    assert FashionMNIST(folder).classes[9] == "Ankle boot"
    (folder / "classes.txt").write_text("zero\none\n\ntwo\n")
    assert MNIST(folder).classes == ["zero", "one", "two"]
    (folder / "classes.txt").write_text("zero\n")
    with pytest.raises(MinidlError, match="label 2 outside of the 1 classes"):
        MNIST(folder)


def test_colour_images_have_four_dimensions(tmp_path: Path) -> None:
    pixels = np.arange(2 * 4 * 5 * 3).reshape(2, 4, 5, 3).astype(np.uint8)
    (tmp_path / "images").write_bytes(idx(pixels))
    (tmp_path / "labels").write_bytes(idx(np.array([0, 1])))
    data = Idx(tmp_path / "images", tmp_path / "labels", classes=["no", "yes"])
    assert np.array_equal(data[1][0], pixels[1]) and data.classes == ["no", "yes"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it starts with"),
        (b"PNG\r", "not an idx file"),
        (b"\0\0\x0d\x03", "type 0x0d"),
        (b"\0\0\x08\x00", "0 dimensions"),
        (b"\0\0\x08\x09", "9 dimensions"),
        (b"\0\0\x08\x03\0\0", "truncated"),
        (idx(IMAGES)[:-1], "promises 120 bytes"),
        (idx(IMAGES) + b"\0", r"promises 120 bytes \(6, 4, 5\), the file has more"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), "more than the file can hold"),
        (gzip.compress(idx(IMAGES)[:-1], mtime=0), "the file has 119"),
        (gzip.compress(idx(IMAGES) + b"\0\0", mtime=0), "the file has more"),
        (gzip.compress(idx(IMAGES), mtime=0)[:-9], "cannot be read"),
        (
            gzip.compress(struct.pack(">BBBB2I", 0, 0, 8, 2, 2**16, 2**16), mtime=0),
            "more than the file can hold",
        ),
        (b"\x1f\x8bnonsense", "cannot be read"),
    ],
)
def test_damaged_files_are_refused_with_their_name(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "strange").write_bytes(data)
    with pytest.raises(MinidlError, match=f"strange: .*{words}"):
        read_idx(tmp_path / "strange")


def test_a_compression_bomb_is_read_no_further_than_its_header_says(tmp_path: Path) -> None:
    bomb = gzip.compress(idx(IMAGES) + bytes(50_000_000))
    (tmp_path / "bomb").write_bytes(bomb)
    with pytest.raises(MinidlError, match=r"promises 120 bytes .* has more"):
        read_idx(tmp_path / "bomb")


def test_files_that_do_not_belong_together_are_refused(folder: Path, tmp_path: Path) -> None:
    images, labels = folder / "train-images-idx3-ubyte.gz", folder / "train-labels-idx1-ubyte"
    with pytest.raises(MinidlError, match="labels-idx1-ubyte: expected images"):
        Idx(labels, labels)
    with pytest.raises(MinidlError, match="6 images need as many labels, got shape"):
        Idx(images, images)
    with pytest.raises(MinidlError, match="missing: cannot be read"):
        Idx(tmp_path / "missing", labels)
    labels.unlink()
    with pytest.raises(MinidlError, match="no train-images-idx3-ubyte and train-labels-idx1-ubyte"):
        MNIST(folder)


def test_the_published_fashion_mnist_is_read(real_data: Path) -> None:
    test = FashionMNIST(real_data / "fashion-mnist", train=False)
    assert len(test) == 10_000 and np.bincount(test.targets).tolist() == [1000] * 10
    assert test[0][0].shape == (28, 28, 1) and test.classes[test[0][1]] == "Ankle boot"
