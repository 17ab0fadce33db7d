"""The operators: one class each, forward over backward, and the functions that check arguments and call
them."""

from __future__ import annotations

import sys

from minidl.ops.conv import conv2d
from minidl.ops.elementwise import (
    abs,
    add,
    cast,
    clamp,
    clone,
    compare,
    div,
    exp,
    log,
    mask,
    maximum,
    mul,
    neg,
    pow,
    relu,
    sigmoid,
    sqrt,
    sub,
    tanh,
    where,
)
from minidl.ops.linear import linear, matmul
from minidl.ops.loss import cross_entropy
from minidl.ops.movement import (
    cat,
    expand,
    flatten,
    getitem,
    pad,
    permute,
    reshape,
    squeeze,
    stack,
    transpose,
    unsqueeze,
)
from minidl.ops.norm import batch_norm
from minidl.ops.pool import adaptive_avg_pool2d, avg_pool2d, max_pool2d
from minidl.ops.reduce import log_softmax, logsumexp, max, mean, softmax, sum, sum_to, var
from minidl.tensor import install_operators

install_operators(sys.modules[__name__])

__all__ = [
    "abs",
    "adaptive_avg_pool2d",
    "add",
    "avg_pool2d",
    "batch_norm",
    "cast",
    "cat",
    "clamp",
    "clone",
    "compare",
    "conv2d",
    "cross_entropy",
    "div",
    "exp",
    "expand",
    "flatten",
    "getitem",
    "linear",
    "log",
    "log_softmax",
    "logsumexp",
    "mask",
    "matmul",
    "max",
    "max_pool2d",
    "maximum",
    "mean",
    "mul",
    "neg",
    "pad",
    "permute",
    "pow",
    "relu",
    "reshape",
    "sigmoid",
    "softmax",
    "sqrt",
    "squeeze",
    "stack",
    "sub",
    "sum",
    "sum_to",
    "tanh",
    "transpose",
    "unsqueeze",
    "var",
    "where",
]
