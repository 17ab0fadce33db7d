// Step 5: the pipeline.
//
// cp.async copies from memory to shared memory without passing through registers and without waiting: a thread starts its
// copies and goes on.  With STAGES tiles in shared memory, slice s is multiplied while slices s+1 and s+2 are on their way:
//
//     wait until this thread's copies of slice s have arrived
//     barrier: everybody's have, and everybody has left slice s-1
//     start slice s+2, into the tile that slice s-1 has just left
//     multiply slice s
//
// One barrier for each slice instead of two, and the memory's latency is behind the arithmetic.  A copy of "0 bytes of 16" fills
// with zeros: that is the padding.  The production kernel is this loop, with tiles chosen for each shape, a swizzle in place of
// the padded lines, an epilogue for bias, residual and ReLU, and the same loop for both gradients (kernels/cuda/source).
#include "warp_tile.cuh"

constexpr int STAGES = 3;

__device__ inline void copy_async(bf16* to, const bf16* from, bool valid) {
  const unsigned address = (unsigned)__cvta_generic_to_shared(to);
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(valid ? 16 : 0) : "memory");
}

extern "C" __global__ void __launch_bounds__(THREADS) conv2d(const bf16* x, const bf16* w, float* y, Shape shape) {
  __shared__ __align__(16) bf16 xs[STAGES][BM * PITCH], ws[STAGES][BN * PITCH];
  const int thread = threadIdx.x, depth = shape.depth(), m0 = blockIdx.x * BM, o0 = blockIdx.y * BN;
  const int slices = (depth + BK - 1) / BK;
  auto start = [&](int slice) {
    if (slice < slices) {
      for (int i = thread; i < BM * BK / 8; i += THREADS) {
        const int line = i / (BK / 8), k = i % (BK / 8) * 8, at = line * PITCH + k;
        const int from = shape.source(m0 + line, slice * BK + k);
        const bool known = o0 + line < shape.outputs && slice * BK + k < depth;
        copy_async(&xs[slice % STAGES][at], x + (from >= 0 ? from : 0), from >= 0);
        copy_async(&ws[slice % STAGES][at], w + (known ? (long long)(o0 + line) * depth + slice * BK + k : 0), known);
      }
    }
    asm volatile("cp.async.commit_group;" ::: "memory");         // also when empty, so that the count below is right
  };
  WarpTile tile(thread);
  for (int s = 0; s < STAGES - 1; s++) start(s);
  for (int s = 0; s < slices; s++) {
    asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
    __syncthreads();
    start(s + STAGES - 1);
    tile.multiply(xs[s % STAGES], ws[s % STAGES]);
  }
  tile.store(y, m0, o0, shape);
}
