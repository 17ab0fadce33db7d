"""The operators: one class each, forward over backward, and the functions that check arguments and call
them."""

from __future__ import annotations

import sys

from minidl.ops.activations import (
    celu,
    elu,
    gelu,
    glu,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    logsigmoid,
    mish,
    prelu,
    relu6,
    selu,
    silu,
    softmin,
    softplus,
    softsign,
)
from minidl.ops.arguments import check_tensors
from minidl.ops.arithmetic import (
    abs,
    add,
    clamp,
    clone,
    compare,
    div,
    lerp,
    mask,
    maximum,
    minimum,
    mul,
    neg,
    pow,
    relu,
    square,
    sub,
    where,
)
from minidl.ops.attention import (
    scaled_dot_product_attention,
)
from minidl.ops.conv import (
    conv1d,
    conv2d,
    conv_transpose1d,
    conv_transpose2d,
)
from minidl.ops.device import to_device
from minidl.ops.distance import (
    cosine_similarity,
    normalize,
    pairwise_distance,
)
from minidl.ops.dropout import (
    dropout,
    dropout1d,
    dropout2d,
    stochastic_depth,
)
from minidl.ops.einsum import (
    einsum,
)
from minidl.ops.embedding import (
    embedding,
)
from minidl.ops.indexing import (
    assign,
    diagonal,
    gather,
    index_select,
    masked_fill,
    masked_select,
    nonzero,
    one_hot,
    scatter,
    scatter_add,
    take_along_dim,
    trace,
    tril,
    triu,
    unique,
)
from minidl.ops.inplace import (
    add_,
    clamp_,
    copy_,
    div_,
    fill_,
    masked_fill_,
    mul_,
    neg_,
    normal_,
    pow_,
    relu_,
    setitem,
    sub_,
    uniform_,
    zero_,
)
from minidl.ops.linear import (
    bmm,
    dot,
    linear,
    matmul,
    mm,
    mv,
    outer,
)
from minidl.ops.logic import (
    allclose,
    eq,
    equal,
    ge,
    gt,
    isclose,
    isfinite,
    isinf,
    isnan,
    le,
    logical,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    lt,
    nan_to_num,
    ne,
)
from minidl.ops.loss import (
    cross_entropy,
)
from minidl.ops.losses import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cosine_embedding_loss,
    hinge_embedding_loss,
    huber_loss,
    kl_div,
    l1_loss,
    margin_ranking_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
    triplet_margin_loss,
)
from minidl.ops.movement import (
    cat,
    expand,
    flatten,
    getitem,
    narrow,
    pad,
    permute,
    reshape,
    squeeze,
    stack,
    transpose,
    unsqueeze,
)
from minidl.ops.norm import (
    batch_norm,
)
from minidl.ops.norms import (
    group_norm,
    instance_norm,
    layer_norm,
)
from minidl.ops.pool import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    max_pool2d,
    max_unpool2d,
)
from minidl.ops.pool1d import (
    adaptive_avg_pool1d,
    adaptive_max_pool1d,
    avg_pool1d,
    max_pool1d,
    max_unpool1d,
)
from minidl.ops.promotion import (
    cast,
    result_type,
)
from minidl.ops.reduce import (
    all,
    amax,
    amin,
    any,
    argmax,
    argmin,
    count_nonzero,
    cumprod,
    cumsum,
    log_softmax,
    logsumexp,
    mean,
    norm,
    prod,
    softmax,
    std,
    sum,
    sum_to,
    var,
)
from minidl.ops.resize import (
    interpolate,
    pixel_shuffle,
    pixel_unshuffle,
)
from minidl.ops.rounding import (
    ceil,
    floor,
    floor_divide,
    fmod,
    frac,
    remainder,
    round,
    sign,
    trunc,
)
from minidl.ops.shapes import (
    broadcast_tensors,
    broadcast_to,
    chunk,
    contiguous,
    flip,
    meshgrid,
    movedim,
    repeat,
    repeat_interleave,
    roll,
    select,
    split,
    swapaxes,
    tile,
    unbind,
    unflatten,
)
from minidl.ops.sorting import (
    argsort,
    kthvalue,
    max,
    median,
    min,
    sort,
    topk,
)
from minidl.ops.unary import (
    acos,
    acosh,
    asin,
    asinh,
    atan,
    atan2,
    atanh,
    cos,
    cosh,
    erf,
    exp,
    exp2,
    expm1,
    log,
    log1p,
    log2,
    log10,
    reciprocal,
    rsqrt,
    sigmoid,
    sin,
    sinh,
    sqrt,
    tan,
    tanh,
)
from minidl.ops.unfold import (
    fold,
    unfold,
)
from minidl.tensor import install_operators

