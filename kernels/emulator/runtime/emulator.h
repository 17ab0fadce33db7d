// The interface between the runtime (runtime.cpp, compiled once) and translated kernels (each its own library).
#pragma once
#include <stdint.h>

namespace emu {

struct Dim3 { uint32_t x, y, z; };

// What a running kernel may read about itself.
struct Self {
  Dim3 tid, ctaid, ntid, nctaid;
  uint32_t lane, warp, warps;
  uint32_t static_shared, dynamic_shared;   // bytes
  char* shared;                             // first byte of the block's shared memory
};

enum Access : uint32_t { READ = 0, WRITE = 1, ATOMIC = 2 };   // an atomic is WRITE | ATOMIC

extern "C" {
extern Self emu_self;

// Check an access of `size` bytes at statement `site` and return where the bytes lie. Addresses: global memory by
// pointer, shared memory by offset, a generic address by pointer.
char* emu_global(uint32_t site, uint64_t address, uint32_t size, uint32_t kind);
char* emu_shared(uint32_t site, uint32_t offset, uint32_t size, uint32_t kind);
char* emu_generic(uint32_t site, uint64_t address, uint32_t size, uint32_t kind);

// Barriers and collectives. Lanes of a collective wait for all lanes of `mask`.
void emu_sync_block(uint32_t site);
uint32_t emu_reduce_block(uint32_t site, uint32_t what, uint32_t value);       // what: 0 count, 1 and, 2 or
void emu_sync_warp(uint32_t site, uint32_t mask);
uint32_t emu_shuffle(uint32_t site, uint32_t mask, uint32_t value, uint32_t source);
uint32_t emu_ballot(uint32_t site, uint32_t mask, uint32_t value);
uint32_t emu_match(uint32_t site, uint32_t mask, uint64_t value);
uint32_t emu_gather(uint32_t site, uint32_t mask, uint32_t value, uint32_t out[32]);   // all lanes' values; returns mask
uint32_t emu_active(void);

// Tensor core: A (16 x k), B (k x 8), C and D (16 x 8) in the fragment layouts of the PTX manual.
void emu_mma(uint32_t site, uint32_t type, uint32_t k, const uint32_t* a, const uint32_t* b, float* d);
void emu_ldmatrix(uint32_t site, uint32_t count, uint32_t trans, uint32_t offset, uint32_t* out);
void emu_stmatrix(uint32_t site, uint32_t count, uint32_t trans, uint32_t offset, const uint32_t* in);

// Asynchronous copies from global to shared memory: they land when waited for.
void emu_copy_async(uint32_t site, uint32_t to, uint64_t from, uint32_t size, uint32_t source_size);
void emu_copy_commit(void);
void emu_copy_wait(uint32_t newest_allowed);

// wgmma: D (64 x n) = [D +] A (64 x k) * B (k x n) by the 128 threads of a warpgroup, in float; k is 16, of tf32 8. A and B by
// descriptor, or A in registers. A state is kept for each register that a product may use: who touched it last.
struct Product {
  uint32_t type, n, accumulate, negate, transposed;  // negate, transposed (the reduced index is not the fast one): 1 A, 2 B
  uint64_t a, b;                                     // descriptors
  const uint32_t* fragment;                          // A in registers, or null
  float* d;
  uint32_t *d_state, *a_state;
};
void emu_wgmma(uint32_t site, Product* product);
void emu_wgmma_fence(uint32_t site);
void emu_wgmma_commit(uint32_t site);
void emu_wgmma_wait(uint32_t site, uint32_t newest_allowed);
void emu_register(uint32_t site, uint32_t* state);   // anything else reads or writes such a register
void emu_proxy_fence(void);

[[noreturn]] void emu_fail(uint32_t site, const char* message);
}
}  // namespace emu
