"""The gradient check: directional finite differences in float64, and what else a gradient must fulfil.

For random directions d of the inputs and random weights u of the outputs it compares

    sum over inputs of <grad of <u, f(x)>, d>     with     the derivative of t -> <u, f(x + t d)> at 0.

A random direction sees every element of every gradient at once, and random output weights keep errors from
cancelling in a plain sum. Where f has a kink near x no smooth function fits the values: that is reported as such,
not as a wrong gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl import autograd
from minidl.tensor import Tensor
from minidl.testing.layouts import layouts_of
from minidl.testing.slopes import STEPS, Slope, direction, report, slope

__all__ = ["GradientError", "gradcheck", "gradgradcheck"]

Outputs = Tensor | Sequence[Tensor]

_SAME = 1e-9
"""Relative difference allowed between gradients that are computed in two ways from the same numbers."""


class GradientError(AssertionError):
    """A gradient that differs from the finite difference; the message shows both."""


def gradcheck(
    function: Callable[..., Outputs],
    inputs: Sequence[Tensor],
    *,
    directions: int = 3,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    second_order: bool = False,
    layouts: bool = True,
    seed: int = 0,
) -> bool:
    """Check the gradients of ``function`` at ``inputs``.

    Args:
        function: takes the tensors and returns a tensor or several, float64; must give the same result for the
            same input.
        inputs: float64 tensors, of any shape (also without elements) and memory layout; those that require a
            gradient are checked. A tensor may appear twice.
        directions: number of random directions.
        rtol, atol: |gradient - difference| <= atol + rtol * scale, with scale the larger of the two and of the
            gradient's norm.
        second_order: also check the gradients of the gradients, see :func:`gradgradcheck`.
        layouts: also check that values and gradients are the same for inputs that lie otherwise in memory:
            transposed, with gaps, reversed, broadcast (strides of 0), and one tensor in the place of two.
        seed: seed of directions and output weights.

    Returns:
        True. Everything else raises.

    Raises:
        GradientError: a gradient is wrong, it depends on what else is asked for or on the memory layout, the
            function is not deterministic or has a kink at the inputs (try other inputs).
        TypeError: an input or output is not float64, or none requires a gradient.

    >>> import numpy as np
    >>> x = Tensor(np.array([0.3, -0.5]), requires_grad=True)
    >>> gradcheck(lambda x: (x * x).exp(), [x], second_order=True)
    True
    """
    leaves = _leaves(inputs)
    rng = np.random.default_rng(seed)
    outputs = _tuple(function(*inputs))
    for i, o in enumerate(outputs):
        if o.requires_grad and o.dtype != np.float64:
            raise TypeError(f"gradcheck: output {i} is {o.dtype}; finite differences need float64 throughout")
    weights = [rng.uniform(0.5, 1.5, o.shape) * rng.choice([-1.0, 1.0], o.shape) for o in outputs]
    grads = _gradients(outputs, leaves, weights)

    def value() -> float:
        with autograd.no_grad():
            out = _tuple(function(*inputs))
        return float(sum(np.vdot(w, o.data) for w, o in zip(weights, out, strict=True)))

    _check_determinism(function, inputs, leaves, weights, grads, value)
    norm = np.sqrt(sum(float(np.vdot(g, g)) for g in grads))
    for number in range(directions):
        ds = [direction(rng, t.shape) for t in leaves]
        analytic = float(sum(np.vdot(g, d) for g, d in zip(grads, ds, strict=True)))
        found = Slope(np.nan, np.nan)
        for step in STEPS:
            found = slope(value, leaves, ds, step)
            scale = max(abs(analytic), abs(found.value), norm)
            if abs(analytic - found.value) <= atol + rtol * scale:
                break
            if found.misfit <= 1e-6 * max(scale, atol):
                break  # a smaller step would find the same
        if not abs(analytic - found.value) <= atol + rtol * scale:  # also catches NaN
            kink = found.misfit > 1e-3 * max(scale, atol)
            reason = "no smooth function fits: there is a kink here" if kink else "the gradient is wrong"
            raise GradientError(report(reason, number, analytic, found, leaves, grads, ds, value))
    _check_each_alone(function, inputs, leaves, weights, grads)
    if layouts:
        _check_layouts(function, inputs, weights, rng)
    if second_order:
        gradgradcheck(function, inputs, directions=directions, rtol=rtol * 10, atol=atol * 10, seed=seed + 1)
    return True


def gradgradcheck(
    function: Callable[..., Outputs],
    inputs: Sequence[Tensor],
    *,
    directions: int = 3,
    rtol: float = 1e-5,
    atol: float = 1e-7,
    seed: int = 0,
) -> bool:
    """Check the gradients of the gradients: :func:`gradcheck` of (inputs, output gradients) -> input gradients.

    The gradients themselves must be the same whether they are recorded or not. Arguments and errors are those of
    :func:`gradcheck`; :class:`GradientError` as well when the gradients have no graph.
    """
    leaves = _leaves(inputs)
    places = [next((k for k, t in enumerate(leaves) if t is x), None) for x in inputs]
    rng = np.random.default_rng(seed)
    outputs = _tuple(function(*inputs))
    tangents = [Tensor(rng.standard_normal(o.shape), requires_grad=True) for o in outputs if o.requires_grad]
    n = len(leaves)

    def first_order(*args: Tensor) -> list[Tensor]:
        with autograd.enable_grad():
            xs = [a if a.requires_grad else a.detach().requires_grad_() for a in args[:n]]
            given = [x if k is None else xs[k] for x, k in zip(inputs, places, strict=True)]
            outs = [o for o in _tuple(function(*given)) if o.requires_grad]
            grads = autograd.grad(outs, xs, grad_outputs=args[n:], create_graph=True, allow_unused=True)
        return [g for g in grads if g is not None]

    if not any(g.requires_grad for g in first_order(*leaves, *tangents)):
        raise GradientError("gradgradcheck: the gradients have no graph: a backward is not differentiable")

    def gradients(which: Sequence[Tensor], create_graph: bool) -> list[np.ndarray]:
        outs = [o for o in _tuple(function(*inputs)) if o.requires_grad]
        found = autograd.grad(outs, which, tangents, create_graph=create_graph, allow_unused=True)
        return [np.zeros(t.shape) if g is None else g.data for t, g in zip(which, found, strict=True)]

    plain = gradients(leaves, False)
    _compare("with create_graph the gradients are others than without", gradients(leaves, True), plain)
    for k in range(n if n > 1 else 0):  # an operator skips the gradients that nobody needs
        reason = f"with create_graph input {k} has another gradient when no other is asked for"
        _compare(reason, gradients([leaves[k]], True), [plain[k]])
    return gradcheck(
        first_order,
        [*leaves, *tangents],
        directions=directions,
        rtol=rtol,
        atol=atol,
        layouts=False,
        seed=seed,
    )


def _leaves(inputs: Sequence[Tensor]) -> list[Tensor]:
    """The inputs that are checked, each once."""
    leaves: list[Tensor] = []
    for i, t in enumerate(inputs):
        if not isinstance(t, Tensor):
            raise TypeError(f"gradcheck: input {i} expects a Tensor, got {type(t).__name__}")
        if t.requires_grad and not any(t is other for other in leaves):
            leaves.append(t)
        if t.requires_grad and t.dtype != np.float64:
            raise TypeError(
                f"gradcheck: input {i} is {t.dtype}; finite differences need float64 (use .double() on a copy)"
            )
    if not leaves:
        raise TypeError("gradcheck: no input requires a gradient")
    return leaves


def _tuple(out: Any) -> tuple[Tensor, ...]:
    return (out,) if isinstance(out, Tensor) else tuple(out)


def _gradients(
    outputs: Sequence[Tensor], leaves: Sequence[Tensor], weights: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Gradients of the weighted sum of the outputs, zeros where there is none."""
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
                f"gradcheck: gradient of shape {g.shape}, dtype {g.dtype} for an input of {t.shape}, {t.dtype}"
            )
    return arrays


