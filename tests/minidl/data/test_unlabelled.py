"""Images without labels: any folders, zips, idx files; what is damaged or empty is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minidl.data import few_per_class, open_images
from minidl.errors import MinidlError
from tests.minidl.data.test_cifar import batch, write
from tests.minidl.data.test_idx import IMAGES, LABELS, idx
from tests.minidl.data.test_opening import zipped

Make = Callable[..., Path]


@pytest.mark.parametrize("form", ["folder", "zip", "inner", "top"])
def test_images_in_any_folders_have_one_class_and_are_divided_by_the_seed(
    make_folder: Make, tmp_path: Path, form: str
) -> None:
    root = make_folder("a/b", count=6)
    (root / "loose.png").write_bytes((root / "a/b/0.jpg").read_bytes())
    paths = {"folder": root, "inner": root.parent, "top": tmp_path / "t.zip", "zip": tmp_path / "z.zip"}
    if form in ("zip", "top"):
        zipped(root, paths[form], "photos/" if form == "top" else "")
    splits = open_images(paths[form], val_split=0.3, seed=1)
    assert splits.classes == ["image"] and (len(splits.train), len(splits.val)) == (5, 2)
    assert not splits.train.targets.any()
    again = open_images(paths[form], val_split=0.3, seed=1)
    names = [splits.val.name(i) for i in range(2)]
    assert names == [again.val.name(i) for i in range(2)]
    assert names != [open_images(paths[form], 0.3, seed=5).val.name(i) for i in range(2)]


def test_class_folders_give_labels_for_pictures(make_folder: Make) -> None:
    splits = open_images(make_folder("ants", "bees", count=4), val_split=0.25)
    assert splits.classes == ["ants", "bees"]
    assert splits.train.targets.tolist() == [0] * 3 + [1] * 3 and splits.val.targets.tolist() == [0, 1]


def test_a_single_class_folder_is_enough(make_folder: Make) -> None:
    assert len(open_images(make_folder("only", count=3), 0.0).train) == 3


def test_training_and_validation_folders_are_kept_apart_with_labels_or_without(make_folder: Make) -> None:
    splits = open_images(make_folder("train", "val", count=3))
    assert (len(splits.train), len(splits.val), splits.classes) == (3, 3, ["image"])


def test_labels_of_one_part_only_are_not_used(make_folder: Make) -> None:
    splits = open_images(make_folder("train/a", "train/b", "val", count=2))
    assert splits.classes == ["image"] and splits.train.targets.tolist() == [0] * 4


def test_known_layouts_are_opened_as_usual(tmp_path: Path) -> None:
    write(tmp_path, "data_batch_1", batch(3))
    splits = open_images(tmp_path, 0.0)
    assert splits.kind == "cifar10" and len(splits.train) == 3


def test_idx_images_need_no_labels(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(IMAGES))
    splits = open_images(tmp_path, 0.0)
    assert splits.kind == "idx" and len(splits.train) == len(IMAGES) and splits.classes == ["image"]
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS))
    assert open_images(tmp_path, 0.0).train.targets.tolist() == LABELS.tolist()
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(LABELS))
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(MinidlError, match=r"train-images-idx3-ubyte: expected images \(N, H, W\)"):
        open_images(tmp_path)


def test_what_has_no_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(MinidlError, match="absent: no such file or folder"):
        open_images(tmp_path / "absent")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("x")
    with pytest.raises(MinidlError, match=r"no images here \(\.jpg"):
        open_images(tmp_path)
    with pytest.raises(MinidlError, match="expected a folder or a zip archive"):
        open_images(tmp_path / "notes" / "a.txt")
    with pytest.raises(ValueError, match=r"val_split must be between 0 and 1, got 1\.5"):
        open_images(tmp_path, 1.5)


def test_few_labels_are_drawn_per_class_and_more_contain_fewer() -> None:
    targets = np.random.default_rng(0).integers(0, 3, 60)
    few, rest = few_per_class(targets, 4, seed=2)
    assert np.bincount(targets[few]).tolist() == [4, 4, 4]
    assert np.array_equal(np.sort(np.concatenate([few, rest])), np.arange(60))
    assert set(few) < set(few_per_class(targets, 6, seed=2)[0])
    assert set(few) != set(few_per_class(targets, 4, seed=3)[0])
    with pytest.raises(ValueError, match=r"class 1 has 2 samples, fewer than 3"):
        few_per_class([0, 0, 0, 1, 1], 3)
    with pytest.raises(ValueError, match="count must be a positive integer, got 0"):
        few_per_class([0], 0)
