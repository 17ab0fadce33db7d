"""Launches on the emulated device: arguments are checked, kernels run, faults name the line."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

from minidl.kernels.cuda.device import Function
from minidl.kernels.emulator import EmulatedDevice, KernelFault
from minidl.kernels.emulator.device import addressed
from tests.kernels.emulator.needs import emulator

pytestmark = emulator

CODE = """
struct Pair { int a; float b; };
extern "C" __global__ void fill(float* y, int n, Pair p, double d, bool flag, long long big) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = p.a + p.b + d + flag + big;
}
"""
PAIR = np.dtype([("a", np.int32), ("b", np.float32)])


@pytest.fixture(scope="module")
def device() -> EmulatedDevice:
    return EmulatedDevice()


@pytest.fixture(scope="module")
def fill(device: EmulatedDevice) -> Function:
    return device.compile("fill.cu", code=CODE)["fill"]


def test_a_vector_addition(device: EmulatedDevice) -> None:
    add = device.compile("elementwise.cu")["add_float"]
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 1000)).astype(np.float32)
    c = device.empty(1000, np.float32)
    device.launch(add, 4, 256, (a, b, c, 1000))
    np.testing.assert_array_equal(c, a + b)


def test_reading_past_the_end_names_thread_and_line(device: EmulatedDevice) -> None:
    add = device.compile("elementwise.cu")["add_float"]
    a, b, c = (np.zeros(1000, np.float32) for _ in range(3))
    with pytest.raises(
        KernelFault,
        match=r"(?s)block \(3,0,0\) thread \(232,0,0\): read of 4 bytes.* past the end of an array of "
        r"4000 bytes.*at elementwise\.cu:\d+: if \(i < n\)",
    ):
        device.launch(add, 4, 256, (a, b, c, 1001))


def test_numbers_and_structs_are_converted_to_what_the_kernel_declares(
    device: EmulatedDevice, fill: Function
) -> None:
    y = device.empty(5, np.float32)
    pair = np.array((2, 0.5), PAIR)
    device.launch(fill, 1, 32, (y, np.int64(5), pair, np.float32(0.25), True, 2**33))
    np.testing.assert_array_equal(y, np.full(5, np.float32(2.5 + 0.25 + 1 + 2**33)))


GOOD = (np.zeros(5, np.float32), 5, np.zeros((), PAIR), 0.5, False, 1)


@pytest.mark.parametrize(
    ("position", "value", "error", "message"),
    [
        (1, 2**31, OverflowError, r"fill: argument 1 expects an int of 4 bytes, got 2147483648"),
        (1, 2.0, TypeError, "argument 1 expects an int of 4 bytes, got the float 2.0"),
        (1, np.zeros(3, np.int32), TypeError, "argument 1 expects int of 4 bytes, got an array"),
        (2, np.zeros((), [("a", np.int32)]), TypeError, r"argument 2 expects 8 bytes, got .*i4"),
        (3, "x", TypeError, "argument 3 expects an array or a number, got str"),
        (0, np.zeros((4, 4), np.float32)[:, ::2], ValueError, "argument 0 expects a C-contiguous array"),
    ],
)
def test_an_argument_of_another_kind_is_refused(
    device: EmulatedDevice,
    fill: Function,
    position: int,
    value: object,
    error: type[Exception],
    message: str,
) -> None:
    args = [*GOOD[:position], value, *GOOD[position + 1 :]]
    with pytest.raises(error, match=message):
        device.launch(fill, 1, 32, args)


def test_the_number_of_arguments_is_checked(device: EmulatedDevice, fill: Function) -> None:
    with pytest.raises(TypeError, match=r"fill in fill\.cu: expects 6 arguments, got 5"):
        device.launch(fill, 1, 32, GOOD[:5])


def test_a_null_pointer_is_named(device: EmulatedDevice, fill: Function) -> None:
    with pytest.raises(KernelFault, match="write of 4 bytes through a null pointer"):
        device.launch(fill, 1, 32, (None, *GOOD[1:]))


@pytest.mark.parametrize(
    ("grid", "block", "message"),
    [
        (0, 32, "grid expects 1 to 3 sizes"),
        (1, 1025, "block expects"),
        (1, (64, 32), "at most 1024 threads"),
        ((1, 70000), 32, "grid expects"),
        (1, (), "block expects 1 to 3 sizes"),
    ],
)
def test_a_launch_that_hardware_would_refuse_is_refused(
    device: EmulatedDevice, fill: Function, grid: object, block: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        device.launch(fill, grid, block, GOOD)  # type: ignore[arg-type]


def test_an_unknown_kernel_is_named_with_those_there_are(device: EmulatedDevice) -> None:
    with pytest.raises(KeyError, match=r"fill\.cu has no kernel 'none'; it has fill"):
        device.compile("fill.cu", code=CODE)["none"]


def test_too_much_shared_memory_is_refused(device: EmulatedDevice, fill: Function) -> None:
    with pytest.raises(ValueError, match="fill: 200000 bytes of shared memory, the device allows"):
        device.launch(fill, 1, 32, GOOD, shared_bytes=200000)


def test_threads_may_ask_for_addresses_while_others_launch(device: EmulatedDevice) -> None:
    kept = [np.zeros(1) for _ in range(3000)]
    for array in kept:
        device.address(array)
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            for array in [np.zeros(1) for _ in range(50)]:
                device.address(array)

    interval = sys.getswitchinterval()
    other = threading.Thread(target=ask)
    sys.setswitchinterval(1e-6)
    other.start()
    try:
        for _ in range(300):
            found = {id(array) for array in addressed()}
            assert found.issuperset(map(id, kept))
    finally:
        done.set()
        other.join()
        sys.setswitchinterval(interval)
