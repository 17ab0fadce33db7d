// What translated kernels are written with: bit casts, conversions and arithmetic as the PTX manual defines them.
#pragma once
#include "emulator.h"
#include <math.h>
#include <string.h>

using namespace emu;

template <class T, class U> static inline T as(U u) {          // same size: the same bits; else: a conversion
  if constexpr (sizeof(T) == sizeof(U)) { T t; memcpy(&t, &u, sizeof t); return t; } else return (T)u;
}
template <class T> static inline T load(const char* p) { T t; memcpy(&t, p, sizeof t); return t; }
template <class T> static inline void store(char* p, T t) { memcpy(p, &t, sizeof t); }

// ---- 16-bit floats -------------------------------------------------------------------------------------------

static inline float f32_from_f16(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3FF;
  if (exponent == 0) { const float v = fraction / 16777216.0f; return sign ? -v : v; }
  return as<float>(sign | (exponent == 31 ? 0x7F800000u : (exponent + 112) << 23) | fraction << 13);
}
// The mantissa cut to `keep` bits: to the nearest, ties to even, or toward zero.
static inline uint16_t f16_from_f32(float f, bool truncate = false) {
  const uint32_t u = as<uint32_t>(f), sign = u >> 16 & 0x8000, magnitude = u & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return 0x7FFF;
  if (magnitude == 0x7F800000) return sign | 0x7C00;
  if (magnitude >= 0x47800000) return sign | (truncate ? 0x7BFF : 0x7C00);        // 65536 and more
  if (magnitude < 0x38800000) {                                                    // subnormal
    const float scaled = as<float>(magnitude) * 16777216.0f;
    return sign | (uint32_t)(truncate ? truncf(scaled) : rintf(scaled));
  }
  const uint32_t rebased = magnitude - 0x38000000;
  return sign | (truncate ? rebased >> 13 : (rebased + 0xFFF + (rebased >> 13 & 1)) >> 13);
}
static inline float f32_from_bf16(uint16_t h) { return as<float>((uint32_t)h << 16); }
static inline uint16_t bf16_from_f32(float f, bool truncate = false) {
  const uint32_t u = as<uint32_t>(f);
  if (f != f) return 0x7FFF;
  return truncate ? u >> 16 : (u + 0x7FFF + (u >> 16 & 1)) >> 16;
}
struct f16 {
  uint16_t bits;
  f16() = default;
  f16(float f) : bits(f16_from_f32(f)) {}
  operator float() const { return f32_from_f16(bits); }
};
struct bf16 {
  uint16_t bits;
  bf16() = default;
  bf16(float f) : bits(bf16_from_f32(f)) {}
  operator float() const { return f32_from_bf16(bits); }
};
static inline uint32_t tf32_from_f32(float f, bool even) {     // 10 bits of mantissa; rna: ties away from zero
  const uint32_t u = as<uint32_t>(f);
  if ((u & 0x7FFFFFFF) >= 0x7F800000) return u;
  return (even ? u + 0xFFF + (u >> 13 & 1) : u + 0x1000) & 0xFFFFE000u;
}

// Two 16-bit values in one register.
template <class T> static inline uint32_t pack(T low, T high) { return as<uint16_t>(low) | (uint32_t)as<uint16_t>(high) << 16; }
template <class T> static inline T low(uint32_t v) { return as<T>((uint16_t)v); }
template <class T> static inline T high(uint32_t v) { return as<T>((uint16_t)(v >> 16)); }
template <class T, class F> static inline uint32_t both(F f, uint32_t a) { return pack<T>(f(low<T>(a)), f(high<T>(a))); }
template <class T, class F> static inline uint32_t both(F f, uint32_t a, uint32_t b) {
  return pack<T>(f(low<T>(a), low<T>(b)), f(high<T>(a), high<T>(b)));
}
template <class T, class F> static inline uint32_t both(F f, uint32_t a, uint32_t b, uint32_t c) {
  return pack<T>(f(low<T>(a), low<T>(b), low<T>(c)), f(high<T>(a), high<T>(b), high<T>(c)));
}

