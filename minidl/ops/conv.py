"""Convolution, closed on itself: three operators, each the others' gradient.

With y = conv(x, w), gx = input_grad(gy, w) and gw = weight_grad(gy, x), all three are bilinear, and

    operator             by its first argument       by its second argument
    conv(x, w)           input_grad(g, w)            weight_grad(g, x)
    input_grad(gy, w)    conv(g, w)                  weight_grad(gy, g)
    weight_grad(gy, x)   conv(x, g)                  input_grad(gy, g)

so gradients of gradients of any order need no further kernel. input_grad is the transposed convolution.
One-dimensional convolutions are convolutions of images of height 1.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl import kernels
from minidl.autograd import Function, is_grad_enabled
from minidl.ops._common import Array, Pad2d, Pair, expect_same_dtype, nchw, nhwc, pad2d, pair
from minidl.ops._windows import along_width, as_image, as_signal, one, pad1d, with_batch, without_batch
from minidl.ops.arithmetic import ReLUBackward
from minidl.ops.deferred import Recipe, defer, may_defer
from minidl.ops.movement import pad, reshape
from minidl.ops.promotion import product
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


def _before_epilogue(node: Conv2d | Conv2dInputGrad, grad: Tensor) -> tuple[Tensor, Tensor | None]:
    """The gradients of the sum before ReLU, which is the residual's too, and of the bias."""
    needs_bias = node.needs_input_grad[2]
    if needs_bias and not is_grad_enabled() and grad.dtype in (np.float32, np.float64):
        y = nhwc(node._output) if node.relu else None
        g, sums = kernels.backend(grad.data).channel_sums(nhwc(grad.data), y)
        return Tensor._wrap(nchw(g)), Tensor._wrap(sums)
    if node.relu:
        grad = ReLUBackward()(grad, node.saved_output().detach())
    return grad, sum(grad, (0, 2, 3)) if needs_bias else None


