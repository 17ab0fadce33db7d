"""The residual blocks and their shortcuts. Batch norm, addition and ReLU run as one fused operator."""

from __future__ import annotations

from minidl import nn
from minidl.nn import functional as F
from minidl.tensor import Tensor

__all__ = ["EXPANSION", "BasicBlock", "Bottleneck", "PadShortcut", "make_block"]

EXPANSION = {"basic": 1, "bottleneck": 4}


class BasicBlock(nn.Module):
    """3x3 and 3x3 convolution around a shortcut; the first carries the stride."""

    def __init__(
        self, in_channels: int, width: int, out_channels: int, stride: int, downsample: nn.Module | None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = downsample

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The batch norm before the addition."""
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn1(self.conv1(x), relu=True)
        return self.bn2(self.conv2(out), residual=identity, relu=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution around a shortcut; `stride_in` says which one carries the stride."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        stride: int,
        stride_in: str,
        downsample: nn.Module | None,
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in == "1x1" else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride=first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=second, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = downsample

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The batch norm before the addition."""
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn1(self.conv1(x), relu=True)
        out = self.bn2(self.conv2(out), relu=True)
        return self.bn3(self.conv3(out), residual=identity, relu=True)


class PadShortcut(nn.Module):
    """Option A of the paper: every stride-th pixel, and zeros for the new channels, half of them before the
    old ones.

    The published CIFAR weights were trained with the zeros on both sides. No parameters.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        if out_channels < in_channels:
            raise ValueError(
                f"PadShortcut: cannot pad {in_channels} channels to {out_channels}; use shortcut='projection'"
            )
        before = (out_channels - in_channels) // 2
        self.stride = stride
        self.channels = (before, out_channels - in_channels - before)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, *self.channels)) if any(self.channels) else x

    def extra_repr(self) -> str:
        return f"stride={self.stride}, channels={self.channels}"


def make_block(
    kind: str, in_channels: int, width: int, expansion: int, stride: int, stride_in: str, shortcut: str
) -> nn.Module:
    """A block of a kind ("basic", "bottleneck") with the shortcut that its shapes need, if any."""
    out_channels = width * expansion
    downsample: nn.Module | None = None
    if stride != 1 or in_channels != out_channels:
        if shortcut == "pad":
            downsample = PadShortcut(in_channels, out_channels, stride)
        else:
            downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )
    if kind == "basic":
        return BasicBlock(in_channels, width, out_channels, stride, downsample)
    return Bottleneck(in_channels, width, out_channels, stride, stride_in, downsample)
