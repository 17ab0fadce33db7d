"""The small transforms of Winograd's algorithm for 3x3 windows of stride 2, on vectors of 16 channels.

Along a line, a filter of 3 taps at stride 2 is a filter of taps 0 and 2 on the even inputs, side by side, plus tap 1
on the odd inputs::

    d0  d1  d2  d3  d4  d5  d6  d7  d8         y0 = d0 g0 + d1 g1 + d2 g2      y1 = d2 g0 + d3 g1 + d4 g2
     e0  o0  e1  o1  e2  o2  e3  o3  e4        y2 = d4 g0 + d5 g1 + d6 g2      y3 = d6 g0 + d7 g1 + d8 g2

Winograd's F(4, 2) takes 5 multiplications for the even inputs, one for each of 5 points; the odd ones take 4, all by
g1: 9 instead of 12 for 4 outputs, 81 instead of 144 in two dimensions. A transformed line of weights has 6 values
only, those of the points and g1, so that the 81 products of a tile have 36 different weights.

The input gradient is read the other way round: from 5 neighbours of the output gradient, 4 inputs of the odd phase are
one product each, and 4 of the even phase a filter of two taps, 5 products. The gradient of the weights is the
same formula backwards, see winograd_tiles.py; the 4 products of g1 are simply added up.

The points are 0, infinity, +-P and Q. With 3/4 and 2 the error is the smallest of all pairs of simple fractions tried:
0.5e-6 (root mean square) at 64 channels, against 0.7e-6 with 1 and 2. All entries of B and A stay exact in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.kernels.cpu.compiler import jit
from minidl.kernels.cpu.lanes import fma, splat

OUTPUT = 4  # outputs of a line: pixels of the output of the strided convolution
EVEN = 5  # inputs of the even phase, and points
POINTS = EVEN + OUTPUT
READS = 2 * OUTPUT + 1  # pixels of the strided convolution's input

P, Q = 3 / 4, 2.0
_one = np.float32
_P, _Q, _PP, _QQ = _one(P), _one(Q), _one(P * P), _one(Q * Q)
_PPP, _QQQ = _one(P**3), _one(Q**3)
# The weights' scales: one over the product of a point's differences to the other finite points.
_SCALES = 1 / (P * P * Q), 1 / (2 * P * P * (P - Q)), -1 / (2 * P * P * (P + Q)), 1 / (Q * (Q * Q - P * P))
_AT_0, _AT_P, _AT_N, _AT_Q = (_one(s) for s in _SCALES)
_P_AT_P, _P_AT_N, _Q_AT_Q = _one(P * _SCALES[1]), _one(-P * _SCALES[2]), _one(Q * _SCALES[3])


def matrices() -> tuple[Any, Any, Any]:
    """B transposed (9x9), G (6x3) and A transposed (4x9) in float64, of which row k >= 5 of B' d is multiplied by
    row 5 of G g: what the functions below compute."""
    a = P * P
    b_t = np.zeros((POINTS, READS))
    b_t[:EVEN, 0::2] = [
        [a * Q, -a, -Q, 1, 0],
        [0, -P * Q, P - Q, 1, 0],
        [0, P * Q, -P - Q, 1, 0],
        [0, -a, 0, 1, 0],
        [0, a * Q, -a, -Q, 1],
    ]
    b_t[EVEN:, 1::2] = np.eye(OUTPUT)
    finite = (0, P, -P, Q)
    g = np.zeros((EVEN + 1, 3))
    g[: EVEN - 1, 0::2] = [[s, s * x] for s, x in zip(_SCALES, finite, strict=True)]
    g[EVEN - 1, 2] = g[EVEN, 1] = 1
    a_t = np.zeros((OUTPUT, POINTS))
    a_t[:, : EVEN - 1] = np.array([[x**k for k in range(OUTPUT)] for x in finite]).T
    a_t[-1, EVEN - 1] = 1
    a_t[:, EVEN:] = np.eye(OUTPUT)
    return b_t, g, a_t


def gradient_matrices() -> tuple[Any, Any]:
    """B transposed (9x5) and A transposed (8x9) of the input gradient: even and odd inputs in turn, odd ones first."""
    b_t, _, a_t = matrices()
    reads, writes = np.zeros((POINTS, EVEN)), np.zeros((2 * OUTPUT, POINTS))
    reads[:EVEN] = b_t[:EVEN, 0::2]
    reads[EVEN:, :OUTPUT] = np.eye(OUTPUT)
    writes[1::2, :EVEN] = a_t[:, :EVEN]
    writes[0::2, EVEN:] = np.eye(OUTPUT)
    return reads, writes


@jit(borrows=True)
def _at_points(e0: Any, e1: Any, e2: Any, e3: Any, e4: Any) -> Any:
    """B' of the even inputs."""
    first, second = fma(splat(-_Q), e0, e1), fma(splat(-_Q), e1, e2)
    third, last = fma(splat(-_Q), e2, e3), fma(splat(-_Q), e3, e4)
    at_0, at_q, at_end = (
        fma(splat(-_PP), first, third),
        fma(splat(-_PP), e1, e3),
        fma(splat(-_PP), second, last),
    )
    return at_0, fma(splat(_P), second, third), fma(splat(-_P), second, third), at_q, at_end


