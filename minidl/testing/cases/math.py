"""Elementwise functions, reductions, order and products of matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.testing.cases.entry import Entry, ints

A, CUBE = (3, 4), (2, 3, 4)
# factors with zeros: one, two, none in a row
ZEROS = np.array([[1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
TIES = np.array([[0, 1, 0, 2], [1, 1, 1, 1], [2, 0, 2, 2]])
MASK = np.array([[True, False, False, True], [False, True, True, False], [True, True, False, True]])


def _method(name: str, *args: Any, **options: Any) -> Any:
    return lambda m, F, a: getattr(a, name)(*args, **options)


def _function(name: str, *args: Any, **options: Any) -> Any:
    return lambda m, F, a: getattr(m, name)(a, *args, **options)


def _values(name: str, *args: Any, **options: Any) -> Any:
    return lambda m, F, a: getattr(a, name)(*args, **options).values


def _with_zeros(name: str, *args: Any) -> Any:
    """Factors multiplied by 0 and 1: the product's gradient there must not divide."""

    def run(m: Any, F: Any, a: Any) -> Any:
        return getattr(a * m.tensor(ZEROS, dtype=a.dtype), name)(*args)

    return run


def _tied(name: str, *args: Any) -> Any:
    """A few values that occur several times, picked from the input: ties that finite differences can follow."""

    def run(m: Any, F: Any, a: Any) -> Any:
        return getattr(a[ints(m, TIES)], name)(*args)

    return run


UNARY = {  # name: (low, high) of the inputs, inside of the domain
    "exp2": (-2.0, 2.0),
    "expm1": (-2.0, 2.0),
    "log1p": (-0.8, 2.0),
    "log2": (0.2, 3.0),
    "log10": (0.2, 3.0),
    "rsqrt": (0.2, 3.0),
    "reciprocal": (0.2, 3.0),
    "sin": (-3.0, 3.0),
    "cos": (-3.0, 3.0),
    "tan": (-1.2, 1.2),
    "asin": (-0.9, 0.9),
    "acos": (-0.9, 0.9),
    "atan": (-3.0, 3.0),
    "sinh": (-2.0, 2.0),
    "cosh": (-2.0, 2.0),
    "asinh": (-3.0, 3.0),
    "acosh": (1.2, 4.0),
    "atanh": (-0.9, 0.9),
    "erf": (-2.5, 2.5),
    "square": (-2.0, 2.0),
}

