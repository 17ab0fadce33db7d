"""Windows as columns and back: unfold and fold, an adjoint pair."""

from __future__ import annotations

from minidl import kernels
from minidl.autograd import Function
from minidl.ops._common import Array, Pad2d, Pair, expect_floating, nchw, nhwc, pad2d, pair
from minidl.ops._windows import with_batch, without_batch
from minidl.ops.conv import Geometry
from minidl.ops.movement import reshape
from minidl.tensor import Tensor


class Unfold(Function):
    """(N, C, H, W) -> (N, C, KH, KW, OH, OW): what each tap of each window reads."""

    def __init__(self, geometry: Geometry, kernel: Pair) -> None:
        self.geometry, self.kernel = geometry, kernel

    def forward(self, x: Array) -> Array:
        g = self.geometry
        self.input_hw = (x.shape[2], x.shape[3])
        columns = kernels.backend(x).unfold2d(nhwc(x), self.kernel, g.stride, g.pad, g.dilation)
        return columns.transpose(0, 5, 1, 2, 3, 4)

    def backward(self, grad: Tensor) -> Tensor:
        return Fold(self.geometry, self.input_hw)(grad)


class Fold(Function):
    """The adjoint of Unfold: every number is added to the pixel it was read from."""

    def __init__(self, geometry: Geometry, input_hw: Pair) -> None:
        self.geometry, self.input_hw = geometry, input_hw

    def forward(self, columns: Array) -> Array:
        g = self.geometry
        self.kernel = (columns.shape[2], columns.shape[3])
        last = columns.transpose(0, 2, 3, 4, 5, 1)
        return nchw(kernels.backend(columns).fold2d(last, self.input_hw, g.stride, g.pad, g.dilation))

    def backward(self, grad: Tensor) -> Tensor:
        return Unfold(self.geometry, self.kernel)(grad)


def _geometry(
    op: str, kernel_size: int | Pair, dilation: int | Pair, padding: int | Pair | Pad2d, stride: int | Pair
) -> tuple[Pair, Geometry]:
    kernel = pair(op, "kernel_size", kernel_size, 1)
    if isinstance(padding, str):
        raise ValueError(f"{op}: padding expects numbers, got {padding!r}")
    dilations = pair(op, "dilation", dilation, 1)
    return kernel, Geometry(pair(op, "stride", stride, 1), pad2d(op, padding, kernel), dilations, 1)


def unfold(
    x: Tensor,
    kernel_size: int | Pair,
    dilation: int | Pair = 1,
    padding: int | Pair | Pad2d = 0,
    stride: int | Pair = 1,
) -> Tensor:
    """The windows of images as columns, as ``torch.nn.functional.unfold`` (im2col).

    Args:
        x: (N, C, H, W), or one image (C, H, W).
        kernel_size, dilation, padding, stride: an int or (vertical, horizontal).

    Returns:
        (N, C * KH * KW, L), L windows in row order.
    """
    op = "unfold"
    x, single = with_batch(op, x, 4)
    kernel, geometry = _geometry(op, kernel_size, dilation, padding, stride)
    if min(geometry.output_hw((x.shape[2], x.shape[3]), kernel)) < 1:
        raise ValueError(
            f"{op}: a {kernel[0]}x{kernel[1]} kernel (dilation {geometry.dilation}) is larger than the padded "
            f"input of {x.shape[2]}x{x.shape[3]}"
        )
    columns = Unfold(geometry, kernel)(x)
    n, c, kh, kw, oh, ow = columns.shape
    return without_batch(reshape(columns, (n, c * kh * kw, oh * ow)), single)


def fold(
    x: Tensor,
    output_size: int | Pair,
    kernel_size: int | Pair,
    dilation: int | Pair = 1,
    padding: int | Pair | Pad2d = 0,
    stride: int | Pair = 1,
) -> Tensor:
    """Columns added back into images, as ``torch.nn.functional.fold`` (col2im): the adjoint of
    :func:`unfold`; windows that overlap add up.

    Args:
        x: (N, C * KH * KW, L), or one image's columns (C * KH * KW, L).
        output_size: (H, W) of the images.
        kernel_size, dilation, padding, stride: an int or (vertical, horizontal).

    Returns:
        (N, C, H, W).
    """
    op = "fold"
    expect_floating(op, "x", x)
    if x.ndim not in (2, 3):
        raise ValueError(f"{op}: x expects shape (N, C * KH * KW, L) or (C * KH * KW, L), got {x.shape}")
    single = x.ndim == 2
    kernel, geometry = _geometry(op, kernel_size, dilation, padding, stride)
    input_hw = pair(op, "output_size", output_size, 1)
    oh, ow = geometry.output_hw(input_hw, kernel)
    area = kernel[0] * kernel[1]
    if min(oh, ow) < 1 or x.shape[-1] != oh * ow or x.shape[-2] % area:
        raise ValueError(
            f"{op}: an output of {input_hw} has {oh} x {ow} windows of {area} elements, so x expects shape "
            f"(N, C * {area}, {oh * ow}), got {x.shape}"
        )
    columns = reshape(x, (1 if single else x.shape[0], x.shape[-2] // area, *kernel, oh, ow))
    return without_batch(Fold(geometry, input_hw)(columns), single)
