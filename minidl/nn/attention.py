"""Multi-head attention (Vaswani et al. 2017)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.nn import functional as F
from minidl.nn import init
from minidl.nn._checks import integer, probability
from minidl.nn.linear import Linear
from minidl.nn.module import Module
from minidl.ops import cat, expand
from minidl.ops.attention import attention_weights
from minidl.ops.promotion import beside, mixed
from minidl.tensor import Parameter, Tensor

__all__ = ["MultiheadAttention"]


def _parameter(*shape: int) -> Parameter:
    return Parameter(np.empty(shape, dtype=np.float32))


class MultiheadAttention(Module):
    """Attention in num_heads subspaces of the embedding, with PyTorch's parameter names.

    Args:
        embed_dim: of query and output, divisible by num_heads.
        num_heads: each of embed_dim / num_heads channels.
        dropout: probability of dropping an attention weight in training mode.
        bias: of the projections.
        add_bias_kv: append a learned key and value (`bias_k`, `bias_v`).
        add_zero_attn: append a key and value of zeros.
        kdim, vdim: channels of key and value; default embed_dim.
        batch_first: sequences are (N, L, E) instead of (L, N, E).

    `in_proj_weight` (3 * embed_dim, embed_dim) projects query, key and value; with other kdim or vdim there
    are `q_proj_weight`, `k_proj_weight` and `v_proj_weight` instead.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        self.embed_dim = integer("MultiheadAttention: embed_dim", embed_dim, 1)
        self.num_heads = integer("MultiheadAttention: num_heads", num_heads, 1)
        if embed_dim % num_heads:
            raise ValueError(
                f"MultiheadAttention: embed_dim {embed_dim} is not divisible by num_heads {num_heads}"
            )
        self.head_dim = embed_dim // num_heads
        self.kdim = embed_dim if kdim is None else integer("MultiheadAttention: kdim", kdim, 1)
        self.vdim = embed_dim if vdim is None else integer("MultiheadAttention: vdim", vdim, 1)
        self.dropout = probability("MultiheadAttention: dropout", dropout)
        self.batch_first, self.add_zero_attn = bool(batch_first), bool(add_zero_attn)
        one_weight = self.kdim == self.vdim == embed_dim
        self.in_proj_weight = _parameter(3 * embed_dim, embed_dim) if one_weight else None
        self.q_proj_weight = None if one_weight else _parameter(embed_dim, embed_dim)
        self.k_proj_weight = None if one_weight else _parameter(embed_dim, self.kdim)
        self.v_proj_weight = None if one_weight else _parameter(embed_dim, self.vdim)
        self.in_proj_bias = _parameter(3 * embed_dim) if bias else None
        self.bias_k = _parameter(1, 1, embed_dim) if add_bias_kv else None
        self.bias_v = _parameter(1, 1, embed_dim) if add_bias_kv else None
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all parameters anew: Xavier uniform projections, zero biases."""
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        self.out_proj.reset_parameters()
        if self.in_proj_bias is not None and self.out_proj.bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)
        if self.bias_k is not None and self.bias_v is not None:
            init.xavier_normal_(self.bias_k)
            init.xavier_normal_(self.bias_v)

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Query, key and value in the embedding."""
        e = self.embed_dim
        bias: Any = self.in_proj_bias
        biases = [None] * 3 if bias is None else [bias[i * e : (i + 1) * e] for i in range(3)]
        packed: Any = self.in_proj_weight
        if packed is not None and query is key and key is value:
            together = F.linear(query, packed, bias)  # one product instead of three
            return [together[..., i * e : (i + 1) * e] for i in range(3)]
        weights: list[Any] = (
            [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
            if packed is None
            else [packed[i * e : (i + 1) * e] for i in range(3)]
        )
        inputs = (query, key, value)
        return [F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]

    def _heads(self, x: Tensor) -> Tensor:
        """(N, L, E) -> (N, heads, L, E / heads)."""
        return x.reshape(x.shape[0], x.shape[1], self.num_heads, self.head_dim).permute(0, 2, 1, 3)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Any = None,
        need_weights: bool = True,
        attn_mask: Any = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from query to key and value.

        Args:
            query: (L, N, E), key (S, N, kdim), value (S, N, vdim); (N, L, E) ... with batch_first; without N
                for one sequence.
            key_padding_mask: (N, S) or (S,): True for a key that nobody sees, or floats added to the scores.
            need_weights: also return the attention weights.
            attn_mask: (L, S) or (N * heads, L, S): True for a pair that does *not* see each other (the
                opposite of scaled_dot_product_attention's), or floats added to the scores.
            average_attn_weights: return weights averaged over the heads.
            is_causal: query i sees the keys up to i.

        Returns:
            (output, weights): output in the layout of query; weights (N, L, S), (N, heads, L, S) unless
            averaged, or None.
        """
        q, k, v = self._laid_out(query, key, value)
        n, length, source = q.shape[0], q.shape[1], k.shape[1]
        mask = self._mask(attn_mask, key_padding_mask, is_causal, q, source)
        q, k, v = self._project(q, k, v)
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (
                cat([t, expand(b, (n, 1, self.embed_dim))], 1)
                for t, b in ((k, self.bias_k), (v, self.bias_v))
            )
        q, k, v = (self._heads(t) for t in (q, k, v))
        if self.add_zero_attn:
            zero = Tensor._wrap(q.xp.zeros((n, self.num_heads, 1, self.head_dim), q.dtype))
            k, v = cat([k, zero], 2), cat([v, zero], 2)
        weights = attention_weights(q, k, mask, 1 / math.sqrt(self.head_dim), "MultiheadAttention")
        weights = F.dropout(weights, self.dropout, self.training)
        joined = (weights @ v).permute(0, 2, 1, 3).reshape(n, length, self.embed_dim)
        output = self.out_proj(joined)
        single = query.ndim == 2
        if single:
            output = output.reshape(length, self.embed_dim)
        elif not self.batch_first:
            output = output.permute(1, 0, 2)
        if not need_weights:
            return output, None
        shown = weights.mean(1) if average_attn_weights else weights
        return output, shown.reshape(*shown.shape[1:]) if single else shown

    def _laid_out(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The arguments as (N, L, E), checked; one that is given twice stays the same."""
        if query.ndim not in (2, 3) or key.ndim != query.ndim or value.ndim != query.ndim:
            raise ValueError(
                "MultiheadAttention: query, key and value must be three-dimensional (or two-dimensional for "
                f"one sequence), got shapes {query.shape}, {key.shape} and {value.shape}"
            )
        given = {id(t): t for t in (query, key, value)}
        laid = {i: self._batch_of_sequences(t) for i, t in given.items()}
        q, k, v = laid[id(query)], laid[id(key)], laid[id(value)]
        if q.shape[2] != self.embed_dim or k.shape[2] != self.kdim or v.shape[2] != self.vdim:
            raise ValueError(
                f"MultiheadAttention: query, key and value must have {self.embed_dim}, {self.kdim} and "
                f"{self.vdim} channels, got shapes {query.shape}, {key.shape} and {value.shape}"
            )
        if k.shape[:2] != v.shape[:2] or q.shape[0] != k.shape[0]:
            raise ValueError(
                f"MultiheadAttention: batch and lengths do not fit together: query {query.shape}, key "
                f"{key.shape}, value {value.shape}"
            )
        return q, k, v

    def _batch_of_sequences(self, x: Tensor) -> Tensor:
        """(N, L, E) from the layout of the arguments."""
        if x.ndim == 2:
            return x.unsqueeze(0)
        return x if self.batch_first else x.permute(1, 0, 2)

    def _mask(self, attn_mask: Any, key_padding_mask: Any, is_causal: bool, q: Tensor, source: int) -> Any:
        """Both masks as floats to add to the scores (N, heads, L, S) of queries q (N, L, E), columns for appended
        keys included.
        """
        parts: list[Tensor] = []
        n, length, _ = q.shape
        if is_causal and attn_mask is None:
            attn_mask = ~np.tri(length, source, dtype=bool)
        shapes = {
            "attn_mask": ((length, source), (n * self.num_heads, length, source)),
            "key_padding_mask": ((n, source), (source,)),
        }
        views = {
            "attn_mask": ((1, 1, length, source), (n, self.num_heads, length, source)),
            "key_padding_mask": ((n, 1, 1, source), (1, 1, 1, source)),
        }
        for name, mask in (("attn_mask", attn_mask), ("key_padding_mask", key_padding_mask)):
            if mask is None:
                continue
            tensor = mask if isinstance(mask, Tensor) else Tensor._wrap(beside(mask, q))
            if tensor.shape not in shapes[name]:
                raise ValueError(
                    f"MultiheadAttention: {name} must have shape {shapes[name][0]} or {shapes[name][1]}, got "
                    f"{tensor.shape}"
                )
            if tensor.dtype == np.bool_:
                tensor = Tensor._wrap(np.where(tensor.data, -np.inf, 0.0).astype(q.dtype))
            elif tensor.dtype != q.dtype and not mixed(tensor.dtype, q.dtype):
                raise TypeError(f"MultiheadAttention: {name} must be bool or {q.dtype}, got {tensor.dtype}")
            parts.append(tensor.reshape(*views[name][shapes[name].index(tensor.shape)]))
        if not parts:
            return None
        total = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        appended = (self.bias_k is not None) + self.add_zero_attn
        return F.pad(total, (0, appended)) if appended else total
