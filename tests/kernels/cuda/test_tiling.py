"""Which tiling a product gets: by rule, and by timing on a device that has a clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from minidl.kernels import folders
from minidl.kernels.cuda import tiling, tuning
from minidl.kernels.cuda.families import Families
from minidl.kernels.cuda.launch import divisor
from minidl.kernels.cuda.tiling import NARROW, TILINGS, Tiling
from minidl.kernels.emulator import EmulatedDevice
from tests.kernels.cuda.on_device import F32, normal
from tests.kernels.emulator.needs import emulator


class Clock(EmulatedDevice):
    """A device on which the tilings with the fewest threads are the fastest."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.has_clock = "test card", True
        self.measured = 0
        self.block = 0

    def launch(self, function, grid, block, args, shared_bytes=0) -> None:  # type: ignore[no-untyped-def]
        self.block = block
        if function.name.startswith("conv2d"):
            return
        super().launch(function, grid, block, args, shared_bytes)

    def elapsed(self, run: Callable[[], None]) -> float:
        self.measured += 1
        run()
        return float(self.block)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No tilings are known yet; compiled kernels are."""
    place = SimpleNamespace(writable=lambda name: tmp_path, write_atomically=folders.write_atomically)
    monkeypatch.setattr(tuning, "folders", place)
    monkeypatch.setattr(tuning, "_tables", {})
    monkeypatch.delenv("MINIDL_TUNE", raising=False)


def convolve(device: EmulatedDevice) -> None:
    w = normal(1, F32, 4, 1, 1, 4)
    Families(device).conv2d(normal(0, F32, 1, 2, 2, 4), w, None, (1, 1), ((0, 0), (0, 0)), (1, 1), 1)


@emulator
def test_the_fastest_tiling_is_measured_once_and_kept_on_disk(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Clock()
    convolve(device)
    assert device.measured == len(TILINGS["FMA"])
    assert device.block == min(t.threads for t in TILINGS["FMA"])
    convolve(device)
    assert device.measured == len(TILINGS["FMA"])
    monkeypatch.setattr(tuning, "_tables", {})  # another process
    again = Clock()
    convolve(again)
    assert again.measured == 0 and again.block == device.block
    (file,) = tmp_path.glob("tiles-test-card-80-*.json")
    file.write_text("{ damaged")
    monkeypatch.setattr(tuning, "_tables", {})
    convolve(again)
    assert again.measured == len(TILINGS["FMA"])


@emulator
def test_tuning_can_be_turned_off(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIDL_TUNE", "0")
    device = Clock()
    convolve(device)
    assert device.measured == 0


def test_large_products_get_large_tiles_and_small_ones_fill_the_device() -> None:
    device = EmulatedDevice()
    device.multiprocessors = 132
    table = tiling.candidates(device, "TENSOR", 2, 8)
    assert tiling.choose(device, table, 200704, 256, 1, splits=False).bm == 128
    assert tiling.choose(device, table, 784, 256, 1, splits=False) == table[-1]
    assert tiling.choose(device, table, 64, 576, 1, splits=True).bm == 64
    assert tiling.candidates(device, "TENSOR", 2, 1) == (NARROW,)


def test_a_split_covers_the_reduced_index() -> None:
    device = EmulatedDevice()
    for length in (1, 100, 4096, 100_000):
        for tiles in (1, 3, 500):
            splits, each = tiling.split(device, NARROW, tiles, length, 2)
            assert splits * each >= length > (splits - 1) * each
            assert each % (NARROW.slice_bytes // 2) == 0


def test_every_tiling_fits_the_shared_memory_of_its_architecture() -> None:
    for capability, limit in ((75, 64), (80, 163), (86, 99), (89, 99), (90, 227)):
        device = EmulatedDevice()
        device.compute_capability, device.shared_limit = capability, limit * 1024
        for tile in (*sum(TILINGS.values(), ()), NARROW):
            if tile.wgmma and capability != 90:
                continue
            fitted = tiling.fit(device, tile)
            assert fitted.shared_bytes + 8 * fitted.bm <= limit * 1024
            assert fitted.stages >= (3 if tile.wgmma else 2)


def test_a_divisor_divides_every_int() -> None:
    numbers = np.array([0, 1, 2, 3, 99, 2**16, 2**30 - 1, 2**31 - 1], np.uint64)
    for value in (1, 2, 3, 7, 28, 49, 3136, 2**16 + 1, 2**30, 2**31 - 1):
        around = np.unique(
            np.concatenate([numbers, numbers // value * value, numbers // value * value + value - 1])
        )
        around = around[around < 2**31]
        v, factor, shift = divisor(value)
        assert v == value and factor < 2**32
        quotient = around if value == 1 else (around * np.uint64(factor) >> np.uint64(32)) >> np.uint64(shift)
        np.testing.assert_array_equal(quotient, around // np.uint64(value))


def test_a_forced_tiling_is_used_inside_the_block_only() -> None:
    device, tile = EmulatedDevice(), Tiling(32, 32, 16, 16, 3, 1)
    with tiling.force(tile):
        assert tiling.candidates(device, "FMA", 4, 4) == (tile,)
    assert len(tiling.candidates(device, "FMA", 4, 4)) == 3
