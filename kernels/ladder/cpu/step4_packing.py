"""Step 4: packing.

A matrix product touches each number of both operands many times, and in an order that is bad for one of
them: a block of rows of ``columns`` lies K numbers apart, a block of columns of ``weights`` O numbers apart.
Memory that is read along such strides misses the caches and exhausts the address translation buffer. So copy
each block once into the very order in which the inner loop will read it ("Anatomy of High-Performance Matrix
Multiplication", Goto and van de Geijn, 2008):

    weights -> panels of COLS columns:  panel p, then k, then the COLS numbers   b[p, k, 0:COLS]
    columns -> tiles of ROWS rows:      tile t, then k, then the ROWS numbers    a[t, k, 0:ROWS]

The inner loop then walks forward through two streams. The reduction is cut into blocks of DEPTH, so that a
panel (DEPTH * COLS numbers) stays in the first-level cache while all tiles of a block of rows, in the second
level, are multiplied by it:

    block of k                  panel of weights: L1        tiles of columns: L2         sums: registers, we hope
"""

from __future__ import annotations

import numpy as np

from minidl.kernels.ladder.cpu.common import Array, output_size, padded, step
from minidl.kernels.ladder.cpu.step3_im2col import im2col

ROWS = 4
COLS = 64
DEPTH = 256
BLOCK_ROWS = 256  # rows packed at a time: BLOCK_ROWS * DEPTH numbers, 256 KiB


@step
def pack_weights(w: Array, panels: Array) -> None:
    """w (K, O) into panels (O / COLS, K, COLS), zeros past the last column."""
    panels[:] = 0
    depth, outputs = w.shape
    cols = panels.shape[2]
    for k in range(depth):
        for o in range(outputs):
            panels[o // cols, k, o % cols] = w[k, o]


@step
def pack_rows(a: Array, first: int, count: int, k_first: int, k_count: int, tiles: Array) -> None:
    """a[first:first+count, k_first:k_first+k_count] into tiles (count / ROWS, DEPTH, ROWS), zeros past the last row."""
    rows = tiles.shape[2]
    for t in range((count + rows - 1) // rows):
        for p in range(rows):
            for k in range(k_count):
                inside = t * rows + p < count
                tiles[t, k, p] = a[first + t * rows + p, k_first + k] if inside else np.float32(0)


@step
def _matmul(a: Array, panels: Array, out: Array) -> None:
    """out (M, O) = a (M, K) times the weights packed in panels."""
    tiles = np.empty((BLOCK_ROWS // ROWS, DEPTH, ROWS), np.float32)
    sums = np.empty((ROWS, COLS), np.float32)
    rows, depth = a.shape
    outputs = out.shape[1]
    for k_first in range(0, depth, DEPTH):
        k_count = min(DEPTH, depth - k_first)
        for first in range(0, rows, BLOCK_ROWS):
            count = min(BLOCK_ROWS, rows - first)
            pack_rows(a, first, count, k_first, k_count, tiles)
            for panel in range(panels.shape[0]):
                width = min(COLS, outputs - panel * COLS)
                for t in range((count + ROWS - 1) // ROWS):
                    sums[:] = 0
                    for k in range(k_count):
                        weights = panels[panel, k_first + k]
                        values = tiles[t, k]
                        for p in range(ROWS):
                            value = values[p]
                            row = sums[p]
                            for o in range(COLS):
                                row[o] += value * weights[o]
                    for p in range(min(ROWS, count - t * ROWS)):
                        to = out[first + t * ROWS + p]
                        for o in range(width):
                            old = to[panel * COLS + o] if k_first > 0 else np.float32(0)
                            to[panel * COLS + o] = old + sums[p, o]


def conv2d(x: Array, w: Array, stride: int = 1, pad: int = 0) -> Array:
    """Cross-correlation of x (N, H, W, C) with w (O, KH, KW, C): y (N, OH, OW, O)."""
    rows, cols = output_size(x, w, stride, pad)
    outputs, kernel_rows, kernel_cols, channels = w.shape
    depth = kernel_rows * kernel_cols * channels
    panels = np.empty((-(-outputs // COLS), depth, COLS), np.float32)
    pack_weights(w.reshape(outputs, depth).T, panels)
    columns = np.empty((rows * cols, depth), np.float32)
    y = np.empty((len(x), rows, cols, outputs), np.float32)
    for image, out in zip(padded(x, pad), y, strict=True):
        im2col(image, kernel_rows, kernel_cols, stride, rows, cols, columns)
        _matmul(columns, panels, out.reshape(rows * cols, outputs))
    return y
