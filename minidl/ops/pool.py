"""Pooling. Max pooling remembers where each maximum was: its gradient scatters there, and that gradient's
gradient gathers."""

from __future__ import annotations

from typing import Any

from minidl import kernels
from minidl.autograd import Function
from minidl.ops._common import Array, Pad2d, Pair, expect_images, nchw, nhwc, pad2d, pair
from minidl.tensor import Tensor

Window = tuple[Pair, Pair, Pad2d, Pair]


class MaxPool2d(Function):
    """The maximum of each window (the first one on ties); padding never wins."""

    def __init__(self, kernel: Pair, stride: Pair, pad: Pad2d, dilation: Pair, out_hw: Pair) -> None:
        self.options = (kernel, stride, pad, dilation, out_hw)

    def forward(self, x: Array) -> Array:
        self.input_hw = (x.shape[2], x.shape[3])
        y, self.index = kernels.backend(x).max_pool2d(nhwc(x), *self.options)
        return nchw(y)

    def backward(self, grad: Tensor) -> Tensor:
        return MaxPoolScatter(self.index, self.input_hw, self.options[:4])(grad)


class MaxPoolScatter(Function):
    """Each gradient goes to the position of its maximum, adding where windows overlap.

    ``window`` (kernel, stride, pad, dilation) says where the index came from and lets a kernel work faster.
    """

    def __init__(self, index: Array, input_hw: Pair, window: Window | None) -> None:
        self.index, self.input_hw, self.window = index, input_hw, window

    def forward(self, gy: Array) -> Array:
        be = kernels.backend(gy)
        return nchw(be.max_pool2d_scatter(nhwc(gy), self.index, self.input_hw, self.window))

    def backward(self, grad: Tensor) -> Tensor:
        return MaxPoolGather(self.index, self.window)(grad)


class MaxPoolGather(Function):
    """The adjoint of the scatter: the elements at the remembered positions."""

    def __init__(self, index: Array, window: Window | None) -> None:
        self.index, self.window = index, window

    def forward(self, x: Array) -> Array:
        self.input_hw = (x.shape[2], x.shape[3])
        return nchw(kernels.backend(x).max_pool2d_gather(nhwc(x), self.index))

    def backward(self, grad: Tensor) -> Tensor:
        return MaxPoolScatter(self.index, self.input_hw, self.window)(grad)


class AvgPool2d(Function):
    """The mean of each window."""

    def __init__(self, kernel: Pair, stride: Pair, pad: Pad2d, out_hw: Pair, count_include_pad: bool) -> None:
        self.options = (kernel, stride, pad, out_hw, count_include_pad)

    def forward(self, x: Array) -> Array:
        self.input_hw = (x.shape[2], x.shape[3])
        return nchw(kernels.backend(x).avg_pool2d(nhwc(x), *self.options))

    def backward(self, grad: Tensor) -> Tensor:
        return AvgPool2dBackward(self, self.input_hw)(grad)


class AvgPool2dBackward(Function):
    """The adjoint of average pooling."""

    def __init__(self, pool: AvgPool2d, input_hw: Pair) -> None:
        self.options, self.input_hw = pool.options, input_hw

    def forward(self, gy: Array) -> Array:
        kernel, stride, pad, _, count_include_pad = self.options
        gx = kernels.backend(gy).avg_pool2d_backward(
            nhwc(gy), self.input_hw, kernel, stride, pad, count_include_pad
        )
        return nchw(gx)

    def backward(self, grad: Tensor) -> Tensor:
        return AvgPool2d(*self.options)(grad)


class AdaptiveAvgPool2d(Function):
    """The mean of each of (OH, OW) nearly equal parts."""

    def __init__(self, out_hw: Pair) -> None:
        self.out_hw = out_hw

    def forward(self, x: Array) -> Array:
        self.input_hw = (x.shape[2], x.shape[3])
        return nchw(kernels.backend(x).adaptive_avg_pool2d(nhwc(x), self.out_hw))

    def backward(self, grad: Tensor) -> Tensor:
        return AdaptiveAvgPool2dBackward(self.out_hw, self.input_hw)(grad)


