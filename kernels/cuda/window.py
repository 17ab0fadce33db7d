"""Which pixels of an image a convolution's outputs read, on the host's side: the structs of ``window.cuh``."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from minidl.kernels.cuda.launch import DIVISOR, divisor, struct
from minidl.kernels.reference.checks import Pair

AXIS = np.dtype([(name, "i4") for name in ("size", "step", "first", "tap", "taps")])
WINDOW = np.dtype(
    [("h", AXIS), ("w", AXIS), ("area", DIVISOR), ("columns", DIVISOR)]
    + [(name, "i4") for name in ("pixels", "channels", "pitch")]
)
PIXEL_PLACE = np.dtype(
    [("area", DIVISOR), ("columns", DIVISOR)]
    + [(name, "i8") for name in ("origin", "image_pitch", "row_pitch", "column_pitch")],
    align=True,
)
CORNER_LIMIT = 1 << 15
"""A window's corner is kept as two 16-bit numbers."""


@dataclass(frozen=True)
class Axis:
    """One axis of a gather: source = step * i + first + tap * r for r < taps, and sources run to ``size``."""

    size: int
    step: int
    first: int
    tap: int
    taps: int

    def fields(self) -> tuple[int, ...]:
        return self.size, self.step, self.first, self.tap, self.taps

    def fits(self, outputs: int) -> bool:
        """Whether every corner of ``outputs`` windows, and their taps, are 16-bit numbers."""
        corners = (self.first, self.first + self.step * max(outputs - 1, 0))
        reach = abs(self.tap) * max(self.taps - 1, 0)
        return max(abs(c) for c in corners) + reach < CORNER_LIMIT and self.size < CORNER_LIMIT


@dataclass(frozen=True)
class Phase:
    """Those positions phase, phase + stride, ... of an axis that take the same taps: the gather over the output
    gradient, how many positions there are, and which taps of the weight (first, step, count)."""

    phase: int
    count: int
    axis: Axis
    taps: tuple[int, int, int]


def phases(size: int, out: int, kernel: int, stride: int, pad: int, dilation: int) -> list[Phase]:
    """The input gradient along one axis.

    Position p takes gy[(p + pad - k * dilation) / stride] for those taps k for which that is whole. For p = stride * i
    + phase they are every (stride / gcd)-th tap, and each lies dilation / gcd further back: gcd of stride and dilation.
    """
    common = math.gcd(stride, dilation)
    every, back = stride // common, dilation // common
    found = []
    for phase in range(min(stride, size)):
        taps = [k for k in range(kernel) if (phase + pad - k * dilation) % stride == 0]
        first = (phase + pad - taps[0] * dilation) // stride if taps else 0
        axis = Axis(out, 1, first, -back, len(taps))
        start = taps[0] if taps else 0
        found.append(Phase(phase, -(-(size - phase) // stride), axis, (start, every, len(taps))))
    return found


def window(h: Axis, w: Axis, out: Pair, images: int, channels: int, pitch: int) -> np.ndarray:
    """The struct of window.cuh for ``images`` images of ``out`` positions."""
    area = out[0] * out[1]
    return struct(
        WINDOW,
        h.fields(),
        w.fields(),
        divisor(area),
        divisor(out[1]),
        images * area,
        channels,
        pitch,
    )


def pixel_place(out: Pair, place: tuple[int, int, int, int]) -> np.ndarray:
    """The struct of epilogue.cuh: position (row, column) of ``out`` goes to origin + image * image pitch + ... ."""
    return struct(PIXEL_PLACE, divisor(out[0] * out[1]), divisor(out[1]), *place)
