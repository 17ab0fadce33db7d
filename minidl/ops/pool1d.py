"""One-dimensional pooling: pooling of images of height 1."""

from __future__ import annotations

from typing import Any

from minidl.ops._windows import along_width, as_image, as_signal, one, pad1d, with_batch, without_batch
from minidl.ops.pool import adaptive_avg_pool2d as _adaptive_avg_pool2d
from minidl.ops.pool import adaptive_max_pool2d as _adaptive_max_pool2d
from minidl.ops.pool import avg_pool2d as _avg_pool2d
from minidl.ops.pool import max_pool2d as _max_pool2d
from minidl.ops.pool import max_unpool2d as _max_unpool2d
from minidl.ops.promotion import beside
from minidl.tensor import Tensor

__all__ = ["adaptive_avg_pool1d", "adaptive_max_pool1d", "avg_pool1d", "max_pool1d", "max_unpool1d"]


def _signals(result: Any, single: bool) -> Any:
    """Images of height 1 (one tensor, or maxima and their indices) as signals again."""
    if isinstance(result, tuple):
        return tuple(without_batch(as_signal(part), single) for part in result)
    return without_batch(as_signal(result), single)


def max_pool1d(
    x: Tensor,
    kernel_size: int | tuple[int],
    stride: int | tuple[int] | None = None,
    padding: int | tuple[int] = 0,
    dilation: int | tuple[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Maximum over windows of (N, C, L) or (C, L), as ``torch.nn.functional.max_pool1d``; options as in
    :func:`max_pool2d`."""
    op = "max_pool1d"
    x, single = with_batch(op, x, 3)
    kernel = along_width(op, "kernel_size", kernel_size, 1, 1)
    strides = kernel if stride is None else along_width(op, "stride", stride, 1, 1)
    pads, dilations = pad1d(op, padding), along_width(op, "dilation", dilation, 1, 1)
    pooled = _max_pool2d(
        as_image(x), kernel, strides, pads, dilations, ceil_mode, return_indices=bool(return_indices)
    )
    return _signals(pooled, single)


def avg_pool1d(
    x: Tensor,
    kernel_size: int | tuple[int],
    stride: int | tuple[int] | None = None,
    padding: int | tuple[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Mean over windows of (N, C, L) or (C, L), as ``torch.nn.functional.avg_pool1d``; options as in
    :func:`avg_pool2d`."""
    op = "avg_pool1d"
    x, single = with_batch(op, x, 3)
    kernel = along_width(op, "kernel_size", kernel_size, 1, 1)
    strides = kernel if stride is None else along_width(op, "stride", stride, 1, 1)
    y = _avg_pool2d(as_image(x), kernel, strides, pad1d(op, padding), ceil_mode, count_include_pad)
    return without_batch(as_signal(y), single)


def adaptive_avg_pool1d(x: Tensor, output_size: int | tuple[int]) -> Tensor:
    """Mean over nearly equal parts of (N, C, L) or (C, L), as ``torch.nn.functional.adaptive_avg_pool1d``."""
    x, single = with_batch("adaptive_avg_pool1d", x, 3)
    size = one("adaptive_avg_pool1d", "output_size", output_size, 1)
    return without_batch(as_signal(_adaptive_avg_pool2d(as_image(x), (1, size))), single)


def adaptive_max_pool1d(x: Tensor, output_size: int | tuple[int], return_indices: bool = False) -> Any:
    """Maximum over nearly equal parts of (N, C, L) or (C, L), as
    ``torch.nn.functional.adaptive_max_pool1d``; with ``return_indices`` also where each maximum was."""
    x, single = with_batch("adaptive_max_pool1d", x, 3)
    size = one("adaptive_max_pool1d", "output_size", output_size, 1)
    return _signals(_adaptive_max_pool2d(as_image(x), (1, size), return_indices), single)


def max_unpool1d(
    x: Tensor,
    indices: Any,
    kernel_size: int | tuple[int],
    stride: int | tuple[int] | None = None,
    padding: int | tuple[int] = 0,
    output_size: Any = None,
) -> Tensor:
    """Put each element of (N, C, L) or (C, L) where ``indices`` says, as
    ``torch.nn.functional.max_unpool1d``; see :func:`max_unpool2d`."""
    op = "max_unpool1d"
    x, single = with_batch(op, x, 3)
    index = beside(indices, x)
    index = index[None] if single and index.ndim == 2 else index
    if index.shape != x.shape:
        raise ValueError(f"{op}: indices expects shape {x.shape}, got {index.shape}")
    kernel = along_width(op, "kernel_size", kernel_size, 1, 1)
    strides = kernel if stride is None else along_width(op, "stride", stride, 1, 1)
    pads = along_width(op, "padding", padding, 0, 0)
    size = None if output_size is None else (1, list(output_size)[-1])
    y = _max_unpool2d(as_image(x), index[:, :, None], kernel, strides, pads, size)
    return without_batch(as_signal(y), single)
