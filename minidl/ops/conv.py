"""Convolution, closed on itself: three operators, each the others' gradient.

With y = conv(x, w), gx = input_grad(gy, w) and gw = weight_grad(gy, x), all three are bilinear, and

    operator             by its first argument       by its second argument
    conv(x, w)           input_grad(g, w)            weight_grad(g, x)
    input_grad(gy, w)    conv(g, w)                  weight_grad(gy, g)
    weight_grad(gy, x)   conv(x, g)                  input_grad(gy, g)

so gradients of gradients of any order need no further kernel. input_grad is the transposed convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from minidl import kernels
from minidl.autograd import Function
from minidl.ops._common import Array, Pad2d, Pair, expect_images, expect_same_dtype, nchw, nhwc, pad2d, pair
from minidl.ops.reduce import sum
from minidl.tensor import Tensor


@dataclass(frozen=True)
class Geometry:
    """Where the windows of a convolution lie."""

    stride: Pair
    pad: Pad2d
    dilation: Pair
    groups: int

    def output_hw(self, input_hw: Pair, kernel_hw: Pair) -> Pair:
        """(OH, OW) of a convolution of an (H, W) image."""
        h, w = (
            (n + sum_pad[0] + sum_pad[1] - d * (k - 1) - 1) // s + 1
            for n, sum_pad, d, k, s in zip(
                input_hw, self.pad, self.dilation, kernel_hw, self.stride, strict=True
            )
        )
        return h, w


class Conv2d(Function):
    saved_inputs = (0, 1)

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry

    def forward(self, x: Array, w: Array, bias: Array | None) -> Array:
        g = self.geometry
        return nchw(kernels.backend(x).conv2d(nhwc(x), nhwc(w), bias, g.stride, g.pad, g.dilation, g.groups))

    def backward(self, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, w = self.saved()
        needs_x, needs_w, needs_bias = self.needs_input_grad
        gx = Conv2dInputGrad(self.geometry, x.shape[2:])(grad, w) if needs_x else None
        gw = Conv2dWeightGrad(self.geometry, w.shape[2:])(grad, x) if needs_w else None
        gb = sum(grad, (0, 2, 3)) if needs_bias else None
        return gx, gw, gb


class Conv2dInputGrad(Function):
    """The adjoint of a convolution in its input: the transposed convolution."""

    saved_inputs = (0, 1)

    def __init__(self, geometry: Geometry, input_hw: Any) -> None:
        self.geometry = geometry
        self.input_hw: Pair = (int(input_hw[0]), int(input_hw[1]))

    def forward(self, gy: Array, w: Array) -> Array:
        g = self.geometry
        gx = kernels.backend(gy).conv2d_input_grad(
            nhwc(gy), nhwc(w), self.input_hw, g.stride, g.pad, g.dilation, g.groups
        )
        return nchw(gx)

    def backward(self, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        gy, w = self.saved()
        needs_gy, needs_w = self.needs_input_grad
        ggy = Conv2d(self.geometry)(grad, w, None) if needs_gy else None
        gw = Conv2dWeightGrad(self.geometry, w.shape[2:])(gy, grad) if needs_w else None
        return ggy, gw


class Conv2dWeightGrad(Function):
    """The adjoint of a convolution in its weight."""

    saved_inputs = (0, 1)

    def __init__(self, geometry: Geometry, kernel_hw: Any) -> None:
        self.geometry = geometry
        self.kernel_hw: Pair = (int(kernel_hw[0]), int(kernel_hw[1]))

    def forward(self, gy: Array, x: Array) -> Array:
        g = self.geometry
        gw = kernels.backend(gy).conv2d_weight_grad(
            nhwc(gy), nhwc(x), self.kernel_hw, g.stride, g.pad, g.dilation, g.groups
        )
        return nchw(gw)

    def backward(self, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        gy, x = self.saved()
        needs_gy, needs_x = self.needs_input_grad
        ggy = Conv2d(self.geometry)(x, grad, None) if needs_gy else None
        gx = Conv2dInputGrad(self.geometry, x.shape[2:])(gy, grad) if needs_x else None
        return ggy, gx


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | str | Pad2d = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Two-dimensional cross-correlation, as ``torch.nn.functional.conv2d``.

    Args:
        x: (N, C, H, W).
        weight: (O, C // groups, KH, KW), dtype of ``x``.
        bias: (O,) or None.
        stride, dilation: an int or (vertical, horizontal).
        padding: zeros around x: an int, (vertical, horizontal), ((top, bottom), (left, right)), "valid", or
            "same" (stride 1 only).
        groups: channels are split into this many groups that do not see each other.

    Returns:
        (N, O, OH, OW) with OH = (H + top + bottom - dilation * (KH - 1) - 1) // stride + 1.
    """
    expect_images("conv2d", x)
    if weight.ndim != 4:
        raise ValueError(
            f"conv2d: weight expects 4 dimensions (O, C / groups, KH, KW), got shape {weight.shape}"
        )
    expect_same_dtype("conv2d", x, weight=weight, bias=bias)
    if not isinstance(groups, int) or groups < 1 or weight.shape[0] % groups:
        raise ValueError(
            f"conv2d: groups expects a divisor of the {weight.shape[0]} output channels, got {groups!r}"
        )
    if weight.shape[1] * groups != x.shape[1]:
        raise ValueError(
            f"conv2d: weight expects {weight.shape[1] * groups} input channels, x has {x.shape[1]}"
        )
    if bias is not None and bias.shape != (weight.shape[0],):
        raise ValueError(f"conv2d: bias expects shape ({weight.shape[0]},), got {bias.shape}")
    strides, dilations = pair("conv2d", "stride", stride, 1), pair("conv2d", "dilation", dilation, 1)
    kernel = (weight.shape[2], weight.shape[3])
    if padding == "same" and strides != (1, 1):
        raise ValueError(f"conv2d: padding='same' needs stride 1, got {strides}")
    geometry = Geometry(strides, pad2d("conv2d", padding, kernel, dilations), dilations, groups)
    if min(geometry.output_hw((x.shape[2], x.shape[3]), kernel)) < 1 or 0 in kernel:
        raise ValueError(
            f"conv2d: a {kernel[0]}x{kernel[1]} kernel (dilation {dilations}) is larger than the padded "
            f"input "
            f"of {x.shape[2]}x{x.shape[3]} (padding {geometry.pad})"
        )
    return Conv2d(geometry)(x, weight, bias)
