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


def test_work_on_another_stream_is_waited_for(device: str) -> None:
    x = minidl.tensor([1.0, 2.0], device=device)
    side = minidl.cuda.Stream(device)
    side.wait_stream(minidl.cuda.current_stream(device))
    with minidl.cuda.stream(side):
        y = minidl.relu(x + x)
    minidl.cuda.current_stream(device).wait_stream(side)
    z = y + x
    side.synchronize()
    assert side.device == device and z.tolist() == [3.0, 6.0]


def test_a_stream_waits_for_streams_only(device: str) -> None:
    with pytest.raises(TypeError, match=r"wait_stream: other expects a minidl\.cuda\.Stream, got str"):
        minidl.cuda.Stream(device).wait_stream("side")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="device 'gpu' is not available"):
        minidl.cuda.Stream("gpu")


def test_a_card_that_is_not_there_is_told_by_name() -> None:
    if minidl.cuda.device_count() > 7:
        pytest.skip("this machine has eight cards")
    with pytest.raises((ImportError, devices.DeviceError), match=r"CuPy|no device 'cuda:7'"):
        minidl.ones(1).to("cuda:7")
