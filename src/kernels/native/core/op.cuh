// The contract between the executor and the ops: pages, range sets, steps and the table entry of an op.
// An op fulfils one of two contracts.
//
// Simple ops (map, copy, transpose, gather, conv, ...) give `dirty` and `compute`. `dirty` maps changed input
// elements to output elements; `compute` writes a block of output elements to a buffer, as a pure function of
// the inputs. The executor does the rest: it decides what to compute, cuts it into blocks and tasks, casts,
// compares, stores and hashes. Such an op must not know how results are stored, compared, hashed or spread
// over threads.
//
// Ops that drive themselves (reduce, matmul, topk, scan, sort, scatter, bincount, histogram) give `run`. It
// finds the changed elements itself, spreads its work over threads and stores the results through
// exec/compute.cuh: either computeRanges, with the op's own `compute`, or tasks that call storeValues, joined
// by joinUnordered. It must store through these functions only, and its result must not depend on the number
// of threads. An op that keeps something derived from its inputs between calls gives `refresh` as well.
//
// Invariants: the structs in namespace mmsb are plain data with the same layout in every part of the build.
// Code is static and lives in mmsb::MMSB_NS, one namespace per part (see kernels.cu), so that the linker can
// never merge a function built for x86-64-v3 with one built for plain x86-64. For the same reason no part
// uses templates of the standard library.
#pragma once
#include "abi.h"
#include "ops.h"
#include "portable/types.cuh"

// A size at which code changes its path. A build with MMSB_SMALL_SIZES has the second one, so that the small
// graphs of tests cross it. Results must not depend on it.
#ifdef MMSB_SMALL_SIZES
#define MMSB_SIZE(USUAL, SMALL) SMALL
#else
#define MMSB_SIZE(USUAL, SMALL) USUAL
#endif

