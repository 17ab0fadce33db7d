// Step 3: the register tile.
//
// The rule of the processor's ladder again: keep a block of sums in registers.  256 threads make 64 pixels x 64 channels, each
// thread 4 x 4 of them.  For each k it reads 4 pixels and 4 weights from shared memory (two loads of 16 bytes) and does 16
// multiply-adds: an eighth of the loads of step 2, and a block of 64 x 64 uses each number from memory 64 times.
//
// Shared memory has 32 banks of 4 bytes; two threads that read different words of one bank wait for each other.  xs is kept
// turned, k outside of pixels, so that the 4 pixels of a thread are neighbours.  Storing it that way walks across lines: with a
// line of 64 floats all of it would fall into the same banks, with 4 floats of padding it does not.
#include "shape.cuh"

constexpr int BM = 64, BN = 64, BK = 16, PITCH = BM + 4;

extern "C" __global__ void __launch_bounds__(256) conv2d(const float* x, const float* w, float* y, Shape shape) {
  __shared__ __align__(16) float xs[BK][PITCH], ws[BK][BN];
  const int thread = threadIdx.x, depth = shape.depth(), outputs = shape.outputs;
  const int m0 = blockIdx.x * BM, o0 = blockIdx.y * BN;
  const int row = thread / 16 * 4, column = thread % 16 * 4;     // this thread's 4 x 4
  float sums[4][4] = {};
  for (int first = 0; first < depth; first += BK) {
    for (int i = thread; i < BM * BK; i += 256) {                // 16 neighbouring threads: 16 neighbouring k of one pixel
      const int from = shape.source(m0 + i / BK, first + i % BK);
      xs[i % BK][i / BK] = from >= 0 ? x[from] : 0.0f;
    }
    for (int i = thread; i < BK * BN; i += 256) {
      const int k = first + i / BN, o = o0 + i % BN;
      ws[i / BN][i % BN] = k < depth && o < outputs ? w[(long long)k * outputs + o] : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < BK; k++) {
      const float4 a = *(const float4*)&xs[k][row], b = *(const float4*)&ws[k][column];
      const float left[4] = {a.x, a.y, a.z, a.w}, right[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) sums[i][j] += left[i] * right[j];
    }
    __syncthreads();
  }
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 4; j++)
      if (m0 + row + i < shape.pixels() && o0 + column + j < outputs)
        y[(long long)(m0 + row + i) * outputs + o0 + column + j] = sums[i][j];
}
