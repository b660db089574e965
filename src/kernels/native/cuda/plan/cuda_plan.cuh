// A segment: deltas and steps planned on the host, copied to the device at once, launched in order (cuda_launch.cuh), and
// read back at once.
//
// Invariants: while a segment is planned nothing is known of its results, so what may change is a set that holds what does;
// kernels mark what really did, and afterwards changes, digests and the log of steps are exactly the CPU's. In a segment
// one launch at most writes a page. Nothing is launched before all memory is there. Every buffer is grown on the host
// side first; device addresses are written into it when its place is final.
#pragma once
#include "core/changes.cuh"
#include "core/device_part.cuh"
#include "cuda/ops/cuda_lanes.cuh"
#include "cuda/ops/cuda_matmul.cuh"
#include "cuda/ops/cuda_reduce.cuh"
#include "cuda/ops/cuda_rtc.cuh"
#include "cuda/ops/cuda_stencil.cuh"
#include "cuda/ops/map_cuda.cuh"
#include "cuda/plan/cuda_graph.cuh"
#include "exec/past.cuh"

namespace mmsb {

// The device's side of a page; PageSlot::device.
struct DevicePage {
  u32* chunkSlot;
  PageSlot* mirror;
  RangeSet planned;  // what may change in the segment; valid when `segment` is the running one
  u64 segment;
  u32 target;
  u32 firstDelta, lastDelta;  // of this page, in the list of the call; valid when deltaCall is the call's
  u64 deltaCall;
};

// The device's side of a step; Step::device.
struct DeviceStep {
  bool onHost;
  u64 serial;    // of its context; never comes again
  Step* shadow;  // the step with inputs in host memory, where its dirty rule reads them
  void* state;   // MapDevice, Reduce, MatDevice or ConcatDevice, on the device
  void* code;   // of a map
  void* kernel; // of a map: compiled on the spot, or null
  u64 stateBytes, codeBytes;
  u64 scratchBytes;
  PageSlot* mirroredOut;  // the device page that a step on the host writes through its mirror, or null
};

enum LaunchKind : u32 { LAUNCH_DELTAS, LAUNCH_CHAINS, LAUNCH_STEP };

// Offsets are into the staging buffer.
struct Launch {
  LaunchKind kind;
  Step* step;
  u32 target, count;
  u64 work;          // DeviceRanges, of elements or lanes
  u32 workElements;
  u64 first, second; // pieces; chains and links; rows and tasks; where the lanes of a scan begin
  Range rows;        // that a window reaches, of its lanes
};

// A step as it goes into the log when its segment has ended.
struct PlannedStep {
  Step* step;
  bool full, before;
  u64 elements;  // of a step that runs before the deltas
};

template <class T>
struct List {
  T* data;
  u32 count, capacity;
};

struct Target {
  PageSlot* slot;
  u32 firstChunk, chunkCount;  // in the list of chunks
  bool fromMirror;
};

struct Device {
  const CpuPart* cpu;
  cudaStream_t stream;
  DevicePools pools;
  u32* keys;
  TwinBuffer stage, result;
  void* scratch;
  u64 scratchBytes;
  u32* marks;     // of all chunks of a segment, then those of chunks that changed in part
  u64 markBytes;
  u32* moreMarks; // on the host: what of these was read back
  u64 moreBytes;
  u32 blocks;  // of a launch at most
  u32 arch;    // 90 for compute capability 9.0
  u64 segment;
  List<Launch> launches;
  List<Target> targets;
  List<PlannedStep> planned;
  List<DeviceChunk> chunks;
  u64 framesAt;  // in the staging buffer, or ~0
  u64 serials;   // of steps
  Graphs graphs;
};

namespace MMSB_NS {

template <class T>
static int32_t listPush(List<T>& list, const T& item) {
  if (list.count == list.capacity) {
    const u32 wanted = list.capacity == 0 ? 64 : list.capacity * 2;
    void* larger = realloc(list.data, u64(wanted) * sizeof(T));
    if (larger == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for the plan of an epoch");
    list.data = static_cast<T*>(larger);
    list.capacity = wanted;
  }
  list.data[list.count++] = item;
  return MMSB_OK;
}

static inline DevicePage* devicePageOf(const PageSlot* slot) { return static_cast<DevicePage*>(slot->device); }
static inline DeviceStep* deviceStepOf(const Step& step) { return static_cast<DeviceStep*>(step.device); }

static RangeSet emptySet() {
  RangeSet set;
  memset(&set, 0, sizeof set);
  return set;
}

static void pushAll(RangeSet& to, const RangeSet& from, Arena& arena) {
  for (u32 i = 0; i < from.count; i++) rangesPush(to, from.data[i].start, from.data[i].count, arena);
}

// ---- targets ------------------------------------------------------------------------------------------------------------

static int32_t beginSegment(Device& device) {
  device.segment++;
  device.launches.count = 0;
  device.targets.count = 0;
  device.planned.count = 0;
  device.chunks.count = 0;
  device.stage.used = 0;
  device.framesAt = ~0ull;
  return MMSB_OK;
}

static inline bool isTarget(const Device& device, const PageSlot& slot) { return devicePageOf(&slot)->segment == device.segment; }

// The page may change in the elements `planned` (canonical).
static int32_t addTarget(Device& device, PageSlot& slot, const RangeSet& planned, bool fromMirror, u32* number) {
  DevicePage& page = *devicePageOf(&slot);
  page.segment = device.segment;
  page.planned = planned;
  page.target = device.targets.count;
  *number = page.target;
  return listPush(device.targets, Target{&slot, 0, 0, fromMirror});
}

// ---- what a step's output may change in ------------------------------------------------------------------------------------

struct StepDirty {
  RangeSet elements;
  RangeSet rows, columns;  // matmul
  RangeSet lanes;          // topk, sort, long windows; of a scan one for each span
  LaneSpans spans;
  Range laneRows;          // window: the rows that change, of all lanes
  u64 count;               // of elements computed
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
        rangesPush(dirty.elements, u32(row * m.columns) + dirty.columns.data[i].start, dirty.columns.data[i].count, arena);
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
        for (u32 j = 0; j < state.k; j++) rangesPush(dirty.elements, (outer * state.k + j) * inner + offset, width, arena);
      }
      lane += width;
    }
  }
}

