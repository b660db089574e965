// Runs one step, where its inputs changed or in full; and begins and ends a call.
//
// Invariants: a page's `dirty` set is canonical whenever a step reads it. Elements that are written with
// equal bytes have not changed and trigger nothing (cutoff).
#pragma once
#include "exec/compute.cuh"
#include "exec/past.cuh"

namespace mmsb {
namespace MMSB_NS {

static void beginCall(Exec& exec) {
  exec.call++;
  exec.touchedCount = 0;
  exec.logCount = 0;
  exec.elements = 0;
  exec.bytesMoved = 0;
  for (u32 w = 0; w < exec.workerCount; w++) {
    Arena& arena = exec.workers[w].arena;
    arena.current = arena.first;
    arena.used = 0;
    arena.failed = 0;
  }
}

// Adds the changes of a step to those of its page, and the step to the log.
static void endStep(Exec& exec, const Step& step, const StepRun& run, bool full) {
  if (run.changed.count != 0) {
    PageSlot& slot = *slotOf(step.out);
    touch(exec, slot);
    for (u32 r = 0; r < run.changed.count; r++) {
      rangesPush(slot.dirty, run.changed.data[r].start, run.changed.data[r].count, mainArena(exec));
    }
    if (run.changed.gap > slot.dirty.gap) slot.dirty.gap = run.changed.gap;
    rangesNormalise(slot.dirty, mainArena(exec));
  }
  exec.elements += run.elements;
  exec.bytesMoved += run.elements * dtypeBytes(step.out->dtype);
  exec.log[exec.logCount++] = StepLog{step.id, (run.changed.count != 0 ? 1u : 0u) | (full ? 2u : 0u), run.elements};
}

static void runStep(Exec& exec, Step& step, bool full) {
  if (!full && !anyInputChanged(exec, step)) return;
  StepRun run;
  memset(&run, 0, sizeof run);
  run.exec = &exec;
  run.full = full;
  if (step.op->run != nullptr) {
    step.op->run(step, run);
  } else {
    const RangeSet ranges = dirtyOutput(exec, step, full);
    run.elements = rangesElements(ranges);
    computeRanges(exec, step, ranges, run.elements, run.changed);
  }
  if (!full && run.elements == 0) return;
  endStep(exec, step, run, full);
}

// Brings the past of a page up to date, before the page changes in this call.
static void runBefore(Exec& exec, Step& step, bool full) {
  const RangeSet ranges = catchUp(step, full, mainArena(exec));
  if (ranges.count == 0) return;
  StepRun run;
  memset(&run, 0, sizeof run);
  run.elements = rangesElements(ranges);
  computeRanges(exec, step, ranges, run.elements, run.changed);
  endStep(exec, step, run, full);
}

// Called at the end of a call: notes the changes of pages whose past is kept, to be copied before the next
// call changes them.
static void keepBehind(Exec& exec) {
  for (u32 i = 0; i < exec.touchedCount; i++) {
    const PageSlot& slot = *exec.touched[i];
    if (slot.dirty.count == 0) continue;
    for (Step* step = slot.pasts; step != nullptr; step = step->past->next) fallBehind(*step->past, slot.dirty);
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
