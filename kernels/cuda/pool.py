"""Pooling, launched."""

from __future__ import annotations

import numpy as np

from minidl.kernels.cuda.device import Device, blocks
from minidl.kernels.cuda.launch import DIVISOR, divisor, element, expect_int32, operand, struct
from minidl.kernels.reference import ReferenceBackend
from minidl.kernels.reference.checks import Array, Pad, Pair, expect, expect_ndim, expect_pool, expect_shape
from minidl.kernels.reference.pool import Window

POOL_AXIS = np.dtype(
    [(name, "i4") for name in ("size", "out", "kernel", "stride", "pad", "end_pad", "dilation")]
)
POOL = np.dtype(
    [("h", POOL_AXIS), ("w", POOL_AXIS), ("lanes", DIVISOR), ("columns", DIVISOR), ("rows", DIVISOR)]
    + [(name, "i4") for name in ("channels", "count", "include_pad")]
)
NO_PAD = ((0, 0), (0, 0))


class PoolMixin(ReferenceBackend):
    """Maximum and mean pooling over windows and adaptive grids, and their gradients."""

    device: Device

    def _pool(
        self,
        name: str,
        arrays: tuple[Array, ...],
        threads: tuple[int, int, int, int],
        input_hw: Pair,
        out_hw: Pair,
        window: Window | None,
        include_pad: bool = False,
    ) -> None:
        """Launch a kernel of pool.cu: one thread for each place of ``threads`` (N, rows, columns, C), or for four
        channels of it; ``window`` None means an adaptive grid."""
        device = self.device
        n, rows, columns, channels = threads
        vec = 4 if channels % 4 == 0 else 1
        count = n * rows * columns * (channels // vec)
        expect_int32(name, threads=count, rows=max(*input_hw, *out_hw) ** 2)
        kernel, stride, pad, dilation = window or ((1, 1), (1, 1), NO_PAD, (1, 1))
        axes = [
            (input_hw[a], out_hw[a], kernel[a], stride[a], pad[a][0], pad[a][1], dilation[a]) for a in (0, 1)
        ]
        fields = struct(
            POOL,
            *axes,
            divisor(channels // vec),
            divisor(columns),
            divisor(rows),
            channels,
            count,
            int(include_pad),
        )
        instance = f"{name}<{element(arrays[0])}, {vec}, {'true' if window is None else 'false'}>"
        function = device.compile("pool.cu", instances=[instance])[instance]
        device.launch(function, blocks(count, 256), 256, (*arrays, fields))

    def _maximum(self, x: Array, out_hw: Pair, window: Window | None) -> tuple[Array, Array]:
        n, h, w, c = x.shape
        y = self.device.empty((n, *out_hw, c), x.dtype)
        index = self.device.empty(y.shape, np.int32)
        if y.size:
            arrays = (operand(self.device, x), y, index)
            self._pool("max_pool", arrays, y.shape, (h, w), out_hw, window)
        return y, index

    def max_pool2d(
        self, x: Array, kernel: Pair, stride: Pair, pad: Pad, dilation: Pair, out_hw: Pair
    ) -> tuple[Array, Array]:
        """Maximum of each window: y (N, OH, OW, C) and its index, int32, the flat place h*W + w in the
        unpadded input.

        Padding never wins. Among equals the first in row order wins; the first NaN beats every number.
        Raises ValueError when a window covers padding only.
        """
        expect_ndim("max_pool2d", "x", x, 4)
        expect_pool("max_pool2d", x.shape[1:3], kernel, stride, pad, dilation, out_hw)
        if element(x) is None:
            return super().max_pool2d(x, kernel, stride, pad, dilation, out_hw)
        return self._maximum(x, out_hw, (kernel, stride, pad, dilation))

    def adaptive_max_pool2d(self, x: Array, out_hw: Pair) -> tuple[Array, Array]:
        """Maximum of each cell of an OH x OW grid and its index, see the reference."""
        expect_ndim("adaptive_max_pool2d", "x", x, 4)
        expect(
            min(*x.shape[1:3], *out_hw) >= 1,
            "adaptive_max_pool2d",
            f"no cells or no pixels: {x.shape}, {out_hw}",
        )
        if element(x) is None:
            return super().adaptive_max_pool2d(x, out_hw)
        return self._maximum(x, out_hw, None)

    def max_pool2d_scatter(
        self, gy: Array, index: Array, input_hw: Pair, window: Window | None = None
    ) -> Array:
        """Adjoint of the gather: gx (N, H, W, C) receives each gy (N, OH, OW, C) at its index; overlaps add.

        With the window of the index each pixel asks the windows that cover it, and an index outside them is skipped.
        Without it one thread walks a channel, and an index outside the input raises ValueError.
        """
        name = "max_pool2d_scatter"
        expect_ndim(name, "gy", gy, 4)
        expect_shape(name, "index", index, gy.shape)
        if element(gy) is None or index.dtype != np.int32 or not gy.size:
            return super().max_pool2d_scatter(gy, index, input_hw, window)
        device = self.device
        n, oh, ow, c = gy.shape
        gx = device.empty((n, *input_hw, c), gy.dtype)
        gy, index = operand(device, gy), operand(device, index)
        if window is not None:
            if gx.size:
                self._pool("max_pool_gradient", (gy, index, gx), gx.shape, input_hw, (oh, ow), window)
            return gx
        area = input_hw[0] * input_hw[1]
        self._check_index(name, index, area)
        sums = device.empty(gx.shape, np.float32)
        instance = f"scatter_by_index<{element(gy)}>"
        kernel = device.compile("pool.cu", instances=[instance])[instance]
        expect_int32(name, columns=n * c, area=area, outputs=oh * ow)
        device.launch(kernel, blocks(n * c, 256), 256, (gy, index, gx, sums, n * c, c, oh * ow, area))
        return gx

    def max_pool2d_gather(self, x: Array, index: Array) -> Array:
        """y[n, i, j, c] = x[n, index // W, index % W, c] for index (N, OH, OW, C).

        Raises ValueError when an index lies outside the input.
        """
        expect_ndim("max_pool2d_gather", "x", x, 4)
        expect_ndim("max_pool2d_gather", "index", index, 4)
        if element(x) is None or index.dtype != np.int32 or not index.size:
            return super().max_pool2d_gather(x, index)
        n, h, w, c = x.shape
        expect_shape("max_pool2d_gather", "index", index, (n, index.shape[1], index.shape[2], c))
        self._check_index("max_pool2d_gather", index, h * w)
        device = self.device
        y = device.empty(index.shape, x.dtype)
        instance = f"gather_by_index<{element(x)}>"
        kernel = device.compile("pool.cu", instances=[instance])[instance]
        args = (
            operand(device, x),
            operand(device, index),
            y,
            y.size,
            c,
            index.shape[1] * index.shape[2],
            h * w,
        )
        device.launch(kernel, blocks(y.size, 256), 256, args)
        return y

    def _mean(self, x: Array, out_hw: Pair, window: Window | None, include_pad: bool) -> Array:
        y = self.device.empty((x.shape[0], *out_hw, x.shape[3]), x.dtype)
        if y.size:
            arrays = (operand(self.device, x), y)
            self._pool("mean_pool", arrays, y.shape, x.shape[1:3], out_hw, window, include_pad)
        return y

    def _mean_gradient(self, gy: Array, input_hw: Pair, window: Window | None, include_pad: bool) -> Array:
        gx = self.device.empty((gy.shape[0], *input_hw, gy.shape[3]), gy.dtype)
        if gx.size:
            arrays = (operand(self.device, gy), gx)
            self._pool("mean_pool_gradient", arrays, gx.shape, input_hw, gy.shape[1:3], window, include_pad)
        return gx

    def avg_pool2d(
        self, x: Array, kernel: Pair, stride: Pair, pad: Pad, out_hw: Pair, count_include_pad: bool
    ) -> Array:
        """Mean of each window: y (N, OH, OW, C), summed in float32, row by row.

        count_include_pad decides whether padding zeros count in the divisor. Raises ValueError when a window
        covers padding only.
        """
        expect_ndim("avg_pool2d", "x", x, 4)
        expect_pool("avg_pool2d", x.shape[1:3], kernel, stride, pad, (1, 1), out_hw)
        if element(x) is None:
            return super().avg_pool2d(x, kernel, stride, pad, out_hw, count_include_pad)
        return self._mean(x, out_hw, (kernel, stride, pad, (1, 1)), count_include_pad)

    def avg_pool2d_backward(
        self, gy: Array, input_hw: Pair, kernel: Pair, stride: Pair, pad: Pad, count_include_pad: bool
    ) -> Array:
        """Gradient (and adjoint) of avg_pool2d: gy (N, OH, OW, C) -> gx (N, H, W, C)."""
        expect_ndim("avg_pool2d_backward", "gy", gy, 4)
        expect_pool("avg_pool2d_backward", input_hw, kernel, stride, pad, (1, 1), gy.shape[1:3])
        if element(gy) is None:
            return super().avg_pool2d_backward(gy, input_hw, kernel, stride, pad, count_include_pad)
        return self._mean_gradient(gy, input_hw, (kernel, stride, pad, (1, 1)), count_include_pad)

    def adaptive_avg_pool2d(self, x: Array, out_hw: Pair) -> Array:
        """Mean of each cell of an OH x OW grid, see the reference."""
        expect_ndim("adaptive_avg_pool2d", "x", x, 4)
        self._check_grid("adaptive_avg_pool2d", x.shape[1:3], out_hw)
        if element(x) is None:
            return super().adaptive_avg_pool2d(x, out_hw)
        return self._mean(x, out_hw, None, False)

    def adaptive_avg_pool2d_backward(self, gy: Array, input_hw: Pair) -> Array:
        """Gradient (and adjoint) of adaptive_avg_pool2d: gy (N, OH, OW, C) -> gx (N, H, W, C)."""
        expect_ndim("adaptive_avg_pool2d_backward", "gy", gy, 4)
        self._check_grid("adaptive_avg_pool2d_backward", input_hw, gy.shape[1:3])
        if element(gy) is None:
            return super().adaptive_avg_pool2d_backward(gy, input_hw)
        return self._mean_gradient(gy, input_hw, None, False)
