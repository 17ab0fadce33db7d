"""Freezing: no gradients below, batch norms held in eval mode, and all of it undone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from minidl import kernels, nn, optim
from minidl.tensor import Tensor


@pytest.fixture(autouse=True)
def reference_kernels() -> Iterator[None]:
    with kernels.use("reference"):
        yield


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5))
        self.head = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


def images() -> Tensor:
    return Tensor(np.random.default_rng(0).standard_normal((4, 2, 6, 6)).astype(np.float32))


def statistics(module: nn.Module) -> list[np.ndarray]:
    return [buffer.data.copy() for buffer in module.buffers()]


def test_a_frozen_trunk_stays_frozen_under_its_parents_train() -> None:
    net = Net()
    net.trunk.freeze()
    net.train()
    assert [m.training for m in net.trunk] == [True, False, True] and net.head[1].training
    before, head = statistics(net.trunk), statistics(net.head)
    net(images())
    assert all(np.array_equal(a, b) for a, b in zip(before, statistics(net.trunk), strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(head, statistics(net.head), strict=True))


def test_a_frozen_trunk_has_no_backward_graph() -> None:
    net = Net()
    net.trunk.freeze()
    features = net.trunk(images())
    assert not features.requires_grad and features.is_leaf
    net(images()).sum().backward()
    assert all(p.grad is None for p in net.trunk.parameters())
    assert all(p.grad is not None for p in net.head.parameters())


def test_freezing_with_moving_statistics_is_possible() -> None:
    net = Net()
    net.trunk.freeze(bn="train")
    before = statistics(net.trunk)
    net.train()(images())
    assert not any(np.array_equal(a, b) for a, b in zip(before, statistics(net.trunk), strict=True))
    assert not any(p.requires_grad for p in net.trunk.parameters())


def test_frozen_batch_norms_pass_the_gradient_to_what_lies_below() -> None:
    net = Net()
    net.freeze_norms()
    net.train()
    (net(images()) * 2.0).sum().backward()
    for name, parameter in net.named_parameters():
        norm = ".1." in name
        assert (parameter.grad is None) == norm and parameter.requires_grad != norm
        assert norm or np.any(parameter.grad.data != 0)


def test_frozen_statistics_with_trainable_scales() -> None:
    net = Net()
    net.freeze_norms(affine=False)
    net.train()(images()).sum().backward()
    assert not net.trunk[1].training and net.trunk[1].weight.grad is not None


def test_freeze_and_unfreeze_are_idempotent_and_undo_each_other() -> None:
    net = Net()
    net.freeze().freeze()
    net.train()
    assert not any(p.requires_grad for p in net.parameters()) and not net.trunk[1].training
    net.unfreeze().unfreeze()
    assert all(p.requires_grad for p in net.parameters()) and net.trunk[1].training
    net.freeze().unfreeze(bn="eval").train()
    assert net.trunk[0].weight.requires_grad and not net.trunk[1].weight.requires_grad
    assert not net.trunk[1].training and net.trunk[2].training
    net.eval().unfreeze()
    assert not net.trunk[1].training, "unfreezing in eval mode must not start training mode"


def test_freezing_drops_gradients_so_that_no_optimizer_moves_a_frozen_parameter() -> None:
    net = Net()
    net(images()).sum().backward()
    net.trunk.freeze()
    assert all(p.grad is None for p in net.trunk.parameters())
    optimizer = optim.SGD(net.parameters(), lr=1.0, momentum=0.9, weight_decay=0.1)
    stray = net.trunk[0].weight
    stray.grad = Tensor(np.ones_like(stray.data))
    before = stray.data.copy()
    optimizer.step()
    assert np.array_equal(stray.data, before)


def test_wrong_modes_are_refused() -> None:
    for call in (Net().freeze, Net().unfreeze):
        with pytest.raises(ValueError, match="bn must be 'eval' or 'train', got 'on'"):
            call("on")
    with pytest.raises(TypeError, match="mode must be a bool"):
        Net().train("yes")
