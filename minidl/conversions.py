"""Tensors of other dtypes: conversions, and new tensors like this one."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from minidl.tensor import Tensor

__all__ = ["Conversions"]

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

    def to(self, target: Any) -> Tensor:
        """To a dtype (differentiable), to another tensor's dtype, or to a device (``"cpu"`` is the one there is)."""
        if not isinstance(target, str) and hasattr(target, "requires_grad"):
            target = target.dtype
        elif isinstance(target, str) and target.split(":")[0] in ("cpu", "cuda", "gpu", "mps"):
            if target.split(":")[0] != "cpu":
                raise ValueError(
                    f"to: device {target!r} is not available; this version of minidl computes on 'cpu'"
                )
            return self._self()
        return _ops.cast(self, target)

    def type(self, dtype: Any = None) -> Any:
        """The dtype, or the tensor in another dtype."""
        return self.data.dtype if dtype is None else self.to(dtype)

    def cpu(self) -> Tensor:
        """This tensor: there is no other device."""
        return self._self()

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
        return _creation().tensor(data, dtype=dtype or self.data.dtype)

    def new_zeros(self, *shape: Any, dtype: Any = None) -> Tensor:
        """Zeros of a shape, in this tensor's dtype unless another is given."""
        return _creation().zeros(*shape, dtype=dtype or self.data.dtype)

    def new_ones(self, *shape: Any, dtype: Any = None) -> Tensor:
        """Ones of a shape, in this tensor's dtype unless another is given."""
        return _creation().ones(*shape, dtype=dtype or self.data.dtype)

    def new_full(self, shape: Sequence[Any], value: Any, dtype: Any = None) -> Tensor:
        """A shape filled with ``value``, in this tensor's dtype unless another is given."""
        return _creation().full(shape, value, dtype=dtype or self.data.dtype)
