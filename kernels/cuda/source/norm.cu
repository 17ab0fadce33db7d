// Batch normalisation: statistics, the affine map with residual and ReLU, and the gradients.
//
// x is (rows, C): every pixel of every image is a row.  Threads lie along the channels, VEC channels each, so a warp reads whole
// lines.  A block of 256 is `across` threads along the channels (a power of two) times 256 / across rows, and it takes a slab
// of rows (blockIdx.y).  Sums over the rows have two stages, without atomics: each slab's, then a fixed-order sum of the slabs.
#include "moments.cuh"

struct Slab {
  int rows, channels, across, height;                            // height: rows of a slab
};

// Where a thread stands: its first channel, its first row and the step between its rows, the end of its slab.
struct Position {
  int channel, row, step, end, down, across;
  __device__ __forceinline__ Position(const Slab& slab, int vec) {
    across = threadIdx.x % slab.across;
    down = threadIdx.x / slab.across;
    channel = (blockIdx.x * slab.across + across) * vec;
    step = 256 / slab.across;
    row = blockIdx.y * slab.height + down;
    end = min((int)(blockIdx.y + 1) * slab.height, slab.rows);
  }
};

// partial (slabs, 2, C): mean and sum of squared deviations of each slab.  A thread takes its first value as the origin: sums of
// squares then do not cancel.
template <class T, int VEC> __global__ void __launch_bounds__(256, 4)
bn_moments(const T* __restrict__ x, float* __restrict__ partial, const Slab slab) {
  __shared__ Moments moments[256];
  const Position at(slab, VEC);
  float origin[VEC] = {}, sum[VEC] = {}, squares[VEC] = {};
  float n = 0.0f;
  if (at.channel < slab.channels)
    for (int row = at.row; row < at.end; row += at.step) {
      Lanes<T, VEC> v;
      v.load(x + (int64_t)row * slab.channels + at.channel);
      if (row == at.row)
        for (int i = 0; i < VEC; i++) origin[i] = v.get(i);
#pragma unroll
      for (int i = 0; i < VEC; i++) {
        const float d = v.get(i) - origin[i];
        sum[i] += d;
        squares[i] = fmaf(d, d, squares[i]);
      }
      n += 1.0f;
    }
#pragma unroll
  for (int i = 0; i < VEC; i++) {                                // one of the thread's channels after the other
    const float shift = n > 0.0f ? sum[i] / n : 0.0f;
    Moments mine = {n, origin[i] + shift, squares[i] - sum[i] * shift};
    __syncthreads();                                             // the last channel's have been read
    moments[threadIdx.x] = mine;
    __syncthreads();
    if (at.down == 0 && at.channel < slab.channels) {
      for (int d = 1; d < at.step; d++) mine.merge(moments[d * slab.across + at.across]);
      mine.store(partial, blockIdx.y, at.channel + i, slab.channels);
    }
  }
}

// mean (C) and biased variance (C) from the slabs' moments.
template <class T> __global__ void __launch_bounds__(128)
bn_merge(const float* __restrict__ partial, float* __restrict__ mean, float* __restrict__ var, const int slabs, const Slab slab) {
  const int channel = blockIdx.x * 128 + threadIdx.x;
  if (channel >= slab.channels) return;
  Moments all = {0.0f, 0.0f, 0.0f};
#pragma unroll 4
  for (int s = 0; s < slabs; s++) {
    const float n = (float)(min((s + 1) * slab.height, slab.rows) - s * slab.height);
    all.merge({n, partial[((int64_t)s * 2) * slab.channels + channel], partial[((int64_t)s * 2 + 1) * slab.channels + channel]});
  }
  mean[channel] = all.mean;
  var[channel] = all.m2 / all.n;
}

// y = [relu](x * scale + shift [+ residual]).
template <class T, int VEC> __global__ void __launch_bounds__(256)
bn_apply(const T* __restrict__ x, const float* __restrict__ scale, const float* __restrict__ shift,
         const T* __restrict__ residual, T* __restrict__ y, const Slab slab, const int with_relu) {
  const Position at(slab, VEC);
  if (at.channel >= slab.channels) return;
  Lanes<float, VEC> a, b;
  a.load(scale + at.channel);
  b.load(shift + at.channel);
#pragma unroll 2
  for (int row = at.row; row < at.end; row += at.step) {
    const int64_t place = (int64_t)row * slab.channels + at.channel;
    Lanes<T, VEC> v, r;
    v.load(x + place);
    if (residual) r.load(residual + place);
#pragma unroll
    for (int i = 0; i < VEC; i++) {
      float u = fmaf(v.get(i), a.value[i], b.value[i]);
      if (residual) u += r.get(i);
      v.set(i, with_relu ? relu(u) : u);
    }
    v.store(y + place);
  }
}

