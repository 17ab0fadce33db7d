"""The losses of pairs on the CPU beside the reference in float64, and the sigmoid they share."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from minidl.kernels.cpu import CPUBackend, elementwise
from minidl.kernels.cpu.exponential import exp_negative_32
from minidl.kernels.reference import ReferenceBackend
from minidl.kernels.reference.pair_loss import KINDS, PairLoss
from tests.kernels.cases import Array
from tests.kernels.threads import assert_same_for_any_split

CPU, REFERENCE = CPUBackend(), ReferenceBackend()
SHAPE = (3, 40, 13, 11)
PRECISION = {"float32": 3e-7, "float64": 1e-15}


def pair(dtype: str = "float32") -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    x, t = (5 * rng.normal(size=SHAPE)).astype(dtype), rng.random(SHAPE).astype(dtype)
    x.flat[:4] = 0, 80, -80, t.flat[3]
    assert x.size > elementwise.SMALL and x.size % 16
    return x, t


def close(actual: Array, expected: Array, dtype: str) -> None:
    assert actual.dtype == np.dtype(dtype) and actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=PRECISION[dtype], atol=2 * PRECISION[dtype])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_and_gradients_equal_the_reference_in_float64(dtype: str, kind: PairLoss) -> None:
    x, t = pair(dtype)
    wide = x.astype(np.float64), t.astype(np.float64)
    close(CPU.pair_loss(kind, x, t), REFERENCE.pair_loss(kind, *wide), dtype)
    g = np.asarray(0.25, dtype)
    gx = CPU.pair_loss_backward(kind, g, x, t)
    expected = REFERENCE.pair_loss_backward(kind, g.astype(np.float64), *wide)
    assert gx.dtype == np.dtype(dtype)
    np.testing.assert_allclose(gx, expected, rtol=4 * PRECISION[dtype], atol=2 * PRECISION[dtype])


@pytest.mark.parametrize("kind", KINDS)
def test_layouts_that_agree_give_the_same_and_others_are_accepted(kind: PairLoss) -> None:
    x, t = pair()
    g = np.float32(0.5)
    turned = x.transpose(0, 3, 1, 2), t.transpose(0, 3, 1, 2)
    assert CPU.pair_loss(kind, *turned) == CPU.pair_loss(kind, x, t)
    gx = CPU.pair_loss_backward(kind, g, *turned)
    assert gx.transpose(0, 2, 3, 1).flags.c_contiguous
    np.testing.assert_array_equal(gx.transpose(0, 2, 3, 1), CPU.pair_loss_backward(kind, g, x, t))
    mixed = CPU.pair_loss(kind, x, np.asfortranarray(t))
    np.testing.assert_allclose(mixed, CPU.pair_loss(kind, x, t), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_bits_do_not_depend_on_the_split_and_nan_stays(
    kind: PairLoss, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, t = pair()
    g = np.float32(0.5)
    assert_same_for_any_split(monkeypatch, lambda: CPU.pair_loss(kind, x, t).reshape(1))
    assert_same_for_any_split(monkeypatch, lambda: CPU.pair_loss_backward(kind, g, x, t))
    x.flat[77] = np.nan
    assert np.isnan(CPU.pair_loss(kind, x, t))
    assert np.isnan(CPU.pair_loss_backward(kind, g, x, t).flat[77])


def test_large_logits_cost_what_they_are_without_overflow() -> None:
    x = np.full(elementwise.SMALL, -1e30, np.float32)
    x[::2] *= -1
    t = np.ones_like(x)
    assert CPU.pair_loss("logistic", x, t) == np.float32(1e30 * (x.size // 2))
    np.testing.assert_array_equal(
        CPU.pair_loss_backward("logistic", np.float32(1), x, t), np.minimum(np.sign(x), 0)
    )


def test_wrong_arguments_are_named() -> None:
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"pair_loss: kind expects one of .*got 'cubic'"):
        CPU.pair_loss("cubic", x, x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"pair_loss: t expects shape \(2, 3\)"):
        CPU.pair_loss("squared", x, x[0])
    with pytest.raises(ValueError, match=r"pair_loss_backward: g expects shape \(\)"):
        CPU.pair_loss_backward("squared", x[0], x, x)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_sigmoid_keeps_its_relative_precision_on_both_sides(dtype: str) -> None:
    x, gy = pair(dtype)
    y, expected = CPU.sigmoid(x), 1 / (1 + np.exp(-x.astype(np.float64)))
    np.testing.assert_allclose(y, expected, rtol=4 * PRECISION[dtype])
    np.testing.assert_allclose(
        CPU.sigmoid_backward(gy, y), REFERENCE.sigmoid_backward(gy, y), rtol=4 * PRECISION[dtype]
    )
    x.flat[5] = np.nan
    assert np.isnan(CPU.sigmoid(x).flat[5])


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 4e-7), ("float64", 1e-15), ("float16", 1e-3), ("bfloat16", 4e-3)]
)
def test_the_sigmoid_of_few_numbers_keeps_its_relative_precision(dtype: str, tolerance: float) -> None:
    """Few numbers, and all of half types, are the reference's."""
    x = np.linspace(-9, 9, 37).astype(getattr(ml_dtypes, dtype, dtype))
    expected = 1 / (1 + np.exp(-x.astype(np.float64)))
    assert CPU.sigmoid(x).dtype == x.dtype
    np.testing.assert_allclose(CPU.sigmoid(x).astype(np.float64), expected, rtol=tolerance)
    slope = CPU.sigmoid_backward(np.ones_like(x), expected.astype(x.dtype)).astype(np.float64)
    y = expected.astype(x.dtype).astype(np.float64)
    np.testing.assert_allclose(slope, y * (1 - y), rtol=tolerance)
    ends = np.array([-1e4, 1e4, np.nan]).astype(x.dtype)
    np.testing.assert_array_equal(CPU.sigmoid(ends).astype(np.float64), [0, 1, np.nan])


def test_the_float32_exponential_is_accurate_to_two_units_of_the_last_place() -> None:
    x = -np.geomspace(1e-7, 86, 3000).astype(np.float32)
    actual = np.array([exp_negative_32(v) for v in x])
    np.testing.assert_allclose(actual, np.exp(x.astype(np.float64)), rtol=1.2e-7)
    assert [exp_negative_32(np.float32(v)) for v in (0, -88, -np.inf)] == [1.0, 0.0, 0.0]
    assert np.isnan(exp_negative_32(np.float32(np.nan)))
