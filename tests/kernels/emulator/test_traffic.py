"""Counts of sectors and bank conflicts, on kernels whose counts are known."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from minidl.kernels import devices
from minidl.kernels.emulator import EmulatedDevice, Traffic
from tests.kernels.emulator.needs import emulator

pytestmark = emulator

CODE = """
extern "C" __global__ void spread(const float* __restrict__ x, float* __restrict__ y, int stride) {
  const float v = x[threadIdx.x * stride];
  y[threadIdx.x] = v;
}
extern "C" __global__ void turn(const float* __restrict__ x, float* __restrict__ y, int pitch) {
  extern __shared__ float tile[];
  for (int i = 0; i < 32; i++) tile[i * pitch + threadIdx.x] = x[i * 32 + threadIdx.x];
  __syncwarp();
  for (int i = 0; i < 32; i++) y[i * 32 + threadIdx.x] = tile[threadIdx.x * pitch + i];
}
"""


@pytest.fixture(scope="module")
def device() -> EmulatedDevice:
    return EmulatedDevice()


def _line(rows: list[Traffic], line: int, memory: str) -> Traffic:
    (row,) = [r for r in rows if r.line == line and r.memory == memory]
    return row


@pytest.mark.parametrize(("stride", "sectors"), [(1, 4), (2, 8), (8, 32), (64, 32)])
def test_sectors_grow_with_the_stride(device: EmulatedDevice, stride: int, sectors: int) -> None:
    module = device.compile("traffic.cu", code=CODE)
    x, y = device.empty(32 * stride, np.float32), device.empty(32, np.float32)
    x[...] = 0
    with device.count_traffic() as rows:
        device.launch(module["spread"], 1, 32, (x, y, stride))
    load = _line(rows, 3, "global")
    assert (load.accesses, load.ideal, load.real, load.bytes_per_lane) == (1, 4, sectors, 4)
    assert _line(rows, 4, "global").real == 4


@pytest.mark.parametrize("order", ["C", "F"])
def test_new_memory_begins_where_a_cards_does(order: Literal["C", "F"]) -> None:
    xp = devices.place("emulated").xp
    kept = []
    for shape, dtype in [((3, 5), np.float32), ((7,), np.int8), ((), np.float64), ((0, 2), np.float16)] * 3:
        array = xp.empty(shape, dtype, order)
        kept.append(array)
        assert (array.host.ctypes.data % 256 == 0 or not array.size) and array.base is None
        assert (array.shape, array.dtype) == (shape, dtype)
        assert array.strides == np.empty(shape, dtype, order).strides
        assert array.flags.f_contiguous if order == "F" else array.flags.c_contiguous
        for fresh in (array, xp.empty_like(array)):
            assert set(fresh.host.tobytes("A")) <= {0xFE, 0xFF}


@pytest.mark.parametrize(("pitch", "wavefronts"), [(32, 32), (33, 1), (34, 2)])
def test_a_padded_pitch_takes_the_bank_conflicts_away(
    device: EmulatedDevice, pitch: int, wavefronts: int
) -> None:
    module = device.compile("traffic.cu", code=CODE)
    x = np.arange(1024, dtype=np.float32)
    y = np.zeros(1024, np.float32)
    with device.count_traffic() as rows:
        device.launch(module["turn"], 1, 32, (x, y, pitch), 32 * pitch * 4)
    np.testing.assert_array_equal(y.reshape(32, 32), x.reshape(32, 32).T)
    read, write = _line(rows, 10, "shared"), _line(rows, 8, "shared")
    assert (read.accesses, read.real) == (32, 32 * wavefronts)
    assert write.real == write.ideal == 32
    assert ("times the ideal" in str(read)) == (wavefronts > 1)
