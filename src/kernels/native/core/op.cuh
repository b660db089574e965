// The contract between the executor and the ops: pages, range sets, steps and the op table entry.
//
// Invariants: the structs in namespace mmsb are plain data with one layout in every part of the build. Code lives in
// mmsb::MMSB_NS, one namespace per part (see kernels.cu), and is static, so that the linker can never merge a function
// built for x86-64-v3 with one built for plain x86-64. For the same reason the parts use no template of the standard
// library. An op must not know how results are stored, compared, hashed or spread over threads.
#pragma once
#include "abi.h"
#include "ops.h"
#include "portable/types.cuh"

namespace mmsb {

// Records why a call failed, for mmsb_last_error, and returns `status`. Defined by the host part.
int32_t fail(int32_t status, const char* format, ...) __attribute__((format(printf, 2, 3)));

// Memory of one call: nothing in it is freed alone. Blocks are kept for the next call.
struct ArenaBlock {
  ArenaBlock* next;
  u64 size;
};
struct Arena {
  ArenaBlock* first;
  ArenaBlock* current;
  u64 used;                 // bytes of `current` behind its header
  u32 failed;               // an allocation failed in this call
  struct Journal* journal;  // where the old bytes of what is overwritten are kept (journal.cuh), or null
};

// A growing list of ranges. `gap` > 1 says that gaps of fewer than `gap` elements have been closed (coarsened).
struct RangeSet {
  Range* data;
  u32 count, capacity;
  u32 gap;
};

// What an op sees of a page. `data` is 64-byte aligned, never null, padded with zeros to a multiple of 64 bytes, and
// stays where it is while a step uses the page.
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

// What a step that keeps a page's past has yet to copy: `whole`, or the ranges. They outlive a call, so they are malloc'ed.
struct Past {
  RangeSet behind;
  u32 whole;
  struct Step* next;  // of the same page
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
  u32 scratchBytes;  // scratch that each call of compute() gets
  f32 costNs;        // rough time per output element on one core; decides about threads only
  void* state;       // the op's own, freed by release()
  Past* past;        // of a step that keeps a page's past, else null
  void* device;      // the CUDA backend's own
};

// At most this many elements are asked of one call of compute().
static const u32 kBlockElements = 4096;

// The catalogue has one entry per op. A null member means "nothing to do".
struct Op {
  const char* name;
  u32 code;
  u32 version;
  // Checks pages and parameters as far as memory safety asks for it (shapes, dtypes, counts, the size of the block) and
  // fills the step. Returns MMSB_OK or fail(...). Not called again for the same step.
  int32_t (*prepare)(Step& step);
  void (*release)(Step& step);
  // Input `input` changed in the elements `changed` (ascending, disjoint): appends the elements of the output that may
  // change, in any order, overlapping or not. Null: the whole output.
  void (*dirty)(const Step& step, u32 input, const RangeSet& changed, RangeSet& out, Arena& arena);
  // Writes the elements [start, start + count) of the output, in the natural dtype, to `out` (64-byte aligned,
  // room for kBlockElements). 0 < count <= kBlockElements. Each element depends on the inputs alone, never on how the
  // output was cut into runs. Called from several threads at once; `scratch` (64-byte aligned) is the thread's own.
  void (*compute)(const Step& step, u32 start, u32 count, void* out, void* scratch);
  // Instead of dirty and compute: the op drives itself (partials, tiles). See exec.cuh.
  void (*run)(Step& step, struct StepRun& run);
  // For an op that keeps something made from the content of its inputs: elements of them were put back (changesOf() says
  // which, as in run), and what is kept must follow. The output is not to be written.
  void (*refresh)(Step& step, struct StepRun& run) = nullptr;
  // An element of the output depends on the same element of each input of the output's size, as `dirty` and `compute` say: such
  // steps may be run tile by tile (fuse.cuh).
  bool elementwise = false;
  // A hint: what compute() reads first of the step's state, which is in the cache, is to be fetched.
  void (*fetch)(const Step& step) = nullptr;
};

namespace MMSB_NS {

// Bytes from the arena, 64-byte aligned; null (and arena.failed) when there is no memory.
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

// Appends [start, start + count); joins it with the last range where they overlap or touch. An empty range is nothing.
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
  if (set.count == set.capacity && !rangesGrow(set, arena)) return;  // arena.failed ends the call
  set.data[set.count++] = Range{start, count};
}

}  // namespace MMSB_NS
}  // namespace mmsb
