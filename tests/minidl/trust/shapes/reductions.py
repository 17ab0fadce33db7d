"""Sums, products, norms, extremes and order."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import ops
from tests.minidl.trust.shapes.draws import Case, Draw, strategy


def _dims(d: Draw, ndim: int) -> Any:
    """None, one dimension or several."""
    kind = d.pick("all", "one", "some") if ndim else "all"
    return None if kind == "all" else d.axis(ndim) if kind == "one" else d.axes(ndim)


@strategy("sum", "mean")
def sums(d: Draw, name: str) -> Case:
    shape = d.shape(low=0 if name == "sum" else 1)
    dim, keep = _dims(d, len(shape)), d.flag()
    return Case(
        lambda x: getattr(ops, name)(x, dim, keep),
        [d.normal(shape)],
        lambda x: getattr(np, name)(x, dim, keepdims=keep),
    )


@strategy("var", "std")
def variance(d: Draw, name: str) -> Case:
    shape = d.shape(1, low=2)
    dim, keep, correction = _dims(d, len(shape)), d.flag(), d.pick(0, 1)
    return Case(
        lambda x: getattr(ops, name)(x, dim, correction, keep),
        [d.normal(shape)],
        lambda x: getattr(np, name)(x, dim, keepdims=keep, ddof=correction),
    )


@strategy("prod")
def prod(d: Draw, name: str) -> Case:
    shape = d.shape()
    dim, keep = _dims(d, len(shape)), d.flag()
    x = d.normal(shape)
    if d.flag():
        x[d.rng.random(shape) < 0.2] = 0.0
    return Case(lambda x: ops.prod(x, dim, keep), [x], lambda x: np.prod(x, dim, keepdims=keep))


@strategy("cumsum", "cumprod")
def cumulative(d: Draw, name: str) -> Case:
    shape = d.shape(1)
    dim = d.axis(len(shape))
    x = d.normal(shape)
    if name == "cumprod" and d.flag():
        x[d.rng.random(shape) < 0.2] = 0.0
    return Case(lambda x: getattr(ops, name)(x, dim), [x], lambda x: getattr(np, name)(x, dim))


@strategy("norm")
def norm(d: Draw, name: str) -> Case:
    shape = d.shape(low=1)
    dim, keep = _dims(d, len(shape)), d.flag()
    p = d.pick(2.0, 1.0, 3.0, 1.5, float("inf"), -float("inf"))
    axis = tuple(range(len(shape))) if dim is None else dim if isinstance(dim, tuple) else (dim,)

    def exact(x: np.ndarray) -> np.ndarray:
        size = np.abs(x)
        if np.isinf(p):
            return (np.max if p > 0 else np.min)(size, axis, keepdims=keep)
        return (size**p).sum(axis, keepdims=keep) ** (1 / p)

    x = np.sign(d.normal(shape)) * (np.abs(d.distinct(shape)) + 0.3)
    return Case(lambda x: ops.norm(x, p, dim, keep), [_unlike(d, x)], exact)


def _unlike(d: Draw, x: np.ndarray) -> np.ndarray:
    """The same signs, sizes that are nowhere close to each other."""
    sizes = d.rng.permutation(np.arange(x.size) * 0.1 + 0.5).reshape(x.shape)
    return np.asarray(np.sign(x) * sizes)


@strategy("logsumexp")
def logsumexp(d: Draw, name: str) -> Case:
    shape = d.shape(low=1)
    dim, keep = _dims(d, len(shape)), d.flag()
    return Case(
        lambda x: ops.logsumexp(x, dim, keep),
        [d.normal(shape)],
        lambda x: np.log(np.exp(x).sum(dim, keepdims=keep)),
    )


@strategy("amax", "amin")
def extremes(d: Draw, name: str) -> Case:
    shape = d.shape(low=1)
    dim, keep = _dims(d, len(shape)), d.flag()
    return Case(
        lambda x: getattr(ops, name)(x, dim, keep),
        [d.distinct(shape)],
        lambda x: getattr(np, name)(x, dim, keepdims=keep),
    )


@strategy("max", "min")
def extreme_values(d: Draw, name: str) -> Case:
    shape = d.shape(low=1)
    exact = getattr(np, f"a{name}")
    if not shape or d.flag():
        return Case(getattr(ops, name), [d.distinct(shape)], lambda x: exact(x))
    dim, keep = d.axis(len(shape)), d.flag()
    return Case(
        lambda x: getattr(ops, name)(x, dim, keep).values,
        [d.distinct(shape)],
        lambda x: exact(x, dim, keepdims=keep),
    )


@strategy("sort")
def sort(d: Draw, name: str) -> Case:
    shape = d.shape(1)
    dim, down = d.axis(len(shape)), d.flag()
    return Case(
        lambda x: ops.sort(x, dim, down).values,
        [d.distinct(shape)],
        lambda x: np.flip(np.sort(x, dim), dim) if down else np.sort(x, dim),
    )


@strategy("topk")
def topk(d: Draw, name: str) -> Case:
    shape = d.shape(1)
    dim, largest = d.axis(len(shape)), d.flag()
    k = d.int(0, shape[dim])

    def exact(x: np.ndarray) -> np.ndarray:
        ordered = np.flip(np.sort(x, dim), dim) if largest else np.sort(x, dim)
        return ordered.take(range(k), dim)

    return Case(lambda x: ops.topk(x, k, dim, largest).values, [d.distinct(shape)], exact)


@strategy("kthvalue", "median")
def kthvalue(d: Draw, name: str) -> Case:
    shape = d.shape(1, low=1)
    dim, keep = d.axis(len(shape)), d.flag()
    n = shape[dim]
    k = d.int(1, n) if name == "kthvalue" else (n - 1) // 2 + 1

    def run(x: Any) -> Any:
        return (ops.kthvalue(x, k, dim, keep) if name == "kthvalue" else ops.median(x, dim, keep)).values

    def exact(x: np.ndarray) -> np.ndarray:
        found = np.sort(x, dim).take([k - 1], dim)
        return found if keep else found.squeeze(dim)

    return Case(run, [d.distinct(shape)], exact)


@strategy("softmax", "log_softmax", "softmin")
def softmax(d: Draw, name: str) -> Case:
    shape = d.shape(1)
    dim = d.axis(len(shape))

    def exact(x: np.ndarray) -> np.ndarray:
        e = np.exp(-x if name == "softmin" else x)
        y = e / e.sum(dim, keepdims=True)
        return np.log(y) if name == "log_softmax" else y

    return Case(lambda x: getattr(ops, name)(x, dim), [d.normal(shape)], exact)


@strategy("sum_to")
def sum_to(d: Draw, name: str) -> Case:
    (small,) = d.broadcast(1)
    wide = (*d.shape(0, 2), *[d.int(1, 3) if n == 1 else n for n in small])
    return Case(
        lambda x: ops.sum_to(x, small),
        [d.normal(wide)],
        lambda x: x.sum(
            (
                *range(len(wide) - len(small)),
                *[i + len(wide) - len(small) for i, n in enumerate(small) if n == 1],
            )
        ).reshape(small),
    )
