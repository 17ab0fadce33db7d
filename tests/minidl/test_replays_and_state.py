"""What a recorded step belongs to: the modules as they are, and state that moves once for each call."""

from __future__ import annotations

import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minidl
from minidl import Tensor, nn
from minidl.nn import functional as F
from tests.minidl.counted import counted


class Network(nn.Module):
    """A convolution with batch norm and a head; it counts its calls and keeps what it returned last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.head = nn.Sequential(nn.Linear(16, 8))
        self.scale, self.calls, self.last = 2.0, 0, None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y = self.head(F.relu(self.norm(self.conv(x))).mean((2, 3))) * self.scale
        self.last = y
        return y


def images(seed: int = 0) -> Tensor:
    return Tensor(np.random.default_rng(seed).standard_normal((2, 3, 6, 6), np.float32))


def network(fused: bool = False) -> Any:
    minidl.manual_seed(0)
    model = Network().eval()
    return minidl.fuse(model) if fused else model


def wider(model: Any) -> None:
    model.conv.padding = (2, 2)


def another_weight(model: Any) -> None:
    model.conv.weight = nn.Parameter(
        model.conv.weight.data * 2, requires_grad=model.conv.weight.requires_grad
    )


CHANGES: dict[str, Callable[[Any], Any]] = {
    "another parameter": another_weight,
    "no bias": lambda m: setattr(m.head[0], "bias", None),
    "another buffer": lambda m: setattr(m.norm, "running_mean", Tensor(np.ones(16, np.float32))),
    "another module": lambda m: setattr(m, "norm", nn.Identity()),
    "a module more": lambda m: m.head.add_module("1", nn.Tanh()),
    "a number": lambda m: setattr(m, "scale", 3.0),
    "padding": wider,
    "a hook": lambda m: m.conv.register_forward_hook(lambda module, args, output: output * 2),
}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("what", CHANGES)
def test_what_is_set_on_a_module_makes_a_new_capture(what: str, fused: bool) -> None:
    model, twin = network(fused), network(fused)
    step = minidl.compile_step(model, warmup=1)
    with minidl.no_grad():
        before = [step(images()) for _ in range(4)][-1]
        CHANGES[what](model)
        CHANGES[what](twin)
        for seed in range(4):
            np.testing.assert_array_equal(step(images(seed)).numpy(), twin(images(seed)).numpy())
        assert not np.array_equal(step(images()).numpy(), before.numpy()) and step.captures == 1


def test_a_hook_that_is_removed_makes_a_new_capture() -> None:
    model = network()
    expected = model(images()).detach().numpy()
    step = minidl.compile_step(model, warmup=1)
    with minidl.no_grad():
        with model.conv.register_forward_hook(lambda module, args, output: output * 2):
            hooked = [step(images()).numpy() for _ in range(4)][-1]
        np.testing.assert_array_equal(step(images()).numpy(), expected)
    assert not np.array_equal(hooked, expected)


def test_what_the_step_itself_sets_and_other_modules_make_none() -> None:
    model, other = network(), network()
    step, calls = counted(model, warmup=1)
    with minidl.no_grad():
        for seed in range(6):
            other.scale = float(seed)
            model(images(seed))  # counts, and keeps its result
            step(images(seed))
    assert len(calls) == 1 + 1 + 2 and step.captures == 1  # to warm up, to record, to prove


def moving_average(write: Callable[[Tensor, Tensor], Any]) -> Callable[[Tensor], Tensor]:
    state = minidl.zeros(2, 3, 6, 6)

    def step(x: Tensor) -> Tensor:
        write(state, x)
        return state + 0

    return step


def by_numpy(state: Tensor, x: Tensor) -> None:
    state.data[...] = 0.5 * state.data + x.data


@pytest.mark.parametrize("write", [lambda state, x: state.mul_(0.5).add_(x), by_numpy])
def test_state_moves_once_for_each_call_of_a_step_that_is_not_captured(
    write: Callable[[Tensor, Tensor], Any],
) -> None:
    plain, compiled = moving_average(write), minidl.compile_step(moving_average(write))
    with minidl.no_grad(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for seed in range(5):
            np.testing.assert_array_equal(compiled(images(seed)).numpy(), plain(images(seed)).numpy())
    assert compiled.captures == 0 and len(said) == 1 and "tensor" in str(said[0].message)


def test_arguments_that_are_written_to_are_the_callers_in_every_call() -> None:
    step = minidl.compile_step(lambda x: x.mul_(2) + 1)
    with minidl.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for seed in range(5):
            x = images(seed)
            y = step(x)
            np.testing.assert_array_equal(x.numpy(), images(seed).numpy() * 2)
            np.testing.assert_array_equal(y.numpy(), x.numpy() + 1)


def test_dicts_keep_their_type() -> None:
    step = minidl.compile_step(lambda x: (OrderedDict(y=x * 2), defaultdict(list, y=x + 1)), warmup=1)
    for seed in range(4):
        ordered, default = step(images(seed))
        assert type(ordered) is OrderedDict and default["none"] == []
        np.testing.assert_array_equal(ordered["y"].numpy(), images(seed).numpy() * 2)
        np.testing.assert_array_equal(default["y"].numpy(), images(seed).numpy() + 1)


def test_zeros_of_both_signs_are_two_numbers() -> None:
    step = minidl.compile_step(lambda x, factor: x * factor, warmup=1)
    x = minidl.ones(3)
    for factor in (0.0, 0.0, 0.0, -0.0, -0.0, -0.0):
        assert np.signbit(step(x, factor).numpy()).all() == np.signbit(factor)
    assert step.captures == 2
