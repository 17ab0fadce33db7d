// Products by Hopper's warpgroup instructions (wgmma, sm_90a), beside those by mma.sync in tile.cuh, for the same main loop.
//
// Four warps, a warpgroup, multiply a 64 x N tile by one instruction.  It reads both operands from shared memory, without
// registers in between, and goes on while its threads do: they issue the copies of later slices meanwhile.  mma.sync, whose
// operands pass through registers, reaches about 63 % of Hopper's rate.
//
// A slice is 128 bytes of k, and a tile lies as "128-byte swizzle" wants it (PTX manual, "Shared memory layout"): bricks of
// 8 lines of 128 bytes, at multiples of 1024, the piece of 16 bytes at place v of line l at v ^ l mod 8.
//
//     along k      lines are rows; brick after brick down the rows
//     across k     lines are k, 64 rows (or columns) wide; bricks down k, then the next 64        (16-bit types only)
//
// The tile is filled by cp.async, because rows of a convolution are gathered pixel by pixel.  TMA (cp.async.bulk.tensor, with
// its im2col mode) would take addresses and copies off the threads' hands: no index arithmetic, one thread for a tile, an
// mbarrier in place of the block's barrier, and so warps that only load beside warps that only multiply.
#pragma once
#include "tile.cuh"

constexpr int SWIZZLED_LINE = 128, BRICK = 8 * SWIZZLED_LINE;    // bytes

template <class T_, bool ALONG_K_, int SIZE_> struct SwizzledTile {
  using T = T_;
  static constexpr bool ALONG_K = ALONG_K_;
  static constexpr int SIZE = SIZE_;                             // BM or BN
  static constexpr int PIECE = 16 / sizeof(T);                   // elements in a piece
  static constexpr int BK = SWIZZLED_LINE / sizeof(T);
  static constexpr int LINES = ALONG_K ? SIZE : BK, WIDTH = ALONG_K ? BK : SIZE, PIECES = WIDTH / PIECE;
  static constexpr int BYTES = SIZE * SWIZZLED_LINE;
  static_assert(SIZE % 64 == 0 && (ALONG_K || sizeof(T) == 2), "wgmma reads 32-bit operands along k only");

  // Bytes from the start of the tile to a piece of a line.
  __device__ static __forceinline__ int place(int line, int piece) {
    return (piece / 8 * LINES + line) * SWIZZLED_LINE + (piece % 8 ^ line % 8) * 16;
  }
  // What wgmma is told of the rows (or columns) from i, a multiple of 64, and the step-th 32 bytes of k (in bits 0-13 the
  // address, 16-29 the way to the next 64 of a line across k, 32-45 to the next brick, in units of 16 bytes; bit 62: this swizzle).
  __device__ static __forceinline__ uint64_t descriptor(const char* tile, int i, int step) {
    constexpr uint64_t LEADING = ALONG_K ? 1 : LINES * SWIZZLED_LINE / 16, STRIDE = BRICK / 16;
    const int from = i * SWIZZLED_LINE + step * (ALONG_K ? 32 : 2 * BRICK);   // across k: i / 64 times LINES = 64 lines
    return (shared_address(tile) + from) / 16 | LEADING << 16 | STRIDE << 32 | 1ull << 62;
  }
};

template <Math MATH, class T, bool ALONG_K, int SIZE> struct ChooseTile { using type = Tile<T, ALONG_K, SIZE>; };
template <class T, bool ALONG_K, int SIZE> struct ChooseTile<WARPGROUP, T, ALONG_K, SIZE> {
  using type = SwizzledTile<T, ALONG_K, SIZE>;
};
template <Math MATH, class T, bool ALONG_K, int SIZE> using TileFor = typename ChooseTile<MATH, T, ALONG_K, SIZE>::type;

// ---- the instructions ------------------------------------------------------------------------------------------------