// What passes of VEC gradients g through the ReLU at the end: all where there is none (y and scale null), those where the output
// y > 0, or where x * scale + shift > 0, which spares reading y.
template <class T, int VEC>
__device__ __forceinline__ void mask_gradient(Lanes<T, VEC>& g, const T* y, const Lanes<T, VEC>& x, const float* scale,
                                              const float* shift, int64_t place, int channel) {
  if (y) {
    Lanes<T, VEC> out;
    out.load(y + place);
#pragma unroll
    for (int i = 0; i < VEC; i++)
      if (!(out.get(i) > 0.0f)) g.set(i, 0.0f);
  } else if (scale) {
#pragma unroll
    for (int i = 0; i < VEC; i++)
      if (!(fmaf(x.get(i), scale[channel + i], shift[channel + i]) > 0.0f)) g.set(i, 0.0f);
  }
}

// partial (slabs, 2, C): sums of g and of g * xhat, where g is what passes of gy.  x null: of g alone.
template <class T, int VEC> __global__ void __launch_bounds__(256)
bn_sums(const T* __restrict__ gy, const T* __restrict__ x, const T* __restrict__ y, const float* __restrict__ mean,
        const float* __restrict__ rstd, const float* __restrict__ scale, const float* __restrict__ shift,
        float* __restrict__ partial, const Slab slab) {
  __shared__ float sums[2][256];
  const Position at(slab, VEC);
  float sum[VEC] = {}, product[VEC] = {};
  if (at.channel < slab.channels) {
    Lanes<float, VEC> m = {}, s = {};
    if (x) {
      m.load(mean + at.channel);
      s.load(rstd + at.channel);
    }
#pragma unroll 2
    for (int row = at.row; row < at.end; row += at.step) {
      const int64_t place = (int64_t)row * slab.channels + at.channel;
      Lanes<T, VEC> g, v = {};
      g.load(gy + place);
      if (x) v.load(x + place);
      mask_gradient(g, y, v, scale, shift, place, at.channel);
#pragma unroll
      for (int i = 0; i < VEC; i++) {
        sum[i] += g.get(i);
        product[i] = fmaf(g.get(i), (v.get(i) - m.value[i]) * s.value[i], product[i]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < VEC; i++) {
    __syncthreads();
    sums[0][threadIdx.x] = sum[i];
    sums[1][threadIdx.x] = product[i];
    __syncthreads();
    if (at.down < 2 && at.channel < slab.channels) {             // two rows of threads: one for each sum
      float total = 0.0f;
      for (int d = 0; d < at.step; d++) total += sums[at.down][d * slab.across + at.across];
      partial[((int64_t)blockIdx.y * 2 + at.down) * slab.channels + at.channel + i] = total;
    }
  }
}

// total (2, C) from the slabs' sums.  Compensated (Kahan): as good as a sum in double, without its cost.
template <class T> __global__ void __launch_bounds__(128)
bn_add(const float* __restrict__ partial, float* __restrict__ total, const int slabs, const int columns) {
  const int i = blockIdx.x * 128 + threadIdx.x;
  if (i >= columns) return;
  float sum = 0.0f, lost = 0.0f;
#pragma unroll 4
  for (int s = 0; s < slabs; s++) {
    const float v = __fsub_rn(partial[(int64_t)s * columns + i], lost), next = __fadd_rn(sum, v);
    lost = __fsub_rn(__fsub_rn(next, sum), v);
    sum = next;
  }
  total[i] = sum;
}

// gx = factor * (g - mean_g - xhat * mean_gx) with factor = weight * rstd; total (2, C) is null in evaluation: gx = factor * g.
// gx or gresidual may be null.
template <class T, int VEC> __global__ void __launch_bounds__(256)
bn_gradient(const T* __restrict__ gy, const T* __restrict__ x, const T* __restrict__ y, const float* __restrict__ mean,
            const float* __restrict__ rstd, const float* __restrict__ weight, const float* __restrict__ scale,
            const float* __restrict__ shift, const float* __restrict__ total, T* __restrict__ gx, T* __restrict__ gresidual,
            const Slab slab) {
  const Position at(slab, VEC);
  if (at.channel >= slab.channels) return;
  Lanes<float, VEC> m, s, w, mean_g = {}, mean_gx = {};
  m.load(mean + at.channel);
  s.load(rstd + at.channel);
  w.load(weight + at.channel);
  if (total) {
    mean_g.load(total + at.channel);
    mean_gx.load(total + slab.channels + at.channel);
  }
#pragma unroll
  for (int i = 0; i < VEC; i++) mean_g.value[i] /= slab.rows, mean_gx.value[i] /= slab.rows;
#pragma unroll 2
  for (int row = at.row; row < at.end; row += at.step) {
    const int64_t place = (int64_t)row * slab.channels + at.channel;
    Lanes<T, VEC> g, v = {};
    g.load(gy + place);
    if (total || scale) v.load(x + place);
    mask_gradient(g, y, v, scale, shift, place, at.channel);
    if (gresidual) g.store(gresidual + place);
    if (!gx) continue;
#pragma unroll
    for (int i = 0; i < VEC; i++) {
      float u = g.get(i);
      if (total) u -= mean_g.value[i] + (v.get(i) - m.value[i]) * s.value[i] * mean_gx.value[i];
      g.set(i, w.value[i] * s.value[i] * u);
    }
    g.store(gx + place);
  }
}