TABLE = [
    *[Entry(name, _method(name), (A,), low=low, high=high) for name, (low, high) in UNARY.items()],
    *[Entry(name, _method(name), (A,), spread=True) for name in ("floor", "ceil", "trunc", "sign", "frac")],
    Entry("round", _method("round"), (A,), low=0.6, high=1.4),
    Entry("round_decimals", _method("round", decimals=1), (A,), low=0.02, high=0.04),
    Entry("log_of_a_product", lambda m, F, a, b: (a * b).log().sum(0), (A, (4,)), low=0.5),
    Entry("atan2", lambda m, F, a, b: m.atan2(a, b), (A, (4,))),
    Entry("minimum", lambda m, F, a, b: m.minimum(a, b), (A, (4,))),
    Entry("maximum_broadcast", lambda m, F, a, b: m.maximum(a, b), ((3, 1), (4,))),
    Entry("clamp_above", lambda m, F, a: m.clamp(a, max=0.1), (A,), spread=True),
    Entry(
        "clamp_tensors", lambda m, F, a, b: m.clamp(a, b * 0.1 - 0.5, b * 0.1 + 0.5), (A, (4,)), spread=True
    ),
    Entry(
        "floor_divide", lambda m, F, a, b: m.div(a, b, rounding_mode="floor"), (A, (4,)), low=0.3, high=0.9
    ),
    Entry(
        "trunc_divide", lambda m, F, a, b: m.div(-a, b, rounding_mode="trunc"), (A, (4,)), low=0.3, high=0.9
    ),
    Entry("remainder", lambda m, F, a, b: -a % b, (A, (4,)), low=0.3, high=0.9),
    Entry("remainder_scalar", lambda m, F, a: a % -0.7, (A,), spread=True),
    Entry("fmod", lambda m, F, a, b: m.fmod(-a, b), (A, (4,)), low=0.3, high=0.9),
    Entry("lerp", lambda m, F, a, b: m.lerp(a, b, 0.3), (A, A)),
    Entry("add_alpha", lambda m, F, a, b: m.sub(m.add(a, b, alpha=2), b, alpha=0.5), (A, (4,))),
    Entry("pow_negative_base", lambda m, F, a: (-a) ** 3 + (-a) ** -2, (A,), low=0.5),
    Entry("pow_zero_exponent", lambda m, F, a: a**0 + a**1, (A,)),
    Entry("where_scalar", lambda m, F, a: m.where(ints(m, MASK), a, 2.0), (A,)),
    Entry("nan_to_num", lambda m, F, a: m.nan_to_num(m.where(ints(m, MASK), a, float("nan")), 0.5), (A,)),
    # sums, products, norms
    Entry("std", _method("std", 1), (A,)),
    Entry("std_dims", _method("std", (0, 2), correction=0, keepdim=True), (CUBE,)),
    Entry("var_unbiased", _method("var", 1, unbiased=False), (A,)),
    Entry("norm", _method("norm"), (A,)),
    Entry("norm_dim", _method("norm", 2, 1, keepdim=True), (A,)),
    Entry("norm_1", _method("norm", 1, (0, 1)), (A,), spread=True),
    Entry("norm_3", _method("norm", 3, -1), (A,), spread=True),
    Entry("norm_inf", _method("norm", float("inf"), 1), (A,), spread=True),
    Entry("norm_minus_inf", _method("norm", -float("inf"), 1), (A,), low=0.5),
    Entry("prod", _method("prod"), (A,)),
    Entry("prod_dim", _method("prod", 1, keepdim=True), ((2, 7, 3),)),
    Entry("prod_with_zeros", _with_zeros("prod", 1), (A,)),
    Entry("cumsum", _method("cumsum", 1), (CUBE,)),
    Entry("cumsum_last", _method("cumsum", -1), (CUBE,)),
    Entry("cumprod", _method("cumprod", 1), ((2, 5, 3),)),
    Entry("cumprod_with_zeros", _with_zeros("cumprod", 1), (A,)),
    Entry("logsumexp_dims", _method("logsumexp", (0, 2), keepdim=True), (CUBE,)),
    # extremes and order
    Entry("amax", _method("amax", 1), (CUBE,), spread=True),
    Entry("amin", _method("amin", (0, 2), keepdim=True), (CUBE,), spread=True),
    Entry("amax_of_ties", _tied("amax", 1), ((3,),)),
    Entry("amin_of_ties", _tied("amin", 1), ((3,),)),
    Entry("max_of_all_ties", _tied("max"), ((3,),)),
    Entry("max_values", _values("max", 1), (CUBE,), spread=True),
    Entry("min_values_keepdim", _values("min", -1, keepdim=True), (CUBE,), spread=True),
    Entry("max_of_two", lambda m, F, a, b: m.max(a, b) + m.min(a, b) * 2, (A, A)),
    Entry("sort", _values("sort", 1), (CUBE,), spread=True),
    Entry("sort_descending", _values("sort", 0, descending=True), (CUBE,), spread=True),
    Entry("topk", _values("topk", 2, -1), (CUBE,), spread=True),
    Entry("topk_smallest", _values("topk", 2, 1, largest=False), (CUBE,), spread=True),
    Entry("kthvalue", _values("kthvalue", 2, 1), (CUBE,), spread=True),
    Entry("median", _method("median"), (A,), spread=True),
    Entry("median_dim", _values("median", -1, keepdim=True), (CUBE,), spread=True),
    # products of matrices
    Entry("mm", lambda m, F, a, b: m.mm(a, b), ((3, 4), (4, 2))),
    Entry("mv", lambda m, F, a, b: m.mv(a, b), ((3, 4), (4,))),
    Entry("bmm", lambda m, F, a, b: m.bmm(a, b), ((2, 3, 4), (2, 4, 2))),
    Entry("dot", lambda m, F, a, b: m.dot(a, b), ((4,), (4,))),
    Entry("outer", lambda m, F, a, b: m.outer(a, b), ((3,), (4,))),
    Entry("einsum_matmul", lambda m, F, a, b: m.einsum("bij,bjk->bik", a, b), ((2, 3, 4), (2, 4, 2))),
    Entry("einsum_implicit", lambda m, F, a, b: m.einsum("ji, jk", a, b), ((4, 3), (4, 2))),
    Entry("einsum_trace", lambda m, F, a: m.einsum("ii", a), ((3, 3),)),
    Entry("einsum_diagonal", lambda m, F, a: m.einsum("iji->ji", a), ((3, 2, 3),)),
    Entry("einsum_outer", lambda m, F, a, b: m.einsum("i,j->ji", a, b), ((3,), (4,))),
    Entry("einsum_sum", lambda m, F, a: m.einsum("ijk->k", a), (CUBE,)),
    Entry(
        "einsum_ellipsis", lambda m, F, a, b: m.einsum("...ij,...jk->...ik", a, b), ((5, 1, 2, 3), (4, 3, 2))
    ),
    Entry("einsum_ellipsis_implicit", lambda m, F, a, b: m.einsum("i...,i...", a, b), ((3, 2, 4), (3, 4))),
    Entry(
        "einsum_bilinear",
        lambda m, F, a, w, b: m.einsum("bn,anm,bm->ba", a, w, b),
        ((2, 3), (4, 3, 5), (2, 5)),
    ),
    Entry("einsum_elementwise", lambda m, F, a, b: m.einsum("ij,ij->ij", a, b), (A, A)),
    Entry("einsum_size_one", lambda m, F, a, b: m.einsum("ij,jk->ik", a, b), ((3, 1), (4, 2))),
    Entry("einsum_capitals", lambda m, F, a, b: m.einsum("Bi,aB", a, b), ((3, 2), (4, 3))),
]
