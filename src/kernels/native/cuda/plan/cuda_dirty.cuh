// Finds the elements of a step's output that may change, in the form that its kernel needs: elements, rows
// and columns, or lanes.
#pragma once
#include "cuda/ops/cuda_lanes.cuh"
#include "cuda/ops/cuda_matmul.cuh"
#include "cuda/ops/cuda_stencil.cuh"
#include "cuda/plan/cuda_device.cuh"

namespace mmsb {
namespace MMSB_NS {

struct StepDirty {
  RangeSet elements;
  RangeSet rows, columns;  // matmul
  RangeSet lanes;          // topk, sort, long windows; for scan one range per span
  LaneSpans spans;
  Range laneRows;  // window: the rows that change, in any lane
  u64 count;       // number of elements computed
};

static void matmulElements(const Matmul& m, StepDirty& dirty, Arena& arena) {
  const u64 all = u64(m.batches) * m.rows, whole = rangesElements(dirty.rows), columns = rangesElements(dirty.columns);
  dirty.count = whole * m.columns + (all - whole) * columns;
  for (u32 i = 0; i < dirty.rows.count; i++) {
    rangesPush(dirty.elements, dirty.rows.data[i].start * m.columns, dirty.rows.data[i].count * m.columns, arena);
  }
  if (columns != 0 && all * dirty.columns.count > kRangesMax) {
    rangesPush(dirty.elements, 0, u32(all * m.columns), arena);
  } else {
    for (u64 row = 0; columns != 0 && row < all; row++) {
      for (u32 i = 0; i < dirty.columns.count; i++) {
        rangesPush(dirty.elements, u32(row * m.columns) + dirty.columns.data[i].start, dirty.columns.data[i].count,
                   arena);
      }
    }
  }
}

static void topkElements(const Topk& state, StepDirty& dirty, Arena& arena) {
  const u32 inner = state.lanes.inner;
  dirty.count = rangesElements(dirty.lanes) * state.k;
  for (u32 i = 0; i < dirty.lanes.count; i++) {
    u32 lane = dirty.lanes.data[i].start;
    const u32 end = lane + dirty.lanes.data[i].count;
    while (lane < end) {
      const u32 outer = lane / inner, offset = lane % inner;
      const u32 width = inner - offset < end - lane ? inner - offset : end - lane;
      if (width == inner || u64(state.k) * dirty.lanes.count > kRangesMax) {
        rangesPush(dirty.elements, outer * state.k * inner, state.k * inner, arena);
      } else {
        for (u32 j = 0; j < state.k; j++) {
          rangesPush(dirty.elements, (outer * state.k + j) * inner + offset, width, arena);
        }
      }
      lane += width;
    }
  }
}

// scan and sort: the elements of changed lanes, from the first changed element on.
static void spanElements(const Step& step, bool full, const RangeSet& changed, StepDirty& dirty, Arena& arena) {
  const LaneOp& op = *static_cast<const LaneOp*>(step.state);
  const u32 n = op.lanes.n, inner = op.lanes.inner;
  if (full) spansPush(dirty.spans, 0, op.lanes.outer * inner, 0, arena);
  else dirty.spans = dirtySpans(op, changed, step.op->code == MMSB_OP_SORT, arena);
  BoxSink sink = makeBoxSink(dirty.elements, arena, extentOf3(op.lanes.outer, n, inner));
  dirty.lanes.data = static_cast<Range*>(arenaAlloc(arena, u64(dirty.spans.count) * sizeof(Range)));
  if (dirty.lanes.data == nullptr) return;
  for (u32 i = 0; i < dirty.spans.count; i++) {
    const LaneSpan span = dirty.spans.data[i];
    dirty.count += u64(span.count) * (n - span.from);
    dirty.lanes.data[dirty.lanes.count++] = Range{span.lane, span.count};
    u32 lane = span.lane;
    const u32 end = span.lane + span.count;
    while (lane < end) {  // one slab at a time, or whole slabs together
      const u32 column = lane % inner, room = inner - column < end - lane ? inner - column : end - lane;
      const u32 slabs = column == 0 && end - lane >= inner ? (end - lane) / inner : 0;
      const u32 first = lane / inner;
      if (slabs != 0) pushBox(sink, Box{{first, span.from, 0}, {first + slabs, n, inner}});
      else pushBox(sink, Box{{first, span.from, column}, {first + 1, n, column + room}});
      lane += slabs != 0 ? slabs * inner : room;
    }
  }
}

// Long windows: the lanes of the changed elements, and the rows from the first to the last of any lane.
static void windowLanes(const Step& step, StepDirty& dirty, Arena& arena) {
  const Window& w = *static_cast<const Window*>(step.state);
  u32 first = w.lanes.n, end = 0;
  eachBox(extentOf3(w.lanes.outer, w.lanes.n, w.lanes.inner), dirty.elements, [&](const Box& box) {
    first = box.lo[1] < first ? box.lo[1] : first;
    end = box.hi[1] > end ? box.hi[1] : end;
    if (box.hi[2] - box.lo[2] == w.lanes.inner) {
      return rangesPush(dirty.lanes, box.lo[0] * w.lanes.inner, (box.hi[0] - box.lo[0]) * w.lanes.inner, arena);
    }
    for (u32 o = box.lo[0]; o < box.hi[0]; o++) {
      rangesPush(dirty.lanes, o * w.lanes.inner + box.lo[2], box.hi[2] - box.lo[2], arena);
    }
  });
  rangesNormalise(dirty.lanes, arena);
  dirty.laneRows = Range{first, end - first};
}

static inline bool isLongWindow(const Step& step) {
  return step.op->code == MMSB_OP_WINDOW && static_cast<const Window*>(step.state)->size > kWindowShort;
}

// changed[i] has the changed elements of input i, as a canonical set, or is null.
static StepDirty stepDirty(const Step& step, bool full, const RangeSet* const* changed, Arena& arena) {
  StepDirty dirty;
  memset(&dirty, 0, sizeof dirty);
  bool any = full;
  for (u32 i = 0; i < step.inputCount; i++) any = any || changed[i] != nullptr;
  if (!any || step.out->elements == 0) return dirty;
  if (step.op->code == MMSB_OP_MATMUL) {
    const Matmul& m = *static_cast<const Matmul*>(step.state);
    dirtyMatmul(m, full, changed[0], changed[1], dirty.rows, dirty.columns, arena);
    matmulElements(m, dirty, arena);
    rangesNormalise(dirty.elements, arena);
    return dirty;
  }
  if (step.op->code == MMSB_OP_TOPK) {
    const Topk& state = *static_cast<const Topk*>(step.state);
    const u32 lanes = state.lanes.outer * state.lanes.inner;
    if (full) rangesPush(dirty.lanes, 0, lanes, arena);
    for (u32 i = 0; !full && i < changed[0]->count; i++) {
      const u64 first = changed[0]->data[i].start;
      projectRange(state.lanes.dims, 3, 0, 0, step.inputs[0]->elements, lanes, first, first + changed[0]->data[i].count,
                   dirty.lanes, arena);
    }
    rangesNormalise(dirty.lanes, arena);
    topkElements(state, dirty, arena);
    rangesNormalise(dirty.elements, arena);
    return dirty;
  }
  if (step.op->code == MMSB_OP_SCAN || step.op->code == MMSB_OP_SORT) {
    spanElements(step, full, full ? dirty.elements : *changed[0], dirty, arena);
    rangesNormalise(dirty.elements, arena);
    return dirty;
  }
  const Step& seen = deviceStepOf(step)->shadow != nullptr ? *deviceStepOf(step)->shadow : step;
  if (full) rangesPush(dirty.elements, 0, step.out->elements, arena);
  for (u32 i = 0; !full && i < step.inputCount; i++) {
    if (changed[i] == nullptr) continue;
    if (step.op->dirty == nullptr) rangesPush(dirty.elements, 0, step.out->elements, arena);
    else step.op->dirty(seen, i, *changed[i], dirty.elements, arena);
  }
  rangesNormalise(dirty.elements, arena);
  dirty.count = rangesElements(dirty.elements);
  if (isLongWindow(step)) windowLanes(step, dirty, arena);
  return dirty;
}

// The elements of a page that may have changed, as far as is known while the segment is planned.
static const RangeSet* plannedChanges(const Device& device, const Exec& exec, const Page* page, RangeSet* joined,
                                      Arena& arena) {
  const PageSlot* slot = slotOf(page);
  const RangeSet* known = changesOf(exec, page);
  const DevicePage* own = devicePageOf(slot);
  if (own == nullptr || own->segment != device.segment || own->planned.count == 0) return known;
  if (known == nullptr) return &own->planned;
  *joined = emptySet();
  pushAll(*joined, *known, arena);
  pushAll(*joined, own->planned, arena);
  rangesNormalise(*joined, arena);
  return joined;
}

}  // namespace MMSB_NS
}  // namespace mmsb
