"""Every operator of the table in a step of its own: replayed with the same bits on other arguments, or refused."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import minidl
from minidl import Tensor
from minidl.testing.cases import TABLE
from minidl.testing.operators import call


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry.name)
def test_every_operator_is_replayed_rightly_or_refused(entry: Any) -> None:
    arrays = entry.inputs(np.float32)
    step = minidl.compile_step(lambda *tensors: call(entry, tensors), warmup=1)
    with minidl.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* is not captured", RuntimeWarning)
        for change in (same_values, same_values, turned, smaller, same_values):
            tensors = [Tensor(change(array)) for array in arrays]
            try:
                expected = call(entry, tensors)
            except ValueError:  # not defined there
                continue
            assert step(*tensors).data.tobytes() == expected.data.tobytes()


def same_values(array: np.ndarray) -> np.ndarray:
    return array.copy()


def turned(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1)[::-1].reshape(array.shape).copy()


def smaller(array: np.ndarray) -> np.ndarray:
    return array * array.dtype.type(0.75) if array.dtype.kind == "f" else array.copy()
