// Step 0: one thread for each output, neighbouring threads for neighbouring pixels.
//
// The 32 threads of a warp run in step.  When they load, the memory system fetches all the 32-byte sectors that their
// addresses fall into.  Here thread t reads pixel t, and pixels lie C floats apart: 32 sectors of 32 bytes for 32 floats, of
// which 28 bytes each are thrown away (until a later k uses them, if the cache still has them by then).  The outputs are O
// floats apart: 32 more sectors.  The weight is the same for all 32: one sector, and nobody shares it with other warps.
#include "shape.cuh"

extern "C" __global__ void conv2d(const float* x, const float* w, float* y, Shape shape) {
  const int m = blockIdx.x * blockDim.x + threadIdx.x, o = blockIdx.y, depth = shape.depth();
  if (m >= shape.pixels()) return;
  float sum = 0;
  for (int k = 0; k < depth; k++) {
    const int from = shape.source(m, k);
    if (from >= 0) sum += x[from] * w[o * depth + k];
  }
  y[(long long)m * shape.outputs + o] = sum;
}
