"""Shapes, padding and their checks, shared by the reference and by the back ends that inherit from it.

Nothing here touches the elements of an array, so the same checks serve NumPy and CuPy.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Pair: TypeAlias = tuple[int, int]
Pad: TypeAlias = tuple[Pair, Pair]
"""((top, bottom), (left, right)), in pixels, never negative."""


def expect(condition: bool, kernel: str, message: str) -> None:
    """Raise ValueError("kernel: message") unless the condition holds."""
    if not condition:
        raise ValueError(f"{kernel}: {message}")


def expect_shape(kernel: str, name: str, array: Array, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `array` has exactly `shape`."""
    if array.shape != shape:
        raise ValueError(f"{kernel}: {name} expects shape {shape}, got {array.shape}")


def expect_ndim(kernel: str, name: str, array: Array, ndim: int) -> None:
    """Raise ValueError unless `array` has `ndim` axes."""
    if array.ndim != ndim:
        raise ValueError(f"{kernel}: {name} expects {ndim} axes, got shape {array.shape}")


def expect_window(kernel: str, window: Pair, stride: Pair, pad: Pad, dilation: Pair = (1, 1)) -> None:
    """Raise ValueError unless window, stride and dilation are at least 1 and no padding is negative."""
    for name, values in (("kernel", window), ("stride", stride), ("dilation", dilation)):
        expect(
            len(values) == 2 and min(values) >= 1,
            kernel,
            f"{name} expects two integers of at least 1, got {values}",
        )
    expect(
        len(pad) == 2 and all(len(side) == 2 and min(side) >= 0 for side in pad),
        kernel,
        f"pad expects ((top, bottom), (left, right)) without negative values, got {pad}",
    )


def conv_out_hw(kernel: str, input_hw: Pair, window: Pair, stride: Pair, pad: Pad, dilation: Pair) -> Pair:
    """Height and width of a convolution's output; ValueError when the window does not fit the padded
    input.
    """
    expect_window(kernel, window, stride, pad, dilation)
    out = []
    for axis in (0, 1):
        padded = input_hw[axis] + pad[axis][0] + pad[axis][1]
        reach = dilation[axis] * (window[axis] - 1) + 1
        expect(padded >= reach, kernel, f"a window of {reach} pixels does not fit a padded input of {padded}")
        out.append((padded - reach) // stride[axis] + 1)
    return out[0], out[1]


def expect_conv(
    kernel: str,
    c: int,
    w_shape: tuple[int, ...],
    groups: int,
    input_hw: Pair,
    stride: Pair,
    pad: Pad,
    dilation: Pair,
) -> Pair:
    """Check channels, groups and window of a convolution with weight (O, KH, KW, C/groups); return (OH,
    OW).
    """
    expect(len(w_shape) == 4, kernel, f"weight expects 4 axes (O, KH, KW, C/groups), got shape {w_shape}")
    expect(groups >= 1, kernel, f"groups expects at least 1, got {groups}")
    expect(
        w_shape[3] * groups == c,
        kernel,
        f"weight expects {w_shape[3] * groups} input channels ({w_shape[3]} x {groups} groups), x has {c}",
    )
    expect(
        w_shape[0] % groups == 0, kernel, f"{w_shape[0]} output channels do not divide into {groups} groups"
    )
    return conv_out_hw(kernel, input_hw, (w_shape[1], w_shape[2]), stride, pad, dilation)


def expect_pool(
    kernel: str, input_hw: Pair, window: Pair, stride: Pair, pad: Pad, dilation: Pair, out_hw: Pair
) -> None:
    """Check that each of the out_hw windows covers at least one pixel of the input.

    Ceil mode may let the last window reach past the bottom and right padding; the rest of it counts as
    padding. A window that covers padding only has no maximum and no mean, so it is refused.
    """
    expect_window(kernel, window, stride, pad, dilation)
    for axis, name in ((0, "height"), (1, "width")):
        size, count = input_hw[axis], out_hw[axis]
        expect(count >= 1, kernel, f"out_hw expects at least 1 x 1, got {out_hw}")
        for i in (*range(min(count, pad[axis][0] // stride[axis] + 1)), count - 1):
            first = i * stride[axis] - pad[axis][0]
            last = first + dilation[axis] * (window[axis] - 1)
            # The first tap at or after pixel 0.
            inside = first if first >= 0 else first + -(first // dilation[axis]) * dilation[axis]
            expect(
                inside < size and inside <= last,
                kernel,
                f"window {i} along the {name} covers padding only (input {input_hw}, kernel {window}, "
                f"stride {stride}, pad {pad}, dilation {dilation}, output {out_hw})",
            )
