"""bfloat16 and float16 on the CPU back end: products of the rounded operands, float32 sums, one rounding at the end."""

from __future__ import annotations

import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from minidl import kernels
from minidl.kernels.cpu import CPUBackend, half, simd
from minidl.kernels.cpu.compiler import jit
from minidl.kernels.cpu.layout import dense
from minidl.kernels.reference import ReferenceBackend

CPU, REFERENCE = CPUBackend(), ReferenceBackend()
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
EPS = {BFLOAT16: 2.0**-7, np.dtype(np.float16): 2.0**-10}

CASES = [  # images, height, width, channels, outputs, window, stride, padding, dilation, groups
    (2, 9, 11, 6, 10, 3, 1, 1, 1, 1),
    (1, 7, 7, 5, 33, 3, 2, 1, 1, 1),
    (2, 12, 10, 3, 20, 7, 2, 3, 1, 1),
    (1, 8, 8, 64, 64, 1, 1, 0, 1, 1),
    (1, 8, 8, 64, 65, 1, 2, 0, 1, 1),
    (2, 6, 6, 8, 12, 3, 1, 2, 2, 2),
    (2, 6, 6, 6, 10, 3, 1, 1, 1, 2),
    (1, 5, 5, 6, 6, 3, 1, 1, 1, 6),
    (1, 9, 9, 300, 40, 3, 1, 1, 1, 1),
    (3, 2, 2, 1, 1, 3, 3, 1, 1, 1),
]


def near(ours, exact, dtype, terms):
    """One rounding to the dtype, and float32 sums of ``terms`` products."""
    assert ours.dtype == dtype
    assert ours.shape == exact.shape
    scale = np.abs(exact).max()
    return np.abs(ours.astype(np.float64) - exact).max() <= scale * (
        EPS[dtype] / 2 * 1.01 + 1e-6 * terms**0.5
    )


