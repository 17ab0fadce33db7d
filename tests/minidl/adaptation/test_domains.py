"""Opening both domains, and what is wrong with a target."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidl.adaptation.domains import PairLoader, PairOfBatches, labelled_few, open_domains
from minidl.data import ANY_CLASS, ArrayDataset, Splits
from minidl.errors import MinidlError
from minidl.training.reporting import Reporter
from tests.minidl.training.tiny import write_photos

CFG = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 16, 16]}


class Told(Reporter):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.text = ""

    def log(self, text: str) -> None:
        self.text += text + "\n"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("source"), train=4, val=2, classes=("blue", "red", "white"))


def test_labels_of_the_target_are_seen_by_the_report_only(source: Path, tmp_path: Path) -> None:
    target = write_photos(tmp_path, train=5, val=3, classes=("blue", "red", "white"))
    told = Told()
    domains = open_domains(source, target, 0.2, 0, told)
    assert domains.labelled
    assert "labels are used for the report only" in told.text
    assert domains.unlabelled.classes == [ANY_CLASS]
    assert not domains.unlabelled.targets.any()
    assert {domains.unlabelled[i][1] for i in range(len(domains.unlabelled))} == {0}
    assert domains.unlabelled.name(7) == domains.target_train.name(7)


def test_a_folder_of_images_is_a_target_without_labels(source: Path, tmp_path: Path) -> None:
    for i in range(10):
        Image.new("RGB", (20 + i, 24), (i, 0, 0)).save(tmp_path / f"{i}.png")  # of mixed sizes
    told = Told()
    domains = open_domains(source, tmp_path, 0.2, 0, told)
    assert not domains.labelled
    assert (len(domains.target_train), len(domains.target_test)) == (8, 2)
    assert domains.target_test.classes == domains.source.classes
    assert "without labels: nothing can be scored" in told.text


def test_other_classes_in_the_target_are_an_error_that_names_them(source: Path, tmp_path: Path) -> None:
    write_photos(tmp_path, train=3, val=1, classes=("blue", "green"))
    with pytest.raises(MinidlError, match=r"1 class that .* lacks: green; .*--ignore-target-labels"):
        open_domains(source, tmp_path, 0.2, 0, Told())
    domains = open_domains(source, tmp_path, 0.2, 0, Told(), ignore_labels=True)
    assert not domains.labelled and len(domains.target_train) == 6


def test_classes_are_matched_by_name_and_may_be_missing(source: Path, tmp_path: Path) -> None:
    write_photos(tmp_path, train=2, val=2, classes=("red", "white"))
    told = Told()
    domains = open_domains(source, tmp_path, 0.2, 0, told)
    assert domains.target_train.targets.tolist() == [1, 1, 2, 2]
    assert domains.target_test[0][1] == 1
    assert "lacks 1 of the source's classes: blue" in told.text


def test_a_target_of_one_image_is_too_small(source: Path, tmp_path: Path) -> None:
    write_photos(tmp_path, train=4, val=2, classes=("blue", "red"))
    for name in ("blue/001", "blue/002", "blue/003", "red/001", "red/002", "red/003", "red/000"):
        (tmp_path / "train" / f"{name}.png").unlink()
    shutil.rmtree(tmp_path / "train" / "red")
    shutil.rmtree(tmp_path / "val" / "red")
    with pytest.raises(MinidlError, match="has 1 training images; at least 2 are needed"):
        open_domains(source, tmp_path, 0.2, 0, Told())


def test_a_target_that_is_not_there_is_named(source: Path, tmp_path: Path) -> None:
    with pytest.raises(MinidlError, match="nowhere: no such file or folder"):
        open_domains(source, tmp_path / "nowhere", 0.2, 0, Told())
    (tmp_path / "empty").mkdir()
    with pytest.raises(MinidlError, match=r"empty: .*(no images|empty)"):
        open_domains(source, tmp_path / "empty", 0.2, 0, Told())


def test_few_labels_need_labels_and_enough_of_them(source: Path, tmp_path: Path) -> None:
    target = write_photos(tmp_path / "a", train=3, val=1, classes=("blue", "red", "white"))
    domains = open_domains(source, target, 0.2, 0, Told())
    few = labelled_few(domains, 2, seed=0)
    assert few.targets.tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(MinidlError, match="has 3 samples, fewer than 4"):
        labelled_few(domains, 4, seed=0)
    blind = open_domains(source, target, 0.2, 0, Told(), ignore_labels=True)
    with pytest.raises(MinidlError, match="has no labels; the method finetune"):
        labelled_few(blind, 2, seed=0)


def numbered(count: int) -> ArrayDataset:
    """Images whose pixels say which they are."""
    pixels = np.zeros((count, 16, 16, 3), np.uint8)
    pixels += np.arange(count, dtype=np.uint8)[:, None, None, None]
    return ArrayDataset(pixels, np.arange(count) % 2, ["even", "odd"])


def pair_loader(steps: int = 3, labelled: int = 5, unlabelled: int = 4, **options: object) -> PairLoader:
    given = {"sizes": (2, 3), "augment": "none", "workers": 0, **options}
    return PairLoader(numbered(labelled), numbered(unlabelled), CFG, steps, **given)  # type: ignore[arg-type]


def test_an_epoch_has_its_number_of_steps_however_small_the_data() -> None:
    batches = list(pair_loader(steps=7, unlabelled=2).iterate())
    assert [(b.source.shape[0], b.target.shape[0], len(y)) for b, y in batches] == [(2, 2, 2)] * 7


def same(a: PairOfBatches, b: PairOfBatches) -> bool:
    parts = zip((a.source, a.target, a.weak), (b.source, b.target, b.weak), strict=True)
    return all(
        (x is y) or (x is not None and y is not None and np.array_equal(x.data, y.data)) for x, y in parts
    )


def test_batches_can_be_taken_up_at_any_step() -> None:
    loader = pair_loader(steps=6, augment="basic", student_augment="strong")
    for epoch in (0, 2):
        loader.set_epoch(epoch)
        whole = list(loader.iterate())
        rest = list(pair_loader_at(epoch).iterate(4))
        assert len(rest) == 2
        assert all(
            same(a, b) and np.array_equal(y, z) for (a, y), (b, z) in zip(whole[4:], rest, strict=True)
        )


def pair_loader_at(epoch: int) -> PairLoader:
    loader = pair_loader(steps=6, augment="basic", student_augment="strong", workers=2)
    loader.set_epoch(epoch)
    return loader


def test_both_views_are_of_the_same_images() -> None:
    loader = pair_loader(student_augment="light", unlabelled=40)
    for batch, _ in loader.iterate():
        assert batch.weak is not None and batch.target is not None
        np.testing.assert_array_equal(batch.weak.data, batch.target.data)  # a flip changes nothing here


def test_without_a_target_only_labelled_images_come() -> None:
    loader = PairLoader(numbered(5), None, CFG, 3, sizes=(4, 9), augment="none", workers=0)
    assert [(b.target, len(y)) for b, y in loader.iterate()] == [(None, 4)] * 3


def test_data_sets_that_are_open_already_are_taken(source: Path) -> None:
    splits = Splits(numbered(6), numbered(2), ["even", "odd"], "folder")
    domains = open_domains(splits, splits, 0.2, 0, Told())
    assert domains.labelled and domains.source is splits
