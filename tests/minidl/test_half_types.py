"""float16 and bfloat16 add up in float32: ones by the thousand, where the types themselves stop at 2048 and 256."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import Tensor, kernels

N = 4096
ZEROS = np.zeros(N, np.int64)
Shapes = tuple[tuple[int, ...], ...]

# name: function, shapes of its inputs (ones), its values, the gradients of their sum
SUMS: dict[str, tuple[Callable[..., Tensor], Shapes, float, tuple[float, ...]]] = {
    "sum": (lambda x: x.sum(), ((N,),), N, (1,)),
    "cumsum": (lambda x: x.cumsum(0)[-1:], ((N,),), N, (1,)),
    "norm": (lambda x: x.norm(), ((N,),), 64, (1 / 64,)),
    "einsum": (lambda x: minidl.einsum("i->", x), ((N,),), N, (1,)),
    "matmul": (lambda a, b: a @ b, ((1, N), (N, 1)), N, (1, 1)),
    "linear": (F.linear, ((1, N), (1, N)), N, (1, 1)),
    "linear, rows": (F.linear, ((N, 1), (1, 1), (1,)), 2, (1, N, N)),
    "conv2d, channels": (F.conv2d, ((1, N, 1, 1), (1, N, 1, 1)), N, (1, 1)),
    "conv2d, pixels": (F.conv2d, ((1, 1, 64, 64), (1, 1, 1, 1), (1,)), 2, (1, N, N)),
    "conv_transpose2d": (F.conv_transpose2d, ((1, N, 1, 1), (N, 1, 1, 1)), N, (1, 1)),
    "conv1d, window": (F.conv1d, ((1, 1, N), (1, 1, N)), N, (1, 1)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 64), ((1, 1, 64, 64),), 1, (1 / N,)),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, 1), ((1, 1, 64, 64),), 1, (1 / N,)),
    "max_pool2d": (lambda x: F.max_pool2d(x, 64), ((1, 1, 64, 64),), 1, (1,)),
    "fold": (lambda x: F.fold(x, (1, 1), 1), ((1, 1, 1),), 1, (1,)),
    "interpolate, nearest": (lambda x: F.interpolate(x, size=(64, 64)), ((1, 1, 1, 1),), 1, (N,)),
    "interpolate, bilinear": (
        lambda x: F.interpolate(x, size=(64, 64), mode="bilinear"),
        ((1, 1, 1, 1),),
        1,
        (N,),
    ),
    "pad, replicate": (lambda x: F.pad(x, (N - 1, 0), mode="replicate"), ((1, 1, 1),), 1, (N,)),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (2,), w, b), ((N, 2), (2,), (2,)), 1, (0, 0, N)),
    "group_norm": (
        lambda x, w, b: F.group_norm(x, 1, w, b),
        ((1, 2, 64, 64), (2,), (2,)),
        1,
        (0, 0, N),
    ),
    "batch_norm": (
        lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
        ((1, 2, 64, 64), (2,), (2,)),
        1,
        (0, 0, N),
    ),
    "cross_entropy": (
        lambda x: F.cross_entropy(x, ZEROS, reduction="sum"),
        ((N, 2),),
        N * np.log(2),
        (0.5,),
    ),
    "attention": (F.scaled_dot_product_attention, ((1, 1, 64), (1, N, 64), (1, N, 1)), 1, (0, 0, 1 / N)),
    "embedding": (lambda w: F.embedding(ZEROS, w), ((1, 2),), 1, (N,)),
    "gather": (lambda x: x.gather(0, ZEROS), ((1,),), 1, (N,)),
    "getitem": (lambda x: x[ZEROS], ((1,),), 1, (N,)),
    "scatter_add": (lambda s: minidl.zeros(1, dtype=s.dtype).scatter_add(0, ZEROS, s), ((N,),), N, (1,)),
    "repeat": (lambda x: x.repeat(N), ((1,),), 1, (N,)),
    "repeat_interleave": (lambda x: x.repeat_interleave(N, 0), ((1,),), 1, (N,)),
    "add, broadcast": (lambda a, b: a + b, ((1,), (N,)), 2, (N, 1)),
    "mul, broadcast": (lambda a, b: a * b, ((1,), (N,)), 1, (N, 1)),
    "prelu": (lambda x, w: -F.prelu(-x, w), ((1, 1, N), (1,)), 1, (1, N)),
    "expand": (lambda x: x.expand(N), ((1,),), 1, (N,)),
}


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", SUMS)
def test_sums_do_not_stop(name: str, dtype: str, backend: str) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    function, shapes, value, slopes = SUMS[name]
    xs = [minidl.ones(*s, dtype=dtype, requires_grad=True) for s in shapes]
    with kernels.use(backend), np.errstate(over="ignore"):
        y = function(*xs)
        weights: Any = np.ones(y.shape, y.dtype)
        grads = minidl.grad(y, xs, Tensor(weights))
    assert y.dtype == xs[0].dtype and all(g.dtype == y.dtype for g in grads)
    np.testing.assert_allclose(y.data.astype(np.float64).max(), value, rtol=0.01)
    for g, expected in zip(grads, slopes, strict=True):
        np.testing.assert_allclose(g.data.astype(np.float64).max(), expected, rtol=0.01, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_cast_carries_gradients_both_ways(dtype: str) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    x = Tensor(np.array([0.5, -2.0]), requires_grad=True)
    y = x.to(dtype)
    (g,) = minidl.grad((y * y).sum(), x)
    assert y.dtype == minidl.zeros(1, dtype=dtype).dtype and g.dtype == np.float64
    assert g.tolist() == [1.0, -4.0]
