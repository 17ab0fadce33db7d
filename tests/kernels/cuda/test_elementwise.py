"""Element-wise kernels and optimizer steps on the emulated device, checker on, against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minidl
from minidl import optim
from minidl.kernels import devices
from tests.kernels.cuda.on_device import BF16, F32, REFERENCE, agree, backend, device, normal
from tests.target import needs_device

pytestmark = needs_device()


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("shape", [(3, 7, 5), (1,), (1100,), ()], ids=str)
def test_relu_the_sigmoid_and_addition(shape: tuple[int, ...], dtype: Any) -> None:
    x, y = normal(0, dtype, *shape), normal(1, dtype, *shape)
    agree("relu", dtype, np.asarray(x))
    agree("relu_backward", dtype, np.asarray(x), np.asarray(y))
    agree("sigmoid", dtype, np.asarray(x * 9))
    agree("sigmoid_backward", dtype, np.asarray(x), np.asarray(y))
    agree("add", dtype, np.asarray(x), np.asarray(y))


def test_the_result_lies_in_memory_like_the_operands() -> None:
    x = normal(0, F32, 2, 4, 5, 3).transpose(0, 3, 1, 2)
    y = agree("relu", F32, x)
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    agree("add", F32, x, np.ascontiguousarray(x))
    agree("relu", F32, normal(0, F32, 4, 6)[:, ::2])


def test_relu_keeps_nan_and_its_gradient_does_not() -> None:
    x = np.array([np.nan, -1, 0, 2], F32)
    np.testing.assert_array_equal(backend().relu(x), np.array([np.nan, 0, 0, 2], F32))
    np.testing.assert_array_equal(backend().relu_backward(np.ones(4, F32), x), np.array([0, 0, 0, 1], F32))


def network() -> tuple[list[Any], ...]:
    """Parameters of several shapes, one of them empty and one channels-last, each with three arrays beside it."""
    shapes = ((3, 4), (2500,), (0,), (4, 3, 3, 2), ())
    parts = []
    for seed in range(4):
        arrays = [np.asarray(normal(10 * seed + i, F32, *s)) for i, s in enumerate(shapes)]
        arrays[3] = arrays[3].transpose(0, 3, 1, 2)
        parts.append([np.asarray(np.abs(a)) if seed == 3 else a for a in arrays])
    parts[1][3] = np.ascontiguousarray(parts[1][3])  # a gradient in another order than its parameter
    return tuple(parts)


def compare(step: str, states: tuple[int, ...], *settings: Any) -> None:
    ours, theirs = network(), network()
    before = device().launches
    with backend().together():
        for i in range(len(ours[0])):
            getattr(backend(), step)(*[ours[j][i] for j in (0, 1, *states)], *settings)
    assert device().launches == before + 1, "all parameters in one launch"
    for i in range(len(theirs[0])):
        getattr(REFERENCE, step)(*[theirs[j][i] for j in (0, 1, *states)], *settings)
        for j in (0, *states):
            np.testing.assert_allclose(ours[j][i], theirs[j][i], rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd(nesterov: bool) -> None:
    compare("sgd_step", (2,), 0.1, 0.9, 0.3, 0.05, nesterov)


def test_sgd_without_momentum() -> None:
    ours, theirs = network(), network()
    with backend().together():
        for p, g in zip(ours[0], ours[1], strict=True):
            backend().sgd_step(p, g, None, 0.1, 0.0, 0.0, 0.05, False)
    for p, g, q in zip(theirs[0], theirs[1], ours[0], strict=True):
        REFERENCE.sgd_step(p, g, None, 0.1, 0.0, 0.0, 0.05, False)
        np.testing.assert_allclose(q, p, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("decoupled", [False, True])
def test_adam(decoupled: bool) -> None:
    compare("adam_step", (2, 3), 3, 0.01, 0.9, 0.999, 1e-8, 0.1, decoupled)


def test_rmsprop() -> None:
    compare("rmsprop_step", (3, 2), 0.01, 0.9, 1e-3, 0.1, 0.8)


def test_one_parameter_alone_is_stepped_at_once() -> None:
    (p, *_), (g, *_), (m, *_), (v, *_) = network()
    expected = [a.copy() for a in (p, m, v)]
    backend().adam_step(p, g, m, v, 1, 0.01, 0.9, 0.999, 1e-8, 0.0, False)
    REFERENCE.adam_step(expected[0], g, expected[1], expected[2], 1, 0.01, 0.9, 0.999, 1e-8, 0.0, False)
    for ours, theirs in zip((p, m, v), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-7)


def test_steps_are_gathered_and_a_table_holds_only_so_many() -> None:
    params, grads = ([normal(s * 100 + i, F32, 3 + i) for i in range(80)] for s in (0, 1))
    expected = [p - np.float32(0.5) * g for p, g in zip(params, grads, strict=True)]
    before = device().launches
    with backend().together():
        for p, g in zip(params, grads, strict=True):
            backend().sgd_step(p, g, None, 0.5, 0.0, 0.0, 0.0, False)
        assert device().launches == before
    assert device().launches == before + 2
    for p, e in zip(params, expected, strict=True):
        np.testing.assert_allclose(p, e, rtol=1e-6, atol=1e-7)


def test_an_error_makes_no_gathered_step() -> None:
    p = np.ones(3, F32)
    with pytest.raises(KeyError), backend().together():
        backend().sgd_step(p, p.copy(), None, 0.5, 0.0, 0.0, 0.0, False)
        raise KeyError
    assert (p == 1).all()


def test_an_engines_optimizer_makes_one_launch() -> None:
    place = devices.place("emulated")
    weights = [minidl.tensor(normal(i, F32, 4, 2), requires_grad=True) for i in range(3)]
    moved = [minidl.tensor(w.detach().numpy(), requires_grad=True, device="emulated") for w in weights]
    for group in (weights, moved):
        optimizer = optim.AdamW(group, lr=0.1)
        sum((w * w).sum() for w in group).backward()
        before = place.device.launches
        optimizer.step()
    assert place.device.launches == before + 1
    for ours, theirs in zip(moved, weights, strict=True):
        np.testing.assert_allclose(
            ours.detach().to("cpu").numpy(), theirs.detach().numpy(), rtol=1e-5, atol=1e-6
        )


def test_other_dtypes_are_stepped_by_the_reference() -> None:
    p, g = np.ones(3), np.ones(3)
    backend().sgd_step(p, g, None, 0.5, 0.0, 0.0, 0.0, False)
    np.testing.assert_array_equal(p, np.full(3, 0.5))


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="sgd_step: grad expects shape"):
        backend().sgd_step(np.ones(3, F32), np.ones(4, F32), None, 0.5, 0.0, 0.0, 0.0, False)
    with pytest.raises(ValueError, match="adam_step: step expects at least 1"):
        backend().adam_step(*[np.ones(3, F32)] * 4, 0, 0.1, 0.9, 0.99, 1e-8, 0.0, False)
    with pytest.raises(ValueError, match="add: b expects shape"):
        backend().add(np.ones(3, F32), np.ones(4, F32))
