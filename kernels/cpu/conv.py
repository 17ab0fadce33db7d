"""Convolution and its gradients on the CPU: each as a walk over a grid of pixels and its taps."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from minidl.kernels.cpu import memory
from minidl.kernels.cpu.gather import gather
from minidl.kernels.cpu.plan import Source, Window, ceil_div
from minidl.kernels.cpu.weight_grad import weight_gradient
from minidl.kernels.reference import ReferenceBackend
from minidl.kernels.reference.checks import Array, Pad, Pair, expect_conv, expect_ndim, expect_shape


def conv_window(out_hw: Pair, kernel_hw: Pair, stride: Pair, pad: Pad, dilation: Pair) -> Window:
    """The window of a convolution, its taps in row order."""
    rows, cols = (range(0, kernel_hw[a] * dilation[a], dilation[a]) for a in (0, 1))
    return Window(*out_hw, *stride, pad[0][0], pad[1][0], tuple((r, c) for r in rows for c in cols))


FLOATS = ("float32", "float64")  # other dtypes go to the reference


@functools.lru_cache(maxsize=1024)
def gradient_phase(
    phase: Pair, input_hw: Pair, kernel_hw: Pair, stride: Pair, top_left: Pair, dilation: Pair
) -> tuple[Window, tuple[int, ...]] | None:
    """The input pixels (stride*i + phase) as outputs of a gather of stride 1 over gy.

    y[p] takes x[p*stride - pad + k*dilation] times w[k], so x[stride*i + phase] goes to p = i + (phase +
    pad - k*dilation) / stride for each tap k for which that is whole.

    Returns:
        The window and, for each of its taps, kh*KW + kw; None where no tap reaches these pixels.
    """
    reached: list[list[tuple[int, int]]] = []
    for axis in (0, 1):
        steps = []
        for k in range(kernel_hw[axis]):
            distance = phase[axis] + top_left[axis] - k * dilation[axis]
            if distance % stride[axis] == 0:
                steps.append((distance // stride[axis], k))
        reached.append(sorted(steps))
    down, across = reached
    if not down or not across:
        return None
    rows, cols = (ceil_div(input_hw[a] - phase[a], stride[a]) for a in (0, 1))
    first_r, first_c = down[0][0], across[0][0]
    taps = tuple((r - first_r, c - first_c) for r, _ in down for c, _ in across)
    kernel_taps = tuple(kh * kernel_hw[1] + kw for _, kh in down for _, kw in across)
    return Window(rows, cols, 1, 1, -first_r, -first_c, taps), kernel_taps


def flat_taps(w: Array, dtype: npt.DTypeLike) -> Array:
    """w (O, KH, KW, C) as (O, C, KH*KW), contiguous: no copy where w lies in memory like PyTorch's weights."""
    o, kh, kw, c = w.shape
    return np.ascontiguousarray(w.transpose(0, 3, 1, 2), dtype).reshape(o, c, kh * kw)


