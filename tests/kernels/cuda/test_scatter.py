"""``scatter_add`` on the device: in a fixed order, without atomics."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.cuda.on_device import F32, agree, backend, device, normal
from tests.target import needs_device

pytestmark = needs_device()


@pytest.mark.parametrize("shape", [(1, 1), (300, 1), (40, 7)], ids=str)
def test_rows_are_added_at_their_index(shape: tuple[int, int]) -> None:
    index = np.random.default_rng(1).integers(0, 9, shape[0])
    before = device().launches
    agree("scatter_add", F32, normal(0, F32, *shape), index, 11)
    assert device().launches == before + 1


def test_nothing_is_added_where_there_is_nothing() -> None:
    assert not backend().scatter_add(normal(0, F32, 0, 3), np.zeros(0, np.int64), 4).any()
    assert backend().scatter_add(np.ones((2, 0), F32), np.zeros(2, np.int64), 4).shape == (4, 0)


def test_other_dtypes_are_the_references() -> None:
    values = np.arange(6, dtype=np.int64).reshape(3, 2)
    y = backend().scatter_add(values, np.array([1, 0, 1]), 2)
    np.testing.assert_array_equal(y, [[2, 3], [4, 6]], strict=True)
