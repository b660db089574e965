// Undoes the newest kept call: restores the old bytes of pages, and the state that steps derive from their
// inputs. Of a call that was cancelled, only the old bytes are trusted: digests are computed again from all
// bytes of the touched pages, and state that steps derive from them is made stale.
#pragma once
#include "core/journal.cuh"
#include "exec/past.cuh"
#include "exec/steps.cuh"

namespace mmsb {
namespace MMSB_NS {

// Restores the old bytes, newest first, and refreshes the steps. The list of touched pages must have room;
// afterwards it holds the restored pages, with correct digests.
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

// Restores the old bytes of a cancelled call. `steps` are those of the call: a past that was about to be
// brought up to date is copied in full next time.
static void undoCancelled(Exec& exec, const JournalSpan* spans, u64 count, Step* const* steps, u32 stepCount) {
  beginCall(exec);
  for (u64 i = count; i-- > 0;) {
    const JournalSpan& span = spans[i];
    touch(exec, *span.slot);
    memcpy(span.slot->page.data + span.offset, span.old, span.bytes);
  }
  for (u32 i = 0; i < exec.touchedCount; i++) {
    PageSlot& slot = *exec.touched[i];
    slot.loads++;
    forgetPast(slot);
    slot.digest[0] = slot.digest[1] = 0;
    for (u64 chunk = 0; chunk * kChunkBytes < slot.page.bytes; chunk++) {
      u64* hash = slot.hashes + 2 * chunk;
      u64 share[2];
      hashChunk(slot.page.data + chunk * kChunkBytes, chunkBytesOf(slot.page, chunk), hash);
      chunkShare(chunk, hash, share);
      addDigest(slot, share);
    }
  }
  for (u32 i = 0; i < stepCount; i++) {
    if (steps[i]->past != nullptr) fallBehindWholly(*steps[i]->past);
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
