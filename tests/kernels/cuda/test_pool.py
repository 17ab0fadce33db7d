"""Pooling on the emulated device, checker on, against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels.cases import ADAPTIVE, AVG_POOL, MAX_POOL
from tests.kernels.cuda.on_device import BF16, F32, agree, backend, normal
from tests.target import needs_device

pytestmark = needs_device()


def out_hw(case: dict[str, Any]) -> tuple[int, int]:
    """The output's size, by PyTorch's rule: in ceil mode the last window must begin inside."""
    sizes = []
    for axis in (0, 1):
        size, pad, stride = case["x"][axis + 1], case["pad"][axis], case["stride"][axis]
        reach = case.get("dilation", (1, 1))[axis] * (case["kernel"][axis] - 1) + 1
        room = size + pad[0] + pad[1] - reach
        out = (-(-room // stride) if case["ceil"] else room // stride) + 1
        if case["ceil"] and (out - 1) * stride >= size + pad[0]:
            out -= 1
        sizes.append(out)
    return sizes[0], sizes[1]


@pytest.mark.parametrize("name", MAX_POOL)
def test_the_maximum_its_gradient_and_its_gather(name: str) -> None:
    case = MAX_POOL[name]
    window = (case["kernel"], case["stride"], case["pad"], case["dilation"])
    for dtype in (F32, BF16) if name in ("max_stem", "max_2x2") else (F32,):
        x = np.round(normal(0, F32, *case["x"])).astype(dtype)  # many equals
        x[0, 1, 1, 0] = np.nan
        y, index = agree("max_pool2d", dtype, x, *window, out_hw(case), tolerance=0)
        assert index.dtype == np.int32
        gy, hw = normal(1, dtype, *y.shape), x.shape[1:3]
        agree("max_pool2d_scatter", dtype, gy, index, hw, window)
        agree("max_pool2d_scatter", dtype, gy, index, hw)
        agree("max_pool2d_gather", dtype, x, index, tolerance=0)


@pytest.mark.parametrize("name", AVG_POOL)
def test_the_mean_and_its_gradient(name: str) -> None:
    case = AVG_POOL[name]
    window = (case["kernel"], case["stride"], case["pad"])
    include = case["count_include_pad"]
    for dtype in (F32, BF16) if name == "avg_3x3_with_pad" else (F32,):
        y = agree("avg_pool2d", dtype, normal(0, dtype, *case["x"]), *window, out_hw(case), include)
        gy = normal(1, dtype, *y.shape)
        agree("avg_pool2d_backward", dtype, gy, case["x"][1:3], *window, include)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_grids(name: str) -> None:
    shape, grid = ADAPTIVE[name]["x"], ADAPTIVE[name]["out_hw"]
    x, gy = normal(0, F32, *shape), normal(1, F32, shape[0], *grid, shape[3])
    agree("adaptive_avg_pool2d", F32, x, grid)
    agree("adaptive_avg_pool2d_backward", F32, gy, shape[1:3])
    _, index = agree("adaptive_max_pool2d", F32, x, grid, tolerance=0)
    agree("max_pool2d_scatter", F32, gy, index, shape[1:3])


def test_what_cannot_be_pooled_is_refused() -> None:
    x = normal(0, F32, 1, 4, 4, 4)
    with pytest.raises(ValueError, match="covers padding only"):
        backend().max_pool2d(x, (1, 1), (1, 1), ((1, 1), (1, 1)), (1, 1), (6, 6))
    with pytest.raises(ValueError, match="index expects 0 to 15"):
        backend().max_pool2d_gather(x, np.full((1, 2, 2, 4), 16, np.int32))
    with pytest.raises(ValueError, match="index expects 0 to 15"):
        backend().max_pool2d_scatter(x[:, :2, :2], np.full((1, 2, 2, 4), -1, np.int32), (4, 4))


def test_other_dtypes_are_pooled_by_the_reference() -> None:
    x = normal(0, np.float64, 1, 4, 4, 3)
    window = ((2, 2), (2, 2), ((0, 0), (0, 0)))
    assert backend().max_pool2d(x, *window, (1, 1), (2, 2))[0].dtype == np.float64
    assert backend().avg_pool2d(x, *window, (2, 2), True).dtype == np.float64
    assert backend().adaptive_avg_pool2d(x, (1, 1)).dtype == np.float64