def _check_determinism(
    function: Callable[..., Outputs],
    inputs: Sequence[Tensor],
    leaves: Sequence[Tensor],
    weights: Sequence[np.ndarray],
    grads: Sequence[np.ndarray],
    value: Callable[[], float],
) -> None:
    one, two = value(), value()
    again = _gradients(_tuple(function(*inputs)), leaves, weights)
    same = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(grads, again, strict=True))
    repeats = one == two or (np.isnan(one) and np.isnan(two))
    if not (repeats and same):
        what = "gradients" if repeats else "values"
        raise GradientError(
            f"gradcheck: the function is not deterministic: called twice with the same inputs, its {what} "
            f"differ (weighted sums {one:.17g} and {two:.17g})"
        )


def _check_each_alone(
    function: Callable[..., Outputs],
    inputs: Sequence[Tensor],
    leaves: Sequence[Tensor],
    weights: Sequence[np.ndarray],
    grads: Sequence[np.ndarray],
) -> None:
    """An operator skips the gradients that nobody needs; the others must stay the same."""
    if len(leaves) < 2:
        return
    for i, leaf in enumerate(leaves):
        others = [t for t in leaves if t is not leaf]
        for t in others:
            t.requires_grad = False
        try:
            outputs = _tuple(function(*inputs))
            if any(o.requires_grad for o in outputs):
                alone = _gradients(outputs, [leaf], weights)
                _compare(f"input {i} has another gradient when no other needs one", alone, [grads[i]])
        finally:
            for t in others:
                t.requires_grad = True


