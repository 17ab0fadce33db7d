"""Convolution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.nn import functional as F
from minidl.nn import init
from minidl.nn._checks import IntPair, Padding, integer, padding2d, pair
from minidl.nn.module import Module
from minidl.tensor import Parameter, Tensor

__all__ = ["Conv2d"]


class Conv2d(Module):
    """2-D cross-correlation, (N, in_channels, H, W) -> (N, out_channels, OH, OW).

    Args:
        in_channels, out_channels: positive, both divisible by groups.
        kernel_size, stride, dilation: an int or (height, width), at least 1.
        padding: zeros around the input: an int, (height, width), ((top, bottom), (left, right)), "valid"
            (none) or "same" (the output has the input's size; stride 1 only).
        groups: input and output channels are split into this many independent convolutions.
        bias: adds one learned number per output channel.

    `weight` is (out_channels, in_channels // groups, kh, kw), drawn from U(±1/sqrt(fan_in)) like the bias:
    PyTorch's default (kaiming uniform with a = sqrt(5)).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: Padding = 0,
        dilation: IntPair = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels = integer("Conv2d: in_channels", in_channels, 1)
        self.out_channels = integer("Conv2d: out_channels", out_channels, 1)
        self.kernel_size = pair("Conv2d: kernel_size", kernel_size, 1)
        self.stride = pair("Conv2d: stride", stride, 1)
        self.padding: Any = padding2d("Conv2d: padding", padding)
        self.dilation = pair("Conv2d: dilation", dilation, 1)
        self.groups = integer("Conv2d: groups", groups, 1)
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(f"Conv2d: {name} {channels} is not divisible by groups {groups}")
        if self.padding == "same" and self.stride != (1, 1):
            raise ValueError(f"Conv2d: padding='same' needs stride 1, got {self.stride}")
        self.weight = Parameter(
            np.empty((out_channels, in_channels // groups, *self.kernel_size), dtype=np.float32)
        )
        self.bias = Parameter(np.empty(out_channels, dtype=np.float32)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weight and bias anew."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(init.fans(self.weight)[0])
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        )
        if self.padding != (0, 0):
            text += f", padding={self.padding!r}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        return text if self.bias is not None else text + ", bias=False"
