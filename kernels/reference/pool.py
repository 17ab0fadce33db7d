"""Pooling: maximum with its gather and scatter pair, mean over windows, mean over an adaptive grid.

Images are (N, H, W, C). `pad` is ((top, bottom), (left, right)); the output size is the caller's, because
ceil mode may let the last window reach past the padding.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from minidl.kernels.capturing import may_read
from minidl.kernels.reference.checks import Array, Pad, Pair, expect, expect_ndim, expect_pool, expect_shape
from minidl.kernels.reference.conv import tap_windows
from minidl.kernels.reference.half import in_float32
from minidl.kernels.reference.scatter import Scattering

Window: TypeAlias = tuple[Pair, Pair, Pad, Pair]
"""kernel, stride, pad and dilation of a pooling window."""
MaxPool: TypeAlias = tuple[Pair, Pair, Pad, Pair, Pair]
"""What max_pool2d takes beside an image: kernel, stride, pad, dilation and the output's (height, width)."""


def adaptive_edges(size: int, out: int) -> list[Pair]:
    """First and past-the-last pixel of each cell of an adaptive grid (PyTorch's): floor(i*size/out),
    ceil((i+1)*size/out).
    """
    return [(i * size // out, -((i + 1) * size // -out)) for i in range(out)]


def window_counts(
    size: int, window: int, stride: int, pad: Pair, out: int, count_include_pad: bool
) -> list[int]:
    """Along one axis, how many pixels the mean of each window divides by.

    With count_include_pad the padding counts, but not what ceil mode adds past it (as in PyTorch).
    """
    counts = []
    for i in range(out):
        first = i * stride - pad[0]
        if count_include_pad:
            counts.append(min(first + window, size + pad[1]) - first)
        else:
            counts.append(min(first + window, size) - max(first, 0))
    return counts


class Pooling(Scattering):
    """The pooling family of the reference back end."""

    xp: Any

    def _widen(
        self, x: Array, window: Pair, stride: Pair, pad: Pad, dilation: Pair, out_hw: Pair, fill: Any
    ) -> Array:
        """x with `fill` around it, large enough for every window (ceil mode needs more than `pad`)."""
        extra = []
        for axis in (0, 1):
            end = (out_hw[axis] - 1) * stride[axis] + dilation[axis] * (window[axis] - 1) + 1
            extra.append((pad[axis][0], max(pad[axis][1], end - pad[axis][0] - x.shape[axis + 1])))
        return self.xp.pad(x, ((0, 0), *extra, (0, 0)), constant_values=fill)

    def max_pool2d(
        self, x: Array, kernel: Pair, stride: Pair, pad: Pad, dilation: Pair, out_hw: Pair
    ) -> tuple[Array, Array]:
        """Maximum of each window: y (N, OH, OW, C) and its index, int32, the flat place h*W + w in the
        unpadded input.

        Padding never wins. Among equals the first in row order wins; the first NaN beats every number.
        Raises ValueError when a window covers padding only.
        """
        xp = self.xp
        expect_ndim("max_pool2d", "x", x, 4)
        n, h, w, c = x.shape
        expect_pool("max_pool2d", (h, w), kernel, stride, pad, dilation, out_hw)
        values = self._widen(x, kernel, stride, pad, dilation, out_hw, -xp.inf)
        place = xp.arange(h * w, dtype=xp.int32).reshape(1, h, w, 1)
        places = self._widen(place, kernel, stride, pad, dilation, out_hw, -1)
        best = xp.full((n, *out_hw, c), -xp.inf, x.dtype)
        index = xp.full((n, *out_hw, c), -1, xp.int32)
        for _, _, window in tap_windows(kernel, stride, dilation, out_hw):
            value, here = values[window], places[window]
            wins = (value > best) | (xp.isnan(value) & ~xp.isnan(best)) | ((index < 0) & (here >= 0))
            best = xp.where(wins, value, best)
            index = xp.where(wins, here, index)
        return best, index

    def conv2d_max_pool2d(
        self,
        x: Array,
        w: Array,
        bias: Array | None,
        stride: Pair,
        pad: Pad,
        dilation: Pair,
        groups: int,
        pool: MaxPool,
        *,
        relu: bool = False,
        kept: dict[Any, Any] | None = None,
    ) -> Array:
        """The maxima (N, PH, PW, O) of max_pool2d of conv2d's result, for inference: without their index."""
        backend: Any = self
        y = backend.conv2d(x, w, bias, stride, pad, dilation, groups, relu=relu, kept=kept)
        maxima: Array = backend.max_pool2d(y, *pool)[0]
        return maxima

    @in_float32
    def max_pool2d_scatter(
        self, gy: Array, index: Array, input_hw: Pair, window: Window | None = None
    ) -> Array:
        """Adjoint of the gather: gx (N, H, W, C) receives each gy (N, OH, OW, C) at its index; overlaps add.

        `window` may say with which kernel, stride, pad and dilation max_pool2d made the index; it changes no
        result and lets a back end work faster. Raises ValueError when an index lies outside the input (with a
        window such an index may also be skipped).
        """
        xp = self.xp
        expect_ndim("max_pool2d_scatter", "gy", gy, 4)
        expect_shape("max_pool2d_scatter", "index", index, gy.shape)
        n, _, _, c = gy.shape
        area = input_hw[0] * input_hw[1]
        self._check_index("max_pool2d_scatter", index, area)
        images = xp.arange(n).reshape(n, 1, 1, 1)
        places = (images * area + index) * c + xp.arange(c)
        return self.scatter_add(gy.reshape(-1, 1), places.reshape(-1), n * area * c).reshape(n, *input_hw, c)

    def max_pool2d_gather(self, x: Array, index: Array) -> Array:
        """y[n, i, j, c] = x[n, index // W, index % W, c] for index (N, OH, OW, C).

        Raises ValueError when an index lies outside the input.
        """
        xp = self.xp
        expect_ndim("max_pool2d_gather", "x", x, 4)
        expect_ndim("max_pool2d_gather", "index", index, 4)
        n, h, w, c = x.shape
        expect_shape("max_pool2d_gather", "index", index, (n, index.shape[1], index.shape[2], c))
        self._check_index("max_pool2d_gather", index, h * w)
        rows = index.reshape(n, index.shape[1] * index.shape[2], c)
        return xp.take_along_axis(x.reshape(n, h * w, c), rows, axis=1).reshape(index.shape)

    def _check_index(self, kernel: str, index: Array, area: int) -> None:
        if index.size and may_read():
            low, high = int(index.min()), int(index.max())
            expect(low >= 0 and high < area, kernel, f"index expects 0 to {area - 1}, got {low} to {high}")

    def _mean_scale(
        self, input_hw: Pair, kernel: Pair, stride: Pair, pad: Pad, out_hw: Pair, count_include_pad: bool
    ) -> Array:
        """1 / (number of pixels in each window), float64, (1, OH, OW, 1)."""
        xp = self.xp
        rows, cols = (
            xp.asarray(
                window_counts(input_hw[a], kernel[a], stride[a], pad[a], out_hw[a], count_include_pad),
                dtype=xp.float64,
            )
            for a in (0, 1)
        )
        return 1 / (rows[:, None] * cols[None, :])[None, :, :, None]

    @in_float32
    def avg_pool2d(
        self, x: Array, kernel: Pair, stride: Pair, pad: Pad, out_hw: Pair, count_include_pad: bool
    ) -> Array:
        """Mean of each window: y (N, OH, OW, C), summed in float64.

        count_include_pad decides whether padding zeros count in the divisor. Raises ValueError when a window
        covers padding only.
        """
        expect_ndim("avg_pool2d", "x", x, 4)
        input_hw = (x.shape[1], x.shape[2])
        expect_pool("avg_pool2d", input_hw, kernel, stride, pad, (1, 1), out_hw)
        padded = self._widen(x, kernel, stride, pad, (1, 1), out_hw, 0)
        total = self.xp.zeros((x.shape[0], *out_hw, x.shape[3]), self.xp.float64)
        for _, _, window in tap_windows(kernel, stride, (1, 1), out_hw):
            total += padded[window]
        total *= self._mean_scale(input_hw, kernel, stride, pad, out_hw, count_include_pad)
        return total.astype(x.dtype)

    @in_float32
    def avg_pool2d_backward(
        self, gy: Array, input_hw: Pair, kernel: Pair, stride: Pair, pad: Pad, count_include_pad: bool
    ) -> Array:
        """Gradient (and adjoint) of avg_pool2d: gy (N, OH, OW, C) -> gx (N, H, W, C), summed in float64."""
        xp = self.xp
        expect_ndim("avg_pool2d_backward", "gy", gy, 4)
        n, oh, ow, c = gy.shape
        out_hw = (oh, ow)
        expect_pool("avg_pool2d_backward", input_hw, kernel, stride, pad, (1, 1), out_hw)
        blank = xp.zeros((n, *input_hw, c), xp.float64)
        gpadded = self._widen(blank, kernel, stride, pad, (1, 1), out_hw, 0)
        share = gy * self._mean_scale(input_hw, kernel, stride, pad, out_hw, count_include_pad)
        for _, _, window in tap_windows(kernel, stride, (1, 1), out_hw):
            gpadded[window] += share
        top, left = pad[0][0], pad[1][0]
        return xp.ascontiguousarray(
            gpadded[:, top : top + input_hw[0], left : left + input_hw[1]].astype(gy.dtype)
        )

    @in_float32
    def adaptive_avg_pool2d(self, x: Array, out_hw: Pair) -> Array:
        """Mean of each cell of an OH x OW grid laid over the image: y (N, OH, OW, C), summed in float64.

        Cells follow PyTorch: rows floor(i*H/OH) up to ceil((i+1)*H/OH), so cells overlap where the sizes do
        not divide.
        """
        xp = self.xp
        expect_ndim("adaptive_avg_pool2d", "x", x, 4)
        n, h, w, c = x.shape
        self._check_grid("adaptive_avg_pool2d", (h, w), out_hw)
        y = xp.empty((n, *out_hw, c), x.dtype)
        for i, (top, bottom) in enumerate(adaptive_edges(h, out_hw[0])):
            for j, (left, right) in enumerate(adaptive_edges(w, out_hw[1])):
                y[:, i, j] = x[:, top:bottom, left:right].mean(axis=(1, 2), dtype=xp.float64)
        return y

    @in_float32
    def adaptive_avg_pool2d_backward(self, gy: Array, input_hw: Pair) -> Array:
        """Gradient (and adjoint) of adaptive_avg_pool2d: gy (N, OH, OW, C) -> gx (N, H, W, C), summed in
        float64.
        """
        xp = self.xp
        expect_ndim("adaptive_avg_pool2d_backward", "gy", gy, 4)
        n, oh, ow, c = gy.shape
        self._check_grid("adaptive_avg_pool2d_backward", input_hw, (oh, ow))
        gx = xp.zeros((n, *input_hw, c), xp.float64)
        for i, (top, bottom) in enumerate(adaptive_edges(input_hw[0], oh)):
            for j, (left, right) in enumerate(adaptive_edges(input_hw[1], ow)):
                area = (bottom - top) * (right - left)
                gx[:, top:bottom, left:right] += gy[:, i, j, :][:, None, None, :] / area
        return gx.astype(gy.dtype)

    def _check_grid(self, kernel: str, input_hw: Pair, out_hw: Pair) -> None:
        expect(min(out_hw) >= 1, kernel, f"the output expects at least 1 x 1 cells, got {out_hw}")
        expect(min(input_hw) >= 1, kernel, f"the input expects at least 1 x 1 pixels, got {input_hw}")
