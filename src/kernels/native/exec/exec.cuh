// The CPU executor: applies deltas, runs steps in order, and knows what changed.
//
// Invariants: a page's `dirty` set is canonical when a step reads it; a step runs only where an input changed (or wholly when
// told to); equal bytes are no change, so nothing follows from them (cutoff). Neither the number of threads nor how a
// page was cut into blocks and tasks shows in any byte, range or digest. No memory is asked of the system in steady
// state: everything of a call lies in the workers' arenas.
#pragma once
#include "core/changes.cuh"
#include "core/merge.cuh"
#include "exec/past.cuh"
#include "exec/store.cuh"

namespace mmsb {
namespace MMSB_NS {

// A job of less than this is not worth waking a thread for.
static const f64 kParallelNs = 60000;
static const f64 kTaskNs = 20000;
static const u32 kTasksMax = 4096;

static inline u32 blockElementsOf(const Page& page) { return dtypeBytes(page.dtype) == 1 ? kBlockElements : kBlockElements / 2; }

static inline bool worthThreads(const Exec& exec, f64 costNs) { return exec.workerCount > 1 && costNs > kParallelNs; }

static inline void addDigest(PageSlot& slot, const u64 digest[2]) {
  slot.digest[0] += digest[0];
  slot.digest[1] += digest[1];
}

// Casts a block in the natural dtype to the page's, makes NaN canonical and stores it.
static inline void storeValues(const Step& step, u32 start, u32 count, u8* natural, Worker& worker, StoreOut& out) {
  const u32 dtype = step.out->dtype;
  u8* values = natural;
  if (step.natural != dtype) {
    castBlock(step.natural, natural, dtype, worker.cast, count, worker.wide);
    values = worker.cast;
  }
  canonicalBlock(dtype, values, count);
  storeRun(*slotOf(step.out), start, count, values, out);
}

static void computeRange(const Step& step, u32 start, u32 end, Worker& worker, StoreOut& out) {
  const u32 block = blockElementsOf(*step.out);
  while (start < end) {
    const u64 cut = (u64(start) / block + 1) * block;
    const u32 count = u32(cut < end ? cut - start : end - start);
    step.op->compute(step, start, count, worker.block, worker.scratch);
    storeValues(step, start, count, worker.block, worker, out);
    start += count;
  }
}

// ---- parallel: tasks whose results are joined in their order -------------------------------------------------------

// Joins ascending results of tasks that follow one another.
static void joinTasks(StoreOut* outs, u32 count, RangeSet& changed, PageSlot& slot, Arena& arena) {
  u32 gap = changed.gap;
  for (u32 i = 0; i < count; i++) gap = outs[i].changed.gap > gap ? outs[i].changed.gap : gap;
  changed.gap = gap;
  for (u32 i = 0; i < count; i++) {
    const RangeSet& set = outs[i].changed;
    for (u32 r = 0; r < set.count; r++) rangesPushAscending(changed, set.data[r].start, set.data[r].count, arena);
    addDigest(slot, outs[i].digest);
  }
}

// What a task stores into when tasks store in any order and may share chunks.
static inline StoreOut makeUnorderedOut(Arena* arena) {
  StoreOut out = makeStoreOut(arena, false);
  out.ascending = false;
  return out;
}

// Joins the results of such tasks into `changed` and brings the page's digest up to date.
static void joinUnordered(Exec& exec, const Step& step, StoreOut* outs, u32 count, RangeSet& changed) {
  PageSlot& slot = *slotOf(step.out);
  Arena& arena = mainArena(exec);
  RangeSet all;
  memset(&all, 0, sizeof all);
  for (u32 i = 0; i < count; i++) {
    const RangeSet& set = outs[i].changed;
    for (u32 r = 0; r < set.count; r++) rangesPush(all, set.data[r].start, set.data[r].count, arena);
  }
  rangesSort(all, arena);
  rangesJoin(all);
  u64 digest[2] = {0, 0};
  rehashRanges(slot, all, digest);
  addDigest(slot, digest);
  for (u32 r = 0; r < all.count; r++) rangesPush(changed, all.data[r].start, all.data[r].count, arena);
}

// A task computes from element `start` of range `first` to element `end` of range `last`.
struct ComputeTask {
  u32 first, start, last, end;
};
struct ComputeJob {
  Exec* exec;
  const Step* step;
  const RangeSet* ranges;
  ComputeTask* tasks;
  StoreOut* outs;
  bool shared;  // tasks may share chunks
};

static void computeTask(void* argument, u32 number, u32 worker) {
  ComputeJob& job = *static_cast<ComputeJob*>(argument);
  const ComputeTask task = job.tasks[number];
  Worker& own = job.exec->workers[worker];
  StoreOut out = job.shared ? makeUnorderedOut(&own.arena) : makeStoreOut(&own.arena, true);
  for (u32 r = task.first; r <= task.last; r++) {
    const Range range = job.ranges->data[r];
    const u32 start = r == task.first ? task.start : range.start;
    const u32 end = r == task.last ? task.end : range.start + range.count;
    computeRange(*job.step, start, end, own, out);
  }
  job.outs[number] = out;
}

// Cuts ascending ranges into tasks of about `target` elements; unless `shared`, they have no chunk in common. Returns
// their number, at most `bound`.
static u32 cutTasks(const Page& page, const RangeSet& ranges, u64 target, bool shared, ComputeTask* tasks, u32 bound) {
  const u32 block = shared ? 1 : blockElementsOf(page);
  const u32 perChunk = shared ? 1 : kChunkBytes / dtypeBytes(page.dtype);
  u32 count = 0;
  u64 size = 0;  // elements in the open task
  ComputeTask open = {0, 0, 0, 0};
  for (u32 r = 0; r < ranges.count; r++) {
    const Range range = ranges.data[r];
    const u32 end = range.start + range.count;
    u32 start = range.start;
    if (size >= target && count + 1 < bound && start / perChunk != (open.end - 1) / perChunk) {
      tasks[count++] = open;
      size = 0;
    }
    while (start < end) {
      if (size == 0) {
        open.first = r;
        open.start = start;
      }
      const u64 wanted = (u64(start) + (target > size ? target - size : 1) + block - 1) / block * block;
      const u32 cut = count + 1 < bound && wanted < end ? u32(wanted) : end;
      size += cut - start;
      open.last = r;
      open.end = cut;
      start = cut;
      if (start < end) {
        tasks[count++] = open;
        size = 0;
      }
    }
  }
  if (size != 0) tasks[count++] = open;
  return count;
}

// Computes and stores the elements of a canonical set; adds what changed to `changed`.
static void computeRanges(Exec& exec, const Step& step, const RangeSet& ranges, u64 elements, RangeSet& changed) {
  PageSlot& slot = *slotOf(step.out);
  Arena& arena = mainArena(exec);
  const f64 cost = f64(elements) * (f64(step.costNs) + 0.5);
  if (worthThreads(exec, cost)) {
    u64 target = u64(f64(elements) * kTaskNs / cost) + 1;
    if (elements / target >= kTasksMax) target = elements / kTasksMax + 1;
    ComputeTask* tasks = static_cast<ComputeTask*>(arenaAlloc(arena, sizeof(ComputeTask) * kTasksMax));
    StoreOut* outs = static_cast<StoreOut*>(arenaAlloc(arena, sizeof(StoreOut) * kTasksMax));
    if (tasks == nullptr || outs == nullptr) return;
    const bool shared = target < blockElementsOf(*step.out) / 4;  // elements too dear to be taken by whole blocks
    const u32 count = cutTasks(*step.out, ranges, target, shared, tasks, kTasksMax);
    ComputeJob job = {&exec, &step, &ranges, tasks, outs, shared};
    poolRun(*exec.pool, count, computeTask, &job);
    if (shared) joinUnordered(exec, step, outs, count, changed);
    else joinTasks(outs, count, changed, slot, arena);
    return;
  }
  StoreOut out = makeStoreOut(&arena, true);
  out.changed = changed;
  for (u32 r = 0; r < ranges.count; r++) {
    computeRange(step, ranges.data[r].start, ranges.data[r].start + ranges.data[r].count, exec.workers[0], out);
  }
  changed = out.changed;
  addDigest(slot, out.digest);
}

// ---- steps ----------------------------------------------------------------------------------------------------------

// What a step changed joins the changes of its page; the step joins the log.
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

// At the end of a call: what changed of pages whose past is kept is to be copied before the next.
static void keepBehind(Exec& exec) {
  for (u32 i = 0; i < exec.touchedCount; i++) {
    const PageSlot& slot = *exec.touched[i];
    if (slot.dirty.count == 0) continue;
    for (Step* step = slot.pasts; step != nullptr; step = step->past->next) fallBehind(*step->past, slot.dirty);
  }
}

// ---- deltas ---------------------------------------------------------------------------------------------------------

struct DenseJob {
  Exec* exec;
  const Delta* delta;
  StoreOut* outs;
  u64 firstCut;  // elements of the first task; the others have taskElements
  u64 taskElements;
};

static void mergeRun(const Delta& delta, u32 start, u32 count, const u8* values, Worker& worker, StoreOut& out) {
  PageSlot& slot = *delta.slot;
  const u32 dtype = slot.page.dtype, size = dtypeBytes(dtype);
  if (slot.snapshot != nullptr) {  // what changed is seen when all deltas are there
    u8* at = slot.page.data + u64(start) * size;
    const u64 bytes = u64(count) * size;
    if (delta.merge != MERGE_SET || dtype == BOOL) return mergeBlock(dtype, delta.merge, at, values, at, count);
    if (bytes == 8) memcpy(at, values, 8);
    else if (bytes == 4) memcpy(at, values, 4);
    else memcpy(at, values, bytes);
    return;
  }
  if (delta.merge == MERGE_SET && dtype != BOOL) return storeRun(slot, start, count, values, out);
  const u32 block = blockElementsOf(slot.page);
  while (count != 0) {
    const u32 room = block - start % block;
    const u32 now = count < room ? count : room;
    mergeBlock(dtype, delta.merge, slot.page.data + u64(start) * size, values, worker.cast, now);
    storeRun(slot, start, now, worker.cast, out);
    start += now;
    count -= now;
    values += u64(now) * size;
  }
}

static void denseTask(void* argument, u32 number, u32 worker) {
  DenseJob& job = *static_cast<DenseJob*>(argument);
  const Delta& delta = *job.delta;
  const u64 from = number == 0 ? 0 : job.firstCut + (number - 1) * job.taskElements;
  u64 to = job.firstCut + number * job.taskElements;
  if (to > delta.count) to = delta.count;
  Worker& own = job.exec->workers[worker];
  StoreOut out = makeStoreOut(&own.arena, true);
  mergeRun(delta, u32(delta.offset + from), u32(to - from), delta.values + from * dtypeBytes(delta.slot->page.dtype), own, out);
  job.outs[number] = out;
}

// A large dense delta to a page that no other delta of this call writes.
static void applyDenseParallel(Exec& exec, const Delta& delta) {
  PageSlot& slot = *delta.slot;
  Arena& arena = mainArena(exec);
  const u32 size = dtypeBytes(slot.page.dtype);
  u64 taskElements = (256u << 10) / size;
  while (delta.count / taskElements >= kTasksMax - 1) taskElements *= 2;
  const u64 firstCut = taskElements - delta.offset % taskElements;
  const u32 tasks = delta.count <= firstCut ? 1 : u32(1 + (delta.count - firstCut + taskElements - 1) / taskElements);
  StoreOut* outs = static_cast<StoreOut*>(arenaAlloc(arena, sizeof(StoreOut) * tasks));
  if (outs == nullptr) return;
  DenseJob job = {&exec, &delta, outs, firstCut, taskElements};
  poolRun(*exec.pool, tasks, denseTask, &job);
  joinTasks(outs, tasks, slot.dirty, slot, arena);
}

static void applySparse(const Delta& delta, Worker& worker, StoreOut& out) {
  const u32 size = dtypeBytes(delta.slot->page.dtype);
  u32 i = 0;
  while (i < delta.count) {
    u32 index;
    memcpy(&index, delta.where + 4ull * i, 4);
    u32 run = 1;  // neighbours are written together
    while (i + run < delta.count) {
      u32 next;
      memcpy(&next, delta.where + 4ull * (i + run), 4);
      if (next != index + run) break;
      run++;
    }
    mergeRun(delta, index, run, delta.values + u64(i) * size, worker, out);
    i += run;
  }
}

static inline bool maskBit(const Delta& delta, u32 i) { return (delta.where[i >> 3] >> (i & 7) & 1) != 0; }

static void applyMasked(const Delta& delta, Worker& worker, StoreOut& out) {
  const u32 size = dtypeBytes(delta.slot->page.dtype);
  const u8* values = delta.values;
  u64 at = 0;
  if (delta.runLength) {
    for (u32 r = 0; r < delta.runCount; r++) {
      u32 run[2];
      memcpy(run, delta.where + 8ull * r, 8);
      at += run[0];
      if (run[1] == 0) continue;
      mergeRun(delta, u32(delta.offset + at), run[1], values, worker, out);
      values += u64(run[1]) * size;
      at += run[1];
    }
    return;
  }
  while (at < delta.count) {
    if ((at & 7) == 0 && delta.where[at >> 3] == 0) {
      at += 8;
      continue;
    }
    if (!maskBit(delta, u32(at))) {
      at++;
      continue;
    }
    u32 run = 1;
    while (at + run < delta.count && maskBit(delta, u32(at + run))) run++;
    mergeRun(delta, u32(delta.offset + at), run, values, worker, out);
    values += u64(run) * size;
    at += run;
  }
}

// Several deltas may write an element twice, so what they change is known at the end only. Where they are many for the
// size of the page a copy of it is kept; else the old bytes of what each overwrites.
static const u64 kSnapshotBytes = 256;  // of the page, for each delta

static bool prepareRepeats(Exec& exec, PageSlot& slot, const Delta& delta) {
  const u64 writes = slot.deltaCount + (delta.kind == DELTA_DENSE ? 0 : u64(delta.valueCount) / 4);
  if (slot.page.bytes <= kSnapshotBytes * writes) {
    slot.snapshot = static_cast<u8*>(arenaAlloc(mainArena(exec), slot.page.bytes));
    if (slot.snapshot != nullptr) memcpy(slot.snapshot, slot.page.data, slot.page.bytes);
    return slot.snapshot != nullptr;
  }
  slot.undo = static_cast<Undo*>(arenaAlloc(mainArena(exec), sizeof(Undo)));
  if (slot.undo != nullptr) memset(slot.undo, 0, sizeof *slot.undo);
  return slot.undo != nullptr;
}

static void applyDelta(Exec& exec, const Delta& delta) {
  PageSlot& slot = *delta.slot;
  touch(exec, slot);
  const bool repeats = slot.deltaCount > 1 || !delta.ascending;
  if (repeats && slot.undo == nullptr && slot.snapshot == nullptr && !prepareRepeats(exec, slot, delta)) return;
  if (delta.kind == DELTA_DENSE && !repeats && worthThreads(exec, f64(delta.count) * dtypeBytes(slot.page.dtype) * 0.15)) {
    return applyDenseParallel(exec, delta);
  }
  StoreOut out = makeStoreOut(&mainArena(exec), true);
  out.changed = slot.dirty;
  out.undo = slot.undo;
  out.ascending = slot.undo == nullptr;
  Worker& worker = exec.workers[0];
  if (delta.kind == DELTA_DENSE) mergeRun(delta, delta.offset, delta.count, delta.values, worker, out);
  else if (delta.kind == DELTA_SPARSE) applySparse(delta, worker, out);
  else applyMasked(delta, worker, out);
  slot.dirty = out.changed;
  addDigest(slot, out.digest);
}

// The exact runs that differ from before the call, where spans of the undo list overlap: lays the old bytes, newest first,
// over a copy of what is there now, and compares.
static void exactChanges(PageSlot& slot, const RangeSet& spans, Arena& arena) {
  const u32 size = dtypeBytes(slot.page.dtype);
  const Undo& undo = *slot.undo;
  u64 total = 0;
  u64* place = static_cast<u64*>(arenaAlloc(arena, 8ull * spans.count));  // of each span's copy
  if (place == nullptr) return;
  for (u32 i = 0; i < spans.count; i++) {
    place[i] = total;
    total += u64(spans.data[i].count) * size;
  }
  u8* before = static_cast<u8*>(arenaAlloc(arena, total));
  if (before == nullptr) return;
  for (u32 i = 0; i < spans.count; i++) {
    memcpy(before + place[i], slot.page.data + u64(spans.data[i].start) * size, u64(spans.data[i].count) * size);
  }
  u64 used = undo.used;
  for (u32 i = undo.spans.count; i-- > 0;) {
    const Range span = undo.spans.data[i];
    used -= u64(span.count) * size;
    u32 low = 0, high = spans.count - 1;  // the last span that starts at or before this one
    while (low < high) {
      const u32 middle = (low + high + 1) / 2;
      if (spans.data[middle].start <= span.start) low = middle;
      else high = middle - 1;
    }
    memcpy(before + place[low] + u64(span.start - spans.data[low].start) * size, undo.bytes + used, u64(span.count) * size);
  }
  StoreOut out = makeStoreOut(&arena, false);
  const u32 piece = (1u << 20) / size;
  for (u32 i = 0; i < spans.count; i++) {
    const Range span = spans.data[i];
    for (u32 at = 0; at < span.count; at += piece) {
      const u32 count = span.count - at < piece ? span.count - at : piece;
      u32 lo, hi;
      diffRunsOf(size, before + place[i] + u64(at) * size, slot.page.data + u64(span.start + at) * size, count * size,
                 span.start + at, out, &lo, &hi);
    }
  }
  slot.dirty = out.changed;
}

static void compareSnapshot(PageSlot& slot, Arena& arena) {
  const u32 size = dtypeBytes(slot.page.dtype);
  StoreOut out = makeStoreOut(&arena, false);
  for (u64 at = 0; at < slot.page.bytes; at += kChunkBytes) {
    const u64 chunk = at / kChunkBytes;
    u32 lo, hi;
    if (diffRunsOf(size, slot.snapshot + at, slot.page.data + at, chunkBytesOf(slot.page, chunk), u32(at / size), out, &lo, &hi)) {
      if (arena.journal != nullptr) journalKeep(*arena.journal, slot.page.id, at + lo, slot.snapshot + at + lo, hi - lo);
      rehashChunk(slot, chunk, out.digest);
    }
  }
  slot.dirty = out.changed;
  addDigest(slot, out.digest);
  rangesNormalise(slot.dirty, arena);
}

// After the last delta: the page's dirty set becomes canonical and exact.
static void settleDeltas(Exec& exec, PageSlot& slot) {
  Arena& arena = mainArena(exec);
  if (slot.snapshot != nullptr) return compareSnapshot(slot, arena);
  if (slot.undo != nullptr && slot.undo->spans.count > 1) {
    RangeSet spans;
    memset(&spans, 0, sizeof spans);
    const u32 count = slot.undo->spans.count;
    spans.data = static_cast<Range*>(arenaAlloc(arena, u64(count) * sizeof(Range)));
    if (spans.data == nullptr) return;
    memcpy(spans.data, slot.undo->spans.data, u64(count) * sizeof(Range));
    spans.count = spans.capacity = count;
    if (rangesSort(spans, arena)) {
      rangesJoin(spans);
      exactChanges(slot, spans, arena);
    }
  }
  rangesNormalise(slot.dirty, arena);
}

// Deltas to large pages miss the caches; the lines of the one to come are fetched meanwhile.
static inline void prefetchDelta(const Delta& delta) {
  const u64 at = u64(delta.offset) * dtypeBytes(delta.slot->page.dtype);
  __builtin_prefetch(delta.slot->page.data + at, 1);
  __builtin_prefetch(delta.slot->hashes + at / kChunkBytes * 2, 1);
}

static void applyDeltas(Exec& exec, const DeltaList& list) {
  for (u64 i = 0; i < list.count; i++) {
    PageSlot& slot = *list.data[i].slot;
    if (slot.deltaMark != exec.call) {
      slot.deltaMark = exec.call;
      slot.deltaCount = 0;
    }
    slot.deltaCount++;
  }
  for (u64 i = 0; i < list.count; i++) {
    if (i + 8 < list.count) prefetchDelta(list.data[i + 8]);
    applyDelta(exec, list.data[i]);
  }
  for (u32 i = 0; i < exec.touchedCount; i++) settleDeltas(exec, *exec.touched[i]);
  exec.bytesMoved += list.valueBytes;
}

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

// ---- pages ----------------------------------------------------------------------------------------------------------

// Fills a zeroed page with one element's bits and sets its digest.
static void fillPage(PageSlot& slot, u64 bits) {
  Page& page = slot.page;
  const u32 size = dtypeBytes(page.dtype);
  if (page.dtype == BOOL) bits = (bits & 255) != 0;
  if (size < 8) bits &= (1ull << (8 * size)) - 1;
  if (bits == 0 || page.bytes == 0) return;
  u64 word = bits;
  for (u32 width = size; width < 8; width *= 2) word |= word << (8 * width);
  u64 at = 0;
  for (; at + 8 <= page.bytes; at += 8) memcpy(page.data + at, &word, 8);
  memcpy(page.data + at, &word, page.bytes - at);
  const u64 chunks = (page.bytes + kChunkBytes - 1) / kChunkBytes;
  u64 hash[2];
  hashChunk(page.data, chunkBytesOf(page, 0), hash);
  for (u64 chunk = 0; chunk < chunks; chunk++) {
    if (chunk + 1 == chunks) hashChunk(page.data + chunk * kChunkBytes, chunkBytesOf(page, chunk), hash);
    slot.hashes[2 * chunk] = hash[0];
    slot.hashes[2 * chunk + 1] = hash[1];
    u64 share[2];
    chunkShare(chunk, hash, share);
    addDigest(slot, share);
  }
}

// Writes raw bytes and hashes the chunks they touch.
static void loadBytes(PageSlot& slot, u64 offset, const u8* src, u64 bytes) {
  if (bytes == 0) return;
  slot.loads++;
  forgetPast(slot);
  memcpy(slot.page.data + offset, src, bytes);
  u64 digest[2] = {0, 0};
  for (u64 chunk = offset / kChunkBytes; chunk <= (offset + bytes - 1) / kChunkBytes; chunk++) rehashChunk(slot, chunk, digest);
  addDigest(slot, digest);
}

// The page's share in the state's digest as of now; `state` is moved from the old share to the new.
static void updateShare(PageSlot& slot, u64 state[2]) {
  u64 share[2];
  pageShare(slot.page, slot.digest, share);
  for (u32 half = 0; half < 2; half++) {
    state[half] += share[half] - slot.share[half];
    slot.share[half] = share[half];
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
