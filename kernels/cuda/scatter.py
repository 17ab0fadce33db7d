"""Rows added at places that may occur several times, launched."""

from __future__ import annotations

import numpy as np

from minidl.kernels.cuda.device import Device, blocks
from minidl.kernels.cuda.launch import expect_int32, operand
from minidl.kernels.reference import ReferenceBackend
from minidl.kernels.reference.checks import Array


class ScatterMixin(ReferenceBackend):
    """scatter_add; float32 alone, other dtypes go to the reference, which waits for the device."""

    device: Device

    def scatter_add(self, values: Array, index: Array, rows: int) -> Array:
        """values (M, D), index (M,) int64 in [0, rows) -> (rows, D); rows of one index are added in their order."""
        self._expect_scatter(values, index)
        if values.dtype != np.float32 or not values.size:
            return super().scatter_add(values, index, rows)
        device, xp = self.device, self.xp
        columns = values.shape[1]
        expect_int32("scatter_add", columns=columns)
        order = xp.argsort(index, kind="stable")
        first = xp.searchsorted(index[order], xp.arange(rows + 1))
        out = device.empty((rows, columns), np.float32)
        lists = [operand(device, a.astype(np.int64, copy=False)) for a in (order, first)]
        if out.size:
            kernel = device.compile("scatter.cu")["add_by_place"]
            args = (operand(device, values), *lists, out, out.size, columns)
            device.launch(kernel, blocks(out.size, 256), 256, args)
        return out