// ---- arithmetic ----------------------------------------------------------------------------------------------

template <class T> static inline T add(T a, T b) { return a + b; }
template <class T> static inline T sub(T a, T b) { return a - b; }
template <class T> static inline T mul(T a, T b) { return a * b; }
template <class T> static inline T divide(T a, T b) { return b == 0 ? (T)-1 : (T)(a / b); }
template <> inline float divide(float a, float b) { return a / b; }
template <> inline double divide(double a, double b) { return a / b; }
template <> inline int32_t divide(int32_t a, int32_t b) { return b == 0 ? -1 : b == -1 ? (int32_t)(0u - (uint32_t)a) : a / b; }
template <> inline int64_t divide(int64_t a, int64_t b) { return b == 0 ? -1 : b == -1 ? (int64_t)(0ull - (uint64_t)a) : a / b; }
template <class T> static inline T modulo(T a, T b) { return b == 0 ? a : (T)(b + 1 == 0 && (T)-1 < 0 ? 0 : a % b); }
static inline float fma_(float a, float b, float c) { return fmaf(a, b, c); }
static inline double fma_(double a, double b, double c) { return fma(a, b, c); }
static inline f16 fma_(f16 a, f16 b, f16 c) { return (float)((double)(float)a * (float)b + (float)c); }
static inline bf16 fma_(bf16 a, bf16 b, bf16 c) { return (float)((double)(float)a * (float)b + (float)c); }

// A NaN loses against a number unless asked for; -0 is less than +0.
template <class T> static inline T smaller(T a, T b, bool nan = false) {
  if constexpr ((T)0.5f != 0) {
    if (a != a || b != b) return nan ? (T)NAN : a != a ? b : a;
    if (a == b) return signbit((double)a) ? a : b;
  }
  return b < a ? b : a;
}
template <class T> static inline T larger(T a, T b, bool nan = false) {
  if constexpr ((T)0.5f != 0) {
    if (a != a || b != b) return nan ? (T)NAN : a != a ? b : a;
    if (a == b) return signbit((double)a) ? b : a;
  }
  return a < b ? b : a;
}
template <> inline f16 smaller(f16 a, f16 b, bool nan) { return smaller<float>(a, b, nan); }
template <> inline bf16 smaller(bf16 a, bf16 b, bool nan) { return smaller<float>(a, b, nan); }
template <> inline f16 larger(f16 a, f16 b, bool nan) { return larger<float>(a, b, nan); }
template <> inline bf16 larger(bf16 a, bf16 b, bool nan) { return larger<float>(a, b, nan); }
template <class T> static inline T saturate(T x) { return x != x ? (T)0 : x < (T)0 ? (T)0 : x > (T)1 ? (T)1 : x; }

// ---- conversions ---------------------------------------------------------------------------------------------

template <class I, class F> static inline I to_int(F x) {      // x is whole; out of range: the nearest, NaN: 0
  constexpr bool is_signed = (I)-1 < 0;
  constexpr int bits = 8 * sizeof(I) - is_signed;
  const F top = ldexp((F)1, bits);
  if (x != x) return 0;
  if (x >= top) return (I)((((uint64_t)1 << (bits - 1)) - 1) * 2 + 1);
  if (is_signed ? x < -top : x < 0) return is_signed ? (I)((uint64_t)1 << bits) : 0;
  return (I)x;
}
template <class D, class S> static inline D clamp_int(S x) {
  constexpr bool is_signed = (D)-1 < 0;
  constexpr int bits = 8 * sizeof(D) - is_signed;
  const __int128 top = ((__int128)1 << bits) - 1, bottom = is_signed ? -top - 1 : 0, v = x;
  return (D)(v > top ? top : v < bottom ? bottom : v);
}
static inline float f32_toward_zero(double x) {
  const float f = (float)x;
  return fabs((double)f) > fabs(x) ? nextafterf(f, 0) : f;
}

// ---- bits ----------------------------------------------------------------------------------------------------

