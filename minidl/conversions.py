"""Tensors of other dtypes: conversions, and new tensors like this one."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl.kernels import devices

if TYPE_CHECKING:
    from minidl.tensor import Tensor

__all__ = ["Conversions"]

int_ = int  # the class below has a method of that name

_ops: Any = None


def install(ops: ModuleType) -> None:
    """Called when :mod:`minidl.ops` is there (imports point upwards only)."""
    global _ops
    _ops = ops


def _creation() -> Any:
    from minidl import creation  # which imports the tensor

    return creation


class Conversions:
    """A part of :class:`minidl.Tensor`."""

    __slots__ = ()

    data: Any

    def _self(self) -> Tensor:
        return self  # type: ignore[return-value]

    def to(self, *targets: Any, dtype: Any = None, device: str | None = None) -> Tensor:
        """To a dtype, a device (``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"emulated"``), both, or those of another tensor.

        Differentiable. The tensor itself when it is so already.

        Raises:
            ImportError, minidl.kernels.devices.DeviceError: the device is not there; the message says what it needs.
        """
        for target in targets:
            if not isinstance(target, str) and hasattr(target, "requires_grad"):
                dtype, device = target.dtype, target.device
            elif devices.is_name(target):
                device = target
            else:
                dtype = target
        if dtype is None and device is None:
            raise TypeError("to: expects a dtype, a device or a tensor")
        moved = self._self() if device is None else _ops.to_device(self, device)
        return moved if dtype is None else _ops.cast(moved, dtype)

    def type(self, dtype: Any = None) -> Any:
        """The dtype, or the tensor in another dtype."""
        return self.data.dtype if dtype is None else self.to(dtype)

    def cpu(self) -> Tensor:
        """This tensor in main memory: itself if it is there."""
        return self.to("cpu")

    def cuda(self, index: int_ = 0) -> Tensor:
        """This tensor on a graphics card: itself if it is there."""
        return self.to(f"cuda:{index}")

    def float(self) -> Tensor:
        """To float32."""
        return self.to(np.float32)

    def double(self) -> Tensor:
        """To float64."""
        return self.to(np.float64)

    def half(self) -> Tensor:
        """To float16."""
        return self.to(np.float16)

    def bfloat16(self) -> Tensor:
        """To bfloat16 (needs ``ml_dtypes``)."""
        return self.to("bfloat16")

    def long(self) -> Tensor:
        """To int64."""
        return self.to(np.int64)

    def int(self) -> Tensor:
        """To int32."""
        return self.to(np.int32)

    def bool(self) -> Tensor:
        """To bool: whether each element is not 0."""
        return self.to(np.bool_)

    def contiguous(self) -> Tensor:
        """This tensor if its elements lie in memory in the order of their indices, else a copy that does."""
        return self._self() if self.data.flags.c_contiguous else _ops.contiguous(self)

    def type_as(self, other: Tensor) -> Tensor:
        """In the dtype of another tensor."""
        return self.to(other.dtype)

    def new_tensor(self, data: Any, dtype: Any = None) -> Tensor:
        """A tensor of a copy of ``data``, in this tensor's dtype unless another is given."""
        return _creation().tensor(data, dtype=dtype or self.data.dtype, device=self._self().device)

    def new_zeros(self, *shape: Any, dtype: Any = None) -> Tensor:
        """Zeros of a shape, in this tensor's dtype unless another is given."""
        return _creation().zeros(*shape, dtype=dtype or self.data.dtype, device=self._self().device)

    def new_ones(self, *shape: Any, dtype: Any = None) -> Tensor:
        """Ones of a shape, in this tensor's dtype unless another is given."""
        return _creation().ones(*shape, dtype=dtype or self.data.dtype, device=self._self().device)

    def new_full(self, shape: Sequence[Any], value: Any, dtype: Any = None) -> Tensor:
        """A shape filled with ``value``, in this tensor's dtype unless another is given."""
        return _creation().full(shape, value, dtype=dtype or self.data.dtype, device=self._self().device)
