// Step 2: shared memory.
//
// A block of 16 x 16 threads makes 16 pixels x 16 channels.  All its threads together bring 16 k's of its pixels and of its
// weights into shared memory, wait for each other, and then each reads what it needs there: every number that came from memory
// is used 16 times.  Shared memory is on the chip, about as fast as the first-level cache, and the program decides what is in it.
//
//     for each slice of 16 k:   load xs (16 pixels x 16 k) and ws (16 k x 16 channels)
//                               barrier     (all loads have arrived)
//                               16 multiply-adds per thread
//                               barrier     (nobody reads any more: the next slice may overwrite)
//
// Each multiply-add needs two loads from shared memory now: that is the next limit.
#include "shape.cuh"

constexpr int TILE = 16;

extern "C" __global__ void conv2d(const float* x, const float* w, float* y, Shape shape) {
  __shared__ float xs[TILE][TILE], ws[TILE][TILE];
  const int column = threadIdx.x, row = threadIdx.y, depth = shape.depth();
  const int m = blockIdx.x * TILE + row, o = blockIdx.y * TILE + column;
  float sum = 0;
  for (int first = 0; first < depth; first += TILE) {
    const int from = shape.source(m, first + column), k = first + row;
    xs[row][column] = from >= 0 ? x[from] : 0.0f;
    ws[row][column] = k < depth && o < shape.outputs ? w[(long long)k * shape.outputs + o] : 0.0f;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < TILE; i++) sum += xs[row][i] * ws[i][column];
    __syncthreads();
  }
  if (m < shape.pixels() && o < shape.outputs) y[(long long)m * shape.outputs + o] = sum;
}
