"""``compile_step``: a captured step is the step, again and again."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minidl
from minidl import CaptureError, Tensor, nn, optim
from minidl.nn import functional as F
from minidl.optim import MultiStepLR
from tests.minidl.counted import counted

OPTIMIZERS: dict[str, Callable[[nn.Module], optim.Optimizer]] = {
    "sgd": lambda m: optim.SGD(m.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3, nesterov=True),
    "adamw": lambda m: optim.AdamW(m.parameters(), lr=1e-2),
    "rmsprop": lambda m: optim.RMSprop(m.parameters(), lr=1e-3, momentum=0.9),
}


class Small(nn.Module):
    """Convolution, batch norm, dropout, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm(self.conv(x)))
        return self.head(self.drop(h.mean((2, 3))))


def batches(count: int, device: str, size: int = 4) -> list[tuple[Tensor, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        (
            Tensor(rng.standard_normal((size, 6, 6, 3), np.float32).transpose(0, 3, 1, 2)).to(device),
            rng.integers(0, 3, size),
        )
        for _ in range(count)
    ]


def trained(make: Callable[[nn.Module], optim.Optimizer], device: str, compiled: bool) -> dict[str, Any]:
    """Six steps, the learning rate falling on the way; everything that they leave."""
    minidl.manual_seed(0)
    model = Small().to(device)
    optimizer = make(model)
    scheduler = MultiStepLR(optimizer, [3, 5])

    def step(images: Tensor, labels: Any) -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    run: Any = minidl.compile_step(step) if compiled else step
    losses = []
    for images, labels in batches(6, device):
        losses.append(run(images, labels))
        scheduler.step()
    if compiled:
        assert run.captures == 1
    grads = {f"{name}.grad": p.grad.cpu().numpy() for name, p in model.named_parameters()}
    state = optimizer.state_dict()
    steps = {"steps": np.array(state["settings"]["steps"])}
    return {
        "losses": np.array([loss.item() for loss in losses]),
        **model.state_dict(),
        **grads,
        **state["arrays"],
        **steps,
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_captured_training_is_the_same_bit_for_bit(name: str, device: str) -> None:
    plain = trained(OPTIMIZERS[name], device, False)
    captured = trained(OPTIMIZERS[name], device, True)
    assert captured["norm.num_batches_tracked"] == 6
    for key, array in plain.items():
        np.testing.assert_array_equal(captured[key], array, err_msg=key)


def test_inference_is_captured_once_for_each_shape(device: str) -> None:
    model = Small().to(device).eval()
    step, calls = counted(lambda x: {"logits": model(x)}, warmup=1)
    with minidl.no_grad():
        for size in (4, 2, 4, 2, 4, 2, 4):
            images = batches(1, device, size)[0][0] * float(len(calls) + 1)
            np.testing.assert_array_equal(
                step(images)["logits"].cpu().numpy(), model(images).cpu().numpy(), strict=True
            )
    assert (len(calls), step.captures) == (4, 2)
    step.reset()
    assert step.captures == 0


def test_a_network_is_a_step_whatever_its_attributes_are_called(device: str) -> None:
    model = nn.Linear(3, 2).to(device)
    model.device, model.function, model.captures = "a", "b", "c"
    step = minidl.compile_step(model, warmup=1)
    x = minidl.ones(1, 3, device=device)
    with minidl.no_grad():
        assert {str(step(x).tolist()) for _ in range(3)} == {str(model(x).tolist())}
    assert step.captures == 1 and step.function is model


def test_what_is_forgotten_is_freed_at_once(device: str) -> None:
    model = Small().to(device)
    optimizer = optim.Adam(model.parameters())

    def step(images: Tensor, labels: Any) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    run = minidl.compile_step(step, warmup=1)
    for batch in batches(3, device):
        run(*batch)
    (graph,) = run._graphs.values()
    freed = weakref.ref(graph.capture)
    gc.disable()
    try:
        del graph
        run.reset()
        assert freed() is None
    finally:
        gc.enable()


def test_inputs_in_main_memory_are_copied_into_the_capture(device: str) -> None:
    step, calls = counted(lambda batch, scale: (batch["x"] * 2 + batch["y"]) * scale, device=device)
    for i in range(5):
        x, y = np.full((2, 3), i, np.float32), minidl.full((2, 3), 10.0 * i)
        result = step({"x": x, "y": y}, 0.5)
        assert result.device == device and result.tolist() == [[6.0 * i] * 3] * 2
    assert len(calls) == 3


def test_random_numbers_go_on_as_without_capture(device: str) -> None:
    def step(x: Tensor) -> list[Tensor]:
        noise = minidl.randn_like(x) + minidl.randint(5, (3,), device=x.device)
        return [x + noise, x * 0 + minidl.zeros_like(x).uniform_(), F.dropout(x, 0.5)]

    found = []
    for run in (step, minidl.compile_step(step)):
        minidl.manual_seed(4)
        found.append([[t.tolist() for t in run(minidl.ones(3, device=device))] for _ in range(6)])
    assert found[0] == found[1]
    assert len({str(f) for f in found[0]}) == 6


def test_a_gradient_of_an_argument_is_returned_and_stays_nowhere(device: str) -> None:
    def step(x: Tensor) -> Tensor | None:
        (x * x).sum().backward()
        return x.grad

    run: Any = minidl.compile_step(step)
    x = minidl.ones(2, device=device, requires_grad=True)
    for i in range(1, 6):
        x.data[...] = i
        assert run(x).tolist() == [2.0 * i] * 2
    assert x.grad is None and run.captures == 1


def test_results_stay_what_they_were(device: str) -> None:
    step = minidl.compile_step(lambda x: x + 1)
    results = [step(minidl.full((2,), float(i), device=device)) for i in range(6)]
    assert [r.tolist() for r in results] == [[i + 1.0] * 2 for i in range(6)]


def test_on_the_cpu_a_step_with_arguments_that_are_no_numbers_is_called() -> None:
    step, calls = counted(lambda x, names: x.sum().item())
    assert [step(minidl.ones(3), np.array(["a", "b"])) for _ in range(4)] == [3.0] * 4
    assert len(calls) == 4 and step.captures == 0
    assert minidl.compile_step(warmup=3)(step.function).warmup == 3


READS: dict[str, Callable[[Tensor], Any]] = {
    r"item\(\)": lambda x: x.sum().item(),
    r"bool\(\)": lambda x: x if x.sum() > 0 else -x,
    r"tolist\(\)": lambda x: x.tolist(),
    "a copy to main memory": lambda x: x.cpu(),
    "an index of bools": lambda x: x[x > 0],
    "random numbers drawn": lambda x: x + minidl.randn(3).to(x.device),
}


@pytest.mark.parametrize("what", READS)
def test_what_cannot_be_captured_is_named(what: str, device: str) -> None:
    step = minidl.compile_step(READS[what], warmup=1)
    x = minidl.ones(3, device=device)
    step(x)
    with pytest.raises(
        CaptureError, match=rf"compile_step: .*{what}.* inside a captured step \(test_capture.py:\d+\)"
    ):
        step(x)
    READS[what](x)  # nothing is left of the attempt


CHECKED: dict[str, Callable[[Tensor], Tensor]] = {
    "pow": lambda n: n**3,
    "floor_divide": lambda n: 7 // n,
    "remainder": lambda n: 7 % n,
    "hinge_embedding_loss": lambda n: F.hinge_embedding_loss(n.float(), (n > 1) * 2 - 1),
}


@pytest.mark.parametrize("operator", CHECKED)
def test_values_are_not_looked_at_to_check_them(operator: str, device: str) -> None:
    step = minidl.compile_step(CHECKED[operator], warmup=1)
    for start in (1, 1, 2):
        n = minidl.arange(start, start + 3, device=device)
        assert step(n).tolist() == CHECKED[operator](n).tolist()
    assert step.captures == 1


def test_gradients_are_those_of_the_capture_and_are_not_added_to_older_ones(device: str) -> None:
    w = minidl.ones(3, device=device).requires_grad_(True)

    def step(x: Tensor, fresh: bool) -> None:
        if fresh:
            w.grad = None
        (w * x).sum().backward()
        (w * x).sum().backward()

    run = minidl.compile_step(step, warmup=1)
    for i in range(1, 5):
        run(minidl.full((3,), float(i), device=device), True)
        assert w.grad is not None and w.grad.tolist() == [2.0 * i] * 3
        if i == 3:
            w.grad = None  # and there again after the next replay
    run(minidl.ones(3, device=device), False)
    with pytest.raises(CaptureError, match=r"adds to a gradient that was there before it.*zero_grad"):
        run(minidl.ones(3, device=device), False)


def test_gradients_are_clipped_without_waiting(device: str) -> None:
    norms = []
    for compiled in (False, True):
        model = nn.Linear(3, 2).to(device)
        model.weight.data[...], model.bias.data[...] = 1.0, 0.0

        def step(x: Tensor, model: nn.Linear = model) -> Any:
            model.zero_grad()
            model(x).sum().backward()
            return optim.clip_grad_norm_(model.parameters(), 0.5), model.weight.grad

        run: Any = minidl.compile_step(step) if compiled else step
        norms.append(
            [[t.tolist() for t in run(minidl.full((4, 3), float(i), device=device))] for i in range(5)]
        )
    assert norms[0] == norms[1]
    assert 0 < norms[0][0][0] < norms[0][4][0]


def test_an_optimizer_whose_state_was_loaded_is_captured_anew(device: str) -> None:
    model = nn.Linear(3, 2).to(device)
    optimizer = optim.Adam(model.parameters(), lr=0.1)

    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = (model(x) ** 2).sum()
        loss.backward()
        optimizer.step()
        return loss

    run, calls = counted(step)
    x = minidl.ones(4, 3, device=device)
    for _ in range(4):
        run(x)
    assert len(calls) == 3
    before = optimizer.state_dict()
    optimizer.load_state_dict(before)
    for _ in range(3):
        run(x)
    assert len(calls) == 5 and run.captures == 1  # one to warm up, one captured
    assert optimizer.state_dict()["settings"]["steps"] == [7, 7]


CHANGES: dict[str, Callable[[nn.Module, optim.Optimizer], Any]] = {
    "a momentum is switched on": lambda m, o: o.param_groups[0].update(momentum=0.9),
    "a layer is frozen": lambda m, o: m.head.requires_grad_(False),
    "a group is added": lambda m, o: o.add_param_group({"params": m.norm.parameters(), "lr": 0.5}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_the_optimizer_moves_may_change(change: str, device: str) -> None:
    found = []
    for compiled in (False, True):
        minidl.manual_seed(0)
        model = Small().to(device)
        optimizer = optim.SGD([*model.conv.parameters(), *model.head.parameters()], lr=0.1)

        def step(
            images: Tensor, labels: Any, model: nn.Module = model, optimizer: optim.Optimizer = optimizer
        ) -> None:
            for parameter in model.parameters():
                parameter.grad = None
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()

        run: Any = minidl.compile_step(step, warmup=1) if compiled else step
        for i, batch in enumerate(batches(6, device)):
            if i == 3:
                CHANGES[change](model, optimizer)
            run(*batch)
        assert not compiled or run.captures == 1
        found.append(model.state_dict())
    np.testing.assert_equal(found[1], found[0])


def test_a_fused_network_whose_weights_were_loaded_is_captured_anew(device: str) -> None:
    fused = minidl.fuse(Small().to(device).eval())
    run, calls = counted(fused, warmup=1)
    images = batches(1, device)[0][0]
    with minidl.no_grad():
        before = [run(images).tolist() for _ in range(3)]
        assert before[0] == before[2] and len(calls) == 2
        fused.load_state_dict({name: array * 2 for name, array in fused.state_dict().items()})
        after = [run(images).tolist() for _ in range(3)]
        assert len(calls) == 4 and after == [fused(images).tolist()] * 3 and after[0] != before[0]


def test_a_fused_network_that_is_trained_by_a_captured_step_is_folded_anew(device: str) -> None:
    found = []
    for compiled in (False, True):
        minidl.manual_seed(0)
        fused = minidl.fuse(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(device).eval())
        run: Any = minidl.compile_step(fused.forward, warmup=1) if compiled else fused.forward
        logits = []
        with minidl.no_grad():
            for images, _ in batches(4, device):
                fused.train()
                run(images)
                logits.append(fused.eval()(images).tolist())
        found.append(logits)
    assert found[0] == found[1]


def test_a_first_optimizer_step_inside_a_capture_is_refused(device: str) -> None:
    model = nn.Linear(3, 2).to(device)
    optimizers: list[optim.Optimizer] = []

    def step(x: Tensor) -> None:
        optimizers.append(optim.SGD(model.parameters(), lr=0.1))
        optimizers[-1].zero_grad()
        model(x).sum().backward()
        optimizers[-1].step()

    run = minidl.compile_step(step, warmup=1)
    run(minidl.ones(4, 3, device=device))
    with pytest.raises(CaptureError, match=r"SGD: the first step of a parameter of shape \(2, 3\)"):
        run(minidl.ones(4, 3, device=device))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_failed_capture_leaves_all_as_it_was(name: str, device: str) -> None:
    minidl.manual_seed(0)
    model = Small().to(device)
    optimizer = OPTIMIZERS[name](model)

    def step(images: Tensor, labels: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item() if len(calls) == 2 else loss

    run, calls = counted(step, warmup=1)
    batch = batches(1, device)[0]
    run(*batch)
    before = optimizer.state_dict(), model.state_dict(), minidl.random.get_state()
    with pytest.raises(CaptureError, match=r"item\(\) reads a value of the device"):
        run(*batch)
    after = optimizer.state_dict(), model.state_dict(), minidl.random.get_state()
    np.testing.assert_equal(after, before)
    assert all(p.grad is None for p in model.parameters())


def test_a_failed_capture_leaves_no_constants_of_a_fused_network(device: str) -> None:
    fused = minidl.fuse(Small().to(device).eval())
    run, calls = counted(lambda x: fused(x).tolist() if len(calls) == 2 else fused(x), warmup=1)
    images = batches(1, device)[0][0]
    with minidl.no_grad():
        run(images)
        fused.load_state_dict({name: array * 2 for name, array in fused.state_dict().items()})
        with pytest.raises(CaptureError, match=r"tolist\(\) reads a value of the device"):
            run(images)
        expected = minidl.fuse(Small().to(device).eval())
        expected.load_state_dict(fused.state_dict())
        assert fused(images).tolist() == expected(images).tolist()


def test_a_call_that_raised_has_warmed_up_nothing(device: str) -> None:
    model = nn.Linear(3, 2).to(device)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(x: Tensor) -> Tensor:
        if len(calls) == 1:
            raise OSError("the disk is full")
        optimizer.zero_grad()
        loss = model(x).sum()
        loss.backward()
        optimizer.step()
        return loss

    run, calls = counted(step, warmup=1)
    x = minidl.ones(4, 3, device=device)
    with pytest.raises(OSError, match="the disk is full"):
        run(x)
    losses = [run(x).item() for _ in range(3)]
    assert losses[0] > losses[1] > losses[2] and len(calls) == 3 and run.captures == 1


def test_what_the_caller_has_put_off_is_no_part_of_a_capture(device: str) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.norm(x), compiled(x)

    minidl.manual_seed(0)
    block, compiled = Block().to(device).eval(), minidl.compile_step(lambda x: x + 1, warmup=1)
    x, expected, found = minidl.ones(1, 3, 4, 4, device=device), [], []
    with minidl.no_grad():
        for i in range(4):
            x.data[...] = i
            expected.append(block.norm(x).tolist())
            found.append(block(x)[0])
    assert compiled.captures == 1 and [y.tolist() for y in found] == expected


def test_numbers_that_change_with_each_call_are_told(device: str) -> None:
    step = minidl.compile_step(lambda x, y: x * y, warmup=1)
    x = minidl.ones(1, device=device)
    with pytest.raises(CaptureError, match="captured for 16 kinds of arguments already"):
        for i in range(20):
            step(x, i)
            step(x, i)


def test_a_compiled_step_inside_a_compiled_step_is_a_part_of_it(device: str) -> None:
    inner = minidl.compile_step(lambda x: x + 1, warmup=1)
    outer = minidl.compile_step(lambda x: inner(x) * 2, warmup=3)
    for i in range(5):
        assert outer(minidl.full((1,), float(i), device=device)).tolist() == [2.0 * (i + 1)]
    assert (inner.captures, outer.captures) == (1, 1)


def test_a_step_without_a_warm_up_is_refused() -> None:
    with pytest.raises(ValueError, match="compile_step: warmup expects an integer of at least 1, got 0"):
        minidl.compile_step(lambda: None, warmup=0)
