// Element by element, 16 bytes a thread: ReLU and the sigmoid, their gradients, addition.  A count that does not divide leaves less to the last thread.
#include "types.cuh"

struct Relu { __device__ __forceinline__ float operator()(float x, float) const { return relu(x); } };
struct ReluGradient { __device__ __forceinline__ float operator()(float gy, float y) const { return y > 0.0f ? gy : 0.0f; } };
struct Sigmoid {  // exp(-|x|) does not overflow
  __device__ __forceinline__ float operator()(float x, float) const {
    const float e = expf(-fabsf(x));
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
  }
};
struct SigmoidGradient { __device__ __forceinline__ float operator()(float gy, float y) const { return gy * (y * (1.0f - y)); } };
struct Add { __device__ __forceinline__ float operator()(float a, float b) const { return a + b; } };

template <class T, class Operator, int VEC>
__device__ __forceinline__ void apply(const T* a, const T* b, T* y) {
  Lanes<T, VEC> v, w;
  v.load(a);
  if (b) w.load(b);
#pragma unroll
  for (int i = 0; i < VEC; i++) v.set(i, Operator()(v.get(i), b ? w.get(i) : 0.0f));
  v.store(y);
}

// y = Operator(a, b), count elements; b is null for an operator of one argument.
template <class T, class Operator>
__global__ void __launch_bounds__(256)
pointwise(const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ y, const long long count) {
  constexpr int VEC = 16 / sizeof(T);
  const int64_t first = ((int64_t)blockIdx.x * 256 + threadIdx.x) * VEC;
  if (first + VEC <= count) {
    apply<T, Operator, VEC>(a + first, b ? b + first : nullptr, y + first);
  } else {
    for (int64_t i = first; i < count; i++) apply<T, Operator, 1>(a + i, b ? b + i : nullptr, y + i);
  }
}
