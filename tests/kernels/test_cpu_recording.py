"""Recorded launches, and the memory that they use."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from minidl.kernels.cpu import memory, runtime
from minidl.kernels.cpu.recording import Recording
from minidl.kernels.cpu.runtime import address_of, kernel, launch, share


@kernel
def _scale(x: Any, factor: float, out: Any, part: int, parts: int) -> None:
    first, last = share(x.size, part, parts)
    for i in range(first, last):
        out[i] = factor * x[i]


@pytest.mark.parametrize("size", [100, 20_000])
def test_launches_are_made_again_in_order(size: int) -> None:
    x = np.arange(float(size))

    def run() -> Any:
        y = x
        for factor, parts in ((2.0, 1), (3.0, 2), (0.5, 5)):
            out = memory.empty(size, np.float64)
            launch(_scale, y, factor, out, parts=parts)
            y = out
        return y

    recording = Recording()
    y = recording.record(run)
    np.testing.assert_array_equal(y, 3 * x)
    assert recording.owns(y) and not recording.owns(x)
    x += 1
    recording.spoil()
    recording()
    np.testing.assert_array_equal(y, 3 * x)
    launch(_scale, x, 7.0, np.empty(size), parts=1)  # is not recorded any more
    recording()
    np.testing.assert_array_equal(y, 3 * x)


def test_memory_of_dead_arrays_is_used_again_inside_a_recording_only() -> None:
    recording = Recording()

    def run() -> list[int]:
        return [address_of(memory.empty(9000, np.float64)) for _ in range(3)]

    first = recording.record(run)
    assert len(set(first)) == 1
    assert address_of(memory.empty(9000, np.float64)) not in first


def test_small_arrays_and_those_taken_by_address_live_as_long_as_the_recording() -> None:
    recording = Recording()
    x = np.ones(50)
    dead: list[int] = []

    def run() -> None:
        y = x * 2
        address_of(y)
        dead.append(y.ctypes.data)
        assert recording.owns(memory.empty(3, np.float32))

    recording.record(run)
    assert any(held.ctypes.data == dead[0] for held in recording._held)


def test_a_recording_gives_its_memory_back_when_the_last_array_dies() -> None:
    gc.collect()
    before = memory.memory_stats()["in_use"]
    recording = Recording()
    y = recording.record(lambda: (memory.empty(100_000, np.float32), memory.empty(10, np.float32))[0])
    assert memory.memory_stats()["in_use"] >= before + 400_000
    del recording
    assert memory.memory_stats()["in_use"] >= before + 400_000  # y looks at it
    y[...] = 1
    del y
    gc.collect()
    assert memory.memory_stats()["in_use"] == before


def test_spoiled_memory_is_not_a_number_in_any_format() -> None:
    recording = Recording()
    recording.record(lambda: memory.empty(10_000, np.float32).fill(1))
    recording.spoil()
    block = recording._arena._blocks[0]
    found = block.raw[block.start : block.start + block.size]
    for dtype in (np.float16, np.float32, np.float64):
        assert np.isnan(found.view(dtype)).all()


def test_nothing_is_recorded_after_an_error() -> None:
    def run() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Recording().record(run)
    assert not runtime.recording() and memory._local.arena is None
