"""The four small transforms of Winograd's convolution F(4x4, 3x3), on vectors of 16 channels.

A line of 4 outputs of a filter of 3 taps reads 6 inputs. Seen as a product of polynomials it is known from its
values at 6 points, so 6 multiplications are enough where the definition takes 12. In two dimensions, a line
after the other: 36 instead of 144. With the matrices B (6x6), G (6x3) and A (6x4) of the points

    y = A' [ (G g G') * (B' d B) ] A          d: 6x6 inputs, g: 3x3 weights, y: 4x4 outputs, *: element by element

(Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016). The sum over channels may be taken
before A' and A, which makes 36 matrix products of the element-by-element one. Each function here applies one
matrix to one line of a tile; twice applied, to columns and then to rows, it transforms the tile. The gradient of
the weights is the same formula read backwards: G' [ sum over tiles of (B' d B) * (A gy A') ] G.

The points are 0, infinity, +-P and +-Q. The textbook's +-1 and +-2 lose more digits: with 5/8 and 3/2 the
error is half as large (Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution",
2020, explain why points near 1 whose squares differ are better). All entries of B and A stay exact in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.kernels.cpu.compiler import jit
from minidl.kernels.cpu.lanes import LANES, fma, load, splat, store

OUTPUT = 4  # outputs of a tile in each direction
TILE = 6  # inputs of a tile in each direction, and points
POINTS = TILE * TILE
SCRATCH = 2 * POINTS * LANES  # elements that transforming a tile of 16 channels needs beside it

P, Q = 5 / 8, 3 / 2
_one = np.float32  # constants of the compiled functions must be float32 like their vectors
_P, _Q, _PP, _QQ = _one(P), _one(Q), _one(P * P), _one(Q * Q)
_PPP, _QQQ = _one(P**3), _one(Q**3)
_PPQQ, _SUM = _one(P * P * Q * Q), _one(P * P + Q * Q)
# G: at +-P the weights are divided by the product of P's differences to the other points, at +-Q likewise.
_AT_0 = _one(1 / (P * P * Q * Q))
_AT_P, _AT_Q = 1 / (2 * P * P * (P * P - Q * Q)), 1 / (2 * Q * Q * (Q * Q - P * P))
_GP0, _GP1, _GP2 = _one(_AT_P), _one(_AT_P * P), _one(_AT_P * P * P)
_GQ0, _GQ1, _GQ2 = _one(_AT_Q), _one(_AT_Q * Q), _one(_AT_Q * Q * Q)


def matrices() -> tuple[Any, Any, Any]:
    """B transposed (6x6), G (6x3) and A transposed (4x6) in float64: what the functions below compute."""
    a, b = P * P, Q * Q
    b_t = [
        [a * b, 0, -(a + b), 0, 1, 0],
        [0, -P * b, -b, P, 1, 0],
        [0, P * b, -b, -P, 1, 0],
        [0, -Q * a, -a, Q, 1, 0],
        [0, Q * a, -a, -Q, 1, 0],
        [0, a * b, 0, -(a + b), 0, 1],
    ]
    values = [[x**k for k in range(4)] for x in (0, P, -P, Q, -Q)]
    scale = [1 / (a * b), _AT_P, _AT_P, _AT_Q, _AT_Q]
    g = [[s * v for v in row[:3]] for s, row in zip(scale, values, strict=True)]
    a_m = np.array([*values, [0, 0, 0, 1]])
    return np.array(b_t), np.array([*g, [0, 0, 1]]), a_m.T


@jit
def input_line(d0: Any, d1: Any, d2: Any, d3: Any, d4: Any, d5: Any) -> Any:
    """B' d."""
    even_p, odd_p = fma(splat(-_QQ), d2, d4), splat(_P) * fma(splat(-_QQ), d1, d3)
    even_q, odd_q = fma(splat(-_PP), d2, d4), splat(_Q) * fma(splat(-_PP), d1, d3)
    first = fma(splat(_PPQQ), d0, fma(splat(-_SUM), d2, d4))
    last = fma(splat(_PPQQ), d1, fma(splat(-_SUM), d3, d5))
    return first, even_p + odd_p, even_p - odd_p, even_q + odd_q, even_q - odd_q, last


@jit
def output_line(m0: Any, m1: Any, m2: Any, m3: Any, m4: Any, m5: Any) -> Any:
    """A' m."""
    even_p, odd_p, even_q, odd_q = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    y1 = fma(splat(_P), odd_p, splat(_Q) * odd_q)
    y2 = fma(splat(_PP), even_p, splat(_QQ) * even_q)
    y3 = fma(splat(_PPP), odd_p, fma(splat(_QQQ), odd_q, m5))
    return m0 + even_p + even_q, y1, y2, y3


