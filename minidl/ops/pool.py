"""Pooling. Max pooling remembers where each maximum was: its gradient scatters there, and that gradient's
gradient gathers."""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np

from minidl import kernels
from minidl.autograd import Function
from minidl.kernels.capturing import may_read, perhaps
from minidl.ops._common import Array, Pad2d, Pair, nchw, nhwc, pad2d, pair
from minidl.ops._windows import with_batch, without_batch
from minidl.ops.elementwise import mask
from minidl.ops.promotion import beside, plain
from minidl.tensor import Tensor

Window = tuple[Pair, Pair, Pad2d, Pair]
MaxWindow = tuple[Pair, Pair, Pad2d, Pair, Pair]
"""Kernel, stride, padding, dilation and output size of a max pooling."""


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


class AdaptiveMaxPool2d(Function):
    """The maximum of each of (OH, OW) nearly equal parts."""

    def __init__(self, out_hw: Pair) -> None:
        self.out_hw = out_hw

    def forward(self, x: Array) -> Array:
        self.input_hw = (x.shape[2], x.shape[3])
        y, self.index = kernels.backend(x).adaptive_max_pool2d(nhwc(x), self.out_hw)
        return nchw(y)

    def backward(self, grad: Tensor) -> Tensor:
        return MaxPoolScatter(self.index, self.input_hw, None)(grad)


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


@overload
def max_pool2d(
    x: Tensor,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair | Pad2d = 0,
    dilation: int | Pair = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
) -> Tensor: ...


@overload
def max_pool2d(
    x: Tensor,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair | Pad2d = 0,
    dilation: int | Pair = 1,
    ceil_mode: bool = False,
    *,
    return_indices: bool,
) -> Any: ...


