// Pooling: maximum and mean over windows or over the cells of an adaptive grid, and their gradients.  No atomics: a gradient is
// gathered, each input pixel asks the windows that cover it.  A thread takes VEC neighbouring channels of one pixel.
#include "types.cuh"

struct PoolAxis { int size, out, kernel, stride, pad, end_pad, dilation; };   // pad at the beginning and at the end

struct Pool {
  PoolAxis h, w;
  Divisor lanes, columns, rows;                                  // channels / VEC; the columns and rows that threads run over
  int channels, count, include_pad;                              // count: threads
};

// A window's pixels: first, first + step, ... before end; and the pixels that its mean divides by.
struct Span { int first, end, step, divide; };

template <bool ADAPTIVE> __device__ __forceinline__ Span span(const PoolAxis& a, int i, bool include_pad) {
  if constexpr (ADAPTIVE) {                                      // cells of nearly equal size; they overlap where sizes do not divide
    const int first = i * a.size / a.out, end = ((i + 1) * a.size + a.out - 1) / a.out;
    return {first, end, 1, end - first};
  } else {
    const int start = i * a.stride - a.pad, past = start + (a.kernel - 1) * a.dilation + 1;
    const int first = start < 0 ? start + (-start + a.dilation - 1) / a.dilation * a.dilation : start;
    const int end = min(past, a.size);
    return {first, end, a.dilation, include_pad ? min(past, a.size + a.end_pad) - start : end - first};
  }
}

// The windows that may cover a pixel: first .. last (some not, when dilated).
struct Cover { int first, last; };

template <bool ADAPTIVE> __device__ __forceinline__ Cover cover(const PoolAxis& a, int pixel) {
  if constexpr (ADAPTIVE) {
    return {pixel * a.out / a.size, ((pixel + 1) * a.out + a.size - 1) / a.size - 1};
  } else {
    const int reach = pixel + a.pad - (a.kernel - 1) * a.dilation;
    return {reach <= 0 ? 0 : (reach + a.stride - 1) / a.stride, min((pixel + a.pad) / a.stride, a.out - 1)};
  }
}

// The thread's image, row, column and first channel.
struct Site {
  uint32_t image, row, column, channel;
  bool live;
  __device__ __forceinline__ Site(const Pool& p, int vec) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    live = i < p.count;
    uint32_t rest = p.lanes.split(live ? i : 0, channel);
    rest = p.columns.split(rest, column);
    image = p.rows.split(rest, row);
    channel *= vec;
  }
  __device__ __forceinline__ int64_t in(const PoolAxis& h, const PoolAxis& w, int channels, int r, int c) const {
    return (((int64_t)image * h.size + r) * w.size + c) * channels + channel;
  }
  __device__ __forceinline__ int64_t out(const PoolAxis& h, const PoolAxis& w, int channels, int r, int c) const {
    return (((int64_t)image * h.out + r) * w.out + c) * channels + channel;
  }
};

// y and the place row * W + column of the first maximum; the first NaN beats every number.
template <class T, int VEC, bool ADAPTIVE> __global__ void __launch_bounds__(256, 4)
max_pool(const T* __restrict__ x, T* __restrict__ y, int* __restrict__ index, const Pool p) {
  const Site at(p, VEC);
  if (!at.live) return;
  const Span down = span<ADAPTIVE>(p.h, at.row, false), across = span<ADAPTIVE>(p.w, at.column, false);
  Lanes<T, VEC> best, v;
  Lanes<int, VEC> place;
  bool first = true;
  for (int r = down.first; r < down.end; r += down.step)
    for (int c = across.first; c < across.end; c += across.step) {
      v.load(x + at.in(p.h, p.w, p.channels, r, c));
#pragma unroll
      for (int i = 0; i < VEC; i++) {
        const float now = v.get(i), old = first ? 0.0f : best.get(i);
        if (first || now > old || (now != now && old == old)) best.value[i] = v.value[i], place.value[i] = r * p.w.size + c;
      }
      first = false;
    }
  const int64_t to = at.out(p.h, p.w, p.channels, at.row, at.column);
  best.store(y + to);
  place.store(index + to);
}

