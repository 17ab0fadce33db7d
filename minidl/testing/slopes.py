"""Slopes of a function along a direction, by finite differences, and the report of a wrong one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from minidl.tensor import Tensor

__all__ = ["STEPS", "Slope", "direction", "report", "slope"]

STEPS = (1e-3, 1e-4, 1e-5)
"""Step sizes, tried in turn until the difference fits the gradient. The first has the smallest error on smooth
functions: truncation 4 h^4 f'''''/5!, rounding 1e-16 |f| / h. The others step over less: nearby kinks, steep bends."""


class Slope(NamedTuple):
    """A derivative by finite differences, and how badly a smooth function fits the values it is made of."""

    value: float
    misfit: float


def direction(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random signs and sizes, none near 0: no element of a gradient is left out."""
    return np.asarray(rng.uniform(0.5, 1.0, shape) * rng.choice([-1.0, 1.0], shape))


def slope(
    value: Callable[[], float], leaves: Sequence[Tensor], ds: Sequence[np.ndarray], step: float
) -> Slope:
    """Fourth-order derivative of ``value`` along ``ds`` by the five-point stencil (Abramowitz & Stegun 25.3.6).

    Of a smooth function the two second-order estimates agree to O(h^2), and the difference between its forward
    and its backward slope is proportional to the step. A kink breaks the first where it lies off the point, the
    second where it lies on it.

    Args:
        value: the function of the leaves' arrays.
        leaves: tensors whose ``data`` is moved, and put back.
        ds: a direction for each leaf.
        step: distance h between the points.
    """
    kept = [t.data for t in leaves]

    def at(t: float) -> float:
        for leaf, x, d in zip(leaves, kept, ds, strict=True):
            leaf.data = x + t * d
        return value()

    try:
        down2, down, here, up, up2 = (at(k * step) for k in (-2, -1, 0, 1, 2))
    finally:
        for leaf, x in zip(leaves, kept, strict=True):
            leaf.data = x
    near, far = (up - down) / (2 * step), (up2 - down2) / (4 * step)
    bend, bend2 = (up - 2 * here + down) / step, (up2 - 2 * here + down2) / (2 * step)
    return Slope((4 * near - far) / 3, max(abs(near - far), abs(2 * bend - bend2)))


def report(
    reason: str,
    number: int,
    analytic: float,
    found: Slope,
    leaves: Sequence[Tensor],
    grads: Sequence[np.ndarray],
    ds: Sequence[np.ndarray],
    value: Callable[[], float],
) -> str:
    """Both numbers, and for each input its values, direction and the element whose own difference quotient is
    furthest from its gradient (of 64 at most)."""
    lines = [
        f"gradcheck: {reason}.",
        f"  direction {number}: gradient {analytic:.10g}, difference {found.value:.10g} "
        f"(misfit of a smooth function {found.misfit:.2g})",
    ]
    for i, (t, g) in enumerate(zip(leaves, grads, strict=True)):
        worst, shown = -1.0, "none: the input is empty"
        some = range(t.size) if t.size <= 64 else np.random.default_rng(0).choice(t.size, 64, replace=False)
        for j in some:
            one = [np.zeros(x.shape) for x in leaves]
            one[i].reshape(-1)[j] = 1.0
            quotient = slope(value, leaves, one, STEPS[1]).value
            error = abs(quotient - float(g.reshape(-1)[j]))
            if not error <= worst:
                worst = error
                where = tuple(int(a) for a in np.unravel_index(int(j), t.shape))
                shown = (
                    f"{where}: value {t.data.reshape(-1)[j]:.8g}, gradient {g.reshape(-1)[j]:.8g}, "
                    f"difference {quotient:.8g}"
                )
        lines += [
            f"  input {i}, shape {t.shape}; worst element {shown}",
            f"    values     {_short(t.data)}",
            f"    direction  {_short(ds[i])}",
            f"    gradient   {_short(g)}",
        ]
    return "\n".join(lines)


def _short(a: np.ndarray) -> str:
    return np.array2string(a.reshape(-1), precision=5, threshold=8, edgeitems=4, max_line_width=100)
