"""Step 3: a convolution is a matrix product (im2col).

Write the window of each output pixel into a row of a matrix, KH*KW*C numbers, in the order of the weights:

    columns (OH*OW, KH*KW*C)   times   weights (KH*KW*C, O)   =   y (OH*OW, O)

and all that is known about multiplying matrices fast applies, whatever the window, stride or padding. This
is how Caffe made convolution fast in 2014 (Chellapilla et al., "High Performance Convolutional Neural
Networks for Document Processing", 2006). The price is memory: the matrix holds each pixel KH*KW times. It is
built for one image at a time here.

The product below is step 2 again, now with three plain loops inside its blocks. NumPy's `columns @ weights`
would call a BLAS library, which has climbed the next three steps for us; we climb them ourselves.
"""

from __future__ import annotations

import numpy as np

from minidl.kernels.ladder.cpu.common import Array, output_size, padded, step
from minidl.kernels.ladder.cpu.step2_blocking import OUTPUTS, PIXELS, outputs_last


@step
def im2col(
    image: Array, kernel_rows: int, kernel_cols: int, stride: int, rows: int, cols: int, out: Array
) -> None:
    """Windows of one padded image (H, W, C) into the rows of out (rows*cols, KH*KW*C)."""
    channels = image.shape[2]
    for i in range(rows):
        for j in range(cols):
            at = 0
            for r in range(kernel_rows):
                for s in range(kernel_cols):
                    for c in range(channels):
                        out[i * cols + j, at + c] = image[i * stride + r, j * stride + s, c]
                    at += channels


@step
def _matmul(a: Array, b: Array, out: Array) -> None:
    """out (M, O) = a (M, K) @ b (K, O and zeros up to a multiple of OUTPUTS), PIXELS x OUTPUTS sums at a time."""
    sums = np.empty((PIXELS, OUTPUTS), np.float32)
    pixels, depth = a.shape
    outputs = out.shape[1]
    for first in range(0, outputs, OUTPUTS):
        for i in range(0, pixels, PIXELS):
            sums[:] = 0
            for k in range(depth):
                weights = b[k, first : first + OUTPUTS]
                for p in range(PIXELS):
                    value = a[min(i + p, pixels - 1), k]
                    row = sums[p]
                    for o in range(OUTPUTS):
                        row[o] += value * weights[o]
            for p in range(min(PIXELS, pixels - i)):
                for o in range(min(OUTPUTS, outputs - first)):
                    out[i + p, first + o] = sums[p, o]


def conv2d(x: Array, w: Array, stride: int = 1, pad: int = 0) -> Array:
    """Cross-correlation of x (N, H, W, C) with w (O, KH, KW, C): y (N, OH, OW, O)."""
    rows, cols = output_size(x, w, stride, pad)
    outputs, kernel_rows, kernel_cols, channels = w.shape
    depth = kernel_rows * kernel_cols * channels
    weights = outputs_last(w).reshape(depth, -1)
    columns = np.empty((rows * cols, depth), np.float32)
    y = np.empty((len(x), rows, cols, outputs), np.float32)
    for image, out in zip(padded(x, pad), y, strict=True):
        im2col(image, kernel_rows, kernel_cols, stride, rows, cols, columns)
        _matmul(columns, weights, out.reshape(rows * cols, outputs))
    return y
