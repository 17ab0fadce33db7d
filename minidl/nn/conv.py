"""Convolution and transposed convolution, of signals and of images."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from minidl.nn import functional as F
from minidl.nn import init
from minidl.nn._checks import (
    IntPair,
    IntSingle,
    Padding,
    Padding1d,
    choice,
    integer,
    padding2d,
    pair,
    single,
)
from minidl.nn.module import Module
from minidl.tensor import Parameter, Tensor

__all__ = ["Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d"]

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def _padding(where: str, value: Any, axes: int) -> Any:
    """The padding as the operator takes it: a number for each axis, pairs, or "same"."""
    if axes == 2 or isinstance(value, str):
        checked = padding2d(where, value)
        return (0,) * axes if checked == (0, 0) else checked
    if isinstance(value, tuple | list) and len(value) == 1 and isinstance(value[0], tuple | list):
        return (pair(where, value[0], 0),)
    return single(where, value, 0)


class _Convolution(Module):
    """What the convolutions share: checks, the start, the representation."""

    axes: ClassVar[int]
    transposed: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        output_padding: Any,
        dilation: Any,
        groups: int,
        bias: bool,
        padding_mode: str,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if self.transposed and isinstance(padding, str):
            raise ValueError(f"{name}: padding must be integers, got {padding!r}")
        sizes: Any = pair if self.axes == 2 else single
        self.in_channels = integer(f"{name}: in_channels", in_channels, 1)
        self.out_channels = integer(f"{name}: out_channels", out_channels, 1)
        self.kernel_size = sizes(f"{name}: kernel_size", kernel_size, 1)
        self.stride = sizes(f"{name}: stride", stride, 1)
        self.padding: Any = _padding(f"{name}: padding", padding, self.axes)
        self.output_padding = sizes(f"{name}: output_padding", output_padding, 0)
        self.dilation = sizes(f"{name}: dilation", dilation, 1)
        self.groups = integer(f"{name}: groups", groups, 1)
        if self.transposed and padding_mode != "zeros":
            raise ValueError(f"{name}: padding_mode must be 'zeros', got {padding_mode!r}")
        self.padding_mode = choice(f"{name}: padding_mode", padding_mode, PADDING_MODES)
        for text, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(f"{name}: {text} {channels} is not divisible by groups {groups}")
        if self.padding == "same" and max(self.stride) != 1:
            raise ValueError(f"{name}: padding='same' needs stride 1, got {self.stride}")
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        self.weight = Parameter(np.empty((first, second // groups, *self.kernel_size), dtype=np.float32))
        self.bias = Parameter(np.empty(out_channels, dtype=np.float32)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weight and bias anew."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(init.fans(self.weight)[0])
            init.uniform_(self.bias, -bound, bound)

    def _border(self) -> list[int]:
        """The padding as F.pad counts it: (left, right, top, bottom)."""
        out: list[int] = []
        for axis in reversed(range(self.axes)):
            if self.padding == "same":
                total = self.dilation[axis] * (self.kernel_size[axis] - 1)
                out += [total // 2, total - total // 2]
            else:
                side = self.padding[axis]
                out += list(side) if isinstance(side, tuple) else [side, side]
        return out

    def _convolved(self, convolution: Any, x: Tensor) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self._border(), self.padding_mode), (0,) * self.axes
        result: Tensor = convolution(
            x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups
        )
        return result

    def extra_repr(self) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        )
        zero = (0,) * self.axes
        if self.padding != zero:
            text += f", padding={self.padding}"
        if self.dilation != (1,) * self.axes:
            text += f", dilation={self.dilation}"
        if self.output_padding != zero:
            text += f", output_padding={self.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        return text if self.padding_mode == "zeros" else text + f", padding_mode={self.padding_mode}"


class Conv2d(_Convolution):
    """2-D cross-correlation, (N, in_channels, H, W) -> (N, out_channels, OH, OW).

    Args:
        in_channels, out_channels: positive, both divisible by groups.
        kernel_size, stride, dilation: an int or (height, width), at least 1.
        padding: a border around the input: an int, (height, width), ((top, bottom), (left, right)), "valid"
            (none) or "same" (the output has the input's size; stride 1 only).
        groups: input and output channels are split into this many independent convolutions.
        bias: adds one learned number per output channel.
        padding_mode: "zeros", "reflect", "replicate" or "circular".

    `weight` is (out_channels, in_channels // groups, kh, kw), drawn from U(±1/sqrt(fan_in)) like the bias:
    PyTorch's default (kaiming uniform with a = sqrt(5)).
    """

    axes = 2

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
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, 0, dilation, groups, bias, padding_mode
        )

    def forward(self, x: Tensor) -> Tensor:
        return self._convolved(F.conv2d, x)


class Conv1d(_Convolution):
    """1-D cross-correlation, (N, in_channels, L) -> (N, out_channels, OL).

    Arguments as :class:`Conv2d`'s, each an int (padding also ((left, right),), "same" or "valid"). `weight`
    is (out_channels, in_channels // groups, k).
    """

    axes = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntSingle,
        stride: IntSingle = 1,
        padding: Padding1d = 0,
        dilation: IntSingle = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, 0, dilation, groups, bias, padding_mode
        )

    def forward(self, x: Tensor) -> Tensor:
        return self._convolved(F.conv1d, x)


class _Transposed(_Convolution):
    """What the transposed convolutions share."""

    transposed = True

    def forward(self, x: Tensor, output_size: Any = None) -> Tensor:
        convolution: Any = F.conv_transpose2d if self.axes == 2 else F.conv_transpose1d
        extra = self._extra_for(x, output_size)
        result: Tensor = convolution(
            x, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )
        return result

    def _extra_for(self, x: Tensor, output_size: Any) -> tuple[int, ...]:
        """The output_padding that gives an output of output_size."""
        if output_size is None:
            return tuple(self.output_padding)
        size = tuple(output_size)[-self.axes :]
        name, extra = type(self).__name__, []
        if len(size) != self.axes:
            raise ValueError(f"{name}: output_size must have {self.axes} numbers, got {output_size!r}")
        for axis, wanted in enumerate(size):
            side = self.padding[axis]
            cut = sum(side) if isinstance(side, tuple) else 2 * side
            reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            least = (x.shape[x.ndim - self.axes + axis] - 1) * self.stride[axis] - cut + reach
            if not least <= wanted < least + self.stride[axis]:
                raise ValueError(
                    f"{name}: output_size {size} is out of reach; axis {axis} can be {least} to "
                    f"{least + self.stride[axis] - 1}"
                )
            extra.append(wanted - least)
        return tuple(extra)


class ConvTranspose2d(_Transposed):
    """Transposed 2-D convolution, (N, in_channels, H, W) -> (N, out_channels, OH, OW): the map that Conv2d of
    the same options applies to gradients.

    Args:
        in_channels, out_channels: positive, both divisible by groups.
        kernel_size, stride, dilation: an int or (height, width), at least 1.
        padding: rows and columns cut off the full output: an int, (height, width) or
            ((top, bottom), (left, right)).
        output_padding: rows and columns added at the bottom and the right, below stride or dilation.
        groups: input and output channels are split into this many independent convolutions.
        bias: adds one learned number per output channel.

    `weight` is (in_channels, out_channels // groups, kh, kw). OH = (H - 1) * stride - 2 * padding +
    dilation * (kh - 1) + output_padding + 1; `forward(x, output_size)` chooses output_padding to fit.
    """

    axes = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: IntPair | tuple[tuple[int, int], tuple[int, int]] = 0,
        output_padding: IntPair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntPair = 1,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            dilation,
            groups,
            bias,
            padding_mode,
        )


class ConvTranspose1d(_Transposed):
    """Transposed 1-D convolution, (N, in_channels, L) -> (N, out_channels, OL).

    Arguments as :class:`ConvTranspose2d`'s, each an int. `weight` is (in_channels, out_channels // groups, k).
    """

    axes = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntSingle,
        stride: IntSingle = 1,
        padding: IntSingle | tuple[tuple[int, int]] = 0,
        output_padding: IntSingle = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntSingle = 1,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            dilation,
            groups,
            bias,
            padding_mode,
        )
