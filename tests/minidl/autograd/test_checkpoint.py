"""Checkpointing: the same gradients, less memory, the same random numbers, clear errors."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import Tensor, nn
from minidl.autograd import Function
from minidl.autograd.recompute import checkpoint
from minidl.testing import gradcheck


def leaf(*shape: int, seed: int = 0) -> Tensor:
    return Tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


def gradients(function: Any, *leaves: Tensor) -> list[np.ndarray]:
    for t in leaves:
        t.grad = None
    function().backward()
    return [t.grad.data for t in leaves if t.grad is not None]


def assert_same(one: list[np.ndarray], two: list[np.ndarray]) -> None:
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_gradients_of_arguments_and_of_parameters_are_the_same() -> None:
    x, w, b = leaf(4, 3), leaf(5, 3, seed=1), leaf(5, seed=2)

    def part(x: Tensor) -> Tensor:
        return F.linear(x, w, b).tanh()

    plain = gradients(lambda: (part(x * 2) ** 2).sum(), x, w, b)
    saved = gradients(lambda: (checkpoint(part, x * 2) ** 2).sum(), x, w, b)
    assert_same(plain, saved)


def test_a_captured_inner_tensor_gets_its_gradient_once() -> None:
    x, y = leaf(3), leaf(3, seed=1)

    def loss(call: Any) -> Tensor:
        h = x.exp()  # reached by the function without being given to it
        return (call(lambda y: h * y * x, y) + h).sum()

    plain = gradients(lambda: loss(lambda f, *a: f(*a)), x, y)
    assert_same(plain, gradients(lambda: loss(checkpoint), x, y))
    assert_same(plain, [t.data for t in minidl.grad(loss(checkpoint), [x, y])])


def test_hooks_run_once() -> None:
    x, w = leaf(3), leaf(3, seed=1)
    calls = []
    w.register_hook(lambda g: calls.append("w"))
    h = x * 2
    h.register_hook(lambda g: calls.append("h"))
    checkpoint(lambda a: a * w * h, x).sum().backward()
    assert sorted(calls) == ["h", "w"]


def test_without_differentiable_arguments_parameters_still_learn() -> None:
    w, images = leaf(3), Tensor(np.ones(3))
    checkpoint(lambda x: x * w, images).sum().backward()
    assert w.grad is not None
    np.testing.assert_array_equal(w.grad.data, 1.0)


def test_several_outputs_and_other_arguments() -> None:
    x = leaf(3, 2)

    def part(x: Tensor, factor: float, *, shift: float) -> tuple[Tensor, Tensor]:
        return x * factor + shift, (x * x).sum(0)

    def loss(call: Any) -> Tensor:
        a, b = call(part, x, 3.0, shift=1.0)
        return (a * a).sum() + (b * 2).sum()

    assert_same(
        gradients(lambda: loss(lambda f, *a, **k: f(*a, **k)), x), gradients(lambda: loss(checkpoint), x)
    )


def test_gradients_of_gradients() -> None:
    x, w = leaf(3), leaf(3, seed=1)
    assert gradcheck(
        lambda x, w: checkpoint(lambda a: (a * w).tanh() * w, x.exp()), [x, w], second_order=True
    )
    assert gradcheck(lambda x, w: checkpoint(lambda a: (a * w, a * a), x)[1] * w, [x, w], second_order=True)


def test_checkpoints_nest() -> None:
    x, w = leaf(3), leaf(3, seed=1)
    outer = lambda x: checkpoint(lambda a: (a * w).tanh(), x * w) * w  # noqa: E731
    plain = gradients(lambda: ((x * w * w).tanh() * w).sum(), x, w)
    assert_same(plain, gradients(lambda: checkpoint(outer, x).sum(), x, w))


def test_dropout_draws_the_same_mask_again() -> None:
    x = leaf(50, 20)

    def run(call: Any) -> list[np.ndarray]:
        minidl.manual_seed(5)
        grads = gradients(lambda: call(lambda x: F.dropout(x * x, 0.5), x).sum(), x)
        return [*grads, minidl.random.generator().random(3)]  # nor does it disturb what comes after

    assert_same(run(lambda f, *a: f(*a)), run(checkpoint))


def test_running_statistics_move_once() -> None:
    def run(call: Any) -> tuple[np.ndarray, list[np.ndarray]]:
        minidl.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU())
        x = Tensor(np.random.default_rng(0).standard_normal((2, 2, 6, 6)).astype(np.float32))
        call(net, x).sum().backward()
        return net.state_dict()["1.running_mean"], [p.grad.data for p in net.parameters()]

    (mean, grads), (mean2, grads2) = run(lambda f, *a: f(*a)), run(checkpoint)
    np.testing.assert_array_equal(mean, mean2)
    for a, b in zip(grads, grads2, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


class Big(Function):
    """x, saved; counts how many of its inputs are alive at most."""

    saved_inputs = (0,)
    alive = 0

    def forward(self, x: np.ndarray) -> np.ndarray:
        return x * 1.01

    def backward(self, grad: Tensor) -> Tensor:
        (_x,) = self.saved()
        Big.alive = max(Big.alive, sum(type(o) is Big and o._saved is not None for o in gc.get_objects()))
        return grad * 1.01


def test_only_one_part_at_a_time_is_kept() -> None:
    def part(x: Tensor) -> Tensor:
        for _ in range(10):
            x = Big()(x)
        return x

    def most(call: Any) -> int:
        Big.alive = 0
        x = leaf(2)
        for _ in range(4):
            x = call(part, x)
        gc.collect()
        x.sum().backward()
        return Big.alive

    assert most(lambda f, *a: f(*a)) == 40 and most(checkpoint) == 10


def test_under_no_grad_it_is_a_plain_call() -> None:
    with minidl.no_grad():
        assert not checkpoint(lambda x: x * 2, leaf(3)).requires_grad


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: [x.data], "expects to return a tensor or a tuple of tensors, got ndarray"),
        (lambda x: (), "got nothing"),
        (lambda x: (x, x.float()), "tensors of one dtype, got float64, float32"),
    ],
)
def test_other_results_are_refused(function: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        checkpoint(function, leaf(3))


def test_a_function_that_changes_its_mind_is_told() -> None:
    sizes = iter([3, 2])
    y = checkpoint(lambda x: x[: next(sizes)], leaf(4))
    with pytest.raises(RuntimeError, match=r"the first time and .* when it was computed again"):
        y.sum().backward()


def test_a_parameter_changed_in_between_is_an_error_not_a_wrong_gradient() -> None:
    x, w = leaf(3), leaf(3, seed=1)
    y = checkpoint(lambda x: x * w, x).sum()
    with minidl.no_grad():
        w.copy_(np.zeros(3))
    with pytest.raises(RuntimeError, match=r"checkpoint: a tensor of shape .* was changed in place"):
        y.backward()
    y = checkpoint(lambda x: x * x, x).sum()
    with minidl.no_grad():
        x.copy_(np.zeros(3))
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_a_checkpoint_is_walked_twice_only_when_retained() -> None:
    x = leaf(3)
    y = checkpoint(lambda x: x * x, x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.data, 4 * x.data)
    with pytest.raises(RuntimeError, match="already walked"):
        y.backward()
