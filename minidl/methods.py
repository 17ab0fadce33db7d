"""The functions of :mod:`minidl.ops` that are also methods of a tensor: ``x.exp()`` is ``ops.exp(x)``.

The names annotated here are looked up when :mod:`minidl.ops` is imported, and the functions themselves become the
methods: signatures and docstrings are theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minidl.tensor import Tensor

__all__ = ["Methods"]


class Methods:
    """A part of :class:`minidl.Tensor`."""

    __slots__ = ()

    if TYPE_CHECKING:
        Unary = Callable[[], Tensor]
        Some = Callable[..., Tensor]
        Several = Callable[..., Any]

    # arithmetic and comparison
    add: Some
    sub: Some
    mul: Some
    div: Some
    pow: Some
    neg: Unary
    abs: Unary
    square: Unary
    maximum: Some
    minimum: Some
    clamp: Some
    lerp: Some
    floor_divide: Some
    remainder: Some
    fmod: Some
    eq: Some
    ne: Some
    lt: Some
    le: Some
    gt: Some
    ge: Some
    equal: Several
    allclose: Several
    isclose: Some
    logical_and: Some
    logical_or: Some
    logical_xor: Some
    logical_not: Unary
    isnan: Unary
    isinf: Unary
    isfinite: Unary
    nan_to_num: Some

    # functions of one number
    exp: Unary
    exp2: Unary
    expm1: Unary
    log: Unary
    log1p: Unary
    log2: Unary
    log10: Unary
    sqrt: Unary
    rsqrt: Unary
    reciprocal: Unary
    sin: Unary
    cos: Unary
    tan: Unary
    asin: Unary
    acos: Unary
    atan: Unary
    atan2: Some
    sinh: Unary
    cosh: Unary
    tanh: Unary
    asinh: Unary
    acosh: Unary
    atanh: Unary
    sigmoid: Unary
    relu: Unary
    erf: Unary
    floor: Unary
    ceil: Unary
    trunc: Unary
    round: Some
    frac: Unary
    sign: Unary
    clone: Unary

    # reductions, order
    sum: Some
    mean: Some
    var: Some
    std: Some
    prod: Some
    norm: Some
    logsumexp: Some
    cumsum: Some
    cumprod: Some
    amax: Some
    amin: Some
    max: Several
    min: Several
    median: Several
    kthvalue: Several
    argmax: Some
    argmin: Some
    any: Some
    all: Some
    count_nonzero: Some
    sort: Several
    argsort: Some
    topk: Several
    unique: Several
    softmax: Some
    log_softmax: Some
    sum_to: Some

    # products of matrices
    matmul: Some
    mm: Some
    mv: Some
    bmm: Some
    dot: Some
    outer: Some

    # shapes
    flatten: Some
    unflatten: Some
    transpose: Some
    swapaxes: Some
    movedim: Some
    squeeze: Some
    unsqueeze: Some
    broadcast_to: Some
    flip: Some
    roll: Some
    repeat: Some
    tile: Some
    repeat_interleave: Some
    narrow: Some
    select: Some
    split: Several
    chunk: Several
    unbind: Several
    diagonal: Some
    trace: Unary
    tril: Some
    triu: Some

    # picking and putting
    gather: Some
    take_along_dim: Some
    scatter: Some
    scatter_add: Some
    index_select: Some
    masked_fill: Some
    masked_select: Some
    nonzero: Several

    # in place
    add_: Some
    sub_: Some
    mul_: Some
    div_: Some
    pow_: Some
    neg_: Unary
    clamp_: Some
    relu_: Unary
    copy_: Some
    fill_: Some
    zero_: Unary
    masked_fill_: Some
    uniform_: Some
    normal_: Some