class Conv2d(Function):
    """[relu](convolution [+ bias] [+ residual])."""

    saved_inputs = (0, 1)
    relu = False
    statistics: list[Array] | None = None

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry

    def forward(self, x: Array, w: Array, bias: Array | None, residual: Array | None = None) -> Array:
        g = self.geometry
        rest = None if residual is None else nhwc(residual)
        place = g.stride, g.pad, g.dilation, g.groups
        y = kernels.backend(x).conv2d(
            nhwc(x), nhwc(w), bias, *place, relu=self.relu, residual=rest, statistics=self.statistics
        )
        return nchw(y)

    def backward(self, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w = self.saved()
        needs_x, needs_w, *_ = self.needs_input_grad
        grad, gb = _before_epilogue(self, grad)
        gx = input_grad(self.geometry, x.shape, grad, w) if needs_x else None
        gw = Conv2dWeightGrad(self.geometry, w.shape[2:])(grad, x) if needs_w else None
        return (gx, gw, gb, grad)[: len(self.needs_input_grad)]


class Conv2dInputGrad(Function):
    """The adjoint of a convolution in its input, the transposed convolution: [relu](it [+ bias] [+ residual])."""

    saved_inputs = (0, 1)
    relu = False

    def __init__(self, geometry: Geometry, input_hw: Any) -> None:
        self.geometry = geometry
        self.input_hw: Pair = (int(input_hw[0]), int(input_hw[1]))

    def forward(self, gy: Array, w: Array, bias: Array | None = None, residual: Array | None = None) -> Array:
        g = self.geometry
        rest = None if residual is None else nhwc(residual)
        place = self.input_hw, g.stride, g.pad, g.dilation, g.groups
        gx = kernels.backend(gy).conv2d_input_grad(
            nhwc(gy), nhwc(w), *place, bias=bias, relu=self.relu, residual=rest
        )
        return nchw(gx)

    def backward(self, grad: Tensor) -> tuple[Tensor | None, ...]:
        gy, w = self.saved()
        needs_gy, needs_w, *_ = self.needs_input_grad
        grad, gb = _before_epilogue(self, grad)
        ggy = Conv2d(self.geometry)(grad, w, None) if needs_gy else None
        gw = Conv2dWeightGrad(self.geometry, w.shape[2:])(gy, grad) if needs_w else None
        return (ggy, gw, gb, grad)[: len(self.needs_input_grad)]


class Convolution(Recipe):
    """A convolution or a transposed one, to be computed together with what follows."""

    def __init__(
        self,
        operator: Conv2d | Conv2dInputGrad,
        operands: tuple[Tensor, Tensor, Tensor | None],
        shape: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.operator, self.operands = operator, operands
        self.shape, self.dtype = shape, operands[0].dtype

    def finish(self, residual: Tensor | None, relu: bool) -> Tensor:
        self.operator.relu = self.operator.saves_output = relu
        return self.operator(*self.operands, residual)

    def want_statistics(self) -> list[Array]:
        wanted: list[Array] = []
        if isinstance(self.operator, Conv2d):
            self.operator.statistics = wanted
        return wanted


def _run(
    operator: Conv2d | Conv2dInputGrad, x: Tensor, w: Tensor, bias: Tensor | None, shape: tuple[int, ...]
) -> Tensor:
    """The operator of its operands, deferred where something may follow."""
    if may_defer() and x.dtype in (np.float32, np.float64):
        x.data  # noqa: B018 - computes what is deferred itself: chains of layers would be chains of calls
        return defer(Convolution(operator, (x, w, bias), shape))
    return operator(x, w, bias)


def input_grad(geometry: Geometry, shape: tuple[int, ...], grad: Tensor, w: Tensor) -> Tensor:
    """The gradient of a convolution by its input of this shape. What other operators give to the same input
    is added in the same kernel, when it comes first.
    """
    return _run(Conv2dInputGrad(geometry, shape[2:]), grad, w, None, shape)


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
        gx = Conv2dInputGrad(self.geometry, x.shape[2:])(gy, grad, None) if needs_x else None
        return ggy, gx


def output_shape(
    op: str, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
) -> tuple[int, ...]:
    """(N, O, OH, OW) of a convolution whose options are checked; checks that the shapes fit together."""
    expect_same_dtype(op, x, weight=weight, bias=bias)
    return _output_shape(op, x.shape, weight.shape, None if bias is None else bias.shape, geometry)


@functools.lru_cache(maxsize=4096)
def _output_shape(
    op: str,
    x: tuple[int, ...],
    weight: tuple[int, ...],
    bias: tuple[int, ...] | None,
    geometry: Geometry,
) -> tuple[int, ...]:
    groups, outputs = geometry.groups, weight[0]
    if outputs % groups:
        raise ValueError(f"{op}: groups expects a divisor of the {outputs} output channels, got {groups!r}")
    if weight[1] * groups != x[1]:
        raise ValueError(f"{op}: weight expects {weight[1] * groups} input channels, x has {x[1]}")
    if bias is not None and bias != (outputs,):
        raise ValueError(f"{op}: bias expects shape ({outputs},), got {bias}")
    kernel = (weight[2], weight[3])
    output_hw = geometry.output_hw((x[2], x[3]), kernel)
    if min(output_hw) < 1 or 0 in kernel:
        raise ValueError(
            f"{op}: a {kernel[0]}x{kernel[1]} kernel (dilation {geometry.dilation}) is larger than the padded "
            f"input of {x[2]}x{x[3]} (padding {geometry.pad})"
        )
    return (x[0], outputs, *output_hw)


def _conv(op: str, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """A convolution of images whose options are checked; checks that the shapes fit together."""
    shape = output_shape(op, x, weight, bias, geometry)
    return _run(Conv2d(geometry), x, weight, bias, shape)


def geometry2d(op: str, kernel: Pair, stride: Any, padding: Any, dilation: Any, groups: Any) -> Geometry:
    """The options of a convolution as a user may write them, checked."""
    try:
        return _known_geometry(op, kernel, stride, padding, dilation, groups)
    except TypeError:  # a list among them
        return _geometry(op, kernel, stride, padding, dilation, groups)


def _geometry(op: str, kernel: Pair, stride: Any, padding: Any, dilation: Any, groups: Any) -> Geometry:
    strides, dilations = pair(op, "stride", stride, 1), pair(op, "dilation", dilation, 1)
    _expect_same(op, padding, strides)
    return Geometry(strides, pad2d(op, padding, kernel, dilations), dilations, _group_count(op, groups))


_known_geometry = functools.lru_cache(maxsize=4096, typed=True)(_geometry)


def _group_count(op: str, groups: Any) -> int:
    if not isinstance(groups, int) or isinstance(groups, bool) or groups < 1:
        raise ValueError(f"{op}: groups expects an int of at least 1, got {groups!r}")
    return groups


def _expect_weight(op: str, weight: Tensor, ndim: int, layout: str) -> None:
    if weight.ndim != ndim:
        raise ValueError(f"{op}: weight expects {ndim} dimensions {layout}, got shape {weight.shape}")


def _expect_same(op: str, padding: Any, stride: Pair) -> None:
    if padding == "same" and stride != (1, 1):
        raise ValueError(f"{op}: padding='same' needs stride 1, got {stride}")


@product
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
        x: (N, C, H, W), or one image (C, H, W).
        weight: (O, C // groups, KH, KW), dtype of ``x``.
        bias: (O,) or None.
        stride, dilation: an int or (vertical, horizontal).
        padding: zeros around x: an int, (vertical, horizontal), ((top, bottom), (left, right)), "valid", or
            "same" (stride 1 only).
        groups: channels are split into this many groups that do not see each other.

    Returns:
        (N, O, OH, OW) with OH = (H + top + bottom - dilation * (KH - 1) - 1) // stride + 1.
    """
    op = "conv2d"
    x, single = with_batch(op, x, 4)
    _expect_weight(op, weight, 4, "(O, C / groups, KH, KW)")
    geometry = geometry2d(op, (weight.shape[2], weight.shape[3]), stride, padding, dilation, groups)
    return without_batch(_conv(op, x, weight, bias, geometry), single)


@product
def conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int] = 1,
    padding: int | tuple[int] | str | tuple[Pair] = 0,
    dilation: int | tuple[int] = 1,
    groups: int = 1,
) -> Tensor:
    """One-dimensional cross-correlation, as ``torch.nn.functional.conv1d``.

    Args:
        x: (N, C, L), or one signal (C, L).
        weight: (O, C // groups, K), dtype of ``x``.
        bias: (O,) or None.
        stride, dilation: an int.
        padding: zeros around x: an int, ((left, right),), "valid", or "same" (stride 1 only).
        groups: channels are split into this many groups that do not see each other.

    Returns:
        (N, O, OL) with OL = (L + left + right - dilation * (K - 1) - 1) // stride + 1.
    """
    op = "conv1d"
    x, single = with_batch(op, x, 3)
    _expect_weight(op, weight, 3, "(O, C / groups, K)")
    strides, dilations = along_width(op, "stride", stride, 1, 1), along_width(op, "dilation", dilation, 1, 1)
    _expect_same(op, padding, strides)
    pads = pad2d(op, pad1d(op, padding), (1, weight.shape[2]), dilations)
    geometry = Geometry(strides, pads, dilations, _group_count(op, groups))
    y = _conv(op, as_image(x), as_image(weight), bias, geometry)
    return without_batch(as_signal(y), single)


def _conv_transpose(
    op: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    output_padding: Pair,
) -> Tensor:
    """The transposed convolution of images whose options are checked."""
    groups, kernel = geometry.groups, (weight.shape[2], weight.shape[3])
    outputs = weight.shape[1] * groups
    expect_same_dtype(op, x, weight=weight, bias=bias)
    if weight.shape[0] != x.shape[1]:
        raise ValueError(f"{op}: weight expects {weight.shape[0]} input channels, x has {x.shape[1]}")
    if x.shape[1] % groups:
        raise ValueError(f"{op}: groups expects a divisor of the {x.shape[1]} input channels, got {groups!r}")
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"{op}: bias expects shape ({outputs},), got {bias.shape}")
    sizes, pads, zeros = [], [], []
    for axis in (0, 1):
        (front, back), extra = geometry.pad[axis], output_padding[axis]
        stride, dilation = geometry.stride[axis], geometry.dilation[axis]
        if extra >= max(stride, dilation):
            raise ValueError(
                f"{op}: output_padding expects values below the larger of stride {geometry.stride} and "
                f"dilation {geometry.dilation}, got {output_padding}"
            )
        # Rows that output_padding adds are outputs that x cannot reach unless padding had cut them off.
        reached = min(extra, back) if extra >= stride else extra
        zeros.append(extra - reached)
        pads.append((front, back - reached) if extra >= stride else (front, back))
        sizes.append(
            (x.shape[2 + axis] - 1) * stride - front - back + dilation * (kernel[axis] - 1) + 1 + reached
        )
    if min(sizes) < 1 or 0 in kernel or 0 in x.shape[2:]:
        raise ValueError(
            f"{op}: an input of {x.shape[2]}x{x.shape[3]} with a {kernel[0]}x{kernel[1]} kernel and padding "
            f"{geometry.pad} gives an output of {sizes[0]}x{sizes[1]}"
        )
    inner = Geometry(geometry.stride, (pads[0], pads[1]), geometry.dilation, groups)
    own = None if any(zeros) else bias
    y = _run(Conv2dInputGrad(inner, sizes), x, weight, own, (x.shape[0], outputs, *sizes))
    if any(zeros):
        y = pad(y, (0, zeros[1], 0, zeros[0]))
        return y if bias is None else y + reshape(bias, (outputs, 1, 1))
    return y


@product
def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | Pad2d = 0,
    output_padding: int | Pair = 0,
    groups: int = 1,
    dilation: int | Pair = 1,
) -> Tensor:
    """The transposed convolution, as ``torch.nn.functional.conv_transpose2d``: what a convolution of these
    options does to gradients on their way back (Zeiler et al. 2010, "Deconvolutional networks").

    Args:
        x: (N, C, H, W), or one image (C, H, W).
        weight: (C, O // groups, KH, KW), dtype of ``x``.
        bias: (O,) or None.
        stride, dilation: an int or (vertical, horizontal).
        padding: rows and columns cut off the full output: an int, (vertical, horizontal) or
            ((top, bottom), (left, right)).
        output_padding: rows and columns added at the bottom and the right, fewer than the larger of stride
            and dilation: several input sizes of a strided convolution share one output size, and this
            chooses among them.
        groups: channels are split into this many groups that do not see each other.

    Returns:
        (N, O, OH, OW) with OH = (H - 1) * stride - top - bottom + dilation * (KH - 1) + output_padding + 1.
    """
    op = "conv_transpose2d"
    x, single = with_batch(op, x, 4)
    _expect_weight(op, weight, 4, "(C, O / groups, KH, KW)")
    if isinstance(padding, str):
        raise ValueError(f"{op}: padding expects numbers, got {padding!r}")
    kernel = (weight.shape[2], weight.shape[3])
    geometry = Geometry(
        pair(op, "stride", stride, 1),
        pad2d(op, padding, kernel),
        pair(op, "dilation", dilation, 1),
        _group_count(op, groups),
    )
    extra = pair(op, "output_padding", output_padding, 0)
    return without_batch(_conv_transpose(op, x, weight, bias, geometry, extra), single)


@product
def conv_transpose1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int] = 1,
    padding: int | tuple[int] | tuple[Pair] = 0,
    output_padding: int | tuple[int] = 0,
    groups: int = 1,
    dilation: int | tuple[int] = 1,
) -> Tensor:
    """The transposed convolution of signals, as ``torch.nn.functional.conv_transpose1d``.

    Args:
        x: (N, C, L), or one signal (C, L).
        weight: (C, O // groups, K), dtype of ``x``.
        bias: (O,) or None.
        stride, padding, output_padding, groups, dilation: as in :func:`conv_transpose2d`, each an int.

    Returns:
        (N, O, OL) with OL = (L - 1) * stride - 2 * padding + dilation * (K - 1) + output_padding + 1.
    """
    op = "conv_transpose1d"
    x, single = with_batch(op, x, 3)
    _expect_weight(op, weight, 3, "(C, O / groups, K)")
    if isinstance(padding, str):
        raise ValueError(f"{op}: padding expects numbers, got {padding!r}")
    geometry = Geometry(
        along_width(op, "stride", stride, 1, 1),
        pad2d(op, pad1d(op, padding), (1, weight.shape[2])),
        along_width(op, "dilation", dilation, 1, 1),
        _group_count(op, groups),
    )
    extra = (0, one(op, "output_padding", output_padding, 0))
    y = _conv_transpose(op, as_image(x), as_image(weight), bias, geometry, extra)
    return without_batch(as_signal(y), single)
