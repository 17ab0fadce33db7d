"""FixMatch: the loss by hand, its gradient, the two views, batches that depend on (seed, epoch, index) alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

import minidl
from minidl import Tensor, models
from minidl.data import ArrayDataset, Subset, eval_transform
from minidl.semi import FixMatchLoader, TwoViews, check_options, fixmatch_loss, strong_transform
from minidl.testing import gradcheck

CFG = models.architecture("conv_encoder").config.with_input((1, 8, 8)).to_dict()


def softmax(row: list[float]) -> np.ndarray:
    odds = np.exp(row)
    return np.asarray(odds / odds.sum())


def test_the_loss_is_the_papers_worked_out_by_hand() -> None:
    labelled = [[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]]
    weak = [[4.0, 0.0, 0.0], [0.5, 0.4, 0.3], [0.0, 0.0, 5.0]]  # sure of 0; not sure; sure of 2
    strong = [[1.0, 2.0, 0.0], [9.0, 0.0, 0.0], [0.0, 1.0, 1.0]]
    supervised = -(math.log(softmax(labelled[0])[0]) + math.log(softmax(labelled[1])[1])) / 2
    unsupervised = -(math.log(softmax(strong[0])[0]) + math.log(softmax(strong[2])[2])) / 3
    logits = Tensor(np.array(labelled + weak + strong))
    loss = fixmatch_loss(logits, np.array([0, 1]), threshold=0.9, weight=0.5)
    assert loss.item() == pytest.approx(supervised + 0.5 * unsupervised, rel=1e-12)
    certain = fixmatch_loss(logits, np.array([0, 1]), threshold=1.0)
    assert certain.item() == pytest.approx(supervised, rel=1e-12), "no prediction is that sure"


def test_no_gradient_flows_through_the_weak_predictions() -> None:
    logits = Tensor(np.random.default_rng(0).standard_normal((2 + 2 * 4, 3)) * 3, requires_grad=True)
    labels = np.array([0, 2])
    fixmatch_loss(logits, labels, threshold=0.4).backward()
    assert logits.grad is not None
    assert not logits.grad.data[2:6].any() and logits.grad.data[6:].any() and logits.grad.data[:2].any()
    fixed = logits.data[2:6]

    def of_strong(known: Tensor, strong: Tensor) -> Tensor:
        return fixmatch_loss(minidl.cat([known, Tensor(fixed), strong]), labels, threshold=0.4)

    parts = [Tensor(logits.data[rows].copy(), requires_grad=True) for rows in (slice(2), slice(6, None))]
    gradcheck(of_strong, parts)


def test_rows_that_do_not_fit_the_labels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 labels need B \+ 2U rows of logits, got 5"):
        fixmatch_loss(Tensor(np.zeros((5, 3))), np.array([0, 1]))
    alone = fixmatch_loss(Tensor(np.zeros((2, 3))), np.array([0, 1]))
    assert alone.item() == pytest.approx(math.log(3))


def images(count: int) -> ArrayDataset:
    pixels = np.random.default_rng(count).integers(0, 256, (count, 8, 8, 1)).astype(np.uint8)
    return ArrayDataset(pixels, np.arange(count) % 3, ["a", "b", "c"])


def test_the_two_views_are_drawn_one_after_the_other() -> None:
    plain = eval_transform(CFG)
    views = TwoViews(plain, strong_transform(CFG))
    image = images(1)[0][0]
    both = views(image, np.random.default_rng(3))
    assert both.shape == (2, 8, 8) and both.dtype == np.float32
    np.testing.assert_array_equal(both[:1], plain(image, None))
    assert not np.array_equal(both[:1], both[1:])


def epoch(loader: FixMatchLoader, number: int, start: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    loader.set_epoch(number)
    return [(x.data.copy(), y) for x, y in loader.iterate(start)]


def test_an_epoch_shows_every_image_once_beside_full_batches_of_labelled_ones() -> None:
    loader = FixMatchLoader(Subset(images(20), range(3)), images(20), CFG, 4, 2, seed=1, workers=0)
    batches = epoch(loader, 0)
    assert len(loader) == len(batches) == 2
    for x, labels in batches:
        assert x.shape == (4 + 2 * 8, 1, 8, 8) and labels.shape == (4,)
    again = FixMatchLoader(Subset(images(20), range(3)), images(20), CFG, 4, 2, seed=1, workers=2)
    for (x, labels), (other, others) in zip(epoch(loader, 1), epoch(again, 1), strict=True):
        assert np.array_equal(x, other) and np.array_equal(labels, others)
    (last, _), *more = epoch(again, 1, start=1)
    assert not more and np.array_equal(last, epoch(loader, 1)[1][0])
    assert not np.array_equal(batches[0][0], epoch(loader, 1)[0][0])


def test_fewer_images_than_a_batch_are_one_batch() -> None:
    loader = FixMatchLoader(images(2), images(5), CFG, 4, 3, workers=0)
    assert len(loader) == 1 and epoch(loader, 0)[0][0].shape[0] == 4 + 2 * 5
    with pytest.raises(ValueError, match="there are no unlabelled images"):
        FixMatchLoader(images(2), images(0), CFG, 4)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("fixmash", {}, "semi must be one of fixmatch, spread, cluster, got 'fixmash'"),
        ("fixmatch", {"treshold": 0.9}, "unknown option 'treshold'; did you mean threshold?"),
        ("fixmatch", {"threshold": 1.5}, r"threshold must be a number in 0\.\.1, got 1.5"),
        ("fixmatch", {"ratio": 2.5}, r"ratio must be an integer in 1\.\.100, got 2.5"),
        ("cluster", {"clusters": True}, "clusters must be an integer"),
    ],
)
def test_wrong_options_are_named(method: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_options(method, options)


def test_options_that_are_not_given_have_their_defaults() -> None:
    assert check_options("fixmatch", {"ratio": 5}) == {"threshold": 0.95, "ratio": 5, "weight": 1.0}
