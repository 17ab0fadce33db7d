"""Rows of a table by their numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import kernels
from minidl.autograd import Function
from minidl.kernels import devices
from minidl.kernels.capturing import may_read
from minidl.ops._common import Array, constant, expect_floating, widened
from minidl.ops.elementwise import mask
from minidl.ops.promotion import beside
from minidl.tensor import Tensor

__all__ = ["embedding"]


class TakeRows(Function):
    """weight[index]: (V, D) -> (*index.shape, D); row ``skip`` gets no gradient."""

    def __init__(self, index: Array, skip: int | None = None) -> None:
        self.index, self.skip = index, skip

    def forward(self, weight: Array) -> Array:
        self.rows = weight.shape[0]
        return weight[self.index]

    def backward(self, grad: Tensor) -> Tensor:
        if self.skip is not None:
            kept = (self.index != self.skip).astype(grad.dtype)[..., None]
            grad = mask(grad, np.broadcast_to(kept, grad.shape))
        return AddRows(self.index, self.rows)(grad)


class AddRows(Function):
    """The adjoint: rows added into a table of zeros at their numbers, in a fixed order."""

    def __init__(self, index: Array, rows: int) -> None:
        self.index, self.rows = index, rows

    def forward(self, grad: Array) -> Array:
        flat = self.index.reshape(-1).astype(np.int64, copy=False)
        rows = widened(grad).reshape(flat.size, grad.shape[-1])
        return kernels.backend(grad).scatter_add(rows, flat, self.rows).astype(grad.dtype, copy=False)

    def backward(self, grad: Tensor) -> Tensor:
        return TakeRows(self.index)(grad)


def embedding(
    index: Any,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
) -> Tensor:
    """Rows of ``weight``, as ``torch.nn.functional.embedding``.

    Args:
        index: integers of any shape in [0, V).
        weight: (V, D).
        padding_idx: this row gets no gradient; negative counts from the end.
        max_norm: rows that are looked up and longer than this are shortened to it *in place* first, outside
            the graph.
        norm_type: the p of that length.

    Returns:
        (*index.shape, D).
    """
    op = "embedding"
    expect_floating(op, "weight", weight)
    if weight.ndim != 2:
        raise ValueError(f"{op}: weight expects shape (V, D), got {weight.shape}")
    numbers = constant(index, weight)
    if numbers.dtype.kind not in "iu":
        raise TypeError(f"{op}: index expects integers, got {numbers.dtype}")
    rows = weight.shape[0]
    if may_read() and numbers.size and (numbers.min() < 0 or numbers.max() >= rows):
        raise IndexError(f"{op}: index expects values in [0, {rows}), got {numbers.min()} to {numbers.max()}")
    if padding_idx is not None:
        if not -rows <= padding_idx < rows:
            raise ValueError(f"{op}: padding_idx expects a row in [-{rows}, {rows}), got {padding_idx}")
        padding_idx %= rows
    if max_norm is not None:
        used = np.unique(devices.host(numbers))
        lengths = np.linalg.norm(devices.host(weight.data[beside(used, weight)]), norm_type, axis=1)
        long = lengths > max_norm
        if long.any():
            # PyTorch's 1e-7 keeps the shortened row at or below the limit
            factor = (max_norm / (lengths[long] + 1e-7))[:, None].astype(weight.dtype)
            weight.data[beside(used[long], weight)] *= beside(factor, weight)
            weight.mark_changed()
    return TakeRows(numbers, padding_idx)(weight)
