// What lanes of a warp do together: barriers, shuffles, votes, matrices; and asynchronous copies.
#pragma once

namespace emu {

using Collective = void (*)(Fiber** lanes);

// Wait for every lane of `mask`; the last one to come runs `together` once, over what all of them brought.
static void meet(uint32_t site, uint32_t mask, void* post, Collective together) {
  Fiber* me = L.current;
  Warp& w = L.warps[me->warp];
  if (!(mask >> me->lane & 1)) fail(site, NOWHERE, "lane %u is not in the mask %08x that it waits with", me->lane, mask);
  mask &= mask == ~0u && w.exist != ~0u ? w.exist : ~0u;         // the full mask of a block with an incomplete warp
  if (mask & ~w.exist || mask & w.done) fail(site, NOWHERE, "the mask %08x names lanes that have ended or never were", mask);
  me->state = AT_WARP;
  me->site = site;
  me->mask = mask;
  me->post = post;
  w.waiting |= 1u << me->lane;
  if ((w.waiting & mask) != mask) { yield(); return; }
  Fiber* lanes[32] = {};
  for (uint32_t i = 0; i < 32; i++) {
    if (!(mask >> i & 1)) continue;
    Fiber* f = lanes[i] = me - me->lane + i;
    if (f->site != site || f->mask != mask) fail(site, f->site, "lanes %u and %u wait in different operations of their warp", me->lane, i);
    f->state = READY;
  }
  w.waiting &= ~mask;
  if (together) together(lanes);
  L.current = me;
}

void emu_sync_warp(uint32_t site, uint32_t mask) {
  // Only __syncwarp orders memory, and it does so once for all its lanes: the last to come raises the epoch.
  meet(site, mask, nullptr, [](Fiber** lanes) {
    for (int i = 0; i < 32; i++) if (lanes[i]) { L.warps[lanes[i]->warp].epoch++; break; }
  });
}

void emu_sync_block(uint32_t site) {
  L.current->state = AT_BLOCK;
  L.current->site = site;
  L.current->post = nullptr;
  yield();
}

struct Reduction { uint32_t what, value, result; };
uint32_t emu_reduce_block(uint32_t site, uint32_t what, uint32_t value) {
  Reduction r{what, value, 0};
  L.current->state = AT_BLOCK;
  L.current->site = site;
  L.current->post = &r;
  yield();
  return r.result;
}
static void reduce_block() {
  uint32_t count = 0, all = 1;
  for (Fiber& f : L.fibers)
    if (f.state == AT_BLOCK && f.post) { const uint32_t v = ((Reduction*)f.post)->value != 0; count += v; all &= v; }
  for (Fiber& f : L.fibers)
    if (f.state == AT_BLOCK && f.post) {
      Reduction& r = *(Reduction*)f.post;
      r.result = r.what == 0 ? count : r.what == 1 ? all : count != 0;
    }
}

struct Gather { uint32_t value, mask; uint32_t* out; };
uint32_t emu_gather(uint32_t site, uint32_t mask, uint32_t value, uint32_t out[32]) {
  Gather g{value, 0, out};
  meet(site, mask, &g, [](Fiber** lanes) {
    for (int i = 0; i < 32; i++) {
      if (!lanes[i]) continue;
      Gather& to = *(Gather*)lanes[i]->post;
      for (int j = 0; j < 32; j++) {
        if (!lanes[j]) continue;
        to.out[j] = ((Gather*)lanes[j]->post)->value;
        to.mask |= 1u << j;
      }
    }
  });
  return g.mask;
}

uint32_t emu_shuffle(uint32_t site, uint32_t mask, uint32_t value, uint32_t source) {
  struct Post { uint32_t value, source, result; } p{value, source, 0};
  meet(site, mask, &p, [](Fiber** lanes) {
    for (int i = 0; i < 32; i++) {
      if (!lanes[i]) continue;
      Post& to = *(Post*)lanes[i]->post;
      if (!lanes[to.source]) { L.current = lanes[i]; fail(lanes[i]->site, NOWHERE, "the shuffle reads lane %u, which takes no part", to.source); }
      to.result = ((Post*)lanes[to.source]->post)->value;
    }
  });
  return p.result;
}

uint32_t emu_ballot(uint32_t site, uint32_t mask, uint32_t value) {
  uint32_t values[32] = {}, out = 0;
  const uint32_t present = emu_gather(site, mask, value, values);
  for (int i = 0; i < 32; i++) if (present >> i & 1 && values[i]) out |= 1u << i;
  return out;
}

uint32_t emu_match(uint32_t site, uint32_t mask, uint64_t value) {
  uint32_t low[32] = {}, high[32] = {}, out = 0;
  const uint32_t present = emu_gather(site, mask, (uint32_t)value, low);
  emu_gather(site, mask, (uint32_t)(value >> 32), high);
  for (int i = 0; i < 32; i++) if (present >> i & 1 && low[i] == (uint32_t)value && high[i] == (uint32_t)(value >> 32)) out |= 1u << i;
  return out;
}

uint32_t emu_active(void) { return 1u << L.current->lane; }      // each thread runs on its own

// ---- tensor core -------------------------------------------------------------------------------------------
// Fragments (PTX manual, "Matrix fragments for mma.m16n8k*"): with group g = lane / 4 and t = lane % 4, register r of A
// holds row g + 8 * (r % 2) and, for 16-bit elements, columns 2t and 2t + 1 plus 8 * (r / 2); for tf32, column t + 4 *
// (r / 2). B holds the same places of its transpose. D's register r holds row g + 8 * (r / 2), column 2t + r % 2.

enum Type : uint32_t { BF16, F16, TF32 };

static float half_to_float(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3FF;
  if (exponent == 0) { const float v = fraction / 16777216.0f; return sign ? -v : v; }
  const uint32_t bits = sign | (exponent == 31 ? 0x7F800000u : (exponent + 112) << 23) | fraction << 13;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

static float element(uint32_t type, uint32_t word, int half) {
  if (type == F16) return half_to_float(word >> 16 * half);
  const uint32_t bits = type == TF32 ? word & 0xFFFFE000u : half ? word & 0xFFFF0000u : word << 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

struct Fragments { const uint32_t *a, *b; float* d; };

template <uint32_t TYPE, uint32_t K> static void multiply(Fiber** lanes) {
  constexpr uint32_t STEP = TYPE == TF32 ? 4 : 8, HALVES = TYPE == TF32 ? 1 : 2;
  float A[16][K], B[K][8], D[16][8];
  for (int i = 0; i < 32; i++) {
    const Fragments& f = *(Fragments*)lanes[i]->post;
    const int g = i / 4, t = i % 4;
    for (uint32_t r = 0; r < 2 * (K / STEP); r++)
      for (uint32_t h = 0; h < HALVES; h++) {
        const uint32_t column = t * HALVES + h + STEP * (r / 2);
        A[g + 8 * (r % 2)][column] = element(TYPE, f.a[r], h);
        if (r % 2 == 0) B[column][g] = element(TYPE, f.b[r / 2], h);
      }
    for (int r = 0; r < 4; r++) D[g + 8 * (r / 2)][2 * t + r % 2] = f.d[r];
  }
  for (int i = 0; i < 16; i++) {
    float sum[8] = {};
    for (uint32_t k = 0; k < K; k++) for (int j = 0; j < 8; j++) sum[j] += A[i][k] * B[k][j];
    for (int j = 0; j < 8; j++) D[i][j] += sum[j];
  }
  for (int i = 0; i < 32; i++)
    for (int r = 0; r < 4; r++) ((Fragments*)lanes[i]->post)->d[r] = D[i / 4 + 8 * (r / 2)][2 * (i % 4) + r % 2];
}

void emu_mma(uint32_t site, uint32_t type, uint32_t k, const uint32_t* a, const uint32_t* b, float* d) {
  Fragments f{a, b, d};
  meet(site, ~0u, &f, type == TF32 ? (k == 4 ? multiply<TF32, 4> : multiply<TF32, 8>)
                    : type == F16 ? (k == 8 ? multiply<F16, 8> : multiply<F16, 16>)
                                  : (k == 8 ? multiply<BF16, 8> : multiply<BF16, 16>));
}

// Eight lanes give the rows of one 8 x 8 matrix of 16-bit elements; lane i gets row i / 4, columns 2 (i % 4) and the next.
struct Matrix { uint32_t count, trans, offset; uint32_t* words; };

void emu_ldmatrix(uint32_t site, uint32_t count, uint32_t trans, uint32_t offset, uint32_t* out) {
  if (L.current->lane < 8 * count) emu_shared(site, offset, 16, READ);
  Matrix m{count, trans, offset, out};
  meet(site, ~0u, &m, [](Fiber** lanes) {
    const Matrix& any = *(Matrix*)lanes[0]->post;
    for (uint32_t n = 0; n < any.count; n++)
      for (int i = 0; i < 32; i++) {
        uint16_t v[2];
        for (int h = 0; h < 2; h++) {
          const int row = any.trans ? 2 * (i % 4) + h : i / 4, column = any.trans ? i / 4 : 2 * (i % 4) + h;
          memcpy(&v[h], emu_self.shared + ((Matrix*)lanes[8 * n + row]->post)->offset + 2 * column, 2);
        }
        ((Matrix*)lanes[i]->post)->words[n] = v[0] | (uint32_t)v[1] << 16;
      }
  });
}

void emu_stmatrix(uint32_t site, uint32_t count, uint32_t trans, uint32_t offset, const uint32_t* in) {
  if (L.current->lane < 8 * count) emu_shared(site, offset, 16, WRITE);
  Matrix m{count, trans, offset, const_cast<uint32_t*>(in)};
  meet(site, ~0u, &m, [](Fiber** lanes) {
    const Matrix& any = *(Matrix*)lanes[0]->post;
    for (uint32_t n = 0; n < any.count; n++)
      for (int i = 0; i < 32; i++)
        for (int h = 0; h < 2; h++) {
          const int row = any.trans ? 2 * (i % 4) + h : i / 4, column = any.trans ? i / 4 : 2 * (i % 4) + h;
          const uint16_t v = ((Matrix*)lanes[i]->post)->words[n] >> 16 * h;
          memcpy(emu_self.shared + ((Matrix*)lanes[8 * n + row]->post)->offset + 2 * column, &v, 2);
        }
  });
}

// ---- asynchronous copies -----------------------------------------------------------------------------------
// The destination holds NaN from the copy's start until its group is waited for, so that a wait too few or too weak is
// seen; both moments are writes by this thread for the race check.

void emu_copy_async(uint32_t site, uint32_t to, uint64_t from, uint32_t size, uint32_t source_size) {
  if (source_size > size) fail(site, NOWHERE, "an asynchronous copy of %u bytes is told to read %u", size, source_size);
  const char* source = source_size ? emu_global(site, from, source_size == size ? size : 1, READ) : nullptr;
  if (source && source_size < size) for (uint32_t i = 1; i < source_size; i++) emu_global(site, from + i, 1, READ);
  memset(emu_shared(site, to, size, WRITE), 0xFF, size);
  auto& group = L.current->copies.back();
  if (source_size) group.push_back({site, to, source, source_size});
  if (source_size < size) group.push_back({site, to + source_size, nullptr, size - source_size});
}

void emu_copy_commit(void) { L.current->copies.emplace_back(); }

void emu_copy_wait(uint32_t newest_allowed) {
  auto& groups = L.current->copies;
  while (groups.size() - 1 > newest_allowed) {
    for (const Copy& c : groups.front()) {
      check_shared(c.site, c.to, c.size, WRITE);
      if (c.from) memcpy(emu_self.shared + c.to, c.from, c.size);
      else memset(emu_self.shared + c.to, 0, c.size);
    }
    groups.erase(groups.begin());
  }
}

}  // namespace emu
