// One row at a time: standardisation (layer, group and instance norm) and softmax cross-entropy.  A row belongs to a warp (THREADS =
// 32, short rows) or to a block (THREADS = 256); a block has 256 threads either way.
#include "reduce.cuh"

template <int THREADS> __device__ __forceinline__ int my_row() { return blockIdx.x * (256 / THREADS) + threadIdx.x / THREADS; }

// y = (x - mean) * rstd [* weight] [+ bias], mean and rstd (rows).  weight and bias have `period` elements, a multiple of a row: element
// i of x takes element i % period.  Two passes: the squares are of what the mean leaves over.
template <class T, int THREADS> __global__ void __launch_bounds__(256)
standardize(const T* __restrict__ x, const T* __restrict__ weight, const T* __restrict__ bias, T* __restrict__ y,
            float* __restrict__ mean, float* __restrict__ rstd, const int rows, const int columns, const int period_rows,
            const float eps) {
  const int row = my_row<THREADS>(), lane = threadIdx.x % THREADS;
  if (row >= rows) return;                                       // whole warps leave together
  x += (int64_t)row * columns;
  y += (int64_t)row * columns;
  const int64_t first = (int64_t)(row % period_rows) * columns;
  float sum = 0.0f;
  for (int i = lane; i < columns; i += THREADS) sum += to_float(x[i]);
  const float m = reduce<THREADS>(sum, Sum()) / columns;
  float squares = 0.0f, rest = 0.0f;
  for (int i = lane; i < columns; i += THREADS) {
    const float d = to_float(x[i]) - m;
    rest += d;
    squares = fmaf(d, d, squares);
  }
  rest = reduce<THREADS>(rest, Sum()) / columns;                 // what rounding the mean left over
  const float var = reduce<THREADS>(squares, Sum()) / columns - rest * rest;
  const float s = rsqrtf((var < 0.0f ? 0.0f : var) + eps);
  for (int i = lane; i < columns; i += THREADS) {
    float v = (to_float(x[i]) - m - rest) * s;
    if (weight) v *= to_float(weight[first + i]);
    if (bias) v += to_float(bias[first + i]);
    y[i] = from_float<T>(v);
  }
  if (lane == 0) {
    mean[row] = m + rest;
    rstd[row] = s;
  }
}

// gx = rstd * (g - mean of g - xhat * mean of (g * xhat)) with g = gy * weight, and gweight = gy * xhat; either may be null.
template <class T, int THREADS> __global__ void __launch_bounds__(256)
standardize_backward(const T* __restrict__ gy, const T* __restrict__ x, const float* __restrict__ mean,
                     const float* __restrict__ rstd, const T* __restrict__ weight, T* __restrict__ gx, float* __restrict__ gweight,
                     const int rows, const int columns, const int period_rows) {
  const int row = my_row<THREADS>(), lane = threadIdx.x % THREADS;
  if (row >= rows) return;
  const int64_t start = (int64_t)row * columns, first = (int64_t)(row % period_rows) * columns;
  const float m = mean[row], s = rstd[row];
  float sum = 0.0f, product = 0.0f;
  for (int i = lane; i < columns; i += THREADS) {
    const float xhat = (to_float(x[start + i]) - m) * s, up = to_float(gy[start + i]);
    const float g = weight ? up * to_float(weight[first + i]) : up;
    sum += g;
    product = fmaf(g, xhat, product);
    if (gweight) gweight[start + i] = up * xhat;
  }
  if (!gx) return;
  const float through_mean = reduce<THREADS>(sum, Sum()) / columns;
  const float through_rstd = reduce<THREADS>(product, Sum()) / columns;
  for (int i = lane; i < columns; i += THREADS) {
    const float xhat = (to_float(x[start + i]) - m) * s, up = to_float(gy[start + i]);
    const float g = weight ? up * to_float(weight[first + i]) : up;
    gx[start + i] = from_float<T>((g - through_mean - xhat * through_rstd) * s);
  }
}