class AdaptiveAvgPool2dBackward(Function):
    """The adjoint of adaptive average pooling."""

    def __init__(self, out_hw: Pair, input_hw: Pair) -> None:
        self.out_hw, self.input_hw = out_hw, input_hw

    def forward(self, gy: Array) -> Array:
        return nchw(kernels.backend(gy).adaptive_avg_pool2d_backward(nhwc(gy), self.input_hw))

    def backward(self, grad: Tensor) -> Tensor:
        return AdaptiveAvgPool2d(self.out_hw)(grad)


def pooled_size(
    op: str, input_hw: Pair, kernel: Pair, stride: Pair, pad: Pad2d, dilation: Pair, ceil_mode: bool
) -> Pair:
    """(OH, OW). In ceil mode the last window may reach past the padded input but must start inside the input
    or its front padding."""
    out = []
    for axis, n, k, s, (front, back), d in zip(
        ("height", "width"), input_hw, kernel, stride, pad, dilation, strict=True
    ):
        if 2 * max(front, back) > k:
            raise ValueError(f"{op}: padding {pad} is more than half of the kernel {kernel}")
        room = n + front + back - d * (k - 1) - 1
        size = (-(-room // s) if ceil_mode else room // s) + 1
        if ceil_mode and (size - 1) * s >= n + front:
            size -= 1
        if size < 1 or n < 1:
            raise ValueError(
                f"{op}: a kernel of {kernel} (dilation {dilation}) is larger than the padded {axis} {n}"
            )
        out.append(size)
    return out[0], out[1]


def max_pool2d(
    x: Tensor,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair | Pad2d = 0,
    dilation: int | Pair = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Maximum over windows, as ``torch.nn.functional.max_pool2d``: (N, C, H, W) -> (N, C, OH, OW); padding
    counts as -inf.

    ``stride`` defaults to ``kernel_size``; ``padding`` is at most half of the kernel.
    """
    expect_images("max_pool2d", x)
    kernel = pair("max_pool2d", "kernel_size", kernel_size, 1)
    strides = kernel if stride is None else pair("max_pool2d", "stride", stride, 1)
    dilations = pair("max_pool2d", "dilation", dilation, 1)
    pads = pad2d("max_pool2d", padding, kernel)
    out_hw = pooled_size("max_pool2d", (x.shape[2], x.shape[3]), kernel, strides, pads, dilations, ceil_mode)
    return MaxPool2d(kernel, strides, pads, dilations, out_hw)(x)


def avg_pool2d(
    x: Tensor,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair | Pad2d = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Mean over windows, as ``torch.nn.functional.avg_pool2d``; padding counts as zeros unless
    ``count_include_pad`` is False."""
    expect_images("avg_pool2d", x)
    kernel = pair("avg_pool2d", "kernel_size", kernel_size, 1)
    strides = kernel if stride is None else pair("avg_pool2d", "stride", stride, 1)
    pads = pad2d("avg_pool2d", padding, kernel)
    out_hw = pooled_size("avg_pool2d", (x.shape[2], x.shape[3]), kernel, strides, pads, (1, 1), ceil_mode)
    return AvgPool2d(kernel, strides, pads, out_hw, bool(count_include_pad))(x)


def adaptive_avg_pool2d(x: Tensor, output_size: int | Any) -> Tensor:
    """Mean over (OH, OW) nearly equal parts; a size of None keeps that side."""
    expect_images("adaptive_avg_pool2d", x)
    if isinstance(output_size, (tuple, list)) and len(output_size) == 2:
        output_size = tuple(n if o is None else o for o, n in zip(output_size, x.shape[2:], strict=True))
    out_hw = pair("adaptive_avg_pool2d", "output_size", output_size, 1)
    if 0 in x.shape[2:]:
        raise ValueError(f"adaptive_avg_pool2d: x has no pixels, shape {x.shape}")
    return AdaptiveAvgPool2d(out_hw)(x)
