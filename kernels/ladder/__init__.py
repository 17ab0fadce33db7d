"""The ladder: convolution from seven plain loops to the production kernel, one idea for each step.

``docs/convolution.md`` walks through it. Every step is a file that can be read by itself and run::

    from minidl.kernels.ladder import STEPS
    y = STEPS[6].load()(x, w, stride=1, pad=1)      # x (N, H, W, C), w (O, KH, KW, C) float32

``python -m benchmarks.ladder`` measures them beside each other.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Convolution = Callable[..., npt.NDArray[np.float32]]


class Step(NamedTuple):
    """One step of the ladder."""

    number: int
    title: str
    module: str  # in minidl.kernels.ladder.cpu
    threads: bool = False  # uses all threads; the others use one

    def load(self) -> Convolution:
        """Its ``conv2d(x, w, stride=1, pad=0)``; imports Numba at the first call."""
        function: Convolution = importlib.import_module(f"{__name__}.cpu.{self.module}").conv2d
        return function


STEPS = tuple(
    Step(number, title, f"step{number}_{file}", threads)
    for number, (title, file, threads) in enumerate(
        [
            ("seven loops", "loops", False),
            ("loop order", "order", False),
            ("blocking", "blocking", False),
            ("im2col and a matrix product", "im2col", False),
            ("packing", "packing", False),
            ("explicit vectors", "vectors", False),
            ("register tile", "register_tile", False),
            ("addresses instead of copies", "addresses", False),
            ("Winograd", "winograd", False),
            ("production kernel, all threads", "production", True),
        ]
    )
)
