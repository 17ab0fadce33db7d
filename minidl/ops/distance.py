"""Lengths, distances and angles of vectors along a dimension."""

from __future__ import annotations

from minidl.autograd.function import expect_broadcast
from minidl.ops._common import axis, expect_floating
from minidl.ops.elementwise import clamp, maximum, sqrt
from minidl.ops.reduce import norm, sum
from minidl.tensor import Tensor

__all__ = ["cosine_similarity", "normalize", "pairwise_distance"]


def _norm(op: str, x: Tensor, p: float, dim: int, keepdim: bool) -> Tensor:
    """(sum of |x|**p)**(1/p) along ``dim``; a vector of zeros has gradient 0."""
    if not p > 0:
        raise ValueError(f"{op}: p expects a number > 0, got {p}")
    axis(op, dim, x.ndim)
    return norm(x, p, dim, keepdim)


def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """The p-norm of x1 - x2 + eps along the last dimension, as ``torch.nn.functional.pairwise_distance``:
    (N, D) x (N, D) -> (N,); the two broadcast."""
    expect_floating("pairwise_distance", "x1", x1)
    expect_broadcast("pairwise_distance", x1.shape, x2.shape)
    return _norm("pairwise_distance", x1 - x2 + eps, p, -1, keepdim)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x1 . x2 / (max(|x1|, eps) * max(|x2|, eps)) along ``dim``, as
    ``torch.nn.functional.cosine_similarity``; the two broadcast."""
    expect_floating("cosine_similarity", "x1", x1)
    expect_broadcast("cosine_similarity", x1.shape, x2.shape)
    axis("cosine_similarity", dim, min(x1.ndim, x2.ndim))
    lengths = [sqrt(clamp(sum(x * x, dim, keepdim=True), min=eps * eps)) for x in (x1, x2)]
    return sum((x1 / lengths[0]) * (x2 / lengths[1]), dim)


def normalize(x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x / max(|x|, eps) along ``dim`` with the p-norm, as ``torch.nn.functional.normalize``."""
    expect_floating("normalize", "x", x)
    return x / maximum(_norm("normalize", x, p, dim, True), eps)
