// scan and sort: ops that process each lane (the elements along an axis) as a whole.
//
// scan: the running sum, product, minimum or maximum from the first element on. Float sums and products are
// computed in f64, and each result is rounded once. A change recomputes a lane from its first changed element
// on. If the output contains the running value, the scan resumes from it; else it reads the lane from its
// start.
// sort: ascending or descending, stable (visible only for -0 and 0), NaN last in both directions. A radix
// sort on keys that keep the order.
#pragma once
#include "exec/compute.cuh"
#include "ops/common.cuh"
#include "ops/order/lanes_state.cuh"

namespace mmsb {
namespace MMSB_NS {

static const u32 kLaneGroup = MMSB_SIZE(256, 4);   // neighbouring lanes that a scan processes together
static const u32 kSortGroup = MMSB_SIZE(16, 2);    // the same for a sort
static const u32 kLaneBlock = MMSB_SIZE(1024, 8);  // elements of a contiguous lane processed at once

typedef void (*LaneGroupFn)(const Step& step, u32 lane, u32 width, u32 from, Worker& worker, StoreOut& out);

struct LaneJob {
  Exec* exec;
  const Step* step;
  LaneSpans spans;
  StoreOut* outs;
  u64 perTask;
  u32 group;
  LaneGroupFn fn;
};

// Task t processes perTask lanes, from number t * perTask of all lanes in the spans.
static void laneTask(void* argument, u32 number, u32 worker) {
  const LaneJob& job = *static_cast<LaneJob*>(argument);
  const u32 inner = static_cast<const LaneOp*>(job.step->state)->lanes.inner;
  u64 skip = number * job.perTask, left = job.perTask;
  Worker& own = job.exec->workers[worker];
  StoreOut out = makeUnorderedOut(&own.arena);
  for (u32 i = 0; i < job.spans.count && left != 0 && !isCancelled(own); i++) {
    const LaneSpan span = job.spans.data[i];
    if (skip >= span.count) {
      skip -= span.count;
      continue;
    }
    u64 at = skip;
    skip = 0;
    while (left != 0 && at < span.count && !isCancelled(own)) {
      const u32 lane = u32(span.lane + at);
      u64 width = inner == 1 ? 1 : job.group;
      const u64 ends[3] = {left, span.count - at, inner - lane % inner};
      for (u32 e = 0; e < 3; e++) width = ends[e] < width ? ends[e] : width;
      job.fn(*job.step, lane, u32(width), span.from, own, out);
      at += width;
      left -= width;
    }
  }
  job.outs[number] = out;
}

static void runLanes(Step& step, StepRun& run, bool wholeLanes, u32 group, LaneGroupFn fn) {
  const LaneOp& state = *static_cast<const LaneOp*>(step.state);
  Exec& exec = *run.exec;
  Arena& arena = mainArena(exec);
  if (step.out->elements == 0) return;
  LaneJob job = {&exec, &step, {nullptr, 0, 0}, nullptr, 0, group, fn};
  if (run.full) spansPush(job.spans, 0, u32(u64(state.lanes.outer) * state.lanes.inner), 0, arena);
  else job.spans = dirtySpans(state, *changesOf(exec, step.inputs[0]), wholeLanes, arena);
  u64 lanes = 0;
  for (u32 i = 0; i < job.spans.count; i++) {
    lanes += job.spans.data[i].count;
    run.elements += u64(job.spans.data[i].count) * (state.lanes.n - job.spans.data[i].from);
  }
  if (lanes == 0) return;
  const f64 laneNs = f64(step.costNs) * f64(run.elements) / f64(lanes);
  job.perTask = worthThreads(exec, f64(lanes) * laneNs) ? u64(kTaskNs / laneNs) + 1 : lanes;
  if (lanes / job.perTask >= kTasksMax) job.perTask = lanes / kTasksMax + 1;
  const u32 tasks = u32((lanes + job.perTask - 1) / job.perTask);
  job.outs = static_cast<StoreOut*>(arenaAlloc(arena, tasks * sizeof(StoreOut)));
  if (job.outs == nullptr) return;
  if (!poolRun(*exec.pool, tasks, laneTask, &job)) return;
  joinUnordered(exec, step, job.outs, tasks, run.changed);
}

// ---- scan -------------------------------------------------------------------------------------------------

struct ScanScratch {
  u64 values[kLaneBlock];  // widened
  u64 running[kLaneGroup];
  u8 natural[kLaneBlock * 8];
};

// Casts a block of running values to the natural dtype.
template <class W>
static void scanNarrow(const Step& step, const W* from, void* to, u32 count) {
  if (step.natural == I64) memcpy(to, from, 8ull * count);  // sums of signed integers are kept as u64, which wraps
  else narrowBlockOf<W>(step.natural, from, to, count);
}

template <class W, class F>
static void scanLane(const Step& step, u32 lane, u32 from, Worker& worker, StoreOut& out) {
  const LaneOp& state = *static_cast<const LaneOp*>(step.state);
  const Page& input = *step.inputs[0];
  ScanScratch& s = *reinterpret_cast<ScanScratch*>(worker.scratch);
  const u32 n = state.lanes.n;
  const u64 base = u64(lane) * n;
  W* values = reinterpret_cast<W*>(s.values);
  W running = W(0);
  u32 at = 0;
  if (state.resumes && from != 0) {
    widenBlock(step.natural, step.out->data + (base + from - 1) * dtypeBytes(step.natural), &running, 1);
    at = from;
  }
  while (at < n && !isCancelled(worker)) {
    const u32 room = at < from && from - at < kLaneBlock ? from - at : kLaneBlock;
    const u32 count = n - at < room ? n - at : room;
    widenBlock(input.dtype, input.data + (base + at) * dtypeBytes(input.dtype), values, count);
    for (u32 i = 0; i < count; i++) {
      running = at + i == 0 ? values[0] : F::go(running, values[i]);
      values[i] = running;
    }
    if (at >= from) {
      scanNarrow<W>(step, values, s.natural, count);
      storeValues(step, u32(base + at), count, s.natural, worker, out);
    }
    at += count;
  }
}

// Scans `width` neighbouring lanes, row by row.
template <class W, class F>
static void scanRows(const Step& step, u32 lane, u32 width, u32 from, Worker& worker, StoreOut& out) {
  const LaneOp& state = *static_cast<const LaneOp*>(step.state);
  const Page& input = *step.inputs[0];
  ScanScratch& s = *reinterpret_cast<ScanScratch*>(worker.scratch);
  const u32 n = state.lanes.n, inner = state.lanes.inner, size = dtypeBytes(input.dtype);
  const u64 base = u64(lane / inner) * n * inner + lane % inner;
  W* values = reinterpret_cast<W*>(s.values);
  W* running = reinterpret_cast<W*>(s.running);
  u32 at = 0;
  if (state.resumes && from != 0) {
    widenBlock(step.natural, step.out->data + (base + u64(from - 1) * inner) * dtypeBytes(step.natural), running,
               width);
    at = from;
  }
  for (; at < n; at++) {
    const u64 row = base + u64(at) * inner;
    if (at == 0) {
      widenBlock(input.dtype, input.data + row * size, running, width);
    } else {
      widenBlock(input.dtype, input.data + row * size, values, width);
      for (u32 c = 0; c < width; c++) running[c] = F::go(running[c], values[c]);
    }
    if (at >= from) {
      scanNarrow<W>(step, running, s.natural, width);
      storeValues(step, u32(row), width, s.natural, worker, out);
    }
  }
}

template <class W, class F>
static void scanGroup(const Step& step, u32 lane, u32 width, u32 from, Worker& worker, StoreOut& out) {
  if (static_cast<const LaneOp*>(step.state)->lanes.inner == 1) scanLane<W, F>(step, lane, from, worker, out);
  else scanRows<W, F>(step, lane, width, from, worker, out);
}

template <class W>
static LaneGroupFn scanFn(u32 fn) {
  switch (fn) {
    case MMSB_REDUCE_PROD: return scanGroup<W, FoldProd>;
    case MMSB_REDUCE_MIN: return scanGroup<W, FoldMin>;
    case MMSB_REDUCE_MAX: return scanGroup<W, FoldMax>;
    default: return scanGroup<W, FoldSum>;
  }
}

static void runScan(Step& step, StepRun& run) {
  const LaneOp& state = *static_cast<const LaneOp*>(step.state);
  const LaneGroupFn fn = state.wide == F64   ? scanFn<f64>(state.fn)
                         : state.wide == I64 ? scanFn<i64>(state.fn)
                                             : scanFn<u64>(state.fn);
  runLanes(step, run, false, kLaneGroup, fn);
}

static int32_t prepareLanes(Step& step, u32 axis) {
  LaneOp* state = static_cast<LaneOp*>(calloc(1, sizeof(LaneOp)));
  if (state == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for a step");
  step.state = state;
  const Page& input = *step.inputs[0];
  if (axis >= input.rank || !lanesOf(input, i32(axis), state->lanes)) {
    return fail(MMSB_ERR_ARGUMENT, "axis %u of a page of rank %u: the limit is 8", axis, input.rank);
  }
  if (input.elements != step.out->elements) {
    return fail(MMSB_ERR_ARGUMENT, "%s into a page of %u elements", step.op->name, step.out->elements);
  }
  return MMSB_OK;
}

static int32_t prepareScan(Step& step) {
  if (step.inputCount != 1 || step.paramBytes < 8) {
    return fail(MMSB_ERR_ARGUMENT, "scan takes one input and 8 bytes of parameters");
  }
  u32 params[2];
  memcpy(params, step.params, sizeof params);
  if (params[0] > MMSB_REDUCE_MAX) return fail(MMSB_ERR_ARGUMENT, "scan: unknown function %u", params[0]);
  const int32_t status = prepareLanes(step, params[1]);
  if (status != MMSB_OK) return status;
  LaneOp& state = *static_cast<LaneOp*>(step.state);
  const u8 dtype = step.inputs[0]->dtype;
  const bool extreme = params[0] == MMSB_REDUCE_MIN || params[0] == MMSB_REDUCE_MAX;
  const u8 wide = u8(wideOf(dtype));
  state.fn = params[0];
  state.wide = wide == F64 || extreme ? wide : u8(U64);
  step.natural = wide == F64 || extreme ? dtype : wide;
  state.resumes = step.natural == step.out->dtype && (extreme || dtype != F32);
  step.scratchBytes = sizeof(ScanScratch);
  step.costNs = 2;
  return MMSB_OK;
}

// ---- sort -------------------------------------------------------------------------------------------------

static const u32 kSortInsertMax = MMSB_SIZE(32, 3);

template <class K>
static void sortKeysShort(K* keys, u32 count) {
  for (u32 i = 1; i < count; i++) {
    const K key = keys[i];
    u32 at = i;
    for (; at > 0 && keys[at - 1] > key; at--) keys[at] = keys[at - 1];
    keys[at] = key;
  }
}

// Radix sort, least significant byte first. Skips bytes that are equal in all keys. `other` has room for
// `count` keys. Once cancelled, it stops between two bytes.
template <class K>
static void sortKeys(K* keys, K* other, u32 count, u32 bytes, const u32& cancel) {
  if (count <= kSortInsertMax) return sortKeysShort(keys, count);
  u32 counts[sizeof(K)][256];
  memset(counts, 0, sizeof counts);
  for (u32 i = 0; i < count; i++) {
    for (u32 b = 0; b < bytes; b++) counts[b][keys[i] >> (8 * b) & 255]++;
  }
  K* from = keys;
  K* to = other;
  for (u32 b = 0; b < bytes && !cancelRaised(cancel); b++) {
    u32* const digits = counts[b];
    if (digits[from[0] >> (8 * b) & 255] == count) continue;
    u32 sum = 0;
    for (u32 d = 0; d < 256; d++) {
      const u32 n = digits[d];
      digits[d] = sum;
      sum += n;
    }
    for (u32 i = 0; i < count; i++) to[digits[from[i] >> (8 * b) & 255]++] = from[i];
    K* const swap = from;
    from = to;
    to = swap;
  }
  if (from != keys) memcpy(keys, from, u64(count) * sizeof(K));
}

// Computes the keys of neighbouring elements. NaN has the last key; zeros have equal keys. Returns whether
// there is a -0.
template <class T, class K>
static bool sortKeysOf(const u8* data, bool descending, K* keys, u32 count) {
  const T* x = reinterpret_cast<const T*>(data);
  const K top = K(1) << (8 * sizeof(T) - 1), all = K(top - 1) | top;
  bool signs = false;
  for (u32 i = 0; i < count; i++) {
    K key;
    if (Lane<T>::isFloat) {
      const T value = x[i] + T(0);
      K bits;
      memcpy(&bits, &value, sizeof(T));
      K old;
      memcpy(&old, &x[i], sizeof(T));
      signs |= old == top;
      key = (bits & top) != 0 ? K(~bits) : K(bits | top);
      key = value != value ? all : descending ? K(~key) : key;
    } else {
      key = K(x[i]) & all;
      if (Lane<T>::isSigned) key ^= top;
      if (descending) key = ~key & all;
    }
    keys[i] = key;
  }
  return signs;
}

template <class T, class K>
static void sortValuesOf(const K* keys, bool descending, u8* data, u32 count) {
  T* x = reinterpret_cast<T*>(data);
  const K top = K(1) << (8 * sizeof(T) - 1), all = K(top - 1) | top;
  for (u32 i = 0; i < count; i++) {
    K key = keys[i];
    if (Lane<T>::isFloat) {
      const bool nan = key == all;
      if (descending) key = K(~key);
      const K bits = (key & top) != 0 ? K(key ^ top) : K(~key);
      T value;
      memcpy(&value, &bits, sizeof(T));
      x[i] = nan ? T(__builtin_nan("")) : value;
    } else {
      if (descending) key = ~key & all;
      if (Lane<T>::isSigned) key ^= top;
      x[i] = T(key);
    }
  }
}

// 0 and -0 have equal keys; restores their old order. `old` has the elements before the sort.
template <class T>
static void settleZeros(const u8* old, u8* data, u32 count) {
  const T* before = reinterpret_cast<const T*>(old);
  T* x = reinterpret_cast<T*>(data);
  u32 at = 0;
  while (x[at] != 0) at++;
  for (u32 i = 0; i < count; i++) {
    if (before[i] == 0) x[at++] = before[i];
  }
}

// Sorts `count` neighbouring elements from `old` to `data`, with room for 2 * count keys of 8 bytes.
template <class T, class K>
static void sortElements(const u8* old, bool descending, u8* data, void* room, u32 count, const u32& cancel) {
  K* keys = static_cast<K*>(room);
  const bool signs = sortKeysOf<T, K>(old, descending, keys, count);
  sortKeys<K>(keys, keys + count, count, sizeof(T), cancel);
  if (cancelRaised(cancel)) return;
  sortValuesOf<T, K>(keys, descending, data, count);
  if (signs) settleZeros<T>(old, data, count);
}

static void sortElementsOf(u32 dtype, const u8* old, bool descending, u8* data, void* room, u32 count,
                           const u32& cancel) {
  switch (dtype) {
    case BOOL:
    case U8: return sortElements<u8, u32>(old, descending, data, room, count, cancel);
    case I8: return sortElements<i8, u32>(old, descending, data, room, count, cancel);
    case U16: return sortElements<u16, u32>(old, descending, data, room, count, cancel);
    case I16: return sortElements<i16, u32>(old, descending, data, room, count, cancel);
    case U32: return sortElements<u32, u32>(old, descending, data, room, count, cancel);
    case I32: return sortElements<i32, u32>(old, descending, data, room, count, cancel);
    case U64: return sortElements<u64, u64>(old, descending, data, room, count, cancel);
    case I64: return sortElements<i64, u64>(old, descending, data, room, count, cancel);
    case F32: return sortElements<f32, u32>(old, descending, data, room, count, cancel);
    default: return sortElements<f64, u64>(old, descending, data, room, count, cancel);
  }
}

static void sortGroup(const Step& step, u32 lane, u32 width, u32, Worker& worker, StoreOut& out) {
  const LaneOp& state = *static_cast<const LaneOp*>(step.state);
  const Page& input = *step.inputs[0];
  const u32 n = state.lanes.n, inner = state.lanes.inner, size = dtypeBytes(input.dtype);
  const u64 base = u64(lane / inner) * n * inner + lane % inner;
  const u64 laneBytes = (u64(n) * size + 63) & ~63ull;
  u8* memory = worker.scratch;
  u8* taken = nullptr;
  const u64 need = 2ull * n * 8 + laneBytes * (width + 1);
  if (need > step.scratchBytes) {
    taken = static_cast<u8*>(aligned_alloc(64, (need + 63) & ~63ull));
    if (taken == nullptr) {
      worker.arena.failed = 1;
      return;
    }
    memory = taken;
  }
  u8* const sorted = memory + 2ull * n * 8;  // sorted lanes, `width` of them
  u8* const packed = sorted + laneBytes * width;
  if (inner == 1) {
    sortElementsOf(input.dtype, input.data + base * size, state.descending, sorted, memory, n, *worker.cancel);
    for (u32 at = 0; at < n && !isCancelled(worker); at += kLaneBlock) {
      const u32 count = n - at < kLaneBlock ? n - at : kLaneBlock;
      storeValues(step, u32(base + at), count, sorted + u64(at) * size, worker, out);
    }
  } else {
    u8 row[kSortGroup * 8];
    for (u32 w = 0; w < width; w++) {
      copyRun(input, i64(base + w), inner, packed, n);
      sortElementsOf(input.dtype, packed, state.descending, sorted + laneBytes * w, memory, n, *worker.cancel);
    }
    for (u32 i = 0; i < n && !isCancelled(worker); i++) {
      for (u32 w = 0; w < width; w++) memcpy(row + w * size, sorted + laneBytes * w + u64(i) * size, size);
      storeValues(step, u32(base + u64(i) * inner), width, row, worker, out);
    }
  }
  free(taken);
}

static void runSort(Step& step, StepRun& run) { runLanes(step, run, true, kSortGroup, sortGroup); }

static int32_t prepareSort(Step& step) {
  if (step.inputCount != 1 || step.paramBytes < 8) {
    return fail(MMSB_ERR_ARGUMENT, "sort takes one input and 8 bytes of parameters");
  }
  u32 params[2];
  memcpy(params, step.params, sizeof params);
  const int32_t status = prepareLanes(step, params[0]);
  if (status != MMSB_OK) return status;
  LaneOp& state = *static_cast<LaneOp*>(step.state);
  state.descending = params[1] != 0;
  step.natural = step.inputs[0]->dtype;
  step.scratchBytes = 1u << 18;
  step.costNs = 12;
  return MMSB_OK;
}

static const Op kOpScan = {kHeadScan, prepareScan, releaseState, nullptr, nullptr, runScan};
static const Op kOpSort = {kHeadSort, prepareSort, releaseState, nullptr, nullptr, runSort};

}  // namespace MMSB_NS
}  // namespace mmsb
