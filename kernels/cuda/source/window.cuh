// A convolution's gather: which pixels of the source image an output pixel reads.
//
//     source row = row * step.h + first.h + tap.h * r        r = 0 .. taps.h - 1, and the same across
//
// Forward: step = stride, first = -pad, tap = dilation.  Input gradient: the source is gy; an input pixel p receives from output
// row (p + pad - r * dilation) / stride where that is whole.  The pixels of one phase p mod stride take the same taps, which
// form an arithmetic series: step = 1, and tap is negative.  So both are one gather, for one kernel.
#pragma once
#include "gemm_loop.cuh"

struct Axis { int size, step, first, tap, taps; };               // size: of the source image

struct Window {
  Axis h, w;
  Divisor area, columns;                                         // output pixels: rows * columns, and columns
  int pixels;                                                    // images * rows * columns
  int channels, pitch;                                           // channels that are reduced; elements from pixel to pixel
};

// Where a window begins: its corner's number among the source's pixels, and its row and column (16 bits each).
struct Corner { int pixel, place; };

// The corners of the output pixels first .. first + count - 1, by all threads; the caller waits for them.
__device__ __forceinline__ void fill_corners(Corner* corners, int count, const Window& window, int first, int thread,
                                             int threads) {
  for (int i = thread; i < count; i += threads) {
    const int m = first + i;
    uint32_t rest, column;
    const int image = window.area.split(m < window.pixels ? m : 0, rest);
    const int row = window.columns.split(rest, column);
    const int top = row * window.h.step + window.h.first, left = (int)column * window.w.step + window.w.first;
    const int place = m < window.pixels ? (int)((unsigned)top << 16 | (left & 0xFFFF)) : (int)0x80000000;
    corners[i] = {(image * window.h.size + top) * window.w.size + left, place};   // row -32768: always outside
  }
}

// A along k: lines are output pixels, k runs over (tap row, tap column, channel), channels fastest.
template <class Tile, int COPY, int THREADS> struct PixelSource {
  using T = typename Tile::T;
  static constexpr bool ROUNDED = false;
  static_assert(Tile::ALONG_K, "k runs along the channels");
  Share<Tile, COPY, THREADS> share;
  const T* x;
  const Window& window;
  const Corner* corners;                                         // of the tile's lines, in shared memory
  int channel, r, c;                                             // this thread's next place in k

  __device__ __forceinline__ PixelSource(const T* x, const Window& window, const Corner* corners, int thread)
      : share(thread), x(x), window(window), corners(corners), channel(share.column), r(0), c(0) {
    normalise();
  }
  __device__ __forceinline__ void normalise() {
    while (channel >= window.channels) {
      channel -= window.channels;
      if (++c == window.w.taps) c = 0, r++;
    }
  }
  __device__ __forceinline__ void load(char* tile) {
    const int down = r * window.h.tap, across = c * window.w.tap;
#pragma unroll 4
    for (int i = 0; i < share.COUNT; i++) {
      const Corner corner = corners[share.line + i * share.STEP];
      const int row = (corner.place >> 16) + down, column = (short)corner.place + across;
      const bool valid = r < window.h.taps && (unsigned)row < (unsigned)window.h.size &&
                         (unsigned)column < (unsigned)window.w.size;
      const T* from = x + (int64_t)(corner.pixel + down * window.w.size + across) * window.pitch + channel;
      copy_elements<T, COPY>(share.to(tile, i), valid ? from : x, valid);
    }
    channel += Tile::BK;
    normalise();
  }
};

// B across k: lines are output pixels (k), columns run over (tap row, tap column, channel).
template <class Tile, int COPY, int THREADS> struct PatchSource {
  using T = typename Tile::T;
  static constexpr bool ROUNDED = false;
  static_assert(!Tile::ALONG_K, "k runs along the pixels");
  Share<Tile, COPY, THREADS> share;
  const T* x;
  const Window& window;
  int line, end;                                                 // this thread's next pixel, and where the pixels end
  int down, across;                                              // the tap of this thread's column, from the corner
  bool live;                                                     // the column exists

  __device__ __forceinline__ PatchSource(const T* base, const Window& window, int first, int begin, int end, int thread)
      : share(thread), window(window), line(begin + share.line), end(end) {
    const int column = first + share.column, tap = column / window.channels;
    live = tap < window.h.taps * window.w.taps;
    down = tap / window.w.taps * window.h.tap + window.h.first;
    across = tap % window.w.taps * window.w.tap + window.w.first;
    x = live ? base + column % window.channels : base;
  }
  __device__ __forceinline__ void load(char* tile) {
#pragma unroll 4
    for (int i = 0; i < share.COUNT; i++) {
      const int m = line + i * share.STEP;
      uint32_t rest, q;
      const int image = window.area.split(m < end ? m : 0, rest), p = window.columns.split(rest, q);
      const int row = p * window.h.step + down, column = (int)q * window.w.step + across;
      const bool valid = live && m < end && (unsigned)row < (unsigned)window.h.size &&
                         (unsigned)column < (unsigned)window.w.size;
      const T* from = x + (int64_t)((image * window.h.size + row) * window.w.size + column) * window.pitch;
      copy_elements<T, COPY>(share.to(tile, i), valid ? from : x, valid);
    }
    line += Tile::BK;
  }
};
