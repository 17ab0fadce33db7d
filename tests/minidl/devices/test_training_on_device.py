"""Networks on a device: a training step gives the CPU's weights; states are saved and loaded from anywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import minidl
from minidl import models, nn, optim, weights
from minidl.nn import functional as F

OPTIMIZERS: dict[str, Callable[[nn.Module], optim.Optimizer]] = {
    "sgd": lambda m: optim.SGD(m.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True),
    "adamw": lambda m: optim.AdamW(m.parameters(), lr=1e-3),
    "rmsprop": lambda m: optim.RMSprop(m.parameters(), lr=1e-4, momentum=0.9),
}


def network() -> nn.Module:
    minidl.manual_seed(1)
    return models.create("resnet20", num_classes=5, layers=[1, 1, 1])


def batch(number: int) -> tuple[minidl.Tensor, np.ndarray]:
    rng = np.random.default_rng(number)
    images = rng.standard_normal((3, 12, 12, 3)).astype(np.float32)
    return minidl.Tensor(images.transpose(0, 3, 1, 2)), rng.integers(0, 5, 3)


def train(model: nn.Module, make: Callable[[nn.Module], optim.Optimizer], steps: int) -> list[float]:
    optimizer = make(model)
    losses = []
    for number in range(steps):
        images, labels = batch(number)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images.to(next(model.parameters()).device)), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_training_steps_of_a_resnet_give_the_cpus_weights(name: str, device: str) -> None:
    here, there = network(), network().to(device)
    losses = train(here, OPTIMIZERS[name], 2)
    np.testing.assert_allclose(train(there, OPTIMIZERS[name], 2), losses, rtol=1e-5)
    assert {t.device for t in (*there.parameters(), *there.buffers())} == {device}
    expected = here.state_dict()
    for key, array in there.state_dict().items():
        assert isinstance(array, np.ndarray)
        scale = float(np.abs(expected[key]).max())
        np.testing.assert_allclose(array, expected[key], rtol=1e-3, atol=1e-4 * scale, err_msg=key)


def test_an_evaluated_and_a_fused_network_give_the_cpus_logits(device: str) -> None:
    model = network().eval()
    images, _ = batch(0)
    with minidl.no_grad():
        expected = model(images).numpy()
        there = model.to(device)
        np.testing.assert_allclose(there(images.to(device)).cpu().numpy(), expected, rtol=1e-4, atol=1e-5)
        fused = minidl.fuse(there)
        np.testing.assert_allclose(fused(images.to(device)).cpu().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_network_fused_in_bfloat16_gives_nearly_the_cpus_results(device: str) -> None:
    minidl.manual_seed(1)
    first, depthwise = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8)
    model = nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), depthwise, nn.BatchNorm2d(8))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # so that the folded bias, which is float32, is not 0
            assert module.bias is not None and module.running_mean is not None
            module.bias.data[:] = np.linspace(-0.3, 0.4, module.num_features)
            module.running_mean.data[:] = np.linspace(0.2, -0.1, module.num_features)
    images, _ = batch(0)
    with minidl.no_grad():
        expected = minidl.fuse(model.eval(), "bfloat16")(images).float().numpy()
        found = minidl.fuse(model.to(device), "bfloat16")(images.to(device)).float().cpu().numpy()
    # biases stay float32 there and are rounded here, and so is each layer's result
    np.testing.assert_allclose(found, expected, atol=2.0**-7 * np.abs(expected).max())


def test_weights_and_optimizer_state_pass_between_devices(device: str, tmp_path: Path) -> None:
    there = network().to(device)
    optimizer = OPTIMIZERS["sgd"](there)
    images, labels = batch(0)
    F.cross_entropy(there(images.to(device)), labels).backward()
    optimizer.step()
    weights.save(there.state_dict(), tmp_path / "w.safetensors")
    here = network()
    here.load_state_dict(weights.load(tmp_path / "w.safetensors"))
    for key, array in there.state_dict().items():
        np.testing.assert_array_equal(here.state_dict()[key], array)
    other = OPTIMIZERS["sgd"](here)
    other.load_state_dict(optimizer.state_dict())
    back = OPTIMIZERS["sgd"](there)
    back.load_state_dict(other.state_dict())
    assert np.array_equal(
        other.state_dict()["arrays"]["0.momentum_buffer"],
        optimizer.state_dict()["arrays"]["0.momentum_buffer"],
    )
    assert there.to("cpu").state_dict().keys() == here.state_dict().keys()
    assert next(there.parameters()).device == "cpu"


def test_gradients_move_with_their_parameters(device: str) -> None:
    model = nn.Linear(3, 2)
    model(minidl.ones(1, 3)).sum().backward()
    model.to(device)
    assert model.weight.grad is not None and model.weight.grad.device == device
    assert model.weight.grad.tolist() == [[1.0] * 3] * 2
