// y (M, N) = a (M, K) * b (K, N) [+ bias[n]] [then ReLU], for any sizes, operands along or across k, and a batch of such products.
//
//     along k:   a is M rows of K (row major),       b is N rows of K (b transposed, as a layer's weight is)
//     across k:  a is K rows of M (a transposed),    b is K rows of N (row major)
//
// Few results with a long k are split along k (blockIdx.y): then OUT is float, each split writes its own copy, and `add_splits`
// adds them in order.  blockIdx.z is the place in the batch.
#include "epilogue.cuh"
#include "gemm_loop.cuh"

struct Product {
  int m, n, k, split;                                            // split: how much of k a block takes
  int relu, wide;
  int64_t a_batch, b_batch, y_batch, y_split;                    // elements from one product, or one split, to the next
};

template <class T, class OUT, Math MATH, bool A_ALONG, bool B_ALONG, int BM, int BN, int WM, int WN, int STAGES, int BLOCKS,
          int COPY>
__global__ void __launch_bounds__((BM / WM) * (BN / WN) * 32, BLOCKS)
gemm(const T* __restrict__ a_matrix, const T* __restrict__ b_matrix, const OUT* __restrict__ bias, OUT* __restrict__ y,
     const Product p) {
  constexpr int THREADS = (BM / WM) * (BN / WN) * 32;
  using A = TileFor<MATH, T, A_ALONG, BM>;
  using B = TileFor<MATH, T, B_ALONG, BN>;
  extern __shared__ __align__(1024) char shared[];
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int column_tiles = (p.n + BN - 1) / BN;
  const int m = blockIdx.x / column_tiles * BM, n = blockIdx.x % column_tiles * BN;
  const int row = warp / (BN / WN) * WM, col = warp % (BN / WN) * WN;
  const int begin = blockIdx.y * p.split, end = min(begin + p.split, p.k);

  MatrixSource<A, COPY, THREADS> a(a_matrix + blockIdx.z * p.a_batch, A_ALONG ? p.k : p.m, m, p.m, begin, end, thread);
  MatrixSource<B, COPY, THREADS> b(b_matrix + blockIdx.z * p.b_batch, B_ALONG ? p.k : p.n, n, p.n, begin, end, thread);
  Accumulators<WM, WN> acc = {};
  gemm_loop<MATH, A, B, WM, WN, STAGES>(acc, shared, a, b, (end - begin + A::BK - 1) / A::BK, row, col, lane);

  const Output<OUT, RowPlace> output = {y + blockIdx.z * p.y_batch + blockIdx.y * p.y_split, bias, nullptr, {p.n}, p.m, p.n,
                                        p.relu != 0, p.wide != 0};
  write_out<WM, WN>(acc, shared, warp, lane, m + row, n + col, output);
}

// y = the splits' copies added in their order [+ bias of the column].
template <class T> __global__ void __launch_bounds__(256)
add_splits(const float* __restrict__ partial, const T* __restrict__ bias, T* __restrict__ y, const int splits,
           const long long count, const int columns) {
  const int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
  if (i >= count) return;
  float sum = 0.0f;
#pragma unroll 4
  for (int s = 0; s < splits; s++) sum += partial[s * count + i];
  if (bias) sum += to_float(bias[i % columns]);
  y[i] = from_float<T>(sum);
}
