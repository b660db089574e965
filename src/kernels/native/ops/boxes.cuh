// Converts ranges of a row-major array to boxes and back. Ops that move, widen or pick elements use it in
// their dirty rules.
//
// Invariants: a range becomes at most 2 * rank + 1 boxes that contain exactly its elements. The ranges pushed
// for a box contain at least its elements. If a box has too many runs, a larger range is pushed; which one
// depends on the boxes only.
#pragma once
#include "core/op.cuh"

namespace mmsb {

// Elements with lo[d] <= coordinate d < hi[d].
struct Box {
  u32 lo[8], hi[8];
};

// The shape of the array.
struct Extent {
  u32 rank;
  u32 shape[8];
  u32 elements;
};

namespace MMSB_NS {

static inline Extent extentOf(const Page& page) {
  Extent extent = {page.rank, {}, page.elements};
  memcpy(extent.shape, page.shape, sizeof extent.shape);
  return extent;
}

// The shape [outer, n, inner].
static inline Extent extentOf3(u32 outer, u32 n, u32 inner) {
  return Extent{3, {outer, n, inner, 1, 1, 1, 1, 1}, u32(u64(outer) * n * inner)};
}

// Collects boxes as ranges of the output. `budget` bounds the number of ranges in one call of an op's
// dirty().
struct BoxSink {
  RangeSet* out;
  Arena* arena;
  Extent extent;
  u64 budget;
};

static const u64 kBoxRunsMax = MMSB_SIZE(1u << 20, 10);

static inline BoxSink makeBoxSink(RangeSet& out, Arena& arena, const Extent& extent) {
  return BoxSink{&out, &arena, extent, kBoxRunsMax};
}

static void pushBoxRuns(BoxSink& sink, const Box& box, u32 d, u32 last, u64 base, u64 inner) {
  const u32* shape = sink.extent.shape;
  inner /= shape[d];
  if (d == last) {
    return rangesPush(*sink.out, u32(base + box.lo[d] * inner), u32((box.hi[d] - box.lo[d]) * inner), *sink.arena);
  }
  for (u32 i = box.lo[d]; i < box.hi[d]; i++) pushBoxRuns(sink, box, d + 1, last, base + i * inner, inner);
}

// Pushes the elements of a box.
static void pushBox(BoxSink& sink, const Box& box) {
  const u32 rank = sink.extent.rank;
  if (sink.extent.elements == 0) return;
  u64 runs = 1, first = 0, end = 0;
  u32 last = 0;  // all axes after it are complete
  for (u32 d = 0; d < rank; d++) {
    if (box.lo[d] >= box.hi[d]) return;
    if (box.lo[d] != 0 || box.hi[d] != sink.extent.shape[d]) last = d;
    first = first * sink.extent.shape[d] + box.lo[d];
    end = end * sink.extent.shape[d] + (box.hi[d] - 1);
  }
  for (u32 d = 0; d < last; d++) runs *= box.hi[d] - box.lo[d];
  if (rank == 0 || runs > sink.budget) return rangesPush(*sink.out, u32(first), u32(end - first) + 1, *sink.arena);
  sink.budget -= runs;
  pushBoxRuns(sink, box, 0, last, 0, sink.extent.elements);
}

// Calls emit(box) for boxes that together contain exactly the elements [first, end). `inner` is the number of
// elements in the axes from d on.
template <class EMIT>
static void cutBoxes(const Extent& extent, u32 d, u64 inner, u64 first, u64 end, Box& box, EMIT& emit) {
  if (first >= end) return;
  if (d == extent.rank || (first == 0 && end == inner)) {
    for (u32 rest = d; rest < extent.rank; rest++) {
      box.lo[rest] = 0;
      box.hi[rest] = extent.shape[rest];
    }
    return emit(box);
  }
  const u64 stride = inner / extent.shape[d];
  const auto part = [&](u64 at, u64 from, u64 to) {
    box.lo[d] = u32(at);
    box.hi[d] = u32(at) + 1;
    cutBoxes(extent, d + 1, stride, from, to, box, emit);
  };
  u64 from = first / stride;
  const u64 whole = end / stride;
  if (from == whole) return part(from, first - from * stride, end - from * stride);
  if (first % stride != 0) {
    part(from, first - from * stride, stride);
    from++;
  }
  if (from < whole) {
    box.lo[d] = u32(from);
    box.hi[d] = u32(whole);
    for (u32 rest = d + 1; rest < extent.rank; rest++) {
      box.lo[rest] = 0;
      box.hi[rest] = extent.shape[rest];
    }
    emit(box);
  }
  if (end % stride != 0) part(whole, 0, end - whole * stride);
}

template <class EMIT>
static void eachBox(const Extent& extent, const RangeSet& changed, EMIT emit) {
  Box box;
  memset(&box, 0, sizeof box);
  for (u32 i = 0; i < changed.count; i++) {
    const u64 first = changed.data[i].start;
    cutBoxes(extent, 0, extent.elements, first, first + changed.data[i].count, box, emit);
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
