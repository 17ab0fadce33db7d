"""Operators that move, pick and put elements, and those that write in place."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.testing.cases.entry import Entry, ints

A, CUBE = (3, 4), (2, 3, 4)
PLACES = np.array([[0, 2, 0], [3, 3, 1]])  # along dim 1 of a (3, 4): fewer rows, repeated columns
ROWS = np.array([2, 0, 2])
MASK = np.array([[True, False, False, True], [False, True, True, False], [True, True, False, True]])


def _method(name: str, *args: Any, **options: Any) -> Any:
    return lambda m, F, a: getattr(a, name)(*args, **options)


def _joined(name: str, *args: Any, **options: Any) -> Any:
    """Several outputs, weighted differently, in one."""

    def run(m: Any, F: Any, a: Any) -> Any:
        parts = getattr(a, name)(*args, **options)
        return m.cat([p.reshape(-1) * (i + 1) for i, p in enumerate(parts)], 0)

    return run


def _grids(indexing: str) -> Any:
    def run(m: Any, F: Any, a: Any, b: Any) -> Any:
        x, y = m.meshgrid(a, b, indexing=indexing)
        return x * 2 + y

    return run


def _in_place(m: Any, F: Any, a: Any, b: Any) -> Any:
    y = a * b
    y += a
    y *= b
    y -= 2
    y /= 3
    y.add_(b, alpha=0.5)
    return y * y


def _in_place_methods(m: Any, F: Any, a: Any, b: Any) -> Any:
    y = a * 1
    y.clamp_(-1, 1.2).mul_(b).neg_()
    z = y * b
    z.masked_fill_(ints(m, MASK), 0.5)
    w = (b * 1).relu_()
    return z + w


def _set_elements(m: Any, F: Any, a: Any, b: Any) -> Any:
    y = a * 2
    y[1:, ::2] = b[:2, :2]
    y[0] = 3.0
    y[ints(m, np.array([2, 1])), ints(m, np.array([3, 3]))] = b[0, 0]
    return y * y


def _copies(m: Any, F: Any, a: Any, b: Any) -> Any:
    y = m.zeros(3, 4, dtype=a.dtype)
    y.copy_(b)
    y += a
    z = a * 1
    z.fill_(b.sum())
    w = a * b
    w.zero_()
    return y * z + w


TABLE = [
    Entry("flip", _method("flip", (0, 2)), (CUBE,)),
    Entry("roll", _method("roll", (1, -1), (1, 2)), (CUBE,)),
    Entry("roll_flat", _method("roll", 5), (CUBE,)),
    Entry("repeat", _method("repeat", 2, 1, 3), (A,)),
    Entry("tile", _method("tile", (2,)), (A,)),
    Entry("repeat_interleave", _method("repeat_interleave", 2, 1), (A,)),
    Entry("repeat_interleave_counts", lambda m, F, a: a.repeat_interleave(ints(m, ROWS), 0), (A,)),
    Entry("movedim", _method("movedim", (0, 2), (2, 1)), (CUBE,)),
    Entry("swapaxes", _method("swapaxes", 0, -1), (CUBE,)),
    Entry("T_mT", lambda m, F, a: a.T @ a.mT.T.T, ((3, 3),)),
    Entry("contiguous", lambda m, F, a: a.transpose(0, 1).contiguous(), (A,)),
    Entry("unflatten", _method("unflatten", 1, (2, -1)), (A,)),
    Entry("squeeze_several", _method("squeeze", (0, 2)), ((1, 3, 1, 1),)),
    Entry("split", _joined("split", 2, 1), ((2, 5),)),
    Entry("split_sizes", _joined("split", [1, 3, 0], 1), (A,)),
    Entry("chunk", _joined("chunk", 3, 1), ((2, 5),)),
    Entry("unbind", _joined("unbind", 1), (CUBE,)),
    Entry("narrow", _method("narrow", 1, 1, 2), (A,)),
    Entry("select", _method("select", -1, 1), (CUBE,)),
    Entry("broadcast_to", _method("broadcast_to", (2, 3, 4)), ((3, 1),)),
    Entry(
        "broadcast_tensors",
        lambda m, F, a, b: m.broadcast_tensors(a, b)[0] * m.broadcast_tensors(a, b)[1],
        ((3, 1), (4,)),
    ),
    Entry("meshgrid", _grids("ij"), ((3,), (4,))),
    Entry("meshgrid_xy", _grids("xy"), ((3,), (4,))),
    Entry("diagonal", _method("diagonal", 1, 0, 2), ((3, 2, 4),)),
    Entry("trace", _method("trace"), (A,)),
    Entry("tril", _method("tril", -1), (CUBE,)),
    Entry("triu", _method("triu", 1), (CUBE,)),
    Entry("gather", lambda m, F, a: a.gather(1, ints(m, PLACES)), (A,)),
    Entry("take_along_dim", lambda m, F, a: m.take_along_dim(a, ints(m, PLACES[:1]), 1), (A,)),
    Entry("scatter_add", lambda m, F, a, b: a.scatter_add(1, ints(m, PLACES), b), (A, (2, 3))),
    Entry("scatter", lambda m, F, a, b: a.scatter(1, ints(m, PLACES[:, 1:] % 3), b), (A, (2, 2))),
    Entry("scatter_number", lambda m, F, a: a.scatter(1, ints(m, PLACES), 2.5), (A,)),
    Entry("index_select", lambda m, F, a: a.index_select(0, ints(m, ROWS)), (A,)),
    Entry("masked_fill", lambda m, F, a: a.masked_fill(ints(m, MASK), -1.5), (A,)),
    Entry("masked_select", lambda m, F, a: a.masked_select(ints(m, MASK[0])), (A,)),
    Entry("getitem_negative_step", lambda m, F, a: a.flip(0)[1:], (A,)),
    Entry("cat_promotes_nothing", lambda m, F, a: m.cat([a, a[:0], a * 2], 0), (A,)),
    Entry("in_place", _in_place, (A, (1, 4)), low=0.5),
    Entry("in_place_methods", _in_place_methods, (A, A), spread=True),
    Entry("set_elements", _set_elements, (A, A)),
    Entry("copies", _copies, (A, (4,))),
]
