"""Convolutions cut in any way: images in chunks of uneven heights, reductions in blocks, work in shares. All over
memory that holds NaN.

The sizes that decide where work is cut are made small, so that small images meet the cuts that large ones have.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl import kernels
from minidl.kernels.cpu import (
    CPUBackend,
    addresses,
    conv_pool,
    gather,
    group_weight,
    indirect,
    memory,
    weight_grad,
    winograd,
    winograd_weight,
)
from minidl.kernels.cpu.plan import even_split
from minidl.kernels.reference import ReferenceBackend
from tests.kernels.cases import Array, assert_near
from tests.kernels.threads import shares

CPU, REFERENCE = CPUBackend(), ReferenceBackend()
ACCURACY = 2e-5  # largest difference over largest value; Winograd's algorithms need the most


def in_ninths(count: int, most: int) -> int:
    """As :func:`even_split`, into pieces of a ninth."""
    return even_split(count, most // 9)


CUTS: dict[Any, dict[str, tuple[Any, ...]]] = {
    gather: {"SMALL": (0,), "GATHER_SLAB": (3 << 10, 20 << 10), "DEPTH_BLOCK": (24, 768)},
    indirect: {"SMALL": (0,), "CHUNK": (8 << 10,), "GROUP": (8 << 10,), "FEW_TILES": (0, 8)},
    addresses: {"DEPTH": (24, 384)},
    weight_grad: {"SMALL": (0,), "WEIGHT_PIXELS": ((16, 40), (30, 70)), "WEIGHT_SLAB": (16 << 10,)},
    group_weight: {"SMALL": (0,), "GATHER_SLAB": (3 << 10, 20 << 10)},
    winograd: {"LARGE": (1, 16 << 20)},
    winograd_weight: {"SLICE_BYTES": (64 << 10,), "SLICE_TILES": (4,), "even_split": (in_ninths,)},
    conv_pool: {"SCRATCH": (3 << 10, 20 << 10)},
}
SETTINGS = [(module, name, sizes) for module, names in CUTS.items() for name, sizes in names.items()]
sides = st.tuples(st.integers(0, 2), st.integers(0, 2))


def forget_plans() -> None:
    """Plans were made for other sizes."""
    for module in CUTS:
        for value in vars(module).values():
            if hasattr(value, "cache_clear") and value.__name__.startswith(("plan_", "takes_")):
                value.cache_clear()


def poisoned(function: Any) -> Any:
    """The function, but the arrays that it gives are full of NaN; integers are -1."""

    def run(*args: Any) -> Any:
        made = function(*args)
        for array in made if isinstance(made, list) else [made]:
            array.reshape(-1).view(np.uint8).fill(0xFF)
        return made

    return run


def poison(patch: pytest.MonkeyPatch) -> None:
    """All memory that kernels ask for is full of NaN, and plans are made anew."""
    for name in ("fresh", "workspace"):
        patch.setattr(memory, name, poisoned(getattr(memory, name)))
    forget_plans()


@st.composite
def convolutions(draw: Any) -> tuple[list[Array], tuple[Any, ...]]:
    """x, w, bias, a residual and an output gradient, and the options of a convolution."""
    groups = draw(st.sampled_from([1, 1, 1, 1, 4]))
    channels, outputs = (groups * draw(st.sampled_from(s)) for s in ([3, 16, 32, 19], [16, 48, 33, 1]))
    kernel = draw(st.sampled_from([(3, 3), (3, 3), (1, 1), (7, 7), (2, 3)]))
    stride = draw(st.sampled_from([(1, 1), (2, 2), (2, 2), (3, 1)]))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (1, 1), (2, 1)]))
    pad = draw(st.sampled_from([((1, 1), (1, 1))]) | st.tuples(sides, sides))
    size = [(k - 1) * d + draw(st.integers(1, 25)) for k, d in zip(kernel, dilation, strict=True)]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    options = (stride, pad, dilation, groups)
    x, w = (
        rng.standard_normal(shape, np.float32)
        for shape in ((draw(st.integers(1, 2)), *size, channels), (outputs, *kernel, channels // groups))
    )
    shape = REFERENCE.conv2d(x, w, None, *options).shape
    return [x, w, *(rng.standard_normal(s, np.float32) for s in (outputs, shape, shape))], options


@settings(max_examples=35, deadline=None, derandomize=True)
@given(
    case=convolutions(),
    relu=st.booleans(),
    algorithm=st.sampled_from(["auto", "winograd", "direct"]),
    sizes=st.tuples(*(st.sampled_from(sizes) for _, _, sizes in SETTINGS)),
)
def test_no_cut_changes_a_convolution(case: Any, relu: bool, algorithm: str, sizes: tuple[Any, ...]) -> None:
    arrays, options = case

    def run(be: Any, x: Array, w: Array, bias: Array, residual: Array, gy: Array) -> list[Array]:
        y = be.conv2d(x, w, bias, *options, relu=relu, residual=residual)
        gx = be.conv2d_input_grad(gy, w, x.shape[1:3], *options, residual=x)
        return [y, gx, be.conv2d_weight_grad(gy, x, w.shape[1:3], *options)]

    expected = run(REFERENCE, *(a.astype(np.float64) for a in arrays))
    first: list[Array] = []
    with pytest.MonkeyPatch.context() as patch, kernels.conv_algorithm(algorithm):
        for (module, name, _), value in zip(SETTINGS, sizes, strict=True):
            patch.setattr(module, name, value)
        poison(patch)
        for count in (1, 3, 5):
            with shares(patch, count):
                results = run(CPU, *arrays)
            for a, b in zip(results, expected, strict=True):
                assert_near(a, b, ACCURACY, "float32")
            first = first or results
            for a, b in zip(results, first, strict=True):
                np.testing.assert_array_equal(a, b)
    forget_plans()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    images=st.integers(1, 2),
    size=st.tuples(st.integers(12, 50), st.integers(12, 40)),
    conv_pad=st.tuples(sides, sides),
    window=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.integers(1, 2),
    scratch=st.sampled_from(CUTS[conv_pool]["SCRATCH"]),
)
def test_no_cut_changes_a_pooled_convolution(
    images: int, size: Any, conv_pad: Any, window: Any, stride: Any, dilation: int, scratch: int
) -> None:
    rng = np.random.default_rng(sum(size))
    x = rng.standard_normal((images, *size, 3), np.float32)
    w, bias = rng.standard_normal((16, 3, 3, 3), np.float32), rng.standard_normal(16, np.float32)
    options = ((2, 2), conv_pad, (1, 1), 1)
    y = CPU.conv2d(x, w, bias, *options, relu=True)
    out_hw = tuple((y.shape[1 + a] - dilation * (window[a] - 1) - 1) // stride[a] + 1 for a in (0, 1))
    if min(out_hw) < 1:
        return
    pool = (window, stride, ((0, 0), (0, 0)), (dilation, dilation), out_hw)
    expected, _ = CPU.max_pool2d(y, *pool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv_pool, "SCRATCH", scratch)
        patch.setattr(gather, "SMALL", 0)
        poison(patch)
        for count in (1, 3, 5):
            with shares(patch, count):
                result = CPU.conv2d_max_pool2d(x, w, bias, *options, pool, relu=True)
            np.testing.assert_array_equal(result, expected)
    forget_plans()
