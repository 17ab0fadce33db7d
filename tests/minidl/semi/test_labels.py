"""Label spreading and cluster-then-label: closed forms, known labels kept, what no label reaches, bad input."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest

from minidl.errors import MinidlError
from minidl.semi import cluster_labels, spread_labels
from minidl.semi.spread import standardised

pytest.importorskip("sklearn", reason='needs scikit-learn (pip install "minidl[semi]")')


def blobs(count: int = 40, apart: float = 8.0) -> tuple[np.ndarray, np.ndarray]:
    """Three round groups in five dimensions, and their numbers."""
    rng = np.random.default_rng(0)
    truth = np.arange(count) % 3
    centres = np.eye(5)[:3] * apart
    return rng.standard_normal((count, 5)) + centres[truth], truth


def one_label_each(truth: np.ndarray) -> np.ndarray:
    labels = np.full(len(truth), -1)
    labels[:3] = truth[:3]
    return labels


def test_spreading_ends_in_the_closed_form() -> None:
    points, truth = blobs(18, apart=1.5)
    labels, alpha, neighbours = one_label_each(truth), 0.6, 4
    near = np.argsort(((points[:, None] - points[None]) ** 2).sum(axis=2), axis=1)[:, 1 : neighbours + 1]
    joined = np.zeros((18, 18))
    np.put_along_axis(joined, near, 1.0, axis=1)
    joined = np.maximum(joined, joined.T)
    degrees = joined.sum(axis=1)
    s = joined / np.sqrt(np.outer(degrees, degrees))
    known = np.where(labels[:, None] == np.arange(3), 1.0, 0.0)
    limit = np.linalg.solve(np.eye(18) - alpha * s, (1 - alpha) * known)
    shares = limit / limit.sum(axis=1, keepdims=True)
    found, sure = spread_labels(points, labels, neighbours, alpha)
    np.testing.assert_array_equal(found[3:], shares.argmax(axis=1)[3:])
    np.testing.assert_allclose(sure[3:], shares.max(axis=1)[3:], atol=2e-3)


@pytest.mark.parametrize("method", [spread_labels, cluster_labels])
def test_one_label_for_each_group_labels_them_all(method: Any) -> None:
    points, truth = blobs()
    options = {"clusters": 3} if method is cluster_labels else {}
    found, sure = method(points, one_label_each(truth), **options)
    np.testing.assert_array_equal(found, truth)
    assert found.dtype == np.int64 and (sure[:3] == 1).all() and ((sure > 0) & (sure <= 1)).all()


@pytest.mark.parametrize("method", [spread_labels, cluster_labels])
def test_known_labels_are_kept_even_where_they_are_odd(method: Any) -> None:
    points, truth = blobs()
    labels = one_label_each(truth)
    labels[3] = 1  # it lies in group 0
    found, sure = method(points, labels)
    assert found[3] == 1 and sure[3] == 1.0


def test_what_no_label_reaches_is_not_sure() -> None:
    points, truth = blobs(30)
    labels = np.where(np.arange(30) < 2, truth, -1)  # no label in group 2
    _, sure = spread_labels(points, labels, neighbours=3)
    assert (sure[truth == 2] == 0).all() and (sure[truth < 2] > 0).all()


def test_a_group_without_a_label_takes_that_of_the_nearest_at_half_the_sureness() -> None:
    points = np.array([[0.0], [0.1], [10.0], [10.1], [3.0], [3.1]])
    found, sure = cluster_labels(points, np.array([0, -1, 1, -1, -1, -1]), clusters=3)
    assert found.tolist() == [0, 0, 1, 1, 0, 0]
    assert sure[4] <= 0.5 < sure[1]


def test_the_sureness_of_a_group_is_the_share_of_its_largest_label() -> None:
    points = np.concatenate([np.zeros((5, 1)), np.full((3, 1), 9.0)])
    found, sure = cluster_labels(points, np.array([1, 1, 0, -1, -1, 0, -1, -1]), clusters=2)
    assert found[3:5].tolist() == [1, 1] and found[6:].tolist() == [0, 0]
    np.testing.assert_allclose(sure[3:5] / sure[6:], 2 / 3)


def test_clusters_depend_on_the_seed_alone() -> None:
    points, truth = blobs(60, apart=1.0)
    first = cluster_labels(points, one_label_each(truth), clusters=8, seed=4)
    again = cluster_labels(points, one_label_each(truth), clusters=8, seed=4)
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])


def test_principal_components_keep_the_distances() -> None:
    rng = np.random.default_rng(1)
    points = rng.standard_normal((50, 8)) @ rng.standard_normal((8, 200))  # 8 of 200 dimensions are used
    reduced = standardised(points, dimensions=8)
    assert reduced.shape == (50, 8)
    assert (reduced**2).mean() == pytest.approx(1.0)
    whole, part = (np.linalg.norm(p[0] - p[1:], axis=1) for p in (points, reduced))
    np.testing.assert_allclose(whole / part, (whole / part)[0])


@pytest.mark.parametrize("method", [spread_labels, cluster_labels])
def test_bad_input_is_named(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    points, truth = blobs(9)
    with pytest.raises(ValueError, match="labels of two classes at least must be known"):
        method(points, np.where(truth == 0, 0, -1))
    with pytest.raises(
        ValueError, match=r"features \(N, D\) and labels \(N,\) expected, got \(9, 5\), \(8,\)"
    ):
        method(points, truth[:8])
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        MinidlError, match=r'scikit-learn, which is not installed \(pip install "minidl\[semi\]"\)'
    ):
        method(points, truth)
