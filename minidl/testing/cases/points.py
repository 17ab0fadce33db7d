"""Operators at points where something special happens: ties, limits, zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.testing.cases.entry import Entry, ints

WORDS = np.array([[3, 1, 1], [0, 1, 5]])


def _at(name: str, function: Callable[..., Any], *values: Any, smooth: bool = False) -> Entry:
    """An entry at given points; the shapes are those of the values."""
    return Entry(name, function, tuple(np.shape(v) for v in values), values=values, smooth=smooth)


def _set_row(m: Any, F: Any, a: Any, b: Any) -> Any:
    """A value with more dimensions than what it replaces: leading ones of size 1 are dropped."""
    y = a * 1
    y[1] = b
    return y


TABLE = [
    _at("maximum_of_ties", lambda m, F, a, b: m.maximum(a, b), [1.0, 2, 3, -1], [1.0, 5, 3, -2]),
    _at("minimum_of_ties", lambda m, F, a, b: m.minimum(a, b), [1.0, 2, 3, -1], [1.0, 5, 3, -2]),
    _at("clamp_at_its_limits", lambda m, F, a: m.clamp(a, -1, 2), [-2.0, -1, 0, 2, 3]),
    _at("abs_at_zero", lambda m, F, a: a.abs(), [-2.0, 0, 3]),
    _at("sqrt_at_zero", lambda m, F, a: a.sqrt(), [0.0, 4]),
    _at("relu_at_zero", lambda m, F, a: F.relu(a), [-1.0, 0, 1]),
    _at("elu_at_zero", lambda m, F, a: F.elu(a, 0.7), [-1.0, 0, 1]),
    _at("prelu_at_zero", lambda m, F, a, w: F.prelu(a, w), [-1.0, 0, 1], [0.3]),
    _at("hardswish_at_its_corners", lambda m, F, a: F.hardswish(a), [-4.0, -3, 0, 3, 4]),
    _at("hardtanh_at_its_corners", lambda m, F, a: F.hardtanh(a), [-2.0, -1, 0, 1, 2]),
    _at("relu6_at_its_corners", lambda m, F, a: F.relu6(a), [-1.0, 0, 3, 6, 7]),
    _at("softplus_at_its_threshold", lambda m, F, a: F.softplus(a, 2, 6), [2.0, 3, 4]),
    _at("pow_zero_base", lambda m, F, a: a ** m.tensor([0.0, 1, 2, 3], dtype=a.dtype), [0.0, 0, 0, 0]),
    _at("pow_zero_base_and_exponent", lambda m, F, a, b: a**b, [0.0, 0, 0, 2, 3], [0.0, 1, 2, 0, 2]),
    _at("pow_zero_exponent_of_both", lambda m, F, a, b: a**b, [2.0, 3, 0.5], [0.0, 0, 0], smooth=True),
    _at("pow_negative_exponent", lambda m, F, a, b: a**b, [2.0, 3], [-1.0, -2], smooth=True),
    _at("atan2_around_the_origin", lambda m, F, a, b: m.atan2(a, b), [0.0, 0, 1, -1], [0.0, 2, 0, 0]),
    _at("embedding_padding", lambda m, F, w: F.embedding(ints(m, WORDS), w, padding_idx=1), np.eye(6, 2)),
    _at(
        "binary_cross_entropy_at_its_ends",
        lambda m, F, x: F.binary_cross_entropy(x, m.tensor([0.0, 1, 0.25], dtype=x.dtype), reduction="none"),
        [0.0, 1, 0.5],
    ),
    _at("set_elements_with_leading_ones", _set_row, np.ones((3, 2)), [[[4.0, 5]]], smooth=True),
]
