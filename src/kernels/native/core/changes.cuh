// The state of a running call of execute: the pages it has touched, the elements that changed, and the rule
// that maps changed inputs to changed outputs. Shared by the CPU executor and the CUDA backend.
//
// Invariants: a page's `dirty` set belongs to this call when its mark equals the call's number. It is
// canonical whenever a step reads it.
#pragma once
#include "core/page.cuh"
#include "core/ranges.cuh"
#include "core/threads.cuh"

namespace mmsb {

struct Worker {
  Arena arena;
  u8* block;          // what compute() writes: kBlockElements of 8 bytes
  u8* wide;           // intermediate values of a cast
  u8* cast;           // output of a cast, in the page's dtype
  u8* scratch;        // scratch memory of the op
  const u32* cancel;  // ThreadPool::cancel
};

struct StepLog {
  u32 step, flags;  // 1: the output changed, 2: ran in full
  u64 elements;
};

// The executor of a context, created by the host part. `call` counts the calls of execute.
struct Exec {
  ThreadPool* pool;
  Worker* workers;
  u32 workerCount;
  u32 logCount;
  u64 call;
  PageSlot** touched;
  u32 touchedCount, touchedCapacity;
  StepLog* log;
  u32 logCapacity;
  u32 scratchBytes;
  u64 elements, bytesMoved;
};

// The argument of Op::run. The op adds the elements it changed to `changed`, in any order, and counts the
// elements it computed.
struct StepRun {
  Exec* exec;
  bool full;
  RangeSet changed;
  u64 elements;
};

namespace MMSB_NS {

static inline bool isCancelled(const Exec& exec) { return cancelRaised(*exec.pool->cancel); }
static inline bool isCancelled(const Worker& worker) { return cancelRaised(*worker.cancel); }

static inline Arena& mainArena(Exec& exec) { return exec.workers[0].arena; }

// Adds the page to the touched pages of this call. Must be called before its dirty set is used.
static inline void touch(Exec& exec, PageSlot& slot) {
  if (slot.mark == exec.call) return;
  slot.mark = exec.call;
  slot.undo = nullptr;
  slot.snapshot = nullptr;
  memset(&slot.dirty, 0, sizeof slot.dirty);
  exec.touched[exec.touchedCount++] = &slot;
}

// The elements of a page that changed in this call so far, or null.
static inline const RangeSet* changesOf(const Exec& exec, const Page* page) {
  const PageSlot* slot = slotOf(page);
  return slot->mark == exec.call && slot->dirty.count != 0 ? &slot->dirty : nullptr;
}

// The output elements that may change, as a canonical set. Empty when no input changed.
static RangeSet dirtyOutput(Exec& exec, const Step& step, bool full) {
  RangeSet set;
  memset(&set, 0, sizeof set);
  Arena& arena = mainArena(exec);
  if (full) {
    rangesPush(set, 0, step.out->elements, arena);
    return set;
  }
  u32 inputs = 0;
  for (u32 i = 0; i < step.inputCount; i++) {
    const RangeSet* changed = changesOf(exec, step.inputs[i]);
    if (changed == nullptr) continue;
    inputs++;
    if (step.op->dirty == nullptr) rangesPush(set, 0, step.out->elements, arena);
    else step.op->dirty(step, i, *changed, set, arena);
  }
  if (inputs != 0) rangesNormalise(set, arena);
  return set;
}

static bool anyInputChanged(const Exec& exec, const Step& step) {
  for (u32 i = 0; i < step.inputCount; i++) {
    if (changesOf(exec, step.inputs[i]) != nullptr) return true;
  }
  return false;
}

}  // namespace MMSB_NS
}  // namespace mmsb