def max_pool2d(
    x: Tensor,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair | Pad2d = 0,
    dilation: int | Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Maximum over windows, as ``torch.nn.functional.max_pool2d``; padding counts as -inf, NaN wins.

    Args:
        x: (N, C, H, W), or one image (C, H, W).
        kernel_size: an int or (vertical, horizontal).
        stride: the same; default: ``kernel_size``.
        padding: an int, a pair or ((top, bottom), (left, right)), at most half of the kernel.
        dilation: distance of a window's elements.
        ceil_mode: keep a last window that ends beyond the padded input if it starts inside.
        return_indices: also return where each maximum was.

    Returns:
        (N, C, OH, OW); with ``return_indices`` a pair, the second int64: row * W + column of the maximum
        (of the first one on ties).
    """
    op = "max_pool2d"
    x, single = with_batch(op, x, 4)
    options = kernel_size, stride, padding, dilation, ceil_mode
    pool = MaxPool2d(*max_window(op, (x.shape[2], x.shape[3]), *options))
    return _with_index(pool, x, single, return_indices)


def max_window(
    op: str,
    input_hw: Pair,
    kernel_size: int | Pair,
    stride: int | Pair | None,
    padding: int | Pair | Pad2d,
    dilation: int | Pair,
    ceil_mode: bool,
) -> MaxWindow:
    """The options of a max pooling of (H, W) images as a user may write them, checked, and its output's size."""
    kernel = pair(op, "kernel_size", kernel_size, 1)
    strides = kernel if stride is None else pair(op, "stride", stride, 1)
    dilations = pair(op, "dilation", dilation, 1)
    pads = pad2d(op, padding, kernel)
    out_hw = pooled_size(op, input_hw, kernel, strides, pads, dilations, ceil_mode)
    return kernel, strides, pads, dilations, out_hw


def _with_index(pool: MaxPool2d | AdaptiveMaxPool2d, x: Tensor, single: bool, return_indices: bool) -> Any:
    y = without_batch(pool(x), single)
    if not return_indices:
        return y
    return y, without_batch(plain(lambda _: nchw(pool.index).astype(np.int64), x), single)


def avg_pool2d(
    x: Tensor,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair | Pad2d = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Mean over windows, as ``torch.nn.functional.avg_pool2d``.

    Args:
        x: (N, C, H, W), or one image (C, H, W).
        kernel_size, stride, padding, ceil_mode: as in :func:`max_pool2d`; padding counts as zeros.
        count_include_pad: whether padding counts in the number that the sum is divided by.
        divisor_override: divide every sum by this number instead.

    Returns:
        (N, C, OH, OW).
    """
    op = "avg_pool2d"
    x, single = with_batch(op, x, 4)
    kernel = pair(op, "kernel_size", kernel_size, 1)
    strides = kernel if stride is None else pair(op, "stride", stride, 1)
    pads = pad2d(op, padding, kernel)
    input_hw = (x.shape[2], x.shape[3])
    out_hw = pooled_size(op, input_hw, kernel, strides, pads, (1, 1), ceil_mode)
    if divisor_override is None:
        y = AvgPool2d(kernel, strides, pads, out_hw, bool(count_include_pad))(x)
        return without_batch(y, single)
    if not isinstance(divisor_override, int) or divisor_override < 1:
        raise ValueError(f"{op}: divisor_override expects an int of at least 1, got {divisor_override!r}")
    # the sum of a window is its mean times the number of elements that the mean was taken over
    rows, columns = (
        np.minimum(start + kernel[axis], input_hw[axis] + pads[axis][1]) - start
        for axis in (0, 1)
        for start in [np.arange(out_hw[axis]) * strides[axis] - pads[axis][0]]
    )
    scale = (rows[:, None] * columns / divisor_override).astype(x.dtype)
    y = AvgPool2d(kernel, strides, pads, out_hw, True)(x)
    return without_batch(mask(y, np.broadcast_to(beside(scale, y), y.shape)), single)


def _adaptive(op: str, x: Tensor, output_size: Any) -> tuple[Tensor, bool, Pair]:
    """The batch of images, whether it was one image, and (OH, OW)."""
    x, single = with_batch(op, x, 4)
    if isinstance(output_size, (tuple, list)) and len(output_size) == 2:
        output_size = tuple(n if o is None else o for o, n in zip(output_size, x.shape[2:], strict=True))
    out_hw = pair(op, "output_size", output_size, 1)
    if 0 in x.shape[2:]:
        raise ValueError(f"{op}: x has no pixels, shape {x.shape}")
    return x, single, out_hw


def adaptive_avg_pool2d(x: Tensor, output_size: int | Any) -> Tensor:
    """Mean over (OH, OW) nearly equal parts of (N, C, H, W) or (C, H, W), as
    ``torch.nn.functional.adaptive_avg_pool2d``; a size of None keeps that side."""
    x, single, out_hw = _adaptive("adaptive_avg_pool2d", x, output_size)
    return without_batch(AdaptiveAvgPool2d(out_hw)(x), single)


def adaptive_max_pool2d(x: Tensor, output_size: int | Any, return_indices: bool = False) -> Any:
    """Maximum over (OH, OW) nearly equal parts of (N, C, H, W) or (C, H, W), as
    ``torch.nn.functional.adaptive_max_pool2d``; a size of None keeps that side.

    With ``return_indices`` a pair, the second int64: row * W + column of the first maximum.
    """
    x, single, out_hw = _adaptive("adaptive_max_pool2d", x, output_size)
    return _with_index(AdaptiveMaxPool2d(out_hw), x, single, return_indices)


def max_unpool2d(
    x: Tensor,
    indices: Any,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    output_size: Any = None,
) -> Tensor:
    """Put each element where ``indices`` says, zeros elsewhere, as ``torch.nn.functional.max_unpool2d``.

    Args:
        x: (N, C, H, W), or one image (C, H, W).
        indices: integers, shape of ``x``: row * OW + column, from ``max_pool2d(..., return_indices=True)``.
        kernel_size, stride, padding: of that pooling; they give the default output size
            (H - 1) * stride - 2 * padding + kernel_size.
        output_size: (OH, OW), or a shape that ends in it.

    Where two elements have one index the last one in row order wins, and the gradient is its alone. (PyTorch
    leaves open which one wins, and gives the gradient to all of them.)
    """
    op = "max_unpool2d"
    x, single = with_batch(op, x, 4)
    kernel = pair(op, "kernel_size", kernel_size, 1)
    strides = kernel if stride is None else pair(op, "stride", stride, 1)
    pads = pair(op, "padding", padding, 0)
    index = beside(indices, x)
    index = index[None] if single and index.ndim == 3 else index
    if index.shape != x.shape or index.dtype.kind not in "iu":
        raise ValueError(
            f"{op}: indices expects integers of shape {x.shape}, got {index.dtype} of shape {index.shape}"
        )
    default = [(n - 1) * s - 2 * p + k for n, s, p, k in zip(x.shape[2:], strides, pads, kernel, strict=True)]
    size = default if output_size is None else list(output_size)[-2:]
    out_hw = pair(op, "output_size", size, 1)
    if any(abs(o - d) >= s for o, d, s in zip(out_hw, default, strides, strict=True)):
        raise ValueError(f"{op}: output_size expects {tuple(default)} give or take a stride, got {out_hw}")
    if may_read() and index.size and (index.min() < 0 or index.max() >= out_hw[0] * out_hw[1]):
        raise ValueError(f"{op}: indices expects values in [0, {out_hw[0] * out_hw[1]}), got some outside")
    places = nhwc(index).astype(np.int32, order="C")
    return without_batch(MaxPoolScatter(places, out_hw, None)(_last_wins(x, places, out_hw)), single)


def _last_wins(x: Tensor, places: Array, out_hw: Pair) -> Tensor:
    """x with zeros for elements whose place a later element takes, so that adding is assigning."""
    n, h, w, c = places.shape
    flat = places.reshape(n, h * w, c)
    xp = x.xp
    order = xp.broadcast_to(xp.arange(h * w)[:, None], flat.shape)
    owner = xp.full((n, out_hw[0] * out_hw[1], c), -1)
    xp.put_along_axis(owner, flat, order, 1)
    loses = np.take_along_axis(owner, flat, 1) != order
    return mask(x, nchw(~loses.reshape(n, h, w, c)).astype(x.dtype)) if perhaps(loses) else x
