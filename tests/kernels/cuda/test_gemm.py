"""Matrix products on the emulated device, checker on, against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidl.kernels.cuda import tiling
from minidl.kernels.cuda.gemm import product
from minidl.kernels.cuda.tiling import Tiling
from tests.kernels.cuda.on_device import BF16, F16, F32, agree, back, backend, device, near, normal, there
from tests.target import needs_device

pytestmark = needs_device()

SMALL, WIDE = Tiling(32, 32, 16, 16, 3, 1), Tiling(64, 64, 32, 32, 3, 1)


def operands(m: int, n: int, k: int, dtype: Any, turned: tuple[bool, bool]) -> tuple[Any, Any]:
    """a (M, K) and b (K, N), each transposed in memory or not."""
    a = normal(0, dtype, k, m).T if turned[0] else normal(0, dtype, m, k)
    b = normal(1, dtype, n, k).T if turned[1] else normal(1, dtype, k, n)
    return a, b


@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("m", "n", "k"), [(40, 24, 72), (33, 70, 37)])
def test_every_order_of_the_operands(m: int, n: int, k: int, turned: tuple[bool, bool]) -> None:
    with tiling.force(SMALL):
        agree("matmul", F32, *operands(m, n, k, F32, turned))


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
@pytest.mark.parametrize("turned", [(False, False), (True, True)])
def test_half_types(dtype: Any, turned: tuple[bool, bool]) -> None:
    with tiling.force(WIDE):
        agree("matmul", dtype, *operands(72, 80, 40, dtype, turned))


@pytest.mark.parametrize(("precision", "tolerance"), [("tf32", 2e-3), ("tf32x3", 2e-6)])
def test_float32_on_tensor_cores(precision: str, tolerance: float) -> None:
    with tiling.float32_precision(precision), tiling.force(SMALL):
        agree("matmul", F32, *operands(40, 36, 52, F32, (True, False)), tolerance=tolerance)


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (1, 5, 300), (3, 10, 64), (65, 1, 2)])
def test_a_layer_with_bias(m: int, n: int, k: int) -> None:
    with tiling.force(SMALL):
        agree("linear", F32, normal(0, F32, m, k), normal(1, F32, n, k), normal(2, F32, n))


def test_few_results_with_a_long_sum_are_split_and_added_in_order() -> None:
    x, w, bias = normal(0, F32, 4, 1024), normal(1, F32, 8, 1024), normal(2, F32, 8)
    before = device().launches
    with tiling.force(SMALL):
        y = agree("linear", F32, x, w, bias)
        assert device().launches == before + 2  # the parts, and their sum
        np.testing.assert_array_equal(backend().linear(x, w, bias), y)
    with tiling.force(WIDE):
        agree("linear", BF16, normal(0, BF16, 4, 2048), normal(1, BF16, 8, 2048), normal(2, BF16, 8))


def test_a_batch_of_products() -> None:
    a, b = normal(0, F32, 3, 9, 20), normal(1, F32, 3, 20, 13)
    with tiling.force(SMALL):
        near(back(product(device(), there(a), there(b))), a @ b, 1e-6)
        turned = b.transpose(0, 2, 1).copy().transpose(0, 2, 1)
        near(back(product(device(), there(a), there(turned))), a @ b, 1e-6)


def test_an_empty_sum_is_zero() -> None:
    assert not backend().matmul(normal(0, F32, 3, 0), normal(1, F32, 0, 4)).any()
    assert backend().matmul(normal(0, F32, 0, 3), normal(1, F32, 3, 4)).shape == (0, 4)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="matmul: b expects 3 rows"):
        backend().matmul(normal(0, F32, 2, 3), normal(1, F32, 4, 2))
    with pytest.raises(ValueError, match="linear: weight expects"):
        backend().linear(normal(0, F32, 2, 3), normal(1, F32, 4, 2), None)
