// Depthwise convolution: every output channel is made of the one input channel of the same number.  There is nothing to multiply as
// matrices, the memory decides: a thread takes VEC neighbouring channels of RUN pixels in a row, so that a weight is loaded once
// for all of them.  Forward and input gradient are the same gather (window.cuh).
#include "epilogue.cuh"
#include "window.cuh"

constexpr int RUN = 4;

// y[m, c] = [relu](sum over taps of x[tap's pixel of m, c] * w[tap, c] + bias[c] [+ residual[m, c]]), w packed as (taps, C).
template <class T, int VEC> __global__ void __launch_bounds__(256)
depthwise(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ bias, const T* __restrict__ residual,
          T* __restrict__ y, const Window window, const PixelPlace place, const Divisor lanes, const int threads, const int relu) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= threads) return;
  uint32_t lane;
  const int first = lanes.split(i, lane) * RUN, channel = lane * VEC;
  int pixel[RUN], top[RUN], left[RUN];
#pragma unroll
  for (int j = 0; j < RUN; j++) {
    const int m = first + j;
    uint32_t rest, column;
    const int image = window.area.split(m < window.pixels ? m : 0, rest), row = window.columns.split(rest, column);
    top[j] = m < window.pixels ? row * window.h.step + window.h.first : -(1 << 20);   // far outside
    left[j] = (int)column * window.w.step + window.w.first;
    pixel[j] = (image * window.h.size + top[j]) * window.w.size + left[j];
  }
  float sum[RUN][VEC] = {};
  for (int r = 0; r < window.h.taps; r++)
    for (int c = 0; c < window.w.taps; c++) {
      const int down = r * window.h.tap, across = c * window.w.tap;
      Lanes<T, VEC> weight;
      weight.load(w + (int64_t)(r * window.w.taps + c) * window.channels + channel);
#pragma unroll
      for (int j = 0; j < RUN; j++)
        if ((unsigned)(top[j] + down) < (unsigned)window.h.size && (unsigned)(left[j] + across) < (unsigned)window.w.size) {
          Lanes<T, VEC> v;
          v.load(x + (int64_t)(pixel[j] + down * window.w.size + across) * window.pitch + channel);
#pragma unroll
          for (int q = 0; q < VEC; q++) sum[j][q] = fmaf(v.get(q), weight.get(q), sum[j][q]);
        }
    }
#pragma unroll
  for (int j = 0; j < RUN; j++) {
    if (first + j >= window.pixels) return;
    const int64_t to = place.offset(first + j) + channel;
    Lanes<T, VEC> out, more;
    if (bias) {
      more.load(bias + channel);
#pragma unroll
      for (int q = 0; q < VEC; q++) sum[j][q] += more.get(q);
    }
    if (residual) {
      more.load(residual + to);
#pragma unroll
      for (int q = 0; q < VEC; q++) sum[j][q] += more.get(q);
    }
#pragma unroll
    for (int q = 0; q < VEC; q++) out.set(q, relu ? ::relu(sum[j][q]) : sum[j][q]);
    out.store(y + to);
  }
}

// partial (slabs, taps, C): each slab of `height` pixels sums gy[m, c] * x[tap's pixel of m, c].  A block is `across` threads along the
// channels times 256 / across pixels; blockIdx.y is the slab, blockIdx.z the tap.  conv_weight.cu adds the slabs.
template <class T, int VEC> __global__ void __launch_bounds__(256)
depthwise_weight(const T* __restrict__ gy, const T* __restrict__ x, float* __restrict__ partial, const Window window,
                 const int across, const int height) {
  __shared__ float sums[256];
  const int lane = threadIdx.x % across, line = threadIdx.x / across, lines = 256 / across;
  const int channel = (blockIdx.x * across + lane) * VEC, tap = blockIdx.z;
  const int down = tap / window.w.taps * window.h.tap + window.h.first, side = tap % window.w.taps * window.w.tap + window.w.first;
  const int end = min((int)(blockIdx.y + 1) * height, window.pixels);
  float sum[VEC] = {};
  if (channel < window.channels)
    for (int m = blockIdx.y * height + line; m < end; m += lines) {
      uint32_t rest, q;
      const int image = window.area.split(m, rest), p = window.columns.split(rest, q);
      const int row = p * window.h.step + down, column = (int)q * window.w.step + side;
      if ((unsigned)row < (unsigned)window.h.size && (unsigned)column < (unsigned)window.w.size) {
        Lanes<T, VEC> g, v;
        g.load(gy + (int64_t)m * window.channels + channel);
        v.load(x + (int64_t)((image * window.h.size + row) * window.w.size + column) * window.pitch + channel);
#pragma unroll
        for (int i = 0; i < VEC; i++) sum[i] = fmaf(g.get(i), v.get(i), sum[i]);
      }
    }
#pragma unroll
  for (int i = 0; i < VEC; i++) {
    __syncthreads();                                             // the last channel's sums have been read
    sums[threadIdx.x] = sum[i];
    __syncthreads();
    if (line == 0 && channel < window.channels) {
      float total = 0.0f;
      for (int l = 0; l < lines; l++) total += sums[l * across + lane];
      partial[((int64_t)blockIdx.y * gridDim.z + tap) * window.channels + channel + i] = total;
    }
  }
}
