// Copies from global to shared memory that need no register and do not wait (cp.async, sm_80 and later).
//
// Copies are issued, closed into groups by commit, and waited for group by group: wait<N> returns when all but the newest N
// groups have arrived.  Before sm_80 the copy is a load and a store at once, and the rest is empty: the same program, whose
// barriers then do all the ordering.
#pragma once
#include "types.cuh"

__device__ __forceinline__ uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

// BYTES = 16, 8 or 4 from `from`, or zeros when !valid (then nothing is read).
template <int BYTES> __device__ __forceinline__ void copy_async(void* to, const void* from, bool valid) {
#if __CUDA_ARCH__ >= 800
  const int bytes = valid ? BYTES : 0;                           // what is not read becomes zero
  if constexpr (BYTES == 16)                                     // .cg: past the first-level cache, only for 16 bytes
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from), "n"(BYTES), "r"(bytes)
                 : "memory");
#else
  if constexpr (BYTES == 16) {
    Vec16 v = {};
    if (valid) v = *reinterpret_cast<const Vec16*>(from);
    *reinterpret_cast<Vec16*>(to) = v;
  } else {
    for (int i = 0; i < BYTES / 4; i++)
      reinterpret_cast<uint32_t*>(to)[i] = valid ? reinterpret_cast<const uint32_t*>(from)[i] : 0u;
  }
#endif
}

// COUNT elements of T: asynchronous where the hardware can, one by one where it cannot (a single 16-bit element).
template <class T, int COUNT> __device__ __forceinline__ void copy_elements(void* to, const T* from, bool valid) {
  if constexpr (sizeof(T) * COUNT >= 4) {
    copy_async<sizeof(T) * COUNT>(to, from, valid);
  } else {
    static_assert(COUNT == 1, "narrower than 4 bytes means one element");
    T v = {};
    if (valid) v = *from;
    *reinterpret_cast<T*>(to) = v;
  }
}

__device__ __forceinline__ void copy_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int N> __device__ __forceinline__ void copy_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}