__all__ = [
    "abs", "acos", "acosh", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d",
    "adaptive_max_pool2d", "add", "add_", "all", "allclose", "amax", "amin", "any", "argmax", "argmin",
    "argsort", "asin", "asinh", "assign", "atan", "atan2", "atanh", "avg_pool1d", "avg_pool2d", "batch_norm",
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "bmm", "broadcast_tensors", "broadcast_to",
    "cast", "cat", "ceil", "celu", "chunk", "clamp", "clamp_", "clone", "compare", "contiguous", "conv1d",
    "conv2d", "conv_transpose1d", "conv_transpose2d", "copy_", "cos", "cosh", "cosine_embedding_loss",
    "cosine_similarity", "count_nonzero", "cross_entropy", "cumprod", "cumsum", "diagonal", "div", "div_",
    "dot", "dropout", "dropout1d", "dropout2d", "einsum", "elu", "embedding", "eq", "equal", "erf", "exp",
    "exp2", "expand", "expm1", "fill_", "flatten", "flip", "floor", "floor_divide", "fmod", "fold", "frac",
    "gather", "ge", "gelu", "getitem", "glu", "group_norm", "gt", "hardsigmoid", "hardswish", "hardtanh",
    "hinge_embedding_loss", "huber_loss", "index_select", "instance_norm", "interpolate", "isclose",
    "isfinite", "isinf", "isnan", "kl_div", "kthvalue", "l1_loss", "layer_norm", "le", "leaky_relu", "lerp",
    "linear", "log", "log1p", "log2", "log10", "log_softmax", "logical", "logical_and", "logical_not",
    "logical_or", "logical_xor", "logsigmoid", "logsumexp", "lt", "margin_ranking_loss", "mask",
    "masked_fill", "masked_fill_", "masked_select", "matmul", "max", "max_pool1d", "max_pool2d",
    "max_unpool1d", "max_unpool2d", "maximum", "mean", "median", "meshgrid", "min", "minimum", "mish", "mm",
    "movedim", "mse_loss", "mul", "mul_", "mv", "nan_to_num", "narrow", "ne", "neg", "neg_", "nll_loss",
    "nonzero", "norm", "normal_", "normalize", "one_hot", "outer", "pad", "pairwise_distance", "permute",
    "pixel_shuffle", "pixel_unshuffle", "pow", "pow_", "prelu", "prod", "reciprocal", "relu", "relu6",
    "relu_", "remainder", "repeat", "repeat_interleave", "reshape", "result_type", "roll", "round", "rsqrt",
    "scaled_dot_product_attention", "scatter", "scatter_add", "select", "selu", "setitem", "sigmoid", "sign",
    "silu", "sin", "sinh", "smooth_l1_loss", "softmax", "softmin", "softplus", "softsign", "sort", "split",
    "sqrt", "square", "squeeze", "stack", "std", "stochastic_depth", "sub", "sub_", "sum", "sum_to",
    "swapaxes", "take_along_dim", "tan", "tanh", "tile", "to_device", "topk", "trace", "transpose", "tril",
    "triplet_margin_loss", "triu", "trunc", "unbind", "unflatten", "unfold", "uniform_", "unique",
    "unsqueeze", "var", "where", "zero_",
]  # fmt: skip

install_operators(sys.modules[__name__])
check_tensors(sys.modules[__name__])
