"""``compile_step`` on the CPU: a replay is the step bit for bit, or there is none and a warning says why."""

from __future__ import annotations

import copy
import os
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minidl
from minidl import Tensor, kernels, nn, optim
from minidl.kernels.cpu import runtime
from minidl.nn import functional as F
from minidl.training import Checkpoint, Predictor
from tests.minidl.counted import counted

FUSED_CALLS = 2 + 1 + 2  # to warm up, to record, to prove


class Network(nn.Module):
    """Everything that a fused ResNet launches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.conv, self.norm2 = nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(32, 80)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.stem(x)))
        h = self.pool(F.relu(self.norm2(self.conv(h)) + h))
        return self.head(F.adaptive_avg_pool2d(h, 1).flatten(1))


@pytest.fixture(scope="module")
def network() -> Network:
    minidl.manual_seed(0)
    model = Network()
    rng = np.random.default_rng(0)
    for norm in (model.norm1, model.norm2):
        norm.running_mean.data[...] = rng.standard_normal(32)  # type: ignore[union-attr]
        norm.running_var.data[...] = rng.random(32) + 0.5  # type: ignore[union-attr]
    return model.eval()


def images(count: int = 4, seed: int = 0, size: int = 8, nhwc: bool = True) -> Tensor:
    pixels = np.random.default_rng(seed).standard_normal((count, size, size, 3), np.float32)
    pixels = pixels.transpose(0, 3, 1, 2)
    return Tensor(pixels if nhwc else np.ascontiguousarray(pixels))


def same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.data.tobytes() == b.data.tobytes() and a.shape == b.shape


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize("nhwc", [True, False])
def test_a_fused_network_is_replayed_bit_for_bit(network: Network, dtype: str | None, nhwc: bool) -> None:
    fused = minidl.fuse(network, dtype)
    step, calls = counted(lambda x: {"logits": fused(x)})
    found = []
    for i in range(8):
        for size in (4, 7):
            x = images(size, i, nhwc=nhwc)
            found.append((step(x)["logits"], fused(x)))
    assert step.captures == 2 and len(calls) == 2 * FUSED_CALLS
    assert all(same(a, b) for a, b in found)  # the first ones too: results are copies


def test_layers_that_are_not_fused_are_replayed(network: Network) -> None:
    step, calls = counted(network)
    with minidl.no_grad():
        assert all(same(step(images(seed=i)), network(images(seed=i))) for i in range(6))
    assert len(calls) == FUSED_CALLS and step.captures == 1


BETWEEN: dict[str, Callable[[Network, Tensor], Any]] = {
    "softmax": lambda m, x: m(x).softmax(1),
    "the best class": lambda m, x: m(x).argmax(1),
    "the mean of all": lambda m, x: m(x).mean(),
    "a small product": lambda m, x: m(x)[:, :5] @ minidl.ones(5, 2),
    "before and after": lambda m, x: F.gelu(m(x * 2 - 1)) + 1,
    "in the middle": lambda m, x: m.conv(F.pad(m.stem(x).abs() ** 0.5, (1, 0, 2, 0))),
    "a view of a result": lambda m, x: (m(x)[:1].expand(3, 80), m.stem(x)[:, ::2]),
    "in place": lambda m, x: m.conv(m.stem(x).mul_(2).add_(1)).relu_(),
    "a view of an argument": lambda m, x: (x[1:, :, ::2], m.stem(x).flatten(1)),
    "a mask that is seldom set": lambda m, x: m.stem(x) * (x[:, :1] > 3).float(),
    "where": lambda m, x: minidl.where(m.stem(x) > 0.5, m.stem(x), 0.0),
    "masked": lambda m, x: m.stem(x).masked_fill(minidl.isnan(x[:, :1]) | (x[:, 1:2] < -3), 7.0),
    "logsumexp": lambda m, x: m(x).logsumexp(1),
    "places of maxima": lambda m, x: F.max_pool2d(m.stem(x), 2, return_indices=True),
    "layer norm": lambda m, x: F.layer_norm(m(x), (80,)),
}


@pytest.mark.parametrize("what", BETWEEN)
def test_operators_between_kernels_are_computed_again(network: Network, what: str) -> None:
    step, calls = counted(lambda x: BETWEEN[what](network, x))
    with minidl.no_grad():
        for i in range(6):
            found, expected = step(images(seed=i)), BETWEEN[what](network, images(seed=i))
            pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
            assert all(same(a, b) for a, b in pairs)
    assert len(calls) == FUSED_CALLS and step.captures == 1


def test_small_networks_and_images_are_replayed() -> None:
    minidl.manual_seed(0)
    model = minidl.fuse(minidl.models.create("resnet20", shortcut="pad").eval())
    step = minidl.compile_step(model)
    for i in range(5):
        x = images(1, i, 32)
        assert same(step(x), model(x))
    assert step.captures == 1


def test_memory_of_a_recording_is_its_own_and_returns_to_the_pool(network: Network) -> None:
    fused, x = minidl.fuse(network), images(32, size=32)
    step = minidl.compile_step(fused)
    expected = fused(x)
    before = minidl.memory_stats()["in_use"]
    for _ in range(3):
        result = step(x)
    held = minidl.memory_stats()["in_use"]
    assert held > before + result.nbytes
    others = [kernels.memory_stats and minidl.full((32, 32, 32, 32), 7.0) for _ in range(3)]
    for size in (1, 2, 3):
        minidl.fuse(network)(images(32, size, 32))
    assert same(step(x), expected) and others[0].data.min() == 7
    step.reset()
    assert minidl.memory_stats()["in_use"] < held - 100_000


def numbers(x: Tensor) -> Tensor:
    return Tensor(x.data * 2)


outside = Tensor(np.zeros((4, 32, 8, 8), np.float32))
UNFIT: dict[str, tuple[Callable[[Network, Tensor], Any], str]] = {
    "numpy before a kernel": (lambda m, x: m.stem(numbers(x)), "NumPy or Python, not by kernels"),
    "numpy after a kernel": (lambda m, x: numbers(m.stem(x)), "a result is computed by NumPy"),
    "numpy in place": (lambda m, x: doubled(m.stem(x)), "NumPy or Python, not by kernels"),
    "the best class": (lambda m, x: Tensor(m(x).data.argmax(1)), "a result is computed by NumPy"),
    "a mask": (lambda m, x: m.stem(x) * Tensor((x.data[:, :1] > -9).astype(np.float32)), "NumPy"),
    "item": (lambda m, x: m.stem(x) * m.stem(x).max().item(), r"item\(\) reads a value"),
    "bool": (lambda m, x: m.stem(x) if x.sum() > 0 else x, r"bool\(\) reads a value"),
    "numpy()": (lambda m, x: m.stem(x).numpy(), r"numpy\(\) reads a value"),
    "tolist": (lambda m, x: m.stem(x).tolist(), r"tolist\(\) reads a value"),
    "dropout": (lambda m, x: F.dropout(m.stem(x), 0.5), "made anew for each call"),
    "randn": (lambda m, x: m.stem(x) + minidl.randn(8), "made anew for each call"),
    "a check": (lambda m, x: F.embedding(minidl.tensor([1, 0]), x.flatten(1)), "a check of values"),
    "labels": (
        lambda m, x: F.cross_entropy(m(x), np.zeros(4, np.int64), reduction="none"),
        "a check of labels",
    ),
    "an index of bools": (lambda m, x: m.stem(x)[x[:, :1].expand(4, 32, 8, 8) > 0], "an index of bools"),
    "gaps": (lambda m, x: m.stem(x), "has gaps or a turned axis in memory"),
    "nonzero": (lambda m, x: m(x).nonzero(), r"nonzero\(\) reads a value"),
    "writes": (lambda m, x: outside.copy_(m.stem(x)), "writes to a tensor of shape"),
    "writes by numpy": (lambda m, x: outside_with(m.stem(x)), "writes to a result that was there"),
    "writes to its input": (lambda m, x: m.stem(x.mul_(2)), "writes to a tensor of shape"),
    "an object": (lambda m, x: (m.stem(x), object()), "NumPy or Python"),
    "a counter": (lambda m, x: (m.stem(x), next(COUNTER)), "NumPy or Python"),
    "only some values": (lambda m, x: m.stem(small(x)), "for other values of its arguments it fails: large"),
}
COUNTER = iter(range(10**6))


def small(x: Tensor) -> Tensor:
    if np.abs(x.data).max() > 100:
        raise ValueError("large")
    return x


def outside_with(y: Tensor) -> Tensor:
    outside.data[...] = y.data
    return outside


def doubled(y: Tensor) -> Tensor:
    y.data *= 2
    return y


@pytest.mark.parametrize("what", UNFIT)
def test_what_is_more_than_kernels_is_called_each_time(network: Network, what: str) -> None:
    function, reason = UNFIT[what]

    def step(x: Tensor) -> Any:
        return function(network, x)

    def given(seed: int) -> Tensor:
        return Tensor(images(seed=seed).data[:, :, ::-1]) if what == "gaps" else images(seed=seed)

    compiled, calls = counted(step, warmup=1)
    with minidl.no_grad():
        minidl.manual_seed(1)
        expected = [step(given(i)) for i in range(4)]
        minidl.manual_seed(1)
        found = [compiled(given(0))]
        with pytest.warns(
            RuntimeWarning, match=f"run is not captured, but called each time: .*{reason}"
        ) as said:
            found += [compiled(given(i)) for i in range(1, 4)]
    assert len(said) == 1 and said[0].filename == __file__ and compiled.captures == 0
    if what not in ("an object", "a counter", "writes", "writes by numpy"):
        assert all(np.array_equal(plain(a), plain(b)) for a, b in zip(found, expected, strict=True))
    before = len(calls)
    with minidl.no_grad():
        compiled(given(5))
    assert len(calls) == before + 1


def plain(value: Any) -> Any:
    return value.numpy() if isinstance(value, Tensor) else value


def test_running_statistics_that_move_are_not_lost(network: Network) -> None:
    norm = nn.BatchNorm2d(3)
    step = minidl.compile_step(norm)
    with minidl.no_grad():
        step(images()), step(images())
        with pytest.warns(RuntimeWarning, match="BatchNorm2d is not captured"):
            step(images())
        step(images())
    assert norm.num_batches_tracked is not None and norm.num_batches_tracked.item() == 4


def test_steps_with_gradients_are_called_and_nothing_is_said() -> None:
    model = nn.Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = (model(x) ** 2).sum()
        loss.backward()
        optimizer.step()
        return loss

    run, calls = counted(step, warmup=1)
    for _ in range(5):
        assert run(minidl.ones(4, 3)).requires_grad
    assert len(calls) == 5 and run.captures == 0


def test_an_optimizer_step_alone_is_not_captured() -> None:
    model = nn.Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.5)
    model.weight.grad = minidl.ones(2, 3)
    start = model.weight.data.copy()

    def step(x: Tensor) -> None:
        optimizer.step()

    run = minidl.compile_step(step, warmup=1)
    with minidl.no_grad():
        run(minidl.ones(1))
        with pytest.warns(RuntimeWarning, match=r"SGD.step\(\) inside a captured step"):
            run(minidl.ones(1))
        run(minidl.ones(1))
    np.testing.assert_array_equal(model.weight.data, start - 1.5)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("change", ["load", "in place", "replace", "statistics", "mode"])
def test_weights_and_modes_that_change_make_a_new_capture(network: Network, fused: bool, change: str) -> None:
    model = minidl.fuse(network) if fused else minidl.fuse(network).requires_grad_(False)
    if not fused:
        model = Network().eval()
        model.load_state_dict(network.state_dict())
    step, calls = counted(model)
    x = images()
    with minidl.no_grad():
        first = [step(x) for _ in range(4)][-1]
        before = len(calls)
        if change == "load":
            model.load_state_dict({name: array * 2 for name, array in model.state_dict().items()})
        elif change == "in place":
            model.conv.weight.mul_(2)
        elif change == "replace":
            model.conv.weight.data = model.conv.weight.data * 2
        elif change == "statistics":
            assert model.norm2.running_mean is not None
            model.norm2.running_mean.add_(1)
        else:
            model.head.train()
        after = [step(x) for _ in range(3)][-1]
        assert same(after, model(x)) and same(after, first) is (change == "mode")
    assert len(calls) > before and step.captures == 1


def test_weights_that_change_at_every_call_are_not_captured_again_and_again(network: Network) -> None:
    fused = minidl.fuse(network)
    step, calls = counted(fused)
    for i in range(100):
        with minidl.no_grad():
            fused.head.bias.add_(1.0)  # type: ignore[union-attr]
        assert same(step(images(1, i)), fused(images(1, i)))
    assert len(calls) < 140


def test_threads_algorithm_and_autocast_are_parts_of_the_kind(network: Network) -> None:
    fused, x = minidl.fuse(network), images()
    step = minidl.compile_step(fused, warmup=1)
    expected = fused(x)

    def run() -> list[Tensor]:
        return [step(x) for _ in range(3)]

    threads = kernels.get_num_threads()
    try:
        for count in (1, 3):
            kernels.set_num_threads(count)
            assert all(same(y, expected) for y in run())
    finally:
        kernels.set_num_threads(threads)
    assert step.captures == 2
    with minidl.conv_algorithm("winograd"):
        assert all(same(y, fused(x)) for y in run())
    assert step.captures == 3
    with kernels.use("reference"):
        run()
    assert step.captures == 3


def test_python_threads_may_call_one_step(network: Network) -> None:
    fused = minidl.fuse(network)
    step = minidl.compile_step(fused)
    inputs = [images(seed=i) for i in range(4)]
    expected = [fused(x) for x in inputs]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(30):
            if not same(step(inputs[number]), expected[number]):
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong and step.captures == 1


def test_a_busy_layer_that_cannot_nest_replays_in_this_thread(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused, x = minidl.fuse(network), images()
    step = minidl.compile_step(fused)
    expected = [step(x) for _ in range(3)][-1]
    monkeypatch.setattr(runtime, "_layer", "workqueue")
    with runtime._layer_lock:
        assert same(step(x), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_replays_on_one_thread(network: Network) -> None:
    fused, x = minidl.fuse(network), images()
    step = minidl.compile_step(fused)
    expected = [step(x) for _ in range(3)][-1]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                code = 0 if same(step(x), expected) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_error_in_the_step_is_the_callers_and_leaves_nothing(network: Network) -> None:
    fused, failing = minidl.fuse(network), [False]

    def step(x: Tensor) -> Tensor:
        y = fused(x)
        if failing[0]:
            raise KeyError("mine")
        return y

    run, x = minidl.compile_step(step), images()
    run(x), run(x)
    failing[0] = True
    with pytest.raises(KeyError, match="mine"):
        run(x)
    assert run.captures == 0
    failing[0] = False
    assert same(run(x), fused(x)) and run.captures == 1


def test_a_step_inside_a_step_is_a_part_of_it(network: Network) -> None:
    fused = minidl.fuse(network)
    inner = minidl.compile_step(fused, warmup=1)
    outer = minidl.compile_step(lambda x: inner(x), warmup=3)
    for i in range(6):
        assert same(outer(images(seed=i)), fused(images(seed=i)))
    assert (inner.captures, outer.captures) == (1, 1)


def test_a_copy_of_a_step_begins_without_captures(network: Network) -> None:
    step, x = minidl.compile_step(minidl.fuse(network), warmup=1), images()
    expected = [step(x) for _ in range(3)][-1]
    copied = copy.deepcopy(step)
    assert (step.captures, copied.captures) == (1, 0)
    copied.function.head.weight.data[...] = 0
    found = [copied(x) for _ in range(3)][-1]
    assert copied.captures == 1 and same(step(x), expected) and not same(found, expected)


def test_arrays_arrive_as_arrays_and_results_may_be_inputs_or_constants(network: Network) -> None:
    fused, kept = minidl.fuse(network), minidl.full((2,), 3.0)

    def step(pixels: np.ndarray, scale: float) -> Any:
        assert isinstance(pixels, np.ndarray)
        x = Tensor(pixels)
        return [fused(x), x, kept, scale, None, "text"]

    run, calls = counted(step)
    for i in range(5):
        x = images(seed=i)
        y, given, constant, *rest = run(x.numpy(), 0.5)
        assert (
            same(y, fused(x))
            and same(given, x)
            and constant.tolist() == [3, 3]
            and rest == [0.5, None, "text"]
        )
    assert len(calls) == FUSED_CALLS and run.captures == 1


def test_many_kinds_of_arguments_are_called_and_one_warning_says_so(network: Network) -> None:
    run = minidl.compile_step(lambda x, n: network.stem(x), warmup=1)
    x = images()
    with (
        minidl.no_grad(),
        pytest.warns(RuntimeWarning, match="captured for 16 kinds of arguments already") as said,
    ):
        for i in range(20):
            for _ in range(2):
                run(x, i)
    assert len(said) == 1 and run.captures == 16


def test_a_predictor_replays_for_who_asks_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minidl.training.predict.REPLAYED_AFTER", 3)
    network = minidl.models.create("resnet20")
    options = {"classes": [str(n) for n in range(10)], "preprocessing": network.pretrained_cfg.to_dict()}
    predictor = Predictor(Checkpoint(state=network.state_dict(), model="resnet20", options={}, **options))
    rng = np.random.default_rng(0)
    for calls in range(6):
        picture = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        assert len(predictor._replays) == (calls > 3)
        found = predictor.predict([picture])
        again = Predictor(Checkpoint(state=network.state_dict(), model="resnet20", options={}, **options))
        np.testing.assert_array_equal(found, again.predict([picture]))