// The label of a row: -1 for an ignored one, -2 for one that is no class.
__device__ __forceinline__ int label_of(const int64_t* target, int row, int classes, int64_t ignore) {
  const int64_t t = target[row];
  return t == ignore ? -1 : t >= 0 && t < classes ? (int)t : -2;
}

// loss = -(1 - e) * w[t] * log p[t] - e / K * sum over j of w[j] * log p[j], row_weight = w[t]; 0 for an ignored row, NaN for a label
// that is no class.  log p is relative to the row's own maximum.
template <class T, int THREADS> __global__ void __launch_bounds__(256)
softmax_loss(const T* __restrict__ logits, const int64_t* __restrict__ target, const T* __restrict__ weight,
             T* __restrict__ loss, T* __restrict__ row_weight, const int rows, const int classes,
             const int64_t ignore, const float smoothing) {
  const int row = my_row<THREADS>(), lane = threadIdx.x % THREADS;
  if (row >= rows) return;
  logits += (int64_t)row * classes;
  float top = Maximum::neutral(), sum = 0.0f, spread = 0.0f;
  for (int i = lane; i < classes; i += THREADS) top = Maximum()(to_float(logits[i]), top);
  top = reduce<THREADS>(top, Maximum());
  for (int i = lane; i < classes; i += THREADS) sum += expf(to_float(logits[i]) - top);
  const float lse = logf(reduce<THREADS>(sum, Sum()));           // log p = logit - top - lse
  if (smoothing > 0.0f) {
    for (int i = lane; i < classes; i += THREADS)
      spread += (to_float(logits[i]) - top - lse) * (weight ? to_float(weight[i]) : 1.0f);
    spread = reduce<THREADS>(spread, Sum());
  }
  if (lane == 0) {
    const int t = label_of(target, row, classes, ignore);
    const float w = t < 0 ? 0.0f : weight ? to_float(weight[t]) : 1.0f;
    float v = t >= 0 ? -(1.0f - smoothing) * w * (to_float(logits[t]) - top - lse) - smoothing / classes * spread : 0.0f;
    if (t == -2) v = __int_as_float(0x7FC00000);
    loss[row] = from_float<T>(v);
    row_weight[row] = from_float<T>(w);
  }
}

// glogits[j] = g * ((1 - e) * w[t] * (p[j] - [j == t]) + e / K * (p[j] * sum(w) - w[j])).
template <class T, int THREADS> __global__ void __launch_bounds__(256)
softmax_loss_backward(const T* __restrict__ g_per_row, const T* __restrict__ logits, const int64_t* __restrict__ target,
                      const T* __restrict__ weight, T* __restrict__ glogits, const int rows, const int classes,
                      const int64_t ignore, const float smoothing) {
  const int row = my_row<THREADS>(), lane = threadIdx.x % THREADS;
  if (row >= rows) return;
  logits += (int64_t)row * classes;
  glogits += (int64_t)row * classes;
  float top = Maximum::neutral(), sum = 0.0f, all = 0.0f;
  for (int i = lane; i < classes; i += THREADS) {
    top = Maximum()(to_float(logits[i]), top);
    all += weight ? to_float(weight[i]) : 1.0f;
  }
  top = reduce<THREADS>(top, Maximum());
  for (int i = lane; i < classes; i += THREADS) sum += expf(to_float(logits[i]) - top);
  const float scale = 1.0f / reduce<THREADS>(sum, Sum());
  all = reduce<THREADS>(all, Sum());
  const int t = label_of(target, row, classes, ignore);
  const float g = t == -2 ? __int_as_float(0x7FC00000) : to_float(g_per_row[row]);
  const float own = t < 0 ? 0.0f : (1.0f - smoothing) * (weight ? to_float(weight[t]) : 1.0f);
  for (int i = lane; i < classes; i += THREADS) {
    const float p = expf(to_float(logits[i]) - top) * scale;
    float v = own * (p - (i == t ? 1.0f : 0.0f));
    if (smoothing > 0.0f) v += smoothing / classes * (p * all - (weight ? to_float(weight[i]) : 1.0f));
    glogits[i] = from_float<T>(t == -1 ? 0.0f : g * v);
  }
}
