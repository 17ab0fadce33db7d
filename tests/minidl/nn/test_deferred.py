"""Deferred results: fewer kernels, and otherwise nothing that could be noticed."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest

import minidl
from minidl import kernels, nn
from minidl.autograd.mode import deferring
from minidl.kernels.cpu import CPUBackend
from minidl.nn import functional as F
from minidl.ops import deferred
from minidl.tensor import Tensor


class Block(nn.Module):
    """A residual block in the styles that people write."""

    STYLES: ClassVar[tuple[str, ...]] = (
        "function",
        "module",
        "in place",
        "method",
        "fused",
        "shortcut first",
    )

    def __init__(self, channels: int, style: str) -> None:
        super().__init__()
        self.style = style
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "function":
            return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))
        if self.style == "method":
            return self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).add(self.shortcut(x)).relu()
        if self.style == "fused":
            y = self.bn1(self.conv1(x), relu=True)
            return self.bn2(self.conv2(y), residual=self.shortcut(x), relu=True)
        if self.style == "shortcut first":
            y = F.relu(self.bn1(self.conv1(x)))
            return F.relu(self.shortcut(x) + self.bn2(self.conv2(y)))
        identity = x
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        identity = self.shortcut(x)
        if self.style == "module":
            out = out + identity
        else:
            out += identity
        return self.relu(out)


def counted(monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]) -> list[str]:
    """A list to which the named kernels of the CPU back end add their names when called."""
    calls: list[str] = []

    def counting(name: str, kernel: Any) -> Any:
        def count(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return kernel(*args, **kwargs)

        return count

    for name in names:
        monkeypatch.setattr(CPUBackend, name, counting(name, getattr(CPUBackend, name)))
    return calls


def numbers(*shape: int, seed: int = 1, dtype: Any = np.float64) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def trained(style: str, defer: bool) -> list[np.ndarray]:
    """Output, statistics, first and second derivatives of two training passes through a block."""
    minidl.manual_seed(0)
    model = Block(3, style).double()
    results = []
    for seed in (1, 2):
        x = Tensor(numbers(2, 3, 5, 5, seed=seed), requires_grad=True)
        # outside of a module's call each layer's result is computed when the layer returns
        y = model(x) if defer else model.forward(x)
        grads = minidl.grad((y * y).sum(), [x, *model.parameters()], create_graph=True)
        total = sum(((g * g).sum() for g in grads[1:]), (grads[0] * grads[0]).sum())
        second = minidl.grad(total, [x, *model.parameters()])
        results += [t.detach().numpy() for t in (y, *grads, *second)]
    return results + [b.numpy().copy() for b in model.buffers()]


@pytest.mark.parametrize("style", Block.STYLES)
def test_values_and_derivatives_are_those_of_the_operators_one_by_one(style: str) -> None:
    with kernels.use("reference"):
        for a, b in zip(trained(style, True), trained(style, False), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("style", Block.STYLES)
def test_training_runs_one_kernel_for_norm_addition_and_relu(
    style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch, ("batch_norm_apply", "batch_norm_backward", "relu", "relu_backward"))
    model = Block(4, style)
    y = model(Tensor(numbers(2, 4, 6, 6, dtype=np.float32)))
    (y * y).mean().backward()
    assert calls == ["batch_norm_apply"] * 3 + ["batch_norm_backward"] * 3
    assert all(p.grad is not None for p in model.parameters())


@pytest.fixture
def inside() -> Iterator[None]:
    """As inside the call of a module."""
    with deferring():
        yield


def norm(x: Tensor, **options: Any) -> Tensor:
    return F.batch_norm(x, None, None, training=True, **options)


def plain(x: Tensor) -> np.ndarray:
    centred = x.data - x.data.mean((0, 2, 3), keepdims=True)
    out: np.ndarray = centred / np.sqrt((centred**2).mean((0, 2, 3), keepdims=True) + 1e-5)
    return out


def is_deferred(t: Tensor) -> bool:
    return type(t) is deferred.Deferred


def test_shape_and_dtype_are_known_before_the_array(inside: None) -> None:
    y = norm(Tensor(numbers(2, 3, 4, 4)))
    assert (y.shape, y.ndim, y.dtype) == ((2, 3, 4, 4), 4, np.float64)
    assert is_deferred(y)
    assert isinstance(y, Tensor)
    assert y.data.shape == (2, 3, 4, 4)
    assert type(y) is Tensor


def test_what_is_held_elsewhere_keeps_its_place_in_the_graph(inside: None) -> None:
    x = Tensor(numbers(2, 3, 4, 4), requires_grad=True)
    y = norm(x)
    z = F.relu(y)
    loss = (z * z).sum()
    (gy,) = minidl.grad(loss, y, retain_graph=True)
    np.testing.assert_allclose(gy.numpy(), 2 * np.maximum(plain(x), 0))
    y.retain_grad()
    loss.backward()
    assert y.grad is not None
    np.testing.assert_array_equal(y.grad.numpy(), gy.numpy())


def test_a_hook_on_a_deferred_tensor_is_called(inside: None) -> None:
    x = Tensor(numbers(2, 3, 4, 4), requires_grad=True)
    y = norm(x)
    called = []
    y.register_hook(lambda g: called.append(g.shape))
    F.relu(y).sum().backward()
    assert called == [(2, 3, 4, 4)]


def test_writing_to_an_input_comes_after_what_was_deferred(inside: None) -> None:
    x, shortcut = Tensor(numbers(2, 3, 4, 4)), Tensor(numbers(2, 3, 4, 4, seed=2))
    y = norm(x)
    z = F.relu(norm(x) + shortcut)
    first, second = plain(x), np.maximum(plain(x) + shortcut.data, 0)
    shortcut += 1
    x[0] = 0
    np.testing.assert_allclose(y.data, first)
    np.testing.assert_allclose(z.data, second)


def test_adding_in_place_changes_one_name_only_where_others_took_the_value_before(inside: None) -> None:
    x, other = Tensor(numbers(2, 3, 4, 4)), Tensor(numbers(2, 3, 4, 4, seed=2))
    y = norm(x)
    same, clipped = y, F.relu(y)
    y += other
    assert y is same
    np.testing.assert_allclose(clipped.data, np.maximum(plain(x), 0))
    np.testing.assert_allclose(y.data, plain(x) + other.data)
    z = norm(x)
    z += z
    np.testing.assert_allclose(z.data, 2 * plain(x))
    z = norm(x)
    z += 1
    np.testing.assert_allclose(z.data, plain(x) + 1)
    z = norm(x)
    z += Tensor(numbers(3, 1, 1))
    np.testing.assert_allclose(z.data, plain(x) + numbers(3, 1, 1))


def test_two_deferred_terms_and_several_shapes_add_up(inside: None) -> None:
    x = Tensor(numbers(2, 3, 4, 4))
    np.testing.assert_allclose((norm(x) + norm(x)).data, 2 * plain(x))
    y = norm(x)
    np.testing.assert_allclose((y + y).data, 2 * plain(x))
    np.testing.assert_allclose((norm(x) + numbers(4)).data, plain(x) + numbers(4))
    np.testing.assert_allclose((2.0 + norm(x)).data, plain(x) + 2)
    np.testing.assert_allclose(
        F.relu(F.relu(norm(x)) + x).data, np.maximum(np.maximum(plain(x), 0) + x.data, 0)
    )
    np.testing.assert_allclose((F.relu(norm(x)) + F.relu(norm(x))).data, 2 * np.maximum(plain(x), 0))
    np.testing.assert_allclose(norm(x, residual=x).relu().data, np.maximum(plain(x) + x.data, 0))
    np.testing.assert_allclose((norm(x, residual=x) + x).data, plain(x) + 2 * x.data)
    np.testing.assert_allclose(norm(x).add(x, alpha=2).data, plain(x) + 2 * x.data)
    mixed = norm(x) + Tensor(x.data.astype(np.float32))
    assert mixed.dtype == np.float64


def test_recording_is_decided_where_the_operator_is_called(inside: None) -> None:
    x = Tensor(numbers(2, 3, 4, 4), requires_grad=True)
    with minidl.no_grad():
        y = norm(x)
    assert not y.requires_grad
    z = norm(x)
    with minidl.no_grad():
        assert not F.relu(z).requires_grad
        assert z.requires_grad


def test_copies_and_pickles_hold_the_values(inside: None) -> None:
    x = Tensor(numbers(2, 3, 4, 4))
    for take in (copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))):
        taken = take(norm(x))
        assert type(taken) is Tensor
        np.testing.assert_allclose(taken.data, plain(x))


def test_nothing_is_deferred_outside_of_a_module_or_after_its_call() -> None:
    x = Tensor(numbers(2, 3, 4, 4, dtype=np.float32))
    assert not is_deferred(norm(x))
    kept: list[Tensor] = []

    class Keeps(nn.Module):
        def __init__(self, fail: bool) -> None:
            super().__init__()
            self.fail = fail
            self.bn = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.bn(x)
            kept.append(y)
            assert is_deferred(y)
            if self.fail:
                raise ArithmeticError
            return y

    y = Keeps(False)(x)
    assert kept[0] is y
    assert type(y) is Tensor
    with pytest.raises(ArithmeticError):
        Keeps(True)(x)
    assert type(kept[1]) is Tensor
    assert not deferred.mode.deferring
    assert deferred.mode.pending == []


def test_anomaly_detection_watches_the_single_operators() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())
    names: list[str] = []
    with minidl.detect_anomaly():
        y = model(Tensor(numbers(2, 3, 4, 4, dtype=np.float32), requires_grad=True))
    node = y.grad_fn
    while isinstance(node, minidl.Function):
        names.append(node.name)
        node = next(edge[0] for edge in node._edges if edge is not None)
    assert names == ["ReLU", "BatchNorm"]


def test_a_checkpointed_block_gives_the_same_gradients() -> None:
    results = []
    for wrap in (lambda m, x: m(x), minidl.checkpoint):
        minidl.manual_seed(0)
        model = nn.Sequential(Block(3, "in place"), Block(3, "function"))
        x = Tensor(numbers(2, 3, 5, 5, dtype=np.float32), requires_grad=True)
        wrap(model, x).sum().backward()
        results.append([x.grad.numpy(), *[p.grad.numpy() for p in model.parameters()]])  # type: ignore[union-attr]
        results[-1] += [b.numpy() for b in model.buffers()]
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_many_deferred_tensors_leave_no_list_behind(inside: None) -> None:
    x = Tensor(numbers(2, 3, 2, 2))
    for _ in range(3 * deferred.CROWDED):
        norm(x)
    assert len(deferred.mode.pending) <= deferred.CROWDED


def test_threads_defer_each_for_itself(inside: None) -> None:
    x = Tensor(numbers(2, 3, 4, 4))
    y = norm(x)
    found: list[Any] = []

    def other() -> None:
        found.append(is_deferred(norm(x)))
        found.append(y.data)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert found[0] is False
    np.testing.assert_allclose(found[1], plain(x))


class Autoencoder(nn.Module):
    """Convolutions with biases and ReLUs, transposed ones, and a path around them."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.same = nn.Conv2d(4, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1)
        self.odd = nn.ConvTranspose2d(3, 3, 2, stride=3, output_padding=2)

    def forward(self, x: Tensor) -> Tensor:
        code = self.down(x).relu()
        code = F.relu(self.same(code) + code)
        return F.relu(self.odd(F.relu(self.up(code) + x)))


