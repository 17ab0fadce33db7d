"""The four small transforms of Winograd's convolution F(4x4, 3x3), on vectors of 16 channels.

A line of 4 outputs of a filter of 3 taps reads 6 inputs. Seen as a product of polynomials it is known from its
values at 6 points, so 6 multiplications are enough where the definition takes 12. In two dimensions, a line
after the other: 36 instead of 144. With the matrices B (6x6), G (6x3) and A (6x4) of the points

    y = A' [ (G g G') * (B' d B) ] A          d: 6x6 inputs, g: 3x3 weights, y: 4x4 outputs, *: element by element

(Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016). The sum over channels may be taken
before A' and A, which makes 36 matrix products of the element-by-element one. The gradient of the weights is the
same formula read backwards: G' [ sum over tiles of (B' d B) * (A gy A') ] G.

Each ``*_line`` here applies one matrix to one line of a tile, given and returned as a tuple of vectors; twice
applied, to columns and then to rows, it transforms the tile.

The points are 0, infinity, +-P and +-Q. The textbook's +-1 and +-2 lose more digits: with 5/8 and 3/2 the
error is half as large (Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution",
2020, explain why points near 1 whose squares differ are better). All entries of B and A stay exact in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.kernels.cpu.compiler import jit
from minidl.kernels.cpu.lanes import LANES, fma, splat
from minidl.kernels.cpu.lines import lines

OUTPUT = 4  # outputs of a line
TILE = 6  # inputs of a line, and points

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


@jit(borrows=True)
def input_line(d: Any) -> Any:
    """B' d."""
    d0, d1, d2, d3, d4, d5 = d
    even_p, odd_p = fma(splat(-_QQ), d2, d4), splat(_P) * fma(splat(-_QQ), d1, d3)
    even_q, odd_q = fma(splat(-_PP), d2, d4), splat(_Q) * fma(splat(-_PP), d1, d3)
    first = fma(splat(_PPQQ), d0, fma(splat(-_SUM), d2, d4))
    last = fma(splat(_PPQQ), d1, fma(splat(-_SUM), d3, d5))
    return first, even_p + odd_p, even_p - odd_p, even_q + odd_q, even_q - odd_q, last


@jit(borrows=True)
def output_line(m: Any) -> Any:
    """A' m."""
    m0, m1, m2, m3, m4, m5 = m
    even_p, odd_p, even_q, odd_q = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    y1 = fma(splat(_P), odd_p, splat(_Q) * odd_q)
    y2 = fma(splat(_PP), even_p, splat(_QQ) * even_q)
    y3 = fma(splat(_PPP), odd_p, fma(splat(_QQQ), odd_q, m5))
    return m0 + even_p + even_q, y1, y2, y3


@jit(borrows=True)
def weight_line(g: Any) -> Any:
    """G g."""
    g0, g1, g2 = g
    even_p, odd_p = fma(splat(_GP2), g2, splat(_GP0) * g0), splat(_GP1) * g1
    even_q, odd_q = fma(splat(_GQ2), g2, splat(_GQ0) * g0), splat(_GQ1) * g1
    return splat(_AT_0) * g0, even_p + odd_p, even_p - odd_p, even_q + odd_q, even_q - odd_q, g2


@jit(borrows=True)
def gradient_line(y: Any) -> Any:
    """A y."""
    y0, y1, y2, y3 = y
    even_p, odd_p = fma(splat(_PP), y2, y0), splat(_P) * fma(splat(_PP), y3, y1)
    even_q, odd_q = fma(splat(_QQ), y2, y0), splat(_Q) * fma(splat(_QQ), y3, y1)
    return y0, even_p + odd_p, even_p - odd_p, even_q + odd_q, even_q - odd_q, y3


@jit(borrows=True)
def weight_gradient_line(m: Any) -> Any:
    """G' m."""
    m0, m1, m2, m3, m4, m5 = m
    even_p, odd_p, even_q, odd_q = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    k0 = fma(splat(_AT_0), m0, fma(splat(_GP0), even_p, splat(_GQ0) * even_q))
    k1 = fma(splat(_GP1), odd_p, splat(_GQ1) * odd_q)
    k2 = fma(splat(_GP2), even_p, fma(splat(_GQ2), even_q, m5))
    return k0, k1, k2


def on_columns(apply: Callable[..., Any], length: int, results: int) -> Any:
    """A function that transforms the columns of a tile of 16 channels.

    Args:
        apply: from lines of ``length`` vectors to lines of ``results``.

    Returns:
        columns(a, at, row, col, count, out, to, out_row): transform ``count`` columns of the values at
        a[at + i*row + j*col]; value (i, j) goes to out[to + i*out_row + j*LANES].
    """
    load_line, store_line = lines(length).load, lines(results).store

    @jit(variant=apply.__name__, borrows=True)
    def columns(a: Any, at: int, row: int, col: int, count: int, out: Any, to: int, out_row: int) -> None:
        for j in range(count):
            store_line(out, to + j * LANES, out_row, apply(load_line(a, at + j * col, row)))

    return columns


def on_tile(apply: Callable[..., Any], length: int, results: int) -> Any:
    """A function that transforms columns and rows of a tile of 16 channels.

    Returns:
        tile(a, at, row, col, scratch, free, out, to, step): transform the values at a[at + i*row + j*col]; value
        (i, j) goes to out[to + (i*results + j)*step]. scratch[free:] lends room.
    """
    columns = on_columns(apply, length, results)
    load_line, store_line = lines(length).load, lines(results).store

    @jit(variant=apply.__name__, borrows=True)
    def tile(
        a: Any, at: int, row: int, col: int, scratch: Any, free: int, out: Any, to: int, step: int
    ) -> None:
        columns(a, at, row, col, length, scratch, free, length * LANES)
        for i in range(results):
            line = load_line(scratch, free + i * length * LANES, LANES)
            store_line(out, to + i * results * step, step, apply(line))

    return tile
