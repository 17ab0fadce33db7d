// The emulated device: runs the blocks of a grid one after the other, the threads of a block as fibers.
//
// Threads run warp by warp, lane by lane, each until it must wait; the order can be reversed or shuffled. What is
// checked (checker.h): accesses outside of arrays, misaligned ones, reads of what nobody wrote, races, barriers that
// not all threads reach, asynchronous copies used before they are waited for, and what wgmma asks of registers and fences.
#include "emulator.h"
#include "fiber.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <algorithm>
#include <deque>
#include <vector>

namespace emu {

constexpr size_t STACK = 64 << 10, GUARD = 4096;
enum State { READY, AT_BLOCK, AT_WARP, AT_GROUP, DONE };

struct Copy { uint32_t site, to; const char* from; uint32_t size; };   // from == nullptr: zeros

struct Fiber {
  Dim3 tid;
  uint32_t index, lane, warp;
  State state;
  void* sp;
  uint32_t site, mask;                       // where it waits, with whom
  void* post;                                // what it brought to the collective
  std::vector<std::vector<Copy>> copies;     // groups of asynchronous copies; the last one is open
  std::vector<uint32_t> proxy_fences;        // the epoch of each fence.proxy.async
};

struct Warp {
  uint32_t exist, done, waiting, epoch;
  uint32_t fences, completed;                // wgmma.fence so far; products that it has waited for
  std::vector<uint32_t> commits;             // products so far at each wgmma.commit_group
};

// Four warps and their wgmma products, numbered from 0 (warpgroup.h).
struct Reading { uint32_t product; std::vector<uint32_t> pieces; };  // 16-byte pieces of shared memory that a product reads
struct Warpgroup {
  uint32_t arrived, completed;               // threads at the next product; products that all four warps have waited for
  std::vector<uint32_t> sites;               // of each product
  std::deque<Reading> readings;              // of products in flight
  std::vector<uint32_t> reader;              // by piece: 1 + the last product that reads it
};

struct Options { uint32_t check, order, count, wgmma; };     // wgmma: the kernel has such instructions

struct Launch {
  Options options;
  uint32_t threads, block, epoch;            // block: number of the running block, from 1; epoch: barriers so far
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<Warpgroup> groups;
  std::vector<uint32_t> order;
  char* stacks = nullptr;
  size_t stack_count = 0;
  std::vector<char> shared;
  void* hub = nullptr;
  Fiber* current = nullptr;
  void (*body)(void**);
  void** arguments;
  bool failed;
  uint32_t error_site, other_site;
  char error[512];
};
static Launch L;

Self emu_self = {};

static inline void yield() { emu_switch(&L.current->sp, L.hub); }

// The first failure ends the launch: the fiber goes back to the hub for good.
[[noreturn]] static void fail(uint32_t site, uint32_t other, const char* format, ...) {
  L.failed = true;
  L.error_site = site;
  L.other_site = other;
  va_list arguments;
  va_start(arguments, format);
  const Dim3 c = emu_self.ctaid, t = L.current ? L.current->tid : Dim3{};
  int n = snprintf(L.error, sizeof L.error, "block (%u,%u,%u) thread (%u,%u,%u): ", c.x, c.y, c.z, t.x, t.y, t.z);
  vsnprintf(L.error + n, sizeof L.error - n, format, arguments);
  va_end(arguments);
  yield();
  abort();
}
constexpr uint32_t NOWHERE = ~0u;
[[noreturn]] void emu_fail(uint32_t site, const char* message) { fail(site, NOWHERE, "%s", message); }

}  // namespace emu

#include "checker.h"
#include "warp.h"
#include "warpgroup.h"

