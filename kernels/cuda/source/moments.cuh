// Means and variances without cancellation: of few values about one of them, of many by merging.
#pragma once
#include "types.cuh"

// Mean and sum of squared deviations of n values, merged with another's (Chan, Golub and LeVeque, 1979).
struct Moments {
  float n, mean, m2;
  __device__ __forceinline__ void merge(const Moments& o) {
    const float total = n + o.n;
    if (total == 0.0f) return;
    const float d = o.mean - mean, part = o.n / total;
    mean += d * part;
    m2 += o.m2 + d * d * n * part;
    n = total;
  }
  // As row `slab` of partial (slabs, 2, channels).
  __device__ __forceinline__ void store(float* partial, int slab, int channel, int channels) const {
    float* at = partial + (int64_t)slab * 2 * channels + channel;
    at[0] = mean;
    at[channels] = m2 > 0.0f || m2 != m2 ? m2 : 0.0f;            // rounding may leave it below 0; NaN stays
  }
};
