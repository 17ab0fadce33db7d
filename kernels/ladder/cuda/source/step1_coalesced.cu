// Step 1: coalesced memory accesses.
//
// The same thread for each output, but neighbouring threads take neighbouring output *channels*, and the weights are turned to
// (KH, KW, C, O).  Now a warp reads 32 neighbouring weights (4 sectors, every byte used), the same x for all its threads (1
// sector), and writes 32 neighbouring outputs (4 sectors).
//
// Every multiply-add still needs two loads from memory or cache, and nothing that a thread has loaded helps another warp.
#include "shape.cuh"

extern "C" __global__ void conv2d(const float* x, const float* w, float* y, Shape shape) {
  const int o = blockIdx.y * blockDim.x + threadIdx.x, m = blockIdx.x * blockDim.y + threadIdx.y, depth = shape.depth();
  if (m >= shape.pixels() || o >= shape.outputs) return;
  float sum = 0;
  for (int k = 0; k < depth; k++) {
    const int from = shape.source(m, k);
    if (from >= 0) sum += x[from] * w[(long long)k * shape.outputs + o];
  }
  y[(long long)m * shape.outputs + o] = sum;
}
