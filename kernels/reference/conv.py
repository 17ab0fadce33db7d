"""Convolution and its two gradients, one kernel tap at a time.

A convolution is a sum over the taps (kh, kw) of a strided window of the padded input times that tap's matrix:

    y[n, i, j] = sum over (kh, kw) of  padded[n, i*sh + kh*dh, j*sw + kw*dw] @ w[:, kh, kw, :].T

The window of one tap is a view, so a whole convolution is KH * KW matrix products. Each gradient is the same
loop with one factor moved to the other side. Axis names: N images, H W pixels, C input channels, O output
channels, G groups, P = N*OH*OW.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from minidl.kernels.reference.checks import Array, Pad, Pair, expect_conv, expect_ndim, expect_shape
from minidl.kernels.reference.half import in_float32


def tap_windows(kernel: Pair, stride: Pair, dilation: Pair, out_hw: Pair) -> Iterator[tuple[int, int, Any]]:
    """For each tap, in row order, its place and the index that cuts its (N, OH, OW, C) window from the padded
    input.
    """
    for kh in range(kernel[0]):
        for kw in range(kernel[1]):
            top, left = kh * dilation[0], kw * dilation[1]
            rows = slice(top, top + (out_hw[0] - 1) * stride[0] + 1, stride[0])
            cols = slice(left, left + (out_hw[1] - 1) * stride[1] + 1, stride[1])
            yield kh, kw, (slice(None), rows, cols)


def expect_epilogue(kernel: str, shape: tuple[int, ...], bias: Array | None, residual: Array | None) -> None:
    """Raise ValueError unless bias and residual fit a result of this shape."""
    if bias is not None:
        expect_shape(kernel, "bias", bias, shape[-1:])
    if residual is not None:
        expect_shape(kernel, "residual", residual, shape)


class Convolution:
    """The convolution family of the reference back end."""

    xp: Any

    def _by_group(self, image: Array, groups: int) -> Array:
        """(N, H, W, C) -> (G, P, C/G)."""
        pixels = image.shape[0] * image.shape[1] * image.shape[2]
        return image.reshape(pixels, groups, image.shape[3] // groups).transpose(1, 0, 2)

    @in_float32
    def conv2d(
        self,
        x: Array,
        w: Array,
        bias: Array | None,
        stride: Pair,
        pad: Pad,
        dilation: Pair,
        groups: int,
        *,
        relu: bool = False,
        residual: Array | None = None,
        kept: dict[Any, Any] | None = None,
        statistics: list[Array] | None = None,
    ) -> Array:
        """Cross-correlation of x (N, H, W, C) with w (O, KH, KW, C/groups), plus bias (O,), plus residual
        (N, OH, OW, O): y (N, OH, OW, O).

        relu=True ends in max(y, 0). kept: a dictionary that stays with w and bias as long as their values do: a back
        end may keep there what it makes of them. statistics: a list that may get mean and biased variance (O,) of y's
        channels, where a back end computes them along; else it stays empty, and batch_norm_stats has to be asked.

        Sums over C are the array module's matrix product, sums over taps run in row order. Raises ValueError when
        shapes do not fit together.
        """
        xp = self.xp
        expect_ndim("conv2d", "x", x, 4)
        n, h, width, c = x.shape
        oh, ow = expect_conv("conv2d", c, w.shape, groups, (h, width), stride, pad, dilation)
        o = w.shape[0]
        if bias is not None:
            expect_shape("conv2d", "bias", bias, (o,))
        if residual is not None:
            expect_shape("conv2d", "residual", residual, (n, oh, ow, o))
        padded = xp.pad(x, ((0, 0), *pad, (0, 0)))
        y = xp.zeros((groups, n * oh * ow, o // groups), x.dtype)
        for kh, kw, window in tap_windows((w.shape[1], w.shape[2]), stride, dilation, (oh, ow)):
            tap = w[:, kh, kw, :].reshape(groups, o // groups, c // groups)
            y += self._by_group(padded[window], groups) @ tap.transpose(0, 2, 1)
        return self._finished(y.transpose(1, 0, 2).reshape(n, oh, ow, o), bias, residual, relu)

    def _finished(self, y: Array, bias: Array | None, residual: Array | None, relu: bool) -> Array:
        """[relu](y [+ bias] [+ residual]), C-contiguous."""
        if bias is not None:
            y = y + bias
        if residual is not None:
            y = y + residual
        return self.xp.ascontiguousarray(self.xp.maximum(y, 0) if relu else y)

    @in_float32
    def conv2d_input_grad(
        self,
        gy: Array,
        w: Array,
        input_hw: Pair,
        stride: Pair,
        pad: Pad,
        dilation: Pair,
        groups: int,
        *,
        bias: Array | None = None,
        relu: bool = False,
        residual: Array | None = None,
    ) -> Array:
        """Gradient of conv2d by x: gy (N, OH, OW, O), w (O, KH, KW, C/groups) -> gx (N, H, W, C).

        Windows of neighbouring outputs overlap, so each tap adds into the window it read from. This is also
        the transposed convolution; for its sake, and for adding to a gradient that is there already, bias (C,),
        residual (N, H, W, C) and relu work as in conv2d.
        """
        xp = self.xp
        expect_ndim("conv2d_input_grad", "gy", gy, 4)
        expect_ndim("conv2d_input_grad", "w", w, 4)
        n, o, c = gy.shape[0], w.shape[0], w.shape[3] * groups
        oh, ow = expect_conv("conv2d_input_grad", c, w.shape, groups, input_hw, stride, pad, dilation)
        expect_shape("conv2d_input_grad", "gy", gy, (n, oh, ow, o))
        expect_epilogue("conv2d_input_grad", (n, *input_hw, c), bias, residual)
        (top, bottom), (left, right) = pad
        gpadded = xp.zeros((n, top + input_hw[0] + bottom, left + input_hw[1] + right, c), gy.dtype)
        g = self._by_group(gy, groups)
        for kh, kw, window in tap_windows((w.shape[1], w.shape[2]), stride, dilation, (oh, ow)):
            tap = w[:, kh, kw, :].reshape(groups, o // groups, c // groups)
            gpadded[window] += (g @ tap).transpose(1, 0, 2).reshape(n, oh, ow, c)
        gx = gpadded[:, top : top + input_hw[0], left : left + input_hw[1]]
        return self._finished(gx, bias, residual, relu)

    @in_float32
    def conv2d_weight_grad(
        self, gy: Array, x: Array, kernel_hw: Pair, stride: Pair, pad: Pad, dilation: Pair, groups: int
    ) -> Array:
        """Gradient of conv2d by w: gy (N, OH, OW, O), x (N, H, W, C) -> gw (O, KH, KW, C/groups)."""
        xp = self.xp
        expect_ndim("conv2d_weight_grad", "x", x, 4)
        expect_ndim("conv2d_weight_grad", "gy", gy, 4)
        n, h, width, c = x.shape
        o = gy.shape[3]
        w_shape = (o, kernel_hw[0], kernel_hw[1], c // max(groups, 1))
        oh, ow = expect_conv("conv2d_weight_grad", c, w_shape, groups, (h, width), stride, pad, dilation)
        expect_shape("conv2d_weight_grad", "gy", gy, (n, oh, ow, o))
        padded = xp.pad(x, ((0, 0), *pad, (0, 0)))
        gw = xp.empty(w_shape, gy.dtype)
        g = self._by_group(gy, groups).transpose(0, 2, 1)
        for kh, kw, window in tap_windows(kernel_hw, stride, dilation, (oh, ow)):
            gw[:, kh, kw, :] = (g @ self._by_group(padded[window], groups)).reshape(o, c // groups)
        return gw
