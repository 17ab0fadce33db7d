"""Step 2: blocking.

Step 1 reads all weights anew for each output pixel. Here PIXELS outputs of a row and OUTPUTS channels are
computed together: a row of weights w[r, s, c, o:o+OUTPUTS] is read once for all the pixels of the block, and
the weights that a block of channels needs are few enough to stay in the second-level cache while all images
pass by them. The sums of a block are kept in one small array that never leaves the first-level cache.

The length of the innermost loop is a constant now, which the compiler needs in order to write it out as
vector instructions without a loop.

It is the first sign of the rule behind all that follows: *each number, once near, must be used many times*.
Here a weight is used PIXELS times for each load. But the sums themselves still go through memory: the
compiler does not dare to keep an array in registers.
"""

from __future__ import annotations

import numpy as np

from minidl.kernels.ladder.cpu.common import Array, output_size, padded, step

PIXELS = 4
OUTPUTS = 64


def outputs_last(w: Array) -> Array:
    """w (O, KH, KW, C) as (KH, KW, C, O), with zeros up to a whole number of blocks of O."""
    extra = -len(w) % OUTPUTS
    return np.ascontiguousarray(np.pad(w.transpose(1, 2, 3, 0), ((0, 0),) * 3 + ((0, extra),)))


@step
def _blocked(x: Array, w: Array, stride: int, y: Array) -> None:
    images, rows, cols, outputs = y.shape
    kernel_rows, kernel_cols, channels, _ = w.shape
    sums = np.empty((PIXELS, OUTPUTS), np.float32)
    for first in range(0, outputs, OUTPUTS):
        for n in range(images):
            for i in range(rows):
                for j in range(0, cols, PIXELS):
                    sums[:] = 0
                    for r in range(kernel_rows):
                        for s in range(kernel_cols):
                            for c in range(channels):
                                weights = w[r, s, c, first : first + OUTPUTS]
                                for p in range(PIXELS):
                                    col = min(j + p, cols - 1)  # past the end: repeat the last pixel
                                    value = x[n, i * stride + r, col * stride + s, c]
                                    row = sums[p]
                                    for o in range(OUTPUTS):
                                        row[o] += value * weights[o]
                    for p in range(min(PIXELS, cols - j)):
                        for o in range(min(OUTPUTS, outputs - first)):
                            y[n, i, j + p, first + o] = sums[p, o]


def conv2d(x: Array, w: Array, stride: int = 1, pad: int = 0) -> Array:
    """Cross-correlation of x (N, H, W, C) with w (O, KH, KW, C): y (N, OH, OW, O)."""
    y = np.empty((len(x), *output_size(x, w, stride, pad), len(w)), np.float32)
    _blocked(padded(x, pad), outputs_last(w), stride, y)
    return y
