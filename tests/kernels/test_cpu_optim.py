"""Optimizer steps on the CPU beside the reference: long parameters, layouts, splits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minidl.kernels.cpu import CPUBackend, optim
from minidl.kernels.reference import ReferenceBackend
from tests.kernels.cases import Array, assert_near
from tests.kernels.threads import assert_same_for_any_split

CPU, REFERENCE = CPUBackend(), ReferenceBackend()
Step = Callable[[Any, list[Array]], None]

STEPS: dict[str, Step] = {
    "sgd": lambda be, a: be.sgd_step(a[0], a[1], None, 0.1, 0, 0, 0.01, False),
    "momentum": lambda be, a: be.sgd_step(a[0], a[1], a[2], 0.1, 0.9, 0.2, 0.01, False),
    "nesterov": lambda be, a: be.sgd_step(a[0], a[1], a[2], 0.1, 0.9, 0, 0.01, True),
    "adam": lambda be, a: be.adam_step(a[0], a[1], a[2], a[3], 3, 0.01, 0.9, 0.999, 1e-8, 0.01, False),
    "adamw": lambda be, a: be.adam_step(a[0], a[1], a[2], a[3], 3, 0.01, 0.9, 0.999, 1e-8, 0.01, True),
    "rmsprop": lambda be, a: be.rmsprop_step(a[0], a[1], a[3], None, 0.01, 0.9, 1e-8, 0.01, 0),
    "rmsprop_momentum": lambda be, a: be.rmsprop_step(a[0], a[1], a[3], a[2], 0.01, 0.9, 1e-8, 0.01, 0.9),
}


def state(shape: Any) -> list[Array]:
    """Parameter, gradient, a signed state and a positive one."""
    rng = np.random.default_rng(0)
    param, grad, signed, positive = (rng.normal(size=shape).astype(np.float32) for _ in range(4))
    return [param, grad, signed, np.abs(positive)]


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("shape", [(0,), (1,), (1003,), (6, 5, 3, 3)])
def test_every_step_equals_the_reference(name: str, shape: tuple[int, ...]) -> None:
    actual, expected = state(shape), state(shape)
    STEPS[name](CPU, actual)
    STEPS[name](REFERENCE, expected)
    for a, b in zip(actual, expected, strict=True):
        assert_near(a, b, 1e-6)
    np.testing.assert_array_equal(actual[1], state(shape)[1])


@pytest.mark.parametrize("name", STEPS)
def test_a_gradient_in_another_layout_is_read_right(name: str) -> None:
    actual, expected = state((40, 50, 3, 3)), state((40, 50, 3, 3))
    actual[1] = np.ascontiguousarray(actual[1].transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    STEPS[name](CPU, actual)
    STEPS[name](REFERENCE, expected)
    assert_near(actual[0], expected[0], 1e-6)


@pytest.mark.parametrize("name", STEPS)
def test_a_parameter_with_gaps_is_updated_in_place(name: str) -> None:
    whole = state((6, 10))
    views = [a[:, ::2] for a in whole]
    expected = [np.ascontiguousarray(a) for a in views]
    STEPS[name](CPU, views)
    STEPS[name](REFERENCE, expected)
    for a, b in zip(views, expected, strict=True):
        assert_near(a, b, 1e-6)
    np.testing.assert_array_equal(whole[0][:, 1::2], state((6, 10))[0][:, 1::2])


@pytest.mark.parametrize("name", STEPS)
def test_results_do_not_depend_on_the_split(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> tuple[Array, ...]:
        arrays = state(997)
        STEPS[name](CPU, arrays)
        return tuple(arrays)

    assert_same_for_any_split(monkeypatch, run)


@pytest.mark.parametrize("name", STEPS)
def test_steps_of_many_parameters_are_made_by_one_launch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(3,), (70_001,), (1,), (0,), (6, 5, 3, 3), (33_333,)]
    actual, expected = [state(s) for s in shapes], [state(s) for s in shapes]
    launches: list[Any] = []
    launch = optim.launch
    monkeypatch.setattr(optim, "launch", lambda *a, **k: (launches.append(a[0]), launch(*a, **k)))
    with CPU.together():
        for arrays in actual:
            STEPS[name](CPU, arrays)
        np.testing.assert_array_equal(actual[1][0], expected[1][0], "nothing is done before the end")
    assert len(launches) == 1
    for ours, theirs in zip(actual, expected, strict=True):
        STEPS[name](REFERENCE, theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_near(a, b, 1e-6)


def test_gathered_steps_of_different_types_and_numbers_do_not_mix() -> None:
    narrow, wide, fast = state((50,)), [a.astype(np.float64) for a in state((50,))], state((50,))
    with CPU.together():
        CPU.sgd_step(narrow[0], narrow[1], None, 0.1, 0, 0, 0, False)
        CPU.sgd_step(wide[0], wide[1], None, 0.1, 0, 0, 0, False)
        CPU.sgd_step(fast[0], fast[1], None, 0.5, 0, 0, 0, False)
    start, grad = state((50,))[:2]
    np.testing.assert_allclose(narrow[0], start - np.float32(0.1) * grad, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(wide[0], start - 0.1 * grad.astype(np.float64), rtol=1e-12)
    np.testing.assert_allclose(fast[0], start - np.float32(0.5) * grad, rtol=1e-6, atol=1e-7)
