"""Random calls of every operator that has a gradient."""

from __future__ import annotations

from tests.minidl.trust.shapes import elementwise, losses, matrices, movement, neural, reductions
from tests.minidl.trust.shapes.draws import STRATEGIES, Case, Draw

__all__ = [
    "STRATEGIES",
    "Case",
    "Draw",
    "elementwise",
    "losses",
    "matrices",
    "movement",
    "neural",
    "reductions",
]
