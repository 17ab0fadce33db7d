// What all steps share: the sizes of a convolution, and where output pixel m reads.
//
//     y[m, o] = sum over k of patch(m)[k] * w[o, k]      m = (image, row, column) of the output, k = (r, s, channel)
//
// x is N,H,W,C in memory, channels fastest; y is N,OH,OW,O.
#pragma once

struct Shape {
  int images, height, width, channels;                           // of x
  int rows, cols, outputs;                                       // of y
  int kernel_rows, kernel_cols, stride, pad;
  __device__ int pixels() const { return images * rows * cols; }
  __device__ int depth() const { return kernel_rows * kernel_cols * channels; }

  // Element k of the patch of output pixel m as an index into x, or -1 in the padding and past the ends.
  __device__ int source(int m, int k) const {
    if (m >= pixels() || k >= depth()) return -1;
    const int c = k % channels, tap = k / channels, r = tap / kernel_cols, s = tap % kernel_cols;
    const int column = m % cols * stride + s - pad, row = m / cols % rows * stride + r - pad;
    if (row < 0 || row >= height || column < 0 || column >= width) return -1;
    return ((m / (cols * rows) * height + row) * width + column) * channels + c;
  }
};
