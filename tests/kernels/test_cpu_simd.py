"""The vector vocabulary: every intrinsic beside NumPy, and the tiles that fit the registers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidl.kernels.cpu import simd
from minidl.kernels.cpu.compiler import jit
from minidl.kernels.cpu.plan import tile_shapes
from minidl.kernels.cpu.square import square as square_tile

SHAPES = {(s.rows, s.vectors) for s in tile_shapes()} | {(1, 1), (3, 2)}


@pytest.mark.parametrize(("rows", "vectors"), sorted(SHAPES)[:4])
def test_a_tile_multiplies_adds_and_stores(rows: int, vectors: int) -> None:
    tile = simd.tile("float32", rows, vectors)
    zero, fma, load, add, store = tile.zero, tile.fma, tile.load, tile.add, tile.store
    add_row, relu, cols = tile.add_row, tile.relu, tile.cols

    @jit(variant=f"test-{tile.name}")
    def run(a: Any, stride: int, b: Any, start: Any, row: Any, out: Any) -> None:
        acc = zero()
        for k in range(b.size // cols):
            acc = fma(acc, a, k, stride, b, k * cols)
        acc = add_row(add(acc, start, 0, cols), row, 0)
        store(relu(acc), out, 0, cols)
        store(load(out, 0, cols), out, rows * cols, cols)

    rng = np.random.default_rng(rows)
    depth = 9
    a = rng.integers(-4, 5, (rows, depth + 3)).astype(np.float32)
    b = rng.integers(-4, 5, (depth, cols)).astype(np.float32)
    start = rng.integers(-9, 9, (rows, cols)).astype(np.float32)
    row = rng.integers(-9, 9, cols).astype(np.float32)
    row[0] = np.nan
    out = np.zeros((2, rows, cols), np.float32)
    run(a.reshape(-1), a.shape[1], b.reshape(-1), start.reshape(-1), row, out.reshape(-1))
    expected = np.maximum(a[:, :depth] @ b + start + row, 0)
    np.testing.assert_array_equal(out[0], expected)  # whole numbers: exact, and NaN passes ReLU
    np.testing.assert_array_equal(out[1], expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_square_tile_transposes_and_follows_tables(dtype: str) -> None:
    square = square_tile(dtype)
    load, load_at, add_at = square.load, square.load_at, square.add_at
    transpose, store, store_at = square.transpose, square.store, square.store_at
    lanes = square.lanes

    @jit(variant=f"test-{dtype}x{lanes}")
    def run(m: Any, table: Any, out: Any, by_table: Any) -> None:
        store(transpose(load(m, 0, lanes)), out, 0, lanes)
        twice = add_at(load_at(m, 0, table, 0), m, 0, table, 0)
        store_at(twice, by_table, 0, table, lanes)

    m = np.arange(lanes * lanes, dtype=dtype)
    order = np.random.default_rng(0).permutation(lanes)
    targets = np.arange(lanes) * lanes
    targets[1] = -1  # left out
    out, by_table = np.zeros_like(m), np.zeros_like(m)
    run(m, np.concatenate([order * lanes, targets]), out, by_table)
    matrix = m.reshape(lanes, lanes)
    np.testing.assert_array_equal(out.reshape(lanes, lanes), matrix.T)
    expected = 2 * matrix[order]
    expected[1] = 0
    np.testing.assert_array_equal(by_table.reshape(lanes, lanes), expected)


def test_copies_move_what_they_are_told() -> None:
    @jit(variant="test")
    def run(to: Any, source: Any) -> None:
        simd.copy(to, 2, source, 3, 4)

    to = np.zeros(8, np.float32)
    run(to, np.arange(10, dtype=np.float32))
    np.testing.assert_array_equal(to, [0, 0, 3, 4, 5, 6, 0, 0])


def test_a_tile_of_another_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="float32, float64 or bfloat16, got float16"):
        simd.tile("float16", 2, 2)
    with pytest.raises(ValueError, match="got int32"):
        square_tile("int32")


TARGETS = [
    (("x86_64-unknown-linux-gnu", "znver5", "+avx2,+fma,+avx512f"), (16, 32, True)),
    (("x86_64-unknown-linux-gnu", "znver5", "+avx2,+fma,-avx512f"), (8, 16, True)),
    (("x86_64-pc-windows-msvc", "haswell", ""), (8, 16, True)),
    (("x86_64-apple-darwin", "skylake-avx512", ""), (16, 32, True)),
    (("x86_64-unknown-linux-gnu", "generic", ""), (4, 16, False)),
    (("x86_64-unknown-linux-gnu", "sandybridge", "+avx,-avx2,-fma"), (8, 16, False)),
    (("arm64-apple-darwin23", "apple-m1", "+neon"), (4, 32, True)),
    (("aarch64-unknown-linux-gnu", "generic", ""), (4, 32, True)),
    (("riscv64-unknown-linux-gnu", "generic", ""), (4, 16, False)),
]


@pytest.mark.parametrize(("described", "expected"), TARGETS)
def test_the_target_follows_the_compilers_features(described: Any, expected: Any) -> None:
    assert simd.target_of(*described) == simd.Target(*expected)


def test_every_tile_fits_the_registers() -> None:
    for shape in tile_shapes():
        assert shape.rows * shape.vectors + shape.vectors + 1 <= simd.target().registers
