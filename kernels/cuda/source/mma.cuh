// The tensor core's instructions, one wrapper each.  A warp multiplies D (16x8) += A (16xK) * B (Kx8) together.
//
// Which lane holds what (PTX manual, "Matrix fragments for mma"), with g = lane / 4 and t = lane % 4:
//     D: d0 d1 = (g, 2t) (g, 2t+1)      d2 d3 = (g+8, 2t) (g+8, 2t+1)
//     A: a0 = rows g, a1 = rows g+8 of the first half of K; a2, a3 the same of the second half
//     B: b0 = column g of the first half of K, b1 of the second half
//     16-bit: K = 16, a register holds elements 2t, 2t+1 of its half (8 wide)
//     tf32:   K = 8,  a register holds element t of its half (4 wide)
// Both kinds are 32 bytes of K: the same addresses load them, only the instruction differs.
#pragma once
#include "async.cuh"

// Four 8x8 matrices of 16-bit elements from shared memory.  Lane i gives the address of row i % 8 of matrix i / 8; register m
// of a lane then holds elements 2t, 2t+1 of row g of matrix m (transposed: of column g).
__device__ __forceinline__ void ldmatrix(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void ldmatrix_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

#if __CUDA_ARCH__ >= 800
#define MMA(NAME, SHAPE_AND_TYPES)                                                                                       \
  __device__ __forceinline__ void NAME(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {                \
    asm volatile("mma.sync.aligned." SHAPE_AND_TYPES " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"            \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                        \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                                        \
  }
MMA(mma_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
MMA(mma_f16, "m16n8k16.row.col.f32.f16.f16.f32")
MMA(mma_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
#undef MMA
#else
// Turing has the f16 instruction with half the K: twice, for the two halves.
__device__ __forceinline__ void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(b0));
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[2]), "r"(a[3]), "r"(b1));
}
#endif
