"""Convolution and its gradients on the CPU: each as a walk over a grid of pixels and its taps, or Winograd's."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from minidl.kernels import get_conv_algorithm, get_num_threads
from minidl.kernels.cpu import half, memory
from minidl.kernels.cpu.addresses import Target
from minidl.kernels.cpu.gather import plan_gather, prepare_gather
from minidl.kernels.cpu.group_weight import group_weight_gradient
from minidl.kernels.cpu.groups import group_width
from minidl.kernels.cpu.indirect import indirect, takes_indirect
from minidl.kernels.cpu.input_grad import at_once, by_phases, gradient_phases, input_gradient_of, lanes_turned
from minidl.kernels.cpu.layout import clear, dense
from minidl.kernels.cpu.norm import scale_and_shift
from minidl.kernels.cpu.plan import Phase, Source, Window
from minidl.kernels.cpu.weight_grad import weight_gradient
from minidl.kernels.cpu.weights import Call, kept_value, pack
from minidl.kernels.cpu.winograd import prepare_winograd, takes_winograd
from minidl.kernels.cpu.winograd_family import cut_forward
from minidl.kernels.cpu.winograd_weight import takes_winograd_weight, winograd_weight_gradient
from minidl.kernels.reference import ReferenceBackend
from minidl.kernels.reference.checks import Array, Pad, Pair, expect_conv, expect_ndim, expect_shape
from minidl.kernels.reference.conv import expect_epilogue

FLOATS = {np.dtype(np.float32), np.dtype(np.float64)}  # other dtypes go to the reference


class Forward(NamedTuple):
    """A convolution as a gather, the same for all groups but for where they start."""

    out_hw: Pair
    source: Source
    window: Window
    taps: tuple[int, ...]


@functools.lru_cache(maxsize=4096)
def forward_of(
    kernel: str,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    stride: Pair,
    pad: Pad,
    dilation: Pair,
    groups: int,
    itemsize: int,
) -> Forward:
    """Check the shapes of a convolution of x (N, H, W, C) by w (O, KH, KW, C/groups) and lay it out."""
    n, h, width, c = x_shape
    out_hw = expect_conv(kernel, c, w_shape, groups, (h, width), stride, pad, dilation)
    _, kh, kw, depth = w_shape
    rows, cols = range(0, kh * dilation[0], dilation[0]), range(0, kw * dilation[1], dilation[1])
    window = Window(*out_hw, *stride, pad[0][0], pad[1][0], tuple((r, c) for r in rows for c in cols))
    return Forward(out_hw, Source(n, h, width, c, depth, itemsize), window, tuple(range(kh * kw)))


def operand(x: Array, dtype: npt.DTypeLike) -> Array:
    """x as kernels read it: C-contiguous, aligned, and writable, because others would each be compiled for."""
    if x.flags.carray and x.dtype == dtype:
        return x
    x = dense(np.asarray(x, dtype))
    return x if x.flags.writeable else x.copy()


def flat_taps(w: Array, dtype: npt.DTypeLike) -> Array:
    """w (O, KH, KW, C) as (O, C, KH*KW), contiguous: no copy where w lies in memory like PyTorch's weights."""
    o, kh, kw, c = w.shape
    return operand(w.transpose(0, 3, 1, 2), dtype).reshape(o, c, kh * kw)


class Prepared(NamedTuple):
    """A forward convolution of which all is known but x and the residual."""

    shape: tuple[int, ...]  # of y
    dtype: np.dtype[Any]
    bias: Array | None
    calls: tuple[Call, ...]

    def takes(self, bias: Array | None, residual: Array | None) -> bool:
        """Whether it was prepared for this bias, and the residual fits."""
        return bias is self.bias and (residual is None or residual.shape == self.shape)

    def run(self, x: Array, residual: Array | None) -> Array:
        """y of x."""
        y = memory.empty(self.shape, self.dtype)
        x = operand(x, self.dtype)
        other = None if residual is None else operand(residual, self.dtype)
        for call in self.calls:
            call(x, y, other)
        return y


