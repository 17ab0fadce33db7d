"""Element-wise kernels on the CPU beside NumPy: layouts, tails, splits, writing past the caches."""

from __future__ import annotations

import numpy as np
import pytest

from minidl.kernels.cpu import CPUBackend, elementwise, layout
from tests.kernels.cases import Array
from tests.kernels.threads import assert_same_for_any_split

CPU = CPUBackend()
SHAPE = (3, 40, 13, 11)


def pair(dtype: str = "float32") -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=SHAPE).astype(dtype) for _ in range(2))
    a.flat[[0, 17, a.size - 1]] = np.nan, np.inf, np.nan
    assert a.size > elementwise.SMALL and a.size % 16
    return a, b


def check(a: Array, b: Array) -> None:
    np.testing.assert_array_equal(CPU.relu(a), np.maximum(a, 0))
    np.testing.assert_array_equal(CPU.relu_backward(b, a), np.where(a > 0, b, 0))
    np.testing.assert_array_equal(CPU.add(a, b), a + b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_kernel_equals_numpy(dtype: str) -> None:
    check(*pair(dtype))


def test_channels_last_views_stay_channels_last() -> None:
    a, b = (x.transpose(0, 3, 1, 2) for x in pair())
    check(a, b)
    for y in (CPU.relu(a), CPU.relu_backward(a, b), CPU.add(a, b)):
        assert y.transpose(0, 2, 3, 1).flags.c_contiguous


def test_gaps_reversed_axes_and_mixed_layouts_are_accepted() -> None:
    a, b = pair()
    check(a[:, ::2], b[:, ::2])
    check(a[:, ::-1], b[:, ::-1])
    check(a, np.asfortranarray(b))
    check(np.broadcast_to(a[:1], SHAPE), b)


def test_results_do_not_depend_on_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair()
    for run in (lambda: CPU.relu(a), lambda: CPU.relu_backward(b, a), lambda: CPU.add(a, b)):
        assert_same_for_any_split(monkeypatch, run)


def test_writing_past_the_caches_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "STREAM_BYTES", 0)
    a, b = pair()
    assert layout.streams(CPU.add(a, b))
    check(a, b)


@pytest.mark.parametrize("shape", [(64, 48, 9, 9), (1, 300, 8, 8), (16, 16, 16, 16)])
def test_dense_copies_channels_last_memory_in_the_order_of_its_shape(shape: tuple[int, ...]) -> None:
    n, c, h, w = shape
    x = np.arange(n * c * h * w, dtype=np.float32).reshape(n, h, w, c).transpose(0, 3, 1, 2)
    copy = layout.dense(x)
    assert copy.flags.c_contiguous
    np.testing.assert_array_equal(copy, x)
    assert layout.dense(copy) is copy
