// A call of execute: it updates the pasts, applies the deltas and runs the steps in order, one by one or, for
// several large elementwise steps, tile by tile.
//
// Invariants: prefetching never changes a result. The steps come in the order of the plan, so the inputs of a
// step are final when it runs, or made in its group.
#pragma once
#include "exec/deltas.cuh"
#include "exec/fuse.cuh"

namespace mmsb {
namespace MMSB_NS {

// Several steps are prefetched together, so that their cache misses overlap: the page, the state, and the
// output elements at the place of the last change, because most steps follow the one before. The elements are
// fetched by loads whose values are not used: the processor drops a prefetch if the address is not in the
// TLB, and addresses in large pages rarely are.
static const u32 kFetchSteps = 16;

struct Place {
  u32 elements;  // elements of the page
  u32 start;
};

static inline void fetchLine(const void* at) {
  const u8 byte = *static_cast<const volatile u8*>(at);
  __asm__ volatile("" : : "r"(byte));
}

// Stage one, two groups ahead: the step with its inputs and parameters.
static void fetchBlocks(Step* const* steps, u32 from, u32 to, u32 count) {
  for (u32 i = from; i < to && i < count; i++) {
    __builtin_prefetch(steps[i]);
    __builtin_prefetch(reinterpret_cast<const u8*>(steps[i]) + 64);
    __builtin_prefetch(reinterpret_cast<const u8*>(steps[i]) + 128);
  }
}

// Stage three, before a group runs: memory that the state points to.
static void fetchBehind(Step* const* steps, u32 from, u32 to, u32 count) {
  for (u32 i = from; i < to && i < count; i++) {
    if (steps[i]->op->fetch != nullptr) steps[i]->op->fetch(*steps[i]);
  }
}

// Stage two, one group ahead: the output page, the state and the elements at `place`.
static void fetchSteps(Step* const* steps, u32 count, const Place& place) {
  for (u32 i = 0; i < count; i++) {
    const Step& step = *steps[i];
    const PageSlot& slot = *slotOf(step.out);
    const u8* state = static_cast<const u8*>(step.state);
    for (u32 line = 64; line < sizeof(PageSlot); line += 64) {
      __builtin_prefetch(reinterpret_cast<const u8*>(&slot) + line, 1);
    }
    for (u32 line = 0; line < 256; line += 64) __builtin_prefetch(state + line);
    if (slot.page.elements != place.elements || place.elements == 0) continue;
    const u64 at = u64(place.start) * dtypeBytes(slot.page.dtype);
    fetchLine(slot.page.data + at);
    fetchLine(slot.hashes + at / kChunkBytes * 2);
  }
}

static Place placeOf(const DeltaList& list) {
  if (list.count == 0) return Place{0, 0};
  Place place = {list.data[0].slot->page.elements, list.data[0].offset};
  if (list.data[0].kind == DELTA_SPARSE) memcpy(&place.start, list.data[0].where, 4);
  return place;
}

// Applies the deltas and runs the steps. The lists of touched pages and of the log must have room. A step
// runs in full if its number has MMSB_STEP_FULL set.
static void executeAll(Exec& exec, const DeltaList& list, Step* const* steps, const u32* numbers, u32 count) {
  beginCall(exec);
  u32 first = 0;
  for (; first < count && (numbers[first] & MMSB_STEP_BEFORE) != 0 && !isCancelled(exec); first++) {
    runBefore(exec, *steps[first], (numbers[first] & MMSB_STEP_FULL) != 0);
  }
  Place place = placeOf(list);
  if (place.elements > place.start) {
    const PageSlot& slot = *list.data[0].slot;
    const u64 at = u64(place.start) * dtypeBytes(slot.page.dtype);
    fetchLine(slot.page.data + at);
    fetchLine(slot.hashes + at / kChunkBytes * 2);
  }
  fetchBlocks(steps, first, first + 2 * kFetchSteps, count);
  fetchSteps(steps + first, count - first < kFetchSteps ? count - first : kFetchSteps, place);
  applyDeltas(exec, list);
  for (u32 i = first; i < count && !isCancelled(exec); i++) {
    const u32 next = i + kFetchSteps / 2;  // the second half of the prefetched steps is still to run
    if ((i - first) % (kFetchSteps / 2) == 0) {
      fetchBehind(steps, i, next, count);
      fetchBlocks(steps, next + kFetchSteps / 2, next + kFetchSteps, count);
    }
    if ((i - first) % (kFetchSteps / 2) == 0 && i != first && next < count) {
      fetchSteps(steps + next, count - next < kFetchSteps / 2 ? count - next : kFetchSteps / 2, place);
    }
    const u32 fused = runFused(exec, steps + i, numbers + i, count - i);
    if (fused == 0) runStep(exec, *steps[i], (numbers[i] & MMSB_STEP_FULL) != 0);
    else i += fused - 1;
    const PageSlot* last = exec.touchedCount != 0 ? exec.touched[exec.touchedCount - 1] : nullptr;
    if (last != nullptr && last->dirty.count != 0) place = Place{last->page.elements, last->dirty.data[0].start};
  }
  keepBehind(exec);
}

}  // namespace MMSB_NS
}  // namespace mmsb
