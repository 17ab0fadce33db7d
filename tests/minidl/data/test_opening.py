from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minidl.data import open_dataset
from minidl.errors import MinidlError
from tests.minidl.data.test_cifar import batch, write
from tests.minidl.data.test_idx import IMAGES, LABELS, idx

Make = Callable[..., Path]


def zipped(root: Path, path: Path, top: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, top + file.relative_to(root).as_posix())
    return path


@pytest.mark.parametrize("val", ["val", "valid", "validation", "test", "VAL"])
@pytest.mark.parametrize("form", ["folder", "zip", "top", "inner"])
def test_train_and_validation_folders_are_found(
    make_folder: Make, tmp_path: Path, val: str, form: str
) -> None:
    root = make_folder("train/ants", "train/bees", f"{val}/ants", f"{val}/bees", count=2)
    path = {
        "folder": lambda: root,
        "zip": lambda: zipped(root, tmp_path / "a.zip"),
        "top": lambda: zipped(root, tmp_path / "a.zip", top="photos/"),
        "inner": lambda: root.parent,
    }[form]()
    splits = open_dataset(path)
    assert splits.classes == ["ants", "bees"] and splits.kind == (
        "zip" if path.suffix == ".zip" else "folder"
    )
    assert len(splits.train) == len(splits.val) == 4
    assert f"/{val}/bees/1.jpg" in splits.val.name(3).replace("\\", "/")
    assert splits.train.targets.tolist() == [0, 0, 1, 1] and splits.val[3][1] == 1


def test_val_is_preferred_to_test(make_folder: Make) -> None:
    root = make_folder(*(f"{part}/{name}" for part in ("train", "val", "test") for name in "ab"), count=1)
    assert "val" in Path(open_dataset(root).val.name(0)).parts


@pytest.mark.parametrize("form", ["folder", "zip", "top", "inner", "train"])
def test_class_folders_are_split_by_seed(make_folder: Make, tmp_path: Path, form: str) -> None:
    root = make_folder(*(("train/a", "train/b") if form == "train" else ("a", "b")), count=10)
    path = {
        "folder": lambda: root,
        "train": lambda: root,
        "zip": lambda: zipped(root, tmp_path / "a.zip"),
        "top": lambda: zipped(root, tmp_path / "a.zip", top="photos/"),
        "inner": lambda: root.parent,
    }[form]()
    splits = open_dataset(path, val_split=0.3, seed=1)
    train = {splits.train.name(i) for i in range(len(splits.train))}
    val = [splits.val.name(i) for i in range(len(splits.val))]
    assert len(train) == 14 and len(val) == 6 and not train & set(val)
    assert np.bincount(splits.val.targets).tolist() == [3, 3]
    again = open_dataset(path, val_split=0.3, seed=1)
    assert [again.val.name(i) for i in range(6)] == val
    other = open_dataset(path, val_split=0.3, seed=2)
    assert [other.val.name(i) for i in range(6)] != val
    assert len(open_dataset(path, val_split=1).val) == 20 and len(open_dataset(path, val_split=0).train) == 20


def test_one_part_can_be_opened_alone(make_folder: Make, tmp_path: Path) -> None:
    plain = make_folder("a", "b", root="plain")
    parts = make_folder("train/a", "train/b", "val/a", "val/b", root="parts")
    write(tmp_path / "cifar", "data_batch_1", batch(20))
    write(tmp_path / "cifar", "test_batch", batch(10))
    for path, train, val in ((plain, 8, 2), (parts, 10, 10), (tmp_path / "cifar", 20, 10)):
        for split, sizes in ((None, (train, val)), ("train", (train, 0)), ("val", (0, val))):
            splits = open_dataset(path, split=split)  # type: ignore[arg-type]
            assert (len(splits.train), len(splits.val)) == sizes
            assert splits.train.classes == splits.val.classes == splits.classes


def test_the_part_that_is_not_asked_for_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, "data_batch_1", batch(20))
    (tmp_path / "test_batch").write_bytes(b"damaged")
    assert len(open_dataset(tmp_path, split="train").train) == 20
    with pytest.raises(MinidlError, match="test_batch"):
        open_dataset(tmp_path)


