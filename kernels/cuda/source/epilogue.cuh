// From accumulators to memory.  A lane holds pairs of neighbours scattered over 16 rows; memory wants long runs.  So a warp
// writes 16 rows into its own slab of shared memory and reads them back four elements a lane, row by row; no other warp is
// concerned.  On the way: bias, residual, ReLU, conversion.
#pragma once
#include "moments.cuh"
#include "tile.cuh"

// Row m of the result in memory, `pitch` elements after the row before it.
struct RowPlace {
  int64_t pitch;
  __device__ __forceinline__ int64_t offset(int m) const { return m * pitch; }
};

// Row m = (image, row, column) of an image that is written at every stride-th pixel (the input gradient's phases).
struct PixelPlace {
  Divisor area, columns;
  int64_t origin, image_pitch, row_pitch, column_pitch;
  __device__ __forceinline__ int64_t offset(int m) const {
    uint32_t pixel, column;
    const uint32_t image = area.split(m, pixel), row = columns.split(pixel, column);
    return origin + image * image_pitch + row * row_pitch + column * column_pitch;
  }
};

// y = [relu](v + bias[n] [+ residual]) at (m, n) for m < rows, n < columns.  wide: four elements may be moved at once.
template <class T, class Place> struct Output {
  T* y;
  const T *bias, *residual;                                      // null: none
  Place place;
  int rows, columns;
  bool relu, wide;

  __device__ __forceinline__ void put(int m, int n, float (&v)[4]) const {
    if (m >= rows || n >= columns) return;
    const int64_t at = place.offset(m) + n;
    if (wide) {
      Lanes<T, 4> out;
      if (bias) add(v, bias + n);
      if (residual) add(v, residual + at);
#pragma unroll
      for (int i = 0; i < 4; i++) out.set(i, relu ? ::relu(v[i]) : v[i]);
      out.store(y + at);
    } else {
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (n + i < columns) {
          float u = v[i];
          if (bias) u += to_float(bias[n + i]);
          if (residual) u += to_float(residual[at + i]);
          y[at + i] = from_float<T>(relu ? ::relu(u) : u);
        }
    }
  }
  __device__ static __forceinline__ void add(float (&v)[4], const T* p) {
    Lanes<T, 4> four;
    four.load(p);
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] += four.get(i);
  }
};

// Floats of slab a warp needs.  A row is 8 longer than WN: then the rows that are written together lie in different banks.
template <int WN> constexpr int SLAB = 16 * (WN + 8);

// (m, n): the place of the warp's part in the result.
template <int WM, int WN, class Output>
__device__ __forceinline__ void write_out(const Accumulators<WM, WN>& acc, char* shared, int warp, int lane, int m, int n,
                                          const Output& output) {
  constexpr int PITCH = WN + 8, PER_ROW = WN / 4;
  float* slab = reinterpret_cast<float*>(shared) + warp * SLAB<WN>;
#pragma unroll
  for (int i = 0; i < WM / 16; i++) {
    __syncwarp();                                                // the slab has been read
#pragma unroll
    for (int j = 0; j < WN / 8; j++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        Lanes<float, 2> pair;
        pair.set(0, acc[i][j][h * 2]);
        pair.set(1, acc[i][j][h * 2 + 1]);
        pair.store(slab + (lane / 4 + h * 8) * PITCH + j * 8 + lane % 4 * 2);
      }
    __syncwarp();                                                // the slab has been written
#pragma unroll 4
    for (int e = 0; e < 16 * PER_ROW / 32; e++) {
      const int r = (e * 32 + lane) / PER_ROW, c = (e * 32 + lane) % PER_ROW * 4;
      Lanes<float, 4> four;
      four.load(slab + r * PITCH + c);
      output.put(m + i * 16 + r, n + c, four.value);
    }
  }
}

// The statistics of a batch norm that follows: moments of each of the tile's columns, to row `slab` of partial (slabs, 2, channels)
// from column `first` on.  They are those of the results as they were stored, and the block reads back its own, which are still in
// the cache: with the accumulators gone there are registers enough, and the main loop knows nothing of it.
template <int BM, int BN, int THREADS, class T, class Place>
__device__ __forceinline__ void tile_moments(const Output<T, Place>& output, char* shared, int thread, int m, int n, float* partial,
                                             int slab, int first, int channels) {
  constexpr int ACROSS = THREADS < BN ? THREADS : BN, DOWN = THREADS / ACROSS;   // threads along and down the columns
  static_assert(THREADS % ACROSS == 0 && BN % ACROSS == 0, "the threads must tile the columns");
  Moments* moments = reinterpret_cast<Moments*>(shared);
  const int down = thread / ACROSS;
  __syncthreads();                                               // the tile is stored, and its staging has been read
#pragma unroll 1
  for (int c = thread % ACROSS; c < BN; c += ACROSS) {
    const int column = n + c;
    float origin = 0.0f, sum = 0.0f, squares = 0.0f, count = 0.0f;
    if (column < output.columns)
#pragma unroll 1
      for (int r = down; r < BM && m + r < output.rows; r += DOWN) {
        const float v = to_float(output.y[output.place.offset(m + r) + column]);
        if (r == down) origin = v;
        sum += v - origin;
        squares = fmaf(v - origin, v - origin, squares);
        count += 1.0f;
      }
    const float shift = count > 0.0f ? sum / count : 0.0f;
    Moments mine = {count, origin + shift, squares - sum * shift};
    moments[thread] = mine;
    __syncthreads();                                             // everybody's are there
    if (down == 0 && column < output.columns) {
      for (int d = 1; d < DOWN; d++) mine.merge(moments[d * ACROSS + thread]);
      mine.store(partial, slab, first + column, channels);
    }
    __syncthreads();                                             // they have been read
  }
}
