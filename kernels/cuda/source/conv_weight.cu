// The weight gradient of a convolution: a matrix product whose reduced index is the pixels.
//
//     gw[o, j] = sum over m of gy[m, o] * patch(m)[j]        m = (image, row, column) of the output pixel,
//                                                            j = (tap row, tap column, channel), channel fastest
//
// There are few results and many pixels, so the pixels are split: each split (blockIdx.y) adds up its own part, in float, into its
// own copy of the result, and a second kernel adds the copies in their order.  No atomics: the same sums on every run.
#include "epilogue.cuh"
#include "window.cuh"

template <class T, Math MATH, int BM, int BN, int WM, int WN, int STAGES, int BLOCKS, int COPY>
__global__ void __launch_bounds__((BM / WM) * (BN / WN) * 32, BLOCKS)
conv2d_weight(const T* __restrict__ gy, const T* __restrict__ x, float* __restrict__ partial, const Window window,
              const int outputs, const int split) {
  constexpr int THREADS = (BM / WM) * (BN / WN) * 32;
  using A = TileFor<MATH, T, false, BM>;
  using B = TileFor<MATH, T, false, BN>;
  extern __shared__ __align__(1024) char shared[];
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, group = blockIdx.z, groups = gridDim.z;
  const int columns = window.h.taps * window.w.taps * window.channels, column_tiles = (columns + BN - 1) / BN;
  const int m = blockIdx.x / column_tiles * BM, n = blockIdx.x % column_tiles * BN;
  const int row = warp / (BN / WN) * WM, col = warp % (BN / WN) * WN;
  const int begin = blockIdx.y * split, end = min(begin + split, window.pixels);

  MatrixSource<A, COPY, THREADS> a(gy + (int64_t)group * outputs, (int64_t)groups * outputs, m, outputs, begin, end, thread);
  PatchSource<B, COPY, THREADS> b(x + (int64_t)group * window.channels, window, n, begin, end, thread);
  Accumulators<WM, WN> acc = {};
  gemm_loop<MATH, A, B, WM, WN, STAGES>(acc, shared, a, b, (end - begin + A::BK - 1) / A::BK, row, col, lane);

  float* mine = partial + ((int64_t)blockIdx.y * groups + group) * outputs * columns;
  const Output<float, RowPlace> output = {mine, nullptr, nullptr, {columns}, outputs, columns, false, columns % 4 == 0};
  write_out<WM, WN>(acc, shared, warp, lane, m + row, n + col, output);
}

// gw (O, C, KH, KW) = the splits' copies (splits, O, KH, KW, C), added in their order.
template <class T> __global__ void __launch_bounds__(256)
add_weight_splits(const float* __restrict__ partial, T* __restrict__ gw, const int splits, const int count,
                  const Divisor channels, const Divisor taps) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= count) return;
  float sum = 0.0f;
#pragma unroll 4
  for (int s = 0; s < splits; s++) sum += partial[(int64_t)s * count + i];
  uint32_t channel, tap;
  const uint32_t output = taps.split(channels.split(i, channel), tap);
  gw[((int64_t)output * channels.value + channel) * taps.value + tap] = from_float<T>(sum);
}
