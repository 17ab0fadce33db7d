"""Pooling over (N, C, H, W)."""

from __future__ import annotations

from minidl.nn import functional as F
from minidl.nn._checks import IntPair, pair
from minidl.nn.module import Module
from minidl.tensor import Tensor

__all__ = ["AdaptiveAvgPool2d", "AvgPool2d", "MaxPool2d"]


def _shown(value: tuple[int, int]) -> str:
    return str(value[0] if value[0] == value[1] else value)


class _Pool2d(Module):
    """What max and average pooling share: a window (default stride: the window), padding and ceil mode."""

    def __init__(
        self, kernel_size: IntPair, stride: IntPair | None, padding: IntPair, ceil_mode: bool
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.kernel_size = pair(f"{name}: kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else pair(f"{name}: stride", stride, 1)
        self.padding = pair(f"{name}: padding", padding, 0)
        self.ceil_mode = bool(ceil_mode)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel_size, strict=True)):
            raise ValueError(
                f"{name}: padding {self.padding} must be at most half of kernel_size {self.kernel_size}"
            )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={_shown(self.kernel_size)}, stride={_shown(self.stride)}, "
            f"padding={_shown(self.padding)}, ceil_mode={self.ceil_mode}"
        )


class MaxPool2d(_Pool2d):
    """Maximum of each window; the padding never wins (it counts as minus infinity).

    ceil_mode=True keeps a last window that starts inside the input or its left padding but ends beyond it.
    """

    def __init__(
        self,
        kernel_size: IntPair,
        stride: IntPair | None = None,
        padding: IntPair = 0,
        dilation: IntPair = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.dilation = pair("MaxPool2d: dilation", dilation, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)

    def extra_repr(self) -> str:
        head, tail = super().extra_repr().split(", ceil")
        return f"{head}, dilation={_shown(self.dilation)}, ceil{tail}"


class AvgPool2d(_Pool2d):
    """Mean of each window; count_include_pad=False leaves the padding out of the divisor."""

    def __init__(
        self,
        kernel_size: IntPair,
        stride: IntPair | None = None,
        padding: IntPair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad = bool(count_include_pad)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(
            x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        )


class AdaptiveAvgPool2d(Module):
    """Mean over windows chosen so that the output is output_size, an int or (height, width)."""

    def __init__(self, output_size: IntPair) -> None:
        super().__init__()
        self.output_size = pair("AdaptiveAvgPool2d: output_size", output_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"
