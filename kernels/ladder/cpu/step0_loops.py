"""Step 0: seven loops, as the formula is written.

Each output is a sum over channels and window, so there are four loops over outputs and three over the sum.
The order is the textbook's: channel outside of window. On channels-last images every step of the two inner
loops jumps C numbers ahead, so each number read brings in a cache line of 16 and uses one of them. The sum
itself is one long chain: each addition waits for the one before it (about 4 cycles), and floating-point
addition may not be reordered, so the compiler has to keep it that way. One multiply-add in 4 cycles is one
128th of what the processor can do.
"""

from __future__ import annotations

import numpy as np

from minidl.kernels.ladder.cpu.common import Array, output_size, padded, step


@step
def _loops(x: Array, w: Array, stride: int, y: Array) -> None:
    images, rows, cols, outputs = y.shape
    _, kernel_rows, kernel_cols, channels = w.shape
    for n in range(images):
        for o in range(outputs):
            for i in range(rows):
                for j in range(cols):
                    total = np.float32(0)
                    for c in range(channels):
                        for r in range(kernel_rows):
                            for s in range(kernel_cols):
                                total += x[n, i * stride + r, j * stride + s, c] * w[o, r, s, c]
                    y[n, i, j, o] = total


def conv2d(x: Array, w: Array, stride: int = 1, pad: int = 0) -> Array:
    """Cross-correlation of x (N, H, W, C) with w (O, KH, KW, C): y (N, OH, OW, O)."""
    y = np.empty((len(x), *output_size(x, w, stride, pad), len(w)), np.float32)
    _loops(padded(x, pad), w, stride, y)
    return y
