"""The CPU back end, put together from one class per family of kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from minidl.kernels.cpu import memory
from minidl.kernels.cpu.conv_again import RepeatedConvMixin
from minidl.kernels.cpu.conv_pool import ConvPoolMixin
from minidl.kernels.cpu.elementwise import ElementwiseMixin
from minidl.kernels.cpu.gemm import GemmMixin
from minidl.kernels.cpu.half import HalfMixin
from minidl.kernels.cpu.loss import LossMixin
from minidl.kernels.cpu.norm import NormMixin
from minidl.kernels.cpu.optim import OptimMixin
from minidl.kernels.cpu.pair_loss import PairLossMixin
from minidl.kernels.cpu.place import PlaceMixin
from minidl.kernels.cpu.pool import PoolMixin
from minidl.kernels.reference import ReferenceBackend


class CPUBackend(
    HalfMixin,
    RepeatedConvMixin,
    ConvPoolMixin,
    GemmMixin,
    PoolMixin,
    NormMixin,
    LossMixin,
    PairLossMixin,
    ElementwiseMixin,
    OptimMixin,
    PlaceMixin,
    ReferenceBackend,
):
    """Every kernel of docs/architecture.md for NumPy arrays; what no family here overrides is the reference's."""

    name = "cpu"

    def __init__(self) -> None:
        super().__init__(np)

    def empty(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An uninitialised C-contiguous array whose memory comes from the pool."""
        return memory.empty(shape, dtype)
