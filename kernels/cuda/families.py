"""All families of own kernels in one class, over any device."""

from __future__ import annotations

from typing import Any

from minidl.kernels.cuda.conv import ConvMixin
from minidl.kernels.cuda.device import Device
from minidl.kernels.cuda.elementwise import ElementwiseMixin
from minidl.kernels.cuda.gemm import GemmMixin
from minidl.kernels.cuda.norm import NormMixin
from minidl.kernels.cuda.optim import OptimMixin
from minidl.kernels.cuda.pool import PoolMixin
from minidl.kernels.cuda.rows import LossMixin, StandardiseMixin
from minidl.kernels.cuda.scatter import ScatterMixin
from minidl.kernels.reference.checks import Array


class Families(
    ConvMixin,
    GemmMixin,
    PoolMixin,
    NormMixin,
    StandardiseMixin,
    LossMixin,
    ElementwiseMixin,
    ScatterMixin,
    OptimMixin,
):
    """Every kernel of docs/architecture.md on one device. What no family here overrides, and dtypes that no kernel
    takes, the reference computes with the device's array module."""

    name = "cuda"

    def __init__(self, device: Device) -> None:
        super().__init__(device.xp)
        self.device = device

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """An uninitialised C-contiguous array on the device."""
        return self.device.empty(shape, dtype)
