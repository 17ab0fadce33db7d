// Sums and maxima over the threads that share a row, always in the same order: the result depends on nothing but the data.
#pragma once
#include "types.cuh"

struct Sum {
  static __device__ __forceinline__ float neutral() { return 0.0f; }
  __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
};
struct Maximum {                                                 // fmaxf drops NaN, and a row of NaN must stay one: max(a, NaN) = NaN
  static __device__ __forceinline__ float neutral() { return -3.402823466e+38f; }
  __device__ __forceinline__ float operator()(float a, float b) const { return a > b || a != a ? a : b; }
};

// The 32 lanes of a warp: a butterfly, after which every lane has the result.
template <class Op> __device__ __forceinline__ float reduce_warp(float v, Op op) {
#pragma unroll
  for (int distance = 16; distance; distance /= 2) v = op(v, __shfl_xor_sync(0xFFFFFFFFu, v, distance));
  return v;
}

// THREADS consecutive threads: a warp, or the whole block.
template <int THREADS, class Op> __device__ __forceinline__ float reduce(float v, Op op) {
  v = reduce_warp(v, op);
  if constexpr (THREADS > 32) {
    __shared__ float part[THREADS / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    __syncthreads();                                             // part may still be read from the last reduction
    if (lane == 0) part[warp] = v;
    __syncthreads();
    v = reduce_warp(lane < THREADS / 32 ? part[lane] : Op::neutral(), op);
  }
  return v;
}
