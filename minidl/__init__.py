"""minidl: a deep learning engine written from scratch in Python.

>>> import minidl
>>> x = minidl.randn(2, 3, requires_grad=True)
>>> (x * x).sum().backward()
>>> x.grad.shape
(2, 3)

Numba, CuPy and Pillow are imported by the first call that needs them, not here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from minidl import ops, random
from minidl.autograd import Function, enable_grad, grad, is_grad_enabled, no_grad, set_grad_enabled
from minidl.creation import (
    arange,
    as_tensor,
    default_device,
    empty,
    empty_like,
    eye,
    from_dlpack,
    from_numpy,
    full,
    full_like,
    linspace,
    ones,
    ones_like,
    rand,
    rand_like,
    randint,
    randn,
    randn_like,
    randperm,
    tensor,
    zeros,
    zeros_like,
)
from minidl.dtypes import (
    bool_,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    promote_types,
    uint8,
)
from minidl.ops import (
    abs,
    acos,
    acosh,
    add,
    all,
    allclose,
    amax,
    amin,
    any,
    argmax,
    argmin,
    argsort,
    asin,
    asinh,
    atan,
    atan2,
    atanh,
    bmm,
    broadcast_tensors,
    broadcast_to,
    cast,
    cat,
    ceil,
    chunk,
    clamp,
    clone,
    cos,
    cosh,
    count_nonzero,
    cumprod,
    cumsum,
    diagonal,
    div,
    dot,
    einsum,
    eq,
    equal,
    erf,
    exp,
    exp2,
    expm1,
    flatten,
    flip,
    floor,
    floor_divide,
    fmod,
    frac,
    gather,
    ge,
    gt,
    index_select,
    isclose,
    isfinite,
    isinf,
    isnan,
    kthvalue,
    le,
    lerp,
    log,
    log1p,
    log2,
    log10,
    log_softmax,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    logsumexp,
    lt,
    masked_fill,
    masked_select,
    matmul,
    max,
    maximum,
    mean,
    median,
    meshgrid,
    min,
    minimum,
    mm,
    movedim,
    mul,
    mv,
    nan_to_num,
    narrow,
    ne,
    neg,
    nonzero,
    norm,
    one_hot,
    outer,
    permute,
    pow,
    prod,
    reciprocal,
    relu,
    remainder,
    repeat,
    repeat_interleave,
    reshape,
    result_type,
    roll,
    round,
    rsqrt,
    scatter,
    scatter_add,
    select,
    sigmoid,
    sign,
    sin,
    sinh,
    softmax,
    sort,
    split,
    sqrt,
    square,
    squeeze,
    stack,
    std,
    sub,
    sum,
    swapaxes,
    take_along_dim,
    tan,
    tanh,
    tile,
    topk,
    trace,
    transpose,
    tril,
    triu,
    trunc,
    unbind,
    unflatten,
    unique,
    unsqueeze,
    var,
    where,
)
from minidl.random import manual_seed
from minidl.tensor import Parameter, Tensor

__version__ = "0.1.0"

if TYPE_CHECKING:
    from minidl import data, kernels, models, nn, optim, training, weights
    from minidl.amp import GradScaler, autocast
    from minidl.autograd.anomaly import detect_anomaly
    from minidl.autograd.draw import draw_graph
    from minidl.autograd.recompute import checkpoint
    from minidl.derivatives import hessian, hvp, jacobian, jvp, vjp
    from minidl.graphs import CaptureError, compile_step
    from minidl.kernels import conv_algorithm, get_num_threads, memory_stats, set_num_threads
    from minidl.nn.fused import fuse
    from minidl.testing import gradcheck, gradgradcheck

_SUBMODULES = {"cuda", "data", "kernels", "models", "nn", "optim", "training", "weights"}
_ELSEWHERE = {
    **dict.fromkeys(("GradScaler", "autocast"), "minidl.amp"),
    "bfloat16": "minidl.dtypes",
    **dict.fromkeys(("double", "float", "half", "int", "long", "short"), "minidl.dtypes"),
    "CaptureError": "minidl.graphs",
    "checkpoint": "minidl.autograd.recompute",
    "compile_step": "minidl.graphs",
    "detect_anomaly": "minidl.autograd.anomaly",
    "draw_graph": "minidl.autograd.draw",
    "fuse": "minidl.nn.fused",
    **dict.fromkeys(("hessian", "hvp", "jacobian", "jvp", "vjp"), "minidl.derivatives"),
    **dict.fromkeys(("gradcheck", "gradgradcheck"), "minidl.testing"),
    "set_num_threads": "minidl.kernels",
    "get_num_threads": "minidl.kernels",
    "conv_algorithm": "minidl.kernels",
    "memory_stats": "minidl.kernels",
}

__all__ = [
    "CaptureError", "Function", "GradScaler", "Parameter", "Tensor", "abs", "acos", "acosh", "add", "all", "allclose",
    "amax", "amin",
    "any", "arange", "argmax", "argmin", "argsort", "as_tensor", "asin", "asinh", "atan", "atan2", "atanh", "autocast",
    "bfloat16", "bmm", "bool_", "broadcast_tensors", "broadcast_to", "cast", "cat", "ceil", "checkpoint",
    "chunk", "clamp", "clone", "compile_step", "conv_algorithm", "cos", "cosh", "count_nonzero", "cuda", "cumprod",
    "cumsum", "data",
    "default_device",
    "detect_anomaly", "diagonal", "div", "dot", "draw_graph", "einsum", "empty", "empty_like",
    "enable_grad", "eq", "equal", "erf", "exp", "exp2", "expm1", "eye", "flatten", "flip", "float16",
    "float32", "float64", "floor", "floor_divide", "fmod", "frac", "from_dlpack", "from_numpy", "full",
    "full_like", "fuse", "gather", "ge", "get_num_threads", "grad", "gradcheck", "gradgradcheck", "gt", "hessian",
    "hvp", "index_select", "int8", "int16", "int32", "int64", "is_grad_enabled", "isclose", "isfinite",
    "isinf", "isnan", "jacobian", "jvp", "kernels", "kthvalue", "le", "lerp", "linspace", "log", "log1p",
    "log2", "log10", "log_softmax", "logical_and", "logical_not", "logical_or", "logical_xor", "logsumexp",
    "lt", "manual_seed", "masked_fill", "masked_select", "matmul", "max", "maximum", "mean", "median",
    "memory_stats", "meshgrid", "min", "minimum", "mm", "models", "movedim", "mul", "mv", "nan_to_num",
    "narrow", "ne", "neg", "nn", "no_grad", "nonzero", "norm", "one_hot", "ones", "ones_like", "ops",
    "optim", "outer", "permute", "pow", "prod", "promote_types", "rand", "rand_like", "randint", "randn",
    "randn_like", "random", "randperm", "reciprocal", "relu", "remainder", "repeat", "repeat_interleave",
    "reshape", "result_type", "roll", "round", "rsqrt", "scatter", "scatter_add", "select",
    "set_grad_enabled", "set_num_threads", "sigmoid", "sign", "sin", "sinh", "softmax", "sort", "split",
    "sqrt", "square", "squeeze", "stack", "std", "sub", "sum", "swapaxes", "take_along_dim", "tan", "tanh",
    "tensor", "tile", "topk", "trace", "training", "transpose", "tril", "triu", "trunc", "uint8", "unbind",
    "unflatten", "unique", "unsqueeze", "var", "vjp", "weights", "where", "zeros", "zeros_like",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Sub-packages are imported when they are first named, so that ``import minidl`` stays quick."""
    if name in _SUBMODULES:
        return importlib.import_module(f"minidl.{name}")
    if name in _ELSEWHERE:
        return getattr(importlib.import_module(_ELSEWHERE[name]), name)
    raise AttributeError(f"module 'minidl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
