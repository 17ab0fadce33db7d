// A tile of one operand in shared memory, and how a warp reads its fragments from it.
//
// A block multiplies A (BM rows) with B (BN columns) over a slice of 64 bytes of the reduced index k: BK = 32 elements of
// 16 bits or 16 of 32 bits.  An operand comes in one of two orders, as it lies in global memory:
//
//     along k      BM lines of BK elements      (activations gathered at pixels, packed weights)
//     across k     BK lines of BM elements      (both operands of the weight gradient)
//
// A line is cut into pieces of 16 bytes, and the piece at place v of line l stands at v ^ twist(l).  Without the twist the
// eight lines that one ldmatrix reads would start in the same banks; with it they lie in 8 different groups of 4 banks:
//
//     along k, two lines make 128 bytes     twist(l) = l / 2 mod 4
//     across k, 16-bit (ldmatrix)           twist(l) = l mod 8
//     across k, 32-bit (lanes t = 0..3      twist(l) = 2 (l mod 4): four lines of 32 bytes each, side by side
//       read lines t at columns g = 0..7)
#pragma once
#include "mma.cuh"

constexpr int SLICE = 64;                                        // bytes of k in a tile

template <class T_, bool ALONG_K_, int SIZE_> struct Tile {
  using T = T_;
  static constexpr bool ALONG_K = ALONG_K_;
  static constexpr int SIZE = SIZE_;                             // BM or BN
  static constexpr int PIECE = 16 / sizeof(T);                   // elements in a piece
  static constexpr int BK = SLICE / sizeof(T);
  static constexpr int LINES = ALONG_K ? SIZE : BK, WIDTH = ALONG_K ? BK : SIZE, PIECES = WIDTH / PIECE;
  static constexpr int BYTES = SIZE * SLICE;
  static_assert(ALONG_K || PIECES >= 8, "a line across k must span all banks");

  __device__ static __forceinline__ int twist(int line) {
    if constexpr (ALONG_K) return line / 2 % 4;
    else return sizeof(T) == 2 ? line % 8 : line % 4 * 2;
  }
  // Bytes from the start of the tile to a piece of a line.
  __device__ static __forceinline__ int place(int line, int piece) { return (line * PIECES + (piece ^ twist(line))) * 16; }
  // The element at row (or column) i and k.
  __device__ static __forceinline__ const T& at(const char* tile, int i, int k) {
    const int line = ALONG_K ? i : k, column = ALONG_K ? k : i;
    return *reinterpret_cast<const T*>(tile + place(line, column / PIECE) + column % PIECE * sizeof(T));
  }

  // A's fragment: rows i .. i+15, the step-th 32 bytes of k.
  __device__ static __forceinline__ void fragment_a(uint32_t (&a)[4], const char* tile, int i, int step, int lane) {
    if constexpr (ALONG_K) {
      ldmatrix(a, tile + place(i + lane % 16, step * 2 + lane / 16));
    } else if constexpr (sizeof(T) == 2) {
      ldmatrix_transposed(a, tile + place(step * 16 + lane % 8 + lane / 16 * 8, i / PIECE + lane / 8 % 2));
    } else {
#pragma unroll
      for (int r = 0; r < 4; r++)
        a[r] = __float_as_uint(at(tile, i + lane / 4 + r % 2 * 8, step * 8 + lane % 4 + r / 2 * 4));
    }
  }
  // B's fragments of columns i .. i+7 (b[0], b[1]) and i+8 .. i+15 (b[2], b[3]).
  __device__ static __forceinline__ void fragment_b(uint32_t (&b)[4], const char* tile, int i, int step, int lane) {
    if constexpr (ALONG_K) {
      ldmatrix(b, tile + place(i + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
    } else if constexpr (sizeof(T) == 2) {
      ldmatrix_transposed(b, tile + place(step * 16 + lane % 16, i / PIECE + lane / 16));
    } else {
#pragma unroll
      for (int r = 0; r < 4; r++)
        b[r] = __float_as_uint(at(tile, i + lane / 4 + r / 2 * 8, step * 8 + lane % 4 + r % 2 * 4));
    }
  }
  // Four elements k .. k+3 of row (or column) i, as floats: what the kernels without tensor cores read.
  __device__ static __forceinline__ void quad(float (&v)[4], const char* tile, int i, int k) {
    if constexpr (ALONG_K) {
      Lanes<T, 4> four;
      four.load(&at(tile, i, k));
#pragma unroll
      for (int j = 0; j < 4; j++) v[j] = four.get(j);
    } else {
#pragma unroll
      for (int j = 0; j < 4; j++) v[j] = to_float(at(tile, i, k + j));
    }
  }
};

// ---- the products of one slice ---------------------------------------------------------------------------------------
// A warp owns WM x WN of the block's tile.  Whatever the arithmetic, a lane's accumulators are those of mma's D: for the
// 16x8 part (i, j), rows i*16 + g (+8) and columns j*8 + 2t (+1).  So one epilogue serves all.

enum Math { FMA, TENSOR, TENSOR3, WARPGROUP };                  // the last is warpgroup.cuh's

template <int WM, int WN> using Accumulators = float[WM / 16][WN / 8][4];

// One instruction's worth: D += A * B on the type's tensor core instruction.
template <class T> __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <> __device__ __forceinline__ void mma<f16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  mma_f16(d, a, b0, b1);
}
#if __CUDA_ARCH__ >= 800
template <> __device__ __forceinline__ void mma<bf16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  mma_bf16(d, a, b0, b1);
}
template <> __device__ __forceinline__ void mma<float>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  mma_tf32(d, a, b0, b1);
}
#endif

