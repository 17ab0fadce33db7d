"""A gradient check by directional finite differences in float64.

For random unit directions d of the inputs and random weights u of the outputs it compares

    sum over inputs of <grad of <u, f(x)>, d>     with     the derivative of t -> <u, f(x + t d)> at 0,

the latter by central differences at two step sizes combined to fourth order (the five-point stencil,
Abramowitz & Stegun 25.3.6). A
random direction sees every element of every gradient at once, and random output weights keep errors from
cancelling in a plain sum.
Where f has a kink between x - 2h d and x + 2h d the two step sizes disagree: that is reported as such, not as
a wrong gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl import autograd
from minidl.tensor import Tensor

__all__ = ["GradientError", "gradcheck", "gradgradcheck"]

_STEP = 1e-3


class GradientError(AssertionError):
    """A gradient that differs from the finite difference; the message shows both."""


def gradcheck(
    function: Callable[..., Tensor | Sequence[Tensor]],
    inputs: Sequence[Tensor],
    *,
    directions: int = 3,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    second_order: bool = False,
    seed: int = 0,
) -> bool:
    """Check the gradients of ``function`` at ``inputs``.

    Args:
        function: takes the tensors and returns a tensor or several; must give the same result for the same
            input.
        inputs: float64 tensors; those that require a gradient are checked.
        directions: number of random directions.
        rtol, atol: |gradient - difference| <= atol + rtol * scale, with scale the larger of the two and of
            the gradient's norm
            times the direction's.
        second_order: also check the gradients of the gradients, see :func:`gradgradcheck`.
        seed: seed of directions and output weights.

    Returns:
        True. Everything else raises.

    Raises:
        GradientError: a gradient is wrong, or the function has a kink at the inputs (try other inputs).
        TypeError: an input is not float64, or none requires a gradient.
    """
    leaves = [t for t in inputs if t.requires_grad]
    if not leaves:
        raise TypeError("gradcheck: no input requires a gradient")
    for i, t in enumerate(inputs):
        if np.issubdtype(t.dtype, np.floating) and t.dtype != np.float64:
            raise TypeError(
                f"gradcheck: input {i} is {t.dtype}; finite differences need float64 (use .double() on a "
                f"copy)"
            )
    rng = np.random.default_rng(seed)
    outputs = _tuple(function(*inputs))
    weights = [rng.uniform(0.5, 1.5, o.shape) * rng.choice([-1.0, 1.0], o.shape) for o in outputs]
    active = [(o, Tensor(w)) for o, w in zip(outputs, weights, strict=True) if o.requires_grad]
    if not active:
        raise GradientError(
            "gradcheck: the outputs do not require a gradient: the function cut the graph or is constant"
        )
    grads = autograd.grad(
        [o for o, _ in active], leaves, grad_outputs=[w for _, w in active], allow_unused=True
    )
    arrays = [np.zeros(t.shape) if g is None else g.data for t, g in zip(leaves, grads, strict=True)]
    for t, g in zip(leaves, arrays, strict=True):
        if g.shape != t.shape or g.dtype != t.dtype:
            raise GradientError(
                f"gradcheck: gradient of shape {g.shape}, dtype {g.dtype} for an input of {t.shape}, "
                f"{t.dtype}"
            )

    def value() -> float:
        with autograd.no_grad():
            out = _tuple(function(*inputs))
        return float(sum(np.vdot(w, o.data) for w, o in zip(weights, out, strict=True)))

    for k in range(directions):
        ds = [_direction(rng, t.shape) for t in leaves]
        analytic = float(sum(np.vdot(g, d) for g, d in zip(arrays, ds, strict=True)))
        numeric, spread = _slope(value, leaves, ds)
        scale = max(abs(analytic), abs(numeric), np.sqrt(sum(float(np.vdot(g, g)) for g in arrays)))
        if not abs(analytic - numeric) <= atol + rtol * scale:  # also catches NaN
            kink = spread > 1e-3 * max(scale, atol)
            reason = (
                "the differences do not fit a smooth function: it has a kink here, or is not deterministic"
                if kink
                else "the gradient is wrong"
            )
            raise GradientError(_report(k, analytic, numeric, spread, leaves, arrays, ds, reason, value))
    if second_order:
        gradgradcheck(function, inputs, directions=directions, rtol=rtol * 10, atol=atol * 10, seed=seed + 1)
    return True


def gradgradcheck(
    function: Callable[..., Tensor | Sequence[Tensor]],
    inputs: Sequence[Tensor],
    *,
    directions: int = 3,
    rtol: float = 1e-5,
    atol: float = 1e-7,
    seed: int = 0,
) -> bool:
    """Check the gradients of the gradients: :func:`gradcheck` of (inputs, output gradients) -> input
    gradients."""
    rng = np.random.default_rng(seed)
    outputs = _tuple(function(*inputs))
    tangents = [Tensor(rng.standard_normal(o.shape), requires_grad=True) for o in outputs if o.requires_grad]
    n = len(inputs)
    which = [i for i, t in enumerate(inputs) if t.requires_grad]

    def first_order(*args: Tensor) -> list[Tensor]:
        with autograd.enable_grad():
            xs = [
                a if a.requires_grad else a.detach().requires_grad_(i in which)
                for i, a in enumerate(args[:n])
            ]
            outs = [o for o in _tuple(function(*xs)) if o.requires_grad]
            grads = autograd.grad(
                outs, [xs[i] for i in which], grad_outputs=args[n:], create_graph=True, allow_unused=True
            )
        return [g for g in grads if g is not None]

    if not any(g.requires_grad for g in first_order(*inputs, *tangents)):
        raise GradientError("gradgradcheck: the gradients have no graph: a backward is not differentiable")
    return gradcheck(
        first_order, [*inputs, *tangents], directions=directions, rtol=rtol, atol=atol, seed=seed
    )


def _tuple(out: Any) -> tuple[Tensor, ...]:
    return (out,) if isinstance(out, Tensor) else tuple(out)


def _direction(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random signs and sizes, none near 0: no element of a gradient is left out."""
    return np.asarray(rng.uniform(0.5, 1.0, shape) * rng.choice([-1.0, 1.0], shape))


