"""Products of matrices."""

from __future__ import annotations

import numpy as np

import minidl.nn.functional as F
from minidl import ops
from tests.minidl.trust.shapes.draws import Case, Draw, strategy


@strategy("matmul")
def matmul(d: Draw, name: str) -> Case:
    m, k, n = d.int(0, 4), d.int(0, 4), d.int(0, 4)
    batch_a, batch_b = d.broadcast(2) if d.flag() else [(), ()]
    a = (k,) if d.flag() and not batch_a else (*batch_a[:2], m, k)
    b = (k,) if d.flag() and not batch_b else (*batch_b[:2], k, n)
    try:
        np.broadcast_shapes(a[:-2], b[:-2])
    except ValueError:  # cut shapes that no longer fit
        b = b[-2:]
    return Case(ops.matmul, [d.normal(a), d.normal(b)], np.matmul)


@strategy("mm", "mv", "bmm", "dot", "outer")
def products(d: Draw, name: str) -> Case:
    n, m, k, j = d.int(0, 3), d.int(0, 4), d.int(0, 4), d.int(0, 4)
    a, b = {
        "mm": ((m, k), (k, j)),
        "mv": ((m, k), (k,)),
        "bmm": ((n, m, k), (n, k, j)),
        "dot": ((k,), (k,)),
        "outer": ((m,), (k,)),
    }[name]
    exact = np.outer if name == "outer" else np.matmul
    return Case(getattr(ops, name), [d.normal(a), d.normal(b)], exact)


@strategy("linear")
def linear(d: Draw, name: str) -> Case:
    lead, k, n = d.shape(0, 3), d.int(0, 4), d.int(1, 4)
    arrays = [d.normal((*lead, k)), d.normal((n, k))]
    if d.flag():
        return Case(F.linear, [*arrays, d.normal((n,))], lambda x, w, b: x @ w.T + b)
    return Case(F.linear, arrays, lambda x, w: x @ w.T)


@strategy("einsum")
def einsum(d: Draw, name: str) -> Case:
    """One to three operands over four letters; each letter has one size; a letter may stand twice in a term."""
    letters = "abcd"
    size = {c: d.int(1, 3) for c in letters}
    terms = ["".join(letters[d.int(0, 3)] for _ in range(d.int(1, 3))) for _ in range(d.int(1, 3))]
    seen = sorted(set("".join(terms)))
    result = "".join(seen[i] for i in d.permutation(len(seen))[: d.int(0, len(seen))])
    equation = f"{','.join(terms)}->{result}"
    arrays = [d.normal([size[c] for c in term]) for term in terms]
    return Case(
        lambda *xs: ops.einsum(equation, *xs), arrays, lambda *xs: np.asarray(np.einsum(equation, *xs))
    )
