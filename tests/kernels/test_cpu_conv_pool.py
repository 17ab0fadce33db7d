"""Convolution and max pooling in one kernel: the bits of the two kernels one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidl.kernels.cpu import CPUBackend, conv_pool, memory
from minidl.kernels.reference import ReferenceBackend
from minidl.ops.pool import max_window
from tests.kernels.cases import Array, conv

CPU, REFERENCE = CPUBackend(), ReferenceBackend()

STEM = conv((2, 64, 61, 3), (64, 7, 7, 3), stride=(2, 2), pad=3)
# A convolution, and kernel, stride, padding, dilation and ceil mode of the pooling after it.
CASES = {
    "stem": (STEM, (3, 2, 1, 1, False)),
    "Caffe's stem": (STEM, (3, 2, 0, 1, True)),
    "windows that overlap by more": (STEM, (5, 1, 2, 1, False)),
    "windows apart": (STEM, (2, 5, 0, 1, False)),
    "dilated windows": (STEM, (3, 2, 1, 2, False)),
    "uneven windows": (STEM, ((4, 2), (3, 1), (1, 0), (1, 3), False)),
    "one image, ragged channels": (conv((1, 90, 40, 5), (40, 5, 5, 5), pad=1), (3, 2, 1, 1, False)),
    "several reduction blocks": (conv((1, 40, 33, 96), (24, 3, 4, 96), pad=1), (2, 2, 0, 1, False)),
}


def operands(case: Any, dtype: str = "float32") -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The arguments of conv2d, of a bias too, and of max_pool2d after it."""
    layer, options = case
    rng = np.random.default_rng(0)
    x, w, bias = (rng.standard_normal(s).astype(dtype) for s in (layer["x"], layer["w"], layer["w"][0]))
    place = layer["stride"], layer["pad"], layer["dilation"], layer["groups"]
    out_hw = CPU.conv2d(x, w, bias, *place).shape[1:3]
    return (x, w, bias, *place), max_window("max_pool2d", out_hw, *options)


def one_by_one(arguments: tuple[Any, ...], pool: Any, relu: bool = True) -> Array:
    y: Array = CPU.max_pool2d(CPU.conv2d(*arguments, relu=relu), *pool)[0]
    return y


def assert_same_bits(a: Array, b: Array) -> None:
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The plans that were made, for chunks of a few rows; None where two kernels run."""
    monkeypatch.setattr(conv_pool, "SCRATCH", 32 * 1024)
    plans: list[Any] = []
    make = conv_pool.plan_pooled.__wrapped__

    def noted(*arguments: Any) -> Any:
        plans.append(make(*arguments))
        return plans[-1]

    monkeypatch.setattr(conv_pool, "plan_pooled", noted)
    return plans


@pytest.mark.parametrize("name", CASES)
def test_it_has_the_bits_of_two_kernels_for_any_number_of_threads(
    name: str, joined: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, pool = operands(CASES[name])
    expected = one_by_one(arguments, pool)
    for threads in (1, 2, 3, 5):
        monkeypatch.setattr(conv_pool, "get_num_threads", lambda threads=threads: threads)
        for power in range(12, 21):
            memory.empty(1 << power, np.float32).fill(np.nan)  # goes back to the pool at once
        assert_same_bits(CPU.conv2d_max_pool2d(*arguments, pool, relu=True), expected)
    assert all(plan and plan.geometry.chunks > 2 for plan in joined)


def test_without_bias_and_relu_and_in_float64() -> None:
    arguments, pool = operands(CASES["stem"], "float64")
    arguments = (*arguments[:2], None, *arguments[3:])
    assert_same_bits(CPU.conv2d_max_pool2d(*arguments, pool), one_by_one(arguments, pool, relu=False))


def test_the_first_nan_wins_and_infinities_count() -> None:
    arguments, pool = operands(CASES["stem"])
    arguments[0][0, 20, 20, 1] = np.nan
    arguments[0][1, 30, 30, 0] = np.inf
    arguments[0][1, 40, 10, 0] = -np.inf
    with np.errstate(invalid="ignore"):
        expected = one_by_one(arguments, pool, relu=False)
        y = CPU.conv2d_max_pool2d(*arguments, pool)
    assert np.isnan(expected).any() and np.isinf(expected).any()
    np.testing.assert_array_equal(y, expected)


def test_what_is_kept_is_used_until_the_bias_is_another_one() -> None:
    arguments, pool = operands(CASES["stem"])
    kept: dict[Any, Any] = {}
    first = CPU.conv2d_max_pool2d(*arguments, pool, relu=True, kept=kept)
    assert_same_bits(CPU.conv2d_max_pool2d(*arguments, pool, relu=True, kept=kept), first)
    other = (*arguments[:2], arguments[2] + 1, *arguments[3:])
    y = CPU.conv2d_max_pool2d(*other, pool, relu=True, kept=kept)
    assert_same_bits(y, one_by_one(other, pool))


@pytest.mark.parametrize(
    "case",
    [
        conv((2, 16, 16, 32), (32, 3, 3, 32), pad=1),  # Winograd's
        conv((2, 30, 30, 8), (8, 3, 3, 8), pad=1),  # fewer channels than lanes
        conv((2, 30, 30, 32), (32, 3, 3, 16), pad=1, groups=2),
        conv((2, 9, 9, 32), (64, 3, 3, 32), stride=(2, 2), pad=1),  # by addresses
        conv((0, 30, 30, 3), (32, 3, 3, 3), pad=1),
    ],
)
def test_other_convolutions_take_two_kernels(case: Any) -> None:
    arguments, pool = operands((case, (2, 2, 0, 1, False)))
    assert_same_bits(CPU.conv2d_max_pool2d(*arguments, pool, relu=True), one_by_one(arguments, pool))


def test_wrong_shapes_raise() -> None:
    arguments, pool = operands(CASES["stem"])
    for backend in (CPU, REFERENCE):
        with pytest.raises(ValueError, match="bias expects shape"):
            backend.conv2d_max_pool2d(*arguments[:2], arguments[2][1:], *arguments[3:], pool)
        with pytest.raises(ValueError, match="covers padding only"):
            backend.conv2d_max_pool2d(*arguments, (*pool[:4], (90, 90)))