def _slope(value: Callable[[], float], leaves: list[Tensor], ds: list[np.ndarray]) -> tuple[float, float]:
    """Fourth-order derivative along ``ds``, and how much of a kink there is between the outermost points.

    Of a smooth function the two second-order estimates agree to O(h^2), and the difference between its
    forward and its backward
    slope is proportional to the step; a kink breaks the first where it lies off the point, the second where
    it lies on it.
    """
    kept = [t.data for t in leaves]

    def at(t: float) -> float:
        for leaf, x, d in zip(leaves, kept, ds, strict=True):
            leaf.data = x + t * d
        return value()

    try:
        down2, down, here, up, up2 = (at(k * _STEP) for k in (-2, -1, 0, 1, 2))
    finally:
        for leaf, x in zip(leaves, kept, strict=True):
            leaf.data = x
    near, far = (up - down) / (2 * _STEP), (up2 - down2) / (4 * _STEP)
    bend, bend2 = (up - 2 * here + down) / _STEP, (up2 - 2 * here + down2) / (2 * _STEP)
    return (4 * near - far) / 3, max(abs(near - far), abs(2 * bend - bend2))


def _report(
    k: int,
    analytic: float,
    numeric: float,
    spread: float,
    leaves: list[Tensor],
    grads: list[np.ndarray],
    ds: list[np.ndarray],
    reason: str,
    value: Callable[[], float],
) -> str:
    """Both numbers, and for each input the element whose own difference quotient is furthest from its
    gradient."""
    lines = [
        f"gradcheck: {reason}.",
        f"  direction {k}: gradient {analytic:.10g}, difference {numeric:.10g} (step sizes disagree by "
        f"{spread:.2g})",
    ]
    for i, (t, g) in enumerate(zip(leaves, grads, strict=True)):
        worst, shown = -1.0, ""
        flat = range(t.size) if t.size <= 64 else np.random.default_rng(0).choice(t.size, 64, replace=False)
        for j in flat:
            one = [np.zeros(x.shape) for x in leaves]
            one[i].reshape(-1)[j] = 1.0
            slope, _ = _slope(value, leaves, one)
            error = abs(slope - float(g.reshape(-1)[j]))
            if error > worst:
                where = tuple(int(a) for a in np.unravel_index(int(j), t.shape))
                worst = error
                shown = f"element {where}: gradient {g.reshape(-1)[j]:.8g}, difference {slope:.8g}"
        lines.append(f"  input {i}, shape {t.shape}, |d| {np.linalg.norm(ds[i]):.4g}; worst {shown}")
    return "\n".join(lines)
