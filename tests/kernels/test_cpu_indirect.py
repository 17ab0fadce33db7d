"""The convolution by addresses beside the reference: both directions, on images whose rows are shorter than a tile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from minidl import kernels
from minidl.kernels.cpu import CPUBackend, conv, indirect, input_grad
from minidl.kernels.reference import ReferenceBackend
from tests.kernels.cases import Array

CPU, REFERENCE = CPUBackend(), ReferenceBackend()
UNIT = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
HALVING = ((2, 2), ((1, 1), (1, 1)), (1, 1), 1)
CASES = {
    "several images to a tile, two panels": ((5, 8, 8, 16), (64, 3, 3, 16), HALVING),
    "columns that do not fill a panel": (
        (3, 7, 5, 19),
        (40, 3, 2, 19),
        ((2, 3), ((0, 1), (2, 1)), (1, 1), 1),
    ),
    "a reduction of several blocks": ((2, 4, 4, 96), (33, 3, 3, 96), UNIT),
    "groups that follow each other": ((2, 6, 6, 64), (80, 3, 3, 32), ((2, 2), ((1, 0), (1, 1)), (1, 1), 2)),
    "pixels that no tap reaches": ((4, 9, 9, 33), (48, 1, 1, 33), ((3, 2), ((0, 0), (0, 0)), (1, 1), 1)),
    "dilated taps, more padding than image": (
        (1, 3, 2, 32),
        (48, 2, 3, 32),
        ((1, 1), ((3, 0), (4, 5)), (2, 3), 1),
    ),
}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Every convolution goes by addresses, whatever the machine's tiles; one entry for each."""
    calls: list[int] = []

    def count(*arguments: Any) -> None:
        calls.append(1)
        indirect.indirect(*arguments)

    for module in (conv, input_grad):
        monkeypatch.setattr(module, "indirect", count)
        monkeypatch.setattr(module, "takes_indirect", lambda *arguments: True)
    with kernels.conv_algorithm("direct"):
        yield calls


def operands(name: str, dtype: str) -> tuple[Array, Array, Array, Array, tuple[Any, ...]]:
    """x, w, a bias and a residual of the output, and the options."""
    x_shape, w_shape, options = CASES[name]
    rng = np.random.default_rng(3)
    x, w, bias = (rng.standard_normal(s).astype(dtype) for s in (x_shape, w_shape, w_shape[:1]))
    y = REFERENCE.conv2d(x, w, None, *options)
    return x, w, bias, rng.standard_normal(y.shape).astype(dtype), options


def near(actual: Array, expected: Array, dtype: str) -> None:
    assert actual.dtype == np.dtype(dtype)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=scale * (3e-6 if dtype == "float32" else 1e-14))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_both_directions_equal_the_reference_in_float64(name: str, dtype: str, counted: list[int]) -> None:
    x, w, bias, residual, options = operands(name, dtype)
    wide = [a.astype(np.float64) for a in (x, w, bias, residual)]
    expected = REFERENCE.conv2d(wide[0], wide[1], wide[2], *options)
    near(CPU.conv2d(x, w, bias, *options), expected, dtype)
    y = CPU.conv2d(x, w, bias, *options, relu=True, residual=residual)
    near(y, np.maximum(expected + wide[3], 0), dtype)
    hw = x.shape[1:3]
    expected = REFERENCE.conv2d_input_grad(wide[3], wide[1], hw, *options)
    near(CPU.conv2d_input_grad(residual, w, hw, *options), expected, dtype)
    shift = x[0, 0, 0]
    gx = CPU.conv2d_input_grad(residual, w, hw, *options, bias=shift, relu=True, residual=x)
    near(gx, np.maximum(expected + shift + x, 0), dtype)
    assert len(counted) == 4


def test_bits_do_not_depend_on_the_number_of_threads(counted: list[int]) -> None:
    x, w, bias, residual, options = operands("several images to a tile, two panels", "float32")
    big = np.concatenate([x] * 40)
    results = []
    before = kernels.get_num_threads()
    try:
        for threads in (1, 2, 3, 8):
            kernels.set_num_threads(threads)
            gy = np.concatenate([residual] * 40)
            results.append(
                (CPU.conv2d(big, w, bias, *options), CPU.conv2d_input_grad(gy, w, (8, 8), *options))
            )
    finally:
        kernels.set_num_threads(before)
    assert len(counted) == 8
    for y, gx in results[1:]:
        np.testing.assert_array_equal(y, results[0][0])
        np.testing.assert_array_equal(gx, results[0][1])


def test_packed_weights_are_kept_for_each_group(counted: list[int]) -> None:
    x, w, bias, _, options = operands("groups that follow each other", "float32")
    kept: dict[Any, Any] = {}
    first = CPU.conv2d(x, w, bias, *options, kept=kept)
    assert len(kept) == 2 and len(counted) == 1
    np.testing.assert_array_equal(CPU.conv2d(x, np.zeros_like(w), bias, *options, kept=kept), first)


def test_nan_stays_in_the_windows_that_read_it(counted: list[int]) -> None:
    x, w, _, _, options = operands("several images to a tile, two panels", "float32")
    x[2, 5, 5, 3] = np.nan
    y = CPU.conv2d(x, w, None, *options)
    assert np.isnan(y[2, 3, 3]).all() and np.isnan(y[2, 2, 2]).all()
    assert np.isnan(y).any(axis=-1).sum() == 4 and len(counted) == 1


def test_short_rows_are_taken_and_long_ones_large_tables_and_few_channels_left() -> None:
    def takes(size: int, channels: int, outputs: int, images: int = 64) -> bool:
        call = conv.forward_of(
            "conv2d", (images, size, size, channels), (outputs, 3, 3, channels), *HALVING, 4
        )
        phase = conv.Phase(0, 0, call.window, call.taps)
        return indirect.takes_indirect(call.source, (phase,), outputs)

    assert takes(6, 64, 64)
    assert not takes(64, 64, 64) and not takes(6, 3, 64) and not takes(6, 64, 3)
    assert not takes(6, 512, 64), "pixels 4096 bytes apart would compete for the cache"
    assert not takes(6, 64, 64, images=2), "weights would come from memory for few pixels"