@jit(borrows=True)
def _from_points(m0: Any, m1: Any, m2: Any, m3: Any, m4: Any) -> Any:
    """A' of the even phase's products."""
    even, odd = m1 + m2, m1 - m2
    y1 = fma(splat(_Q), m3, splat(_P) * odd)
    y2 = fma(splat(_QQ), m3, splat(_PP) * even)
    return m0 + even + m3, y1, y2, fma(splat(_QQQ), m3, fma(splat(_PPP), odd, m4))


@jit(borrows=True)
def strided_input_line(d: Any) -> Any:
    """B' d."""
    d0, d1, d2, d3, d4, d5, d6, d7, d8 = d
    v0, v1, v2, v3, v4 = _at_points(d0, d2, d4, d6, d8)
    return v0, v1, v2, v3, v4, d1, d3, d5, d7


@jit(borrows=True)
def strided_output_line(m: Any) -> Any:
    """A' m."""
    m0, m1, m2, m3, m4, o0, o1, o2, o3 = m
    y0, y1, y2, y3 = _from_points(m0, m1, m2, m3, m4)
    return y0 + o0, y1 + o1, y2 + o2, y3 + o3


@jit(borrows=True)
def strided_weight_line(g: Any) -> Any:
    """G g."""
    g0, g1, g2 = g
    at_p, at_n = fma(splat(_P_AT_P), g2, splat(_AT_P) * g0), fma(splat(_P_AT_N), g2, splat(_AT_N) * g0)
    return splat(_AT_0) * g0, at_p, at_n, fma(splat(_Q_AT_Q), g2, splat(_AT_Q) * g0), g2, g1


@jit(borrows=True)
def spread_input_line(d: Any) -> Any:
    """The input gradient's B' d: the even phase at its points, and what the odd phase reads."""
    d0, d1, d2, d3, d4 = d
    v0, v1, v2, v3, v4 = _at_points(d0, d1, d2, d3, d4)
    return v0, v1, v2, v3, v4, d0, d1, d2, d3


@jit(borrows=True)
def spread_output_line(m: Any) -> Any:
    """The input gradient's A' m: odd and even inputs in turn."""
    m0, m1, m2, m3, m4, o0, o1, o2, o3 = m
    y0, y1, y2, y3 = _from_points(m0, m1, m2, m3, m4)
    return o0, y0, o1, y1, o2, y2, o3, y3


@jit(borrows=True)
def strided_gradient_line(y: Any) -> Any:
    """A y."""
    y0, y1, y2, y3 = y
    even, odd = fma(splat(_PP), y2, y0), splat(_P) * fma(splat(_PP), y3, y1)
    at_q = fma(splat(_QQQ), y3, fma(splat(_QQ), y2, fma(splat(_Q), y1, y0)))
    return y0, even + odd, even - odd, at_q, y3, y0, y1, y2, y3


@jit(borrows=True)
def strided_weight_gradient_line(m: Any) -> Any:
    """G' m."""
    m0, m1, m2, m3, m4, m5 = m
    k0 = fma(splat(_AT_0), m0, fma(splat(_AT_P), m1, fma(splat(_AT_N), m2, splat(_AT_Q) * m3)))
    return k0, m5, fma(splat(_P_AT_P), m1, fma(splat(_P_AT_N), m2, fma(splat(_Q_AT_Q), m3, m4)))
