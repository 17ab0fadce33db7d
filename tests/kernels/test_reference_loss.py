"""Softmax cross-entropy, the reference and the CPU back end: PyTorch's results, finite differences,
extremes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidl.kernels.reference import ReferenceBackend
from tests.kernels.cases import BACKENDS, DTYPES, LOSS, TOLERANCE, assert_near, stored

IGNORE = -100
both = pytest.mark.parametrize("backend", BACKENDS)


@both
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LOSS)
def test_cross_entropy_equals_pytorch(name: str, dtype: str, backend: str) -> None:
    be, case, a, near = BACKENDS[backend], LOSS[name], stored(name, dtype), TOLERANCE[dtype]
    rest = (a["target"], a["weight"] if case["weighted"] else None, IGNORE, case["smoothing"])
    loss, row_weight = be.softmax_cross_entropy(a["logits"], *rest)
    assert_near(loss, a["loss"], near, dtype)
    assert row_weight.dtype == dtype
    assert loss.sum() / row_weight.sum() == pytest.approx(float(a["mean"]), rel=near)
    glogits = be.softmax_cross_entropy_backward(a["g"], a["logits"], *rest)
    assert_near(glogits, a["glogits"], near, dtype)


@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
def test_the_gradient_equals_finite_differences(smoothing: float) -> None:
    be, rng = ReferenceBackend(), np.random.default_rng(4)
    logits, g = rng.normal(size=(6, 5)), rng.normal(size=6)
    rest: tuple[Any, ...] = (np.array([0, 4, IGNORE, 2, 2, 1]), rng.uniform(0.5, 2, 5), IGNORE, smoothing)
    grad = be.softmax_cross_entropy_backward(g, logits, *rest)
    direction, step = rng.normal(size=logits.shape), 1e-6
    up, down = (be.softmax_cross_entropy(logits + s * step * direction, *rest)[0] @ g for s in (1, -1))
    assert (up - down) / (2 * step) == pytest.approx(np.vdot(grad, direction), rel=1e-7)


@both
def test_class_weights_follow_the_label_not_the_column(backend: str) -> None:
    logits, weight = np.zeros((2, 3)), np.array([1.0, 10.0, 100.0])
    target, g = np.array([1, 2]), np.ones(2)
    loss, row_weight = BACKENDS[backend].softmax_cross_entropy(logits, target, weight, IGNORE, 0.0)
    np.testing.assert_allclose(loss, [10 * np.log(3), 100 * np.log(3)])
    np.testing.assert_array_equal(row_weight, [10, 100])
    grad = BACKENDS[backend].softmax_cross_entropy_backward(g, logits, target, weight, IGNORE, 0.0)
    np.testing.assert_allclose(grad, np.array([[10, -20, 10], [100, 100, -200]]) / 3)


@both
def test_each_row_is_shifted_by_its_own_maximum(backend: str) -> None:
    logits = np.array([[2000.0, 1999.0], [-2000.0, -2001.0], [0.0, -1500.0]])
    loss, _ = BACKENDS[backend].softmax_cross_entropy(logits, np.array([1, 1, 1]), None, IGNORE, 0.0)
    softplus = np.log1p(np.exp(1.0))
    np.testing.assert_allclose(loss, [softplus, softplus, 1500.0], rtol=1e-14)


@both
def test_an_impossible_class_has_no_probability_and_nan_spoils_only_its_row(backend: str) -> None:
    logits = np.array([[1.0, -np.inf, 1.0], [np.nan, 0.0, 0.0], [0.0, 0.0, 0.0]])
    rest: tuple[Any, ...] = (np.zeros(3, np.int64), None, IGNORE, 0.0)
    loss, _ = BACKENDS[backend].softmax_cross_entropy(logits, *rest)
    np.testing.assert_allclose(loss, [np.log(2), np.nan, np.log(3)])
    grad = BACKENDS[backend].softmax_cross_entropy_backward(np.ones(3), logits, *rest)
    np.testing.assert_allclose(grad[0], [-0.5, 0, 0.5])
    assert np.isnan(grad[1]).all() and np.isfinite(grad[2]).all()


@both
def test_ignored_rows_give_nothing_even_when_they_hold_nan(backend: str) -> None:
    logits = np.array([[np.nan, 0.0], [0.0, 1.0]])
    rest: tuple[Any, ...] = (np.array([7, 0]), None, 7, 0.1)
    loss, row_weight = BACKENDS[backend].softmax_cross_entropy(logits, *rest)
    assert loss[0] == row_weight[0] == 0
    assert row_weight[1] == 1
    grad = BACKENDS[backend].softmax_cross_entropy_backward(np.ones(2), logits, *rest)
    np.testing.assert_array_equal(grad[0], [0, 0])


@both
def test_no_rows_give_no_losses(backend: str) -> None:
    logits, target = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    loss, row_weight = BACKENDS[backend].softmax_cross_entropy(logits, target, None, IGNORE, 0.0)
    assert loss.shape == row_weight.shape == (0,)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "class too large": ({"target": np.array([0, 3])}, "target expects classes 0 to 2, row 1 has 3"),
    "negative class": ({"target": np.array([-1, 0])}, "target expects classes 0 to 2, row 0 has -1"),
    "float target": ({"target": np.zeros(2)}, "target expects integers, got float64"),
    "rows": ({"target": np.zeros(3, np.int64)}, r"target expects shape \(2,\), got \(3,\)"),
    "weight": ({"weight": np.ones(4)}, r"weight expects shape \(3,\), got \(4,\)"),
    "smoothing": ({"label_smoothing": 1.5}, "label_smoothing expects 0 to 1, got 1.5"),
    "axes": ({"logits": np.zeros((2, 3, 1))}, "logits expects 2 axes"),
}


@both
@pytest.mark.parametrize("what", WRONG)
def test_wrong_arguments_are_named(what: str, backend: str) -> None:
    right: dict[str, Any] = {"logits": np.zeros((2, 3)), "target": np.array([0, 1]), "weight": None}
    right |= {"ignore_index": IGNORE, "label_smoothing": 0.0}
    changed, message = WRONG[what]
    with pytest.raises(ValueError, match=f"softmax_cross_entropy: {message}"):
        BACKENDS[backend].softmax_cross_entropy(**(right | changed))
    with pytest.raises(ValueError, match=f"softmax_cross_entropy_backward: {message}"):
        BACKENDS[backend].softmax_cross_entropy_backward(np.ones(2), **(right | changed))