@pytest.mark.parametrize("dtype", list(EPS), ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_convolution_and_gradients_round_once(case, dtype):
    n, h, w, c, o, k, s, p, d, g = case
    rng = np.random.default_rng(1)
    x = rng.standard_normal((n, h, w, c)).astype(dtype)
    weight = rng.standard_normal((o, k, k, c // g)).astype(dtype)
    bias = rng.standard_normal(o).astype(dtype)
    place = ((s, s), ((p, p), (p, p)), (d, d), g)
    exact = [a.astype(np.float64) for a in (x, weight, bias)]
    y = CPU.conv2d(x, weight, bias, *place)
    assert near(y, REFERENCE.conv2d(*exact, *place), dtype, k * k * c)
    residual = rng.standard_normal(y.shape).astype(dtype)
    fused = CPU.conv2d(x, weight, bias, *place, relu=True, residual=residual)
    expected = REFERENCE.conv2d(*exact, *place, relu=True, residual=residual.astype(np.float64))
    assert near(fused, expected, dtype, k * k * c)
    gy = rng.standard_normal(y.shape).astype(dtype)
    wide = gy.astype(np.float64)
    gx = CPU.conv2d_input_grad(gy, weight, (h, w), *place)
    assert near(gx, REFERENCE.conv2d_input_grad(wide, exact[1], (h, w), *place), dtype, k * k * o)
    gw = CPU.conv2d_weight_grad(gy, x, (k, k), *place)
    assert near(gw, REFERENCE.conv2d_weight_grad(wide, exact[0], (k, k), *place), dtype, gy.size)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_do_not_depend_on_the_threads(threads):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((2, 20, 20, 64)).astype(BFLOAT16)
    w = rng.standard_normal((64, 3, 3, 64)).astype(BFLOAT16)
    place = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    before = kernels.get_num_threads()
    try:
        kernels.set_num_threads(5)
        expected = CPU.conv2d(x, w, None, *place)
        kernels.set_num_threads(threads)
        np.testing.assert_array_equal(half.bits(CPU.conv2d(x, w, None, *place)), half.bits(expected))
    finally:
        kernels.set_num_threads(before)


@jit
def _round(source, out):
    for i in range(source.size):
        simd.put(out, i, source[i])


@jit
def _widen(source, out):
    for i in range(source.size):
        out[i] = simd.number(source, i)


_tile = simd.tile("bfloat16", 2, 1)
_load, _store = _tile.load, _tile.store


@jit
def _round_tile(source, out, stride):
    _store(_load(source, 0, stride), out, 0, stride)


def test_rounding_is_to_nearest_even_and_keeps_nan_and_infinity():
    special = [
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        -np.nan,
        3.4e38,
        -3.4e38,
        1e-40,
        1.00390625,
        1.01171875,
        1 / 3,
    ]
    bits = np.array([0x7F800001, 0xFFFFFFFF, 0x7FFFFFFF, 0x3F808000, 0x3F818000, 0x3F808001], np.uint32)
    rng = np.random.default_rng(0)
    numbers = np.concatenate(
        [np.array(special, np.float32), bits.view(np.float32), rng.standard_normal(14, np.float32)]
    )
    assert numbers.size == 2 * 16
    with np.errstate(all="ignore"):
        expected = numbers.astype(BFLOAT16)
    lanes = simd.target().float_lanes
    rounded = np.empty(numbers.size, np.uint16)
    _round(numbers, rounded)
    by_tile = np.empty(numbers.size, np.uint16)
    for first in range(0, numbers.size, 2 * lanes):
        part = np.empty(2 * lanes, np.uint16)
        _round_tile(numbers[first : first + 2 * lanes].copy(), part, lanes)
        by_tile[first : first + 2 * lanes] = part
    for ours in (rounded, by_tile):
        np.testing.assert_array_equal(np.isnan(ours.view(BFLOAT16)), np.isnan(expected))
        finite = ~np.isnan(expected)
        if ours is by_tile:  # the instruction makes numbers below 1e-38 zero
            finite &= numbers != np.float32(1e-40)
        np.testing.assert_array_equal(ours[finite], half.bits(expected)[finite])
    wide = np.empty(numbers.size, np.float32)
    _widen(half.bits(expected).copy(), wide)
    np.testing.assert_array_equal(wide, expected.astype(np.float32))


def test_a_processor_without_the_instruction_computes_the_same():
    code = (
        "import numpy as np, ml_dtypes\n"
        "from minidl.kernels.cpu import CPUBackend, simd\n"
        "assert not simd.target().dot_bfloat16\n"
        "rng = np.random.default_rng(0)\n"
        "x, w = (rng.standard_normal(s).astype(ml_dtypes.bfloat16) for s in ((1, 6, 7, 5), (9, 3, 3, 5)))\n"
        "y = CPUBackend().conv2d(x, w, None, (1, 1), ((1, 1), (1, 1)), (1, 1), 1)\n"
        "print(y.astype(np.float32).tobytes().hex())\n"
    )
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(BFLOAT16) for s in ((1, 6, 7, 5), (9, 3, 3, 5)))
    place = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    exact = REFERENCE.conv2d(x.astype(np.float64), w.astype(np.float64), None, *place)
    environment = {**os.environ, "NUMBA_CPU_NAME": "x86-64" if os.uname().machine == "x86_64" else "generic"}
    environment["NUMBA_CPU_FEATURES"] = ""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    y = np.frombuffer(bytes.fromhex(result.stdout.strip()), np.float32).reshape(exact.shape)
    assert near(y.astype(BFLOAT16), exact, BFLOAT16, 45)


def test_sums_are_kept_in_float32():
    x = np.ones((1, 1, 1, 4096), BFLOAT16)
    w = np.ones((1, 1, 1, 4096), BFLOAT16)
    y = CPU.conv2d(x, w, None, (1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    assert float(y[0, 0, 0, 0]) == 4096.0  # a bfloat16 sum stops at 256


@pytest.mark.parametrize("size", [7, 40_000])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 1, 2)])
def test_casts_keep_numbers_and_memory_order(size, order):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 1, size, 2), np.float32)
    x[0, 0, :5, 0] = [np.nan, np.inf, -np.inf, -0.0, 1e-40]
    x = x.transpose(order)
    half_x = CPU.cast(x, BFLOAT16)
    expected = REFERENCE.cast(x, BFLOAT16)
    np.testing.assert_array_equal(half_x.astype(np.float32), expected.astype(np.float32))
    assert np.signbit(half_x.astype(np.float32)[x == 0]).all()
    assert half_x.transpose(np.argsort(order)).flags.c_contiguous
    np.testing.assert_array_equal(CPU.cast(half_x, np.float32), expected.astype(np.float32))
    assert CPU.cast(x, np.float32) is x
    np.testing.assert_array_equal(CPU.cast(x, np.float16), REFERENCE.cast(x, np.float16))


@pytest.mark.parametrize("dtype", list(EPS), ids=str)
def test_pooling_and_products_round_once(dtype):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 9, 8, 20)).astype(dtype)
    window = ((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1))
    y, index = CPU.max_pool2d(x, *window, (5, 4))
    exact, place = REFERENCE.max_pool2d(x.astype(np.float64), *window, (5, 4))
    np.testing.assert_array_equal(y.astype(np.float64), exact)
    np.testing.assert_array_equal(index, place)
    assert y.dtype == dtype
    assert near(
        CPU.adaptive_avg_pool2d(x, (1, 1)), x.astype(np.float64).mean((1, 2), keepdims=True), dtype, 72
    )
    a, b = (rng.standard_normal(s).astype(dtype) for s in ((40, 300), (30, 300)))
    assert near(CPU.linear(a, b, None), a.astype(np.float64) @ b.astype(np.float64).T, dtype, 300)
    assert near(CPU.matmul(a, b.T), a.astype(np.float64) @ b.astype(np.float64).T, dtype, 300)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, BFLOAT16], ids=str)
@pytest.mark.parametrize("order", [(0, 3, 1, 2), (0, 2, 3, 1), (3, 2, 1, 0)])
def test_dense_turns_memory_of_any_dtype(dtype, order):
    x = np.random.default_rng(0).standard_normal((3, 37, 41, 5)).astype(dtype).transpose(order)
    copy = dense(x)
    assert copy.flags.c_contiguous
    assert copy.dtype == dtype
    np.testing.assert_array_equal(copy.astype(np.float64), x.astype(np.float64))
