// A copy into another order of axes: packs weights so that the reduced index is contiguous, takes the taps of one phase (start and
// step), exchanges input and output channels; also pads channels with zeros.  y is contiguous, x is read through strides.  TF32: rounds
// floats to the 10 bits of mantissa that tensor cores take.
#include "types.cuh"

struct Order {
  Divisor size1, size2, size3, size4;                            // sizes of y's axes but the first
  int limit;                                                     // from here on the last axis is zeros
  int64_t origin, stride0, stride1, stride2, stride3, stride4;   // in x, in elements
};

template <class T, bool TF32 = false>
__global__ void __launch_bounds__(256) permute(const T* __restrict__ x, T* __restrict__ y, const Order order, const int count) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= count) return;
  uint32_t i1, i2, i3, i4, rest;
  rest = order.size4.split(i, i4);
  rest = order.size3.split(rest, i3);
  rest = order.size2.split(rest, i2);
  rest = order.size1.split(rest, i1);
  T v = {};
  if ((int)i4 < order.limit)
    v = x[order.origin + rest * order.stride0 + i1 * order.stride1 + i2 * order.stride2 + i3 * order.stride3 +
          i4 * order.stride4];
  if constexpr (TF32) v = __uint_as_float(to_tf32(__float_as_uint(v)));
  y[i] = v;
}
