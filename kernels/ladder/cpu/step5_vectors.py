"""Step 5: explicit vectors.

Until here the sums of a block were an array, and an array lives in memory: each multiply-add loaded its sum
and stored it again. A vector register is a value, not an array. ``minidl.kernels.cpu.simd`` gives Numba such
values, made of LLVM's vector types; a *tile* is a block of them. Here it is the smallest useful one, one row
of two vectors (32 numbers with AVX-512):

    acc = zero()
    for k:  acc = fma(acc, a, .., b, ..)        sums[0:32] += a[k] * b[k, 0:32]
    store(acc, ...)

Nothing but two loads and two multiply-adds is left in the loop. Yet it is far from the limit: a multiply-add
takes 4 cycles and the next one on the same register must wait for it, so two registers keep the two
multiply-add units busy one quarter of the time, and each two multiply-adds need three loads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.kernels.cpu import simd
from minidl.kernels.ladder.cpu.common import Array, output_size, padded, step
from minidl.kernels.ladder.cpu.step3_im2col import im2col
from minidl.kernels.ladder.cpu.step4_packing import pack_rows, pack_weights

DEPTH = 256
BLOCK_ROWS = 256


def product_with(tile: simd.Tile) -> Any:
    """The packed matrix product of step 4 around the micro-kernel of one register tile."""
    zero, fma, add, store = tile.zero, tile.fma, tile.add, tile.store
    tile_rows, tile_cols = tile.rows, tile.cols

    @step
    def matmul(a: Array, panels: Array, out: Array) -> None:
        tiles = np.empty((-(-BLOCK_ROWS // tile_rows), DEPTH, tile_rows), np.float32)
        edge = np.empty((tile_rows, tile_cols), np.float32)
        rows, depth = a.shape
        outputs = out.shape[1]
        for k_first in range(0, depth, DEPTH):
            k_count = min(DEPTH, depth - k_first)
            for first in range(0, rows, BLOCK_ROWS):
                count = min(BLOCK_ROWS, rows - first)
                pack_rows(a, first, count, k_first, k_count, tiles)
                for panel in range(panels.shape[0]):
                    width = min(tile_cols, outputs - panel * tile_cols)
                    for t in range((count + tile_rows - 1) // tile_rows):
                        # The micro-kernel. Row p of the tile is multiplied by tiles[t, k, p], p apart by 1.
                        acc = zero()
                        a_at = t * DEPTH * tile_rows
                        b_at = (panel * depth + k_first) * tile_cols
                        for k in range(k_count):
                            acc = fma(acc, tiles, a_at + k * tile_rows, 1, panels, b_at + k * tile_cols)

                        height = min(tile_rows, count - t * tile_rows)
                        at = (first + t * tile_rows) * outputs + panel * tile_cols
                        if height == tile_rows and width == tile_cols:
                            if k_first > 0:
                                acc = add(acc, out, at, outputs)
                            store(acc, out, at, outputs)
                        else:  # at the edges of the matrix some of the tile does not exist
                            store(acc, edge, 0, tile_cols)
                            for p in range(height):
                                row = out[first + t * tile_rows + p]
                                for o in range(width):
                                    old = row[panel * tile_cols + o] if k_first > 0 else np.float32(0)
                                    row[panel * tile_cols + o] = old + edge[p, o]

    return matmul


def conv2d_with(tile: simd.Tile, matmul: Any, x: Array, w: Array, stride: int, pad: int) -> Array:
    """im2col, packed weights and ``matmul``."""
    rows, cols = output_size(x, w, stride, pad)
    outputs, kernel_rows, kernel_cols, channels = w.shape
    depth = kernel_rows * kernel_cols * channels
    panels = np.empty((-(-outputs // tile.cols), depth, tile.cols), np.float32)
    pack_weights(w.reshape(outputs, depth).T, panels)
    columns = np.empty((rows * cols, depth), np.float32)
    y = np.empty((len(x), rows, cols, outputs), np.float32)
    for image, out in zip(padded(x, pad), y, strict=True):
        im2col(image, kernel_rows, kernel_cols, stride, rows, cols, columns)
        matmul(columns, panels, out.reshape(rows * cols, outputs))
    return y


_tile = simd.tile("float32", 1, 2)
_matmul = product_with(_tile)


def conv2d(x: Array, w: Array, stride: int = 1, pad: int = 0) -> Array:
    """Cross-correlation of x (N, H, W, C) with w (O, KH, KW, C): y (N, OH, OW, O)."""
    return conv2d_with(_tile, _matmul, x, w, stride, pad)
