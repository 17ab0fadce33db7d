"""Small correct kernels that the checker must accept, and what to plant in them."""

from __future__ import annotations

REDUCE = """
// One block sums 256 values of each row.
__device__ float warp_sum(float v) {
  for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(0xFFFFFFFFu, v, d);
  return v;
}
extern "C" __global__ void row_sum(const float* __restrict__ x, float* __restrict__ y, int columns) {
  __shared__ float part[32];
  x += (long long)blockIdx.x * columns;
  float v = 0;
  for (int i = threadIdx.x; i < columns; i += blockDim.x) v += x[i];
  v = warp_sum(v);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  if (lane == 0) part[warp] = v;
  __syncthreads();
  if (warp == 0) {
    v = lane < warps ? part[lane] : 0.0f;
    v = warp_sum(v);
    if (lane == 0) y[blockIdx.x] = v;
  }
}
"""

TRANSPOSE = """
extern "C" __global__ void transpose(const float* __restrict__ x, float* __restrict__ y, int rows, int columns) {
  __shared__ float tile[32][33];
  const int c = blockIdx.x * 32 + threadIdx.x, r0 = blockIdx.y * 32;
  for (int i = threadIdx.y; i < 32; i += 8)
    if (r0 + i < rows && c < columns) tile[i][threadIdx.x] = x[(r0 + i) * columns + c];
  __syncthreads();
  const int r = r0 + threadIdx.x, c0 = blockIdx.x * 32;
  for (int i = threadIdx.y; i < 32; i += 8)
    if (c0 + i < columns && r < rows) y[(c0 + i) * rows + r] = tile[threadIdx.x][i];
}
"""

STENCIL = """
extern "C" __global__ void blur(const float* __restrict__ x, float* __restrict__ y, int n) {
  __shared__ float line[66];
  const int i = blockIdx.x * 64 + threadIdx.x;
  line[threadIdx.x + 1] = i < n ? x[i] : 0.0f;
  if (threadIdx.x == 0) line[0] = i > 0 ? x[i - 1] : 0.0f;
  if (threadIdx.x == 63) line[65] = i + 1 < n ? x[i + 1] : 0.0f;
  __syncthreads();
  if (i < n) y[i] = line[threadIdx.x] + line[threadIdx.x + 1] + line[threadIdx.x + 2];
}
"""

COUNT = """
extern "C" __global__ void histogram(const int* __restrict__ x, int* __restrict__ counts, int n) {
  __shared__ int local[16];
  if (threadIdx.x < 16) local[threadIdx.x] = 0;
  __syncthreads();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) atomicAdd(&local[x[i]], 1);
  __syncthreads();
  if (threadIdx.x < 16) atomicAdd(&counts[threadIdx.x], local[threadIdx.x]);
}
"""

PIPELINE = """
// Copies rows of 32 floats to shared memory, one ahead of the row that is used, and sums them.
__device__ void fetch(float* to, const float* from) {
  const unsigned s = (unsigned)__cvta_generic_to_shared(to);
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" :: "r"(s), "l"(from) : "memory");
}
#define COMMIT asm volatile("cp.async.commit_group;" ::: "memory")
#define WAIT(n) asm volatile("cp.async.wait_group %0;" :: "n"(n) : "memory")
extern "C" __global__ void column_sum(const float* __restrict__ x, float* __restrict__ y, int rows) {
  __shared__ float stage[2][64];
  const int t = threadIdx.x, other = 63 - t;
  float sum = 0;
  fetch(&stage[0][t], x + t);
  COMMIT;
  for (int r = 0; r < rows; r++) {
    __syncthreads();
    if (r + 1 < rows) fetch(&stage[(r + 1) % 2][t], x + (r + 1) * 64 + t);
    COMMIT;
    WAIT(1);
    __syncthreads();
    sum += stage[r % 2][other];
  }
  y[other] = sum;
}
"""

WARP = """
extern "C" __global__ void neighbour(const float* __restrict__ x, float* __restrict__ y) {
  __shared__ float lanes[32];
  lanes[threadIdx.x] = x[threadIdx.x];
  __syncwarp();
  y[threadIdx.x] = lanes[(threadIdx.x + 1) % 32];
}
"""

MATRIX = """
#include "mma_test.cuh"
// d (16 x 8) = a (16 x 16) b^T (8 x 16), bf16 in, float out, one warp.
extern "C" __global__ void matrix(const unsigned short* __restrict__ a, const unsigned short* __restrict__ b,
                                  float* __restrict__ d) {
  __shared__ __align__(16) unsigned short sa[16][24], sb[8][24];
  const int lane = threadIdx.x;
  for (int i = lane; i < 16 * 16; i += 32) sa[i / 16][i % 16] = a[i];
  for (int i = lane; i < 8 * 16; i += 32) sb[i / 16][i % 16] = b[i];
  __syncwarp();
  unsigned fa[4], fb[2];
  float acc[4] = {};
  load4(fa, &sa[lane % 16][lane / 16 * 8]);
  load2(fb, &sb[lane % 8][lane / 8 % 2 * 8]);
  multiply(acc, fa, fb);
  for (int r = 0; r < 4; r++) d[(lane / 4 + r / 2 * 8) * 8 + lane % 4 * 2 + r % 2] = acc[r];
}
"""
MATRIX_HEADER = """
__device__ void load4(unsigned (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
    : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"((unsigned)__cvta_generic_to_shared(p)) : "memory");
}
__device__ void load2(unsigned (&r)[2], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
    : "=r"(r[0]), "=r"(r[1]) : "r"((unsigned)__cvta_generic_to_shared(p)) : "memory");
}
__device__ void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
    : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
"""