def _check_layouts(
    function: Callable[..., Outputs],
    inputs: Sequence[Tensor],
    weights: Sequence[np.ndarray],
    rng: np.random.Generator,
) -> None:
    """The same numbers in other places of memory."""
    arrays = [t.data for t in inputs]
    needs = [t.requires_grad for t in inputs]

    def run(tensors: Sequence[Tensor]) -> list[np.ndarray]:
        outputs = _tuple(function(*tensors))
        leaves = [t for t in tensors if t.requires_grad]
        return [*[o.data for o in outputs], *_gradients(outputs, leaves, weights)]

    def tensors(given: Sequence[np.ndarray]) -> list[Tensor]:
        return [Tensor(a, requires_grad=r) for a, r in zip(given, needs, strict=True)]

    for name, variant in layouts_of(arrays, needs):
        expected = run(tensors([a.copy(order="C") for a in variant]))
        _compare(f"inputs that are {name} in memory have other results", run(tensors(variant)), expected)
    pairs = [
        (i, j)
        for j in range(len(inputs))
        for i in range(j)
        if needs[i] and needs[j] and arrays[i].shape == arrays[j].shape and inputs[i] is not inputs[j]
    ]
    for i, j in pairs[:1]:
        equal = [arrays[i].copy() if k == j else a for k, a in enumerate(arrays)]
        expected = run(tensors(equal))
        both = tensors(equal)
        both[j] = both[i]
        outputs = len(expected) - sum(needs)
        order = [k for k, r in enumerate(needs) if r]
        at_i, at_j = outputs + order.index(i), outputs + order.index(j)
        expected[at_i] = expected[at_j] = expected[at_i] + expected[at_j]
        _compare(f"one tensor as input {i} and {j} has other results", run(both), expected)


def _compare(reason: str, found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    for k, (a, b) in enumerate(zip(found, expected, strict=True)):
        scale = max(float(np.abs(b).max(initial=0)), 1e-3) if b.size else 1.0
        if a.shape != b.shape or not np.allclose(a, b, rtol=_SAME, atol=_SAME * scale, equal_nan=True):
            detail = f"shapes {a.shape} and {b.shape}"
            if a.shape == b.shape:
                worst = np.unravel_index(int(np.nanargmax(np.abs(a - b))), a.shape)
                where = tuple(int(n) for n in worst)
                detail = f"worst element {where}: {a[worst]:.12g} instead of {b[worst]:.12g}"
            raise GradientError(f"gradcheck: {reason}; result {k}, {detail}")
