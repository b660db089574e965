// Taking back the newest kept call: pages get their old bytes, and what steps keep of their inputs follows.
#pragma once
#include "core/journal.cuh"
#include "exec/past.cuh"
#include "exec/steps.cuh"

namespace mmsb {
namespace MMSB_NS {

// Puts back the old bytes, newest first, and lets what the steps keep of them follow. The list of touched pages must have
// room; afterwards it holds the pages that were put back, their digests true again.
static void undoAll(Exec& exec, const JournalSpan* spans, u64 count, Step* const* steps, u32 stepCount) {
  beginCall(exec);
  Arena& arena = mainArena(exec);
  for (u64 i = count; i-- > 0;) {
    const JournalSpan& span = spans[i];
    PageSlot& slot = *span.slot;
    const u32 size = dtypeBytes(slot.page.dtype);
    touch(exec, slot);
    memcpy(slot.page.data + span.offset, span.old, span.bytes);
    rangesPush(slot.dirty, u32(span.offset / size), u32(span.bytes / size), arena);
  }
  for (u32 i = 0; i < exec.touchedCount; i++) {
    PageSlot& slot = *exec.touched[i];
    forgetPast(slot);
    rangesNormalise(slot.dirty, arena);
    u64 digest[2] = {0, 0};
    rehashRanges(slot, slot.dirty, digest);
    addDigest(slot, digest);
  }
  for (u32 i = 0; i < stepCount; i++) {
    if (steps[i]->op->refresh == nullptr || !anyInputChanged(exec, *steps[i])) continue;
    StepRun run;
    memset(&run, 0, sizeof run);
    run.exec = &exec;
    steps[i]->op->refresh(*steps[i], run);
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
