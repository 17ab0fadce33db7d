"""Tensors on a device: moving, mixing, printing, copying, gradients across devices."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import numpy as np
import pytest

import minidl
from minidl import Tensor, nn
from minidl.kernels import devices
from minidl.nn import functional as F


def test_a_tensor_moves_there_and_back(device: str) -> None:
    x = minidl.randn(2, 3, 4, 5).permute(0, 3, 1, 2)
    y = x.to(device)
    assert (x.device, y.device, y.cpu().device) == ("cpu", device, "cpu")
    assert y.stride() == x.stride() and y.dtype == x.dtype
    np.testing.assert_array_equal(y.cpu().numpy(), x.numpy())
    assert y.to(device) is y and x.cpu() is x
    assert x.to(y).device == device
    z = x.to(device, minidl.float64)
    assert (z.device, z.dtype) == (device, np.float64)


def test_gradients_flow_across_devices(device: str) -> None:
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = x.to(device) * 3
    (y.cpu() * Tensor([1.0, 10.0])).sum().backward()
    assert x.grad is not None and x.grad.device == "cpu"
    assert x.grad.tolist() == [3.0, 30.0]


def test_a_leaf_there_has_its_gradient_there(device: str) -> None:
    x = minidl.tensor([1.0, 2.0], requires_grad=True, device=device)
    (x * x).sum().backward()
    assert x.grad is not None and x.grad.device == device
    assert x.grad.tolist() == [2.0, 4.0]


def test_tensors_of_two_devices_do_not_mix_but_numbers_do(device: str) -> None:
    x = minidl.ones(2, 3, device=device)
    with pytest.raises(ValueError, match=rf"two devices: shape \(2, 3\) on {device}, shape \(3,\) on cpu"):
        x + minidl.ones(3)
    assert (x + minidl.tensor(2.0)).tolist() == [[3.0] * 3] * 2
    assert (minidl.tensor(2.0) * x).device == device
    assert (1 - x).device == device


def test_an_operator_with_inputs_on_two_devices_says_so(device: str) -> None:
    with pytest.raises((TypeError, ValueError), match="device"):
        minidl.ones(2, 3, device=device) @ minidl.ones(3, 2)
    with pytest.raises(ValueError, match=rf"linear: weight is on device cpu, x is on {device}; move one"):
        F.linear(minidl.ones(2, 3, device=device), minidl.ones(4, 3))
    with pytest.raises(ValueError, match=rf"conv2d: weight is on device {device}, x is on cpu"):
        nn.Conv2d(1, 1, 1).to(device)(minidl.ones(1, 1, 2, 2))


def test_numpy_wants_main_memory(device: str) -> None:
    x = minidl.ones(2, device=device)
    with pytest.raises(TypeError, match=rf"numpy: this tensor is on {device}; use \.cpu\(\)\.numpy\(\)"):
        x.numpy()
    with pytest.raises(TypeError, match="use"):
        np.asarray(x)
    assert x.tolist() == [1.0, 1.0] and x[0].item() == 1.0


def test_a_tensor_there_prints_its_device(device: str) -> None:
    assert repr(minidl.tensor([1.5], device=device)) == f"tensor([1.5], device='{device}')"


def test_indices_and_masks_may_come_from_anywhere(device: str) -> None:
    x = minidl.arange(6, dtype=minidl.float32, device=device).reshape(2, 3)
    assert x[:, np.array([2, 0])].tolist() == [[2.0, 0.0], [5.0, 3.0]]
    assert x[minidl.tensor([1])].tolist() == [[3.0, 4.0, 5.0]]
    assert x[x > 3].tolist() == [4.0, 5.0]
    assert x[np.array([[True, False, True], [False] * 3])].tolist() == [0.0, 2.0]
    x[0, 1:] = 7.0
    assert x.tolist() == [[0.0, 7.0, 7.0], [3.0, 4.0, 5.0]]
    assert minidl.where(np.array([True, False]), x[:, 0], -1.0).tolist() == [0.0, -1.0]


def test_creation_takes_a_device_or_the_default_one(device: str) -> None:
    for make in (minidl.zeros, minidl.ones, minidl.empty, minidl.randn, minidl.rand):
        assert make(2, device=device).device == device
    assert minidl.full((2,), 3, device=device).device == device
    assert minidl.zeros_like(minidl.ones(2, device=device)).device == device
    with minidl.default_device(device):
        assert minidl.arange(3).device == device
        assert minidl.tensor([1.0]).device == device
        assert minidl.zeros(1, device="cpu").device == "cpu"
    assert minidl.arange(3).device == "cpu"


def test_random_numbers_do_not_depend_on_the_device(device: str) -> None:
    minidl.manual_seed(3)
    here = minidl.randn(5)
    minidl.manual_seed(3)
    assert minidl.randn(5, device=device).tolist() == here.tolist()


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({}, {"is_causal": True}),
        ({"add_zero_attn": True, "add_bias_kv": True}, {}),
        ({}, {"key_padding_mask": np.array([[True, False, False], [False] * 3])}),
        ({}, {"attn_mask": np.arange(9, dtype=np.float32).reshape(3, 3)}),
    ],
    ids=["causal", "appended keys", "missing keys", "added scores"],
)
def test_attention_takes_masks_from_main_memory(
    device: str, options: dict[str, bool], given: dict[str, Any]
) -> None:
    x = minidl.randn(2, 3, 4)
    attention = nn.MultiheadAttention(4, 2, batch_first=True, **options)
    with minidl.no_grad():
        expected = [y.numpy() for y in attention(x, x, x, **given) if y is not None]
        x, attention = x.to(device), attention.to(device)
        found = [y.cpu().numpy() for y in attention(x, x, x, **given) if y is not None]
    for y, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(y, right, rtol=1e-4, atol=1e-6)


def test_an_array_is_overwritten_by_its_like_alone(device: str) -> None:
    place = devices.place(device)
    there = place.put(np.zeros((2, 3), np.float32))
    place.write(there, np.ones((2, 3), np.float32))
    assert place.get(there).tolist() == [[1.0] * 3] * 2
    for other in (np.ones(3, np.float32), np.ones((2, 3))):
        with pytest.raises(ValueError, match=rf"a copy to {device}: the array there is float32 \(2, 3\)"):
            place.write(there, other)


def test_copies_stay_on_the_device(device: str) -> None:
    x = minidl.ones(2, device=device, requires_grad=True)
    assert copy.deepcopy(x).device == device
    assert x.detach().clone().device == device


def test_in_place_operators_write_there(device: str) -> None:
    x = minidl.zeros(3, device=device)
    x += 1
    x.mul_(3)
    x[1] = 0.0
    assert x.device == device and x.tolist() == [3.0, 0.0, 3.0]


@pytest.mark.parametrize("name", ["xpu", "cuda:x", "gpu", "", None, 3])
def test_a_name_of_no_device_is_refused(name: object) -> None:
    with pytest.raises(ValueError, match="is not available: expects 'cpu', 'cuda', 'cuda:1' or 'emulated'"):
        devices.canonical(name)


def test_without_cupy_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_places", {"cpu": devices.place("cpu")})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"CuPy, which is not installed: pip install 'minidl\[cuda13\]'"):
        minidl.ones(1).to("cuda")
