"""Pooling, the reference and the CPU back end: PyTorch's results, adjoints, and how the maximum decides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels.cases import (
    ADAPTIVE,
    AVG_POOL,
    BACKENDS,
    DTYPES,
    MAX_POOL,
    TOLERANCE,
    assert_near,
    stored,
)

ZERO = ((0, 0), (0, 0))
both = pytest.mark.parametrize("backend", BACKENDS)


@both
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MAX_POOL)
def test_max_pooling_equals_pytorch(name: str, dtype: str, backend: str) -> None:
    be, case, a = BACKENDS[backend], MAX_POOL[name], stored(name, dtype)
    window = (case["kernel"], case["stride"], case["pad"], case["dilation"], a["y"].shape[1:3])
    y, index = be.max_pool2d(a["x"], *window)
    np.testing.assert_array_equal(y, a["y"])
    np.testing.assert_array_equal(index, a["index"])
    assert (y.dtype, index.dtype) == (np.dtype(dtype), np.dtype(np.int32))
    gx = be.max_pool2d_scatter(a["gy"], index, a["x"].shape[1:3])
    assert_near(gx, a["gx"], TOLERANCE[dtype], dtype)
    np.testing.assert_array_equal(be.max_pool2d_gather(a["x"], index), a["y"])


@both
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", AVG_POOL)
def test_average_pooling_equals_pytorch(name: str, dtype: str, backend: str) -> None:
    be, case, a = BACKENDS[backend], AVG_POOL[name], stored(name, dtype)
    window = (case["kernel"], case["stride"], case["pad"])
    y = be.avg_pool2d(a["x"], *window, a["y"].shape[1:3], case["count_include_pad"])
    assert_near(y, a["y"], TOLERANCE[dtype], dtype)
    gx = be.avg_pool2d_backward(a["gy"], a["x"].shape[1:3], *window, case["count_include_pad"])
    assert_near(gx, a["gx"], TOLERANCE[dtype], dtype)


@both
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_pooling_equals_pytorch(name: str, dtype: str, backend: str) -> None:
    be, case, a = BACKENDS[backend], ADAPTIVE[name], stored(name, dtype)
    assert_near(be.adaptive_avg_pool2d(a["x"], case["out_hw"]), a["y"], TOLERANCE[dtype], dtype)
    gx = be.adaptive_avg_pool2d_backward(a["gy"], a["x"].shape[1:3])
    assert_near(gx, a["gx"], TOLERANCE[dtype], dtype)


@both
def test_pooling_gradients_are_adjoints(backend: str) -> None:
    be, rng = BACKENDS[backend], np.random.default_rng(1)
    x = rng.normal(size=(2, 7, 6, 18))
    window: tuple[Any, ...] = ((3, 2), (2, 1), ((1, 1), (0, 1)))
    y = be.avg_pool2d(x, *window, (4, 6), False)
    gy = rng.normal(size=y.shape)
    gx = be.avg_pool2d_backward(gy, (7, 6), *window, False)
    assert np.vdot(x, gx) == pytest.approx(np.vdot(y, gy), rel=1e-12)
    y = be.adaptive_avg_pool2d(x, (3, 5))
    gy = rng.normal(size=y.shape)
    assert np.vdot(x, be.adaptive_avg_pool2d_backward(gy, (7, 6))) == pytest.approx(np.vdot(y, gy), rel=1e-12)
    _, index = be.max_pool2d(x, *window, (1, 1), (4, 6))
    gy = rng.normal(size=index.shape)
    gathered = be.max_pool2d_gather(x, index)
    scattered = be.max_pool2d_scatter(gy, index, (7, 6))
    assert np.vdot(x, scattered) == pytest.approx(np.vdot(gathered, gy), rel=1e-12)


@both
@pytest.mark.parametrize("channels", [2, 16])
def test_padding_never_wins_and_the_first_maximum_does(backend: str, channels: int) -> None:
    x = np.full((1, 3, 3, channels), -5.0)
    y, index = BACKENDS[backend].max_pool2d(x, (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), (2, 2))
    np.testing.assert_array_equal(y, np.full((1, 2, 2, channels), -5.0))
    np.testing.assert_array_equal(index[0, :, :, 0], [[0, 1], [3, 4]])


@both
@pytest.mark.parametrize("channels", [2, 16])
def test_the_first_nan_wins_and_minus_infinity_keeps_a_valid_index(backend: str, channels: int) -> None:
    x = np.zeros((1, 2, 3, channels))
    x[0, 0, 1, 0] = x[0, 1, 0, 0] = np.nan
    x[0, :, :, 1] = -np.inf
    y, index = BACKENDS[backend].max_pool2d(x, (2, 3), (1, 1), ZERO, (1, 1), (1, 1))
    assert np.isnan(y[0, 0, 0, 0]) and index[0, 0, 0, 0] == 1
    assert y[0, 0, 0, 1] == -np.inf and index[0, 0, 0, 1] == 0


@both
def test_an_empty_batch_stays_empty(backend: str) -> None:
    be, x = BACKENDS[backend], np.zeros((0, 4, 4, 16), np.float32)
    y, index = be.max_pool2d(x, (2, 2), (2, 2), ZERO, (1, 1), (2, 2))
    assert y.shape == index.shape == (0, 2, 2, 16)
    assert be.max_pool2d_scatter(y, index, (4, 4)).shape == x.shape
    assert be.avg_pool2d(x, (2, 2), (2, 2), ZERO, (2, 2), True).shape == y.shape
    assert be.adaptive_avg_pool2d_backward(y, (4, 4)).shape == x.shape


@both
@pytest.mark.parametrize("channels", [2, 16])
def test_a_window_over_padding_only_is_refused(backend: str, channels: int) -> None:
    be, x = BACKENDS[backend], np.zeros((1, 4, 4, channels))
    with pytest.raises(ValueError, match="max_pool2d: window 2 along the height covers padding only"):
        be.max_pool2d(x, (2, 2), (2, 2), ((0, 2), (0, 0)), (1, 1), (3, 2))
    with pytest.raises(ValueError, match="avg_pool2d: window 0 along the width covers padding only"):
        be.avg_pool2d(x, (2, 2), (1, 1), ((0, 0), (2, 0)), (3, 5), True)
    with pytest.raises(ValueError, match="avg_pool2d_backward: window 2 along the height"):
        be.avg_pool2d_backward(np.zeros((1, 3, 2, channels)), (4, 4), (2, 2), (2, 2), ZERO, True)


@both
@pytest.mark.parametrize("bad", [-1, 16])
def test_an_index_outside_the_image_is_refused(backend: str, bad: int) -> None:
    be, index = BACKENDS[backend], np.zeros((1, 2, 2, 16), np.int32)
    index[0, 1, 0, 3] = bad
    with pytest.raises(ValueError, match=r"max_pool2d_scatter: index expects 0 to 15"):
        be.max_pool2d_scatter(np.zeros(index.shape), index, (4, 4))
    with pytest.raises(ValueError, match=r"max_pool2d_gather: index expects 0 to 15"):
        be.max_pool2d_gather(np.zeros((1, 4, 4, 16)), index)


@both
def test_pooling_names_wrong_shapes(backend: str) -> None:
    be = BACKENDS[backend]
    with pytest.raises(ValueError, match="max_pool2d: x expects 4 axes"):
        be.max_pool2d(np.zeros((4, 4, 16)), (2, 2), (2, 2), ZERO, (1, 1), (2, 2))
    with pytest.raises(ValueError, match="max_pool2d_scatter: index expects shape"):
        be.max_pool2d_scatter(np.zeros((1, 2, 2, 16)), np.zeros((1, 2, 2, 15), np.int32), (4, 4))
    with pytest.raises(ValueError, match="adaptive_avg_pool2d: the output expects at least 1 x 1"):
        be.adaptive_avg_pool2d(np.zeros((1, 4, 4, 16)), (0, 1))