// scan and sort: the elements of the lanes that change, from the first that does.
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
    while (lane < end) {  // slab by slab, or whole slabs together
      const u32 column = lane % inner, room = inner - column < end - lane ? inner - column : end - lane;
      const u32 slabs = column == 0 && end - lane >= inner ? (end - lane) / inner : 0;
      const u32 first = lane / inner;
      if (slabs != 0) pushBox(sink, Box{{first, span.from, 0}, {first + slabs, n, inner}});
      else pushBox(sink, Box{{first, span.from, column}, {first + 1, n, column + room}});
      lane += slabs != 0 ? slabs * inner : room;
    }
  }
}

// A long window: the lanes of its elements, and the rows between the first and the last of any.
static void windowLanes(const Step& step, StepDirty& dirty, Arena& arena) {
  const Window& w = *static_cast<const Window*>(step.state);
  u32 first = w.lanes.n, end = 0;
  eachBox(extentOf3(w.lanes.outer, w.lanes.n, w.lanes.inner), dirty.elements, [&](const Box& box) {
    first = box.lo[1] < first ? box.lo[1] : first;
    end = box.hi[1] > end ? box.hi[1] : end;
    if (box.hi[2] - box.lo[2] == w.lanes.inner) {
      return rangesPush(dirty.lanes, box.lo[0] * w.lanes.inner, (box.hi[0] - box.lo[0]) * w.lanes.inner, arena);
    }
    for (u32 o = box.lo[0]; o < box.hi[0]; o++) rangesPush(dirty.lanes, o * w.lanes.inner + box.lo[2], box.hi[2] - box.lo[2], arena);
  });
  rangesNormalise(dirty.lanes, arena);
  dirty.laneRows = Range{first, end - first};
}

static inline bool isLongWindow(const Step& step) {
  return step.op->code == MMSB_OP_WINDOW && static_cast<const Window*>(step.state)->size > kWindowShort;
}

// `changed[i]`: what changed of input i, or null. Canonical sets.
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
      projectRange(state.lanes.dims, 3, 0, 0, step.inputs[0]->elements, lanes, first, first + changed[0]->data[i].count, dirty.lanes, arena);
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