namespace mmsb {

// Records why a call failed, for mmsb_last_error, and returns `status`. Defined by the host part.
int32_t fail(int32_t status, const char* format, ...) __attribute__((format(printf, 2, 3)));

// Memory of one call. Allocations are not freed one by one; the blocks are reused by the next call.
struct ArenaBlock {
  ArenaBlock* next;
  u64 size;
};
struct Arena {
  ArenaBlock* first;
  ArenaBlock* current;
  u64 used;                 // bytes used in `current`, without its header
  u32 failed;               // an allocation failed in this call
  struct Journal* journal;  // keeps overwritten bytes (journal.cuh), or null
};

// A growing list of ranges. When `gap` > 1, gaps of fewer than `gap` elements have been closed (coarsened).
struct RangeSet {
  Range* data;
  u32 count, capacity;
  u32 gap;
};

// A page as ops see it. `data` is 64-byte aligned, never null and padded with zeros to a multiple of 64
// bytes. It does not move while a step uses the page.
struct Page {
  u8* data;
  u64 bytes;
  u32 elements;
  u32 id;
  u8 dtype;
  u8 rank;
  u8 location;  // mmsb_location as given, never auto
  u8 flags;
  u32 shape[8];  // entries past rank are 1
};

struct Op;

// What a step that keeps a page's past still has to copy: everything if `whole`, else the ranges `behind`.
// The list is malloc'ed because it outlives the call.
struct Past {
  RangeSet behind;
  u32 whole;
  struct Step* next;  // next step that keeps the past of the same page
};

// One op bound to pages.
struct Step {
  const Op* op;
  Page* out;
  Page** inputs;
  const u8* params;  // 8-byte aligned, owned by the step
  u32 inputCount;
  u32 paramBytes;
  u32 id;
  // Set by prepare:
  u8 natural;        // dtype of what compute() writes; the executor casts to out->dtype
  u32 scratchBytes;  // bytes of scratch for each call of compute()
  f32 costNs;        // rough time per output element on one core; only for choosing the number of threads
  void* state;       // owned by the op, freed by release()
  Past* past;        // set if the step keeps a page's past, else null
  void* device;      // owned by the CUDA backend
};

// Upper bound on the elements of one call of compute().
static const u32 kBlockElements = 4096;

// What the table in ops.h says of an op.
struct OpHead {
  const char* name;
  u32 code;
  u32 version;
};
#define MMSB_OP_HEAD(name, Name, NAME, code, version, launch) \
  [[maybe_unused]] static constexpr OpHead kHead##Name = {#name, code, version};
MMSB_OPS(MMSB_OP_HEAD)
MMSB_OLD_OPS(MMSB_OP_HEAD)
#undef MMSB_OP_HEAD

// The table entry of an op. A null member means "nothing to do".
struct Op : OpHead {
  // Checks what memory safety depends on (shapes, dtypes, counts, the size of the parameter block) and fills
  // the step. Returns MMSB_OK or fail(...). Called once per step.
  int32_t (*prepare)(Step& step);
  void (*release)(Step& step);
  // Input number `input` changed in the elements `changed` (ascending, disjoint). Appends the output elements
  // that may change; they may overlap and come in any order. Null means the whole output.
  void (*dirty)(const Step& step, u32 input, const RangeSet& changed, RangeSet& out, Arena& arena);
  // Writes the elements [start, start + count) of the output, in the natural dtype, to `out` (64-byte
  // aligned, room for kBlockElements). 0 < count <= kBlockElements. Each element depends on the inputs only,
  // never on how the output is cut into runs. Several threads may call it at once; each has its own `scratch`
  // (64-byte aligned).
  void (*compute)(const Step& step, u32 start, u32 count, void* out, void* scratch);
  // Runs the step, for ops that drive themselves. See the head of this file.
  void (*run)(Step& step, struct StepRun& run);
  // For ops that keep something derived from their inputs. An undo has restored input elements (changesOf()
  // says which, as in run); brings the derived state up to date. Must not write the output.
  void (*refresh)(Step& step, struct StepRun& run) = nullptr;
  // Output element i depends only on element i of each input that has the size of the output. Such steps may
  // run tile by tile (exec/fuse.cuh).
  bool elementwise = false;
  // A hint: prefetches what compute() reads first. The step's state itself is in the cache already.
  void (*fetch)(const Step& step) = nullptr;
};

namespace MMSB_NS {

// Returns bytes of the arena, 64-byte aligned. Without memory it returns null and sets arena.failed.
static void* arenaAlloc(Arena& arena, u64 bytes) {
  const u64 header = 64;
  const u64 need = (bytes + 63) & ~63ull;
  while (arena.current != nullptr) {
    if (arena.current->size - arena.used >= need) {
      void* at = reinterpret_cast<u8*>(arena.current) + header + arena.used;
      arena.used += need;
      return at;
    }
    if (arena.current->next == nullptr) break;
    arena.current = arena.current->next;
    arena.used = 0;
  }
  const u64 size = need > (1u << 20) ? need : (1u << 20);
  ArenaBlock* block = static_cast<ArenaBlock*>(aligned_alloc(64, header + size));
  if (block == nullptr) {
    arena.failed = 1;
    return nullptr;
  }
  block->next = nullptr;
  block->size = size;
  if (arena.current == nullptr) arena.first = block;
  else arena.current->next = block;
  arena.current = block;
  arena.used = need;
  return reinterpret_cast<u8*>(block) + header;
}

static bool rangesGrow(RangeSet& set, Arena& arena) {
  const u32 capacity = set.capacity == 0 ? 8 : set.capacity * 2;
  Range* data = static_cast<Range*>(arenaAlloc(arena, u64(capacity) * sizeof(Range)));
  if (data == nullptr) return false;
  if (set.count != 0) memcpy(data, set.data, u64(set.count) * sizeof(Range));
  set.data = data;
  set.capacity = capacity;
  return true;
}

// Appends [start, start + count), joined with the last range if they overlap or touch. Ignores an empty
// range.
static inline void rangesPush(RangeSet& set, u32 start, u32 count, Arena& arena) {
  if (count == 0) return;
  if (set.count != 0) {
    Range& last = set.data[set.count - 1];
    const u32 lastEnd = last.start + last.count;
    if (start >= last.start && start <= lastEnd) {
      const u32 end = start + count;
      if (end > lastEnd) last.count = end - last.start;
      return;
    }
  }
  if (set.count == set.capacity && !rangesGrow(set, arena)) return;  // arena.failed makes the call fail
  set.data[set.count++] = Range{start, count};
}

}  // namespace MMSB_NS
}  // namespace mmsb
