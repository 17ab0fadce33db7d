"""Batch normalisation, the reference and the CPU back end: PyTorch's results, finite differences,
accuracy.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from minidl.kernels.reference import ReferenceBackend
from tests.kernels.cases import BACKENDS, DTYPES, NORM, TOLERANCE, Array, assert_near, stored

EPS = 1e-5
both = pytest.mark.parametrize("backend", BACKENDS)


@both
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NORM)
def test_batch_normalisation_equals_pytorch(name: str, dtype: str, backend: str) -> None:
    be, case, a, near = BACKENDS[backend], NORM[name], stored(name, dtype), TOLERANCE[dtype]
    mean, var = be.batch_norm_stats(a["x"]) if case["training"] else (a["mean"], a["var"])
    rstd = (1 / np.sqrt(var + EPS)).astype(dtype)
    scale = a["weight"] * rstd
    residual = a["residual"] if case["residual"] else None
    y = be.batch_norm_apply(a["x"], scale, a["bias"] - mean * scale, residual, case["relu"])
    assert_near(y, a["y"], near, dtype)
    gx, gweight, gbias, gresidual = be.batch_norm_backward(
        a["gy"], a["x"], mean, rstd, a["weight"], y if case["relu"] else None, case["training"]
    )
    for actual, expected in ((gx, a["gx"]), (gweight, a["gweight"]), (gbias, a["gbias"])):
        assert_near(actual, expected, near, dtype)
    assert_near(gresidual, a["gresidual"] if case["residual"] else gresidual, near, dtype)


@pytest.mark.parametrize(("training", "relu"), list(product((True, False), repeat=2)))
def test_gradients_equal_finite_differences(training: bool, relu: bool) -> None:
    be, rng = ReferenceBackend(), np.random.default_rng(5)
    inputs = [rng.normal(size=s) for s in ((4, 3, 5), 5, 5, (4, 3, 5))]  # x, weight, bias, residual
    fixed_mean, fixed_rstd = rng.normal(size=5), rng.uniform(0.5, 2, 5)
    outer = rng.normal(size=(4, 3, 5))

    def forward(x: Array, weight: Array, bias: Array, residual: Array) -> tuple[Array, Array, Array]:
        mean, rstd = fixed_mean, fixed_rstd
        if training:
            mean, var = be.batch_norm_stats(x)
            rstd = 1 / np.sqrt(var + EPS)
        return be.batch_norm_apply(x, weight * rstd, bias - mean * weight * rstd, residual, relu), mean, rstd

    y, mean, rstd = forward(*inputs)
    before_relu = forward(*inputs)[0] if not relu else y[y > 0]
    assert np.abs(before_relu).min() > 1e-4, "a value at the kink of ReLU has no derivative"
    grads = be.batch_norm_backward(outer, inputs[0], mean, rstd, inputs[1], y if relu else None, training)
    step = 1e-6
    for position, grad in enumerate(grads):
        assert grad is not None
        direction = rng.normal(size=grad.shape)
        values = []
        for sign in (1, -1):
            moved = list(inputs)
            moved[position] = moved[position] + sign * step * direction
            values.append(np.vdot(forward(*moved)[0], outer))
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(np.vdot(grad, direction), rel=1e-6)


@both
@pytest.mark.parametrize("mean_over_std", [0, 1e3, 1e5])
@pytest.mark.parametrize("outlier", [False, True])
def test_variance_is_accurate_far_from_zero(backend: str, mean_over_std: float, outlier: bool) -> None:
    rng = np.random.default_rng(2)
    x = (rng.normal(size=(5, 9, 40, 19)) * 0.01 + 0.01 * mean_over_std).astype(np.float32)
    if outlier:
        x[0, 0, 0] = 0.01 * mean_over_std + 100
    mean, var = BACKENDS[backend].batch_norm_stats(x)
    rows = x.reshape(-1, 19).astype(np.float64)
    exact = ((rows - rows.mean(axis=0)) ** 2).mean(axis=0)
    np.testing.assert_allclose(var, exact, rtol=1e-6)
    # The mean is rounded to float32 itself, and an error far below the deviation changes nothing.
    error = np.abs(mean - rows.mean(axis=0))
    assert np.all(error <= 1e-7 * np.abs(rows.mean(axis=0)) + 1e-7 * np.sqrt(exact))


@both
def test_a_constant_channel_has_no_variance(backend: str) -> None:
    x = np.full((3, 5, 7, 16), 1 / 3, np.float32)
    mean, var = BACKENDS[backend].batch_norm_stats(x)
    np.testing.assert_array_equal(mean, x[0, 0, 0])
    np.testing.assert_array_equal(var, np.zeros(16))


@both
def test_what_is_not_needed_is_not_computed(backend: str) -> None:
    rng = np.random.default_rng(0)
    gy, x, y = (rng.normal(size=(4, 6, 6, 16)) for _ in range(3))
    table = np.ones(16)
    for training, relu in product((True, False), repeat=2):
        args: tuple[Any, ...] = (gy, x, table, table, table, y if relu else None, training)
        full = BACKENDS[backend].batch_norm_backward(*args)
        for needs in product((True, False), repeat=3):
            needs_x, needs_residual, needs_weight = needs
            got = BACKENDS[backend].batch_norm_backward(*args, *needs)
            wanted = (needs_x, needs_weight, needs_weight, needs_residual)
            for array, expected, want in zip(got, full, wanted, strict=True):
                assert (array is not None) == want
                if want:
                    np.testing.assert_allclose(array, expected, rtol=1e-12, atol=1e-12)


@both
def test_a_masked_infinite_gradient_is_zero(backend: str) -> None:
    gy, y = np.full((2, 4, 4, 16), np.inf), np.zeros((2, 4, 4, 16))
    table = np.ones(16)
    result = BACKENDS[backend].batch_norm_backward(gy, y, table, table, table, y, False)
    for array in result:
        np.testing.assert_array_equal(array, np.zeros_like(array))


@both
def test_empty_batches(backend: str) -> None:
    be, x, table = BACKENDS[backend], np.zeros((0, 4, 4, 16)), np.ones(16)
    assert be.batch_norm_apply(x, table, table, x, True).shape == x.shape
    gx, gweight, gbias, gresidual = be.batch_norm_backward(x, x, table, table, table, x, True)
    assert gx.shape == gresidual.shape == x.shape
    np.testing.assert_array_equal([gweight, gbias], np.zeros((2, 16)))
    with pytest.raises(ValueError, match=r"batch_norm_stats: x of shape .* has no values"):
        be.batch_norm_stats(x)


@both
def test_wrong_shapes_are_named(backend: str) -> None:
    be, x, table = BACKENDS[backend], np.zeros((2, 4, 4, 16)), np.ones(16)
    with pytest.raises(ValueError, match=r"batch_norm_apply: shift expects shape \(16,\), got \(15,\)"):
        be.batch_norm_apply(x, table, table[1:], None, False)
    with pytest.raises(ValueError, match="batch_norm_apply: residual expects shape"):
        be.batch_norm_apply(x, table, table, x[1:], False)
    with pytest.raises(ValueError, match="batch_norm_backward: y expects shape"):
        be.batch_norm_backward(x, x, table, table, table, x[:, 1:], True)
    with pytest.raises(ValueError, match="batch_norm_backward: rstd expects shape"):
        be.batch_norm_backward(x, x, table, table[:3], table, None, True)
    with pytest.raises(ValueError, match="batch_norm_stats: x expects at least 2 axes"):
        be.batch_norm_stats(table)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("backend", BACKENDS)
def test_fit_is_statistics_affine_map_and_moved_averages_in_one(backend: str, dtype: type) -> None:
    rng = np.random.default_rng(0)
    be = BACKENDS[backend]
    x = rng.standard_normal((3, 5, 4, 7)).astype(dtype)
    weight, bias, mean, var = rng.random((4, 7)).astype(dtype)
    moved = mean.copy(), var.copy()
    found = be.batch_norm_fit(x, weight, bias, 1e-5, *moved, 0.1)
    expected_mean, expected_var = be.batch_norm_stats(x)
    expected = (
        expected_mean,
        expected_var,
        *be.batch_norm_affine(expected_mean, expected_var, 1e-5, weight, bias),
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    rows = x.size // 7
    np.testing.assert_allclose(moved[0], 0.9 * mean + 0.1 * expected_mean, rtol=1e-5)
    np.testing.assert_allclose(moved[1], 0.9 * var + 0.1 * expected_var * rows / (rows - 1), rtol=1e-5)
    for a, b in zip(
        be.batch_norm_fit(x, None, None, 1e-5)[2:],
        be.batch_norm_affine(*expected[:2], 1e-5, None, None),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
