from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from minidl.data import ArrayDataset, ConcatDataset, Subset, stratified_split


def numbered(count: int, start: int = 0, classes: tuple[str, ...] = ("a", "b", "c")) -> ArrayDataset:
    """Images whose pixels are all their number."""
    numbers = np.arange(start, start + count)
    images = np.broadcast_to(numbers[:, None, None, None].astype(np.uint8), (count, 2, 3, 1)).copy()
    return ArrayDataset(images, numbers % len(classes), classes, [f"image {number}" for number in numbers])


def test_an_array_dataset_gives_images_labels_and_names() -> None:
    data = numbered(7)
    image, label = data[5]
    assert len(data) == 7 and image.shape == (2, 3, 1) and int(image[0, 0, 0]) == 5
    assert label == 2 and type(label) is int
    assert data[-1][1] == 0 and data.name(-1) == "image 6"
    assert data.targets.tolist() == [0, 1, 2, 0, 1, 2, 0] and data.targets.dtype == np.int64
    assert ArrayDataset(np.zeros((2, 4, 4), np.uint8), [0, 1], ["x", "y"])[0][0].shape == (4, 4, 1)
    for index in (7, -8):
        with pytest.raises(IndexError, match=f"index {index} outside of 7 samples"):
            data[index]


def test_iterating_a_dataset_ends() -> None:
    assert [label for _, label in numbered(4)] == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("images", "labels", "classes", "error", "words"),
    [
        (np.zeros((2, 4, 4, 3)), [0, 1], "ab", TypeError, "images must be uint8, got float64"),
        (np.zeros((2, 3, 4, 4), np.uint8), [0, 1], "ab", ValueError, r"\(N, H, W, C\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0], "ab", ValueError, "2 images need labels"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0.0, 1.0], "ab", TypeError, "labels must be integers"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0, 2], "ab", ValueError, "label 2 outside of the 2 classes"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0, -1], "ab", ValueError, "label -1 outside"),
    ],
)
def test_an_array_dataset_refuses_what_does_not_fit(images, labels, classes, error, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=words):
        ArrayDataset(images, labels, classes)
    with pytest.raises(ValueError, match="2 images, 1 names"):
        ArrayDataset(np.zeros((2, 4, 4, 3), np.uint8), [0, 1], "ab", ["one"])


def test_a_subset_reorders_and_names_the_original_samples() -> None:
    part = Subset(numbered(9), [8, 0, 4])
    assert [int(image[0, 0, 0]) for image, _ in part] == [8, 0, 4]
    assert (
        part.targets.tolist() == [2, 0, 1] and part.name(0) == "image 8" and part.classes == ["a", "b", "c"]
    )
    nested = Subset(part, [2])
    assert nested.name(0) == "image 4" and len(Subset(part, [])) == 0
    for wrong in ([9], [-1]):
        with pytest.raises(IndexError, match="outside of 9 samples"):
            Subset(numbered(9), wrong)


def test_concatenation_finds_every_sample() -> None:
    empty = Subset(numbered(3), [])
    whole = ConcatDataset([numbered(3), empty, numbered(4, start=3), numbered(1, start=7)])
    assert [int(image[0, 0, 0]) for image, _ in whole] == list(range(8))
    assert whole.targets.tolist() == [number % 3 for number in range(8)]
    assert whole.name(6) == "image 6" and whole[-1][1] == 1
    with pytest.raises(ValueError, match="classes differ"):
        ConcatDataset([numbered(3), numbered(3, classes=("a", "b"))])
    with pytest.raises(ValueError, match="at least one"):
        ConcatDataset([])


def test_a_stratified_split_keeps_the_proportions_and_loses_nothing() -> None:
    labels = np.repeat([0, 1, 2, 3], [100, 50, 3, 1])
    train, val = stratified_split(labels, 0.2, seed=3)
    assert np.array_equal(np.sort(np.concatenate([train, val])), np.arange(154))
    assert np.bincount(labels[val], minlength=4).tolist() == [20, 10, 1, 0]
    again = stratified_split(labels, 0.2, seed=3)
    assert np.array_equal(again[1], val)
    assert not np.array_equal(stratified_split(labels, 0.2, seed=4)[1], val)
    assert len(stratified_split(labels, 0.0)[1]) == 0 and len(stratified_split(labels, 1.0)[0]) == 0
    for count in (2, 5):
        for share in (0.001, 0.999):
            train, val = stratified_split([0] * count, share)
            assert len(train) and len(val)
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="val_split must be between 0 and 1"):
            stratified_split(labels, wrong)


def test_the_split_of_a_class_does_not_depend_on_the_others() -> None:
    alone = stratified_split([0] * 20, 0.3)[1]
    together = stratified_split([0] * 20 + [1] * 7, 0.3)[1]
    assert np.array_equal(together[together < 20], alone)


def test_importing_the_data_folder_loads_neither_pillow_nor_numba() -> None:
    code = "import sys, minidl.data; print([m for m in ('PIL', 'numba', 'cupy', 'matplotlib') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "[]", run.stderr
