"""The checks that a drawn call goes through."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from minidl import Tensor, grad, kernels
from minidl.testing import gradcheck, gradgradcheck
from minidl.testing.operators import close
from tests.minidl.trust.shapes.draws import STRATEGIES, Case, Draw

NO_GRADIENT = "its values are not real numbers, or do not depend on the input smoothly anywhere"
REASONS: dict[str, str] = {
    **dict.fromkeys(
        ["all", "allclose", "any", "argmax", "argmin", "argsort", "compare", "count_nonzero", "eq", "equal"],
        NO_GRADIENT,
    ),
    **dict.fromkeys(
        ["ge", "gt", "isclose", "isfinite", "isinf", "isnan", "le", "logical", "lt"], NO_GRADIENT
    ),
    **dict.fromkeys(["logical_and", "logical_not", "logical_or", "logical_xor", "ne"], NO_GRADIENT),
    **dict.fromkeys(["nonzero", "one_hot", "result_type", "unique"], NO_GRADIENT),
    **dict.fromkeys(["normal_", "uniform_"], "what they write does not depend on the input"),
    "to_device": "copies to another device; tests/minidl/devices",
    "cast": "leaves float64, and finite differences with it; test_half_types.py",
}
"""Operators without a strategy, and why."""


def gradients(case: Case) -> tuple[np.ndarray, list[np.ndarray]]:
    """Value and gradients of a weighted sum."""
    leaves = [Tensor(a, requires_grad=True) for a in case.arrays]
    y = case.function(*leaves)
    weights = np.random.default_rng(0).uniform(0.5, 1.5, y.shape)
    found = grad(y, leaves, Tensor(weights), allow_unused=True)
    return y.data, [np.zeros(t.shape) if g is None else g.data for t, g in zip(leaves, found, strict=True)]


def check(case: Case) -> None:
    """Values against NumPy, both back ends against each other, gradients of first and second order against finite
    differences, for several memory layouts and, where two inputs have one shape, for one tensor in both places.

    Raises:
        AssertionError: one of them differs.
    """
    y, grads = gradients(case)
    if case.expected is not None:
        close("value", y, np.asarray(case.expected(*[a.copy() for a in case.arrays])), 1e-10)
    with kernels.use("reference"):
        expected, expected_grads = gradients(case)
    close("value of the reference", y, expected, 1e-11)
    for i, (a, b) in enumerate(zip(grads, expected_grads, strict=True)):
        close(f"gradient {i} of the reference", a, b, 1e-11)
    leaves = [Tensor(a, requires_grad=True) for a in case.arrays]
    gradcheck(case.function, leaves, directions=1)
    gradgradcheck(case.function, leaves, directions=1)


def drawn(name: str) -> st.SearchStrategy[Case]:
    """Hypothesis's strategy of an operator's calls."""

    @st.composite
    def cases(draw: Any) -> Case:
        return STRATEGIES[name](Draw(draw), name)

    return cases()