@jit
def weight_line(g0: Any, g1: Any, g2: Any) -> Any:
    """G g."""
    even_p, odd_p = fma(splat(_GP2), g2, splat(_GP0) * g0), splat(_GP1) * g1
    even_q, odd_q = fma(splat(_GQ2), g2, splat(_GQ0) * g0), splat(_GQ1) * g1
    return splat(_AT_0) * g0, even_p + odd_p, even_p - odd_p, even_q + odd_q, even_q - odd_q, g2


@jit
def gradient_line(y0: Any, y1: Any, y2: Any, y3: Any) -> Any:
    """A y."""
    even_p, odd_p = fma(splat(_PP), y2, y0), splat(_P) * fma(splat(_PP), y3, y1)
    even_q, odd_q = fma(splat(_QQ), y2, y0), splat(_Q) * fma(splat(_QQ), y3, y1)
    return y0, even_p + odd_p, even_p - odd_p, even_q + odd_q, even_q - odd_q, y3


@jit
def weight_gradient_line(m0: Any, m1: Any, m2: Any, m3: Any, m4: Any, m5: Any) -> Any:
    """G' m."""
    even_p, odd_p, even_q, odd_q = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    k0 = fma(splat(_AT_0), m0, fma(splat(_GP0), even_p, splat(_GQ0) * even_q))
    k1 = fma(splat(_GP1), odd_p, splat(_GQ1) * odd_q)
    k2 = fma(splat(_GP2), even_p, fma(splat(_GQ2), even_q, m5))
    return k0, k1, k2


@jit
def transform_input(
    a: Any, at: int, row: int, col: int, scratch: Any, free: int, v: Any, to: int, step: int
) -> None:
    """B' d B of 16 channels of the 6x6 pixels at a[at + i*row + j*col]; value (i, j) goes to v[to + (6i+j)*step].

    scratch[free:] lends room for 36 vectors.
    """
    for j in range(TILE):
        x = at + j * col
        d0, d1, d2 = load(a, x), load(a, x + row), load(a, x + 2 * row)
        d3, d4, d5 = load(a, x + 3 * row), load(a, x + 4 * row), load(a, x + 5 * row)
        r0, r1, r2, r3, r4, r5 = input_line(d0, d1, d2, d3, d4, d5)
        s = free + j * LANES
        store(scratch, s, r0)
        store(scratch, s + 6 * LANES, r1)
        store(scratch, s + 12 * LANES, r2)
        store(scratch, s + 18 * LANES, r3)
        store(scratch, s + 24 * LANES, r4)
        store(scratch, s + 30 * LANES, r5)
    for i in range(TILE):
        s = free + i * TILE * LANES
        d0, d1, d2 = load(scratch, s), load(scratch, s + LANES), load(scratch, s + 2 * LANES)
        d3, d4, d5 = load(scratch, s + 3 * LANES), load(scratch, s + 4 * LANES), load(scratch, s + 5 * LANES)
        r0, r1, r2, r3, r4, r5 = input_line(d0, d1, d2, d3, d4, d5)
        x = to + i * TILE * step
        store(v, x, r0)
        store(v, x + step, r1)
        store(v, x + 2 * step, r2)
        store(v, x + 3 * step, r3)
        store(v, x + 4 * step, r4)
        store(v, x + 5 * step, r5)


@jit
def transform_weight(
    w: Any, at: int, step: int, scratch: Any, free: int, u: Any, to: int, u_step: int
) -> None:
    """G g G' of 16 weights of each tap: tap (i, j) at w[at + (3i+j)*step], value (i, j) to u[to + (6i+j)*u_step]."""
    for j in range(3):
        x = at + j * step
        r0, r1, r2, r3, r4, r5 = weight_line(load(w, x), load(w, x + 3 * step), load(w, x + 6 * step))
        s = free + j * LANES
        store(scratch, s, r0)
        store(scratch, s + 3 * LANES, r1)
        store(scratch, s + 6 * LANES, r2)
        store(scratch, s + 9 * LANES, r3)
        store(scratch, s + 12 * LANES, r4)
        store(scratch, s + 15 * LANES, r5)
    for i in range(TILE):
        s = free + i * 3 * LANES
        r0, r1, r2, r3, r4, r5 = weight_line(
            load(scratch, s), load(scratch, s + LANES), load(scratch, s + 2 * LANES)
        )
        x = to + i * TILE * u_step
        store(u, x, r0)
        store(u, x + u_step, r1)
        store(u, x + 2 * u_step, r2)
        store(u, x + 3 * u_step, r3)
        store(u, x + 4 * u_step, r4)
        store(u, x + 5 * u_step, r5)


