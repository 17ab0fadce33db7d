// What a warp does with tiles of bfloat16 numbers in shared memory: 32 x 32 sums by tensor core instructions.
//
// mma.m16n8k16 multiplies 16 x 16 numbers by 16 x 8 and adds to 16 x 8 float sums: 2048 multiply-adds by one instruction of one
// warp.  Its operands lie spread over the 32 lanes in a fixed pattern; ldmatrix reads four 8 x 8 matrices from shared memory
// straight into that pattern, lane t giving the address of one line of 16 bytes.  Lines are PITCH = 40 numbers (80 bytes) apart:
// 80 / 16 = 5 is odd, so any 8 lines one after the other start in different groups of 4 banks, and no ldmatrix has a conflict.
// Filling the tile does: the 64 bytes of one line and of the next share 4 banks.  The production kernel avoids both by moving
// the 16-byte pieces of a line around instead of padding it ("swizzle").
#pragma once
#include "shape.cuh"

typedef unsigned short bf16;                                     // the bits; arithmetic on them is the tensor cores'

constexpr int BM = 64, BN = 64, BK = 32, PITCH = BK + 8, THREADS = 128;

__device__ inline void ldmatrix(unsigned (&d)[4], const bf16* line) {
  const unsigned address = (unsigned)__cvta_generic_to_shared(line);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(address));
}

__device__ inline void mma(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

struct WarpTile {
  float sums[2][4][4];                                           // 2 x 4 instructions' results: 32 pixels x 32 channels
  int row, column, lane;                                         // of the block's tile: warps stand 2 x 2

  __device__ explicit WarpTile(int thread) : sums{}, row(thread / 64 * 32), column(thread / 32 % 2 * 32), lane(thread % 32) {}

  // One slice: xs (BM pixels x BK), ws (BN channels x BK), both with k along the line.
  __device__ void multiply(const bf16* xs, const bf16* ws) {
#pragma unroll
    for (int k = 0; k < BK; k += 16) {
      unsigned a[2][4], b[2][4];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        ldmatrix(a[i], xs + (row + i * 16 + lane % 16) * PITCH + k + lane / 16 * 8);
        ldmatrix(b[i], ws + (column + i * 16 + lane % 8 + lane / 16 * 8) * PITCH + k + lane / 8 % 2 * 8);
      }
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) mma(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }
  }

  // Lane t holds rows t/4 and t/4 + 8, columns 2(t%4) and the next one, of each 16 x 8.
  __device__ void store(float* y, int m0, int o0, const Shape& shape) const {
    for (int i = 0; i < 2; i++)
      for (int j = 0; j < 4; j++)
        for (int q = 0; q < 4; q++) {
          const int m = m0 + row + i * 16 + lane / 4 + q / 2 * 8, o = o0 + column + j * 8 + lane % 4 * 2 + q % 2;
          if (m < shape.pixels() && o < shape.outputs) y[(long long)m * shape.outputs + o] = sums[i][j][q];
        }
  }
};
