"""fuse: the same outputs by fewer kernels, for networks however they are written."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import minidl
from minidl import kernels, models, nn, optim
from minidl.nn import functional as F
from minidl.tensor import Tensor
from tests.minidl.nn.test_deferred import Block, counted

SECOND_PASSES = ("batch_norm_apply", "batch_norm_stats", "relu", "add")


def ready(model: nn.Module, seed: int = 0) -> Any:
    """The model in eval mode with statistics and affine numbers as after training."""
    rng = np.random.default_rng(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
            ):
                if tensor is not None:
                    tensor.data[...] = rng.uniform(low, high, tensor.shape)
    return model.eval()


def images(*shape: int, seed: int = 1) -> Tensor:
    return Tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def logits(model: nn.Module, x: Tensor) -> np.ndarray:
    with minidl.no_grad():
        out: np.ndarray = model(x).numpy()
    return out


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    yield counted(monkeypatch, SECOND_PASSES)


@pytest.mark.parametrize(("name", "size"), [("resnet18", 64), ("resnet50", 32), ("resnet20", 32)])
def test_a_resnet_gives_the_same_logits_by_convolutions_alone(
    name: str, size: int, passes: list[str]
) -> None:
    model = ready(models.create(name))
    x = images(2, 3, size, size)
    expected = logits(model, x)
    fused = minidl.fuse(model)
    del passes[:]
    got = logits(fused, x)
    assert passes == []
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
    assert type(fused) is type(model)


@pytest.mark.parametrize("style", Block.STYLES)
def test_a_block_is_fused_however_it_is_written(style: str, passes: list[str]) -> None:
    model = ready(nn.Sequential(Block(4, style), Block(4, style)))
    x = images(2, 4, 6, 6)
    expected = logits(model, x)
    fused = minidl.fuse(model)
    del passes[:]
    np.testing.assert_allclose(logits(fused, x), expected, rtol=1e-5, atol=1e-5)
    assert passes == []


def test_a_result_that_is_used_twice_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            z = self.bn(y)
            return F.relu(z) + y * z

    model, x = ready(Twice()), images(2, 3, 5, 5)
    expected = logits(model, x)
    calls = counted(monkeypatch, ("conv2d",))
    np.testing.assert_allclose(logits(minidl.fuse(model), x), expected, rtol=1e-5, atol=1e-6)
    assert calls == ["conv2d"]


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [nn.Conv2d(4, 6, 3, bias=True), nn.BatchNorm2d(6), nn.ReLU()],
        lambda: [nn.Conv2d(4, 4, 3, groups=4, padding=1), nn.BatchNorm2d(4, affine=False), nn.ReLU()],
        lambda: [nn.Conv2d(4, 8, 3, groups=2, stride=2, dilation=2), nn.BatchNorm2d(8, bias=False)],
        lambda: [nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(6), nn.ReLU()],
        lambda: [nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.ReLU()],
        lambda: [nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, track_running_stats=False), nn.ReLU()],
        lambda: [nn.ConvTranspose2d(4, 6, 2, stride=2), nn.BatchNorm2d(6), nn.ReLU()],
        lambda: [nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(2 * 7 * 7, 9), nn.ReLU(), nn.Linear(9, 3)],
        lambda: [nn.Conv2d(4, 6, 3), nn.Sigmoid(), nn.BatchNorm2d(6), nn.MaxPool2d(2)],
        lambda: [nn.Identity(), nn.Conv2d(4, 6, 3)],
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_other_networks_give_the_same_outputs(layers: Any, dtype: Any) -> None:
    model = ready(nn.Sequential(*layers())).to(dtype)
    x = Tensor(images(2, 4, 7, 7).numpy().astype(dtype))
    with kernels.use("reference"):
        expected = logits(model, x)
        got = logits(minidl.fuse(model), x)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 if dtype is np.float32 else 1e-12)


def test_the_original_is_untouched_and_the_state_dict_is_its_own() -> None:
    model = ready(models.create("resnet20"))
    before = model.state_dict()
    kept = copy.deepcopy(before)
    fused = minidl.fuse(model)
    logits(fused, images(1, 3, 32, 32))
    state = fused.state_dict()
    assert list(state) == list(before)
    assert all(np.array_equal(state[k], kept[k]) and np.array_equal(before[k], kept[k]) for k in kept)
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in fused.parameters())
    assert type(model.conv1) is nn.Conv2d


def test_other_weights_loaded_into_a_fused_network_are_used() -> None:
    first, second = (ready(models.create("resnet20"), seed) for seed in (3, 4))
    x = images(1, 3, 32, 32)
    fused = minidl.fuse(first)
    assert np.abs(logits(fused, x) - logits(second, x)).max() > 1e-3
    fused.load_state_dict(second.state_dict())
    np.testing.assert_allclose(logits(fused, x), logits(second, x), rtol=1e-5, atol=1e-5)


def test_gradients_through_a_fused_network_are_those_of_the_original() -> None:
    model = ready(nn.Sequential(Block(4, "method"), nn.Flatten(), nn.Linear(4 * 36, 3))).double()
    fused = minidl.fuse(model)
    data = images(2, 4, 6, 6).numpy().astype(np.float64)
    grads = []
    for network in (model, fused):
        x = Tensor(data, requires_grad=True)
        y = network(x)
        (g,) = minidl.grad((y * y).sum(), x, create_graph=True)
        (h,) = minidl.grad((g * g).sum(), x)
        grads.append((g.detach().numpy(), h.numpy()))
    for a, b in zip(*grads, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)


def test_a_fused_network_can_still_be_trained() -> None:
    model = ready(nn.Sequential(Block(4, "method"), Block(4, "in place")))
    fused = minidl.fuse(model)
    x = images(4, 4, 6, 6)
    results = []
    for network in (model, fused):
        network.requires_grad_(True).train()
        optimizer = optim.SGD(network.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            (network(x) ** 2).mean().backward()
            optimizer.step()
        network.eval()
        results.append(logits(network, x))
    np.testing.assert_array_equal(results[0], results[1])


def test_hooks_see_what_they_would_have_seen() -> None:
    model = ready(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    x = images(2, 4, 6, 6)
    fused = minidl.fuse(model)
    seen: dict[str, list[Any]] = {"model": [], "fused": []}
    for name, network in (("model", model), ("fused", fused)):
        for layer in network:
            layer.register_forward_hook(lambda _, __, y, name=name: seen[name].append(y))
        logits(network, x)
    for a, b in zip(seen["model"], seen["fused"], strict=True):
        np.testing.assert_allclose(b.numpy(), a.numpy(), rtol=1e-5, atol=1e-6)


def test_wrong_inputs_raise_the_layers_own_errors() -> None:
    fused = minidl.fuse(
        ready(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6, 2)))
    )
    with minidl.no_grad():
        with pytest.raises(ValueError, match="conv2d: weight expects 4 input channels, x has 3"):
            fused(images(1, 3, 3, 3))
        with pytest.raises(TypeError, match="conv2d: weight has dtype float32"):
            fused(Tensor(np.zeros((1, 4, 3, 3))))
        with pytest.raises(ValueError, match="linear: weight expects 6"):
            fused(images(1, 4, 4, 4))
    assert fused(images(1, 4, 3, 3)).shape == (1, 2)


def test_a_model_in_training_mode_is_refused() -> None:
    model = models.create("resnet20")
    with pytest.raises(ValueError, match=r"model must be in eval mode.*call model.eval\(\) first"):
        minidl.fuse(model)
    model.eval()
    model.layer1[0].bn1.train()
    with pytest.raises(ValueError, match=r"its 'layer1\.0\.bn1' \(BatchNorm2d\) is in training mode"):
        minidl.fuse(model)
    with pytest.raises(TypeError, match="model must be a Module, got int"):
        minidl.fuse(3)  # type: ignore[type-var]


@pytest.mark.parametrize("name", ["resnet18", "resnet20"])
def test_in_bfloat16_logits_are_near_and_float32(name: str) -> None:
    model = ready(models.create(name))
    x = images(2, 3, 64, 64)
    expected = logits(model, x)
    fused = minidl.fuse(model, "bfloat16")
    found = logits(fused, x)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= 3e-2 * np.abs(expected).max()
    assert np.abs(found - expected).max() > 1e-5 * np.abs(expected).max()  # it was bfloat16
    before, after = model.state_dict(), fused.state_dict()
    assert list(before) == list(after)
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value)


def test_in_bfloat16_other_layers_compute_in_float32() -> None:
    minidl.manual_seed(0)
    convolution = nn.Conv2d(3, 8, 3, padding=1)
    layers = [
        convolution,
        nn.GroupNorm(2, 8),
        nn.PReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.BatchNorm2d(8),
        nn.GELU(),
    ]
    model = ready(
        nn.Sequential(*layers, nn.MaxPool2d(2), nn.ConvTranspose2d(8, 4, 2), nn.Flatten(), nn.Linear(36, 5))
    )
    x = images(2, 3, 6, 6)
    expected = logits(model, x)
    found = logits(minidl.fuse(model, "bfloat16"), x)
    assert np.abs(found - expected).max() <= 3e-2 * np.abs(expected).max()


def test_fuse_refuses_other_dtypes() -> None:
    with pytest.raises(ValueError, match="dtype must be None or bfloat16, got float16"):
        minidl.fuse(nn.Conv2d(3, 4, 1).eval(), "float16")


class Stem(nn.Module):
    """A convolution, batch norm, ReLU and max pooling, written with a name for each result."""

    def __init__(self, indices: bool = False, twice: bool = False) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 32, 7, 2, 3), nn.BatchNorm2d(32)
        self.pool = nn.MaxPool2d(3, 2, 1, return_indices=indices)
        self.indices, self.twice = indices, twice

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn(self.conv(x)))
        if self.twice:
            return F.interpolate(self.pool(y), scale_factor=2) + y
        y = self.pool(y)
        return y[0] + y[1] if self.indices else y


@pytest.mark.parametrize(("options", "pools"), [({}, 0), ({"indices": True}, 1), ({"twice": True}, 1)])
def test_a_max_pooling_joins_its_convolution_if_nobody_else_looks_at_that(
    options: dict[str, bool], pools: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ready(Stem(**options))
    x = images(2, 3, 64, 64)
    expected, fused = logits(model, x), minidl.fuse(model)
    calls = counted(monkeypatch, ("max_pool2d",))
    np.testing.assert_allclose(logits(fused, x), expected, rtol=1e-5, atol=1e-5)
    assert len(calls) == pools


def test_gradients_through_a_fused_pooling_are_those_of_the_original() -> None:
    model = ready(Stem())
    grads = []
    for network in (model, minidl.fuse(model)):
        x = images(1, 3, 32, 32).requires_grad_()
        network(x).sum().backward()
        assert x.grad is not None
        grads.append(x.grad.numpy())
    np.testing.assert_allclose(grads[1], grads[0], rtol=1e-4, atol=1e-5)
