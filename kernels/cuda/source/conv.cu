// Convolution as one matrix product, without ever building the matrix of patches (implicit GEMM): the forward pass, and
// the input gradient, which is a convolution of gy with the weight's input and output channels exchanged (see window.cuh).
//
//     y[m, o] = [relu]( sum over k of patch(m)[k] * w[o, k]  + bias[o] [+ residual[m, o]] )
//     m = (image, row, column) of the output pixel,  k = (tap row, tap column, channel), channel fastest
//
// x is N,H,W,C in memory and w is packed as O,KH,KW,C (for tf32: rounded by the way): both run along k.  One block makes BM pixels x BN output channels.
// Blocks that share their pixels come one after the other (the x they read is then in the second-level cache), and blockIdx.z
// is the group.
//
// moments, unless null: the statistics of y for a batch norm, (row tiles, 2, channels), see epilogue.cuh.
//
// BLOCKS: how many blocks a multiprocessor should hold.  COPY: how many elements a copy moves, 16 bytes' worth, or 1 where the
// channels do not divide by that.
#include "epilogue.cuh"
#include "window.cuh"

template <class T, Math MATH, int BM, int BN, int WM, int WN, int STAGES, int BLOCKS, int COPY>
__global__ void __launch_bounds__((BM / WM) * (BN / WN) * 32, BLOCKS)
conv2d(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ bias, const T* __restrict__ residual,
       T* __restrict__ y, const Window window, const PixelPlace place, const int outputs, const int relu, const int wide,
       float* __restrict__ moments) {
  constexpr int THREADS = (BM / WM) * (BN / WN) * 32;
  using A = TileFor<MATH, T, true, BM>;
  using B = TileFor<MATH, T, true, BN>;
  extern __shared__ __align__(1024) char shared[];
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, group = blockIdx.z;
  const int column_tiles = (outputs + BN - 1) / BN;
  const int m = blockIdx.x / column_tiles * BM, n = blockIdx.x % column_tiles * BN;
  const int row = warp / (BN / WN) * WM, col = warp % (BN / WN) * WN;   // the warp's part of the tile
  const int k = window.h.taps * window.w.taps * window.channels;

  __shared__ Corner corners[BM];
  fill_corners(corners, BM, window, m, thread, THREADS);
  __syncthreads();                                               // a thread's lines are others' too
  PixelSource<A, COPY, THREADS> a(x + (int64_t)group * window.channels, window, corners, thread);
  MatrixSource<B, COPY, THREADS, true> b(w + (int64_t)group * outputs * k, k, n, outputs, 0, k, thread);
  Accumulators<WM, WN> acc = {};
  gemm_loop<MATH, A, B, WM, WN, STAGES>(acc, shared, a, b, (k + A::BK - 1) / A::BK, row, col, lane);

  const int first = group * outputs;
  const Output<T, PixelPlace> output = {y + first, bias ? bias + first : nullptr, residual ? residual + first : nullptr,
                                        place, window.pixels, outputs, relu != 0, wide != 0};
  write_out<WM, WN>(acc, shared, warp, lane, m + row, n + col, output);
  if (moments)
    tile_moments<BM, BN, THREADS>(output, shared, thread, m, n, moments, blockIdx.x / column_tiles, first, gridDim.z * outputs);
}