@jit
def output_columns(m: Any, at: int, step: int, scratch: Any, free: int) -> None:
    """A' m of 16 channels of the 6x6 values at m[at + (6i+j)*step]: 4 rows of 6 vectors, to scratch[free:]."""
    for j in range(TILE):
        x = at + j * step
        m0, m1, m2 = load(m, x), load(m, x + 6 * step), load(m, x + 12 * step)
        m3, m4, m5 = load(m, x + 18 * step), load(m, x + 24 * step), load(m, x + 30 * step)
        y0, y1, y2, y3 = output_line(m0, m1, m2, m3, m4, m5)
        s = free + j * LANES
        store(scratch, s, y0)
        store(scratch, s + 6 * LANES, y1)
        store(scratch, s + 12 * LANES, y2)
        store(scratch, s + 18 * LANES, y3)


@jit
def output_row(scratch: Any, free: int, i: int, y: Any, to: int) -> None:
    """Row i of the 4x4 outputs whose columns are in scratch[free:], to y[to:]: 4 vectors."""
    s = free + i * TILE * LANES
    m0, m1, m2 = load(scratch, s), load(scratch, s + LANES), load(scratch, s + 2 * LANES)
    m3, m4, m5 = load(scratch, s + 3 * LANES), load(scratch, s + 4 * LANES), load(scratch, s + 5 * LANES)
    y0, y1, y2, y3 = output_line(m0, m1, m2, m3, m4, m5)
    store(y, to, y0)
    store(y, to + LANES, y1)
    store(y, to + 2 * LANES, y2)
    store(y, to + 3 * LANES, y3)


@jit
def transform_gradient(
    a: Any, at: int, row: int, col: int, scratch: Any, free: int, v: Any, to: int, step: int
) -> None:
    """A gy A' of 16 channels of the 4x4 pixels at a[at + i*row + j*col]; value (i, j) goes to v[to + (6i+j)*step]."""
    for j in range(OUTPUT):
        x = at + j * col
        y0, y1, y2, y3 = load(a, x), load(a, x + row), load(a, x + 2 * row), load(a, x + 3 * row)
        r0, r1, r2, r3, r4, r5 = gradient_line(y0, y1, y2, y3)
        s = free + j * LANES
        store(scratch, s, r0)
        store(scratch, s + 4 * LANES, r1)
        store(scratch, s + 8 * LANES, r2)
        store(scratch, s + 12 * LANES, r3)
        store(scratch, s + 16 * LANES, r4)
        store(scratch, s + 20 * LANES, r5)
    for i in range(TILE):
        s = free + i * OUTPUT * LANES
        y0, y1 = load(scratch, s), load(scratch, s + LANES)
        y2, y3 = load(scratch, s + 2 * LANES), load(scratch, s + 3 * LANES)
        r0, r1, r2, r3, r4, r5 = gradient_line(y0, y1, y2, y3)
        x = to + i * TILE * step
        store(v, x, r0)
        store(v, x + step, r1)
        store(v, x + 2 * step, r2)
        store(v, x + 3 * step, r3)
        store(v, x + 4 * step, r4)
        store(v, x + 5 * step, r5)


@jit
def weight_gradient_back(
    m: Any, at: int, step: int, scratch: Any, free: int, w: Any, to: int, w_step: int
) -> None:
    """G' m G of 16 weights of the 6x6 sums at m[at + (6i+j)*step]; tap (i, j) goes to w[to + (3i+j)*w_step]."""
    for j in range(TILE):
        x = at + j * step
        m0, m1, m2 = load(m, x), load(m, x + 6 * step), load(m, x + 12 * step)
        m3, m4, m5 = load(m, x + 18 * step), load(m, x + 24 * step), load(m, x + 30 * step)
        k0, k1, k2 = weight_gradient_line(m0, m1, m2, m3, m4, m5)
        s = free + j * LANES
        store(scratch, s, k0)
        store(scratch, s + 6 * LANES, k1)
        store(scratch, s + 12 * LANES, k2)
    for i in range(3):
        s = free + i * TILE * LANES
        m0, m1, m2 = load(scratch, s), load(scratch, s + LANES), load(scratch, s + 2 * LANES)
        m3, m4, m5 = load(scratch, s + 3 * LANES), load(scratch, s + 4 * LANES), load(scratch, s + 5 * LANES)
        k0, k1, k2 = weight_gradient_line(m0, m1, m2, m3, m4, m5)
        x = to + i * 3 * w_step
        store(w, x, k0)
        store(w, x + w_step, k1)
        store(w, x + 2 * w_step, k2)