def prepare_forward(
    call: Forward,
    weight: Array,
    bias: Array | None,
    groups: int,
    relu: bool,
    kept: dict[Any, Any] | None,
) -> tuple[Call, ...]:
    """The kernels' calls of a forward convolution by weight (O, C/groups, KH*KW): by Winograd's algorithm, by a table
    of addresses, or directly, which is one call for each group.
    """
    (oh, ow), (o, channels, _) = call.out_hw, weight.shape
    source, window, taps = call.source, call.window, call.taps
    cut = cut_forward(source, window, o) if groups == 1 else None
    if cut is not None and takes_winograd(cut, get_conv_algorithm(), kept is not None):
        return (prepare_winograd(cut, weight, False, bias, relu, kept),)
    lanes = group_width(o, channels, groups, source.itemsize)
    if lanes:
        source, groups = source._replace(channels=o), 1
    depth, per = source.channels, o // groups
    only = (Phase(0, 0, window, taps),)
    if not lanes and takes_indirect(source, only, per):
        target = Target(oh, ow, o, (1, 1))
        panels_of_groups = (
            None if kept is None else kept.setdefault("indirect", {})
        )  # kept itself would be a cycle

        def run(x: Array, y: Array, residual: Array | None) -> None:
            options = (groups, bias, residual, relu, y, panels_of_groups)
            indirect(source, only, target, x, weight, False, *options)

        return (run,)
    plan = plan_gather(source, window, per, True, lanes, get_num_threads())
    calls = []
    for group in range(groups):
        own = slice(group * per, (group + 1) * per)
        make = functools.partial(pack, weight[own], taps, False, plan.cols)
        panels = kept_value(kept, (group, plan.cols), make)
        row = None if bias is None else bias[own]
        places = (group * per, oh * ow * o, ow * o, o)
        calls.append(prepare_gather(plan, group * depth, panels, row, relu, per, places))
    return tuple(calls)


