"""The small transforms of Winograd's algorithms: their matrices, and that the functions apply them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidl.kernels.cpu import winograd_strided, winograd_tiles
from minidl.kernels.cpu.lanes import LANES
from minidl.kernels.cpu.winograd_blocks import Picture, Tiles, by_lanes
from minidl.kernels.cpu.winograd_family import LINE, SIDE_BY_SIDE, SPREAD, STRIDED, Family
from tests.kernels.cases import Array


def matrices_of(family: Family) -> tuple[Array, Array, Array]:
    """B transposed, G and A transposed."""
    if family is SIDE_BY_SIDE:
        return winograd_tiles.matrices()
    b_t, g, a_t = winograd_strided.matrices()
    if family is SPREAD:
        b_t, a_t = winograd_strided.gradient_matrices()
    return b_t, g, a_t


def line_is_computed(family: Family, b_t: Array, g: Array, a_t: Array) -> bool:
    """Whether the matrices give what the family computes of a line: a convolution, or the input gradient of one."""
    rng = np.random.default_rng(0)
    d, w = rng.normal(size=b_t.shape[1]), rng.normal(size=3)
    weights = (g @ (w[::-1] if family is SPREAD else w))[np.minimum(np.arange(family.points), LINE - 1)]
    if family is SPREAD:
        wide = np.zeros(2 * len(d) + 1)
        for i, value in enumerate(d):  # each output is spread over three inputs
            wide[2 * i : 2 * i + 3] += value * w
        expected = wide[1:9]
    else:
        expected = np.correlate(d, w, "valid")[:: 2 if family is STRIDED else 1]
    return bool(np.allclose(a_t @ (weights * (b_t @ d)), expected, atol=1e-11))


families = pytest.mark.parametrize("family", [SIDE_BY_SIDE, STRIDED, SPREAD], ids=lambda family: family.name)


@families
def test_the_matrices_compute_a_line(family: Family) -> None:
    assert line_is_computed(family, *matrices_of(family))


@families
def test_a_wrong_number_in_any_place_of_a_matrix_is_seen(family: Family) -> None:
    for which in range(3):
        for place in np.ndindex(matrices_of(family)[which].shape):
            planted = [matrix.copy() for matrix in matrices_of(family)]
            planted[which][place] += 0.25
            assert not line_is_computed(family, planted[0], planted[1], planted[2]), (which, place)


@families
def test_the_input_and_output_matrices_are_exact_in_float32(family: Family) -> None:
    b_t, _, a_t = matrices_of(family)
    for matrix in (b_t, a_t):
        np.testing.assert_array_equal(matrix.astype(np.float32), matrix)


def one_tile(size: int) -> tuple[Tiles, Picture]:
    return Tiles(1, 1, 1), Picture(size, size, LANES, 0, 0, size, size)


def numbers(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def both_axes(matrix: Array, values: Array) -> Array:
    return np.einsum("ik,klc,jl->ijc", matrix, values, matrix)


@families
def test_inputs_weights_and_outputs_are_transformed_by_the_matrices(family: Family) -> None:
    b_t, g, a_t = matrices_of(family)
    points, reads, writes = family.points, b_t.shape[1], a_t.shape[0]
    scratch = np.zeros((points + 1) * points * LANES, np.float32)
    packed = by_lanes(1, LANES)
    d, v = numbers(1, reads, reads, LANES), np.zeros((points, points, LANES), np.float32)
    place: Any = (scratch, 0, v.reshape(-1), 0, packed)
    family.transform_inputs(*one_tile(reads), d.reshape(-1), 0, 1, 0, LANES, *place)
    np.testing.assert_allclose(v, both_axes(b_t, d), atol=1e-5)
    w, u = numbers(2, 3, 3, LANES), np.zeros((LINE, LINE, LANES), np.float32)
    family.transform_weight(w.reshape(-1), 0, 3 * LANES, LANES, scratch, 0, u.reshape(-1), 0, LANES)
    np.testing.assert_allclose(u, both_axes(g, w), atol=1e-5)
    m, y = numbers(3, points, points, LANES), np.zeros((writes, writes, LANES), np.float32)
    rest = (np.zeros(LANES, np.float32), y.reshape(-1), False, np.float32(-np.inf), y.reshape(-1), False)
    family.finish_block(*one_tile(writes), m.reshape(-1), 0, packed, 0, 1, 0, LANES, scratch, 0, *rest)
    np.testing.assert_allclose(y, both_axes(a_t, m), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("family", [SIDE_BY_SIDE, STRIDED], ids=lambda family: family.name)
def test_the_weight_gradient_is_transformed_by_the_transposed_matrices(family: Family) -> None:
    _, g, a_t = matrices_of(family)
    points, writes = family.points, a_t.shape[0]
    scratch = np.zeros((points + 1) * points * LANES, np.float32)
    y, s = numbers(4, writes, writes, LANES), np.zeros((points, points, LANES), np.float32)
    place: Any = (scratch, 0, s.reshape(-1), 0, by_lanes(1, LANES))
    family.transform_gradients(*one_tile(writes), y.reshape(-1), 0, 1, 0, LANES, *place)
    np.testing.assert_allclose(s, both_axes(a_t.T, y), rtol=1e-4, atol=1e-3)
    m, w = numbers(5, LINE, LINE, LANES), np.zeros((3, 3, LANES), np.float32)
    family.weight_gradient_back(m.reshape(-1), 0, LINE * LANES, LANES, scratch, 0, w.reshape(-1), 0, LANES)
    np.testing.assert_allclose(w, both_axes(g.T, m), atol=2e-5)