def test_biases_and_relus_run_in_the_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(
        monkeypatch, ("relu", "relu_backward", "add", "channel_sums", "conv2d", "conv2d_input_grad")
    )
    model = Autoencoder()
    y = model(Tensor(numbers(2, 3, 6, 6, dtype=np.float32), requires_grad=True))
    assert calls == ["conv2d"] * 2 + ["conv2d_input_grad"] * 2
    del calls[:]
    y.backward(Tensor(numbers(*y.shape, dtype=np.float32)))
    # Two gradients reach the code and the input each; the convolutions add the second one.
    assert sorted(calls) == ["channel_sums"] * 4 + ["conv2d"] * 2 + ["conv2d_input_grad"] * 2


def test_derivatives_of_an_autoencoder_are_those_of_its_operators_one_by_one() -> None:
    results = []
    for defer in (True, False):
        minidl.manual_seed(0)
        model = Autoencoder().double()
        x = Tensor(numbers(2, 3, 6, 6), requires_grad=True)
        with kernels.use("reference"):
            y = model(x) if defer else model.forward(x)
            inputs = [x, *model.parameters()]
            first = minidl.grad((y * y).sum(), inputs, retain_graph=True)
            recorded = minidl.grad((y * y).sum(), inputs, create_graph=True)
            second = minidl.grad(sum(((g * g).sum() for g in recorded[1:]), recorded[0].sum()), inputs)
        results.append([t.detach().numpy() for t in (y, *first, *recorded, *second)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_gradients_of_a_tensor_with_several_readers_add_up() -> None:
    weights = [Tensor(numbers(3, 3, 3, 3, seed=i), requires_grad=True) for i in range(3)]
    x = Tensor(numbers(1, 3, 5, 5), requires_grad=True)
    total = sum(((F.conv2d(x, w, padding=1) ** 2).sum() for w in weights), (x * x).sum())
    expected = 2 * x.detach().numpy()
    for w in weights:
        one = Tensor(x.detach().numpy(), requires_grad=True)
        (F.conv2d(one, w, padding=1) ** 2).sum().backward()
        assert one.grad is not None
        expected = expected + one.grad.numpy()
    total.backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-9)
    assert type(x.grad) is Tensor
    assert deferred.mode.pending == []
