"""linear and matmul on the CPU beside float64 products."""

from __future__ import annotations

import numpy as np
import pytest

from minidl.kernels.cpu import CPUBackend
from tests.kernels.cases import assert_near

CPU = CPUBackend()
TOLERANCE = {"float32": 3e-6, "float64": 1e-13}
SHAPES = [
    (1, 1, 1),
    (3, 5, 7),
    (13, 200, 17),
    (64, 512, 10),
    (128, 64, 100),
    (100, 1024, 33),
    (1, 2048, 50),
    (57, 9, 300),
]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_products_equal_float64_for_every_layout(m: int, k: int, n: int, dtype: str) -> None:
    rng = np.random.default_rng(m + k + n)
    a, b = rng.normal(size=(m, k)).astype(dtype), rng.normal(size=(k, n)).astype(dtype)
    expected = a.astype(np.float64) @ b.astype(np.float64)
    for left in (a, np.asfortranarray(a), np.repeat(a, 2, axis=1)[:, ::2]):
        for right in (b, np.asfortranarray(b), b[::-1].copy()[::-1]):
            product = CPU.matmul(left, right)
            assert product.flags.c_contiguous
            assert_near(product, expected, TOLERANCE[dtype], dtype)
    bias = rng.normal(size=n).astype(dtype)
    for w in (np.ascontiguousarray(b.T), b.T):
        assert_near(CPU.linear(a, w, bias), expected + bias, TOLERANCE[dtype], dtype)
        assert_near(CPU.linear(a, w, None), expected, TOLERANCE[dtype], dtype)


@pytest.mark.parametrize("shape", [(0, 4, 5), (4, 0, 5), (4, 5, 0)])
def test_empty_products_are_zeros(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    a, b = np.ones((m, k), np.float32), np.ones((k, n), np.float32)
    np.testing.assert_array_equal(CPU.matmul(a, b), np.zeros((m, n), np.float32))
    np.testing.assert_array_equal(CPU.linear(a, b.T, None), np.zeros((m, n), np.float32))


def test_other_and_mixed_dtypes_follow_numpy() -> None:
    a, b = np.arange(6).reshape(2, 3), np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(CPU.matmul(a, b), a @ b)
    mixed = CPU.matmul(np.ones((40, 40), np.float32), np.ones((40, 40)))
    assert mixed.dtype == np.float64 and (mixed == 40).all()


def test_wrong_shapes_raise() -> None:
    a, b = np.zeros((2, 3), np.float32), np.zeros((4, 5), np.float32)
    with pytest.raises(ValueError, match="b expects 3 rows"):
        CPU.matmul(a, b)
    with pytest.raises(ValueError, match="weight expects 5 input features, x has 3"):
        CPU.linear(a, b, None)
    with pytest.raises(ValueError, match="x expects 2 axes"):
        CPU.linear(a[0], b, None)
    with pytest.raises(ValueError, match="bias expects shape"):
        CPU.linear(a, np.zeros((4, 3), np.float32), np.zeros(3, np.float32))
