"""Step 7: addresses instead of copies.

im2col writes each pixel KH*KW times and packing copies it all again, only so that the micro-kernel finds its
operand at ``a + p`` for row p and ``a + k*rows`` for step k. But the padded image is already regular: the
operand of output pixel (i, j) at tap (r, s) and channel c is

    x[(i*stride + r) * pitch + (j*stride + s) * C + c]   =   (address of the pixel) + (offset of the tap) + c

Rows of the tile are output pixels next to each other, ``stride*C`` numbers apart: a constant that the
micro-kernel takes as the row stride. A tap only adds an offset, c walks on by 1. So the image is read where
it is, and the matrix of step 3 exists in the addresses alone. (Dukhan, "The Indirect Convolution Algorithm",
2019, keeps a table of pointers for the same purpose; a padded image makes it plain arithmetic.)

A whole image may be too large for the second-level cache, and channels that lie a power of two apart compete
for the same cache lines. The production kernel therefore copies a chunk of rows at a time into a *slab*
(`kernels/cpu/plan.py`), with zeros where the padding is: that copy is 1/(KH*KW) of im2col's.
"""

from __future__ import annotations

import numpy as np

from minidl.kernels.cpu import simd
from minidl.kernels.cpu.plan import tile_shapes
from minidl.kernels.ladder.cpu.common import Array, output_size, padded, step
from minidl.kernels.ladder.cpu.step4_packing import pack_weights

_shape = tile_shapes()[0]
_tile = simd.tile("float32", _shape.rows, _shape.vectors)
_zero, _fma, _store = _tile.zero, _tile.fma, _tile.store
ROWS, COLS = _tile.rows, _tile.cols


@step
def _direct(
    x: Array, pitch: int, channels: int, stride: int, panels: Array, window: tuple[int, int], y: Array
) -> None:
    """x: padded images, flat, with room behind for a tile that reads past the end; a row is ``pitch`` numbers."""
    images, rows, cols, outputs = y.shape
    depth = panels.shape[1]
    image_size = (x.size - ROWS * stride * channels) // images
    edge = np.empty((ROWS, COLS), np.float32)
    for n in range(images):
        for panel in range(panels.shape[0]):
            width = min(COLS, outputs - panel * COLS)
            for i in range(rows):
                for j in range(0, cols, ROWS):
                    # The micro-kernel: the taps of the window, and the channels of each.
                    acc = _zero()
                    first = n * image_size + i * stride * pitch + j * stride * channels
                    b_at = panel * depth * COLS
                    for r in range(window[0]):
                        for s in range(window[1]):
                            a_at = first + r * pitch + s * channels
                            for c in range(channels):
                                acc = _fma(acc, x, a_at + c, stride * channels, panels, b_at + c * COLS)
                            b_at += channels * COLS

                    pixels = min(ROWS, cols - j)
                    if pixels == ROWS and width == COLS:
                        _store(acc, y, ((n * rows + i) * cols + j) * outputs + panel * COLS, outputs)
                    else:
                        _store(acc, edge, 0, COLS)
                        for p in range(pixels):
                            for o in range(width):
                                y[n, i, j + p, panel * COLS + o] = edge[p, o]


def conv2d(x: Array, w: Array, stride: int = 1, pad: int = 0) -> Array:
    """Cross-correlation of x (N, H, W, C) with w (O, KH, KW, C): y (N, OH, OW, O)."""
    rows, cols = output_size(x, w, stride, pad)
    outputs, kernel_rows, kernel_cols, channels = w.shape
    depth = kernel_rows * kernel_cols * channels
    panels = np.empty((-(-outputs // COLS), depth, COLS), np.float32)
    pack_weights(w.reshape(outputs, depth).T, panels)
    image = padded(x, pad)
    flat = np.concatenate([image.reshape(-1), np.zeros(ROWS * stride * channels, np.float32)])
    y = np.empty((len(x), rows, cols, outputs), np.float32)
    _direct(flat, image.shape[2] * channels, channels, stride, panels, (kernel_rows, kernel_cols), y)
    return y
