"""``minidl.cuda``: asking about cards never fails, whatever is installed."""

from __future__ import annotations

import importlib.util

import pytest

import minidl
from minidl.kernels import devices


def test_a_machine_is_asked_without_an_error() -> None:
    assert minidl.cuda.device_count() >= 0
    assert minidl.cuda.is_available() == (minidl.cuda.device_count() > 0)


def test_without_cupy_there_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not minidl.cuda.is_available()


def test_a_device_is_waited_for_and_its_memory_counted(device: str) -> None:
    x = minidl.ones(4, device=device)
    before = minidl.cuda.memory_stats(device)
    (x + x).sum()
    minidl.cuda.synchronize(device)
    minidl.cuda.empty_cache(device)
    assert set(minidl.cuda.memory_stats(device)) == set(before)
    if device == "emulated":
        assert minidl.cuda.memory_stats(device)["launches"] > before["launches"]
    assert "in_use" in minidl.cuda.memory_stats("cpu")


def test_a_card_that_is_not_there_is_told_by_name() -> None:
    if minidl.cuda.device_count() > 7:
        pytest.skip("this machine has eight cards")
    with pytest.raises((ImportError, devices.DeviceError), match=r"CuPy|no device 'cuda:7'"):
        minidl.ones(1).to("cuda:7")