def test_a_test_folder_alone_serves_evaluation_only(make_folder: Make) -> None:
    root = make_folder("test/a", "test/b", count=3)
    splits = open_dataset(root)
    assert len(splits.train) == 0 and len(splits.val) == 6
    assert len(open_dataset(root, split="val").val) == 6
    with pytest.raises(MinidlError, match="photos: no folder train or training here, only test"):
        open_dataset(root, split="train")


def test_a_class_may_be_called_test(make_folder: Make) -> None:
    assert open_dataset(make_folder("test", "good")).classes == ["good", "test"]


def test_cifar_folders_are_recognised(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    write(folder, "data_batch_1", batch(30))
    splits = open_dataset(tmp_path, val_split=0.5)
    assert splits.kind == "cifar10" and 10 <= len(splits.val) <= 20
    write(folder, "test_batch", batch(7))
    for path in (folder, tmp_path):
        splits = open_dataset(path)
        assert (len(splits.train), len(splits.val)) == (30, 7) and splits.classes[3] == "cat"
    (folder / "data_batch_1").unlink()
    assert len(open_dataset(folder).val) == 7
    with pytest.raises(MinidlError, match="no training files here, only test files"):
        open_dataset(folder, split="train")


def test_idx_folders_are_recognised(tmp_path: Path) -> None:
    for name in ("digits", "my-Fashion-set"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES)))
        (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS)))
        (folder / "t10k-images-idx3-ubyte").write_bytes(idx(IMAGES[:2]))
        (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS[:2]))
        splits = open_dataset(folder)
        assert splits.kind == "idx" and len(splits.train) == 6 and len(splits.val) == 2
        # The test labels reach 1 only; the classes are those of both parts.
        wanted = ["0", "1", "2"] if name == "digits" else ["T-shirt/top", "Trouser", "Pullover"]
        assert splits.classes[:3] == splits.val.classes[:3] == wanted
        assert open_dataset(folder, split="val").classes == splits.classes


def test_what_is_wrong_is_said_in_one_line(make_folder: Make, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").write_text("no image")
    (tmp_path / "plain.txt").write_text("no data set")
    one = make_folder("ants", root="one")
    hollow = make_folder("ants", "bees", root="hollow")
    (hollow / "wasps").mkdir()
    differ = make_folder("train/ants", "train/bees", "val/ants", "val/wasps", root="differ")
    flat = make_folder("train", "val", root="flat")
    for path, words in (
        (tmp_path / "missing", "missing: no such file or folder"),
        (tmp_path / "empty", "empty: the folder is empty"),
        (tmp_path / "text", "text: no class folders here; expected .*CLASS"),
        (tmp_path / "plain.txt", "plain.txt: expected a folder or a zip archive"),
        (one, "one: only one class \\('ants'\\); at least two are needed"),
        (hollow, "wasps: the class folder has no images"),
        (differ, "val: lacks 1 of the classes of .*train: bees"),
        (flat, "train: no class folders here"),
    ):
        with pytest.raises(MinidlError, match=words) as caught:
            open_dataset(path)
        assert "\n" not in str(caught.value)


def test_an_extra_validation_class_is_an_error_too(make_folder: Make) -> None:
    root = make_folder("train/a", "train/b", "val/a", "val/b", "val/c")
    with pytest.raises(MinidlError, match=r"train: lacks 1 of the classes of .*val: c"):
        open_dataset(root, split="val")


def test_wrong_arguments_are_named(make_folder: Make) -> None:
    root = make_folder("a", "b")
    with pytest.raises(ValueError, match="val_split must be between 0 and 1, got 2"):
        open_dataset(root, val_split=2)
    with pytest.raises(ValueError, match="split must be"):
        open_dataset(root, split="test")  # type: ignore[arg-type]


def test_real_data_of_every_layout_opens(real_data: Path) -> None:
    for name, kind, train, val, classes in (
        ("images/hymenoptera", "folder", 245, 153, 2),
        ("images/imagenette-mini", "folder", 1000, 300, 10),
        ("cifar10-jpeg.zip", "zip", 50_000, 10_000, 10),
        ("cifar-10-batches-py", "cifar10", 8380, 1017, 10),
        ("fashion-mnist", "idx", 60_000, 10_000, 10),
    ):
        splits = open_dataset(real_data / name)
        assert (splits.kind, len(splits.train), len(splits.val), len(splits.classes)) == (
            kind,
            train,
            val,
            classes,
        )
        splits.train[train // 2]