// gx: each pixel adds the gy of those windows whose index it is, in row order.
template <class T, int VEC, bool ADAPTIVE> __global__ void __launch_bounds__(256, 4)
max_pool_gradient(const T* __restrict__ gy, const int* __restrict__ index, T* __restrict__ gx, const Pool p) {
  const Site at(p, VEC);
  if (!at.live) return;
  const Cover down = cover<ADAPTIVE>(p.h, at.row), across = cover<ADAPTIVE>(p.w, at.column);
  const int own = at.row * p.w.size + at.column;
  float sum[VEC] = {};
  for (int r = down.first; r <= down.last; r++)
    for (int c = across.first; c <= across.last; c++) {
      const int64_t from = at.out(p.h, p.w, p.channels, r, c);
      Lanes<int, VEC> place;
      Lanes<T, VEC> g;
      place.load(index + from);
      g.load(gy + from);
#pragma unroll
      for (int i = 0; i < VEC; i++) sum[i] += place.value[i] == own ? g.get(i) : 0.0f;
    }
  Lanes<T, VEC> result;
#pragma unroll
  for (int i = 0; i < VEC; i++) result.set(i, sum[i]);
  result.store(gx + at.in(p.h, p.w, p.channels, at.row, at.column));
}

// The same without knowing the windows: a thread owns one channel of an image and walks all of its outputs.
template <class T> __global__ void __launch_bounds__(256, 4)
scatter_by_index(const T* __restrict__ gy, const int* __restrict__ index, T* __restrict__ gx, float* __restrict__ sums,
                 const int columns, const int channels, const int outputs, const int area) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= columns) return;
  const int64_t image = i / channels, channel = i % channels;
  for (int j = 0; j < area; j++) sums[(image * area + j) * channels + channel] = 0.0f;
  for (int j = 0; j < outputs; j++) {
    const int64_t from = (image * outputs + j) * channels + channel;
    const int place = index[from];
    if ((unsigned)place < (unsigned)area) sums[(image * area + place) * channels + channel] += to_float(gy[from]);
  }
  for (int j = 0; j < area; j++) {
    const int64_t to = (image * area + j) * channels + channel;
    gx[to] = from_float<T>(sums[to]);
  }
}

// y[n, i, c] = x[n, index, c].
template <class T> __global__ void __launch_bounds__(256, 4)
gather_by_index(const T* __restrict__ x, const int* __restrict__ index, T* __restrict__ y, const long long count,
                const int channels, const int outputs, const int area) {
  const int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
  if (i >= count) return;
  const int64_t image = i / ((int64_t)channels * outputs), channel = i % channels;
  const int place = index[i];
  if ((unsigned)place < (unsigned)area) y[i] = x[(image * area + place) * channels + channel];
}

// The mean of each window.  Rows are added up by themselves first: long sums lose less.
template <class T, int VEC, bool ADAPTIVE> __global__ void __launch_bounds__(256, 4)
mean_pool(const T* __restrict__ x, T* __restrict__ y, const Pool p) {
  const Site at(p, VEC);
  if (!at.live) return;
  const Span down = span<ADAPTIVE>(p.h, at.row, p.include_pad), across = span<ADAPTIVE>(p.w, at.column, p.include_pad);
  float sum[VEC] = {};
  for (int r = down.first; r < down.end; r += down.step) {
    float line[VEC] = {};
    for (int c = across.first; c < across.end; c += across.step) {
      Lanes<T, VEC> v;
      v.load(x + at.in(p.h, p.w, p.channels, r, c));
#pragma unroll
      for (int i = 0; i < VEC; i++) line[i] += v.get(i);
    }
#pragma unroll
    for (int i = 0; i < VEC; i++) sum[i] += line[i];
  }
  Lanes<T, VEC> mean;
#pragma unroll
  for (int i = 0; i < VEC; i++) mean.set(i, sum[i] / ((float)down.divide * (float)across.divide));
  mean.store(y + at.out(p.h, p.w, p.channels, at.row, at.column));
}

// gx: each pixel adds its share of the gy of the windows that cover it.
template <class T, int VEC, bool ADAPTIVE> __global__ void __launch_bounds__(256, 3)
mean_pool_gradient(const T* __restrict__ gy, T* __restrict__ gx, const Pool p) {
  const Site at(p, VEC);
  if (!at.live) return;
  const Cover down = cover<ADAPTIVE>(p.h, at.row), across = cover<ADAPTIVE>(p.w, at.column);
  float sum[VEC] = {};
  for (int r = down.first; r <= down.last; r++) {
    const float rows = span<ADAPTIVE>(p.h, r, p.include_pad).divide;
    for (int c = across.first; c <= across.last; c++) {
      const float share = 1.0f / (rows * (float)span<ADAPTIVE>(p.w, c, p.include_pad).divide);
      Lanes<T, VEC> g;
      g.load(gy + at.out(p.h, p.w, p.channels, r, c));
#pragma unroll
      for (int i = 0; i < VEC; i++) sum[i] = fmaf(g.get(i), share, sum[i]);
    }
  }
  Lanes<T, VEC> result;
#pragma unroll
  for (int i = 0; i < VEC; i++) result.set(i, sum[i]);
  result.store(gx + at.in(p.h, p.w, p.channels, at.row, at.column));
}