class ConvMixin(ReferenceBackend):
    """conv2d and its two gradients."""

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
        """Cross-correlation of x (N, H, W, C) with w (O, KH, KW, C/groups), plus bias (O,), plus residual
        (N, OH, OW, O): y (N, OH, OW, O).

        Both additions, and max(y, 0) with relu=True (NaN stays NaN), are done while a tile is in registers.
        kept: a dictionary that stays with w and bias as long as their values do; what is made of them is kept there.
        statistics stay empty.

        Raises ValueError when shapes do not fit together.
        """
        key = (x.shape, x.dtype, stride, pad, dilation, groups, relu, get_num_threads(), get_conv_algorithm())
        ready: Prepared | None = None if kept is None else kept.get(key)
        if ready is not None and ready.takes(bias, residual):
            return ready.run(x, residual)
        expect_ndim("conv2d", "x", x, 4)
        call = forward_of("conv2d", x.shape, w.shape, stride, pad, dilation, groups, x.itemsize)
        if bias is not None:
            expect_shape("conv2d", "bias", bias, w.shape[:1])
        shape = (len(x), *call.out_hw, len(w))
        if residual is not None:
            expect_shape("conv2d", "residual", residual, shape)
        if half.is_half(x):
            return self._conv2d_half(call, x, w, bias, (stride, pad, dilation), groups, relu, residual, kept)
        if x.dtype not in FLOATS or not w.size:
            return super().conv2d(x, w, bias, stride, pad, dilation, groups, relu=relu, residual=residual)
        if 0 in shape:
            return memory.empty(shape, x.dtype)
        calls = prepare_forward(call, flat_taps(w, x.dtype), bias, groups, relu, kept)
        ready = Prepared(shape, x.dtype, bias, calls)
        if kept is not None:
            kept[key] = ready
        return ready.run(x, residual)

    def _conv2d_half(
        self,
        call: Forward,
        x: Array,
        w: Array,
        bias: Array | None,
        place: tuple[Pair, Pad, Pair],
        groups: int,
        relu: bool,
        residual: Array | None,
        kept: dict[Any, Any] | None,
    ) -> Array:
        """conv2d of half types: bfloat16 in pairs where they fit, anything else in float32."""
        if not half.is_bfloat16(x) or not w.size or not x.size or (groups > 1 and w.shape[3] % 2):
            stride, pad, dilation = place
            row, other = (None if a is None else half.widen(a) for a in (bias, residual))
            wide = half.widen(x), half.widen(w)
            y = self.conv2d(*wide, row, stride, pad, dilation, groups, relu=relu, residual=other)
            return half.narrow(y, x.dtype)
        y = memory.empty((len(x), *call.out_hw, len(w)), np.uint16).view(x.dtype)
        other = None if residual is None else operand(residual, x.dtype)
        if y.size:
            x, weight = operand(x, x.dtype), flat_taps(w, x.dtype)
            half.conv2d(call.source, call.window, call.taps, x, weight, bias, other, relu, y, groups, kept)
        return y

    def _conv2d_input_grad_half(
        self, gy: Array, w: Array, input_hw: Pair, place: tuple[Pair, Pad, Pair], groups: int
    ) -> Array:
        """conv2d_input_grad of half types: bfloat16 in pairs where they fit, anything else in float32."""
        shape = (len(gy), *input_hw, w.shape[3] * groups)
        if not half.is_bfloat16(gy) or not w.size or not gy.size or (groups > 1 and len(w) // groups % 2):
            gx = self.conv2d_input_grad(half.widen(gy), half.widen(w), input_hw, *place, groups)
            return half.narrow(gx, gy.dtype)
        gx = memory.empty(shape, np.uint16).view(gy.dtype)
        if gx.size:
            phases = gradient_phases(input_hw, w.shape[1:3], *place)
            half.conv2d_input_grad(
                phases, place[0], operand(gy, gy.dtype), flat_taps(w, gy.dtype), gx, groups
            )
        return gx

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
        """Gradient of conv2d by x: gy (N, OH, OW, O), w (O, KH, KW, C/groups) -> gx (N, H, W, C).

        bias (C,), residual (N, H, W, C) and relu work as in conv2d.
        """
        expect_ndim("conv2d_input_grad", "gy", gy, 4)
        expect_ndim("conv2d_input_grad", "w", w, 4)
        n, o, shape = len(gy), len(w), (len(gy), *input_hw, w.shape[3] * groups)
        call = forward_of("conv2d_input_grad", shape, w.shape, stride, pad, dilation, groups, gy.itemsize)
        expect_shape("conv2d_input_grad", "gy", gy, (n, *call.out_hw, o))
        expect_epilogue("conv2d_input_grad", shape, bias, residual)
        if half.is_half(gy):
            gx = self._conv2d_input_grad_half(gy, w, input_hw, (stride, pad, dilation), groups)
            return self._finished(gx, bias, residual, relu)
        if gy.dtype not in FLOATS or not w.size:
            rest: dict[str, Any] = {"bias": bias, "relu": relu, "residual": residual}
            return super().conv2d_input_grad(gy, w, input_hw, stride, pad, dilation, groups, **rest)
        gx = memory.empty(shape, gy.dtype)
        if not gx.size:
            return gx
        other = None if residual is None else operand(residual, gy.dtype)
        place = (stride, pad, dilation)
        gradient = input_gradient_of(call.source, call.window, o, w.shape[1:3], place, groups)
        gy, weight = operand(gy, gy.dtype), flat_taps(w, gy.dtype)
        if gradient.lanes > 1:
            weight = lanes_turned(weight, groups, gradient.lanes)
        if at_once(gradient, gy, weight, bias, other, relu, gx):
            return gx
        if any(phase.window is None for phase in gradient.phases):  # pixels that no tap reaches
            self._without_taps(gx, bias, other, relu)
        by_phases(gradient, gy, weight, bias, other, relu, gx)
        return gx

    def _without_taps(self, gx: Array, bias: Array | None, residual: Array | None, relu: bool) -> None:
        """gx = [relu](0 [+ bias] [+ residual])."""
        if residual is None:
            clear(gx)
            if bias is None:
                return
        ones = np.ones(gx.shape[3], gx.dtype)
        shift = np.zeros_like(ones) if bias is None else bias
        scale_and_shift(gx if residual is None else residual, ones, shift, None, relu, gx)

    def conv2d_weight_grad(
        self, gy: Array, x: Array, kernel_hw: Pair, stride: Pair, pad: Pad, dilation: Pair, groups: int
    ) -> Array:
        """Gradient of conv2d by w: gy (N, OH, OW, O), x (N, H, W, C) -> gw (O, KH, KW, C/groups).

        The result lies in memory as (O, C/groups, KH, KW), like the weight it belongs to.
        """
        expect_ndim("conv2d_weight_grad", "x", x, 4)
        expect_ndim("conv2d_weight_grad", "gy", gy, 4)
        o, (kh, kw) = gy.shape[3], kernel_hw
        depth = x.shape[3] // max(groups, 1)
        w_shape = (o, kh, kw, depth)
        call = forward_of("conv2d_weight_grad", x.shape, w_shape, stride, pad, dilation, groups, gy.itemsize)
        expect_shape("conv2d_weight_grad", "gy", gy, (len(x), *call.out_hw, o))
        if half.is_half(gy):
            wide = (half.widen(gy), half.widen(x))
            gw = self.conv2d_weight_grad(*wide, kernel_hw, stride, pad, dilation, groups)
            return half.narrow(gw.transpose(0, 3, 1, 2), gy.dtype).transpose(0, 2, 3, 1)
        if gy.dtype not in FLOATS or not depth:
            return super().conv2d_weight_grad(gy, x, kernel_hw, stride, pad, dilation, groups)
        gw = memory.empty((o, depth, kh, kw), gy.dtype)
        if not gy.size or not x.size:
            gw.fill(0)
            return gw.transpose(0, 2, 3, 1)
        gy, x = operand(gy, gy.dtype), operand(x, gy.dtype)
        if group_width(o, depth, groups, gy.itemsize):
            source = call.source._replace(channels=o)
            group_weight_gradient(x, source, call.window, gy, gw.reshape(o, depth, kh * kw))
            return gw.transpose(0, 2, 3, 1)
        cut = cut_forward(call.source, call.window, o) if groups == 1 else None
        if cut is not None and takes_winograd_weight(cut, get_conv_algorithm()):
            winograd_weight_gradient(x, cut, gy, gw.reshape(o, depth, 9))
            return gw.transpose(0, 2, 3, 1)
        per = o // groups
        for group in range(groups):
            out = gw[group * per : (group + 1) * per].reshape(per, depth, kh * kw)
            weight_gradient(x, group * depth, call.source, call.window, gy, group * per, out)
        return gw.transpose(0, 2, 3, 1)
