"""Operators that move, pick and put elements."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import minidl.nn.functional as F
from minidl import ops
from tests.minidl.trust.shapes.draws import Case, Draw, Shape, strategy


def _parts(make: Any) -> Any:
    """Several outputs, weighted differently, in one."""

    def run(*xs: Any) -> Any:
        parts = make(*xs)
        if isinstance(xs[0], np.ndarray):
            return np.concatenate([p.reshape(-1) * (i + 1) for i, p in enumerate(parts)])
        return ops.cat([p.reshape(-1) * (i + 1) for i, p in enumerate(parts)])

    return run


@strategy("reshape", "flatten", "unflatten")
def reshape(d: Draw, name: str) -> Case:
    shape = d.shape(1, 4)
    x = d.normal(shape)
    if name == "flatten":
        start = d.int(0, len(shape) - 1)
        end = d.int(start, len(shape) - 1)
        new = (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])
        return Case(lambda x: ops.flatten(x, start, end) * 1, [x], lambda x: x.reshape(new))
    if name == "unflatten":
        dim = d.axis(len(shape))
        factors = [f for f in range(1, shape[dim] + 1) if shape[dim] % f == 0] or [1]
        f = d.pick(*factors)
        at = dim % len(shape)
        new = (*shape[:at], f, shape[dim] // f, *shape[at + 1 :])
        return Case(lambda x: ops.unflatten(x, dim, (f, shape[dim] // f)) * 1, [x], lambda x: x.reshape(new))
    order = d.permutation(len(shape))
    new = tuple(shape[i] for i in order)
    if x.size and d.flag():
        at = d.int(0, len(new) - 1)
        new = (*new[:at], -1, *new[at + 1 :])
    return Case(lambda x: ops.reshape(x, new) * 1, [x], lambda x: x.reshape(new))


@strategy("permute", "transpose", "swapaxes", "movedim", "flip", "roll")
def reorder(d: Draw, name: str) -> Case:
    shape = d.shape(1, 4)
    n = len(shape)
    a, b = d.axis(n), d.axis(n)
    dims, shifts = d.axes(n), [d.int(-3, 3) for _ in range(n)]
    order = d.permutation(n)
    targets = tuple(d.permutation(n))[: len(dims)]
    calls: dict[str, tuple[Any, Any]] = {
        "permute": (lambda x: ops.permute(x, order), lambda x: x.transpose(order)),
        "transpose": (lambda x: ops.transpose(x, a, b), lambda x: x.swapaxes(a, b)),
        "swapaxes": (lambda x: ops.swapaxes(x, a, b), lambda x: x.swapaxes(a, b)),
        "movedim": (lambda x: ops.movedim(x, dims, targets), lambda x: np.moveaxis(x, dims, targets)),
        "flip": (lambda x: ops.flip(x, dims), lambda x: np.flip(x, dims)),
        "roll": (
            lambda x: ops.roll(x, tuple(shifts[: len(dims)]), dims),
            lambda x: np.roll(x, shifts[: len(dims)], dims),
        ),
    }
    ours, exact = calls[name]
    return Case(lambda x: ours(x) * 1, [d.normal(shape)], exact)


@strategy("squeeze", "unsqueeze")
def squeeze(d: Draw, name: str) -> Case:
    shape = tuple(1 if d.flag() else n for n in d.shape(1, 4))
    if name == "unsqueeze":
        dim = d.int(-len(shape) - 1, len(shape))
        return Case(lambda x: ops.unsqueeze(x, dim) * 1, [d.normal(shape)], lambda x: np.expand_dims(x, dim))
    dims = d.axes(len(shape)) if d.flag() else None
    drop = range(len(shape)) if dims is None else [a % len(shape) for a in dims]
    new = tuple(n for i, n in enumerate(shape) if not (n == 1 and i in drop))
    return Case(lambda x: ops.squeeze(x, dims) * 1, [d.normal(shape)], lambda x: x.reshape(new))


@strategy("expand", "broadcast_to", "broadcast_tensors")
def expand(d: Draw, name: str) -> Case:
    (small,) = d.broadcast(1)
    wide = (*d.shape(0, 2), *[d.int(0, 3) if n == 1 else n for n in small])
    if name == "broadcast_tensors":
        a, b = d.broadcast(2)
        return Case(
            lambda a, b: ops.mul(*ops.broadcast_tensors(a, b)), [d.normal(a), d.normal(b)], np.multiply
        )
    return Case(
        lambda x: getattr(ops, name)(x, wide) * 1,
        [d.normal(small)],
        lambda x: np.broadcast_to(x, wide),
    )


@strategy("repeat", "tile", "repeat_interleave")
def repeat(d: Draw, name: str) -> Case:
    shape = d.shape(1, 3)
    if name == "repeat_interleave":
        dim = d.axis(len(shape))
        counts = d.ints((shape[dim],), 4) if d.flag() else d.int(0, 3)
        return Case(
            lambda x: ops.repeat_interleave(x, counts, dim),
            [d.normal(shape)],
            lambda x: np.repeat(x, counts, dim),
        )
    extra = d.int(0, 1)
    times = tuple(d.int(0, 2) for _ in range(len(shape) + extra))
    return Case(lambda x: getattr(ops, name)(x, times), [d.normal(shape)], lambda x: np.tile(x, times))


@strategy("narrow", "select", "split", "chunk", "unbind")
def slices(d: Draw, name: str) -> Case:
    shape = d.shape(1, 3, low=1)
    dim = d.axis(len(shape))
    n = shape[dim]
    x = d.normal(shape)
    start = d.int(0, n)
    length, size, index = d.int(0, n - start), d.int(1, n), d.int(-n, n - 1)
    if name == "narrow":
        return Case(
            lambda x: ops.narrow(x, dim, start, length) * 1,
            [x],
            lambda x: x.take(range(start, start + length), dim),
        )
    if name == "select":
        return Case(lambda x: ops.select(x, dim, index) * 1, [x], lambda x: x.take(index % n, dim))
    cuts = list(range(size, n, size))
    if name == "split":
        return Case(_parts(lambda x: ops.split(x, size, dim)), [x], _parts(lambda x: np.split(x, cuts, dim)))
    if name == "chunk":
        width = -(-n // size)
        return Case(
            _parts(lambda x: ops.chunk(x, size, dim)),
            [x],
            _parts(lambda x: np.split(x, list(range(width, n, width)), dim)),
        )
    return Case(_parts(lambda x: ops.unbind(x, dim)), [x], _parts(lambda x: list(np.moveaxis(x, dim, 0))))


@strategy("diagonal", "trace", "tril", "triu")
def diagonals(d: Draw, name: str) -> Case:
    shape = d.shape(2, 2) if name == "trace" else d.shape(2, 4)
    k = d.int(-3, 3)
    x = d.normal(shape)
    if name == "trace":
        return Case(ops.trace, [x], np.trace)
    if name == "diagonal":
        a, b = d.permutation(len(shape))[:2]
        return Case(lambda x: ops.diagonal(x, k, a, b) * 1, [x], lambda x: np.diagonal(x, k, a, b))
    return Case(lambda x: getattr(ops, name)(x, k), [x], lambda x: getattr(np, name)(x, k))


@strategy("cat", "stack", "meshgrid")
def joins(d: Draw, name: str) -> Case:
    shape = d.shape(1, 3)
    dim = d.axis(len(shape))
    count = d.int(1, 3)
    if name == "meshgrid":
        indexing = d.pick("ij", "xy")
        vectors = [d.normal((d.int(0, 3),)) for _ in range(d.int(2, 3))]
        return Case(
            _parts(lambda *xs: ops.meshgrid(*xs, indexing=indexing)),
            vectors,
            _parts(lambda *xs: np.meshgrid(*xs, indexing=indexing)),
        )
    if name == "stack":
        return Case(
            lambda *xs: ops.stack(list(xs), dim),
            [d.normal(shape) for _ in range(count)],
            lambda *xs: np.stack(xs, dim),
        )
    shapes = [
        [d.int(0, 3) if i == dim % len(shape) else n for i, n in enumerate(shape)] for _ in range(count)
    ]
    again = d.flag()  # one tensor twice
    return Case(
        lambda *xs: ops.cat([*xs, xs[0]] if again else list(xs), dim),
        [d.normal(s) for s in shapes],
        lambda *xs: np.concatenate([*xs, xs[0]] if again else xs, dim),
    )


@strategy("pad")
def pad(d: Draw, name: str) -> Case:
    shape = d.shape(2, 4, low=1)
    value = d.pick(0.0, 1.5)
    if d.flag():
        count = d.int(0, len(shape))
        widths = [d.int(0, 2) for _ in range(2 * count)]
        pairs = [(0, 0)] * (len(shape) - count) + list(zip(widths[::2], widths[1::2], strict=True))[::-1]
        return Case(
            lambda x: ops.pad(x, widths, value),
            [d.normal(shape)],
            lambda x: np.pad(x, pairs, constant_values=value),
        )
    shape = d.shape(4, 4, low=2)
    mode = d.pick("constant", "reflect", "replicate", "circular")
    low = -1 if mode == "constant" else 0
    borders = [d.int(low, 1) for _ in range(4)]
    around = [(0, 0), (0, 0), tuple(borders[2:]), tuple(borders[:2])]
    crop = tuple(slice(max(0, -a), n - max(0, -b)) for n, (a, b) in zip(shape, around, strict=True))
    grown = [(max(a, 0), max(b, 0)) for a, b in around]
    kind: Any = {"replicate": "edge", "circular": "wrap"}.get(mode, mode)
    return Case(
        lambda x: F.pad(x, borders, mode),
        [d.normal(shape)],
        lambda x: np.pad(x[crop], grown, kind),
    )


def _index(d: Draw, shape: Shape) -> Any:
    """Basic, advanced and mixed indices of a tensor without sizes of 0."""
    parts: list[Any] = []
    arrays: Shape = tuple(d.int(1, 3) for _ in range(d.int(1, 2)))
    advanced = d.flag()
    for n in shape[: d.int(1, len(shape))]:
        kind = d.pick("slice", "int", "new", "array") if not advanced else d.pick("slice", "array")
        if kind == "slice":
            start, stop = d.int(-n, n), d.int(-n, n)
            parts.append(slice(start, stop, d.pick(None, 2, -1)))
        elif kind == "int":
            parts.append(d.int(-n, n - 1))
        elif kind == "new":
            parts += [None, slice(None)]
        else:
            parts.append(d.ints(arrays, n) - (n if d.flag() else 0) if advanced else d.int(0, n - 1))
    if d.flag():
        parts.append(Ellipsis)
    return tuple(parts)


@strategy("getitem")
def getitem(d: Draw, name: str) -> Case:
    shape = d.shape(1, 4, low=1)
    index = d.mask(shape[: d.int(1, len(shape))]) if d.flag() and d.flag() else _index(d, shape)
    return Case(lambda x: ops.getitem(x, index) * 1, [d.normal(shape)], lambda x: x[index])


@strategy("assign", "setitem")
def setitem(d: Draw, name: str) -> Case:
    shape = d.shape(1, 4, low=1)
    index = d.mask(shape[: d.int(1, len(shape))]) if d.flag() and d.flag() else _index(d, shape)
    target = np.zeros(shape)[index].shape
    value = tuple(1 if d.flag() else n for n in target[d.int(0, len(target)) :])

    def run(x: Any, v: Any) -> Any:
        if name == "assign":
            return ops.assign(x, index, v) * x
        y = x * 1
        y[index] = v
        return y * x

    def exact(x: np.ndarray, v: np.ndarray) -> np.ndarray:
        y = x.copy()
        y[index] = v
        return y * x

    return Case(run, [d.normal(shape), d.normal(value)], exact)


@strategy("gather", "take_along_dim", "scatter_add", "scatter")
def along(d: Draw, name: str) -> Case:
    shape = d.shape(1, 3, low=1)
    dim = d.axis(len(shape))
    at = dim % len(shape)
    sizes = tuple(d.int(0, 5) if i == at else d.int(0, n) for i, n in enumerate(shape))
    x = d.normal(shape)
    if name == "take_along_dim":
        wide = tuple(sizes[i] if i == at else d.pick(1, n) for i, n in enumerate(shape))
        index = d.ints(wide, shape[at])
        return Case(
            lambda x: ops.take_along_dim(x, index, dim), [x], lambda x: np.take_along_axis(x, index, dim)
        )
    index = d.ints(sizes, shape[at])
    inner = tuple(slice(n) if i != at else slice(None) for i, n in enumerate(sizes))
    if name == "gather":
        return Case(
            lambda x: ops.gather(x, dim, index), [x], lambda x: np.take_along_axis(x[inner], index, dim)
        )
    source = d.normal([n + d.int(0, 1) for n in sizes])

    def exact(x: np.ndarray, s: np.ndarray) -> np.ndarray:
        y = x.copy()
        for place in np.ndindex(*sizes):
            there = tuple(index[place] if i == at else p for i, p in enumerate(place))
            y[there] = s[place] + (y[there] if name == "scatter_add" else 0)
        return y

    return Case(lambda x, s: getattr(ops, name)(x, dim, index, s), [x, source], exact)


@strategy("index_select")
def index_select(d: Draw, name: str) -> Case:
    shape = d.shape(1, 3, low=1)
    dim = d.axis(len(shape))
    index = d.ints((d.int(0, 5),), shape[dim])
    return Case(lambda x: ops.index_select(x, dim, index), [d.normal(shape)], lambda x: x.take(index, dim))


@strategy("masked_select")
def masked_select(d: Draw, name: str) -> Case:
    a, b = d.broadcast(2)
    mask = d.mask(b)
    return Case(
        lambda x: ops.masked_select(x, mask),
        [d.normal(a)],
        lambda x: np.broadcast_to(x, np.broadcast_shapes(a, b))[
            np.broadcast_to(mask, np.broadcast_shapes(a, b))
        ],
    )


@strategy("embedding")
def embedding(d: Draw, name: str) -> Case:
    rows, width = d.int(1, 5), d.int(1, 3)
    index = d.ints(d.shape(0, 3), rows)
    return Case(lambda w: F.embedding(index, w), [d.normal((rows, width))], lambda w: w[index])


@strategy("pixel_shuffle", "pixel_unshuffle")
def pixel_shuffle(d: Draw, name: str) -> Case:
    lead, r = d.shape(0, 2), d.int(1, 3)
    c, h, w = d.int(1, 2), d.int(1, 3), d.int(1, 3)
    if name == "pixel_shuffle":
        n = len(lead)

        def exact(x: np.ndarray) -> np.ndarray:
            order = (*range(n), n, n + 3, n + 1, n + 4, n + 2)
            return x.reshape(*lead, c, r, r, h, w).transpose(order).reshape(*lead, c, h * r, w * r)

        return Case(lambda x: F.pixel_shuffle(x, r) * 1, [d.normal((*lead, c * r * r, h, w))], exact)
    return Case(lambda x: F.pixel_unshuffle(x, r) * 1, [d.normal((*lead, c, h * r, w * r))])