// What this thread has written into shared memory (by cp.async too, once it has arrived) is there for wgmma after a barrier.
__device__ __forceinline__ void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// The accumulators as they are now, for the products that follow.  The empty asm keeps the compiler's writes before the fence.
template <int COUNT> __device__ __forceinline__ void wgmma_fence(float (&d)[COUNT][4]) {
#pragma unroll
  for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])::"memory");
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// D (64 x N) += A (64 x 32 bytes of k) * B (32 bytes of k x N).  A thread's part of D is mma's, N / 8 times side by side.
#define TEN(t) "%" #t "0,%" #t "1,%" #t "2,%" #t "3,%" #t "4,%" #t "5,%" #t "6,%" #t "7,%" #t "8,%" #t "9,"
#define FOUR(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define FULL(j) FOUR(j), FOUR(j + 1), FOUR(j + 2), FOUR(j + 3), FOUR(j + 4), FOUR(j + 5), FOUR(j + 6), FOUR(j + 7)
#define WGMMA(N, REGISTERS, A, B, TURN_A, TURN_B, ...)                                                                   \
  template <class TileA, class TileB>                                                                                    \
  __device__ __forceinline__ void wgmma(float (&d)[N / 8][4], uint64_t a, uint64_t b) {                                  \
    if constexpr (SAME<typename TileA::T, bf16>)                                                                         \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" REGISTERS "}, " A ", " B ", 1, 1, 1, "     \
                   TURN_A ", " TURN_B ";" : __VA_ARGS__ : "l"(a), "l"(b), "n"(!TileA::ALONG_K), "n"(!TileB::ALONG_K));     \
    else if constexpr (SAME<typename TileA::T, f16>)                                                                     \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.f16.f16 {" REGISTERS "}, " A ", " B ", 1, 1, 1, "       \
                   TURN_A ", " TURN_B ";" : __VA_ARGS__ : "l"(a), "l"(b), "n"(!TileA::ALONG_K), "n"(!TileB::ALONG_K));     \
    else                                                                                                                 \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k8.f32.tf32.tf32 {" REGISTERS "}, " A ", " B ", 1, 1, 1;"       \
                   : __VA_ARGS__ : "l"(a), "l"(b));                                                                      \
  }
template <class T, class U> constexpr bool SAME = false;
template <class T> constexpr bool SAME<T, T> = true;
WGMMA(64, TEN() TEN(1) TEN(2) "%30,%31", "%32", "%33", "%34", "%35", FULL(0))
WGMMA(128, TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) "%60,%61,%62,%63", "%64", "%65", "%66", "%67", FULL(0), FULL(8))
WGMMA(256, TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) TEN(6) TEN(7) TEN(8) TEN(9) TEN(10) TEN(11)
      "%120,%121,%122,%123,%124,%125,%126,%127", "%128", "%129", "%130", "%131", FULL(0), FULL(8), FULL(16), FULL(24))
#undef WGMMA
#undef FULL
#undef FOUR
#undef TEN

// ---- a slice ---------------------------------------------------------------------------------------------------------

// A thread rounds what it has copied itself: wgmma reads shared memory, and would cut floats to tf32 instead.
template <class Share> __device__ __forceinline__ void round_to_tf32(const Share& share, char* tile) {
#pragma unroll
  for (int i = 0; i < Share::COUNT; i++) {
    Vec16& place = *reinterpret_cast<Vec16*>(share.to(tile, i));
    Vec16 four = place;
#pragma unroll
    for (int j = 0; j < 4; j++) four.word[j] = to_tf32(four.word[j]);
    place = four;
  }
}

// What this thread has copied into a slice's tiles, A's before B's, is ready for wgmma after the next barrier.
template <class SourceA, class SourceB>
__device__ __forceinline__ void hand_over(const SourceA& a, const SourceB& b, char* tiles) {
  using A = typename decltype(a.share)::Tile;
  constexpr bool FLOATS = sizeof(typename A::T) == 4;
  if constexpr (FLOATS && !SourceA::ROUNDED) round_to_tf32(a.share, tiles);
  if constexpr (FLOATS && !SourceB::ROUNDED) round_to_tf32(b.share, tiles + A::BYTES);
  proxy_fence();
}

// The products of a slice, as a group of its own: D's 64 rows of this warp's warpgroup, all columns.
template <class A, class B, int PARTS>
__device__ __forceinline__ void start_products(float (&acc)[PARTS][4], const char* tiles, int row) {
  static_assert(PARTS * 8 == B::SIZE, "a warpgroup takes all columns");
  wgmma_fence(acc);
#pragma unroll
  for (int step = 0; step < SWIZZLED_LINE / 32; step++)
    wgmma<A, B>(acc, A::descriptor(tiles, row / 64 * 64, step), B::descriptor(tiles + A::BYTES, 0, step));
  wgmma_commit();
}