// v = high + low, both tf32: together 21 bits of mantissa.
__device__ __forceinline__ void split_tf32(uint32_t (&high)[4], uint32_t (&low)[4], const uint32_t (&v)[4]) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    high[i] = to_tf32(v[i]);
    low[i] = to_tf32(__float_as_uint(__uint_as_float(v[i]) - __uint_as_float(high[i])));
  }
}

template <Math MATH, class A, class B, int WM, int WN>
__device__ __forceinline__ void multiply(Accumulators<WM, WN>& acc, const char* a_tile, const char* b_tile, int row, int col,
                                         int lane) {
  using T = typename A::T;
  if constexpr (MATH == FMA) {
#pragma unroll 1                                                 // registers: the next quad must not be fetched early
    for (int k = 0; k < A::BK; k += 4) {
      float a[WM / 8][4];
#pragma unroll
      for (int i = 0; i < WM / 8; i++) A::quad(a[i], a_tile, row + i * 8 + lane / 4, k);
#pragma unroll
      for (int j = 0; j < WN / 4; j++) {
        float b[4];
        B::quad(b, b_tile, col + j / 2 * 8 + lane % 4 * 2 + j % 2, k);
#pragma unroll
        for (int i = 0; i < WM / 8; i++)
#pragma unroll
          for (int q = 0; q < 4; q++) {
            float& d = acc[i / 2][j / 2][i % 2 * 2 + j % 2];
            d = fmaf(a[i][q], b[q], d);
          }
      }
    }
  } else {
#pragma unroll
    for (int step = 0; step < SLICE / 32; step++) {
      uint32_t a[WM / 16][4], b[WN / 16][4];
#pragma unroll
      for (int i = 0; i < WM / 16; i++) A::fragment_a(a[i], a_tile, row + i * 16, step, lane);
#pragma unroll
      for (int j = 0; j < WN / 16; j++) B::fragment_b(b[j], b_tile, col + j * 16, step, lane);
      if constexpr (MATH == TENSOR3) {                           // (high + low)(high + low) without low * low
#pragma unroll
        for (int j = 0; j < WN / 16; j++) {
          uint32_t b_high[4], b_low[4];
          split_tf32(b_high, b_low, b[j]);
#pragma unroll
          for (int i = 0; i < WM / 16; i++) {
            uint32_t a_high[4], a_low[4];
            split_tf32(a_high, a_low, a[i]);
#pragma unroll
            for (int h = 0; h < 2; h++) {                        // small terms first
              mma<T>(acc[i][j * 2 + h], a_low, b_high[h * 2], b_high[h * 2 + 1]);
              mma<T>(acc[i][j * 2 + h], a_high, b_low[h * 2], b_low[h * 2 + 1]);
              mma<T>(acc[i][j * 2 + h], a_high, b_high[h * 2], b_high[h * 2 + 1]);
            }
          }
        }
      } else {
        if constexpr (sizeof(T) == 4) {
#pragma unroll
          for (int r = 0; r < 4; r++) {
#pragma unroll
            for (int i = 0; i < WM / 16; i++) a[i][r] = to_tf32(a[i][r]);
#pragma unroll
            for (int j = 0; j < WN / 16; j++) b[j][r] = to_tf32(b[j][r]);
          }
        }
#pragma unroll
        for (int i = 0; i < WM / 16; i++)
#pragma unroll
          for (int j = 0; j < WN / 8; j++) mma<T>(acc[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
    }
  }
}
