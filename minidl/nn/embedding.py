"""A table of learned vectors."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from minidl.nn import functional as F
from minidl.nn import init
from minidl.nn._checks import integer
from minidl.nn.module import Module
from minidl.tensor import Parameter, Tensor

__all__ = ["Embedding"]


class Embedding(Module):
    """Rows of a table by their numbers: integers (...) -> (..., embedding_dim).

    Args:
        num_embeddings, embedding_dim: shape of `weight`, drawn from N(0, 1).
        padding_idx: this row starts as zeros and gets no gradient; negative counts from the end.
        max_norm: rows that are looked up are shortened to this length first, in place.
        norm_type: the p of that length.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
    ) -> None:
        super().__init__()
        self.num_embeddings = integer("Embedding: num_embeddings", num_embeddings, 1)
        self.embedding_dim = integer("Embedding: embedding_dim", embedding_dim, 1)
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(
                f"Embedding: padding_idx must be a row of the {num_embeddings}, got {padding_idx}"
            )
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        self.max_norm, self.norm_type = max_norm, norm_type
        self.weight = Parameter(np.empty((num_embeddings, embedding_dim), dtype=np.float32))
        self.reset_parameters()

    @classmethod
    def from_pretrained(
        cls, embeddings: Tensor | np.ndarray, freeze: bool = True, padding_idx: int | None = None
    ) -> Self:
        """A layer around given rows (num_embeddings, embedding_dim), copied; frozen unless freeze=False."""
        array = np.asarray(embeddings.data if isinstance(embeddings, Tensor) else embeddings)
        if array.ndim != 2:
            raise ValueError(
                f"Embedding.from_pretrained: embeddings must be two-dimensional, got {array.shape}"
            )
        layer = cls(array.shape[0], array.shape[1], padding_idx)
        layer.weight = Parameter(array.copy(), requires_grad=not freeze)
        return layer

    def reset_parameters(self) -> None:
        """Draws the rows from N(0, 1), zeros for padding_idx."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            self.weight.data[self.padding_idx] = 0
            self.weight.mark_changed()

    def forward(self, x: Any) -> Tensor:
        return F.embedding(x, self.weight, self.padding_idx, self.max_norm, self.norm_type)

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        if self.padding_idx is not None:
            text += f", padding_idx={self.padding_idx}"
        if self.max_norm is not None:
            text += f", max_norm={self.max_norm}"
        return text if self.norm_type == 2 else text + f", norm_type={self.norm_type}"
