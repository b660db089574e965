// Runs consecutive elementwise steps tile by tile: all steps on one tile, then all on the next, so that each
// step finds the output of the one before in the cache. Each page is still written, compared and hashed, and
// a step still runs only where an input changed.
//
// Invariants: bytes, ranges, digests and the log are the same as if the steps ran one after the other. This
// holds because element i of an elementwise step depends only on element i of inputs made in the group and on
// inputs that were final before it. A step that repeats another step of the group copies its elements instead
// of computing them again.
#pragma once
#include "exec/steps.cuh"

namespace mmsb {
namespace MMSB_NS {

static const u32 kFuseSteps = MMSB_SIZE(16, 3);
static const u32 kFuseTile = MMSB_SIZE(16384, 4096);  // elements: whole chunks of every dtype
// Least size of a page, and of the work of the first step. Smaller pages stay in the cache anyway.
static const u32 kFuseElements = MMSB_SIZE(8 * kFuseTile, 40);

struct FuseStep {
  Step* step;
  bool full;
  u32 twin;  // an earlier step of the group with the same result, or kFuseSteps
  u32 madeCount;
  u32 made[kFuseSteps];  // numbers of the steps of the group that make inputs of this one, each once
  RangeSet outside;      // elements to compute because of changes from before the group, canonical
};

struct FuseGroup {
  Exec* exec;
  u32 count;
  u32 elements;
  FuseStep steps[kFuseSteps];
};

// The result of one step in one task.
struct FuseOut {
  StoreOut out;
  u64 elements;
};

// ---- which steps ------------------------------------------------------------------------------------------

static inline bool canFuse(const Step& step) { return step.op->elementwise && step.out->elements >= kFuseElements; }

static u32 makerOf(const FuseGroup& group, u32 before, const Page* page) {
  for (u32 i = 0; i < before; i++) {
    if (group.steps[i].step->out == page) return i;
  }
  return kFuseSteps;
}

static bool isTwin(const Step& a, const Step& b) {
  return a.op == b.op && a.inputCount == b.inputCount && a.paramBytes == b.paramBytes && a.natural == b.natural &&
         a.out->dtype == b.out->dtype && memcmp(a.inputs, b.inputs, a.inputCount * sizeof(Page*)) == 0 &&
         (a.paramBytes == 0 || memcmp(a.params, b.params, a.paramBytes) == 0);
}

static u32 twinOf(const FuseGroup& group, const Step& step) {
  for (u32 i = 0; i < group.count; i++) {
    if (isTwin(*group.steps[i].step, step)) return i;
  }
  return kFuseSteps;
}

// Adds the step to the group if it can be fused and its output has the size of the others.
static bool joinGroup(FuseGroup& group, Step& step, bool full) {
  if (group.count == kFuseSteps || !canFuse(step)) return false;
  if (group.count != 0 && step.out->elements != group.elements) return false;
  FuseStep& own = group.steps[group.count];
  own.madeCount = 0;
  for (u32 i = 0; i < step.inputCount; i++) {
    const u32 maker = makerOf(group, group.count, step.inputs[i]);
    if (maker == kFuseSteps) continue;
    bool known = false;
    for (u32 k = 0; k < own.madeCount; k++) known = known || own.made[k] == maker;
    if (!known) own.made[own.madeCount++] = maker;
  }
  own.step = &step;
  own.full = full;
  own.twin = twinOf(group, step);
  group.elements = step.out->elements;
  group.count++;
  return true;
}

static void findOutside(Exec& exec, const FuseGroup& group, u32 number, RangeSet& set) {
  const FuseStep& own = group.steps[number];
  const Step& step = *own.step;
  Arena& arena = mainArena(exec);
  memset(&set, 0, sizeof set);
  if (own.full) return rangesPush(set, 0, group.elements, arena);
  for (u32 i = 0; i < step.inputCount; i++) {
    if (makerOf(group, number, step.inputs[i]) != kFuseSteps) continue;
    const RangeSet* changed = changesOf(exec, step.inputs[i]);
    if (changed != nullptr) step.op->dirty(step, i, *changed, set, arena);
  }
  rangesNormalise(set, arena);
}

// ---- one tile ---------------------------------------------------------------------------------------------

// Writes the union of a and b, both ascending and disjoint, to `to`.
static void joinAscending(const RangeSet& a, const RangeSet& b, RangeSet& to, Arena& arena) {
  to.count = 0;
  u32 i = 0, k = 0;
  while (i < a.count || k < b.count) {
    const bool first = k == b.count || (i < a.count && a.data[i].start <= b.data[k].start);
    const Range range = first ? a.data[i++] : b.data[k++];
    rangesPush(to, range.start, range.count, arena);
  }
}

// Writes the part of an ascending set in [start, end) to `to`. *cursor is the first range to look at, and
// moves along.
static void clip(const RangeSet& set, u32* cursor, u32 start, u32 end, RangeSet& to, Arena& arena) {
  to.count = 0;
  u32& at = *cursor;
  while (at < set.count && set.data[at].start + set.data[at].count <= start) at++;
  for (u32 i = at; i < set.count && set.data[i].start < end; i++) {
    const u32 from = set.data[i].start > start ? set.data[i].start : start;
    const u32 rangeEnd = set.data[i].start + set.data[i].count;
    rangesPush(to, from, (rangeEnd < end ? rangeEnd : end) - from, arena);
  }
}

// Memory of one task: the changes of each step in the tile, and two sets for unions.
struct FuseRoom {
  RangeSet changed[kFuseSteps];
  u32 cursor[kFuseSteps];
  RangeSet spare[2];
};

static const RangeSet& dirtyInTile(const FuseGroup& group, u32 number, u32 start, u32 end, FuseRoom& room,
                                   Arena& arena) {
  const FuseStep& own = group.steps[number];
  RangeSet* dirty = &room.spare[0];
  RangeSet* other = &room.spare[1];
  clip(own.outside, &room.cursor[number], start, end, *dirty, arena);
  if (dirty->count == 0 && own.madeCount == 1) return room.changed[own.made[0]];
  for (u32 i = 0; i < own.madeCount; i++) {
    const RangeSet& made = room.changed[own.made[i]];
    if (made.count == 0) continue;
    joinAscending(*dirty, made, *other, arena);
    RangeSet* swap = dirty;
    dirty = other;
    other = swap;
  }
  return *dirty;
}

static void runTile(const FuseGroup& group, u32 start, u32 end, Worker& worker, FuseRoom& room, FuseOut* outs) {
  for (u32 s = 0; s < group.count; s++) {
    const FuseStep& own = group.steps[s];
    const Step& step = *own.step;
    const RangeSet& dirty = dirtyInTile(group, s, start, end, room, worker.arena);
    StoreOut& out = outs[s].out;
    const RangeSet total = out.changed;
    out.changed = room.changed[s];
    out.changed.count = 0;
    for (u32 r = 0; r < dirty.count; r++) {
      const Range range = dirty.data[r];
      outs[s].elements += range.count;
      if (own.twin == kFuseSteps) {
        computeRange(step, range.start, range.start + range.count, worker, out);
      } else {
        const u8* twin = group.steps[own.twin].step->out->data + u64(range.start) * dtypeBytes(step.out->dtype);
        storeRun(*slotOf(step.out), range.start, range.count, twin, out);
      }
    }
    room.changed[s] = out.changed;
    out.changed = total;
    for (u32 r = 0; r < room.changed[s].count; r++) {
      rangesPushAscending(out.changed, room.changed[s].data[r].start, room.changed[s].data[r].count, worker.arena);
    }
  }
}

// ---- the group --------------------------------------------------------------------------------------------

struct FuseJob {
  const FuseGroup* group;
  FuseOut* outs;  // [t * steps + s] for step s and task t
  u32 tilesPerTask;
};

static void fuseTask(void* argument, u32 number, u32 workerNumber) {
  const FuseJob& job = *static_cast<FuseJob*>(argument);
  const FuseGroup& group = *job.group;
  Worker& worker = group.exec->workers[workerNumber];
  FuseOut* outs = job.outs + u64(number) * group.count;
  FuseRoom room;
  memset(&room, 0, sizeof room);
  for (u32 s = 0; s < group.count; s++) outs[s] = FuseOut{makeStoreOut(&worker.arena, true), 0};
  const u64 first = u64(number) * job.tilesPerTask * kFuseTile;
  for (u32 tile = 0; tile < job.tilesPerTask; tile++) {
    const u64 start = first + u64(tile) * kFuseTile;
    if (start >= group.elements || isCancelled(worker)) return;
    const u64 end = start + kFuseTile < group.elements ? start + kFuseTile : group.elements;
    runTile(group, u32(start), u32(end), worker, room, outs);
  }
}

static void endFused(Exec& exec, const FuseGroup& group, const FuseOut* outs, u32 tasks) {
  StoreOut* own = static_cast<StoreOut*>(arenaAlloc(mainArena(exec), sizeof(StoreOut) * tasks));
  if (own == nullptr) return;
  for (u32 s = 0; s < group.count; s++) {
    const FuseStep& fused = group.steps[s];
    StepRun run;
    memset(&run, 0, sizeof run);
    run.exec = &exec;
    run.full = fused.full;
    for (u32 t = 0; t < tasks; t++) {
      own[t] = outs[u64(t) * group.count + s].out;
      run.elements += outs[u64(t) * group.count + s].elements;
    }
    joinTasks(own, tasks, run.changed, *slotOf(fused.step->out), mainArena(exec));
    if (run.elements != 0) endStep(exec, *fused.step, run, fused.full);
  }
}

static void runGroup(Exec& exec, FuseGroup& group) {
  group.exec = &exec;
  f64 cost = 0;
  for (u32 s = 0; s < group.count; s++) cost += f64(group.elements) * (f64(group.steps[s].step->costNs) + 0.5);
  const u32 tiles = u32((u64(group.elements) + kFuseTile - 1) / kFuseTile);
  FuseJob job = {&group, nullptr, tiles};
  if (worthThreads(exec, cost)) {
    const f64 perTile = cost / tiles;
    job.tilesPerTask = perTile >= kTaskNs ? 1 : u32(kTaskNs / perTile) + 1;
    while (tiles / job.tilesPerTask >= kTasksMax) job.tilesPerTask *= 2;
  }
  const u32 tasks = (tiles + job.tilesPerTask - 1) / job.tilesPerTask;
  job.outs = static_cast<FuseOut*>(arenaAlloc(mainArena(exec), sizeof(FuseOut) * tasks * group.count));
  if (job.outs == nullptr) return;
  if (tasks == 1) fuseTask(&job, 0, 0);
  else if (!poolRun(*exec.pool, tasks, fuseTask, &job)) return;
  endFused(exec, group, job.outs, tasks);
}

// Runs the longest prefix of `steps` that can run tile by tile, if it has several steps and much to compute.
// Returns the number of steps it ran.
static u32 runFused(Exec& exec, Step* const* steps, const u32* numbers, u32 count) {
  if (count < 2 || !canFuse(*steps[0]) || !canFuse(*steps[1])) return 0;
  FuseGroup group;
  group.count = 0;
  if (!joinGroup(group, *steps[0], (numbers[0] & MMSB_STEP_FULL) != 0)) return 0;
  findOutside(exec, group, 0, group.steps[0].outside);
  if (rangesElements(group.steps[0].outside) < kFuseElements) return 0;
  while (group.count < count && joinGroup(group, *steps[group.count], (numbers[group.count] & MMSB_STEP_FULL) != 0)) {
    continue;
  }
  if (group.count < 2) return 0;
  for (u32 s = 1; s < group.count; s++) findOutside(exec, group, s, group.steps[s].outside);
  runGroup(exec, group);
  return group.count;
}

}  // namespace MMSB_NS
}  // namespace mmsb
