// quantile and topk: selection by order from each lane (the elements along an axis, or all elements).
//
// quantile: NumPy's default method, linear interpolation at q * (n - 1) in f64. A lane with a NaN gives NaN.
// An exact position, or two equal neighbours, give that value.
// topk: best first, equal values by lower index, NaN last; -0 and 0 are equal.
// Results depend only on the values of the lane, never on the algorithm.
#pragma once
#include "exec/compute.cuh"
#include "ops/common.cuh"
#include "ops/order/select_state.cuh"

namespace mmsb {
namespace MMSB_NS {

static const u32 kSelectBlock = MMSB_SIZE(1024, 8);

// Widens `count` elements of a lane from element `first` on, to f64 if `asFloat`.
static void laneBlock(const Page& input, const Lanes& lanes, u32 lane, u32 first, u32 count, bool asFloat, void* to) {
  const u32 size = dtypeBytes(input.dtype);
  const u8* from =
      input.data +
      (u64(lane / lanes.inner) * lanes.n * lanes.inner + lane % lanes.inner + u64(first) * lanes.inner) * size;
  const u64 stride = u64(lanes.inner) * size;
  alignas(64) u8 packed[kSelectBlock * 8];
  if (lanes.inner != 1) {
    switch (size) {
      case 1:
        for (u32 i = 0; i < count; i++) packed[i] = from[i * stride];
        break;
      case 2:
        for (u32 i = 0; i < count; i++) memcpy(packed + 2 * i, from + i * stride, 2);
        break;
      case 4:
        for (u32 i = 0; i < count; i++) memcpy(packed + 4 * i, from + i * stride, 4);
        break;
      default:
        for (u32 i = 0; i < count; i++) memcpy(packed + 8 * i, from + i * stride, 8);
    }
    from = packed;
  }
  if (asFloat) floatBlock(input.dtype, from, static_cast<f64*>(to), count);
  else widenBlock(input.dtype, from, to, count);
}

// ---- quantile ---------------------------------------------------------------------------------------------

static const u32 kSelectBuffer = MMSB_SIZE(1u << 15, 16);  // lanes of at most this many values are selected in memory
static const u32 kSelectBits = MMSB_SIZE(11, 3);           // bits of a key per pass over a longer lane

struct SelectScratch {
  u64 keys[kSelectBuffer];
  f64 block[kSelectBlock];
  u32 counts[1u << kSelectBits];
};

static void siftDown(u64* keys, u32 at, u32 count) {
  const u64 key = keys[at];
  for (;;) {
    u32 child = 2 * at + 1;
    if (child >= count) break;
    if (child + 1 < count && keys[child + 1] > keys[child]) child++;
    if (keys[child] <= key) break;
    keys[at] = keys[child];
    at = child;
  }
  keys[at] = key;
}

static void heapSort(u64* keys, u32 count) {
  for (u32 i = count / 2; i-- > 0;) siftDown(keys, i, count);
  for (u32 end = count; end > 1;) {
    const u64 top = keys[0];
    keys[0] = keys[--end];
    keys[end] = top;
    siftDown(keys, 0, end);
  }
}

static void insertionSort(u64* keys, u32 count) {
  for (u32 i = 1; i < count; i++) {
    const u64 key = keys[i];
    u32 at = i;
    for (; at > 0 && keys[at - 1] > key; at--) keys[at] = keys[at - 1];
    keys[at] = key;
  }
}

// Moves the key of rank k to keys[k], and no smaller key after it. Hoare's selection with the median of
// three, and heap sort if it degenerates.
static void selectKey(u64* keys, u32 count, u32 k) {
  u32 low = 0, high = count;
  for (u32 rounds = 64; high - low > 24; rounds--) {
    if (rounds == 0) return heapSort(keys + low, high - low);
    const u64 a = keys[low], b = keys[low + (high - low) / 2], c = keys[high - 1];
    const u64 pivot = a < b ? (b < c ? b : a < c ? c : a) : (a < c ? a : b < c ? c : b);
    u32 i = low, j = high - 1;
    for (;;) {
      while (keys[i] < pivot) i++;
      while (keys[j] > pivot) j--;
      if (i >= j) break;
      const u64 swap = keys[i];
      keys[i++] = keys[j];
      keys[j--] = swap;
    }
    const u32 split = i == j ? i + 1 : i;  // [low, j] <= pivot <= [i, high)
    if (k <= j && j < high - 1) high = j + 1;
    else if (k >= split) low = split;
    else if (k >= i) return;  // keys[k] is the pivot
    else high = i;
  }
  insertionSort(keys + low, high - low);
}

struct Neighbours {
  f64 low, high;
  bool nan;
};

// Finds the values of ranks k and k + 1 (k twice at the end) of a lane that fits the buffer.
static Neighbours selectShort(const Page& input, const Lanes& lanes, u32 lane, u32 k, SelectScratch& s) {
  Neighbours found = {0, 0, false};
  for (u32 first = 0; first < lanes.n; first += kSelectBlock) {
    const u32 count = lanes.n - first < kSelectBlock ? lanes.n - first : kSelectBlock;
    laneBlock(input, lanes, lane, first, count, true, s.block);
    u32 nans = 0;
    for (u32 i = 0; i < count; i++) {
      nans += s.block[i] != s.block[i];
      s.keys[first + i] = keyOf(s.block[i]);
    }
    if (nans != 0) {
      found.nan = true;
      return found;
    }
  }
  selectKey(s.keys, lanes.n, k);
  u64 next = k + 1 < lanes.n ? s.keys[k + 1] : s.keys[k];
  for (u32 i = k + 2; i < lanes.n; i++) next = s.keys[i] < next ? s.keys[i] : next;
  found.low = valueOf(s.keys[k]);
  found.high = valueOf(next);
  return found;
}

// One pass over a long lane: counts the digits at `shift` of the keys whose higher bits equal `prefix`.
// Returns false if there is a NaN.
static bool countDigits(const Page& input, const Lanes& lanes, u32 lane, u32 shift, u32 bits, u64 prefix,
                        SelectScratch& s) {
  memset(s.counts, 0, sizeof s.counts);
  const u64 mask = (1ull << bits) - 1;
  const u32 above = shift + bits;
  u32 nans = 0;
  for (u64 first = 0; first < lanes.n; first += kSelectBlock) {
    const u32 count = lanes.n - first < kSelectBlock ? u32(lanes.n - first) : kSelectBlock;
    laneBlock(input, lanes, lane, u32(first), count, true, s.block);
    for (u32 i = 0; i < count; i++) {
      const u64 key = keyOf(s.block[i]);
      nans += s.block[i] != s.block[i];
      if (above == 64 || key >> above == prefix) s.counts[key >> shift & mask]++;
    }
  }
  return nans == 0;
}

// Collects at most `room` keys whose bits above `shift` equal `prefix`, and the least key with a higher
// prefix.
static u32 collectKeys(const Page& input, const Lanes& lanes, u32 lane, u32 shift, u64 prefix, u32 room, u64* beyond,
                       SelectScratch& s) {
  u32 found = 0;
  *beyond = ~0ull;
  for (u64 first = 0; first < lanes.n; first += kSelectBlock) {
    const u32 count = lanes.n - first < kSelectBlock ? u32(lanes.n - first) : kSelectBlock;
    laneBlock(input, lanes, lane, u32(first), count, true, s.block);
    for (u32 i = 0; i < count; i++) {
      const u64 key = keyOf(s.block[i]);
      const u64 head = key >> shift;
      if (head == prefix && found < room) s.keys[found++] = key;
      if (head > prefix && key < *beyond) *beyond = key;
    }
  }
  return found;
}

// The same for a lane of any length: fixes digits from the top until the remaining keys fit the buffer or are
// all equal.
static Neighbours selectLong(const Page& input, const Lanes& lanes, u32 lane, u32 k, SelectScratch& s) {
  Neighbours found = {0, 0, false};
  u64 prefix = 0;
  u32 shift = 64, left = lanes.n;
  while (shift != 0 && left > kSelectBuffer) {
    const u32 bits = shift < kSelectBits ? shift : kSelectBits;
    shift -= bits;
    if (!countDigits(input, lanes, lane, shift, bits, prefix, s)) {
      found.nan = true;
      return found;
    }
    u32 digit = 0;
    for (; k >= s.counts[digit]; digit++) k -= s.counts[digit];
    prefix = prefix << bits | digit;
    left = s.counts[digit];
  }
  u64 beyond;
  const bool allEqual = left > kSelectBuffer;
  collectKeys(input, lanes, lane, shift, prefix, allEqual ? 1 : kSelectBuffer, &beyond, s);
  u64 next = beyond;
  if (allEqual) {
    if (k + 1 < left) next = s.keys[0];
    k = 0;
  } else {
    selectKey(s.keys, left, k);
    for (u32 i = k + 1; i < left; i++) next = s.keys[i] < next ? s.keys[i] : next;
  }
  found.low = valueOf(s.keys[k]);
  found.high = valueOf(next);
  return found;
}

static f64 quantileLane(const Quantile& state, const Page& input, u32 lane, SelectScratch& s) {
  f64 t;
  const u32 k = quantilePlace(state.q, state.lanes.n, &t);
  const Neighbours at = state.lanes.n <= kSelectBuffer ? selectShort(input, state.lanes, lane, k, s)
                                                       : selectLong(input, state.lanes, lane, k, s);
  return at.nan ? wordAs<f64>(0x7ff8000000000000ull) : interpolate(at.low, at.high, t, state.isVersion1);
}

static void computeQuantile(const Step& step, u32 start, u32 count, void* out, void* scratch) {
  const Quantile& state = *static_cast<const Quantile*>(step.state);
  SelectScratch& s = *static_cast<SelectScratch*>(scratch);
  for (u32 i = 0; i < count; i++) {
    const f64 value = quantileLane(state, *step.inputs[0], start + i, s);
    if (step.natural == F32) static_cast<f32*>(out)[i] = f32(value);
    else static_cast<f64*>(out)[i] = value;
  }
}

static void dirtyQuantile(const Step& step, u32, const RangeSet& changed, RangeSet& out, Arena& arena) {
  const Quantile& state = *static_cast<const Quantile*>(step.state);
  dirtyLanes(state.lanes, step.inputs[0]->elements, changed, out, arena);
}

static int32_t prepareQuantile(Step& step) {
  if (step.inputCount != 1 || step.paramBytes < 16) {
    return fail(MMSB_ERR_ARGUMENT, "quantile takes one input and 16 bytes of parameters");
  }
  Quantile* state = static_cast<Quantile*>(calloc(1, sizeof(Quantile)));
  if (state == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for a step");
  step.state = state;
  i32 axis;
  memcpy(&state->q, step.params, 8);
  memcpy(&axis, step.params + 8, 4);
  if (!(state->q >= 0 && state->q <= 1)) return fail(MMSB_ERR_ARGUMENT, "quantile: q must be in 0 .. 1");
  const Page& input = *step.inputs[0];
  if (!lanesOf(input, axis, state->lanes)) {
    return fail(MMSB_ERR_ARGUMENT, "axis %d of a page of rank %u: the limit is 8", axis, input.rank);
  }
  const u64 outputs = u64(state->lanes.outer) * state->lanes.inner;
  if (outputs != step.out->elements) {
    return fail(MMSB_ERR_ARGUMENT, "quantile into a page of %u elements", step.out->elements);
  }
  if (outputs != 0 && state->lanes.n == 0) return fail(MMSB_ERR_ARGUMENT, "quantile needs at least one element");
  step.natural = input.dtype == F32 ? u8(F32) : u8(F64);
  step.scratchBytes = sizeof(SelectScratch);
  step.costNs = 50 + 8 * f32(state->lanes.n);
  return MMSB_OK;
}

static int32_t prepareQuantile1(Step& step) {
  const int32_t status = prepareQuantile(step);
  if (status == MMSB_OK) static_cast<Quantile*>(step.state)->isVersion1 = true;
  return status;
}

static const Op kOpQuantile = {kHeadQuantile, prepareQuantile, releaseState, dirtyQuantile, computeQuantile, nullptr};
static const Op kOpQuantile1 = {kHeadQuantile1, prepareQuantile1, releaseState,
                                dirtyQuantile,  computeQuantile,  nullptr};

// ---- topk -------------------------------------------------------------------------------------------------

// Restores the heap property below `at`. The root of the heap is the worst candidate.
static void sinkCandidate(Candidate* heap, u32 at, u32 count) {
  const Candidate moved = heap[at];
  for (;;) {
    u32 child = 2 * at + 1;
    if (child >= count) break;
    if (child + 1 < count && better(heap[child], heap[child + 1])) child++;
    if (!better(moved, heap[child])) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = moved;
}

// Replaces a widened block by its keys.
static void candidateKeys(u32 wide, bool largest, u64* block, u32 count) {
  for (u32 i = 0; i < count; i++) block[i] = candidateKey(wide, largest, block[i]);
}

// Finds the k best of a lane, best first.
static void topkLane(const Topk& state, const Page& input, u32 lane, Candidate* heap) {
  u64 block[kSelectBlock];
  u32 held = 0;
  for (u64 first = 0; first < state.lanes.n; first += kSelectBlock) {
    const u32 count = state.lanes.n - first < kSelectBlock ? u32(state.lanes.n - first) : kSelectBlock;
    laneBlock(input, state.lanes, lane, u32(first), count, false, block);
    candidateKeys(wideOf(input.dtype), state.largest, block, count);
    for (u32 i = 0; i < count; i++) {
      if (held == state.k) {
        if (block[i] <= heap[0].key) continue;
        heap[0] = Candidate{block[i], u32(first + i)};
        sinkCandidate(heap, 0, held);
        continue;
      }
      heap[held++] = Candidate{block[i], u32(first + i)};
      if (held == state.k) {
        for (u32 at = held / 2; at-- > 0;) sinkCandidate(heap, at, held);
      }
    }
  }
  for (u32 end = held; end > 1;) {
    const Candidate worst = heap[0];
    heap[0] = heap[--end];
    heap[end] = worst;
    sinkCandidate(heap, 0, end);
  }
}

struct TopkJob {
  Exec* exec;
  const Step* step;
  const RangeSet* lanes;
  StoreOut* outs;
  u64 perTask, total;
};

// Computes `width` neighbouring lanes and stores them.
static void topkGroup(const Step& step, u32 lane, u32 width, Worker& worker, StoreOut& out) {
  const Topk& state = *static_cast<const Topk*>(step.state);
  const Page& input = *step.inputs[0];
  const u32 size = dtypeBytes(step.natural), inner = state.lanes.inner;
  Candidate* heap = reinterpret_cast<Candidate*>(worker.scratch);
  u8* results = worker.scratch + ((u64(state.k) * sizeof(Candidate) + 63) & ~63ull);
  for (u32 w = 0; w < width; w++) {
    topkLane(state, input, lane + w, heap);
    const u64 start = u64((lane + w) / inner) * state.lanes.n * inner + (lane + w) % inner;
    for (u32 j = 0; j < state.k; j++) {
      u8* to = results + (u64(j) * width + w) * size;
      if (state.values) memcpy(to, input.data + (start + u64(heap[j].index) * inner) * size, size);
      else memcpy(to, &heap[j].index, 4);
    }
  }
  const u64 first = u64(lane / inner) * state.k * inner + lane % inner;
  if (inner != 1) {
    for (u32 j = 0; j < state.k; j++) {
      storeValues(step, u32(first + u64(j) * inner), width, results + u64(j) * width * size, worker, out);
    }
    return;
  }
  for (u32 j = 0; j < state.k; j += kBlockElements) {
    const u32 count = state.k - j < kBlockElements ? state.k - j : kBlockElements;
    storeValues(step, u32(first + j), count, results + u64(j) * size, worker, out);
  }
}

static void topkTask(void* argument, u32 number, u32 workerNumber) {
  const TopkJob& job = *static_cast<TopkJob*>(argument);
  const Topk& state = *static_cast<const Topk*>(job.step->state);
  Worker& worker = job.exec->workers[workerNumber];
  StoreOut out = makeUnorderedOut(&worker.arena);
  u64 skip = number * job.perTask;
  u64 left = job.total - skip < job.perTask ? job.total - skip : job.perTask;
  for (u32 i = 0; left != 0 && !isCancelled(worker); i++) {
    const Range range = job.lanes->data[i];
    if (skip >= range.count) {
      skip -= range.count;
      continue;
    }
    u64 lane = range.start + skip;
    skip = 0;
    while (left != 0 && lane < u64(range.start) + range.count && !isCancelled(worker)) {
      u64 width = state.width;
      const u64 ends[3] = {left, u64(range.start) + range.count - lane, state.lanes.inner - lane % state.lanes.inner};
      for (u32 e = 0; e < 3; e++) width = ends[e] < width ? ends[e] : width;
      topkGroup(*job.step, u32(lane), u32(width), worker, out);
      lane += width;
      left -= width;
    }
  }
  job.outs[number] = out;
}

static void runTopk(Step& step, StepRun& run) {
  const Topk& state = *static_cast<const Topk*>(step.state);
  Exec& exec = *run.exec;
  Arena& arena = mainArena(exec);
  const Page& input = *step.inputs[0];
  if (step.out->elements == 0) return;
  RangeSet lanes;
  memset(&lanes, 0, sizeof lanes);
  if (run.full) rangesPush(lanes, 0, state.lanes.outer * state.lanes.inner, arena);
  else dirtyLanes(state.lanes, input.elements, *changesOf(exec, &input), lanes, arena);
  rangesNormalise(lanes, arena);
  TopkJob job = {&exec, &step, &lanes, nullptr, 0, rangesElements(lanes)};
  const f64 laneNs = f64(step.costNs) * state.k;
  job.perTask = worthThreads(exec, f64(job.total) * laneNs) ? u64(kTaskNs / laneNs) + 1 : job.total;
  if (job.total / job.perTask >= kTasksMax) job.perTask = job.total / kTasksMax + 1;
  const u32 tasks = u32((job.total + job.perTask - 1) / job.perTask);
  job.outs = static_cast<StoreOut*>(arenaAlloc(arena, tasks * sizeof(StoreOut)));
  if (job.outs == nullptr) return;
  if (!poolRun(*exec.pool, tasks, topkTask, &job)) return;
  run.elements = job.total * state.k;
  joinUnordered(exec, step, job.outs, tasks, run.changed);
}

static int32_t prepareTopk(Step& step) {
  if (step.inputCount != 1 || step.paramBytes < 16) {
    return fail(MMSB_ERR_ARGUMENT, "topk takes one input and 16 bytes of parameters");
  }
  u32 params[4];
  memcpy(params, step.params, sizeof params);
  const Page& input = *step.inputs[0];
  Topk* state = static_cast<Topk*>(calloc(1, sizeof(Topk)));
  if (state == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for a step");
  step.state = state;
  state->k = params[0];
  state->values = params[2] != 0;
  state->largest = params[3] != 0;
  if (params[1] >= input.rank || !lanesOf(input, i32(params[1]), state->lanes)) {
    return fail(MMSB_ERR_ARGUMENT, "axis %u of a page of rank %u: the limit is 8", params[1], input.rank);
  }
  const u64 lanes = u64(state->lanes.outer) * state->lanes.inner;
  if (state->k > state->lanes.n) {
    return fail(MMSB_ERR_ARGUMENT, "topk: k = %u, but a lane has %u elements", state->k, state->lanes.n);
  }
  if (lanes * state->k != step.out->elements) {
    return fail(MMSB_ERR_ARGUMENT, "topk into a page of %u elements", step.out->elements);
  }
  if (state->k > 1u << 27) return fail(MMSB_ERR_MEMORY, "no memory for topk with k = %u", state->k);
  state->width = state->lanes.inner == 1 || state->k > 1024 ? 1 : 16;
  step.natural = state->values ? input.dtype : u8(U32);
  const u64 heapBytes = (u64(state->k) * sizeof(Candidate) + 63) & ~63ull;
  step.scratchBytes = u32(heapBytes + u64(state->k) * state->width * 8 + 64);
  if (state->k != 0) step.costNs = f32((20.0 + 2.0 * state->lanes.n) / state->k + 10.0);
  return MMSB_OK;
}

static const Op kOpTopk = {kHeadTopk, prepareTopk, releaseState, nullptr, nullptr, runTopk};

}  // namespace MMSB_NS
}  // namespace mmsb
