"""Accuracy, precision, recall, F1 and the confusion matrix against figures worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.training import confusion_matrix, score
from minidl.training.metrics import log_softmax, top_k_correct


def one_hot(predictions: list[int], classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[predictions]


def test_the_confusion_matrix_counts_true_class_by_row() -> None:
    matrix = confusion_matrix(np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 0, 2, 2]), 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]


def test_per_class_figures_are_those_worked_out_by_hand() -> None:
    result = score(one_hot([0, 1, 1, 0, 2, 2], 3), np.array([0, 0, 1, 2, 2, 2]), ["a", "b", "c"])
    assert (result.total, result.correct) == (6, 4)
    assert result.accuracy == pytest.approx(4 / 6)
    a, b, c = result.per_class()
    assert (a.precision, a.recall, a.f1, a.support) == (0.5, 0.5, 0.5, 2)
    assert (b.precision, b.recall, b.support) == (0.5, 1.0, 1)
    assert b.f1 == pytest.approx(2 / 3)
    assert (c.precision, c.f1) == (1.0, pytest.approx(0.8))
    assert result.macro_f1 == pytest.approx((0.5 + 2 / 3 + 0.8) / 3)
    assert result.top5 is None


def test_a_class_that_is_never_predicted_or_never_seen_scores_zero() -> None:
    result = score(one_hot([0, 0], 3), np.array([0, 1]), ["a", "b", "c"])
    assert [s.f1 for s in result.per_class()] == [pytest.approx(2 / 3), 0.0, 0.0]


def test_the_loss_is_the_mean_cross_entropy_without_overflow() -> None:
    logits = np.array([[1000.0, 0.0], [0.0, 1.0]], np.float32)
    result = score(logits, np.array([1, 1]), ["a", "b"])
    assert result.loss == pytest.approx((1000.0 + np.log1p(np.exp(-1.0))) / 2)
    assert np.exp(log_softmax(logits)).sum(axis=1) == pytest.approx([1.0, 1.0])


def test_top_five_needs_more_than_five_classes() -> None:
    logits = np.arange(6, dtype=np.float32)[None].repeat(2, 0)
    assert score(logits, np.array([0, 1]), list("abcdef")).top5 == 0.5
    assert top_k_correct(np.zeros((1, 6)), np.array([5]), 5) == 0  # a tie goes to the lower indices


def test_an_empty_set_has_no_figures_and_no_division_by_zero() -> None:
    result = score(np.zeros((0, 2)), np.zeros(0, np.int64), ["a", "b"])
    assert (result.total, result.accuracy, result.macro_f1) == (0, 0.0, 0.0)


def test_the_dictionary_is_json() -> None:
    result = score(one_hot([0, 1], 2), np.array([0, 1]), ["ä", "b"])
    assert json.loads(json.dumps(result.to_dict()))["classes"][0]["name"] == "ä"


def test_wrong_shapes_and_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        confusion_matrix(np.zeros(2, int), np.zeros(3, int), 2)
    with pytest.raises(ValueError, match=r"labels must lie in 0 .. 1, got 0 .. 2"):
        confusion_matrix(np.array([0, 2]), np.array([0, 1]), 2)
    with pytest.raises(ValueError, match=r"expected logits of shape \(2, 3\)"):
        score(np.zeros((2, 2)), np.zeros(2, int), ["a", "b", "c"])


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_the_figures_agree_with_their_definitions(pairs: list[tuple[int, int]]) -> None:
    truth, guess = np.array(pairs).T
    result = score(one_hot(guess.tolist(), 5), truth, list("abcde"))
    assert result.accuracy == pytest.approx(float((truth == guess).mean()))
    for label, figures in enumerate(result.per_class()):
        both = int(((truth == label) & (guess == label)).sum())
        assert figures.precision * max(int((guess == label).sum()), 1) == pytest.approx(both)
        assert figures.recall * max(int((truth == label).sum()), 1) == pytest.approx(both)
