// Applies the deltas of a call and determines exactly what they changed.
//
// Invariant: after applyDeltas each `dirty` set is canonical and exact, even where several deltas wrote the
// same elements.
#pragma once
#include "core/merge.cuh"
#include "exec/compute.cuh"

namespace mmsb {
namespace MMSB_NS {

struct DenseJob {
  Exec* exec;
  const Delta* delta;
  StoreOut* outs;
  u64 firstCut;  // elements of the first task; other tasks have taskElements
  u64 taskElements;
};

static void mergeRun(const Delta& delta, u32 start, u32 count, const u8* values, Worker& worker, StoreOut& out) {
  PageSlot& slot = *delta.slot;
  const u32 dtype = slot.page.dtype, size = dtypeBytes(dtype);
  if (slot.snapshot != nullptr) {  // changes are determined after the last delta
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
  mergeRun(delta, u32(delta.offset + from), u32(to - from), delta.values + from * dtypeBytes(delta.slot->page.dtype),
           own, out);
  job.outs[number] = out;
}

// Applies a large dense delta to a page that no other delta of this call writes.
static void applyDenseParallel(Exec& exec, const Delta& delta) {
  PageSlot& slot = *delta.slot;
  Arena& arena = mainArena(exec);
  const u32 size = dtypeBytes(slot.page.dtype);
  u64 taskElements = MMSB_SIZE(256u << 10, kChunkBytes) / size;
  while (delta.count / taskElements >= kTasksMax - 1) taskElements *= 2;
  const u64 firstCut = taskElements - delta.offset % taskElements;
  const u32 tasks = delta.count <= firstCut ? 1 : u32(1 + (delta.count - firstCut + taskElements - 1) / taskElements);
  StoreOut* outs = static_cast<StoreOut*>(arenaAlloc(arena, sizeof(StoreOut) * tasks));
  if (outs == nullptr) return;
  DenseJob job = {&exec, &delta, outs, firstCut, taskElements};
  if (!poolRun(*exec.pool, tasks, denseTask, &job)) return;
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

// Several deltas may write the same element, so their changes are known only after the last. If they are many
// for the size of the page, a copy of the page is kept; else the bytes that each delta overwrites.
static const u64 kSnapshotBytes = MMSB_SIZE(256, 16);  // bytes of the page per delta

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
  if (delta.kind == DELTA_DENSE && !repeats &&
      worthThreads(exec, f64(delta.count) * dtypeBytes(slot.page.dtype) * 0.15)) {
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

// Finds the exact runs that differ from before the call when spans of the undo list overlap: restores the old
// bytes, newest first, in a copy of the current bytes, and compares.
static void exactChanges(PageSlot& slot, const RangeSet& spans, Arena& arena) {
  const u32 size = dtypeBytes(slot.page.dtype);
  const Undo& undo = *slot.undo;
  u64 total = 0;
  u64* place = static_cast<u64*>(arenaAlloc(arena, 8ull * spans.count));  // place of each span's copy
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
    memcpy(before + place[low] + u64(span.start - spans.data[low].start) * size, undo.bytes + used,
           u64(span.count) * size);
  }
  StoreOut out = makeStoreOut(&arena, false);
  const u32 piece = MMSB_SIZE(1u << 20, 64) / size;
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
    if (diffRunsOf(size, slot.snapshot + at, slot.page.data + at, chunkBytesOf(slot.page, chunk), u32(at / size), out,
                   &lo, &hi)) {
      if (arena.journal != nullptr) {
        journalKeep(*arena.journal, slot.page.id, at + lo, slot.snapshot + at + lo, hi - lo);
      }
      rehashChunk(slot, chunk, out.digest);
    }
  }
  slot.dirty = out.changed;
  addDigest(slot, out.digest);
  rangesNormalise(slot.dirty, arena);
}

// Called after the last delta: makes the page's dirty set canonical and exact.
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

// Deltas to large pages miss the caches, so the lines of a later delta are prefetched.
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

}  // namespace MMSB_NS
}  // namespace mmsb
