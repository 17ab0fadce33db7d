"""Copies between devices."""

from __future__ import annotations

from typing import Any

from minidl.autograd import Function
from minidl.kernels import devices
from minidl.tensor import Tensor

__all__ = ["to_device"]

Array = Any


class ToDevice(Function):
    """A copy on another device; the gradient is copied back."""

    def __init__(self, device: str) -> None:
        self.device = device

    def forward(self, x: Array) -> Array:
        self.origin = devices.of(x).name
        return devices.move(x, self.device)

    def backward(self, grad: Tensor) -> Tensor:
        return ToDevice(self.origin)(grad)


def to_device(x: Tensor, device: str) -> Tensor:
    """x on a device; x itself when it is there.

    Raises:
        ImportError, minidl.kernels.devices.DeviceError: the device is not there; the message says what it needs.
    """
    return x if devices.place(device).holds(x.data) else ToDevice(device)(x)
