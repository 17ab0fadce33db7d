"""Kernels of one row at a time, launched: standardisation and softmax cross-entropy."""

from __future__ import annotations

import math

import numpy as np

from minidl.kernels.cuda.device import Device, Function, blocks
from minidl.kernels.cuda.launch import element, expect_int32, operand
from minidl.kernels.reference import ReferenceBackend
from minidl.kernels.reference.checks import Array, expect, expect_ndim, expect_shape

SHORT = 1024
"""Up to this length a row is one warp's; longer ones take a block."""


def row_kernel(device: Device, name: str, array: Array, rows: int, columns: int) -> tuple[Function, int]:
    """The kernel for rows of this length, and its number of blocks."""
    expect_int32(name, rows=rows, columns=columns)
    threads = 32 if columns <= SHORT else 256
    instance = f"{name}<{element(array)}, {threads}>"
    return device.compile("rows.cu", instances=[instance])[instance], blocks(rows, 256 // threads)


class StandardiseMixin(ReferenceBackend):
    """standardize and its gradients. The mean's axes are brought last; a mean then is a row's."""

    device: Device

    def _expanded(self, weight: Array | None, shape: tuple[int, ...], rank: int) -> tuple[Array | None, int]:
        """A weight that broadcasts to ``shape``, whose last axes from ``rank`` on are a row: with those axes in full,
        and of the others as few as it varies along (the trailing ones); and how many rows that is."""
        if weight is None:
            return None, 1
        weight = weight.reshape((1,) * (len(shape) - weight.ndim) + weight.shape)
        first = next((i for i in range(rank) if weight.shape[i] != 1), rank)
        full = self.device.xp.broadcast_to(weight[(0,) * first], shape[first:])
        return operand(self.device, full), math.prod(shape[first:rank])

    def _order(self, x: Array, axes: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        """The axes with the reduced ones last, the inverse order, and how many come before these."""
        reduced = {a % x.ndim for a in axes}
        kept = [a for a in range(x.ndim) if a not in reduced]
        order = (*kept, *sorted(reduced))
        return order, tuple(sorted(range(x.ndim), key=lambda a: order[a])), len(kept)

    def _turned(self, weight: Array | None, order: tuple[int, ...], ndim: int) -> Array | None:
        if weight is None:
            return None
        return weight.reshape((1,) * (ndim - weight.ndim) + weight.shape).transpose(order)

    def standardize(
        self, x: Array, axes: tuple[int, ...], weight: Array | None, bias: Array | None, eps: float
    ) -> tuple[Array, Array, Array]:
        """(y, mean, rstd): mean and rstd (float32) have size 1 along ``axes``; weight and bias broadcast against x.

        Raises ValueError when there is nothing to take a mean of.
        """
        if element(x) is None or not x.size:
            return super().standardize(x, axes, weight, bias, eps)
        device = self.device
        order, inverse, rank = self._order(x, axes)
        rows_first = operand(device, x.transpose(order))
        shape = rows_first.shape
        rows, columns = math.prod(shape[:rank]), math.prod(shape[rank:])
        both = [self._turned(a, order, x.ndim) for a in (weight, bias)]
        parts = [self._expanded(a, shape, rank) for a in both]
        period = max(p for _, p in parts)
        if any(a is not None and p != period for a, p in parts):  # rows of different weights: in full
            lead = next(i for i in range(rank + 1) if math.prod(shape[i:rank]) <= period)
            parts = [
                (
                    None if a is None else operand(device, device.xp.broadcast_to(a, shape)[(0,) * lead]),
                    period,
                )
                for a in both
            ]
        y = device.empty(shape, x.dtype)
        stats = (*shape[:rank], *(1 for _ in shape[rank:]))
        mean, rstd = device.empty(stats, np.float32), device.empty(stats, np.float32)
        kernel, count = row_kernel(device, "standardize", x, rows, columns)
        weights = [None if a is None else a.astype(x.dtype, copy=False) for a, _ in parts]
        device.launch(kernel, count, 256, (rows_first, *weights, y, mean, rstd, rows, columns, period, eps))
        return y.transpose(inverse), mean.transpose(inverse), rstd.transpose(inverse)

    def standardize_backward(
        self,
        gy: Array,
        x: Array,
        axes: tuple[int, ...],
        mean: Array,
        rstd: Array,
        weight: Array | None,
        needs_x: bool,
        needs_weight: bool,
    ) -> tuple[Array | None, Array | None]:
        """(gx, gy * xhat): the second (float32), summed to the weight's shape, is the weight's gradient."""
        if element(x) is None or not x.size:
            return super().standardize_backward(gy, x, axes, mean, rstd, weight, needs_x, needs_weight)
        device = self.device
        order, inverse, rank = self._order(x, axes)
        g, turned = operand(device, gy.transpose(order)), operand(device, x.transpose(order))
        shape = turned.shape
        rows, columns = math.prod(shape[:rank]), math.prod(shape[rank:])
        full, period = self._expanded(self._turned(weight, order, x.ndim), shape, rank)
        full = None if full is None else full.astype(x.dtype, copy=False)
        stats = [operand(device, s.transpose(order).astype(np.float32, copy=False)) for s in (mean, rstd)]
        gx = device.empty(shape, x.dtype) if needs_x else None
        gweight = device.empty(shape, np.float32) if needs_weight else None
        kernel, count = row_kernel(device, "standardize_backward", x, rows, columns)
        args = (g, turned, *stats, full, gx, gweight, rows, columns, period)
        device.launch(kernel, count, 256, args)
        return (
            None if gx is None else gx.transpose(inverse),
            None if gweight is None else gweight.transpose(inverse),
        )


class LossMixin(ReferenceBackend):
    """softmax_cross_entropy and its gradient.

    A label that is no class gives NaN, in the loss and in the gradient: an error would have to wait for the device.
    """

    device: Device

    def _check_shapes(
        self, kernel: str, logits: Array, target: Array, weight: Array | None, label_smoothing: float
    ) -> None:
        expect_ndim(kernel, "logits", logits, 2)
        expect_shape(kernel, "target", target, (logits.shape[0],))
        expect(target.dtype.kind in "iu", kernel, f"target expects integers, got {target.dtype}")
        expect(0 <= label_smoothing <= 1, kernel, f"label_smoothing expects 0 to 1, got {label_smoothing}")
        if weight is not None:
            expect_shape(kernel, "weight", weight, (logits.shape[1],))

    def softmax_cross_entropy(
        self, logits: Array, target: Array, weight: Array | None, ignore_index: int, label_smoothing: float
    ) -> tuple[Array, Array]:
        """logits (N, K), target (N,) integers, weight (K,) or None -> (loss_per_row, row_weight), both (N,).

        loss_per_row is already multiplied by the class weight; it is NaN where the target is no class.
        """
        self._check_shapes("softmax_cross_entropy", logits, target, weight, label_smoothing)
        if element(logits) is None or not logits.size:
            return super().softmax_cross_entropy(logits, target, weight, ignore_index, label_smoothing)
        device, (n, k) = self.device, logits.shape
        logits, labels = operand(device, logits), operand(device, target.astype(np.int64, copy=False))
        weight = None if weight is None else operand(device, weight.astype(logits.dtype, copy=False))
        loss, row_weight = device.empty(n, logits.dtype), device.empty(n, logits.dtype)
        kernel, count = row_kernel(device, "softmax_loss", logits, n, k)
        args = (logits, labels, weight, loss, row_weight, n, k, ignore_index, label_smoothing)
        device.launch(kernel, count, 256, args)
        return loss, row_weight

    def softmax_cross_entropy_backward(
        self,
        g_per_row: Array,
        logits: Array,
        target: Array,
        weight: Array | None,
        ignore_index: int,
        label_smoothing: float,
    ) -> Array:
        """Gradient of loss_per_row by logits (N, K), each row times g_per_row (N,); ignored rows get zeros."""
        name = "softmax_cross_entropy_backward"
        self._check_shapes(name, logits, target, weight, label_smoothing)
        expect_shape(name, "g_per_row", g_per_row, (logits.shape[0],))
        if element(logits) is None or not logits.size:
            return super().softmax_cross_entropy_backward(
                g_per_row, logits, target, weight, ignore_index, label_smoothing
            )
        device, (n, k) = self.device, logits.shape
        logits, labels = operand(device, logits), operand(device, target.astype(np.int64, copy=False))
        weight = None if weight is None else operand(device, weight.astype(logits.dtype, copy=False))
        g_per_row = operand(device, g_per_row.astype(logits.dtype, copy=False))
        glogits = device.empty((n, k), logits.dtype)
        kernel, count = row_kernel(device, "softmax_loss_backward", logits, n, k)
        args = (g_per_row, logits, labels, weight, glogits, n, k, ignore_index, label_smoothing)
        device.launch(kernel, count, 256, args)
        return glogits