// What may have changed of a page, as far as it is known while the segment is planned.
static const RangeSet* plannedChanges(const Device& device, const Exec& exec, const Page* page, RangeSet* joined, Arena& arena) {
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

// ---- staging ----------------------------------------------------------------------------------------------------------------

// A DeviceRanges for a set, whose pointers are offsets until the segment is sealed.
static int32_t stageRanges(Device& device, const RangeSet& set, u64* at, u32* elements) {
  DeviceRanges work = {set.count, u32(rangesElements(set)), nullptr, nullptr};
  u64 ranges, first;
  MMSB_TRY(twinPut(device.stage, set.data, u64(set.count) * sizeof(Range), &ranges));
  MMSB_TRY(twinPut(device.stage, nullptr, u64(set.count) * sizeof(u32), &first));
  u32 sum = 0;
  for (u32 i = 0; i < set.count; i++) {
    memcpy(device.stage.host + first + 4ull * i, &sum, 4);
    sum += set.data[i].count;
  }
  work.ranges = reinterpret_cast<const Range*>(ranges);
  work.first = reinterpret_cast<const u32*>(first);
  *elements = work.elements;
  return twinPut(device.stage, &work, sizeof work, at);
}

template <class T>
static inline T* staged(const Device& device, u64 offset) {
  return reinterpret_cast<T*>(device.stage.device + offset);
}
template <class T>
static inline T* stagedHost(const Device& device, u64 offset) {
  return reinterpret_cast<T*>(device.stage.host + offset);
}
template <class T>
static inline void rebase(const Device& device, T*& pointer) {
  pointer = reinterpret_cast<T*>(device.stage.device + reinterpret_cast<u64>(pointer));
}

static void sealRanges(const Device& device, u64 at) {
  DeviceRanges* work = stagedHost<DeviceRanges>(device, at);
  rebase(device, work->ranges);
  rebase(device, work->first);
}

// ---- deltas -------------------------------------------------------------------------------------------------------------------

// Calls visit(start, count, value) for each run of elements that a delta writes, `value` being the number of its first value.
template <class Visit>
static int32_t eachRun(const Delta& delta, const Visit& visit) {
  if (delta.kind == DELTA_DENSE) return visit(delta.offset, delta.count, 0u);
  u32 value = 0;
  if (delta.kind == DELTA_SPARSE) {
    for (u32 i = 0; i < delta.count; i++) {
      u32 index;
      memcpy(&index, delta.where + 4ull * i, 4);
      MMSB_TRY(visit(index, 1u, i));
    }
    return MMSB_OK;
  }
  u64 at = 0;
  if (delta.runLength) {
    for (u32 r = 0; r < delta.runCount; r++) {
      u32 run[2];
      memcpy(run, delta.where + 8ull * r, 8);
      at += run[0];
      if (run[1] != 0) MMSB_TRY(visit(u32(delta.offset + at), run[1], value));
      value += run[1];
      at += run[1];
    }
    return MMSB_OK;
  }
  const auto bit = [&](u64 i) { return (delta.where[i >> 3] >> (i & 7) & 1) != 0; };
  while (at < delta.count) {
    if (!bit(at)) {
      at += (at & 7) == 0 && delta.where[at >> 3] == 0 ? 8 : 1;
      continue;
    }
    u32 run = 1;
    while (at + run < delta.count && bit(at + run)) run++;
    MMSB_TRY(visit(u32(delta.offset + at), run, value));
    value += run;
    at += run;
  }
  return MMSB_OK;
}

struct DeltaGroup {
  const DeltaList* list;
  const u32* next;    // of the same page
  const u8* frames;
  u32 first;
};

template <class Visit>
static int32_t eachDelta(const DeltaGroup& group, const Visit& visit) {
  for (u32 i = group.first; i != ~0u; i = group.next[i]) MMSB_TRY(visit(group.list->data[i]));
  return MMSB_OK;
}

static inline u64 valueOffset(const Device& device, const DeltaGroup& group, const Delta& delta) {
  return device.framesAt + u64(delta.values - group.frames);
}

static int32_t pushPieces(const Device& device, const DeltaGroup& group, const Delta& delta, u32 target, List<DeltaPiece>& pieces) {
  const u32 size = dtypeBytes(delta.slot->page.dtype);
  return eachRun(delta, [&](u32 start, u32 count, u32 value) {
    for (u32 done = 0; done < count; done += kPieceElements) {
      DeltaPiece piece;
      memset(&piece, 0, sizeof piece);
      piece.values = reinterpret_cast<const u8*>(valueOffset(device, group, delta) + (u64(value) + done) * size);
      piece.start = start + done;
      piece.count = count - done < kPieceElements ? count - done : kPieceElements;
      piece.target = target;
      piece.merge = delta.merge;
      MMSB_TRY(listPush(pieces, piece));
    }
    return int32_t(MMSB_OK);
  });
}

// Short runs are written by index: the indices are staged, and the pieces point at them.
static int32_t pushIndexed(Device& device, const DeltaGroup& group, const Delta& delta, u32 target, List<DeltaPiece>& pieces) {
  const u32 size = dtypeBytes(delta.slot->page.dtype);
  u64 indices;
  MMSB_TRY(twinPut(device.stage, nullptr, 4ull * delta.valueCount, &indices));
  u32 filled = 0;
  MMSB_TRY(eachRun(delta, [&](u32 start, u32 count, u32) {
    for (u32 i = 0; i < count; i++, filled++) {
      const u32 element = start + i;
      memcpy(device.stage.host + indices + 4ull * filled, &element, 4);
    }
    return int32_t(MMSB_OK);
  }));
  for (u32 done = 0; done < filled; done += kPieceElements) {
    DeltaPiece piece;
    memset(&piece, 0, sizeof piece);
    piece.values = reinterpret_cast<const u8*>(valueOffset(device, group, delta) + u64(done) * size);
    piece.indices = reinterpret_cast<const u32*>(indices + 4ull * done);
    piece.count = filled - done < kPieceElements ? filled - done : kPieceElements;
    piece.target = target;
    piece.merge = delta.merge;
    MMSB_TRY(listPush(pieces, piece));
  }
  return MMSB_OK;
}

// Deltas that overlap: for each element the chain of what happens to it, in order.
static int32_t planChains(Device& device, const DeltaGroup& group, u32 target, u32 size, Arena& arena) {
  u64 total = 0;
  MMSB_TRY(eachDelta(group, [&](const Delta& delta) {
    total += delta.valueCount;
    return int32_t(MMSB_OK);
  }));
  if (total >= 1ull << 32) return fail(MMSB_ERR_MEMORY, "%llu values overlap in one epoch", (unsigned long long)total);
  RangeSet order = emptySet();  // {element, number of its link}
  order.data = static_cast<Range*>(arenaAlloc(arena, total * sizeof(Range)));
  if (order.data == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for deltas that overlap");
  order.capacity = u32(total);
  u64 linksAt, elementsAt, firstAt, sortedAt;
  MMSB_TRY(twinPut(device.stage, nullptr, total * sizeof(DeltaLink), &linksAt));
  MMSB_TRY(eachDelta(group, [&](const Delta& delta) {
    return eachRun(delta, [&](u32 start, u32 count, u32 value) {
      for (u32 i = 0; i < count; i++) {
        const DeltaLink link = {reinterpret_cast<const u8*>(valueOffset(device, group, delta) + (u64(value) + i) * size), delta.merge, 0};
        memcpy(stagedHost<DeltaLink>(device, linksAt) + order.count, &link, sizeof link);
        order.data[order.count] = Range{start + i, order.count};
        order.count++;
      }
      return int32_t(MMSB_OK);
    });
  }));
  if (order.count > 32) rangesSortRadix(order, arena);  // both keep the order of equals
  else rangesSortSmall(order.data, order.count);
  MMSB_TRY(twinPut(device.stage, nullptr, total * sizeof(DeltaLink), &sortedAt));
  MMSB_TRY(twinPut(device.stage, nullptr, total * 4, &elementsAt));
  MMSB_TRY(twinPut(device.stage, nullptr, (total + 1) * 4, &firstAt));
  u32 count = 0;
  for (u32 i = 0; i < order.count; i++) {
    stagedHost<DeltaLink>(device, sortedAt)[i] = stagedHost<DeltaLink>(device, linksAt)[order.data[i].count];
    if (i != 0 && order.data[i].start == order.data[i - 1].start) continue;
    stagedHost<u32>(device, elementsAt)[count] = order.data[i].start;
    stagedHost<u32>(device, firstAt)[count++] = i;
  }
  stagedHost<u32>(device, firstAt)[count] = order.count;
  const DeltaChains chains = {reinterpret_cast<const u32*>(elementsAt), reinterpret_cast<const u32*>(firstAt),
                              reinterpret_cast<const DeltaLink*>(sortedAt), count, target};
  u64 at;
  MMSB_TRY(twinPut(device.stage, &chains, sizeof chains, &at));
  return listPush(device.launches, Launch{LAUNCH_CHAINS, nullptr, target, order.count, 0, count, at, 0, {0, 0}});
}

static int32_t planPageDeltas(Device& device, PageSlot& slot, const DeltaGroup& group, List<DeltaPiece>& pieces, Arena& arena) {
  RangeSet writes = emptySet();
  bool ordered = true;
  MMSB_TRY(eachDelta(group, [&](const Delta& delta) {
    ordered = ordered && delta.ascending;
    return eachRun(delta, [&](u32 start, u32 count, u32) {
      rangesPush(writes, start, count, arena);  // joins neighbours, and, in one delta only, nothing that overlaps
      return int32_t(MMSB_OK);
    });
  }));
  u64 values = 0;
  MMSB_TRY(eachDelta(group, [&](const Delta& delta) {
    values += delta.valueCount;
    return int32_t(MMSB_OK);
  }));
  const bool overlap = rangesSort(writes, arena) || !ordered || rangesElements(writes) != values;
  rangesJoin(writes);
  rangesCoarsen(writes, kRangesMax);
  u32 target;
  MMSB_TRY(addTarget(device, slot, writes, false, &target));
  if (overlap) return planChains(device, group, target, dtypeBytes(slot.page.dtype), arena);
  return eachDelta(group, [&](const Delta& delta) {
    u32 runs = 0;
    MMSB_TRY(eachRun(delta, [&](u32, u32, u32) {
      runs++;
      return int32_t(MMSB_OK);
    }));
    if (runs > 1 && delta.valueCount / runs < 32) return pushIndexed(device, group, delta, target, pieces);
    return pushPieces(device, group, delta, target, pieces);
  });
}

// Plans the deltas of the list whose pages are on the device.
static int32_t planDeltas(Device& device, Exec& exec, const DeltaList& list, const u8* frames, u64 framesLength) {
  Arena& arena = mainArena(exec);
  u32* next = static_cast<u32*>(arenaAlloc(arena, list.count * sizeof(u32) + 4));
  if (next == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for the deltas of an epoch");
  MMSB_TRY(twinPut(device.stage, frames, framesLength, &device.framesAt));
  for (u64 i = 0; i < list.count; i++) {
    DevicePage& page = *devicePageOf(list.data[i].slot);
    next[i] = ~0u;
    if (page.deltaCall != exec.call) page.firstDelta = u32(i);
    else next[page.lastDelta] = u32(i);
    page.deltaCall = exec.call;
    page.lastDelta = u32(i);
  }
  List<DeltaPiece> pieces = {nullptr, 0, 0};
  int32_t status = MMSB_OK;
  for (u64 i = 0; status == MMSB_OK && i < list.count; i++) {
    PageSlot& slot = *list.data[i].slot;
    if (devicePageOf(&slot)->firstDelta != i) continue;
    status = planPageDeltas(device, slot, DeltaGroup{&list, next, frames, u32(i)}, pieces, arena);
  }
  u64 at = 0;
  if (status == MMSB_OK && pieces.count != 0) status = twinPut(device.stage, pieces.data, pieces.count * sizeof(DeltaPiece), &at);
  if (status == MMSB_OK && pieces.count != 0) {
    status = listPush(device.launches, Launch{LAUNCH_DELTAS, nullptr, 0, pieces.count, 0, 0, at, 0, {0, 0}});
  }
  free(pieces.data);
  return status;
}

// A step on the host has changed the mirror of a device page: the same goes to the page.
static int32_t planMirror(Device& device, PageSlot& slot, const PageSlot& mirror) {
  u32 target;
  MMSB_TRY(addTarget(device, slot, mirror.dirty, true, &target));
  const u32 size = dtypeBytes(slot.page.dtype);
  u64 values;
  MMSB_TRY(twinPut(device.stage, nullptr, rangesElements(mirror.dirty) * size, &values));
  List<DeltaPiece> pieces = {nullptr, 0, 0};
  int32_t status = MMSB_OK;
  for (u32 i = 0; i < mirror.dirty.count && status == MMSB_OK; i++) {
    const Range range = mirror.dirty.data[i];
    memcpy(device.stage.host + values, mirror.page.data + u64(range.start) * size, u64(range.count) * size);
    for (u32 done = 0; done < range.count && status == MMSB_OK; done += kPieceElements) {
      DeltaPiece piece;
      memset(&piece, 0, sizeof piece);
      piece.values = reinterpret_cast<const u8*>(values + u64(done) * size);
      piece.start = range.start + done;
      piece.count = range.count - done < kPieceElements ? range.count - done : kPieceElements;
      piece.target = target;
      piece.merge = MERGE_SET;
      status = listPush(pieces, piece);
    }
    values += u64(range.count) * size;
  }
  u64 at = 0;
  if (status == MMSB_OK) status = twinPut(device.stage, pieces.data, pieces.count * sizeof(DeltaPiece), &at);
  if (status == MMSB_OK) status = listPush(device.launches, Launch{LAUNCH_DELTAS, nullptr, 0, pieces.count, 0, 0, at, 0, {0, 0}});
  free(pieces.data);
  return status;
}

// ---- steps ------------------------------------------------------------------------------------------------------------------------

static int32_t planMatmul(Device& device, Step& step, u32 target, const RangeSet& rows, bool inverted, Range columns) {
  const Matmul& m = *static_cast<const Matmul*>(step.state);
  MatTiles tiles = planTiles(m, rows, inverted, columns.start, columns.count, kMatTile, kMatTile);
  if (tiles.rowCount == 0) return MMSB_OK;
  u64 rowsAt, tasksAt;
  MMSB_TRY(twinPut(device.stage, nullptr, tiles.rowCount * sizeof(u32), &rowsAt));
  MMSB_TRY(twinPut(device.stage, nullptr, tiles.taskBound * sizeof(MatTask), &tasksAt));
  tiles.rows = stagedHost<u32>(device, rowsAt);
  tiles.tasks = stagedHost<MatTask>(device, tasksAt);
  fillTiles(m, rows, tiles);
  return listPush(device.launches, Launch{LAUNCH_STEP, &step, target, tiles.taskCount, 0, 0, rowsAt, tasksAt, {0, 0}});
}

static inline bool takesLanes(const Step& step) {
  const u32 code = step.op->code;
  return code == MMSB_OP_TOPK || code == MMSB_OP_SORT || code == MMSB_OP_SCAN || isLongWindow(step);
}

static int32_t planStepWork(Device& device, Step& step, const StepDirty& dirty) {
  u32 target;
  MMSB_TRY(addTarget(device, *slotOf(step.out), dirty.elements, false, &target));
  if (step.op->code == MMSB_OP_MATMUL) {
    const Matmul& m = *static_cast<const Matmul*>(step.state);
    MMSB_TRY(planMatmul(device, step, target, dirty.rows, false, Range{0, m.columns}));
    for (u32 i = 0; i < dirty.columns.count; i++) MMSB_TRY(planMatmul(device, step, target, dirty.rows, true, dirty.columns.data[i]));
    return MMSB_OK;
  }
  Launch launch = {LAUNCH_STEP, &step, target, 0, 0, 0, 0, 0, dirty.laneRows};
  if (step.op->code == MMSB_OP_SCAN) {
    MMSB_TRY(twinPut(device.stage, nullptr, 4ull * dirty.spans.count, &launch.first));
    for (u32 i = 0; i < dirty.spans.count; i++) stagedHost<u32>(device, launch.first)[i] = dirty.spans.data[i].from;
  }
  MMSB_TRY(stageRanges(device, takesLanes(step) ? dirty.lanes : dirty.elements, &launch.work, &launch.workElements));
  return listPush(device.launches, launch);
}

static int32_t planStep(Device& device, Exec& exec, Step& step, bool full) {
  Arena& arena = mainArena(exec);
  const RangeSet* changed[64];
  RangeSet joined[64];
  if (step.inputCount > 64) return fail(MMSB_ERR_INTERNAL, "a step of %u inputs", step.inputCount);
  for (u32 i = 0; i < step.inputCount; i++) changed[i] = plannedChanges(device, exec, step.inputs[i], &joined[i], arena);
  // Where indices may change in this segment it is not known yet which elements they lead to.
  const bool unknown = deviceStepOf(step)->shadow != nullptr && isTarget(device, *slotOf(step.inputs[1])) &&
                       devicePageOf(slotOf(step.inputs[1]))->planned.count != 0;
  const StepDirty dirty = stepDirty(step, full || unknown, changed, arena);
  if (dirty.elements.count == 0 && !full) return MMSB_OK;
  MMSB_TRY(listPush(device.planned, PlannedStep{&step, full, false, 0}));
  return dirty.elements.count == 0 ? MMSB_OK : planStepWork(device, step, dirty);
}

static int32_t planBefore(Device& device, Exec& exec, Step& step, bool full) {
  StepDirty dirty;
  memset(&dirty, 0, sizeof dirty);
  dirty.elements = catchUp(step, full, mainArena(exec));
  if (dirty.elements.count == 0) return MMSB_OK;
  MMSB_TRY(listPush(device.planned, PlannedStep{&step, full, true, rangesElements(dirty.elements)}));
  return planStepWork(device, step, dirty);
}

}  // namespace MMSB_NS
}  // namespace mmsb
