"""The CUDA back end, put together from one class per family of kernels."""

from __future__ import annotations

from typing import Any

from minidl.kernels.cuda.device import Array, Device
from minidl.kernels.reference import ReferenceBackend


class CUDABackend(ReferenceBackend):
    """Every kernel of docs/architecture.md on one device; what no family here overrides is the reference's, computed by
    the device's array module."""

    name = "cuda"

    def __init__(self, device: Device) -> None:
        super().__init__(device.xp)
        self.device = device

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """An uninitialised C-contiguous array on the device."""
        return self.device.empty(shape, dtype)
