// Step 4: tensor cores.
//
// Since 2017 graphics cards have units that multiply small matrices; they do about 8 to 16 times the multiply-adds of the
// ordinary units, on 16-bit numbers with float32 sums.  x and w are bfloat16 here, both with k along the line (w as O,KH,KW,C), and
// C is a multiple of 8, so that 16 bytes at a time can be copied.  4 warps make 64 pixels x 64 channels, see warp_tile.cuh.
//
// Now the arithmetic of a slice takes so little time that the wait for its loads is most of what is left.
#include "warp_tile.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) conv2d(const bf16* x, const bf16* w, float* y, Shape shape) {
  __shared__ __align__(16) bf16 xs[BM * PITCH], ws[BN * PITCH];
  const int thread = threadIdx.x, depth = shape.depth(), m0 = blockIdx.x * BM, o0 = blockIdx.y * BN;
  WarpTile tile(thread);
  for (int first = 0; first < depth; first += BK) {
    for (int i = thread; i < BM * BK / 8; i += THREADS) {        // 4 neighbouring threads: 64 bytes of one line
      const int line = i / (BK / 8), k = i % (BK / 8) * 8;
      const int from = shape.source(m0 + line, first + k);
      const bool known = o0 + line < shape.outputs && first + k < depth;
      const uint4 zero = make_uint4(0, 0, 0, 0);
      *(uint4*)&xs[line * PITCH + k] = from >= 0 ? *(const uint4*)&x[from] : zero;
      *(uint4*)&ws[line * PITCH + k] = known ? *(const uint4*)&w[(long long)(o0 + line) * depth + first + k] : zero;
    }
    __syncthreads();
    tile.multiply(xs, ws);
    __syncthreads();
  }
  tile.store(y, m0, o0, shape);
}
