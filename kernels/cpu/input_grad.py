"""The input gradient of a convolution, which is a transposed convolution: the ways to compute it, and their choice.

Seen from the input, a convolution's stride has *phases*: the pixels (stride*i + row, stride*j + col) of one row and
col take part in the same taps of the weight. Each phase is a gather of stride 1 over the output gradient.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from minidl.kernels import get_conv_algorithm, get_num_threads
from minidl.kernels.cpu.addresses import Target
from minidl.kernels.cpu.gather import gather, plan_gather
from minidl.kernels.cpu.groups import group_width
from minidl.kernels.cpu.indirect import indirect, takes_indirect
from minidl.kernels.cpu.layout import dense
from minidl.kernels.cpu.phase_columns import phase_columns, takes_phase_columns
from minidl.kernels.cpu.plan import Phase, Source, Window, ceil_div
from minidl.kernels.cpu.weights import Panels, pack
from minidl.kernels.cpu.winograd import prepare_winograd, takes_winograd
from minidl.kernels.cpu.winograd_family import Cut, cut_forward, cut_spread
from minidl.kernels.reference.checks import Array, Pad, Pair


@functools.lru_cache(maxsize=4096)
def gradient_phases(
    input_hw: Pair, kernel_hw: Pair, stride: Pair, pad: Pad, dilation: Pair
) -> tuple[Phase, ...]:
    """The input gradient, one gather for each phase of the stride, those of most taps first.

    y[p] takes x[p*stride - pad + k*dilation] times w[k], so x[stride*i + phase] goes to the output pixels
    p = i + (phase + pad - k*dilation) / stride of those taps k for which that is whole.
    """
    phases = []
    for row in range(min(stride[0], input_hw[0])):
        for col in range(min(stride[1], input_hw[1])):
            reached: list[list[tuple[int, int]]] = []
            for axis, phase in ((0, row), (1, col)):
                distances = [(phase + pad[axis][0] - k * dilation[axis], k) for k in range(kernel_hw[axis])]
                reached.append(sorted((d // stride[axis], k) for d, k in distances if d % stride[axis] == 0))
            down, across = reached
            if not down or not across:
                phases.append(Phase(row, col, None, ()))
                continue
            rows, cols = ceil_div(input_hw[0] - row, stride[0]), ceil_div(input_hw[1] - col, stride[1])
            first_r, first_c = down[0][0], across[0][0]
            places = tuple((r - first_r, c - first_c) for r, _ in down for c, _ in across)
            taps = tuple(kh * kernel_hw[1] + kw for _, kh in down for _, kw in across)
            phases.append(Phase(row, col, Window(rows, cols, 1, 1, -first_r, -first_c, places), taps))
    return tuple(sorted(phases, key=lambda phase: -len(phase.taps)))


class InputGradient(NamedTuple):
    """An input gradient of which all is known but its arrays."""

    source: Source  # the output gradient: a group's channels of its pixels
    window: Window  # of the forward convolution
    phases: tuple[Phase, ...]
    input_hw: Pair
    pixel: int  # channels of the input
    stride: Pair
    groups: int
    depth: int  # channels of the input in a group
    lanes: int  # small groups side by side in a vector of so many channels, as if they were one; or 0


def input_gradient_of(
    source: Source,
    window: Window,
    outputs: int,
    kernel_hw: Pair,
    place: tuple[Pair, Pad, Pair],
    groups: int,
) -> InputGradient:
    """Lay out the input gradient of a convolution.

    Args:
        source, window: of the forward convolution.
        outputs: its output channels.
        kernel_hw: height and width of the weight.
        place: stride, pad and dilation.
        groups: their number.
    """
    input_hw, depth, pixel = (source.height, source.width), source.channels, source.pixel
    lanes = group_width(outputs, depth, groups, source.itemsize)
    if lanes:
        depth, groups = pixel, 1
    gy = Source(source.images, window.rows, window.cols, outputs, outputs // groups, source.itemsize)
    phases = gradient_phases(input_hw, kernel_hw, *place)
    return InputGradient(gy, window, phases, input_hw, pixel, place[0], groups, depth, lanes)


def lanes_turned(weight: Array, groups: int, lanes: int) -> Array:
    """A weight of small groups in which outputs and inputs of each group have changed places."""
    turned = weight.reshape(groups, lanes, lanes, -1).swapaxes(1, 2)
    return dense(turned).reshape(weight.shape)


def _cut(g: InputGradient) -> Cut | None:
    """The gradient as tiles of Winograd's algorithm."""
    if g.groups > 1 or g.lanes:
        return None
    whole = g.phases[0].window
    if g.stride == (1, 1) and whole:
        return cut_forward(g.source, whole, g.depth)
    return cut_spread(g.source, g.window, g.input_hw, g.depth)


def at_once(
    g: InputGradient,
    gy: Array,
    weight: Array,
    bias: Array | None,
    residual: Array | None,
    relu: bool,
    gx: Array,
) -> bool:
    """Compute all phases together where one of the ways to do so is faster: Winograd's algorithm, phases side by
    side in one vector, or a table of addresses; or return False.

    Arguments as for :func:`by_phases`.
    """
    cut, algorithm = _cut(g), get_conv_algorithm()
    if cut is not None and takes_winograd(cut, algorithm):
        prepare_winograd(cut, weight, True, bias, relu)(gy, gx, residual)
        return True
    few = (
        g.groups == 1 and not g.lanes and takes_phase_columns(g.phases, g.stride, g.depth, g.source.itemsize)
    )
    if few and algorithm != "direct":
        phase_columns(g.source, g.phases, g.stride, gy, weight, bias, residual, relu, gx)
        return True
    if not g.lanes and takes_indirect(g.source, g.phases, g.depth):
        target = Target(*g.input_hw, g.pixel, g.stride)
        indirect(g.source, g.phases, target, gy, weight, True, g.groups, bias, residual, relu, gx)
        return True
    return False


def by_phases(
    g: InputGradient,
    gy: Array,
    weight: Array,
    bias: Array | None,
    residual: Array | None,
    relu: bool,
    gx: Array,
) -> None:
    """Compute one phase after the other, of one group after the other; pixels of phases without taps are left alone.

    Args:
        g: the gradient.
        gy: output gradient (N, OH, OW, O), C-contiguous.
        weight: (O, C/groups, taps), C-contiguous; of small groups as :func:`lanes_turned` gives it.
        bias: (C,), or None.
        residual: added after the bias: C-contiguous, of the shape of gx; or None.
        relu: end in max(gx, 0).
        gx: (N, H, W, C), C-contiguous.
    """
    per, (h, width) = g.source.channels, g.input_hw
    taps = tuple(tap for phase in g.phases for tap in phase.taps)  # packed at once: each belongs to one phase
    for group in range(g.groups):
        panels: dict[int, Panels] = {}
        used, first = 0, group * g.depth
        row_bias = None if bias is None else bias[first : first + g.depth]
        for row, col, window, own in g.phases:
            if window is None:
                continue
            plan = plan_gather(g.source, window, g.depth, g.stride == (1, 1), g.lanes, get_num_threads())
            if plan.cols not in panels:
                panels[plan.cols] = pack(
                    weight[group * per : (group + 1) * per], taps, not g.lanes, plan.cols
                )
            packed = panels[plan.cols]
            here = packed._replace(first=used * (packed.rows // len(taps)))
            origin = (row * width + col) * g.pixel + first
            places = (origin, h * width * g.pixel, g.stride[0] * width * g.pixel, g.stride[1] * g.pixel)
            gather(plan, gy, group * per, here, row_bias, relu, gx, g.depth, places, residual)
            used += len(own)
