"""Random zeros in training mode."""

from __future__ import annotations

from minidl.nn import functional as F
from minidl.nn._checks import choice, probability
from minidl.nn.module import Module
from minidl.tensor import Tensor

__all__ = ["Dropout", "Dropout1d", "Dropout2d", "StochasticDepth"]


class Dropout(Module):
    """In training mode zeroes each element with probability p and scales the rest by 1/(1 - p).

    ``inplace`` is accepted for PyTorch's sake; the result is a new tensor always.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        self.p = probability(f"{type(self).__name__}: p", p)
        self.inplace = bool(inplace)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout1d(Dropout):
    """Zeroes whole channels of (N, C, L) or (C, L)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout1d(x, self.p, self.training)


class Dropout2d(Dropout):
    """Zeroes whole channels of (N, C, H, W) or (C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout2d(x, self.p, self.training)


class StochasticDepth(Module):
    """In training mode zeroes a residual branch for whole samples (mode "row") or for the whole batch
    ("batch") with probability p, as torchvision's; also known as drop path."""

    def __init__(self, p: float, mode: str = "row") -> None:
        super().__init__()
        self.p = probability("StochasticDepth: p", p)
        self.mode = choice("StochasticDepth: mode", mode, ("row", "batch"))

    def forward(self, x: Tensor) -> Tensor:
        return F.stochastic_depth(x, self.p, self.mode, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}, mode={self.mode}"
