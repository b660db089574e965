// The state of scan and sort steps, and the lanes that a change affects, for the CPU (op_lanes.cuh) and the
// CUDA backend.
#pragma once
#include "core/ranges.cuh"
#include "ops/boxes.cuh"
#include "ops/folds.cuh"
#include "ops/projection.cuh"

namespace mmsb {

struct LaneOp {
  Lanes lanes;
  u32 fn;           // scan
  u8 wide;          // class of the running value
  bool resumes;     // scan: the output contains the running value, so a scan can go on from it
  bool descending;  // sort
};

// Lanes [lane, lane + count) change from element `from` on.
struct LaneSpan {
  u32 lane, count, from;
};

struct LaneSpans {
  LaneSpan* data;
  u32 count, capacity;
};

namespace MMSB_NS {

static void spansPush(LaneSpans& spans, u32 lane, u32 count, u32 from, Arena& arena) {
  if (spans.count == spans.capacity) {
    const u32 capacity = spans.capacity == 0 ? 16 : 2 * spans.capacity;
    LaneSpan* data = static_cast<LaneSpan*>(arenaAlloc(arena, u64(capacity) * sizeof(LaneSpan)));
    if (data == nullptr) return;
    if (spans.count != 0) memcpy(data, spans.data, u64(spans.count) * sizeof(LaneSpan));
    spans.data = data;
    spans.capacity = capacity;
  }
  spans.data[spans.count++] = LaneSpan{lane, count, from};
}

// Makes the spans ascending and disjoint. A lane in several spans changes from the lowest of their elements
// on; so do spans that are merged.
static void spansSettle(LaneSpans& spans, Arena& arena) {
  if (spans.count < 2) return;
  RangeSet order;  // sorted by lane; `count` is the number of the span
  memset(&order, 0, sizeof order);
  order.data = static_cast<Range*>(arenaAlloc(arena, u64(spans.count) * sizeof(Range)));
  LaneSpan* sorted = static_cast<LaneSpan*>(arenaAlloc(arena, u64(spans.count) * sizeof(LaneSpan)));
  if (order.data == nullptr || sorted == nullptr) return;
  order.count = order.capacity = spans.count;
  for (u32 i = 0; i < spans.count; i++) order.data[i] = Range{spans.data[i].lane, i};
  rangesSortRadix(order, arena);
  u32 kept = 0;
  for (u32 i = 0; i < spans.count; i++) {
    const LaneSpan next = spans.data[order.data[i].count];
    if (i != 0) {
      LaneSpan& last = sorted[kept - 1];
      const u64 lastEnd = u64(last.lane) + last.count, end = u64(next.lane) + next.count;
      if (next.lane < lastEnd || (next.lane == lastEnd && next.from == last.from)) {
        if (end > lastEnd) last.count = u32(end - last.lane);
        if (next.from < last.from) last.from = next.from;
        continue;
      }
    }
    sorted[kept++] = next;
  }
  spans.data = sorted;
  spans.count = kept;
}

static LaneSpans dirtySpans(const LaneOp& state, const RangeSet& changed, bool wholeLanes, Arena& arena) {
  LaneSpans spans = {nullptr, 0, 0};
  const Lanes& lanes = state.lanes;
  eachBox(extentOf3(lanes.outer, lanes.n, lanes.inner), changed, [&](const Box& box) {
    const u32 from = wholeLanes ? 0 : box.lo[1], width = box.hi[2] - box.lo[2];
    if (width == lanes.inner) {
      return spansPush(spans, box.lo[0] * lanes.inner, (box.hi[0] - box.lo[0]) * lanes.inner, from, arena);
    }
    for (u32 o = box.lo[0]; o < box.hi[0]; o++) spansPush(spans, o * lanes.inner + box.lo[2], width, from, arena);
  });
  spansSettle(spans, arena);
  return spans;
}

}  // namespace MMSB_NS
}  // namespace mmsb
