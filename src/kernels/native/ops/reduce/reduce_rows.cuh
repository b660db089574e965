// Reduces one lane at a time: computes its blocks one after another and joins them as they come.
#pragma once
#include "ops/reduce/reduce_fold.cuh"

namespace mmsb {
namespace MMSB_NS {

static const u32 kReduceDepth = 23;  // levels over 2^22 blocks

// Gathers and widens a lane's elements [first, first + count) into `x`.
static void gatherBlock(const Reduce& r, const Page& input, u32 start, u64 first, u32 count, void* x) {
  const u32 size = dtypeBytes(r.dtype);
  u8* to = static_cast<u8*>(x);
  if (r.reducedCount == 0) return loadWide(r, input.data + u64(start) * size, to, count);
  const ReduceDim& inner = r.reduced[r.reducedCount - 1];
  u64 index = first;
  u32 left = count;
  while (left != 0) {
    const u32 at = u32(index % inner.size);
    const u32 run = inner.stride != 1 ? 1 : inner.size - at < left ? inner.size - at : left;
    const u32 offset = start + laneOffset(r.reduced, r.reducedCount, index);
    loadWide(r, input.data + u64(offset) * size, to, run);
    to += 8ull * run;
    index += run;
    left -= run;
  }
}

// Joins partials that come in order, with the same shape as the levels of op_reduce.cuh: equal subtrees at
// once, the rest at the end.
struct PartialStack {
  Partial partials[kReduceDepth + 1];
  u64 sizes[kReduceDepth + 1];
  u32 count;
};

static void stackPush(const Reduce& r, PartialStack& stack, Partial partial) {
  u64 size = 1;
  while (stack.count != 0 && stack.sizes[stack.count - 1] == size) {
    partial = joinOf(r, stack.partials[--stack.count], partial);
    size *= 2;
  }
  stack.partials[stack.count] = partial;
  stack.sizes[stack.count++] = size;
}

static Partial stackRoot(const Reduce& r, PartialStack& stack) {
  Partial root = stack.partials[--stack.count];
  while (stack.count != 0) root = joinOf(r, stack.partials[--stack.count], root);
  return root;
}

// Computes the partial of the elements [first, first + count) of the lane that starts at `start`.
static Partial laneBlockPartial(const Reduce& r, const Page& input, u32 start, u64 first, u32 count, void* x) {
  Partial partial;
  const bool neighbours = r.reducedCount == 1 && r.reduced[0].stride == 1;
  if (neighbours && foldInPlace(r, input.data + (start + first) * dtypeBytes(r.dtype), count, first, &partial)) {
    return partial;
  }
  gatherBlock(r, input, start, first, count, x);
  return blockPartialOf(r, x, count, first);
}

static u64 reduceLane(const Reduce& r, const Page& input, u32 output, void* x) {
  const u32 start = laneStart(r.kept, r.keptCount, output);
  if (r.blocks == 1) return finishValue(r, laneBlockPartial(r, input, start, 0, u32(r.n), x));
  PartialStack stack;
  stack.count = 0;
  for (u64 block = 0; block < r.blocks; block++) {
    stackPush(r, stack, laneBlockPartial(r, input, start, block * kReduceBlock, blockCount(r, block), x));
  }
  return finishValue(r, stackRoot(r, stack));
}

}  // namespace MMSB_NS
}  // namespace mmsb
