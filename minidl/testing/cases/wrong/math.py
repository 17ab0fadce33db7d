"""Arithmetic, comparison, functions of numbers, reductions, order."""

from __future__ import annotations

import numpy as np

from minidl.testing.cases.wrong.use import BOOLS, EMPTY, INTS, MATRIX, SIGNALS, VECTOR3, Wrong

TABLE = [
    Wrong(
        "add", lambda m, F: m.add(MATRIX, VECTOR3), ValueError, "add: shapes (3, 4) and (3,) do not broadcast"
    ),
    Wrong("add", lambda m, F: MATRIX + "a", TypeError, "add: expects tensors or real numbers, got str"),
    Wrong(
        "add_",
        lambda m, F: MATRIX.clone().add_(VECTOR3),
        ValueError,
        "add: shapes (3, 4) and (3,) do not broadcast",
    ),
    Wrong(
        "add_",
        lambda m, F: MATRIX.expand(2, 3, 4).add_(1),
        RuntimeError,
        "add_: the memory of this tensor is read-only (an expanded view?); use .clone() first",
    ),
    Wrong(
        "sub", lambda m, F: m.sub(MATRIX, VECTOR3), ValueError, "sub: shapes (3, 4) and (3,) do not broadcast"
    ),
    Wrong(
        "sub",
        lambda m, F: m.sub(BOOLS, BOOLS),
        TypeError,
        "sub: not defined for bool tensors; use logical_not or logical_xor",
    ),
    Wrong(
        "sub_",
        lambda m, F: MATRIX.clone().sub_(SIGNALS),
        ValueError,
        "sub: shapes (3, 4) and (2, 4, 9) do not broadcast",
    ),
    Wrong("mul", lambda m, F: MATRIX * VECTOR3, ValueError, "mul: shapes (3, 4) and (3,) do not broadcast"),
    Wrong(
        "mul_",
        lambda m, F: MATRIX.clone().mul_(SIGNALS),
        ValueError,
        "mul: shapes (3, 4) and (2, 4, 9) do not broadcast",
    ),
    Wrong("div", lambda m, F: MATRIX / VECTOR3, ValueError, "div: shapes (3, 4) and (3,) do not broadcast"),
    Wrong(
        "div",
        lambda m, F: m.div(MATRIX, 2, rounding_mode="up"),
        ValueError,
        "div: rounding_mode expects None, 'floor' or 'trunc', got 'up'",
    ),
    Wrong(
        "div_",
        lambda m, F: INTS.clone().div_(2),
        TypeError,
        "div_: a result of dtype float32 does not fit into int64",
    ),
    Wrong("pow", lambda m, F: MATRIX**VECTOR3, ValueError, "pow: shapes (3, 4) and (3,) do not broadcast"),
    Wrong(
        "pow",
        lambda m, F: INTS**-1,
        ValueError,
        "pow: b expects integers >= 0 where both are integers, got a negative one",
    ),
    Wrong(
        "pow_",
        lambda m, F: INTS.clone().pow_(0.5),
        TypeError,
        "pow_: a result of dtype float32 does not fit into int64",
    ),
    Wrong(
        "floor_divide",
        lambda m, F: MATRIX // VECTOR3,
        ValueError,
        "floor_divide: shapes (3, 4) and (3,) do not broadcast",
    ),
    Wrong(
        "floor_divide", lambda m, F: INTS // 0, ZeroDivisionError, "floor_divide: an integer divided by zero"
    ),
    Wrong(
        "remainder",
        lambda m, F: MATRIX % VECTOR3,
        ValueError,
        "remainder: shapes (3, 4) and (3,) do not broadcast",
    ),
    Wrong("remainder", lambda m, F: BOOLS % BOOLS, TypeError, "remainder: not defined for bool tensors"),
    Wrong("fmod", lambda m, F: m.fmod(INTS, 0), ZeroDivisionError, "fmod: an integer divided by zero"),
    Wrong(
        "atan2",
        lambda m, F: m.atan2(MATRIX, VECTOR3),
        ValueError,
        "atan2: shapes (3, 4) and (3,) do not broadcast",
    ),
    Wrong(
        "maximum",
        lambda m, F: m.maximum(MATRIX, VECTOR3),
        ValueError,
        "maximum: shapes (3, 4) and (3,) do not broadcast",
    ),
    Wrong(
        "minimum",
        lambda m, F: m.minimum(MATRIX, None),
        TypeError,
        "minimum: expects tensors or real numbers, got NoneType",
    ),
    Wrong(
        "lerp",
        lambda m, F: m.lerp(MATRIX, VECTOR3, 0.5),
        ValueError,
        "lerp: shapes (3, 4) and (3,) do not broadcast",
    ),
    Wrong(
        "where",
        lambda m, F: m.where(MATRIX, MATRIX, MATRIX),
        TypeError,
        "where: condition expects dtype bool, got float32",
    ),
    Wrong(
        "where",
        lambda m, F: m.where(BOOLS, MATRIX, VECTOR3),
        ValueError,
        "where: shapes (3, 4) and (3,) do not broadcast",
    ),
    Wrong("where", lambda m, F: m.where(BOOLS, MATRIX), TypeError, "where: expects both a and b, or neither"),
    Wrong(
        "clamp", lambda m, F: m.clamp(MATRIX), ValueError, "clamp: at least one of min and max must be given"
    ),
    Wrong(
        "clamp",
        lambda m, F: m.clamp(MATRIX, VECTOR3),
        ValueError,
        "clamp: shapes (3, 4) and (3,) do not broadcast",
    ),
    Wrong(
        "clamp",
        lambda m, F: m.clamp(MATRIX, "a"),
        TypeError,
        "clamp: expects tensors or real numbers, got str",
    ),
    Wrong(
        "clamp_",
        lambda m, F: MATRIX.clone().clamp_(),
        ValueError,
        "clamp: at least one of min and max must be given",
    ),
    Wrong(
        "mask",
        lambda m, F: m.ops.mask(MATRIX, np.ones(3)),
        ValueError,
        "mask: values has shape (3,), expected (3, 4)",
    ),
    Wrong(
        "compare",
        lambda m, F: m.ops.compare(np.less, MATRIX, VECTOR3),
        ValueError,
        "lt: shapes (3, 4) and (3,) do not broadcast",
    ),
    Wrong(
        "eq", lambda m, F: m.eq(MATRIX, VECTOR3), ValueError, "eq: shapes (3, 4) and (3,) do not broadcast"
    ),
    Wrong(
        "ne", lambda m, F: m.ne(MATRIX, VECTOR3), ValueError, "ne: shapes (3, 4) and (3,) do not broadcast"
    ),
    Wrong("lt", lambda m, F: m.lt(MATRIX, "a"), TypeError, "lt: expects tensors or real numbers, got str"),
    Wrong(
        "le", lambda m, F: m.le(MATRIX, VECTOR3), ValueError, "le: shapes (3, 4) and (3,) do not broadcast"
    ),
    Wrong(
        "gt", lambda m, F: m.gt(MATRIX, VECTOR3), ValueError, "gt: shapes (3, 4) and (3,) do not broadcast"
    ),
    Wrong(
        "ge", lambda m, F: m.ge(MATRIX, None), TypeError, "ge: expects tensors or real numbers, got NoneType"
    ),
    Wrong(
        "logical",
        lambda m, F: MATRIX & MATRIX,
        TypeError,
        "bitwise_and: expects bool or integer tensors, got dtype float32",
    ),
    Wrong(
        "isclose",
        lambda m, F: m.isclose(MATRIX, VECTOR3),
        ValueError,
        "isclose: shapes (3, 4) and (3,) do not broadcast",
    ),
    Wrong(
        "allclose",
        lambda m, F: m.allclose(MATRIX, VECTOR3),
        ValueError,
        "allclose: shapes (3, 4) and (3,) do not broadcast",
    ),
    Wrong(
        "logical_and",
        lambda m, F: m.logical_and(MATRIX, VECTOR3),
        ValueError,
        "logical_and: shapes (3, 4) and (3,) do not broadcast",
    ),
    Wrong(
        "logical_or",
        lambda m, F: m.logical_or(MATRIX, VECTOR3),
        ValueError,
        "logical_or: shapes (3, 4) and (3,) do not broadcast",
    ),
    Wrong(
        "logical_xor",
        lambda m, F: m.logical_xor(MATRIX, None),
        TypeError,
        "logical_xor: expects tensors or real numbers, got NoneType",
    ),
    Wrong(
        "neg",
        lambda m, F: -BOOLS,
        TypeError,
        "neg: not defined for bool tensors; use logical_not or logical_xor",
    ),
    Wrong(
        "abs",
        lambda m, F: m.abs(BOOLS),
        TypeError,
        "abs: not defined for bool tensors; use logical_not or logical_xor",
    ),
    Wrong(
        "round",
        lambda m, F: m.round(MATRIX, decimals=0.5),
        TypeError,
        "round: decimals expects an int, got 0.5",
    ),
    Wrong("frac", lambda m, F: m.frac(INTS), TypeError, "frac: x expects a floating dtype, got int64"),
    Wrong(
        "cast",
        lambda m, F: m.cast(MATRIX, "number"),
        TypeError,
        "dtype: expects a dtype such as minidl.float32, got 'number'",
    ),
    Wrong(
        "result_type",
        lambda m, F: m.result_type("a", 1),
        TypeError,
        "result_type: expects tensors or real numbers, got str",
    ),
    Wrong(
        "to_device",
        lambda m, F: m.ops.to_device(MATRIX, "tpu"),
        ValueError,
        "device 'tpu' is not available: expects 'cpu', 'cuda', 'cuda:1' or 'emulated'",
    ),
    Wrong(
        "sum",
        lambda m, F: m.sum(MATRIX, 2),
        IndexError,
        "sum: dim 2 is out of range for a tensor of 2 dimensions",
    ),
    Wrong(
        "sum", lambda m, F: m.sum(MATRIX, "rows"), TypeError, "sum: dim expects an int or several, got 'rows'"
    ),
    Wrong("sum", lambda m, F: m.sum(MATRIX, (0, 0)), ValueError, "sum: dim (0, 0) names a dimension twice"),
    Wrong(
        "mean",
        lambda m, F: m.mean(MATRIX, 2),
        IndexError,
        "mean: dim 2 is out of range for a tensor of 2 dimensions",
    ),
    Wrong("mean", lambda m, F: m.mean(INTS), TypeError, "mean: x expects a floating dtype, got int64"),
    Wrong(
        "prod",
        lambda m, F: m.prod(MATRIX, 2),
        IndexError,
        "prod: dim 2 is out of range for a tensor of 2 dimensions",
    ),
    Wrong(
        "cumsum",
        lambda m, F: m.cumsum(MATRIX, 2),
        IndexError,
        "cumsum: dim 2 is out of range for a tensor of 2 dimensions",
    ),
    Wrong("cumprod", lambda m, F: m.cumprod(MATRIX, 1.5), TypeError, "cumprod: dim expects an int, got 1.5"),
    Wrong("var", lambda m, F: m.var(INTS), TypeError, "var: x expects a floating dtype, got int64"),
    Wrong(
        "var",
        lambda m, F: m.var(MATRIX, 2),
        IndexError,
        "var: dim 2 is out of range for a tensor of 2 dimensions",
    ),
    Wrong("std", lambda m, F: m.std(INTS), TypeError, "std: x expects a floating dtype, got int64"),
    Wrong("norm", lambda m, F: m.norm(INTS), TypeError, "norm: x expects a floating dtype, got int64"),
    Wrong(
        "norm", lambda m, F: m.norm(MATRIX, "nuc"), ValueError, "norm: p expects a number or 'fro', got 'nuc'"
    ),
    Wrong(
        "logsumexp",
        lambda m, F: m.logsumexp(MATRIX, 2),
        IndexError,
        "logsumexp: dim 2 is out of range for a tensor of 2 dimensions",
    ),
    Wrong(
        "softmax",
        lambda m, F: m.softmax(MATRIX, 2),
        IndexError,
        "softmax: dim 2 is out of range for a tensor of 2 dimensions",
    ),
    Wrong(
        "softmax",
        lambda m, F: m.softmax(INTS, 0),
        TypeError,
        "softmax: x expects a floating dtype, got int64",
    ),
    Wrong(
        "log_softmax",
        lambda m, F: m.log_softmax(MATRIX, 2),
        IndexError,
        "log_softmax: dim 2 is out of range for a tensor of 2 dimensions",
    ),
    Wrong(
        "log_softmax",
        lambda m, F: m.log_softmax(INTS, 0),
        TypeError,
        "log_softmax: x expects a floating dtype, got int64",
    ),
    Wrong(
        "softmin",
        lambda m, F: F.softmin(MATRIX, 2),
        IndexError,
        "softmin: dim 2 is out of range for a tensor of 2 dimensions",
    ),
    Wrong(
        "softmin",
        lambda m, F: F.softmin(INTS, 0),
        TypeError,
        "softmin: x expects a floating dtype, got int64",
    ),
    Wrong(
        "amax",
        lambda m, F: m.amax(MATRIX, 2),
        IndexError,
        "amax: dim 2 is out of range for a tensor of 2 dimensions",
    ),
    Wrong(
        "amax", lambda m, F: m.amax(EMPTY), ValueError, "amax: no elements to reduce in shape (0,), dim None"
    ),
    Wrong(
        "amin", lambda m, F: m.amin(EMPTY), ValueError, "amin: no elements to reduce in shape (0,), dim None"
    ),
    Wrong("max", lambda m, F: m.max(EMPTY), ValueError, "max: no elements to reduce in shape (0,), dim None"),
    Wrong(
        "max",
        lambda m, F: m.max(MATRIX, 2),
        IndexError,
        "max: dim 2 is out of range for a tensor of 2 dimensions",
    ),
    Wrong(
        "min",
        lambda m, F: m.min(MATRIX, 2),
        IndexError,
        "min: dim 2 is out of range for a tensor of 2 dimensions",
    ),
    Wrong(
        "argmax",
        lambda m, F: m.argmax(MATRIX, 2),
        IndexError,
        "argmax: dim 2 is out of range for a tensor of 2 dimensions",
    ),
    Wrong(
        "argmax",
        lambda m, F: m.argmax(EMPTY),
        ValueError,
        "argmax: no elements to reduce in shape (0,), dim None",
    ),
    Wrong(
        "argmin", lambda m, F: m.argmin(MATRIX, (0, 1)), TypeError, "argmin: dim expects an int, got (0, 1)"
    ),
    Wrong(
        "any",
        lambda m, F: m.any(MATRIX, 2),
        IndexError,
        "any: dim 2 is out of range for a tensor of 2 dimensions",
    ),
    Wrong(
        "all",
        lambda m, F: m.all(MATRIX, 2),
        IndexError,
        "all: dim 2 is out of range for a tensor of 2 dimensions",
    ),
    Wrong(
        "count_nonzero",
        lambda m, F: m.count_nonzero(MATRIX, 2),
        IndexError,
        "count_nonzero: dim 2 is out of range for a tensor of 2 dimensions",
    ),
    Wrong(
        "sum_to",
        lambda m, F: MATRIX.sum_to((2, 4)),
        ValueError,
        "sum_to: shape (2, 4) does not broadcast to (3, 4)",
    ),
    Wrong(
        "sort",
        lambda m, F: m.sort(MATRIX, 2),
        IndexError,
        "sort: dim 2 is out of range for a tensor of 2 dimensions",
    ),
    Wrong(
        "argsort",
        lambda m, F: m.argsort(MATRIX, 2),
        IndexError,
        "argsort: dim 2 is out of range for a tensor of 2 dimensions",
    ),
    Wrong("topk", lambda m, F: m.topk(MATRIX, 5), ValueError, "topk: k expects an int from 0 to 4, got 5"),
    Wrong(
        "topk",
        lambda m, F: m.topk(MATRIX, 1, 2),
        IndexError,
        "topk: dim 2 is out of range for a tensor of 2 dimensions",
    ),
    Wrong(
        "kthvalue",
        lambda m, F: m.kthvalue(MATRIX, 0),
        ValueError,
        "kthvalue: k expects an int from 1 to 4, got 0",
    ),
    Wrong(
        "median", lambda m, F: m.median(EMPTY), ValueError, "median: no elements along dim 0 of shape (0,)"
    ),
    Wrong(
        "median",
        lambda m, F: m.median(MATRIX, 2),
        IndexError,
        "median: dim 2 is out of range for a tensor of 2 dimensions",
    ),
    Wrong(
        "unique",
        lambda m, F: m.unique(MATRIX, dim=2),
        IndexError,
        "unique: dim 2 is out of range for a tensor of 2 dimensions",
    ),
]
