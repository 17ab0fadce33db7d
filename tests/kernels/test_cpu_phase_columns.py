"""The input gradient of few channels beside the reference: strides, borders, epilogues."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidl import kernels
from minidl.kernels.cpu import CPUBackend, input_grad
from minidl.kernels.reference import ReferenceBackend
from tests.kernels.cases import Array
from tests.kernels.threads import assert_same_for_any_split

CPU, REFERENCE = CPUBackend(), ReferenceBackend()
CASES = {
    "a decoder's last layer": ((3, 16, 16, 3), (32, 3, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)),
    "sizes that the stride does not divide": ((2, 9, 13, 2), (17, 4, 3, 2), (2, 2), ((2, 1), (0, 2)), (1, 1)),
    "one channel, longer stride in one direction": (
        (2, 8, 11, 1),
        (24, 3, 5, 1),
        (1, 3),
        ((1, 1), (2, 2)),
        (1, 1),
    ),
    "phases that no tap reaches": ((2, 7, 8, 3), (16, 1, 1, 3), (2, 2), ((0, 0), (0, 0)), (1, 1)),
    "dilated taps that reach one phase only": ((1, 9, 9, 4), (20, 2, 2, 4), (2, 2), ((1, 1), (1, 1)), (2, 2)),
}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each call of the kernel under test; it is taken whatever the width of this machine's vectors."""
    calls: list[int] = []
    run = input_grad.phase_columns

    def count(*arguments: Any) -> None:
        calls.append(1)
        run(*arguments)

    monkeypatch.setattr(input_grad, "phase_columns", count)
    return calls


def operands(name: str, dtype: str) -> tuple[Array, Array, tuple[Any, ...], Array]:
    """gy, w, what follows them, and x."""
    x_shape, w_shape, *options = CASES[name]
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal(x_shape).astype(dtype), rng.standard_normal(w_shape).astype(dtype)
    gy = rng.standard_normal(REFERENCE.conv2d(x, w, None, *options, 1).shape).astype(dtype)
    return gy, w, (x_shape[1:3], *options, 1), x


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_the_gradient_equals_the_reference_in_float64(name: str, dtype: str, counted: list[int]) -> None:
    gy, w, place, x = operands(name, dtype)
    bias = x[0, 0, 0]
    expected = REFERENCE.conv2d_input_grad(gy.astype(np.float64), w.astype(np.float64), *place)
    tolerance = np.abs(expected).max() * (3e-6 if dtype == "float32" else 1e-14)
    gx = CPU.conv2d_input_grad(gy, w, *place)
    assert gx.dtype == np.dtype(dtype)
    np.testing.assert_allclose(gx, expected, rtol=0, atol=tolerance)
    gx = CPU.conv2d_input_grad(gy, w, *place, bias=bias, residual=x, relu=True)
    np.testing.assert_allclose(gx, np.maximum(expected + bias + x, 0), rtol=0, atol=tolerance)
    if dtype == "float32" and input_grad.takes_phase_columns(
        input_grad.gradient_phases(place[0], w.shape[1:3], *place[1:4]), place[1], x.shape[3], 4
    ):
        assert len(counted) == 2


def test_bits_do_not_depend_on_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    gy, w, place, _ = operands("a decoder's last layer", "float32")
    assert_same_for_any_split(monkeypatch, lambda: CPU.conv2d_input_grad(gy, w, *place))


def test_the_direct_algorithm_keeps_nan_to_the_pixels_that_read_it(counted: list[int]) -> None:
    gy, w, place, _ = operands("a decoder's last layer", "float32")
    gy[1, 4, 4] = np.nan
    with kernels.conv_algorithm("direct"):
        gx = CPU.conv2d_input_grad(gy, w, *place)
    assert not counted
    assert np.isnan(gx).any(axis=-1).sum() == 9
