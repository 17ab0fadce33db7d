// Element types and how they become float: every kernel computes in float, whatever it loads and stores.
//
// bf16 and f16 are storage only: 16 bits, and conversions both ways that round to nearest even.  NVRTC compiles without
// the C library's headers, so the few integer names used below are declared here.
#pragma once

typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };
struct alignas(16) Vec16 { uint32_t word[4]; };                  // what one lane moves at most: 16 bytes

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(bf16 v) { return __uint_as_float((uint32_t)v.bits << 16); }
__device__ __forceinline__ float to_float(f16 v) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits));
  return f;
}

template <class T> __device__ __forceinline__ T from_float(float v);
template <> __device__ __forceinline__ float from_float<float>(float v) { return v; }
template <> __device__ __forceinline__ f16 from_float<f16>(float v) {
  f16 h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h.bits) : "f"(v));
  return h;
}
template <> __device__ __forceinline__ bf16 from_float<bf16>(float v) {
  bf16 h;
#if __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h.bits) : "f"(v));
#else                                                            // the same rounding, by hand
  uint32_t u = __float_as_uint(v);
  h.bits = (u & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FFF : (uint16_t)((u + 0x7FFFu + (u >> 16 & 1)) >> 16);
#endif
  return h;
}

// The float in these bits rounded to tf32 (10 bits of mantissa).  Without it the tensor core drops the low bits.
__device__ __forceinline__ uint32_t to_tf32(uint32_t bits) {
#if __CUDA_ARCH__ >= 800
  uint32_t r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(__uint_as_float(bits)));
  return r;
#else
  return bits;
#endif
}

// COUNT elements (COUNT * sizeof(T) = 4, 8 or 16 bytes, aligned to that) as floats.
template <class T, int COUNT> struct Lanes {
  alignas(sizeof(T) * COUNT) T value[COUNT];
  __device__ __forceinline__ void load(const T* p) { *this = *reinterpret_cast<const Lanes*>(p); }
  __device__ __forceinline__ void store(T* p) const { *reinterpret_cast<Lanes*>(p) = *this; }
  __device__ __forceinline__ float get(int i) const { return to_float(value[i]); }
  __device__ __forceinline__ void set(int i, float v) { value[i] = from_float<T>(v); }
};

// Division by a number that is known at launch: quotient = high half of n * factor, shifted.  Exact for 0 <= n < 2^31
// (Granlund and Montgomery, "Division by invariant integers using multiplication", 1994).  The host makes the fields.
struct Divisor {
  uint32_t value, factor, shift;
  __device__ __forceinline__ uint32_t quotient(uint32_t n) const {
    return value == 1 ? n : __umulhi(n, factor) >> shift;
  }
  __device__ __forceinline__ uint32_t split(uint32_t n, uint32_t& rest) const {
    uint32_t q = quotient(n);
    rest = n - q * value;
    return q;
  }
};

// NaN stays NaN, as in the reference: fmaxf would drop it.
__device__ __forceinline__ float relu(float v) { return v < 0.0f ? 0.0f : v; }
