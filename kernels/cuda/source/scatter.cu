// Rows added at places that may occur several times, without atomics: the rows are listed by place first, then each
// result is one thread's, which adds the rows of its place in their order.
#include "types.cuh"

// values (M, columns); order (M): the numbers of its rows, sorted by place; first (rows + 1): where in order each place begins.
extern "C" __global__ void __launch_bounds__(256)
add_by_place(const float* __restrict__ values, const int64_t* __restrict__ order, const int64_t* __restrict__ first,
             float* __restrict__ out, const int64_t count, const int columns) {
  const int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
  if (i >= count) return;
  const int64_t row = columns == 1 ? i : i / columns;
  const int64_t column = i - row * columns;
  float sum = 0;
  for (int64_t k = first[row]; k < first[row + 1]; k++) sum += values[order[k] * columns + column];
  out[i] = sum;
}