namespace emu {

// ---- running a grid ---------------------------------------------------------------------------------------

static void fiber_main() {
  L.body(L.arguments);
  Fiber& f = *L.current;
  for (auto& group : f.copies)
    if (!group.empty() && L.options.check)
      fail(group[0].site, NOWHERE, "the thread ends before this asynchronous copy was waited for");
  if (L.options.wgmma) check_end(f);
  f.state = DONE;
  L.warps[f.warp].done |= 1u << f.lane;
  yield();
  abort();
}

static void enter(Fiber& f) {
  L.current = &f;
  emu_self.tid = f.tid;
  emu_self.lane = f.lane;
  emu_self.warp = f.warp;
  emu_switch(&L.hub, f.sp);
}

// Everyone waits: either all at one barrier, or some will never go on.
static void release_block() {
  Fiber* first = nullptr;
  for (Fiber& f : L.fibers) {
    if (f.state == DONE) continue;
    L.current = &f;
    const char* message = nullptr;
    uint32_t other = NOWHERE;
    if (f.state == AT_GROUP) message = "waits for threads of its warpgroup that never come";
    else if (f.state == AT_WARP) message = "waits for lanes of its warp that never come";
    else if (first && first->site != f.site) message = "waits at another barrier than the other threads", other = first->site;
    if (message) {
      Dim3 c = emu_self.ctaid;
      L.failed = true; L.error_site = f.site; L.other_site = other;
      snprintf(L.error, sizeof L.error, "block (%u,%u,%u) thread (%u,%u,%u): %s", c.x, c.y, c.z, f.tid.x, f.tid.y, f.tid.z, message);
      return;
    }
    if (!first) first = &f;
  }
  reduce_block();
  for (Fiber& f : L.fibers) if (f.state == AT_BLOCK) f.state = READY;
  L.epoch++;
}

static void run_block() {
  begin_block();
  for (uint32_t t = 0; t < L.threads; t++) {     // tops are staggered, or they would share one cache set
    Fiber& f = L.fibers[t];
    f.sp = fiber_start(L.stacks + (t + 1) * STACK - t % 64 * 256, fiber_main);
    f.state = READY;
    f.copies.assign(1, {});
    f.proxy_fences.clear();
  }
  for (Warp& w : L.warps) w = {w.exist, 0, 0, w.epoch};
  for (bool alive = true; alive && !L.failed;) {
    bool ran = false;
    for (uint32_t w = 0; w < L.threads && !L.failed; w += 32) {   // a warp runs until all its lanes wait
      const uint32_t end = std::min(w + 32, L.threads);
      for (bool again = true; again && !L.failed;) {
        again = false;
        for (uint32_t k = w; k < end && !L.failed; k++) {
          Fiber& f = L.fibers[L.order[k]];
          if (f.state != READY) continue;
          ran = again = true;
          enter(f);
        }
      }
    }
    if (L.failed || ran) continue;
    alive = false;
    for (Fiber& f : L.fibers) alive |= f.state != DONE;
    if (alive) release_block();
  }
  end_block();
}

// Warps and lanes forward (0), backward (1), or both shuffled by this seed.
static void choose_order(uint32_t seed) {
  auto random = [&](uint32_t n) { seed = seed * 1664525u + 1013904223u; return (seed >> 8) % n; };
  const bool back = seed == 1, shuffle = seed > 1;
  const uint32_t warps = L.warps.size();
  std::vector<uint32_t> ws(warps);
  for (uint32_t w = 0; w < warps; w++) ws[w] = back ? warps - 1 - w : w;
  // A warp that is not full runs last: the schedule walks the order in groups of 32.
  if (shuffle) for (uint32_t w = warps; w-- > 1;) std::swap(ws[w], ws[random(w + 1)]);
  std::stable_partition(ws.begin(), ws.end(), [](uint32_t w) { return 32 * w + 32 <= L.threads; });
  L.order.clear();
  for (uint32_t w : ws) {
    const uint32_t first = L.order.size(), count = std::min(32u, L.threads - 32 * w);
    for (uint32_t i = 0; i < count; i++) L.order.push_back(32 * w + (back ? count - 1 - i : i));
    if (shuffle) for (uint32_t i = count; i-- > 1;) std::swap(L.order[first + i], L.order[first + random(i + 1)]);
  }
}

static void make_stacks() {
  if (L.stack_count >= L.threads) return;
  if (L.stacks) munmap(L.stacks, L.stack_count * STACK);
  L.stacks = (char*)mmap(nullptr, L.threads * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  L.stack_count = L.threads;
  for (uint32_t t = 0; t < L.threads; t++) mprotect(L.stacks + t * STACK, GUARD, PROT_NONE);
}

struct Request {
  void (*body)(void**);
  void** arguments;
  Dim3 grid, block;
  uint32_t static_shared, dynamic_shared;
  const uint32_t* holes; uint32_t hole_count;       // pairs (begin, end): red zones of static shared memory
  const uint64_t* ranges; uint32_t range_count;     // pairs (begin, end), sorted: the arrays in global memory
  Options options;
};

// Returns 0, or 1 when a fault ended the launch: then emu_error describes it.
extern "C" int emu_launch(const Request* r) {
  L.options = r->options;
  L.threads = r->block.x * r->block.y * r->block.z;
  L.body = r->body;
  L.arguments = r->arguments;
  L.failed = false;
  L.current = nullptr;
  L.epoch = 0;
  L.error[0] = 0;
  make_stacks();
  L.fibers.resize(L.threads);
  L.warps.assign((L.threads + 31) / 32, {});
  for (uint32_t t = 0; t < L.threads; t++) {
    Fiber& f = L.fibers[t];
    f.index = t;
    f.tid = {t % r->block.x, t / r->block.x % r->block.y, t / (r->block.x * r->block.y)};
    f.lane = t % 32;
    f.warp = t / 32;
    L.warps[f.warp].exist |= 1u << f.lane;
  }
  choose_order(r->options.order);
  L.shared.assign(r->static_shared + r->dynamic_shared + 128, 0);
  char* base = L.shared.data() + (-(uintptr_t)L.shared.data() & 127);
  emu_self = {{}, {}, r->block, r->grid, 0, 0, (uint32_t)L.warps.size(), r->static_shared, r->dynamic_shared, base};
  begin_launch(r->ranges, r->range_count, r->holes, r->hole_count);
  for (uint32_t z = 0; z < r->grid.z && !L.failed; z++)
    for (uint32_t y = 0; y < r->grid.y && !L.failed; y++)
      for (uint32_t x = 0; x < r->grid.x && !L.failed; x++) {
        emu_self.ctaid = {x, y, z};
        L.block = 1 + x + r->grid.x * (y + r->grid.y * z);
        run_block();
      }
  end_launch();
  return L.failed;
}

extern "C" const char* emu_error(uint32_t* site, uint32_t* other) {
  *site = L.error_site;
  *other = L.other_site;
  return L.error;
}

}  // namespace emu
