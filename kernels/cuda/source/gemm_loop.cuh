// The one main loop: C (BM x BN tile) = A (BM x K) * B (K x BN), slice after slice of k, with several slices in flight.
//
// Where the operands come from is the business of two sources.  A source issues a thread's share of the copies of the next
// slice into a tile and moves on; what lies outside the operand arrives as zeros, so the loop knows no borders.
// Convolution, its two gradients and every matrix product differ in their sources and in where the results go, not here.
//
// With STAGES tiles in shared memory, slice s is computed while slices s+1 .. s+STAGES-1 are under way:
//
//     wait until slice s has arrived     (this thread's copies)
//     barrier                            (everybody's copies of slice s; and everybody has left slice s-1)
//     issue slice s+STAGES-1             (into the stage that slice s-1 has just left)
//     multiply slice s
//
// Warpgroups' products go on while their threads do.  They begin before the copies are issued, and slice s-1's are only known
// to have ended everywhere at the barrier of slice s+1: so copies run one slice less ahead, into the stage of slice s-2.
#pragma once
#include "warpgroup.cuh"

// How THREADS threads share the copies of a tile, COPY elements at a time: a thread keeps its column and takes every
// STEP-th line.
template <class Tile_, int COPY, int THREADS> struct Share {
  using Tile = Tile_;
  static constexpr int PER_LINE = Tile::WIDTH / COPY, STEP = THREADS / PER_LINE, COUNT = Tile::LINES / STEP;
  static_assert(THREADS % PER_LINE == 0 && Tile::LINES % STEP == 0 && COUNT > 0, "the threads must tile the tile");
  int line, column;
  __device__ __forceinline__ explicit Share(int thread) : line(thread / PER_LINE), column(thread % PER_LINE * COPY) {}
  // Where this thread's i-th copy belongs.
  __device__ __forceinline__ char* to(char* tile, int i) const {
    return tile + Tile::place(line + i * STEP, column / Tile::PIECE) + column % Tile::PIECE * (int)sizeof(typename Tile::T);
  }
};

// An operand that is a matrix in memory: lines `pitch` elements apart, along or across k as its tile.  TF32: its floats are
// rounded already.
template <class Tile, int COPY, int THREADS, bool TF32 = false> struct MatrixSource {
  using T = typename Tile::T;
  static constexpr bool ROUNDED = TF32;
  Share<Tile, COPY, THREADS> share;
  const T* base;
  int64_t pitch;
  int line, lines, column, columns;                              // this thread's next place, and the ends of the matrix

  // The part from row (or column) `first` of `size`, and of k from k_begin to k_end.
  __device__ __forceinline__ MatrixSource(const T* base, int64_t pitch, int first, int size, int k_begin, int k_end, int thread)
      : share(thread), base(base), pitch(pitch) {
    line = share.line + (Tile::ALONG_K ? first : k_begin);
    lines = Tile::ALONG_K ? size : k_end;
    column = share.column + (Tile::ALONG_K ? k_begin : first);
    columns = Tile::ALONG_K ? k_end : size;
  }
  __device__ __forceinline__ void load(char* tile) {
    constexpr int AT_ONCE = sizeof(T) == 4 ? 1 : 4;              // registers: the largest tile of tf32 has none to spare
#pragma unroll AT_ONCE
    for (int i = 0; i < share.COUNT; i++) {
      const int l = line + i * share.STEP;
      const bool valid = l < lines && column < columns;
      copy_elements<T, COPY>(share.to(tile, i), valid ? base + l * pitch + column : base, valid);
    }
    (Tile::ALONG_K ? column : line) += Tile::BK;
  }
};

template <Math MATH, class A, class B, int WM, int WN, int STAGES, class SourceA, class SourceB>
__device__ __forceinline__ void gemm_loop(Accumulators<WM, WN>& acc, char* shared, SourceA& a, SourceB& b, int slices, int row,
                                          int col, int lane) {
  constexpr bool WARPGROUPS = MATH == WARPGROUP;
  constexpr int STAGE = A::BYTES + B::BYTES, AHEAD = STAGES - (WARPGROUPS ? 2 : 1);
  static_assert(AHEAD >= 1, "no stage is left to be filled");
  auto issue = [&](int slice) {
    if (slice < slices) {
      char* tiles = shared + slice % STAGES * STAGE;
      a.load(tiles);
      b.load(tiles + A::BYTES);
    }
    copy_commit();                                               // empty at the end, so that the count stays right
  };
#pragma unroll
  for (int s = 0; s < AHEAD; s++) issue(s);
  for (int s = 0; s < slices; s++) {
    char* tiles = shared + s % STAGES * STAGE;
    copy_wait<AHEAD - 1>();
    if constexpr (WARPGROUPS) hand_over(a, b, tiles);
    __syncthreads();
    if constexpr (WARPGROUPS) start_products<A, B>(acc[0], tiles, row);
    issue(s + AHEAD);
    if constexpr (WARPGROUPS) wgmma_wait<1>();                   // slice s-1's products
    else multiply<MATH, A, B, WM, WN>(acc, tiles, tiles + A::BYTES, row, col, lane);
  }
  if constexpr (WARPGROUPS) wgmma_wait<0>();
  copy_wait<0>();
  __syncthreads();                                               // the results are staged where the tiles were
}
