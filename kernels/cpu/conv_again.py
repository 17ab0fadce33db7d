"""Convolutions of training: the same shapes in every step, so their launches are kept as programs (program.py)."""

from __future__ import annotations

from typing import Any

from minidl.kernels import get_conv_algorithm, get_num_threads
from minidl.kernels.cpu.conv import FLOATS, ConvMixin
from minidl.kernels.cpu.program import programs
from minidl.kernels.reference.checks import Array, Pad, Pair

Where = tuple[Pair, Pad, Pair]
"""Stride, pad and dilation."""


class RepeatedConvMixin(ConvMixin):
    """conv2d and its two gradients. With groups, half types or kept weights they are :class:`ConvMixin`'s at once."""

    def conv2d(
        self,
        x: Array,
        w: Array,
        bias: Array | None,
        stride: Pair,
        pad: Pad,
        dilation: Pair,
        groups: int,
        *,
        relu: bool = False,
        residual: Array | None = None,
        kept: dict[Any, Any] | None = None,
        statistics: list[Array] | None = None,
    ) -> Array:
        """See :class:`ConvMixin`."""
        if kept is not None or groups != 1 or x.dtype not in FLOATS or w.ndim != 4:
            options: dict[str, Any] = {"relu": relu, "residual": residual, "kept": kept}
            return super().conv2d(x, w, bias, stride, pad, dilation, groups, **options)
        where = stride, pad, dilation
        given = relu, bias is None, residual is None
        key = ("conv2d", x.dtype.char, x.shape, w.shape, where, given, *_settings())
        inputs = x, w.transpose(0, 3, 1, 2), bias, residual
        return programs.run(key, self._forward, inputs, where, relu)

    def _forward(
        self, x: Array, weight: Array, bias: Array | None, residual: Array | None, where: Where, relu: bool
    ) -> Array:
        w = weight.transpose(0, 2, 3, 1)
        return super().conv2d(x, w, bias, *where, 1, relu=relu, residual=residual)

    def conv2d_input_grad(
        self,
        gy: Array,
        w: Array,
        input_hw: Pair,
        stride: Pair,
        pad: Pad,
        dilation: Pair,
        groups: int,
        *,
        bias: Array | None = None,
        relu: bool = False,
        residual: Array | None = None,
    ) -> Array:
        """See :class:`ConvMixin`."""
        if groups != 1 or gy.dtype not in FLOATS or w.ndim != 4:
            options: dict[str, Any] = {"bias": bias, "relu": relu, "residual": residual}
            return super().conv2d_input_grad(gy, w, input_hw, stride, pad, dilation, groups, **options)
        where = stride, pad, dilation
        given = relu, bias is None, residual is None
        key = ("input_grad", gy.dtype.char, gy.shape, w.shape, input_hw, where, given, *_settings())
        inputs = gy, w.transpose(0, 3, 1, 2), bias, residual
        return programs.run(key, self._input_grad, inputs, input_hw, where, relu)

    def _input_grad(
        self,
        gy: Array,
        weight: Array,
        bias: Array | None,
        residual: Array | None,
        input_hw: Pair,
        where: Where,
        relu: bool,
    ) -> Array:
        w = weight.transpose(0, 2, 3, 1)
        return super().conv2d_input_grad(gy, w, input_hw, *where, 1, bias=bias, relu=relu, residual=residual)

    def conv2d_weight_grad(
        self, gy: Array, x: Array, kernel_hw: Pair, stride: Pair, pad: Pad, dilation: Pair, groups: int
    ) -> Array:
        """See :class:`ConvMixin`."""
        if groups != 1 or gy.dtype not in FLOATS:
            return super().conv2d_weight_grad(gy, x, kernel_hw, stride, pad, dilation, groups)
        where = stride, pad, dilation
        key = ("weight_grad", gy.dtype.char, gy.shape, x.shape, kernel_hw, where, *_settings())
        return programs.run(key, self._weight_grad, (gy, x), kernel_hw, where).transpose(0, 2, 3, 1)

    def _weight_grad(self, gy: Array, x: Array, kernel_hw: Pair, where: Where) -> Array:
        return super().conv2d_weight_grad(gy, x, kernel_hw, *where, 1).transpose(0, 3, 1, 2)


def _settings() -> tuple[int, str]:
    return get_num_threads(), get_conv_algorithm()
