// Steps that keep the past of a page (MMSB_STEP_PAST): a copy of what the page held before the call, for
// steps that read it.
//
// Invariants: elements that changed since the past was last updated are in `behind` of each past step, or
// `whole` is set. Extra elements there cost a comparison, never a wrong byte. Any write to a page outside of
// execute sets `whole`. The lists outlive a call, so they are malloc'ed; without memory for a list, `whole`
// is set instead.
#pragma once
#include "core/page.cuh"
#include "core/ranges.cuh"

namespace mmsb {
namespace MMSB_NS {

static const u32 kBehindMax = 4096;

static inline void fallBehindWholly(Past& past) {
  past.whole = 1;
  past.behind.count = 0;
}

// The page was written outside of execute. Its pasts, and the page itself if it is a past, must be copied in
// full.
static inline void forgetPast(PageSlot& slot) {
  for (Step* step = slot.pasts; step != nullptr; step = step->past->next) fallBehindWholly(*step->past);
  if (slot.pastStep != nullptr) fallBehindWholly(*slot.pastStep->past);
}

static void fallBehind(Past& past, const RangeSet& changed) {
  if (past.whole) return;
  RangeSet& behind = past.behind;
  const u32 count = behind.count + changed.count;
  if (count > kBehindMax) return fallBehindWholly(past);
  if (count > behind.capacity) {
    void* larger = realloc(behind.data, u64(count) * 2 * sizeof(Range));
    if (larger == nullptr) return fallBehindWholly(past);
    behind.data = static_cast<Range*>(larger);
    behind.capacity = count * 2;
  }
  memcpy(behind.data + behind.count, changed.data, u64(changed.count) * sizeof(Range));
  behind.count = count;
}

// Returns what the step has to copy now, as a canonical set in the arena, and clears its list.
static RangeSet catchUp(const Step& step, bool full, Arena& arena) {
  Past& past = *step.past;
  RangeSet set;
  memset(&set, 0, sizeof set);
  if (full || past.whole) rangesPush(set, 0, step.out->elements, arena);
  else {
    for (u32 i = 0; i < past.behind.count; i++) {
      rangesPush(set, past.behind.data[i].start, past.behind.data[i].count, arena);
    }
  }
  rangesNormalise(set, arena);
  past.whole = 0;
  past.behind.count = 0;
  return set;
}

static void linkPast(Step& step) {
  PageSlot& slot = *slotOf(step.inputs[0]);
  step.past->whole = 1;
  step.past->next = slot.pasts;
  slot.pasts = &step;
  slotOf(step.out)->pastStep = &step;
}

static void unlinkPast(Step& step) {
  PageSlot& slot = *slotOf(step.inputs[0]);
  Step** at = &slot.pasts;
  while (*at != &step) at = &(*at)->past->next;
  *at = step.past->next;
  slotOf(step.out)->pastStep = nullptr;
}

}  // namespace MMSB_NS
}  // namespace mmsb
