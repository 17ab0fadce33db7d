"""The operators that ResNets need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.testing.cases.entry import Entry, ints

MASK = np.random.default_rng(3).random((3, 4)) > 0.5
LABELS = np.array([1, 0, 4, 2, 2, 3])
IGNORED = np.array([1, -100, 4, 2, -100, 3])
MAP_LABELS = np.random.default_rng(4).integers(0, 5, (2, 3, 2))
CLASS_WEIGHTS = np.array([0.2, 1.0, 3.0, 0.5, 1.7])
ROWS = np.array([2, 0, 2])
COLUMNS = np.array([1, 1, 3])


def _bn(training: bool, **options: Any) -> Callable[..., Any]:
    def run(m: Any, F: Any, x: Any, w: Any, b: Any) -> Any:
        mean, var = m.tensor(np.linspace(-0.5, 0.5, 4)), m.tensor(np.linspace(0.5, 2.0, 4))
        return F.batch_norm(x, mean, var, w, b, training, **options)

    return run


def _bn_block(training: bool) -> Callable[..., Any]:
    """The fused block in minidl, its parts in PyTorch."""

    def run(m: Any, F: Any, x: Any, w: Any, b: Any, r: Any) -> Any:
        mean, var = m.tensor(np.linspace(-0.5, 0.5, 4)), m.tensor(np.linspace(0.5, 2.0, 4))
        if m.__name__ == "minidl":
            return F.batch_norm(x, mean, var, w, b, training, residual=r, relu=True)
        return F.relu(F.batch_norm(x, mean, var, w, b, training) + r)

    return run


def _conv(**options: Any) -> Callable[..., Any]:
    return lambda m, F, x, w, b: F.conv2d(x, w, b, **options)


A, B = (3, 4), (3, 4)
IMG = (2, 4, 6, 5)

TABLE = [
    Entry("add", lambda m, F, a, b: a + b, (A, B)),
    Entry("add_broadcast", lambda m, F, a, b: a + b, ((3, 1, 4), (2, 1))),
    Entry("add_scalar", lambda m, F, a: 2.5 + a + 1, (A,)),
    Entry("add_same_tensor_twice", lambda m, F, a: a + a, (A,)),
    Entry("sub", lambda m, F, a, b: a - b, (A, (4,))),
    Entry("rsub_scalar", lambda m, F, a: 2.0 - a, (A,)),
    Entry("mul", lambda m, F, a, b: a * b, (A, B)),
    Entry("mul_broadcast", lambda m, F, a, b: a * b, ((3, 1), (1, 4))),
    Entry("mul_same_tensor_twice", lambda m, F, a: a * a * a, (A,)),
    Entry("div", lambda m, F, a, b: a / b, (A, (4,)), low=0.5),
    Entry("rdiv_scalar", lambda m, F, a: 3 / a, (A,), low=0.5),
    Entry("pow", lambda m, F, a, b: a**b, (A, B), low=0.5),
    Entry("pow_square", lambda m, F, a: a**2, (A,)),
    Entry("pow_cube", lambda m, F, a: a**3, (A,)),
    Entry("pow_fraction", lambda m, F, a: a**0.5, (A,), low=0.5),
    Entry("rpow", lambda m, F, a: 2.0**a, (A,)),
    Entry("neg", lambda m, F, a: -a, (A,)),
    Entry("exp", lambda m, F, a: a.exp(), (A,)),
    Entry("log", lambda m, F, a: a.log(), (A,), low=0.5),
    Entry("sqrt", lambda m, F, a: a.sqrt(), (A,), low=0.5),
    Entry("tanh", lambda m, F, a: a.tanh(), (A,)),
    Entry("sigmoid", lambda m, F, a: a.sigmoid(), (A,)),
    Entry("relu", lambda m, F, a: F.relu(a), (IMG,), spread=True),
    Entry("abs", lambda m, F, a: a.abs(), (A,), spread=True),
    Entry("clamp", lambda m, F, a: m.clamp(a, -0.45, 0.7), (A,), spread=True),
    Entry("clamp_below", lambda m, F, a: m.clamp(a, min=0.1), (A,), spread=True),
    Entry("where", lambda m, F, a, b: m.where(ints(m, MASK), a, b), (A, (4,))),
    Entry("maximum", lambda m, F, a, b: m.maximum(a, b), (A, B)),
    Entry("cast_to_itself", lambda m, F, a: a * 1 if m.__name__ == "torch" else a.to(a.dtype) * 1, (A,)),
    Entry("clone", lambda m, F, a: a.clone() * a, (A,)),
    Entry("sum_all", lambda m, F, a: a.sum(), (A,)),
    Entry("sum_dim", lambda m, F, a: a.sum(1), ((2, 3, 4),)),
    Entry("sum_dims_keepdim", lambda m, F, a: a.sum((0, 2), keepdim=True), ((2, 3, 4),)),
    Entry("mean", lambda m, F, a: a.mean((0, -1)), ((2, 3, 4),)),
    Entry("var", lambda m, F, a: a.var(1), ((3, 5),)),
    Entry("var_biased", lambda m, F, a: a.var((0, 2), correction=0, keepdim=True), ((2, 3, 4),)),
    Entry("max_all", lambda m, F, a: a.max(), (A,), spread=True),
    Entry("max_dim", lambda m, F, a: a.max(1).values, (A,), spread=True),
    Entry("min_all", lambda m, F, a: a.min(), (A,), spread=True),
    Entry("logsumexp", lambda m, F, a: m.logsumexp(a, 1), (A,)),
    Entry("softmax", lambda m, F, a: F.softmax(a, 1), ((2, 5, 3),)),
    Entry("log_softmax", lambda m, F, a: F.log_softmax(a, -1), (A,)),
    Entry("reshape", lambda m, F, a: a.reshape(2, -1) * 2, (A,)),
    Entry("flatten", lambda m, F, a: a.flatten(1), (IMG,)),
    Entry("permute", lambda m, F, a: a.permute(2, 0, 1), ((2, 3, 4),)),
    Entry("transpose", lambda m, F, a: a.transpose(0, -1), ((2, 3, 4),)),
    Entry("expand", lambda m, F, a: a.expand(5, 3, 4), ((3, 1),)),
    Entry("squeeze_unsqueeze", lambda m, F, a: a.squeeze().unsqueeze(1), ((3, 1, 4),)),
    Entry("pad", lambda m, F, a: F.pad(a, (1, 2, 0, 3), value=1.5), ((2, 2, 3, 4),)),
    Entry("getitem_basic", lambda m, F, a: a[1:, ::2], ((4, 5),)),
    Entry("getitem_int_none", lambda m, F, a: a[..., 1, None], ((4, 5),)),
    Entry("getitem_repeated", lambda m, F, a: a[ints(m, ROWS)], ((4, 5),)),
    Entry("getitem_pairs", lambda m, F, a: a[ints(m, ROWS), ints(m, COLUMNS)], ((4, 5),)),
    Entry("getitem_mask", lambda m, F, a: a[ints(m, MASK)], (A,)),
    Entry("cat", lambda m, F, a, b: m.cat([a, b, a], 1), ((2, 3), (2, 1))),
    Entry("stack", lambda m, F, a, b: m.stack([a, b], 1), (A, B)),
    Entry("matmul", lambda m, F, a, b: a @ b, ((3, 4), (4, 2))),
    Entry("matmul_batched", lambda m, F, a, b: a @ b, ((2, 1, 3, 4), (5, 4, 2))),
    Entry("matmul_vector", lambda m, F, a, b: (a @ b).sum() + b @ b, ((2, 3, 4), (4,))),
    Entry("matmul_row", lambda m, F, a, b: a @ b, ((4,), (2, 4, 3))),
    Entry("linear", lambda m, F, x, w, b: F.linear(x, w, b), ((5, 4), (3, 4), (3,))),
    Entry("linear_stacked_no_bias", lambda m, F, x, w: F.linear(x, w), ((2, 5, 4), (3, 4))),
    Entry("conv2d", _conv(padding=1), (IMG, (3, 4, 3, 3), (3,))),
    Entry("conv2d_pointwise", _conv(), (IMG, (5, 4, 1, 1), (5,))),
    Entry("conv2d_pointwise_stride", _conv(stride=2), (IMG, (5, 4, 1, 1), (5,))),
    Entry("conv2d_stride", _conv(stride=2, padding=1), (IMG, (3, 4, 3, 3), (3,))),
    Entry("conv2d_stride_leaves_a_border", _conv(stride=(3, 2)), ((1, 2, 9, 8), (3, 2, 2, 3), (3,))),
    Entry("conv2d_even_kernel", _conv(padding=(1, 0)), (IMG, (3, 4, 2, 4), (3,))),
    Entry("conv2d_dilation", _conv(dilation=(1, 2), padding=(0, 2)), (IMG, (3, 4, 3, 3), (3,))),
    Entry("conv2d_groups", _conv(groups=2, stride=2, padding=1), (IMG, (6, 2, 3, 3), (6,))),
    Entry("conv2d_depthwise", _conv(groups=4, padding=1), (IMG, (4, 1, 3, 3), (4,))),
    Entry("conv2d_depthwise_multiplier", _conv(groups=4, stride=2), (IMG, (8, 1, 3, 3), (8,))),
    Entry("conv2d_same", _conv(padding="same", dilation=(1, 2)), (IMG, (3, 4, 4, 3), (3,))),
    Entry("conv2d_stem", _conv(stride=2, padding=3), ((1, 3, 17, 15), (8, 3, 7, 7), (8,))),
    Entry(
        "conv2d_asymmetric_padding",
        lambda m, F, x, w: (
            F.conv2d(x, w, padding=((0, 2), (1, 0)))
            if m.__name__ == "minidl"
            else F.conv2d(F.pad(x, (1, 0, 0, 2)), w)
        ),
        (IMG, (3, 4, 3, 3)),
    ),
    Entry("max_pool2d", lambda m, F, x: F.max_pool2d(x, 3, 2, 1), (IMG,), spread=True),
    Entry("max_pool2d_overlap", lambda m, F, x: F.max_pool2d(x, 3, 1), (IMG,), spread=True),
    Entry("max_pool2d_ceil", lambda m, F, x: F.max_pool2d(x, 3, 2, ceil_mode=True), (IMG,), spread=True),
    Entry(
        "max_pool2d_dilation", lambda m, F, x: F.max_pool2d(x, (2, 3), 1, (1, 1), (2, 1)), (IMG,), spread=True
    ),
    Entry("avg_pool2d", lambda m, F, x: F.avg_pool2d(x, 2), (IMG,)),
    Entry("avg_pool2d_padding", lambda m, F, x: F.avg_pool2d(x, 3, 2, 1), (IMG,)),
    Entry("avg_pool2d_exclude_pad", lambda m, F, x: F.avg_pool2d(x, 3, 2, 1, True, False), (IMG,)),
    Entry("avg_pool2d_ceil", lambda m, F, x: F.avg_pool2d(x, 2, 2, 0, True), (IMG,)),
    Entry("adaptive_avg_pool2d", lambda m, F, x: F.adaptive_avg_pool2d(x, (4, 3)), (IMG,)),
    Entry("global_avg_pool", lambda m, F, x: F.adaptive_avg_pool2d(x, 1), (IMG,)),
    Entry("batch_norm_train", _bn(True), (IMG, (4,), (4,))),
    Entry("batch_norm_eval", _bn(False), (IMG, (4,), (4,))),
    Entry("batch_norm_rows", _bn(True, eps=1e-3), ((5, 4), (4,), (4,))),
    Entry("batch_norm_plain", lambda m, F, x: F.batch_norm(x, None, None, training=True), (IMG,)),
    Entry("batch_norm_block_train", _bn_block(True), (IMG, (4,), (4,), IMG)),
    Entry("batch_norm_block_eval", _bn_block(False), (IMG, (4,), (4,), IMG)),
    Entry("cross_entropy", lambda m, F, x: F.cross_entropy(x, ints(m, LABELS)), ((6, 5),)),
    Entry(
        "cross_entropy_weight_smoothing",
        lambda m, F, x: F.cross_entropy(
            x,
            ints(m, LABELS),
            m.tensor(CLASS_WEIGHTS, dtype=x.dtype),
            label_smoothing=0.1,
        ),
        ((6, 5),),
    ),
    Entry(
        "cross_entropy_ignore_weight",
        lambda m, F, x: F.cross_entropy(x, ints(m, IGNORED), m.tensor(CLASS_WEIGHTS, dtype=x.dtype)),
        ((6, 5),),
    ),
    Entry(
        "cross_entropy_sum",
        lambda m, F, x: F.cross_entropy(x, ints(m, IGNORED), reduction="sum", label_smoothing=0.3),
        ((6, 5),),
    ),
    Entry(
        "cross_entropy_map",
        lambda m, F, x: F.cross_entropy(x, ints(m, MAP_LABELS), reduction="none"),
        ((2, 5, 3, 2),),
    ),
]
