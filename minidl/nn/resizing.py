"""Modules that move pixels: borders, windows as columns, other sizes."""

from __future__ import annotations

from typing import Any, ClassVar

from minidl.nn import functional as F
from minidl.nn._checks import IntPair, choice, integer, pair, sides
from minidl.nn.module import Module
from minidl.tensor import Tensor

__all__ = [
    "CircularPad1d",
    "CircularPad2d",
    "ConstantPad1d",
    "ConstantPad2d",
    "Fold",
    "PixelShuffle",
    "PixelUnshuffle",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "Unfold",
    "Upsample",
    "UpsamplingBilinear2d",
    "UpsamplingNearest2d",
    "ZeroPad1d",
    "ZeroPad2d",
]


class Upsample(Module):
    """Signals (N, C, L) or images (N, C, H, W) of another size, see :func:`minidl.nn.functional.interpolate`.

    Args:
        size: the new size, an int or one for each spatial dimension.
        scale_factor: or its ratio to the old one.
        mode: "nearest", "nearest-exact", "linear", "bilinear", "bicubic" or "area".
        align_corners: for linear, bilinear and bicubic: the corner pixels' centres keep their place.
        recompute_scale_factor: lay the grid by the ratio of the sizes instead of scale_factor.
    """

    def __init__(
        self,
        size: Any = None,
        scale_factor: Any = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        super().__init__()
        modes = ("nearest", "nearest-exact", "linear", "bilinear", "bicubic", "area")
        self.mode = choice(f"{type(self).__name__}: mode", mode, modes)
        if (size is None) == (scale_factor is None):
            raise ValueError(f"{type(self).__name__}: exactly one of size and scale_factor must be given")
        self.size = size
        if isinstance(scale_factor, tuple | list):
            self.scale_factor: Any = tuple(float(f) for f in scale_factor)
        else:
            self.scale_factor = float(scale_factor) if scale_factor else None
        self.align_corners = align_corners
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(
            x, self.size, self.scale_factor, self.mode, self.align_corners, self.recompute_scale_factor
        )

    def extra_repr(self) -> str:
        size = f"size={self.size}" if self.size is not None else f"scale_factor={self.scale_factor}"
        return f"{size}, mode={self.mode!r}"


class UpsamplingNearest2d(Upsample):
    """Images of another size by the nearest pixel."""

    def __init__(self, size: Any = None, scale_factor: Any = None) -> None:
        super().__init__(size, scale_factor, "nearest")


class UpsamplingBilinear2d(Upsample):
    """Images of another size by bilinear interpolation between aligned corners."""

    def __init__(self, size: Any = None, scale_factor: Any = None) -> None:
        super().__init__(size, scale_factor, "bilinear", True)


class PixelShuffle(Module):
    """(N, C * r * r, H, W) -> (N, C, H * r, W * r) (Shi et al. 2016)."""

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = integer("PixelShuffle: upscale_factor", upscale_factor, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(x, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """(N, C, H * r, W * r) -> (N, C * r * r, H, W): the inverse of PixelShuffle."""

    def __init__(self, downscale_factor: int) -> None:
        super().__init__()
        self.downscale_factor = integer("PixelUnshuffle: downscale_factor", downscale_factor, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(x, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"


class Unfold(Module):
    """The windows of images as columns: (N, C, H, W) -> (N, C * KH * KW, windows)."""

    def __init__(
        self, kernel_size: IntPair, dilation: IntPair = 1, padding: IntPair = 0, stride: IntPair = 1
    ) -> None:
        super().__init__()
        name = type(self).__name__
        for text, value, least in (
            ("kernel_size", kernel_size, 1),
            ("dilation", dilation, 1),
            ("padding", padding, 0),
            ("stride", stride, 1),
        ):
            pair(f"{name}: {text}", value, least)
        self.kernel_size, self.dilation = kernel_size, dilation
        self.padding, self.stride = padding, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, "
            f"stride={self.stride}"
        )


class Fold(Unfold):
    """Columns added back into images of output_size: (N, C * KH * KW, windows) -> (N, C, H, W)."""

    def __init__(
        self,
        output_size: IntPair,
        kernel_size: IntPair,
        dilation: IntPair = 1,
        padding: IntPair = 0,
        stride: IntPair = 1,
    ) -> None:
        super().__init__(kernel_size, dilation, padding, stride)
        pair("Fold: output_size", output_size, 1)
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        return F.fold(x, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, {super().extra_repr()}"


class _Pad(Module):
    """A border around the last dimensions; padding is an int or (left, right, top, bottom)."""

    axes: ClassVar[int]
    mode: ClassVar[str]
    value: float = 0.0

    def __init__(self, padding: Any) -> None:
        super().__init__()
        self.padding = sides(f"{type(self).__name__}: padding", padding, self.axes)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.padding, self.mode, self.value)

    def extra_repr(self) -> str:
        return str(self.padding)


class ConstantPad2d(_Pad):
    """A border of a constant around the last two dimensions."""

    axes, mode = 2, "constant"

    def __init__(self, padding: Any, value: float) -> None:
        super().__init__(padding)
        self.value = value

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ConstantPad1d(ConstantPad2d):
    """A border of a constant around the last dimension."""

    axes = 1


class ZeroPad2d(_Pad):
    """A border of zeros around the last two dimensions."""

    axes, mode = 2, "constant"


class ZeroPad1d(_Pad):
    """A border of zeros around the last dimension."""

    axes, mode = 1, "constant"


class ReflectionPad2d(_Pad):
    """A border that mirrors an image at its edge pixels."""

    axes, mode = 2, "reflect"


class ReflectionPad1d(_Pad):
    """A border that mirrors a signal at its ends."""

    axes, mode = 1, "reflect"


class ReplicationPad2d(_Pad):
    """A border of repeated edge pixels."""

    axes, mode = 2, "replicate"


class ReplicationPad1d(_Pad):
    """A border of repeated end elements."""

    axes, mode = 1, "replicate"


class CircularPad2d(_Pad):
    """A border taken from the opposite side of an image."""

    axes, mode = 2, "circular"


class CircularPad1d(_Pad):
    """A border taken from the opposite end of a signal."""

    axes, mode = 1, "circular"