class ConvMixin(ReferenceBackend):
    """conv2d and its two gradients."""

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
    ) -> Array:
        """Cross-correlation of x (N, H, W, C) with w (O, KH, KW, C/groups), plus bias (O,): y (N, OH, OW, O).

        relu=True ends in max(y, 0), NaN stays NaN. Raises ValueError when shapes do not fit together.
        """
        expect_ndim("conv2d", "x", x, 4)
        n, h, width, c = x.shape
        oh, ow = expect_conv("conv2d", c, w.shape, groups, (h, width), stride, pad, dilation)
        o, kh, kw, depth = w.shape
        if bias is not None:
            expect_shape("conv2d", "bias", bias, (o,))
        if x.dtype.name not in FLOATS or not w.size:
            return super().conv2d(x, w, bias, stride, pad, dilation, groups, relu=relu)
        x = np.ascontiguousarray(x)
        weight = flat_taps(w, x.dtype)
        y = memory.empty((n, oh, ow, o), x.dtype)
        source = Source(n, h, width, c, depth, x.dtype.itemsize)
        window = conv_window((oh, ow), (kh, kw), stride, pad, dilation)
        per = o // groups
        for group in range(groups if y.size else 0):
            outputs = slice(group * per, (group + 1) * per)
            group_bias = None if bias is None else bias[outputs]
            places = (group * per, oh * ow * o, ow * o, o)
            taps = tuple(range(kh * kw))
            gather(
                x, group * depth, source, window, weight[outputs], taps, False, group_bias, relu, y, places
            )
        return y

    def conv2d_input_grad(
        self, gy: Array, w: Array, input_hw: Pair, stride: Pair, pad: Pad, dilation: Pair, groups: int
    ) -> Array:
        """Gradient of conv2d by x: gy (N, OH, OW, O), w (O, KH, KW, C/groups) -> gx (N, H, W, C)."""
        expect_ndim("conv2d_input_grad", "gy", gy, 4)
        expect_ndim("conv2d_input_grad", "w", w, 4)
        n, o, per_c = gy.shape[0], w.shape[0], w.shape[3]
        c = per_c * groups
        oh, ow = expect_conv("conv2d_input_grad", c, w.shape, groups, input_hw, stride, pad, dilation)
        expect_shape("conv2d_input_grad", "gy", gy, (n, oh, ow, o))
        if gy.dtype.name not in FLOATS or not w.size:
            return super().conv2d_input_grad(gy, w, input_hw, stride, pad, dilation, groups)
        gy = np.ascontiguousarray(gy)
        weight = flat_taps(w, gy.dtype)
        h, width = input_hw
        gx = memory.empty((n, h, width, c), gy.dtype)
        if not gx.size:
            return gx
        per_o = o // groups
        source = Source(n, oh, ow, o, per_o, gy.dtype.itemsize)
        top_left = (pad[0][0], pad[1][0])
        for phase in [(a, b) for a in range(min(stride[0], h)) for b in range(min(stride[1], width))]:
            found = gradient_phase(phase, input_hw, w.shape[1:3], stride, top_left, dilation)
            if found is None:
                gx[:, phase[0] :: stride[0], phase[1] :: stride[1]] = 0
                continue
            window, taps = found
            for group in range(groups):
                outputs = slice(group * per_o, (group + 1) * per_o)
                base = (phase[0] * width + phase[1]) * c + group * per_c
                places = (base, h * width * c, stride[0] * width * c, stride[1] * c)
                gather(
                    gy, group * per_o, source, window, weight[outputs], taps, True, None, False, gx, places
                )
        return gx

    def conv2d_weight_grad(
        self, gy: Array, x: Array, kernel_hw: Pair, stride: Pair, pad: Pad, dilation: Pair, groups: int
    ) -> Array:
        """Gradient of conv2d by w: gy (N, OH, OW, O), x (N, H, W, C) -> gw (O, KH, KW, C/groups).

        The result lies in memory as (O, C/groups, KH, KW), like the weight it belongs to.
        """
        expect_ndim("conv2d_weight_grad", "x", x, 4)
        expect_ndim("conv2d_weight_grad", "gy", gy, 4)
        n, h, width, c = x.shape
        o = gy.shape[3]
        kh, kw = kernel_hw
        depth = c // max(groups, 1)
        oh, ow = expect_conv(
            "conv2d_weight_grad", c, (o, kh, kw, depth), groups, (h, width), stride, pad, dilation
        )
        expect_shape("conv2d_weight_grad", "gy", gy, (n, oh, ow, o))
        if gy.dtype.name not in FLOATS or not depth:
            return super().conv2d_weight_grad(gy, x, kernel_hw, stride, pad, dilation, groups)
        gy = np.ascontiguousarray(gy)
        x = np.ascontiguousarray(x.astype(gy.dtype, copy=False))
        gw = memory.empty((o, depth, kh, kw), gy.dtype)
        if not gy.size or not x.size:
            gw.fill(0)
            return gw.transpose(0, 2, 3, 1)
        source = Source(n, h, width, c, depth, gy.dtype.itemsize)
        window = conv_window((oh, ow), kernel_hw, stride, pad, dilation)
        per = o // groups
        for group in range(groups):
            out = gw[group * per : (group + 1) * per].reshape(per, depth, kh * kw)
            weight_gradient(x, group * depth, source, window, gy, group * per, out)
        return gw.transpose(0, 2, 3, 1)
