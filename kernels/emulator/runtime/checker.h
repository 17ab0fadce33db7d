// Checks of every memory access: bounds, alignment, uninitialised memory, races; counts of bank conflicts and sectors.
#pragma once

namespace emu {

// ---- races -------------------------------------------------------------------------------------------------
// Two accesses to one cell race if they come from different threads, at least one writes, not both are atomic, and no
// barrier lies between them: __syncthreads for threads of one block, __syncwarp for lanes of one warp. Between blocks
// nothing orders. This is a property of the accesses, whatever order they happened in.

constexpr uint32_t CELL = 2;                 // bytes
struct Visit { uint32_t who; uint16_t epoch, warp_epoch; uint32_t site; };   // who: block * 1024 + thread, 0: nobody
struct Cell { Visit write, read, other; };   // the last write, and reads from two different warps

constexpr uint16_t ATOMIC_BIT = 0x8000;
constexpr uint32_t FORBIDDEN = ~0u;

static inline Visit visit(uint32_t site, uint32_t kind) {
  const Fiber& f = *L.current;
  const uint16_t warp_epoch = (uint16_t)(L.warps[f.warp].epoch & 0x7FFF);
  return {L.block * 1024 + f.index, (uint16_t)L.epoch, (uint16_t)(warp_epoch | (kind & ATOMIC ? ATOMIC_BIT : 0)), site};
}

static inline bool race(const Visit& a, const Visit& now) {
  if (a.who == 0 || a.who == now.who) return false;
  if (a.warp_epoch & now.warp_epoch & ATOMIC_BIT) return false;
  if (a.who / 1024 != now.who / 1024) return true;
  if (a.epoch != now.epoch) return false;
  return a.who / 32 != now.who / 32 || ((a.warp_epoch ^ now.warp_epoch) & 0x7FFF) == 0;
}

[[noreturn]] static void report(const char* what, const char* memory, uint64_t byte, const Visit& a, const Visit& now) {
  const uint32_t block = a.who / 1024 - 1, thread = a.who % 1024;
  const Dim3 g = emu_self.nctaid, b = emu_self.ntid;
  if (a.who / 1024 == now.who / 1024)
    fail(now.site, a.site, "race in %s memory at byte %llu: %s by thread (%u,%u,%u) without a barrier between", memory,
         (unsigned long long)byte, what, thread % b.x, thread / b.x % b.y, thread / (b.x * b.y));
  fail(now.site, a.site, "race in %s memory at byte %llu: %s by block (%u,%u,%u), and nothing orders blocks", memory,
       (unsigned long long)byte, what, block % g.x, block / g.x % g.y, block / (g.x * g.y));
}

static inline void touch(Cell& c, const Visit& now, bool write, const char* memory, uint64_t byte) {
  if (race(c.write, now)) report(write ? "write after a write" : "read after a write", memory, byte, c.write, now);
  if (!write) {
    if (c.read.who / 32 != now.who / 32 && race(c.read, {now.who, now.epoch, now.warp_epoch, 0})) c.other = now;
    else c.read = now;
    return;
  }
  if (race(c.read, now)) report("write after a read", memory, byte, c.read, now);
  if (race(c.other, now)) report("write after a read", memory, byte, c.other, now);
  c.write = now;
}

// ---- where arrays lie --------------------------------------------------------------------------------------

struct Range { uint64_t begin, end; Cell* cells; };
static std::vector<Range> ranges;
static size_t last_range;
static std::vector<Cell> shared_cells;
static std::vector<uint32_t> shared_fences;                // by cell: fence.proxy.async of its writer before it wrote
static std::vector<uint32_t> shared_holes;

struct Count { uint64_t times, ideal, real; uint32_t size, shared; };
struct Record { uint32_t site, nth, lane, size, shared; uint64_t address; };
static std::vector<Count> counts;                          // by site
static std::vector<std::vector<Record>> records;           // by warp
static std::vector<std::vector<uint32_t>> executed;        // by thread and site: how often

static void begin_launch(const uint64_t* pairs, uint32_t count, const uint32_t* holes, uint32_t hole_count) {
  ranges.clear();
  last_range = 0;
  for (uint32_t i = 0; i < count; i++) {
    const uint64_t begin = pairs[2 * i], end = pairs[2 * i + 1];
    if (!ranges.empty() && begin < ranges.back().end) ranges.back().end = std::max(ranges.back().end, end);
    else if (end > begin) ranges.push_back({begin, end, nullptr});
  }
  shared_holes.assign(holes, holes + 2 * hole_count);
  counts.clear();
}

static void end_launch() {
  for (Range& r : ranges) free(r.cells);
  ranges.clear();
}

static void begin_block() {
  const size_t size = emu_self.static_shared + emu_self.dynamic_shared;
  memset(emu_self.shared, 0xFF, size);
  L.groups.assign(L.options.wgmma ? L.threads / 128 : 0, {});
  if (!L.options.check) return;
  shared_cells.assign((size + CELL - 1) / CELL, {});
  if (L.options.wgmma) shared_fences.assign(shared_cells.size(), 0);
  for (Warpgroup& g : L.groups) g.reader.assign(size / 16 + 1, 0);
  for (size_t i = 0; i + 1 < shared_holes.size(); i += 2)
    for (uint32_t q = shared_holes[i] / CELL; q < shared_holes[i + 1] / CELL; q++) shared_cells[q].write.who = FORBIDDEN;
}

// ---- bank conflicts and sectors ----------------------------------------------------------------------------

static void record(uint32_t site, uint64_t address, uint32_t size, bool shared) {
  const Fiber& f = *L.current;
  if (records.size() <= f.warp) records.resize(f.warp + 1);
  if (executed.size() <= f.index) executed.resize(f.index + 1);
  auto& times = executed[f.index];
  if (times.size() <= 2 * site + shared) times.resize(2 * site + 2);
  records[f.warp].push_back({site, times[2 * site + shared]++, f.lane, size, shared, address});
}

// One instruction of one warp. Shared memory: lanes go in groups of 128 bytes, and a group takes as many wavefronts as
// the worst of the 32 banks has different words. Global memory: the 32-byte sectors that are touched.
static void count_warp(Count& c, const Record* begin, const Record* end) {
  const uint32_t size = begin->size;
  c.times++;
  c.size = size;
  c.shared = begin->shared;
  if (!begin->shared) {
    std::vector<uint64_t> sectors, addresses;
    for (const Record* r = begin; r != end; r++) {
      addresses.push_back(r->address);
      for (uint64_t s = r->address / 32; s <= (r->address + size - 1) / 32; s++) sectors.push_back(s);
    }
    auto distinct = [](std::vector<uint64_t>& v) { std::sort(v.begin(), v.end()); return uint64_t(std::unique(v.begin(), v.end()) - v.begin()); };
    c.real += distinct(sectors);
    c.ideal += (distinct(addresses) * size + 31) / 32;
    return;
  }
  const uint32_t group = size >= 16 ? 8 : size == 8 ? 16 : 32;
  for (uint32_t first = 0; first < 32; first += group) {
    std::vector<uint64_t> bank[32];
    bool any = false;
    for (const Record* r = begin; r != end; r++) {
      if (r->lane < first || r->lane >= first + group) continue;
      any = true;
      for (uint32_t b = 0; b < std::max(size, 4u); b += 4) {
        const uint64_t word = (r->address + b) / 4;
        auto& words = bank[word % 32];
        if (std::find(words.begin(), words.end(), word) == words.end()) words.push_back(word);
      }
    }
    size_t worst = 0;
    for (auto& words : bank) worst = std::max(worst, words.size());
    c.real += worst;
    c.ideal += any;
  }
}

// A wgmma reads pieces of 16 bytes, eight of a brick at once: its layouts have no conflicts.
static void count_product(uint32_t site, uint32_t pieces) {
  const uint32_t slot = 2 * site + 1;
  if (counts.size() <= slot) counts.resize(slot + 1);
  Count& c = counts[slot];
  c = {c.times + 1, c.ideal + pieces / 8, c.real + pieces / 8, 16, 1};
}

static void end_block() {
  if (!L.options.count) return;
  for (auto& all : records) {
    std::stable_sort(all.begin(), all.end(), [](const Record& a, const Record& b) {
      return a.site != b.site ? a.site < b.site : a.shared != b.shared ? a.shared < b.shared : a.nth < b.nth;
    });
    for (size_t i = 0, j; i < all.size(); i = j) {
      for (j = i; j < all.size() && all[j].site == all[i].site && all[j].nth == all[i].nth && all[j].shared == all[i].shared;) j++;
      const uint32_t slot = 2 * all[i].site + all[i].shared;
      if (counts.size() <= slot) counts.resize(slot + 1);
      count_warp(counts[slot], &all[i], &all[i] + (j - i));
    }
    all.clear();
  }
  executed.clear();
}

// Rows of (site, shared, bytes of a lane, executions by a warp, ideal, real).
extern "C" uint32_t emu_counts(uint64_t* rows, uint32_t limit) {
  uint32_t n = 0;
  for (size_t i = 0; i < counts.size() && n < limit; i++)
    if (counts[i].times) {
      const Count& c = counts[i];
      const uint64_t row[] = {i / 2, c.shared, c.size, c.times, c.ideal, c.real};
      memcpy(rows + 6 * n++, row, sizeof row);
    }
  return n;
}

// ---- the accesses themselves -------------------------------------------------------------------------------

static const char* verb(uint32_t kind) { return kind & ATOMIC ? "atomic" : kind & WRITE ? "write" : "read"; }

// Memory of `empty` is filled with this pattern, a NaN in every floating format, that arithmetic never makes.
static inline bool poisoned(const char* p, uint32_t size) {
  if (size % 2) return false;
  for (uint32_t i = 0; i < size; i += 2) {
    uint16_t v;
    memcpy(&v, p + i, 2);
    if (v != 0xFFFE) return false;
  }
  return true;
}

char* emu_global(uint32_t site, uint64_t address, uint32_t size, uint32_t kind) {
  Range* r = last_range < ranges.size() ? &ranges[last_range] : nullptr;
  if (!r || address < r->begin || address + size > r->end) {
    auto next = std::upper_bound(ranges.begin(), ranges.end(), address, [](uint64_t a, const Range& x) { return a < x.begin; });
    r = next == ranges.begin() ? nullptr : &*(next - 1);
    if (!r || address + size > r->end) {
      if (address < 4096) fail(site, NOWHERE, "%s of %u bytes through a null pointer", verb(kind), size);
      const uint64_t before = r ? address + size - r->end : ~0ull, after = next == ranges.end() ? ~0ull : next->begin - address;
      if (before <= after && r) fail(site, NOWHERE, "%s of %u bytes in global memory, %llu bytes past the end of an array of %llu bytes",
                               verb(kind), size, (unsigned long long)before, (unsigned long long)(r->end - r->begin));
      fail(site, NOWHERE, "%s of %u bytes in global memory, %llu bytes before an array", verb(kind), size, (unsigned long long)after);
    }
    last_range = r - ranges.data();
  }
  if (address % size) fail(site, NOWHERE, "%s of %u bytes in global memory at an address that is no multiple of %u", verb(kind), size, size);
  char* p = (char*)address;
  if (L.options.check) {
    if (kind != WRITE && poisoned(p, size))
      fail(site, NOWHERE, "read of global memory that nobody wrote, byte %llu of its array", (unsigned long long)(address - r->begin));
    if (!r->cells) r->cells = (Cell*)calloc((r->end - r->begin) / CELL + 2, sizeof(Cell));
    const Visit now = visit(site, kind);
    const uint64_t first = (address - r->begin) / CELL, last = (address + size - 1 - r->begin) / CELL;
    for (uint64_t q = first; q <= last; q++) touch(r->cells[q], now, kind & WRITE, "global", q * CELL);
  }
  if (L.options.count) record(site, address, size, false);
  return p;
}

// A write to shared memory in a kernel with wgmma: no product in flight may read there, and later ones must see it.
static void check_products(uint32_t site, uint32_t offset, uint32_t size) {
  for (const Warpgroup& g : L.groups)
    for (uint32_t piece = offset / 16; piece <= (offset + size - 1) / 16; piece++)
      if (g.reader[piece] > g.completed)
        fail(site, g.sites[g.reader[piece] - 1], "write to shared memory that a wgmma in flight reads, at offset %u", offset);
  for (uint32_t q = offset / CELL; q <= (offset + size - 1) / CELL; q++)
    shared_fences[q] = (uint32_t)L.current->proxy_fences.size();
}

static void check_shared(uint32_t site, uint32_t offset, uint32_t size, uint32_t kind) {
  const uint32_t all = emu_self.static_shared + emu_self.dynamic_shared;
  if (offset > all || size > all - offset)
    fail(site, NOWHERE, "%s of %u bytes at offset %d of shared memory, which has %u bytes", verb(kind), size, (int)offset, all);
  if (!L.options.check) return;
  const Visit now = visit(site, kind);
  for (uint32_t q = offset / CELL; q <= (offset + size - 1) / CELL; q++) {
    Cell& c = shared_cells[q];
    if (c.write.who == FORBIDDEN) fail(site, NOWHERE, "%s of %u bytes past the end of an array in shared memory", verb(kind), size);
    if (kind != WRITE && c.write.who == 0) fail(site, NOWHERE, "%s of shared memory that nobody wrote, at offset %u", verb(kind), offset);
    touch(c, now, kind & WRITE, "shared", q * CELL);
  }
  if (kind & WRITE && L.options.wgmma) check_products(site, offset, size);
}

char* emu_shared(uint32_t site, uint32_t offset, uint32_t size, uint32_t kind) {
  if (offset % size) fail(site, NOWHERE, "%s of %u bytes in shared memory at offset %u, no multiple of %u", verb(kind), size, offset, size);
  check_shared(site, offset, size, kind);
  if (L.options.count) record(site, offset, size, true);
  return emu_self.shared + offset;
}

char* emu_generic(uint32_t site, uint64_t address, uint32_t size, uint32_t kind) {
  const uint64_t offset = address - (uint64_t)emu_self.shared;
  if (offset < emu_self.static_shared + emu_self.dynamic_shared) return emu_shared(site, (uint32_t)offset, size, kind);
  const uint64_t stack = address - (uint64_t)(L.stacks + L.current->index * STACK);
  if (stack < STACK) return (char*)address;                      // a local variable whose address was taken
  return emu_global(site, address, size, kind);
}

}  // namespace emu
