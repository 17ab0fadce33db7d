"""Step 1: the order of the loops.

The same multiplications, with the output channel innermost. Turn the weights once to (KH, KW, C, O); then
the inner loop

    for o:  y[i, j, o] += x[.., c] * w[r, s, c, o]

walks along y and w one number at a time (each cache line is used whole) and multiplies by one x. Its
additions go to *different* sums, so none waits for another, and the compiler is free to do 8 or 16 of them
in one vector instruction without reordering any sum. Nothing was reordered inside a sum either: this is
still r, s, c after each other.

What holds it back: for each multiply-add it loads w and y and stores y again: two loads and a store for one
multiply-add, while the processor has two multiply-add units, two load ports and one store port.
"""

from __future__ import annotations

import numpy as np

from minidl.kernels.ladder.cpu.common import Array, output_size, padded, step


@step
def _output_channel_innermost(x: Array, w: Array, stride: int, y: Array) -> None:
    images, rows, cols, outputs = y.shape
    kernel_rows, kernel_cols, channels, _ = w.shape
    for n in range(images):
        for i in range(rows):
            for j in range(cols):
                sums = y[n, i, j]
                sums[:] = 0
                for r in range(kernel_rows):
                    for s in range(kernel_cols):
                        for c in range(channels):
                            value = x[n, i * stride + r, j * stride + s, c]
                            for o in range(outputs):
                                sums[o] += value * w[r, s, c, o]


def conv2d(x: Array, w: Array, stride: int = 1, pad: int = 0) -> Array:
    """Cross-correlation of x (N, H, W, C) with w (O, KH, KW, C): y (N, OH, OW, O)."""
    y = np.empty((len(x), *output_size(x, w, stride, pad), len(w)), np.float32)
    _output_channel_innermost(padded(x, pad), np.ascontiguousarray(w.transpose(1, 2, 3, 0)), stride, y)
    return y
