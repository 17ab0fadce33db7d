"""Pooling on the CPU beside the reference: odd shapes, strides, splits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.kernels.cpu import CPUBackend, layout
from minidl.kernels.reference import ReferenceBackend
from tests.kernels.cases import Array, assert_near
from tests.kernels.threads import assert_same_for_any_split

CPU, REFERENCE = CPUBackend(), ReferenceBackend()


def image(shape: tuple[int, ...], seed: int = 0) -> Array:
    """Few distinct values, so that windows hold equal maxima."""
    return np.random.default_rng(seed).integers(-4, 5, size=shape).astype(np.float32)


@st.composite
def windows(draw: st.DrawFn) -> tuple[Any, ...]:
    """Input size, kernel, stride, padding, dilation and an output size whose windows all meet the input."""
    size, kernel, stride, dilation, pad, out = [], [], [], [], [], []
    for _ in range(2):
        n, k, s, d = (draw(st.integers(1, top)) for top in (9, 4, 3, 2))
        before, after = (draw(st.integers(0, k // 2)) for _ in range(2))
        count = 0
        while True:
            first = count * s - before
            taps = range(first, first + d * (k - 1) + 1, d)
            # Ceil mode: a last window may start inside the input and end past the padding.
            if not any(0 <= t < n for t in taps) or (taps[-1] >= n + after and draw(st.booleans())):
                break
            count += 1
        if count == 0:
            count, k, before, d, s = n, 1, 0, 1, 1
        for values, value in zip(
            (size, kernel, stride, dilation, pad, out), (n, k, s, d, (before, after), count), strict=True
        ):
            values.append(value)
    return tuple(map(tuple, (size, kernel, stride, pad, dilation, out)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(windows(), st.sampled_from([16, 17, 35]))
def test_every_window_equals_the_reference(window: tuple[Any, ...], channels: int) -> None:
    size, kernel, stride, pad, dilation, out = window
    x = image((2, *size, channels))
    y, index = CPU.max_pool2d(x, kernel, stride, pad, dilation, out)
    expected_y, expected_index = REFERENCE.max_pool2d(x, kernel, stride, pad, dilation, out)
    np.testing.assert_array_equal(y, expected_y)
    np.testing.assert_array_equal(index, expected_index)
    gy = image(y.shape, 1)
    np.testing.assert_array_equal(
        CPU.max_pool2d_scatter(gy, index, size), REFERENCE.max_pool2d_scatter(gy, index, size)
    )
    hinted = CPU.max_pool2d_scatter(gy, index, size, (kernel, stride, pad, dilation))
    np.testing.assert_array_equal(hinted, CPU.max_pool2d_scatter(gy, index, size))
    np.testing.assert_array_equal(CPU.max_pool2d_gather(x, index), y)
    if dilation != (1, 1):
        return
    for count_include_pad in (False, True):
        args: tuple[Any, ...] = (kernel, stride, pad)
        actual = CPU.avg_pool2d(x, *args, out, count_include_pad)
        assert_near(actual, REFERENCE.avg_pool2d(x, *args, out, count_include_pad), 1e-6)
        actual = CPU.avg_pool2d_backward(gy, size, *args, count_include_pad)
        assert_near(actual, REFERENCE.avg_pool2d_backward(gy, size, *args, count_include_pad), 1e-6)


@pytest.mark.parametrize("out", [(1, 1), (3, 2), (7, 5), (12, 11)])
def test_adaptive_grids_equal_the_reference(out: tuple[int, int]) -> None:
    x = image((2, 7, 5, 33))
    y = CPU.adaptive_avg_pool2d(x, out)
    assert_near(y, REFERENCE.adaptive_avg_pool2d(x, out), 1e-6)
    gx = CPU.adaptive_avg_pool2d_backward(y, (7, 5))
    assert_near(gx, REFERENCE.adaptive_avg_pool2d_backward(y, (7, 5)), 1e-6)


def test_any_strides_are_accepted() -> None:
    x = image((3, 20, 9, 8)).transpose(0, 2, 3, 1)[::2, :, ::-1]
    window = ((3, 3), (2, 2), ((1, 1), (1, 1)))
    y, index = CPU.max_pool2d(x, *window, (1, 1), (5, 4))
    np.testing.assert_array_equal(y, REFERENCE.max_pool2d(x, *window, (1, 1), (5, 4))[0])
    gy = image((2, 20, 5, 4)).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(
        CPU.max_pool2d_scatter(gy, index, (9, 8)), REFERENCE.max_pool2d_scatter(gy, index, (9, 8))
    )
    actual = CPU.avg_pool2d_backward(gy, (9, 8), *window, True)
    assert_near(actual, REFERENCE.avg_pool2d_backward(gy, (9, 8), *window, True), 1e-6)
    np.testing.assert_array_equal(
        CPU.max_pool2d_gather(x, index[..., ::-1]), REFERENCE.max_pool2d_gather(x, index[..., ::-1])
    )


def test_writing_past_the_caches_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = image((2, 20, 20, 32))
    window = ((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1))
    y, index = CPU.max_pool2d(x, *window, (10, 10))
    usual = CPU.max_pool2d_scatter(y, index, (20, 20), window)
    monkeypatch.setattr(layout, "STREAM_BYTES", 0)
    assert layout.streams(usual)
    np.testing.assert_array_equal(CPU.max_pool2d_scatter(y, index, (20, 20), window), usual)


def test_results_do_not_depend_on_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, gy = rng.normal(size=(3, 9, 8, 40)), rng.normal(size=(3, 5, 4, 40))
    x, gy = x.astype(np.float32), gy.astype(np.float32)
    window = ((3, 3), (2, 2), ((1, 1), (1, 1)))
    _, index = CPU.max_pool2d(x, *window, (1, 1), (5, 4))
    for run in (
        lambda: CPU.max_pool2d(x, *window, (1, 1), (5, 4)),
        lambda: CPU.max_pool2d_scatter(gy, index, (9, 8)),
        lambda: CPU.max_pool2d_scatter(gy, index, (9, 8), (*window, (1, 1))),
        lambda: CPU.max_pool2d_gather(x, index),
        lambda: CPU.avg_pool2d(x, *window, (5, 4), True),
        lambda: CPU.avg_pool2d_backward(gy, (9, 8), *window, True),
    ):
        assert_same_for_any_split(monkeypatch, run)
