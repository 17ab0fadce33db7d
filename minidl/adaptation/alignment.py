"""What the methods that bring two domains together have in common."""

from __future__ import annotations

from dataclasses import dataclass

from minidl.nn import Module
from minidl.tensor import Tensor

__all__ = ["Alignment", "Both", "check_features"]


@dataclass(frozen=True)
class Both:
    """One batch of each domain after the network: n labelled source images, m target images.

    `source_features` (n, F) and `target_features` (m, F) are what enters the classifier; `source_logits` (n, C)
    and `target_logits` (m, C) are what leaves it.
    """

    source_features: Tensor
    target_features: Tensor
    source_logits: Tensor
    target_logits: Tensor


class Alignment(Module):
    """A term that is added to the cross-entropy of the source images.

    Subclasses define `forward(both, progress)`, the term with its weight, a scalar; `progress` runs from 0
    at the first step of the training to 1. Parameters of an alignment (a domain classifier's) are trained
    with those of the network.
    """

    def forward(self, both: Both, progress: float) -> Tensor:
        """The term for one batch of each domain."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward")


def check_features(op: str, source: Tensor, target: Tensor) -> None:
    """Raise ValueError unless both are (rows, F) with one F and at least 2 rows each."""
    if source.ndim != 2 or target.ndim != 2 or source.shape[1] != target.shape[1]:
        raise ValueError(
            f"{op}: source and target must be (n, F) and (m, F), got shapes {source.shape} and {target.shape}"
        )
    if min(source.shape[0], target.shape[0]) < 2:
        raise ValueError(
            f"{op}: needs at least 2 rows of each domain, got {source.shape[0]} and {target.shape[0]}"
        )
