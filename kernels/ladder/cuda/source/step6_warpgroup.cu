// Step 6: a warpgroup (Hopper's sm_90a only).
//
// wgmma multiplies 64 x 16 by 16 x 64 numbers by one instruction of four warps.  Both operands come from shared memory: no ldmatrix, no
// registers for them.  And it does not wait: the warps start a slice's products, start the next copies, and wait for the products a
// step later.  Three things are asked for in return.
//
//     A descriptor says where an operand lies: lines of 128 bytes (64 numbers of k), eight to a brick, and in a brick the piece of
//     16 bytes at place v of line l stands at v ^ l.  So all eight lines of a place lie in different banks, with no padding.
//     fence.proxy.async hands what a thread has copied to wgmma, which reads shared memory by another way than loads do.
//     wgmma.fence hands over the sums' registers.
//
// The production kernel lets two warpgroups share a tile of 128 x 256 (kernels/cuda/source/warpgroup.cuh).
#include "shape.cuh"

typedef unsigned short bf16;                                     // the bits; arithmetic on them is the tensor cores'

constexpr int BM = 64, BN = 64, BK = 64, LINE = 128, THREADS = 128, STAGES = 3, AHEAD = STAGES - 2;

__device__ inline unsigned address(const char* p) { return (unsigned)__cvta_generic_to_shared(p); }

__device__ inline void copy_async(char* to, const bf16* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address(to)), "l"(from), "r"(valid ? 16 : 0) : "memory");
}

// Start of the operand, the way from brick to brick (1024 bytes), and the kind of swizzle; in units of 16 bytes.
__device__ inline unsigned long long descriptor(const char* tile) {
  return address(tile) / 16 | 1ull << 16 | 1024ull / 16 << 32 | 1ull << 62;
}

#define EIGHT(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
__device__ inline void multiply(float (&d)[BN / 2], const char* pixels, const char* weights) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,"
               "%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, 1, 1, 1, 0, 0;"
               : EIGHT(0), EIGHT(8), EIGHT(16), EIGHT(24) : "l"(descriptor(pixels)), "l"(descriptor(weights)));
}

extern "C" __global__ void __launch_bounds__(THREADS) conv2d(const bf16* x, const bf16* w, float* y, Shape shape) {
  __shared__ __align__(1024) char xs[STAGES][BM * LINE], ws[STAGES][BN * LINE];
  const int thread = threadIdx.x, depth = shape.depth(), m0 = blockIdx.x * BM, o0 = blockIdx.y * BN;
  const int slices = (depth + BK - 1) / BK;
  auto start = [&](int slice) {
    if (slice < slices) {
      for (int i = thread; i < BM * BK / 8; i += THREADS) {
        const int line = i / 8, piece = i % 8, k = slice * BK + piece * 8, at = line * LINE + (piece ^ line % 8) * 16;
        const int from = shape.source(m0 + line, k);
        const bool known = o0 + line < shape.outputs && k < depth;
        copy_async(&xs[slice % STAGES][at], x + (from >= 0 ? from : 0), from >= 0);
        copy_async(&ws[slice % STAGES][at], w + (known ? (long long)(o0 + line) * depth + k : 0), known);
      }
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  };
  float d[BN / 2] = {};
  for (int s = 0; s < AHEAD; s++) start(s);
  for (int s = 0; s < slices; s++) {
    asm volatile("cp.async.wait_group %0;" ::"n"(AHEAD - 1) : "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); // this thread's copies, for wgmma
    __syncthreads();                                             // everybody's; and everybody has waited for slice s-2's products
    asm volatile("" : EIGHT(0), EIGHT(8), EIGHT(16), EIGHT(24)); // the compiler writes the sums before the fence, not after it
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    for (int k = 0; k < LINE; k += 32) multiply(d, xs[s % STAGES] + k, ws[s % STAGES] + k);
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    start(s + AHEAD);                                            // where slice s-2 was
    asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");   // slice s-1's products
  }
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  for (int i = 0; i < BN / 2; i++) {                             // warp v: rows 16v .. 16v+15, as mma's D, eight times side by side
    const int m = m0 + thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8, o = o0 + i / 4 * 8 + thread % 4 * 2 + i % 2;
    if (m < shape.pixels() && o < shape.outputs) y[(long long)m * shape.outputs + o] = d[i];
  }
}
