"""An entry of the operator table.

The table drives every check: PyTorch's numbers, finite differences, second derivatives, back end against back
end.

An entry's function takes the library (minidl or torch), its functional module and the inputs; the same text
runs in both.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Entry:
    """An operator with options, and the shapes of its inputs."""

    name: str
    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    low: float | None = None  # inputs are uniform in [low, high] instead of normal
    high: float = 2.0
    # inputs are a shuffled even grid: no two values, and no value and 0, are close (operators with kinks)
    spread: bool = False
    # inputs are these numbers: points of their own (ties, limits, zeros)
    values: tuple[Any, ...] | None = None
    # there is no derivative here; the one-sided one that PyTorch takes counts, finite differences do not apply
    smooth: bool = True

    @property
    def seed(self) -> int:
        """The same for one name on every machine."""
        return zlib.crc32(self.name.encode())

    def inputs(self, dtype: Any = np.float64) -> list[np.ndarray]:
        """The same numbers for one name on every machine."""
        if self.values is not None:
            return [np.array(v, dtype) for v in self.values]
        rng = np.random.default_rng(self.seed)
        if self.spread:
            grids = [(np.arange(int(np.prod(s))) + 0.5) / int(np.prod(s)) * 4 - 2 for s in self.shapes]
            return [
                rng.permutation(g).reshape(s).astype(dtype) for g, s in zip(grids, self.shapes, strict=True)
            ]
        if self.low is not None:
            return [rng.uniform(self.low, self.high, s).astype(dtype) for s in self.shapes]
        return [rng.standard_normal(s).astype(dtype) for s in self.shapes]

    def output_weights(self, shape: tuple[int, ...]) -> np.ndarray:
        """Weights of the outputs in the scalar that is differentiated."""
        rng = np.random.default_rng(self.seed + 1)
        return rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)


def ints(m: Any, a: np.ndarray) -> Any:
    """An integer tensor in either library."""
    return m.tensor(a)
