"""The definition of every kernel, in NumPy: short, float64-capable, the oracle of the other back ends.

Each family is one class in one file, written against an array module `xp`. `ReferenceBackend` puts them
together; a faster back end inherits from it and overrides what it does better, so whatever it lacks still
works.
"""

from __future__ import annotations

from typing import Any

import numpy

from minidl.kernels.reference.adaptive import AdaptiveMaximum
from minidl.kernels.reference.checks import Array
from minidl.kernels.reference.conv import Convolution
from minidl.kernels.reference.elementwise import Elementwise
from minidl.kernels.reference.linear import Products
from minidl.kernels.reference.loss import Losses
from minidl.kernels.reference.norm import Normalisation
from minidl.kernels.reference.optim import Optimizers
from minidl.kernels.reference.pair_loss import PairLosses
from minidl.kernels.reference.place import Placing
from minidl.kernels.reference.pool import Pooling
from minidl.kernels.reference.resample import Resampling
from minidl.kernels.reference.scatter import Scattering
from minidl.kernels.reference.standardize import Standardisation
from minidl.kernels.reference.windows import Windows

__all__ = ["ReferenceBackend"]


class ReferenceBackend(
    Convolution,
    Products,
    Pooling,
    AdaptiveMaximum,
    Windows,
    Resampling,
    Scattering,
    Placing,
    Normalisation,
    Standardisation,
    Losses,
    PairLosses,
    Elementwise,
    Optimizers,
):
    """Every kernel of docs/architecture.md over one array module (NumPy, or one that follows it closely)."""

    name = "reference"

    def __init__(self, xp: Any = numpy) -> None:
        self.xp = xp

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """An array of undefined contents."""
        return self.xp.empty(shape, dtype)
