"""Every part of an adaptation computes on a device what it computes on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import minidl
from minidl import nn, optim
from minidl.adaptation import AdaptSettings
from minidl.adaptation.batch_norm import adapt_batch_norms
from minidl.adaptation.domains import PairOfBatches
from minidl.adaptation.report import look
from minidl.adaptation.self_training import SelfTraining
from minidl.adaptation.trainer import AdaptationTrainer, Mixing, Parts
from minidl.training import Reporter

CLASSES = ["a", "b", "c"]


class Network(nn.Module):
    """Small enough for a device that is played by the processor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: minidl.Tensor) -> minidl.Tensor:
        return self.fc(self.bn(self.conv(x)).flatten(1))


def network(device: str) -> Network:
    minidl.manual_seed(3)
    return Network().to(device)


def images(seed: int, count: int = 5) -> minidl.Tensor:
    pixels = np.random.default_rng(seed).standard_normal((count, 2, 2, 3)).astype(np.float32)
    return minidl.Tensor(pixels.transpose(0, 3, 1, 2))


class Pairs:
    """Two batches of labelled, target and weakly augmented images."""

    def __len__(self) -> int:
        return 2

    def set_epoch(self, epoch: int) -> None:
        pass

    def iterate(self, start: int = 0) -> Iterator[tuple[PairOfBatches, np.ndarray]]:
        for step in range(start, 2):
            yield PairOfBatches(images(step), images(step + 2), images(step + 4)), np.arange(5) % 3


def trained_on(device: str, method: str) -> dict[str, np.ndarray]:
    """All weights after an epoch of the method, with self-training and mixing on top."""
    model = network(device)
    chosen = AdaptSettings("-", method=method, align_weight=5.0, weights="-")
    alignment = chosen.alignment(16)
    if alignment is not None:
        alignment.to(device)
    teacher = SelfTraining(model, threshold=0.0, balance=True, classes=3)
    parts = Parts(model, alignment, teacher)
    trainer = AdaptationTrainer(
        *(parts, "fc", 2, optim.SGD(parts.parameters(), lr=0.1), Pairs(), None, CLASSES),
        alignment=alignment,
        self_training=teacher,
        mixing=Mixing(0.5, True, 0),
    )
    trainer.fit(1)
    assert next(teacher.teacher.parameters()).device == next(model.parameters()).device == device
    return parts.state_dict()


@pytest.mark.parametrize("method", ["coral", "mmd", "dann", "infomax"])
def test_training_on_both_domains_gives_the_cpus_weights(method: str, device: str) -> None:
    expected, start = trained_on("cpu", method), network("cpu").state_dict()
    assert not np.allclose(expected["model.conv.weight"], start["conv.weight"], atol=1e-3)
    for name, array in trained_on(device, method).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_statistics_and_reports_are_the_cpus(device: str) -> None:
    class Batches(Pairs):
        def iterate(self, start: int = 0) -> Iterator[tuple[minidl.Tensor, np.ndarray]]:  # type: ignore[override]
            yield from ((images(step), np.arange(5) % 3) for step in range(2))

    models = network("cpu"), network(device)
    for model, place in zip(models, ("cpu", device), strict=True):
        adapt_batch_norms(model, (images(step).to(place) for step in range(2)), prior=3.0)
    expected, found = (model.state_dict() for model in models)
    assert abs(expected["bn.running_mean"]).max() > 0.01
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
    here, there = (look(model, "fc", Batches(), Reporter(), "") for model in models)
    np.testing.assert_allclose(there.features, here.features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(there.logits, here.logits, rtol=1e-4, atol=1e-5)
