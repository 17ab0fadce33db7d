"""Step 8: fewer multiplications (Winograd).

Step 7 stands near the limit of the multiply-add units; what is left is to multiply less. Two neighbouring
outputs of a 3-tap filter need 6 multiplications. Winograd's F(2,3) takes 4:

    y0 = x0 g0 + x1 g1 + x2 g2          m0 = (x0 - x2) g0        m1 = (x1 + x2) (g0 + g1 + g2)/2
    y1 = x1 g0 + x2 g1 + x3 g2          m3 = (x1 - x3) g2        m2 = (x2 - x1) (g0 - g1 + g2)/2
                                        y0 = m0 + m1 + m2        y1 = m1 - m2 - m3

In two dimensions, rows and then columns: a 4 x 4 patch of x gives 2 x 2 outputs with 16 multiplications
instead of 36, 2.25 times fewer (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016).
The sums over channels commute with it, so for a block of patches at once:

    V[f, patch, c] = B'xB        16 transformed numbers for each patch and channel          (additions only)
    M[f, patch, o] = V[f] @ U[f]    16 matrix products, U[f] (C, O) the transformed weights   (step 6's tile)
    y              = A'MA        4 outputs for each patch and output channel                (additions only)

The transforms go through memory, so a block of patches must stay in the second-level cache, and they are paid
per channel, so the more channels, the more is won. The price is accuracy: differences of inputs lose a digit
or so, more for larger patches. F(4,3), 36 multiplications instead of 144, is what the production kernel uses
where it wins (`kernels/cpu`). Other windows and strides go the way of step 7.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.kernels.cpu import simd
from minidl.kernels.cpu.lanes import LANES, load, store
from minidl.kernels.cpu.plan import tile_shapes
from minidl.kernels.ladder.cpu import step7_addresses
from minidl.kernels.ladder.cpu.common import Array, output_size, step

_shape = tile_shapes()[0]
_tile = simd.tile("float32", _shape.rows, _shape.vectors)
_zero, _fma, _store = _tile.zero, _tile.fma, _tile.store
ROWS, COLS = _tile.rows, _tile.cols
PATCHES = 4 * ROWS  # in a block

_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)


@step
def _b(x0: Any, x1: Any, x2: Any, x3: Any) -> Any:
    return x0 - x2, x1 + x2, x2 - x1, x1 - x3


@step
def _a(m0: Any, m1: Any, m2: Any, m3: Any) -> Any:
    return m0 + m1 + m2, m1 - m2 - m3


@step
def _transform_input(x: Array, first: int, pitch: int, v: Array, patch: int) -> None:
    """The 4 x 4 patch at element ``first`` of x into v[:, patch, :], LANES channels at a time."""
    patches, channels = v.shape[1], v.shape[2]
    for c in range(0, channels, LANES):
        at = first + c
        r0 = _b(load(x, at), load(x, at + channels), load(x, at + 2 * channels), load(x, at + 3 * channels))
        at += pitch
        r1 = _b(load(x, at), load(x, at + channels), load(x, at + 2 * channels), load(x, at + 3 * channels))
        at += pitch
        r2 = _b(load(x, at), load(x, at + channels), load(x, at + 2 * channels), load(x, at + 3 * channels))
        at += pitch
        r3 = _b(load(x, at), load(x, at + channels), load(x, at + 2 * channels), load(x, at + 3 * channels))
        for s in range(4):
            t = _b(r0[s], r1[s], r2[s], r3[s])
            for r in range(4):
                store(v, ((r * 4 + s) * patches + patch) * channels + c, t[r])


@step
def _transform_output(m: Array, patch: int, y: Array, n: int, i: int, j: int) -> None:
    """m[:, patch, :] into the 2 x 2 outputs y[n, i:i+2, j:j+2], of which those inside y are kept."""
    patches, width = m.shape[1], m.shape[2]
    rows, cols, outputs = y.shape[1], y.shape[2], y.shape[3]
    lines = np.empty((4, LANES), np.float32)
    for o in range(0, outputs, LANES):
        at, row = patch * width + o, 4 * patches * width
        f = patches * width
        r0 = _a(load(m, at), load(m, at + row), load(m, at + 2 * row), load(m, at + 3 * row))
        at += f
        r1 = _a(load(m, at), load(m, at + row), load(m, at + 2 * row), load(m, at + 3 * row))
        at += f
        r2 = _a(load(m, at), load(m, at + row), load(m, at + 2 * row), load(m, at + 3 * row))
        at += f
        r3 = _a(load(m, at), load(m, at + row), load(m, at + 2 * row), load(m, at + 3 * row))
        for r in range(2):
            t = _a(r0[r], r1[r], r2[r], r3[r])
            for s in range(2):
                if i + r < rows and j + s < cols:
                    to = ((n * rows + i + r) * cols + j + s) * outputs + o
                    if o + LANES <= outputs:
                        store(y, to, t[s])
                    else:
                        store(lines, 0, t[s])
                        for k in range(outputs - o):
                            y[n, i + r, j + s, o + k] = lines[0, k]


@step
def _winograd(x: Array, u: Array, y: Array) -> None:
    """x (N, 2*down + 2, 2*across + 2, C), C a multiple of LANES; u (16, panels, C, COLS)."""
    images, height, width, channels = x.shape
    panels = u.shape[1]
    down, across = (height - 2) // 2, (width - 2) // 2
    v = np.zeros((16, PATCHES, channels), np.float32)
    m = np.empty((16, PATCHES, panels * COLS), np.float32)
    total = images * down * across
    for first in range(0, total, PATCHES):
        count = min(PATCHES, total - first)
        for p in range(count):
            n, place = (first + p) // (down * across), (first + p) % (down * across)
            i, j = 2 * (place // across), 2 * (place % across)
            _transform_input(x, ((n * height + i) * width + j) * channels, width * channels, v, p)
        for f in range(16):
            for panel in range(panels):
                for p in range(0, PATCHES, ROWS):
                    acc = _zero()
                    a_at = (f * PATCHES + p) * channels
                    b_at = (f * panels + panel) * channels * COLS
                    for c in range(channels):
                        acc = _fma(acc, v, a_at + c, channels, u, b_at + c * COLS)
                    _store(acc, m, (f * PATCHES + p) * panels * COLS + panel * COLS, panels * COLS)
        for p in range(count):
            n, place = (first + p) // (down * across), (first + p) % (down * across)
            _transform_output(m, p, y, n, 2 * (place // across), 2 * (place % across))


def transformed_weights(w: Array) -> Array:
    """G w G' for each pair of channels: w (O, 3, 3, C) -> (16, panels, C, COLS), zeros past the last ones."""
    outputs, _, _, channels = w.shape
    rows = np.matmul(_G, w.reshape(outputs, 3, 3 * channels))  # (O, 4, 3 * C)
    both = np.matmul(_G, rows.reshape(outputs * 4, 3, channels))  # (O * 4, 4, C)
    u = np.zeros((16, channels + -channels % LANES, outputs + -outputs % COLS), np.float32)
    u[:, :channels, :outputs] = both.reshape(outputs, 16, channels).transpose(1, 2, 0)
    return np.ascontiguousarray(u.reshape(16, u.shape[1], -1, COLS).transpose(0, 2, 1, 3))


def conv2d(x: Array, w: Array, stride: int = 1, pad: int = 0) -> Array:
    """Cross-correlation of x (N, H, W, C) with w (O, KH, KW, C): y (N, OH, OW, O)."""
    if stride != 1 or w.shape[1:3] != (3, 3):
        return step7_addresses.conv2d(x, w, stride, pad)
    rows, cols = output_size(x, w, stride, pad)
    image = np.pad(x, ((0, 0), (pad, pad + rows % 2), (pad, pad + cols % 2), (0, -x.shape[3] % LANES)))
    y = np.empty((len(x), rows, cols, len(w)), np.float32)
    _winograd(image, transformed_weights(w), y)
    return y
