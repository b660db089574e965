// Computes elements of a step's output and stores them, on one thread or on many. Ops that drive themselves
// use it too.
//
// Invariants: bytes, ranges and digests depend neither on the number of threads nor on how a page is cut into
// blocks and tasks. In steady state no memory is allocated from the system: a call uses the workers' arenas.
#pragma once
#include "core/cast.cuh"
#include "core/changes.cuh"
#include "exec/store.cuh"

namespace mmsb {
namespace MMSB_NS {

// A shorter job is not worth waking threads for.
static const f64 kParallelNs = MMSB_SIZE(60000, 300);
static const f64 kTaskNs = MMSB_SIZE(20000, 100);
static const u32 kTasksMax = MMSB_SIZE(4096, 5);
// A step that has computed for about so long looks whether its call is cancelled.
static const f64 kCancelNs = MMSB_SIZE(2e6, 100);

static inline u32 blockElementsOf(const Page& page) {
  return dtypeBytes(page.dtype) == 1 ? kBlockElements : kBlockElements / 2;
}

static inline bool worthThreads(const Exec& exec, f64 costNs) { return exec.workerCount > 1 && costNs > kParallelNs; }

static inline void addDigest(PageSlot& slot, const u64 digest[2]) {
  slot.digest[0] += digest[0];
  slot.digest[1] += digest[1];
}

// Casts a block from the natural dtype to the page's, makes NaN canonical and stores it.
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

// Elements after which a step looks whether its call is cancelled: whole blocks, fewer where they are costly.
static inline u32 pieceElementsOf(const Step& step) {
  const u32 block = blockElementsOf(*step.out);
  if (f64(step.costNs) * block <= kCancelNs) return block;
  const u32 piece = u32(kCancelNs / f64(step.costNs));
  return piece < 1 ? 1 : piece;
}

static void computeRange(const Step& step, u32 start, u32 end, Worker& worker, StoreOut& out) {
  const u32 block = blockElementsOf(*step.out), piece = pieceElementsOf(step);
  while (start < end && !isCancelled(worker)) {
    const u64 cut = (u64(start) / block + 1) * block;
    u32 count = u32(cut < end ? cut - start : end - start);
    if (count > piece) count = piece;
    step.op->compute(step, start, count, worker.block, worker.scratch);
    storeValues(step, start, count, worker.block, worker, out);
    start += count;
  }
}

// ---- parallel: tasks whose results are joined in their order ----------------------------------------------

// Joins the results of consecutive tasks; each result is ascending.
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

// The StoreOut of a task, when tasks may store in any order and share chunks.
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

// Cuts ascending ranges into at most `bound` tasks of about `target` elements and returns their number.
// Unless `shared`, no two tasks share a chunk.
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
    const bool shared =
        target < blockElementsOf(*step.out) / 4;  // elements are too expensive to be computed in whole blocks
    const u32 count = cutTasks(*step.out, ranges, target, shared, tasks, kTasksMax);
    ComputeJob job = {&exec, &step, &ranges, tasks, outs, shared};
    if (!poolRun(*exec.pool, count, computeTask, &job)) return;
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

}  // namespace MMSB_NS
}  // namespace mmsb
