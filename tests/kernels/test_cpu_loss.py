"""Softmax cross-entropy on the CPU beside the reference: many classes, strides, splits."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from minidl.kernels.cpu import CPUBackend
from minidl.kernels.cpu.exponential import exp_negative
from minidl.kernels.reference import ReferenceBackend
from tests.kernels.cases import assert_near
from tests.kernels.threads import assert_same_for_any_split

CPU, REFERENCE = CPUBackend(), ReferenceBackend()


@pytest.mark.parametrize(("rows", "classes"), [(7, 5), (33, 1000), (3, 1), (1, 10), (50, 2)])
def test_rows_of_any_length_equal_the_reference(rows: int, classes: int) -> None:
    rng = np.random.default_rng(classes)
    logits = (rng.normal(size=(rows, classes)) * 5).astype(np.float32)
    target = rng.integers(0, classes, rows)
    target[rows // 2] = -1
    weight, g = rng.uniform(0.5, 2, classes), rng.normal(size=rows).astype(np.float32)
    for w, smoothing in product((None, weight.astype(np.float32)), (0.0, 0.1)):
        rest = (target, w, -1, smoothing)
        for a, b in zip(
            CPU.softmax_cross_entropy(logits, *rest),
            REFERENCE.softmax_cross_entropy(logits, *rest),
            strict=True,
        ):
            assert_near(a, b, 1e-6)
        actual = CPU.softmax_cross_entropy_backward(g, logits, *rest)
        assert_near(actual, REFERENCE.softmax_cross_entropy_backward(g, logits, *rest), 1e-6)


def test_any_strides_and_integer_types_are_accepted() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 9)).T[::2]
    target = np.array([0, 9, 1, 9, 5, 9, 255, 9, 2, 9], np.uint8)[::2]
    g = rng.normal(size=10)[::2]
    rest = (target, None, 255, 0.1)
    loss, _ = CPU.softmax_cross_entropy(logits, *rest)
    np.testing.assert_allclose(loss, REFERENCE.softmax_cross_entropy(logits, *rest)[0], rtol=1e-13)
    actual = CPU.softmax_cross_entropy_backward(g, logits, *rest)
    expected = REFERENCE.softmax_cross_entropy_backward(g, logits, *rest)
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-15)


def test_results_do_not_depend_on_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    logits, g = rng.normal(size=(13, 21)).astype(np.float32), rng.normal(size=13).astype(np.float32)
    rest = (rng.integers(0, 21, 13), None, -1, 0.1)
    assert_same_for_any_split(monkeypatch, lambda: CPU.softmax_cross_entropy(logits, *rest))
    assert_same_for_any_split(monkeypatch, lambda: CPU.softmax_cross_entropy_backward(g, logits, *rest))


def test_the_exponential_is_accurate_to_the_last_bits() -> None:
    x = np.concatenate([-np.geomspace(1e-18, 700, 3000), [0.0]])
    actual = np.array([exp_negative(v) for v in x])
    np.testing.assert_allclose(actual, np.exp(x), rtol=4e-16)
    assert [exp_negative(-709.0), exp_negative(-np.inf)] == [0.0, 0.0]
    assert np.isnan(exp_negative(np.nan))
