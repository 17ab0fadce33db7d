"""``scatter_add``: rows added at places that may occur several times, in a fixed order."""

from __future__ import annotations

import numpy as np
import pytest

from minidl.kernels.reference import ReferenceBackend


def naive(values: np.ndarray, index: np.ndarray, rows: int) -> np.ndarray:
    out = np.zeros((rows, values.shape[1]), values.dtype)
    for row, place in zip(values, index, strict=True):
        out[place] += row
    return out


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (7, 1), (50, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_rows_are_added_at_their_index(shape: tuple[int, int], dtype: type) -> None:
    rng = np.random.default_rng(0)
    values = (100 * rng.standard_normal(shape)).astype(dtype)
    index = rng.integers(0, 6, shape[0])
    y = ReferenceBackend().scatter_add(values, index, 6)
    np.testing.assert_allclose(y, naive(values, index, 6), rtol=1e-5)
    assert y.dtype == dtype and y.shape == (6, shape[1])


def test_arguments_that_do_not_fit_are_refused() -> None:
    backend = ReferenceBackend()
    with pytest.raises(ValueError, match="scatter_add: index expects shape"):
        backend.scatter_add(np.ones((2, 1)), np.zeros(3, np.int64), 4)
    with pytest.raises(ValueError, match="scatter_add: index expects int64, got int32"):
        backend.scatter_add(np.ones((2, 1)), np.zeros(2, np.int32), 4)
