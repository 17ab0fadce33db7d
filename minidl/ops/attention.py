"""Scaled dot-product attention (Vaswani et al. 2017), out of matrix products and a softmax."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.kernels.capturing import perhaps
from minidl.ops._common import expect_floating, expect_same_dtype
from minidl.ops.dropout import dropout
from minidl.ops.elementwise import where
from minidl.ops.linear import matmul
from minidl.ops.movement import expand, reshape, transpose
from minidl.ops.promotion import alike, beside, fill, mixed
from minidl.ops.reduce import softmax
from minidl.tensor import Tensor

__all__ = ["attention_weights", "scaled_dot_product_attention"]


def attention_weights(query: Tensor, key: Tensor, mask: Any, scale: float, op: str) -> Tensor:
    """softmax(scale * query key^T [+ mask]) over the keys: (..., L, E) x (..., S, E) -> (..., L, S).

    ``mask`` broadcasts to the result: booleans say which keys a query sees, floats are added. A query that
    sees no key gets zeros, not NaN.
    """
    scores = matmul(query * scale, transpose(key, -1, -2))
    if mask is None:
        return softmax(scores, -1)
    array = beside(mask, scores)
    if array.dtype not in (np.bool_, scores.dtype) and not mixed(array.dtype, scores.dtype):
        raise TypeError(f"{op}: attn_mask expects dtype bool or {scores.dtype}, got {array.dtype}")
    try:
        np.broadcast_shapes(array.shape, scores.shape)
    except ValueError:
        raise ValueError(
            f"{op}: attn_mask of shape {array.shape} does not broadcast to {scores.shape}"
        ) from None
    if array.dtype == np.bool_:
        seen = array
        scores = where(seen, scores, fill(scores, -np.inf))
    else:
        seen = array != -np.inf
        scores = scores + (mask if isinstance(mask, Tensor) else Tensor._wrap(array))
    blind = ~seen.any(-1, keepdims=True)
    if not perhaps(blind):
        return softmax(scores, -1)
    zero = fill(scores, 0)
    return where(blind, zero, softmax(where(blind, zero, scores), -1))


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Weighted means of values, as ``torch.nn.functional.scaled_dot_product_attention``.

    Args:
        query: (..., heads, L, E).
        key: (..., heads, S, E); value: (..., heads, S, V).
        attn_mask: broadcasts to (..., heads, L, S): booleans (True: the query sees the key) or floats that
            are added to the scores.
        dropout_p: probability of dropping a weight; applied always, so pass 0 in evaluation.
        is_causal: query i sees the keys up to i (instead of ``attn_mask``).
        scale: of the scores; default 1 / sqrt(E).
        enable_gqa: key and value may have fewer heads, each shared by a group of query heads.

    Returns:
        (..., heads, L, V); zeros for a query that sees no key.
    """
    op = "scaled_dot_product_attention"
    expect_floating(op, "query", query)
    key, value = alike(query, key), alike(query, value)
    expect_same_dtype(op, query, key=key, value=value)
    for name, t in (("query", query), ("key", key), ("value", value)):
        if t.ndim < 2:
            raise ValueError(f"{op}: {name} expects at least 2 dimensions (..., L, E), got shape {t.shape}")
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise ValueError(
            f"{op}: query {query.shape}, key {key.shape} and value {value.shape} do not fit together: "
            "expected (..., L, E), (..., S, E) and (..., S, V)"
        )
    if enable_gqa:
        key, value = (_shared_heads(op, query, t) for t in (key, value))
    if is_causal:
        if attn_mask is not None:
            raise ValueError(f"{op}: attn_mask and is_causal exclude each other")
        attn_mask = np.tri(query.shape[-2], key.shape[-2], dtype=bool)
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    weights = attention_weights(query, key, attn_mask, factor, op)
    return matmul(dropout(weights, dropout_p, True), value)


def _shared_heads(op: str, query: Tensor, t: Tensor) -> Tensor:
    """(..., G, S, E) -> (..., heads, S, E), each of the G heads repeated for its group of query heads."""
    if t.ndim < 3 or query.ndim < 3 or query.shape[-3] % t.shape[-3]:
        raise ValueError(
            f"{op}: enable_gqa expects the heads of key and value to divide those of query, got shapes "
            f"{t.shape} and {query.shape}"
        )
    times = query.shape[-3] // t.shape[-3]
    *lead, heads, s, e = t.shape
    wide = expand(reshape(t, (*lead, heads, 1, s, e)), (*lead, heads, times, s, e))
    return reshape(wide, (*lead, heads * times, s, e))
