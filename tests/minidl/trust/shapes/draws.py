"""What a strategy draws from: sizes, axes and options come from hypothesis, which shrinks them; the numbers come from a
seeded generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from hypothesis import strategies as st

T = TypeVar("T")
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One drawn call: a function of tensors, its inputs, and the same function in NumPy where it is short to say."""

    function: Callable[..., Any]
    arrays: list[np.ndarray]
    expected: Callable[..., Any] | None = None


class Draw:
    """Random shapes, axes, options and numbers."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self._draw = draw
        self.seed = int(draw(st.integers(0, 2**32 - 1)))
        self.rng = np.random.default_rng(self.seed)

    # --- sizes and options ------------------------------------------------------------------------------------

    def int(self, low: int, high: int) -> int:
        """From low to high, both included."""
        return int(self._draw(st.integers(low, high)))

    def flag(self) -> bool:
        return bool(self._draw(st.booleans()))

    def pick(self, *options: T) -> T:
        choice: T = self._draw(st.sampled_from(options))
        return choice

    def shape(self, low_dims: int = 0, high_dims: int = 3, low: int = 0, high: int = 4) -> Shape:
        """A shape of low_dims to high_dims dimensions with sizes from low to high."""
        return tuple(self.int(low, high) for _ in range(self.int(low_dims, high_dims)))

    def broadcast(self, count: int, low: int = 0) -> list[Shape]:
        """Shapes that broadcast against each other: leading dimensions missing, sizes of 1."""
        full = self.shape(low=low)
        shapes = []
        for _ in range(count):
            kept = full[self.int(0, len(full)) :] if self.flag() else full
            shapes.append(tuple(1 if self.flag() and self.flag() else n for n in kept))
        return shapes

    def axis(self, ndim: int) -> int:
        """A dimension, counted from the front or from the back."""
        return self.int(-ndim, ndim - 1)

    def axes(self, ndim: int, least: int = 1) -> tuple[int, ...]:
        """Some dimensions, each once, in any order, counted from either end."""
        count = self.int(least, ndim)
        chosen = self._draw(st.permutations(range(ndim)))[:count]
        return tuple(a - ndim if self.flag() else a for a in chosen)

    def permutation(self, n: int) -> tuple[int, ...]:
        return tuple(self._draw(st.permutations(range(n))))

    # --- numbers ----------------------------------------------------------------------------------------------

    def normal(self, shape: Sequence[int]) -> np.ndarray:
        return self.rng.standard_normal(tuple(shape))

    def uniform(self, shape: Sequence[int], low: float, high: float) -> np.ndarray:
        return self.rng.uniform(low, high, tuple(shape))

    def distinct(self, shape: Sequence[int]) -> np.ndarray:
        """No two values, and no value and 0, are close: for maxima and order."""
        n = math.prod(shape)
        return self.rng.permutation((np.arange(n) + 0.37) / max(n, 1) * 4 - 2).reshape(tuple(shape))

    def avoiding(self, shape: Sequence[int], *points: float, scale: float = 1.0) -> np.ndarray:
        """Normal numbers, none within 0.02 of a point: for functions with kinks there."""
        x = self.normal(shape) * scale
        for p in sorted(points):
            x = np.where(np.abs(x - p) < 0.02, p + 0.025, x)
        return np.asarray(x)

    def ints(self, shape: Sequence[int], high: int) -> np.ndarray:
        """Integers in [0, high)."""
        return self.rng.integers(0, high, tuple(shape))

    def mask(self, shape: Sequence[int]) -> np.ndarray:
        return np.asarray(self.rng.random(tuple(shape)) > 0.5)


Strategy = Callable[[Draw, str], Case]
STRATEGIES: dict[str, Strategy] = {}
"""For each operator of ``minidl.ops`` that has a gradient: how to draw a call of it."""


def strategy(*names: str) -> Callable[[Strategy], Strategy]:
    """Decorator: the function draws calls of these operators, one of which it is given."""

    def register(function: Strategy) -> Strategy:
        for name in names:
            if name in STRATEGIES:
                raise ValueError(f"{name} has two strategies")
            STRATEGIES[name] = function
        return function

    return register
