"""Batches on their way to a device, and training on them with a captured step."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import minidl
from minidl import CaptureError, nn, optim
from minidl.data import ArrayDataset, DataLoader
from minidl.errors import MinidlError
from minidl.kernels import devices
from minidl.kernels.emulator import KernelFault
from minidl.training.trainer import DivergedError, Trainer
from tests import target


def loader(device: str | None, **options: Any) -> DataLoader:
    images = np.random.default_rng(0).integers(0, 256, (22, 6, 6, 3)).astype(np.uint8)
    data = ArrayDataset(images, np.arange(22) % 3, list("abc"))
    return DataLoader(data, 4, shuffle=True, device=device, **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_arrive_as_they_are_in_main_memory(device: str, workers: int) -> None:
    here, there = list(loader(None, num_workers=workers)), list(loader(device, num_workers=workers))
    assert len(there) == 6
    for (images, labels), (images_there, labels_there) in zip(here, there, strict=True):
        assert images_there.device == labels_there.device == device
        assert images_there.stride() == images.stride()
        np.testing.assert_array_equal(images_there.cpu().numpy(), images.numpy(), strict=True)
        np.testing.assert_array_equal(labels_there.cpu().numpy(), labels, strict=True)


def test_the_next_batch_is_sent_before_one_is_used(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = devices.place(device)
    send, sent = place.send, []
    monkeypatch.setattr(place, "send", lambda array: sent.append(array.shape) or send(array))
    batches = loader(device, num_workers=0).iterate()
    next(batches)
    assert len(sent) == 4  # images and labels of two batches
    assert len(list(batches)) == 5 and len(sent) == 12


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_is_raised_at_its_own_batch(device: str, workers: int) -> None:
    whole, broken = loader(device, num_workers=workers), loader(device, num_workers=workers)
    read, last = broken._read, int(broken.order()[8])

    def fail(index: int) -> Any:
        if index == last:
            raise OSError("no such image")
        return read(index)

    broken._read = fail
    found = []
    with pytest.raises(MinidlError, match="no such image"):
        for images, labels in broken:
            found.append((images.tolist(), labels.tolist()))
    assert found == [(images.tolist(), labels.tolist()) for images, labels in whole][:2]
    assert broken.epoch == 0


def test_a_batch_is_not_taken_inside_a_captured_step(device: str) -> None:
    batches = loader(device, num_workers=0).iterate()
    step = minidl.compile_step(lambda x: x + next(batches)[0], warmup=1)
    x = minidl.zeros(4, 3, 6, 6, device=device)
    step(x)
    with pytest.raises(CaptureError, match="a batch taken from a DataLoader inside a captured step"):
        step(x)


@pytest.mark.skipif(target.name != "emulated", reason="a card would give what lay in that memory")
def test_a_batch_that_is_used_before_it_arrived_is_noticed() -> None:
    place = devices.place("emulated")
    receive = place.send(np.ones((2, 4), np.float32))
    early = inspect.getclosurevars(receive).nonlocals["copy"]
    with pytest.raises(KernelFault, match="nobody wrote"):
        place.backend.relu(early)
    assert place.backend.relu(receive()).tolist() == [[1.0] * 4] * 2


def trainer(device: str, capture: bool, scale: float = 1.0) -> Trainer:
    minidl.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    model.to(device)
    model[4].weight.data *= scale
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = optim.StepLR(optimizer, 4)
    batches = loader(device, num_workers=0)
    return Trainer(
        model, optimizer, batches, batches, list("abc"), scheduler=scheduler, clip_norm=1.0, capture=capture
    )


def test_a_captured_training_has_the_same_history(device: str) -> None:
    plain, captured = trainer(device, False), trainer(device, True)
    for one, other in zip(plain.fit(3), captured.fit(3), strict=True):
        assert (one.train_loss, one.train_accuracy, one.val_loss, one.lr) == (
            other.train_loss,
            other.train_accuracy,
            other.val_loss,
            other.lr,
        )
    assert captured._captured is not None and captured._captured.captures == 2  # the last batch is smaller
    for key, array in plain.model.state_dict().items():
        np.testing.assert_array_equal(captured.model.state_dict()[key], array, err_msg=key)


def test_a_loss_that_is_not_finite_ends_a_captured_training(device: str) -> None:
    with pytest.raises(DivergedError, match="the training loss became nan"):
        trainer(device, True, float("nan")).fit(1)


def test_on_the_cpu_nothing_is_captured() -> None:
    assert trainer("cpu", True)._captured is None
