// Kernels with one thread for each element.

extern "C" __global__ void add_float(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ c,
                                     long long n) {
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) c[i] = a[i] + b[i];
}
