"""Fully connected layers, and those that change shapes only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.nn import functional as F
from minidl.nn import init
from minidl.nn._checks import integer
from minidl.nn.module import Module
from minidl.tensor import Parameter, Tensor

__all__ = ["Flatten", "Identity", "Linear", "Unflatten"]


class Linear(Module):
    """y = x weight^T + bias on the last dimension; weight is (out_features, in_features), PyTorch's default
    start.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features = integer("Linear: in_features", in_features, 1)
        self.out_features = integer("Linear: out_features", out_features, 1)
        self.weight = Parameter(np.empty((out_features, in_features), dtype=np.float32))
        self.bias = Parameter(np.empty(out_features, dtype=np.float32)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weight and bias from U(±1/sqrt(in_features))."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        bias = self.bias is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={bias}"


class Flatten(Module):
    """Merges the dimensions from start_dim to end_dim, in (C, H, W) order whatever the memory layout."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Splits dimension dim into unflattened_size (one size may be -1)."""

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        super().__init__()
        self.dim = integer("Unflatten: dim", dim, -64)
        self.unflattened_size = tuple(integer("Unflatten: unflattened_size", n, -1) for n in unflattened_size)

    def forward(self, x: Tensor) -> Tensor:
        if not -x.ndim <= self.dim < x.ndim:
            raise IndexError(f"Unflatten: dim {self.dim} is out of range for a tensor of {x.ndim} dimensions")
        at = self.dim % x.ndim
        known = abs(math.prod(self.unflattened_size))
        if known == 0 or x.shape[at] % known or (-1 not in self.unflattened_size and x.shape[at] != known):
            raise ValueError(
                f"Unflatten: dimension {self.dim} of shape {x.shape} does not split into {self.unflattened_size}"
            )
        sizes = (x.shape[at] // known if n == -1 else n for n in self.unflattened_size)
        return x.reshape(*x.shape[:at], *sizes, *x.shape[at + 1 :])

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


class Identity(Module):
    """Returns its input; any arguments are accepted, so that it can stand in for any layer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x
