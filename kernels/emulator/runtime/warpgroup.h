// wgmma (sm_90a): matrix products of a warpgroup, four warps of which the first is a multiple of four.
//
// The product is computed at once, when all 128 threads have come to it. That on a card it goes on while the threads do
// is kept in books, and what the manual leaves undefined is a fault:
//   a register of D or A is touched before wgmma.wait_group, or after the last wgmma.fence before the product;
//   shared memory is written while a product in flight reads it, or without a barrier after the wait;
//   a product reads what no fence.proxy.async of the writing thread, and then a barrier, has handed to it.
// Numbers moved from register to register take their state with them: the compiler's moves are none in machine code.
#pragma once

namespace emu {

constexpr uint32_t IN_FLIGHT = 1u << 31, AS_FACTOR = 1u << 30, NUMBER = AS_FACTOR - 1;   // else: fences when last touched

static Warp& own_warp() { return L.warps[L.current->warp]; }
static Warpgroup& group_of(const Fiber& f) { return L.groups[f.index / 128]; }

static bool in_flight(uint32_t state) {
  return state & IN_FLIGHT && (state & NUMBER) >= own_warp().completed;
}

void emu_register(uint32_t site, uint32_t* state) {
  if (L.options.check && in_flight(*state))
    fail(site, group_of(*L.current).sites[*state & NUMBER],
         "a register of a wgmma in flight is read or written; wgmma.wait_group must come first");
  *state = own_warp().fences;
}

static void check_state(uint32_t site, uint32_t state, bool factor) {
  const char* what = factor ? "A" : "D";
  if (state & IN_FLIGHT) {                     // one product after the other may use it in the same role
    if (in_flight(state) && !(state & AS_FACTOR) != !factor)
      fail(site, group_of(*L.current).sites[state & NUMBER], "a register of %s belongs to a wgmma in flight", what);
  } else if (state >= own_warp().fences) {
    fail(site, NOWHERE, "a register of %s was read or written after the last wgmma.fence, or there was none", what);
  }
}

// ---- operands in shared memory -----------------------------------------------------------------------------
// A descriptor (PTX manual, "Matrix descriptor"; the layouts as in CUTLASS's mma_traits_sm90_gmma.hpp), in units of 16
// bytes: bits 0-13 start, 16-29 leading offset, 32-45 stride offset, 62-63 swizzle: none, 128, 64, 32 bytes. With W pieces
// of 16 bytes in a swizzled line (1 without a swizzle), a brick is 8 lines. It is swizzled by its address: bits 4.. xor 7.. .
//     k fast      lines are rows of the matrix; bricks of 8 rows follow at the stride offset; the k of one product lies in
//                 one line, without a swizzle in two bricks at the leading offset
//     k slow      lines are k; bricks of 8 k follow at the stride offset, the next W pieces of the rows at the leading
//                 offset (without a swizzle: the other way round)

struct Descriptor { uint32_t start, leading, stride, pieces; };

static Descriptor decode(uint32_t site, uint64_t bits, bool slow, const char* what) {
  constexpr uint64_t RESERVED = 0x3FF1'C000'C000'C000ull;         // 14-15, 30-31, 46-48, 52-61
  if (bits & RESERVED) fail(site, NOWHERE, "the descriptor %016llx of %s has reserved bits", (unsigned long long)bits, what);
  if (bits >> 49 & 7) fail(site, NOWHERE, "the descriptor of %s has a base offset; bricks must begin at whole multiples of their size", what);
  constexpr uint32_t PIECES[] = {1, 8, 4, 2};
  const uint32_t field[] = {uint32_t(bits & 0x3FFF) * 16, uint32_t(bits >> 16 & 0x3FFF) * 16, uint32_t(bits >> 32 & 0x3FFF) * 16};
  const Descriptor d = {field[0], field[1], field[2], PIECES[bits >> 62]};
  if (d.pieces == 1) return d;
  const uint32_t line = d.pieces * 16, brick = line * 8;
  const uint32_t rest = d.start % brick, inside = slow ? 0 : rest % line;      // along k, a product may begin inside the first line
  if (rest != inside || inside + (slow ? line : 32) > line)
    fail(site, NOWHERE, "%s begins at offset %u, which is no %s a brick of %u bytes (8 swizzled lines)", what, d.start,
         slow ? "start of" : "place in the first line of", brick);
  if (d.stride % brick || (slow && d.leading % brick))
    fail(site, NOWHERE, "%s has the leading offset %u and the stride offset %u, no multiples of a brick of %u bytes", what,
         d.leading, d.stride, brick);
  return d;
}

// The 16 bytes of the rows from `row` (k slow: 8 of them, else 1) and of k from `k` (k slow: 1, else 16 bytes' worth).
static uint32_t piece_at(const Descriptor& d, bool slow, uint32_t row, uint32_t k, uint32_t per_piece) {
  const uint32_t line = slow ? k : row, piece = slow ? row / 8 : k / per_piece;
  if (d.pieces == 1) return d.start + line % 8 * 16 + (slow ? line / 8 * d.leading + piece * d.stride : line / 8 * d.stride + piece * d.leading);
  const uint32_t at = d.start + line % 8 * d.pieces * 16 + line / 8 * d.stride + piece / d.pieces * d.leading * slow + piece % d.pieces * 16;
  return at ^ (at >> 7 & (d.pieces - 1)) << 4;
}

// Two warps stand for the warpgroup, so that every thread is another warp's for one of them.
static void visit_piece(uint32_t site, uint32_t at, Fiber* threads) {
  Fiber* me = L.current;
  for (uint32_t warp = 0; warp < 2; warp++) {
    L.current = &threads[warp * 32];
    check_shared(site, at, 16, READ);
  }
  L.current = me;
}

static void check_proxy(uint32_t site, uint32_t at) {
  for (uint32_t q = at / CELL; q < (at + 16) / CELL; q++) {
    const Visit& write = shared_cells[q].write;
    const auto& fences = L.fibers[write.who % 1024].proxy_fences;
    if (shared_fences[q] >= fences.size() || fences[shared_fences[q]] >= L.epoch)
      fail(site, write.site, "wgmma reads shared memory, at offset %u, that its writer has not handed over with fence.proxy.async "
           "before a barrier", q * CELL);
  }
}

// m[k * size + row], and the pieces that were read.
static void read_operand(uint32_t site, uint64_t bits, bool slow, const char* what, uint32_t type, uint32_t size, float* m,
                         Fiber* threads, std::vector<uint32_t>& pieces) {
  const Descriptor d = decode(site, bits, slow, what);
  const uint32_t depth = type == TF32 ? 8 : 16, per_piece = type == TF32 ? 4 : 8;
  for (uint32_t row = 0; row < size; row += slow ? 8 : 1)
    for (uint32_t k = 0; k < depth; k += slow ? 1 : per_piece) {
      const uint32_t at = piece_at(d, slow, row, k, per_piece);
      visit_piece(site, at, threads);
      if (L.options.check) check_proxy(site, at);
      pieces.push_back(at / 16);
      uint32_t words[4];
      memcpy(words, emu_self.shared + at, 16);
      for (uint32_t e = 0; e < per_piece; e++) {
        const float v = type == TF32 ? element(type, words[e], 0) : element(type, words[e / 2], e % 2);
        m[slow ? k * size + row + e : (k + e) * size + row] = v;
      }
    }
}

// ---- the product ---------------------------------------------------------------------------------------------
// Row i, column j of D: thread i / 16 * 32 + i % 8 * 4 + j % 8 / 2, register j / 8 * 4 + i / 8 % 2 * 2 + j % 2. A in registers:
// each warp's 16 rows as mma's fragment of A.

static void read_fragments(Fiber* threads, uint32_t type, float* m) {
  const uint32_t step = type == TF32 ? 4 : 8, halves = type == TF32 ? 1 : 2;
  for (uint32_t t = 0; t < 128; t++)
    for (uint32_t r = 0; r < 4; r++)
      for (uint32_t h = 0; h < halves; h++) {
        const uint32_t row = t / 32 * 16 + t % 32 / 4 + r % 2 * 8, k = t % 4 * halves + h + step * (r / 2);
        m[k * 64 + row] = element(type, ((Product*)threads[t].post)->fragment[r], h);
      }
}

static void multiply_group(Fiber* threads) {
  const Product& p = *(Product*)threads[0].post;
  const uint32_t site = threads[0].site, depth = p.type == TF32 ? 8 : 16, n = p.n;
  for (uint32_t t = 1; t < 128; t++) {
    const Product& other = *(Product*)threads[t].post;
    if (other.a != p.a || other.b != p.b || other.accumulate != p.accumulate)
      fail(site, NOWHERE, "threads 0 and %u of the warpgroup give wgmma different descriptors or scale-d", t);
  }
  static float a[16 * 64], b[16 * 256];
  Warpgroup& g = L.groups[threads->index / 128];
  const uint32_t number = g.sites.size();
  g.sites.push_back(site);
  Reading reading{number, {}};
  if (p.fragment) read_fragments(threads, p.type, a);
  else read_operand(site, p.a, p.transposed & 1, "A", p.type, 64, a, threads, reading.pieces);
  read_operand(site, p.b, p.transposed >> 1, "B", p.type, n, b, threads, reading.pieces);
  const float sign = p.negate == 1 || p.negate == 2 ? -1.0f : 1.0f;
  for (uint32_t i = 0; i < 64; i++) {
    float sum[256] = {};
    for (uint32_t k = 0; k < depth; k++) {
      const float v = sign * a[k * 64 + i];
      for (uint32_t j = 0; j < n; j += 8) for (uint32_t q = 0; q < 8; q++) sum[j + q] += v * b[k * n + j + q];
    }
    for (uint32_t j = 0; j < n; j++) {
      const Product& owner = *(Product*)threads[i / 16 * 32 + i % 8 * 4 + j % 8 / 2].post;
      float& d = owner.d[j / 8 * 4 + i / 8 % 2 * 2 + j % 2];
      d = p.accumulate ? d + sum[j] : sum[j];
    }
  }
  for (uint32_t t = 0; t < 128; t++) {
    Product& own = *(Product*)threads[t].post;
    for (uint32_t r = 0; r < n / 2; r++) own.d_state[r] = IN_FLIGHT | number;
    for (uint32_t r = 0; own.fragment && r < 4; r++) own.a_state[r] = IN_FLIGHT | AS_FACTOR | number;
  }
  if (L.options.count) count_product(site, reading.pieces.size());
  if (!L.options.check) return;
  for (uint32_t piece : reading.pieces) g.reader[piece] = number + 1;
  g.readings.push_back(std::move(reading));
}

void emu_wgmma(uint32_t site, Product* product) {
  Fiber* me = L.current;
  const uint32_t first = me->index / 128 * 128;
  if (first + 128 > L.threads)
    fail(site, NOWHERE, "wgmma needs whole warpgroups of 128 threads, and the block has %u", L.threads);
  if (L.options.check) {
    for (uint32_t r = 0; r < product->n / 2; r++) check_state(site, product->d_state[r], false);
    for (uint32_t r = 0; product->fragment && r < 4; r++) check_state(site, product->a_state[r], true);
  }
  me->state = AT_GROUP;
  me->site = site;
  me->post = product;
  Warpgroup& g = L.groups[first / 128];
  if (++g.arrived < 128) { yield(); return; }
  g.arrived = 0;
  Fiber* threads = &L.fibers[first];
  for (uint32_t t = 0; t < 128; t++) {
    if (threads[t].site != site) fail(site, threads[t].site, "threads %u and %u of the warpgroup are at different wgmma", me->index, first + t);
    threads[t].state = READY;
  }
  multiply_group(threads);
  L.current = me;
}

// ---- fences and groups -----------------------------------------------------------------------------------------

void emu_wgmma_fence(uint32_t site) {
  meet(site, ~0u, nullptr, [](Fiber**) { own_warp().fences++; });
}

void emu_wgmma_commit(uint32_t site) {
  if (L.current->index / 128 >= L.groups.size()) return;         // no whole warpgroup: it has no products
  meet(site, ~0u, nullptr, [](Fiber**) { own_warp().commits.push_back(group_of(*L.current).sites.size()); });
}

// What all four warps have waited for is over. Its reads count as happening now: a write after the wait needs a barrier.
static void complete(uint32_t site, Fiber& me) {
  Warpgroup& g = group_of(me);
  const uint32_t first = me.warp / 4 * 4;
  g.completed = L.warps[first].completed;
  for (uint32_t w = 1; w < 4; w++) g.completed = std::min(g.completed, L.warps[first + w].completed);
  while (!g.readings.empty() && g.readings.front().product < g.completed) {
    for (uint32_t piece : g.readings.front().pieces) visit_piece(site, piece * 16, &L.fibers[first * 32]);
    g.readings.pop_front();
  }
}

void emu_wgmma_wait(uint32_t site, uint32_t newest_allowed) {
  if (L.current->index / 128 >= L.groups.size()) return;
  meet(site, ~0u, &newest_allowed, [](Fiber**) {
    Fiber& me = *L.current;
    Warp& w = own_warp();
    const uint32_t allowed = *(uint32_t*)me.post;
    if (w.commits.size() <= allowed) return;
    w.completed = std::max(w.completed, w.commits[w.commits.size() - 1 - allowed]);
    complete(me.site, me);
  });
}

void emu_proxy_fence(void) { L.current->proxy_fences.push_back((uint32_t)L.epoch); }

static void check_end(const Fiber& f) {
  if (!L.options.check || f.index / 128 >= L.groups.size()) return;
  const Warpgroup& g = group_of(f);
  if (L.warps[f.warp].completed < g.sites.size())
    fail(g.sites.back(), NOWHERE, "the thread ends before this wgmma was waited for");
}

}  // namespace emu
