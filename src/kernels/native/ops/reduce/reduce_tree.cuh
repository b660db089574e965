// The tree of partials of long contiguous lanes: a change costs only its blocks and their path to the root.
#pragma once
#include "exec/compute.cuh"
#include "ops/reduce/reduce_rows.cuh"

namespace mmsb {
namespace MMSB_NS {

static const u32 kReduceTreeMin = MMSB_SIZE(4, 1) * kReduceBlock;

static inline bool hasTree(const Reduce& r) {
  return !r.columns && r.reducedCount == 1 && r.reduced[0].stride == 1 && r.n >= kReduceTreeMin;
}

static void treeBlock(const Reduce& r, const Page& input, u32 output, u64 block, void* x) {
  r.tree[output * r.treePartials + block] =
      laneBlockPartial(r, input, u32(output * r.n), block * kReduceBlock, blockCount(r, block), x);
}

// Recomputes the ancestors of the blocks [first, last] of an output.
static void treeClimb(const Reduce& r, u32 output, u64 first, u64 last) {
  Partial* level = r.tree + output * r.treePartials;
  for (u64 count = r.blocks; count > 1;) {
    Partial* parents = level + count;
    first /= 2;
    last /= 2;
    for (u64 i = first; i <= last; i++) {
      parents[i] = 2 * i + 1 < count ? joinOf(r, level[2 * i], level[2 * i + 1]) : level[2 * i];
    }
    level = parents;
    count = (count + 1) / 2;
  }
}

struct TreeJob {
  Exec* exec;
  const Reduce* reduce;
  const Page* input;
  const RangeSet* blocks;  // output * r.blocks + block
  u64 perTask;
  u64 total;
};

// Task t computes perTask blocks of the set, from number t * perTask on.
static void treeTask(void* argument, u32 number, u32 worker) {
  const TreeJob& job = *static_cast<TreeJob*>(argument);
  const Reduce& r = *job.reduce;
  u64 skip = number * job.perTask;
  u64 left = job.total - skip < job.perTask ? job.total - skip : job.perTask;
  for (u32 i = 0; left != 0; i++) {
    const Range range = job.blocks->data[i];
    if (skip >= range.count) {
      skip -= range.count;
      continue;
    }
    for (u64 at = range.start + skip; at < u64(range.start) + range.count && left != 0; at++, left--) {
      treeBlock(r, *job.input, u32(at / r.blocks), at % r.blocks, job.exec->workers[worker].scratch);
    }
    skip = 0;
  }
}

// Finds the blocks of changed elements, as output * r.blocks + block.
static void dirtyBlocks(const Reduce& r, const RangeSet& changed, RangeSet& blocks, Arena& arena) {
  for (u32 i = 0; i < changed.count; i++) {
    u64 at = changed.data[i].start;
    const u64 end = at + changed.data[i].count;
    while (at < end) {
      const u64 output = at / r.n;
      const u64 laneEnd = (output + 1) * r.n < end ? (output + 1) * r.n : end;
      const u64 first = (at - output * r.n) / kReduceBlock, last = (laneEnd - 1 - output * r.n) / kReduceBlock;
      rangesPush(blocks, u32(output * r.blocks + first), u32(last - first + 1), arena);
      at = laneEnd;
    }
  }
  rangesNormalise(blocks, arena);
}

static bool treeReady(Reduce& r) {
  if (r.tree != nullptr) return true;
  r.treePartials = 1;
  for (u64 count = r.blocks; count > 1; count = (count + 1) / 2) r.treePartials += count;
  r.tree = static_cast<Partial*>(malloc(r.treePartials * r.outputs * sizeof(Partial)));
  return r.tree != nullptr;
}

// Brings the tree up to date with the input.
static void treeUpdate(Reduce& r, const Step& step, StepRun& run, const RangeSet* changed) {
  Exec& exec = *run.exec;
  Arena& arena = mainArena(exec);
  RangeSet blocks;
  memset(&blocks, 0, sizeof blocks);
  const PageSlot* input = slotOf(step.inputs[0]);
  if (changed == nullptr || !r.treeValid || r.treeLoads != input->loads) {
    rangesPush(blocks, 0, u32(r.outputs * r.blocks), arena);
  } else {
    dirtyBlocks(r, *changed, blocks, arena);
  }
  TreeJob job = {&exec, &r, step.inputs[0], &blocks, 32, rangesElements(blocks)};
  if (worthThreads(exec, f64(job.total) * kReduceBlock * 0.3)) {
    while (job.total / job.perTask >= kTasksMax) job.perTask *= 2;
    r.treeValid = poolRun(*exec.pool, u32((job.total + job.perTask - 1) / job.perTask), treeTask, &job);
    if (!r.treeValid) return;
  } else {
    job.perTask = job.total;
    if (job.total != 0) treeTask(&job, 0, 0);
  }
  for (u32 i = 0; i < blocks.count; i++) {
    u64 at = blocks.data[i].start;
    const u64 end = at + blocks.data[i].count;
    while (at < end) {
      const u64 output = at / r.blocks;
      const u64 laneEnd = (output + 1) * r.blocks < end ? (output + 1) * r.blocks : end;
      treeClimb(r, u32(output), at - output * r.blocks, laneEnd - 1 - output * r.blocks);
      at = laneEnd;
    }
  }
  r.treeValid = true;
  r.treeLoads = input->loads;
}

}  // namespace MMSB_NS
}  // namespace mmsb
