"""``cupy_device.py`` over the module that stands for CuPy.

``pytest --device fake`` runs the tests of devices and kernels in that way too."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import minidl
from minidl.kernels import capturing, devices
from minidl.kernels.cuda import nvrtc
from minidl.kernels.cuda.device import CUDAError, OutOfMemory
from minidl.nn import functional as F
from tests import target
from tests.kernels.cuda import fake_cupy
from tests.kernels.emulator.needs import emulator
from tests.minidl.devices.test_capture import OPTIMIZERS, trained

pytestmark = [
    emulator,
    pytest.mark.skipif(target.name != "emulated", reason="the fake would replace --device"),
]


@pytest.fixture(autouse=True)
def cards(monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_cupy.Cards]:
    fake_cupy.install(monkeypatch)
    yield fake_cupy.cards


def card() -> Any:
    return devices.place("cuda")


def test_a_layer_gives_the_cpus_output_and_gradients() -> None:
    x, w = minidl.randn(2, 3, 6, 5), minidl.randn(4, 3, 3, 3)
    found = []
    for device in ("cpu", "cuda"):
        weight = w.clone().to(device).requires_grad_(True)
        y = F.relu(F.conv2d(x.to(device), weight, padding=1))
        F.cross_entropy(y.mean((2, 3)), [1, 3]).backward()
        assert weight.grad is not None and weight.grad.device == ("cuda:0" if device == "cuda" else device)
        found.append((y.cpu().detach().numpy(), weight.grad.cpu().numpy()))
    for cpu, cuda in zip(*found, strict=True):
        np.testing.assert_allclose(cuda, cpu, rtol=1e-5, atol=1e-5)
    assert card().device.launches > 4


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (2, 3, 4, 5)])
def test_arrays_keep_their_shape_and_layout(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).transpose(range(len(shape))[::-1])
    there = card().put(x)
    assert there.shape == x.shape and there.strides == x.strides
    back = card().get(there)
    assert back.strides == x.strides
    np.testing.assert_array_equal(back, x)


def test_a_copy_does_not_see_what_its_source_becomes() -> None:
    x = np.ones(4, np.float32)
    there = card().put(x)
    x[:] = 7
    assert card().get(there).tolist() == [1.0] * 4
    card().write(there, x)
    x[:] = 9
    assert card().get(there).tolist() == [7.0] * 4
    with pytest.raises(ValueError, match=r"a copy to cuda:0: the array there is float32 \(4,\)"):
        card().write(there, x.astype(np.float64))


def test_a_batch_that_was_sent_is_there_once_it_is_received() -> None:
    batch = card().staging((2, 3), np.float32)
    batch[...] = 5
    receive = card().send(batch.T)
    arrived = receive()
    assert card().get(arrived).tolist() == [[5.0] * 2] * 3
    assert arrived.strides == batch.T.strides


def test_a_training_captured_as_a_graph_is_the_same_bit_for_bit(cards: fake_cupy.Cards) -> None:
    plain, captured = (trained(OPTIMIZERS["adamw"], "cuda", compiled) for compiled in (False, True))
    assert cards.graphs == 4
    for key, array in plain.items():
        np.testing.assert_array_equal(captured[key], array, err_msg=key)


def test_what_cupy_refuses_in_a_capture_is_told_and_ends_it(cards: fake_cupy.Cards) -> None:
    def step(x: minidl.Tensor) -> minidl.Tensor:
        x.data.data.copy_from_host_async(0, x.nbytes, cards.streams[-1])
        return x

    x = minidl.ones(2, device="cuda")
    with pytest.raises(minidl.CaptureError, match=r"the step cannot be captured: .* H2D transfers"):
        capturing.Capture(card()).record(lambda: step(x))
    assert len(cards.streams) == 1 and (x + 1).tolist() == [2.0, 2.0]


def test_a_capture_that_an_error_made_invalid_is_ended(cards: fake_cupy.Cards) -> None:
    used: list[Any] = []

    def step() -> None:
        used.append(cards.streams[-1])
        used[0].invalid = True
        used[0].is_capturing()

    with pytest.raises(
        minidl.CaptureError, match=r"the step cannot be captured: .* has invalidated the capture"
    ):
        capturing.Capture(card()).record(step)
    assert used[0].recording is None and len(cards.streams) == 1


def test_more_shared_memory_is_asked_for_once(cards: fake_cupy.Cards) -> None:
    code = (
        'extern "C" __global__ void last(float* y, int n) {'
        " extern __shared__ float s[]; s[n] = 3.0f; y[0] = s[n]; }"
    )
    device = card().device
    kernel = device.compile("last.cu", code=code)["last"]
    y = device.empty(1, np.float32)
    for _ in range(2):
        device.launch(kernel, 1, 1, (y, 15000), 60032)
    assert list(cards.shared.values()) == [60032]
    assert card().get(y).tolist() == [3.0]
    with pytest.raises(ValueError, match=r"last: 200000 bytes of shared memory, cuda:0 allows 98304"):
        device.launch(kernel, 1, 1, (y, 15000), 200000)


def test_a_launch_that_the_driver_refuses_names_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    device = card().device
    kernel = device.compile("one.cu", code='extern "C" __global__ void one(float* y) { y[0] = 1; }')["one"]

    def refuse(*args: Any, **options: Any) -> None:
        raise fake_cupy.CUDADriverError("CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure")

    monkeypatch.setattr(fake_cupy.Function, "__call__", refuse)
    with pytest.raises(
        CUDAError, match=r"one: not started on cuda:0 with grid \(2, 1, 1\), block \(1, 1, 1\)"
    ):
        device.launch(kernel, 2, 1, (device.empty(1, np.float32),))


def test_without_a_driver_the_reason_is_told(cards: fake_cupy.Cards) -> None:
    cards.count = None
    assert minidl.cuda.device_count() == 0
    with pytest.raises(
        devices.DeviceError, match="finds no usable graphics card: cudaErrorInsufficientDriver"
    ):
        minidl.ones(1).to("cuda")


def test_a_package_that_does_not_load_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.delitem(sys.modules, "minidl.kernels.cuda.cupy_device")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert minidl.cuda.device_count() == 0
    with pytest.raises(ImportError):
        devices.place("cuda")


def test_a_card_that_is_not_there_is_counted(cards: fake_cupy.Cards) -> None:
    with pytest.raises(devices.DeviceError, match=r"no device 'cuda:2'; this machine has 2 graphics cards"):
        devices.place("cuda:2")


def test_two_cards_do_not_mix() -> None:
    there = devices.place("cuda:1").put(np.ones(4, np.float32))
    assert devices.of(there).name == "cuda:1"
    with pytest.raises(ValueError, match=r"argument 0 is on cuda:1, the kernel runs on cuda:0"):
        card().backend.relu(there)


def test_a_stream_is_current_in_its_block_and_waits_for_another(cards: fake_cupy.Cards) -> None:
    side, done = minidl.cuda.Stream("cuda"), []
    with minidl.cuda.stream(side):
        assert cards.streams[-1] is side._stream.stream
        cards.streams[-1].start(lambda: done.append(1))
    assert cards.streams[-1] is not side._stream.stream and not done
    minidl.cuda.current_stream("cuda").wait_stream(side)
    assert done == [1]


def test_a_stream_of_the_second_card_is_used_on_that_card(cards: fake_cupy.Cards) -> None:
    side, before = minidl.cuda.Stream("cuda:1"), minidl.cuda.current_stream("cuda:1")
    side.wait_stream(before)
    with minidl.cuda.stream(side):
        assert (
            cards.device == 1 and minidl.cuda.current_stream("cuda:1")._stream.stream is side._stream.stream
        )
        assert minidl.cuda.current_stream("cuda:0")._stream.stream is not side._stream.stream
    before.wait_stream(side)
    minidl.cuda.current_stream("cuda:0").wait_stream(side)
    assert cards.device == 0 and len(cards.streams) == 1


def test_a_batch_that_nobody_received_keeps_its_memory_until_it_has_arrived() -> None:
    batch = card().staging((2, 3), np.float32)
    receive = card().send(batch)
    del receive, batch
    card()._copies.synchronize()  # the fake would say that memory was given back
    card().put(np.ones(3))
    assert len(card()._under_way) == 1


def test_what_another_thread_copies_is_no_part_of_a_recording() -> None:
    x, found = minidl.ones(2, device="cuda"), []

    def run() -> minidl.Tensor:
        other = threading.Thread(target=lambda: found.append(card()._thread.recording))
        other.start()
        other.join()
        found.append(card()._thread.recording)
        return x + 1

    capturing.Capture(card()).record(run)
    assert found == [False, True] and not card()._thread.recording


def test_no_room_is_told_with_the_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_cupy.MemoryPool, "limit", 1000)
    with pytest.raises(
        OutOfMemory, match=r"cuda:0: no room for 0.0 MiB \(shape \(20, 20\), float32\): .* in use"
    ):
        card().device.empty((20, 20), np.float32)


@pytest.mark.parametrize(
    ("capability", "expected"), [(80, "sm_80"), (90, "sm_90a"), (91, "sm_90"), (139, "compute")]
)
def test_code_is_made_for_the_card_or_for_its_driver(capability: int, expected: str) -> None:
    device = card().device
    device.compute_capability = capability
    assert device.architecture.startswith(expected)


def test_a_card_that_is_too_old_is_told() -> None:
    device = card().device
    device.compute_capability = 30
    with pytest.raises(CUDAError, match=rf"NVRTC {nvrtc.version()[0]}.* makes no code for cuda:0 \(sm_30\)"):
        print(device.architecture)
