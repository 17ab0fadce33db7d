"""Optimizers: groups, what is refused, skipped parameters, and a resume that is exact to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minidl import nn, optim
from minidl.errors import MinidlError
from minidl.tensor import Parameter, Tensor

KINDS: list[tuple[type[optim.Optimizer], dict[str, Any]]] = [
    (optim.SGD, {"lr": 0.1}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}),
    (optim.Adam, {"lr": 1e-2, "betas": (0.8, 0.99)}),
    (optim.AdamW, {"lr": 1e-2, "weight_decay": 0.05}),
    (optim.RMSprop, {"lr": 1e-2, "momentum": 0.7}),
]


def weights() -> list[Parameter]:
    rng = np.random.default_rng(1)
    return [Parameter(rng.standard_normal(shape).astype(np.float32)) for shape in ((3, 4), (5,), (2,))]


def give_gradients(params: list[Parameter], step: int) -> None:
    rng = np.random.default_rng(100 + step)
    for parameter in params[:2]:  # the last one never gets a gradient
        parameter.grad = Tensor(rng.standard_normal(parameter.shape).astype(np.float32))


def build(kind: type[optim.Optimizer], settings: dict[str, Any], params: list[Parameter]) -> Any:
    groups = [{"params": params[:1], "lr": 0.03}, {"params": params[1:], "weight_decay": 0.2}]
    return kind(groups, **settings)


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_a_resumed_run_ends_with_the_same_bits(kind: type[optim.Optimizer], settings: dict[str, Any]) -> None:
    straight = weights()
    optimizer = build(kind, settings, straight)
    schedule = optim.WarmupCosine(optimizer, 2, 9)
    saved: Any = None
    for step in range(8):
        give_gradients(straight, step)
        optimizer.step()
        schedule.step()
        if step == 3:
            state = optimizer.state_dict()
            text = json.dumps([state["settings"], schedule.state_dict()])
            saved = (text, dict(state["arrays"]), [p.data.copy() for p in straight])
    resumed = [Parameter(array) for array in saved[2]]
    optimizer = build(kind, settings, resumed)
    schedule = optim.WarmupCosine(optimizer, 2, 9)
    loaded_settings, loaded_schedule = json.loads(saved[0])
    optimizer.load_state_dict({"settings": loaded_settings, "arrays": saved[1]})
    schedule.load_state_dict(loaded_schedule)
    for step in range(4, 8):
        give_gradients(resumed, step)
        optimizer.step()
        schedule.step()
    for a, b in zip(straight, resumed, strict=True):
        assert np.array_equal(a.data, b.data)
    assert not any(key.startswith("2.") for key in saved[1]), "no gradient, no state"


def test_groups_override_defaults_and_keep_the_rest() -> None:
    a, b, c = weights()
    optimizer = optim.SGD([{"params": [a]}, {"params": b, "lr": 1.0}], lr=0.5, momentum=0.9)
    optimizer.add_param_group({"params": [("name", c)], "lr_scale": 0.1})
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 1.0, 0.05]
    assert {g["momentum"] for g in optimizer.param_groups} == {0.9}
    assert "group 2: 1 parameters, lr=0.05" in repr(optimizer)


def test_named_parameters_may_be_given_as_they_come_from_a_module() -> None:
    layer = nn.Linear(2, 2)
    assert len(optim.SGD(layer.named_parameters()).param_groups[0]["params"]) == 2


def test_parameters_without_gradient_stay_and_zero_grad_drops_all() -> None:
    params = weights()
    optimizer = optim.Adam(params, lr=0.1, weight_decay=0.5)
    before = params[2].data.copy()
    give_gradients(params, 0)
    optimizer.step()
    assert np.array_equal(params[2].data, before)
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)


def test_a_step_is_noticed_by_a_graph_that_still_needs_the_old_values() -> None:
    weight = Parameter(np.ones((2, 2), dtype=np.float32))
    x = Tensor(np.ones((1, 2), dtype=np.float32), requires_grad=True)
    y = (x @ weight).sum()
    weight.grad = Tensor(np.ones((2, 2), dtype=np.float32))
    optim.SGD([weight], lr=0.1).step()
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


W = Parameter(np.ones(2, dtype=np.float32))
REFUSED: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: optim.SGD([]), ValueError, "SGD: got an empty list of parameters"),
    (lambda: optim.SGD([{"params": []}]), ValueError, "SGD: a group has an empty list"),
    (lambda: optim.SGD(W), TypeError, "must be an iterable of tensors or groups, got a single Parameter"),
    (lambda: optim.SGD([W, W]), ValueError, r"parameter 1 of shape \(2,\) appears twice"),
    (lambda: optim.SGD([{"params": W}, {"params": W}]), ValueError, "appears twice"),
    (lambda: optim.SGD([np.ones(2)]), TypeError, "parameter 0 must be a Tensor, got ndarray"),
    (lambda: optim.SGD([W * 2.0]), ValueError, "no operator made"),
    (lambda: optim.SGD([{"params": W, "rate": 1}]), TypeError, "unknown group setting 'rate'; known: lr"),
    (lambda: optim.SGD([W], lr=-1), ValueError, "SGD: lr must be at least 0, got -1"),
    (lambda: optim.SGD([W], lr=float("nan")), ValueError, "SGD: lr must be at least 0, got nan"),
    (lambda: optim.SGD([W], lr="fast"), TypeError, "SGD: lr must be a number, got 'fast'"),
    (lambda: optim.SGD([W], nesterov=True), ValueError, "nesterov needs momentum above 0 and dampening 0"),
    (lambda: optim.Adam([W], betas=(0.9, 1.0)), ValueError, "Adam: betas must be at least 0 and below 1"),
    (lambda: optim.Adam([W], betas=0.9), TypeError, "Adam: betas must be two numbers"),
    (lambda: optim.AdamW([W], weight_decay=-1), ValueError, "AdamW: weight_decay must be at least 0"),
    (lambda: optim.RMSprop([W], eps=-1e-8), ValueError, "RMSprop: eps must be at least 0"),
    (lambda: optim.StepLR(optim.SGD([W]), 0), ValueError, "StepLR: step_size must be at least 1"),
    (lambda: optim.StepLR(W, 1), TypeError, "StepLR: optimizer must be an Optimizer"),
    (lambda: optim.WarmupCosine(optim.SGD([W]), 5, 5), ValueError, "warmup_steps 5 must be below"),
    (lambda: optim.LinearLR(optim.SGD([W]), 2.0), ValueError, "start_factor must lie in"),
    (lambda: optim.OneCycleLR(optim.SGD([W]), [1.0, 2.0], 9), ValueError, "2 numbers for 1 groups"),
    (lambda: optim.clip_grad_norm_([W], -1.0), ValueError, "max_norm must be at least 0"),
]


@pytest.mark.parametrize(("call", "kind", "message"), REFUSED)
def test_a_wrong_argument_is_named(call: Callable[[], object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    params = weights()
    optimizer = build(optim.Adam, {"lr": 0.1}, params)
    give_gradients(params, 0)
    optimizer.step()
    good = optimizer.state_dict()

    def broken(change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> dict[str, Any]:
        settings, arrays = json.loads(json.dumps(good["settings"])), dict(good["arrays"])
        change(settings, arrays)
        return {"settings": settings, "arrays": arrays}

    cases = [
        ({}, "not readable"),
        (broken(lambda s, a: s.update(optimizer="SGD")), "is of SGD, this optimizer is Adam"),
        (broken(lambda s, a: s["groups"].pop()), r"groups of \[1\] parameters, expected \[1, 2\]"),
        (broken(lambda s, a: s["groups"][0].update(lr=-5)), "lr must be at least 0"),
        (broken(lambda s, a: s["groups"][0].pop("eps")), "lack eps"),
        (broken(lambda s, a: s["steps"].__setitem__(0, -1)), "step -1 of parameter 0"),
        (broken(lambda s, a: a.pop("0.exp_avg")), r"0\.exp_avg missing"),
        (broken(lambda s, a: a.update({"7.exp_avg": np.ones(1)})), r"7\.exp_avg unexpected"),
        (broken(lambda s, a: a.update({"2.exp_avg": np.ones(2)})), "without steps"),
        (
            broken(lambda s, a: a.update({"0.exp_avg": np.ones(2, dtype=np.float32)})),
            r"0\.exp_avg expected \(3, 4\) float32, got \(2,\) float32",
        ),
    ]
    for state, message in cases:
        with pytest.raises(optim.OptimizerStateError, match=message) as caught:
            optimizer.load_state_dict(state)
        assert isinstance(caught.value, MinidlError)
    after = optimizer.state_dict()
    assert after["settings"] == good["settings"]
    assert all(np.array_equal(after["arrays"][k], good["arrays"][k]) for k in good["arrays"])


def test_weight_decay_spares_norms_and_biases_and_early_layers_get_smaller_rates() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 2)

        def layer_groups(self) -> list[tuple[str, list[Parameter]]]:
            stem = [*self.conv.parameters(), *self.norm.parameters()]
            return [("stem", stem), ("head", [*self.head.parameters()])]

    net = Net()
    plain = optim.param_groups(net, weight_decay=0.1)
    assert [(len(g["params"]), g["weight_decay"]) for g in plain] == [(2, 0.1), (4, 0.0)]
    assert [g["weight_decay"] for g in optim.param_groups(net, 0.1, no_decay_norm_bias=False)] == [0.1]
    deep = optim.param_groups(net, weight_decay=0.1, layer_decay=0.5)
    optimizer = optim.AdamW(deep, lr=0.8)
    found = [(g["name"], g["lr"], g["weight_decay"]) for g in optimizer.param_groups]
    assert found == [("stem", 0.4, 0.1), ("stem", 0.4, 0.0), ("head", 0.8, 0.1), ("head", 0.8, 0.0)]
    with pytest.raises(ValueError, match="layer_decay must lie in"):
        optim.param_groups(net, layer_decay=1.5)


def test_clipping_scales_all_gradients_by_their_joint_norm() -> None:
    a, b, c = weights()
    a.grad = Tensor(np.full((3, 4), 2.0, dtype=np.float32))
    b.grad = Tensor(np.full(5, -4.0, dtype=np.float32))
    norm = float(np.sqrt(12 * 4 + 5 * 16))
    assert optim.clip_grad_norm_([a, b, c], 100.0) == pytest.approx(norm) and a.grad.data[0, 0] == 2
    assert optim.clip_grad_norm_([a, b, c], 1.0) == pytest.approx(norm)
    np.testing.assert_allclose(b.grad.numpy(), -4 / norm, rtol=1e-5)
    a.grad.data[0, 0] = np.inf
    assert optim.clip_grad_norm_([a, b], 1.0) == np.inf and np.isfinite(b.grad.numpy()).all()
    assert optim.clip_grad_norm_([c], 1.0) == 0