template <class T> static inline T shift_left(T a, uint32_t n) { return n < 8 * sizeof(T) ? (T)(a << n) : 0; }
template <class T> static inline T shift_right(T a, uint32_t n) {      // arithmetic for signed types
  const uint32_t bits = 8 * sizeof(T);
  return n < bits ? (T)(a >> n) : a < 0 ? (T)-1 : 0;
}
static inline uint32_t funnel_left(uint32_t low, uint32_t high, uint32_t n) { return n == 0 ? high : n == 32 ? low : high << n | low >> (32 - n); }
static inline uint32_t funnel_right(uint32_t low, uint32_t high, uint32_t n) { return n == 0 ? low : n == 32 ? high : low >> n | high << (32 - n); }
static inline uint32_t lop3(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t r = 0;
  for (int i = 0; i < 8; i++)
    if (table >> i & 1) r |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  return r;
}
static inline uint32_t permute(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = (uint64_t)b << 32 | a;
  uint32_t r = 0;
  for (int i = 0; i < 4; i++) {
    const uint32_t s = selector >> 4 * i & 15;
    uint8_t v = (uint8_t)(bytes >> 8 * (s & 7));
    if (s & 8) v = v & 0x80 ? 0xFF : 0;
    r |= (uint32_t)v << 8 * i;
  }
  return r;
}
template <class T> static inline T extract(T a, uint32_t at, uint32_t length) {
  const uint32_t bits = 8 * sizeof(T);
  at &= 255; length &= 255;
  if (length == 0) return 0;
  const bool sign = (T)-1 < 0 && (a >> (at + length - 1 < bits - 1 ? at + length - 1 : bits - 1) & 1);
  T r = sign ? (T)-1 : 0;
  for (uint32_t i = 0; i < length && i < bits; i++) {
    const T bit = at + i < bits ? a >> (at + i) & 1 : (T)sign;
    r = (T)((r & ~((T)1 << i)) | bit << i);
  }
  return r;
}
template <class T> static inline T insert(T field, T into, uint32_t at, uint32_t length) {
  const uint32_t bits = 8 * sizeof(T);
  at &= 255; length &= 255;
  for (uint32_t i = 0; i < length && at + i < bits; i++) {
    into &= ~((T)1 << (at + i));
    into |= (field >> i & 1) << (at + i);
  }
  return into;
}
template <class T> static inline uint32_t highest(T a, bool amount) {  // bfind
  uint64_t v = (T)-1 < 0 && a < 0 ? ~(int64_t)a : (uint64_t)a;
  if (sizeof(T) == 4) v &= 0xFFFFFFFFu;
  if (v == 0) return ~0u;
  const uint32_t bit = 63 - __builtin_clzll(v);
  return amount ? 8 * sizeof(T) - 1 - bit : bit;
}
template <class T> static inline T reverse(T a) {
  T r = 0;
  for (uint32_t i = 0; i < 8 * sizeof(T); i++) r |= (a >> i & 1) << (8 * sizeof(T) - 1 - i);
  return r;
}

// ---- warps ---------------------------------------------------------------------------------------------------

// shfl.sync: `c` holds the clamp and the mask of the segment; returns the value, and whether the source was in range.
static inline uint32_t shuffle(uint32_t site, char mode, uint32_t value, uint32_t b, uint32_t c, uint32_t mask, bool* valid) {
  const int lane = emu_self.lane, segment = c >> 8 & 31, clamp = c & 31;
  const int last = (lane & segment) | (clamp & ~segment), first = lane & segment;
  b &= 31;
  int source = mode == 'u' ? lane - (int)b : mode == 'd' ? lane + (int)b : mode == 'b' ? lane ^ (int)b : first | ((int)b & ~segment);
  *valid = mode == 'u' ? source >= last : source <= last;
  if (!*valid) source = lane;
  return emu_shuffle(site, mask, value, source);
}

template <class T, class F> static inline T atomic(char* p, F f) { const T old = load<T>(p); store<T>(p, f(old)); return old; }
