// gather, scatter, bincount and histogram: ops whose places are computed from values.
//
// An index counts from 0; a negative index counts from the end. For an index out of range gather gives NaN (0
// for dtypes without NaN); scatter and bincount skip it. scatter applies the values in the order of the index
// list, in the dtype of x. bincount and histogram count in u32. Bin i of a histogram counts edge i <= x <
// edge i + 1; the last bin includes its upper edge. Edge i is low + i * ((high - low) / bins), in f64.
#pragma once
#include "core/merge.cuh"
#include "exec/compute.cuh"
#include "ops/boxes.cuh"
#include "ops/common.cuh"
#include "ops/places/index_state.cuh"

namespace mmsb {
namespace MMSB_NS {

static const u32 kIndexBlock = MMSB_SIZE(1024, 8);

// Reads the indices [first, first + count) as 0 .. n - 1, or kNowhere.
static void readIndices(const Page& indices, u32 n, u32 first, u32 count, u32* to) {
  u64 words[kIndexBlock];
  const u8* from = indices.data + u64(first) * dtypeBytes(indices.dtype);
  const bool isSigned = wideOf(indices.dtype) == I64;
  for (u32 at = 0; at < count; at += kIndexBlock) {
    const u32 now = count - at < kIndexBlock ? count - at : kIndexBlock;
    widenBlock(indices.dtype, from + u64(at) * dtypeBytes(indices.dtype), words, now);
    for (u32 i = 0; i < now; i++) {
      u64 index = words[i];
      if (isSigned && (index >> 63) != 0) index += n;
      to[at + i] = index < n ? u32(index) : kNowhere;
    }
  }
}

static inline u32 readIndex(const Page& indices, u32 n, u32 at) {
  u32 index;
  readIndices(indices, n, at, 1, &index);
  return index;
}

static void nothingRun(u32 dtype, u8* to, u32 count) {
  if (dtype == F32) {
    for (u32 i = 0; i < count; i++) reinterpret_cast<f32*>(to)[i] = __builtin_nanf("");
  } else if (dtype == F64) {
    for (u32 i = 0; i < count; i++) reinterpret_cast<f64*>(to)[i] = __builtin_nan("");
  } else {
    memset(to, 0, u64(count) * dtypeBytes(dtype));
  }
}

// True if so much of an input changed that computing everything is cheaper than following each element.
static inline bool isMost(const RangeSet& changed, u64 elements) { return rangesElements(changed) * 4 >= elements; }

// ---- gather -----------------------------------------------------------------------------------------------

template <class T>
static void gatherElements(const T* x, const u32* at, T* to, u32 count, T nothing) {
  for (u32 i = 0; i < count; i++) to[i] = at[i] != kNowhere ? x[at[i]] : nothing;
}

static void gatherSingles(const Page& x, const u8* from, const u32* at, u8* to, u32 count) {
  u64 nothing = 0;
  nothingRun(x.dtype, reinterpret_cast<u8*>(&nothing), 1);
  switch (dtypeBytes(x.dtype)) {
    case 1: return gatherElements<u8>(from, at, to, count, 0);
    case 2: return gatherElements<u16>(reinterpret_cast<const u16*>(from), at, reinterpret_cast<u16*>(to), count, 0);
    case 4:
      return gatherElements<u32>(reinterpret_cast<const u32*>(from), at, reinterpret_cast<u32*>(to), count,
                                 u32(nothing));
    default:
      return gatherElements<u64>(reinterpret_cast<const u64*>(from), at, reinterpret_cast<u64*>(to), count, nothing);
  }
}

static void computeGather(const Step& step, u32 start, u32 count, void* out, void*) {
  const Indexed& g = *static_cast<const Indexed*>(step.state);
  const Page& x = *step.inputs[0];
  const Page& indices = *step.inputs[1];
  const u32 size = dtypeBytes(x.dtype);
  u8* to = static_cast<u8*>(out);
  u32 at[kIndexBlock];
  while (count != 0) {
    const u32 column = start % g.inner, place = start / g.inner % g.count;
    const u64 slab = u64(start / g.inner / g.count) * g.n * g.inner;
    u32 run;
    if (g.inner == 1) {
      run = g.count - place < count ? g.count - place : count;
      run = run < kIndexBlock ? run : kIndexBlock;
      readIndices(indices, g.n, place, run, at);
      gatherSingles(x, x.data + slab * size, at, to, run);
    } else {
      run = g.inner - column < count ? g.inner - column : count;
      const u32 index = readIndex(indices, g.n, place);
      if (index == kNowhere) nothingRun(x.dtype, to, run);
      else memcpy(to, x.data + (slab + u64(index) * g.inner + column) * size, u64(run) * size);
    }
    to += u64(run) * size;
    start += run;
    count -= run;
  }
}

// Up to this many boxes of x are compared with each index. More boxes are joined along the axis.
static const u32 kGatherBoxes = MMSB_SIZE(8, 2);

static void dirtyGather(const Step& step, u32 input, const RangeSet& changed, RangeSet& out, Arena& arena) {
  const Indexed& g = *static_cast<const Indexed*>(step.state);
  BoxSink sink = makeBoxSink(out, arena, extentOf3(g.outer, g.count, g.inner));
  if (input == 1) {
    for (u32 i = 0; i < changed.count; i++) {
      const Range range = changed.data[i];
      pushBox(sink, Box{{0, range.start, 0}, {g.outer, range.start + range.count, g.inner}});
    }
    return;
  }
  if (isMost(changed, step.inputs[0]->elements)) return rangesPush(out, 0, step.out->elements, arena);
  const Page& indices = *step.inputs[1];
  Box boxes[kGatherBoxes];
  u32 count = 0;
  u64* marks = nullptr;
  eachBox(extentOf3(g.outer, g.n, g.inner), changed, [&](const Box& box) {
    if (count < kGatherBoxes) boxes[count] = box;
    count++;
  });
  if (count > kGatherBoxes) {
    const u64 bytes = (u64(g.n) + 63) / 64 * 8;
    marks = static_cast<u64*>(arenaAlloc(arena, bytes));
    if (marks == nullptr) return;
    memset(marks, 0, bytes);
    eachBox(extentOf3(g.outer, g.n, g.inner), changed, [&](const Box& box) {
      for (u32 a = box.lo[1]; a < box.hi[1]; a++) marks[a >> 6] |= 1ull << (a & 63);
    });
  }
  u32 at[kIndexBlock];
  for (u32 first = 0; first < g.count; first += kIndexBlock) {
    const u32 now = g.count - first < kIndexBlock ? g.count - first : kIndexBlock;
    readIndices(indices, g.n, first, now, at);
    for (u32 i = 0; i < now; i++) {
      const u32 index = at[i], place = first + i;
      if (index == kNowhere) continue;
      if (marks != nullptr) {
        if ((marks[index >> 6] >> (index & 63) & 1) != 0) {
          pushBox(sink, Box{{0, place, 0}, {g.outer, place + 1, g.inner}});
        }
        continue;
      }
      for (u32 b = 0; b < count; b++) {
        if (index < boxes[b].lo[1] || index >= boxes[b].hi[1]) continue;
        Box moved = boxes[b];
        moved.lo[1] = place;
        moved.hi[1] = place + 1;
        pushBox(sink, moved);
      }
    }
  }
}

static int32_t prepareIndexed(Step& step, u32 axis, Indexed** state) {
  Indexed* g = static_cast<Indexed*>(calloc(1, sizeof(Indexed)));
  if (g == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for a step");
  step.state = g;
  *state = g;
  const Page& x = *step.inputs[0];
  const Page& indices = *step.inputs[1];
  if (axis >= x.rank) {
    return fail(MMSB_ERR_ARGUMENT, "axis %u of a page of rank %u: the limit is 8", axis, x.rank);
  }
  if (indices.dtype == BOOL || indices.dtype >= F32) {
    return fail(MMSB_ERR_ARGUMENT, "indices must be integers, not dtype %u", indices.dtype);
  }
  g->outer = g->inner = 1;
  for (u32 d = 0; d < x.rank; d++) {
    if (d < axis) g->outer *= x.shape[d];
    else if (d > axis) g->inner *= x.shape[d];
    else g->n = x.shape[d];
  }
  g->count = indices.elements;
  step.natural = x.dtype;
  return MMSB_OK;
}

static int32_t prepareGather(Step& step) {
  if (step.inputCount != 2 || step.paramBytes < 8) {
    return fail(MMSB_ERR_ARGUMENT, "gather takes two inputs and 8 bytes of parameters");
  }
  u32 axis;
  memcpy(&axis, step.params, 4);
  Indexed* g;
  const int32_t status = prepareIndexed(step, axis, &g);
  if (status != MMSB_OK) return status;
  if ((unsigned __int128)(u64(g->outer) * g->count) * g->inner != step.out->elements) {
    return fail(MMSB_ERR_ARGUMENT, "gather into a page of %u elements", step.out->elements);
  }
  step.costNs = 1.5f;
  return MMSB_OK;
}

// ---- scatter ----------------------------------------------------------------------------------------------

// The first entry of `order` whose index is at least `index`.
static u32 orderFrom(const Indexed& g, u32 index) {
  u32 low = 0, high = g.orderCount;
  while (low < high) {
    const u32 middle = low + (high - low) / 2;
    if (g.order[middle].start < index) low = middle + 1;
    else high = middle;
  }
  return low;
}

// Merges the values of one index into `run` neighbouring elements.
static void scatterRun(const Step& step, const Indexed& g, u32 o, u32 place, u32 column, u32 run, u8* to, u8* values,
                       void* wide) {
  const Page& page = *step.inputs[2];
  const u32 dtype = step.natural;
  const u64 from = o * g.valueStride[0] + place * g.valueStride[1] + column * g.valueStride[2];
  const u32 own = dtypeBytes(page.dtype);
  if (g.valueStride[2] == 0 && run > 1) {
    castBlock(page.dtype, page.data + from * own, dtype, values, 1, wide);
    for (u32 i = 1; i < run; i++) memcpy(values + u64(i) * dtypeBytes(dtype), values, dtypeBytes(dtype));
  } else {
    castBlock(page.dtype, page.data + from * own, dtype, values, run, wide);
  }
  mergeBlock(dtype, g.merge, to, values, to, run);
}

// Scatters into the rows [row, row + run), if inner is 1 and the values have the dtype of x.
template <class T, bool ADD>
static void scatterElements(const Indexed& g, const void* page, u32 o, u32 row, u32 run, u8* out) {
  const T* values = static_cast<const T*>(page) + o * g.valueStride[0];
  T* to = reinterpret_cast<T*>(out);
  const u64 stride = g.valueStride[1];
  for (u32 i = orderFrom(g, row); i < g.orderCount && g.order[i].start < row + run; i++) {
    T& element = to[g.order[i].start - row];
    const T value = values[g.order[i].count * stride];
    element = ADD ? T(element + value) : value;
  }
}

// Returns false if there is no such loop for the dtypes and the merge.
static bool scatterFast(const Step& step, const Indexed& g, u32 o, u32 row, u32 run, u8* to) {
  const Page& values = *step.inputs[2];
  if (values.dtype != step.natural || values.dtype == BOOL || g.merge > MERGE_ADD) return false;
  const bool add = g.merge == MERGE_ADD;
  if (add && values.dtype >= F32) {
    if (values.dtype == F32) scatterElements<f32, true>(g, values.data, o, row, run, to);
    else scatterElements<f64, true>(g, values.data, o, row, run, to);
    return true;
  }
  switch (dtypeBytes(values.dtype)) {
    case 1:
      add ? scatterElements<u8, true>(g, values.data, o, row, run, to)
          : scatterElements<u8, false>(g, values.data, o, row, run, to);
      break;
    case 2:
      add ? scatterElements<u16, true>(g, values.data, o, row, run, to)
          : scatterElements<u16, false>(g, values.data, o, row, run, to);
      break;
    case 4:
      add ? scatterElements<u32, true>(g, values.data, o, row, run, to)
          : scatterElements<u32, false>(g, values.data, o, row, run, to);
      break;
    default:
      add ? scatterElements<u64, true>(g, values.data, o, row, run, to)
          : scatterElements<u64, false>(g, values.data, o, row, run, to);
  }
  return true;
}

static void computeScatter(const Step& step, u32 start, u32 count, void* out, void* scratch) {
  const Indexed& g = *static_cast<const Indexed*>(step.state);
  const Page& x = *step.inputs[0];
  const u32 size = dtypeBytes(step.natural);
  u8* to = static_cast<u8*>(out);
  u8* const values = static_cast<u8*>(scratch);
  u8* const wide = values + kBlockElements * 8;
  memcpy(to, x.data + u64(start) * size, u64(count) * size);
  while (count != 0) {
    const u32 column = start % g.inner, row = start / g.inner % g.n, o = start / g.inner / g.n;
    u32 run;
    if (g.inner == 1) {
      run = g.n - row < count ? g.n - row : count;
      const bool done = scatterFast(step, g, o, row, run, to);
      for (u32 i = done ? g.orderCount : orderFrom(g, row); i < g.orderCount && g.order[i].start < row + run; i++) {
        scatterRun(step, g, o, g.order[i].count, 0, 1, to + u64(g.order[i].start - row) * size, values, wide);
      }
    } else {
      run = g.inner - column < count ? g.inner - column : count;
      for (u32 i = orderFrom(g, row); i < g.orderCount && g.order[i].start == row; i++) {
        scatterRun(step, g, o, g.order[i].count, column, run, to, values, wide);
      }
    }
    to += u64(run) * size;
    start += run;
    count -= run;
  }
}

static void dirtyScatter(const Step& step, u32 input, const RangeSet& changed, RangeSet& out, Arena& arena) {
  const Indexed& g = *static_cast<const Indexed*>(step.state);
  if (input == 0) return dirtySame(step, 0, changed, out, arena);
  // The old target of a changed index is unknown, so everything may change.
  if (input == 1 || g.valueStride[2] == 0 || isMost(changed, step.inputs[2]->elements)) {
    return rangesPush(out, 0, step.out->elements, arena);
  }
  BoxSink sink = makeBoxSink(out, arena, extentOf3(g.outer, g.n, g.inner));
  eachBox(extentOf3(g.outer, g.count, g.inner), changed, [&](const Box& box) {
    for (u32 place = box.lo[1]; place < box.hi[1]; place++) {
      const u32 index = readIndex(*step.inputs[1], g.n, place);
      if (index == kNowhere) continue;
      Box moved = box;
      moved.lo[1] = index;
      moved.hi[1] = index + 1;
      pushBox(sink, moved);
    }
  });
}

static void runScatter(Step& step, StepRun& run) {
  Indexed& g = *static_cast<Indexed*>(step.state);
  Exec& exec = *run.exec;
  Arena& arena = mainArena(exec);
  const RangeSet ranges = dirtyOutput(exec, step, run.full);
  if (ranges.count == 0) return;
  RangeSet order;
  memset(&order, 0, sizeof order);
  if (g.count != 0) {
    order.data = static_cast<Range*>(arenaAlloc(arena, u64(g.count) * sizeof(Range)));
    if (order.data == nullptr) return;
    u32 at[kIndexBlock];
    for (u32 first = 0; first < g.count; first += kIndexBlock) {
      const u32 now = g.count - first < kIndexBlock ? g.count - first : kIndexBlock;
      readIndices(*step.inputs[1], g.n, first, now, at);
      for (u32 i = 0; i < now; i++) {
        if (at[i] != kNowhere) order.data[order.count++] = Range{at[i], first + i};
      }
    }
    order.capacity = g.count;
    if (order.count > 1) rangesSortRadix(order, arena);
  }
  g.order = order.data;
  g.orderCount = order.count;
  run.elements = rangesElements(ranges);
  computeRanges(exec, step, ranges, run.elements, run.changed);
  g.order = nullptr;
  g.orderCount = 0;
}

// There is one value for all indices, or one for each element.
static int32_t prepareScatter(Step& step) {
  if (step.inputCount != 3 || step.paramBytes < 8) {
    return fail(MMSB_ERR_ARGUMENT, "scatter takes three inputs and 8 bytes of parameters");
  }
  u32 params[2];
  memcpy(params, step.params, sizeof params);
  Indexed* g;
  const int32_t status = prepareIndexed(step, params[0], &g);
  if (status != MMSB_OK) return status;
  g->merge = params[1];
  if (g->merge > MERGE_XOR || (g->merge >= MERGE_AND && step.natural >= F32)) {
    return fail(MMSB_ERR_ARGUMENT, "scatter: invalid merge %u", g->merge);
  }
  if (step.inputs[0]->elements != step.out->elements) {
    return fail(MMSB_ERR_ARGUMENT, "scatter into a page of %u elements", step.out->elements);
  }
  const u64 wanted = u64(g->outer) * g->count * g->inner;
  const u32 given = step.inputs[2]->elements;
  if (given != wanted && given != 1) {
    return fail(MMSB_ERR_ARGUMENT, "scatter: %u values for %llu places", given, (unsigned long long)wanted);
  }
  if (given == wanted) {
    g->valueStride[0] = u64(g->count) * g->inner;
    g->valueStride[1] = g->inner;
    g->valueStride[2] = 1;
  }
  step.scratchBytes = 2 * kBlockElements * 8;
  step.costNs = 2 + 10 * f32(wanted) / f32(step.out->elements + 1);
  return MMSB_OK;
}

// ---- bincount, histogram ----------------------------------------------------------------------------------

static void countElements(const Counting& c, const Page& x, u64 from, u64 end, u32* counts) {
  u64 words[kIndexBlock];
  for (u64 at = from; at < end; at += kIndexBlock) {
    const u32 now = end - at < kIndexBlock ? u32(end - at) : kIndexBlock;
    const u8* data = x.data + at * dtypeBytes(x.dtype);
    if (c.isHistogram) {
      f64 values[kIndexBlock];
      floatBlock(x.dtype, data, values, now);
      for (u32 i = 0; i < now; i++) {
        const u32 bin = binOf(c, values[i]);
        if (bin != kNowhere) counts[bin]++;
      }
    } else {
      widenBlock(x.dtype, data, words, now);
      for (u32 i = 0; i < now; i++) {
        if (words[i] < c.bins) counts[words[i]]++;
      }
    }
  }
}

static const u64 kCountTaskElements = MMSB_SIZE(1u << 18, 50);
static const u32 kCountTasks = MMSB_SIZE(32, 3);

struct CountJob {
  const Counting* counting;
  const Page* x;
  u32* counts;  // counts of each task
  u64 perTask;
};

static void countTask(void* argument, u32 number, u32) {
  const CountJob& job = *static_cast<CountJob*>(argument);
  const u64 from = number * job.perTask, end = from + job.perTask;
  countElements(*job.counting, *job.x, from, end < job.x->elements ? end : job.x->elements,
                job.counts + u64(number) * job.counting->bins);
}

static void computeCounting(const Step& step, u32 start, u32 count, void* out, void*) {
  memcpy(out, static_cast<const Counting*>(step.state)->counts + start, 4ull * count);
}

static void runCounting(Step& step, StepRun& run) {
  Counting& c = *static_cast<Counting*>(step.state);
  Exec& exec = *run.exec;
  Arena& arena = mainArena(exec);
  const Page& x = *step.inputs[0];
  if (c.bins == 0) return;
  u64 tasks = worthThreads(exec, f64(x.elements) * 2) && x.elements / c.bins >= 8
                  ? (x.elements + kCountTaskElements - 1) / kCountTaskElements
                  : 1;
  tasks = tasks > kCountTasks ? kCountTasks : tasks == 0 ? 1 : tasks;
  const u64 bytes = 4ull * c.bins * tasks;
  u32* counts = static_cast<u32*>(arenaAlloc(arena, bytes));
  if (counts == nullptr) return;
  memset(counts, 0, bytes);
  CountJob job = {&c, &x, counts, (x.elements + tasks - 1) / tasks};
  if (tasks == 1) countElements(c, x, 0, x.elements, counts);
  else if (!poolRun(*exec.pool, u32(tasks), countTask, &job)) return;
  for (u64 t = 1; t < tasks; t++) {
    for (u32 bin = 0; bin < c.bins; bin++) counts[bin] += counts[t * c.bins + bin];
  }
  c.counts = counts;
  RangeSet all;
  memset(&all, 0, sizeof all);
  rangesPush(all, 0, c.bins, arena);
  run.elements = c.bins;
  computeRanges(exec, step, all, c.bins, run.changed);
  c.counts = nullptr;
}

static int32_t prepareCounting(Step& step, bool isHistogram) {
  const u32 need = isHistogram ? 24 : 8;
  if (step.inputCount != 1 || step.paramBytes < need) {
    return fail(MMSB_ERR_ARGUMENT, "%s takes one input and %u bytes of parameters", step.op->name, need);
  }
  Counting* c = static_cast<Counting*>(calloc(1, sizeof(Counting)));
  if (c == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for a step");
  step.state = c;
  c->isHistogram = isHistogram;
  memcpy(&c->bins, step.params, 4);
  if (c->bins != step.out->elements) {
    return fail(MMSB_ERR_ARGUMENT, "%u bins into a page of %u elements", c->bins, step.out->elements);
  }
  if (!isHistogram && step.inputs[0]->dtype >= F32) {
    return fail(MMSB_ERR_ARGUMENT, "bincount takes integers, not dtype %u", step.inputs[0]->dtype);
  }
  if (isHistogram) {
    memcpy(&c->low, step.params + 8, 8);
    memcpy(&c->high, step.params + 16, 8);
    if (!(c->low < c->high) || c->bins == 0) {
      return fail(MMSB_ERR_ARGUMENT, "histogram: low must be below high, and there must be a bin");
    }
    const bool isWide = c->high - c->low > 1.7976931348623157e308;
    c->scale = isWide ? 0.5 : 1;
    c->unscale = isWide ? 2 : 1;
    c->first = c->low * c->scale;
    c->width = (c->high * c->scale - c->first) / f64(c->bins);
    c->perUnit = f64(c->bins) / (c->high * c->scale - c->first);
  }
  step.natural = U32;
  step.costNs = 0.5f;
  return MMSB_OK;
}

static int32_t prepareBincount(Step& step) { return prepareCounting(step, false); }
static int32_t prepareHistogram(Step& step) { return prepareCounting(step, true); }

static const Op kOpGather = {kHeadGather, prepareGather, releaseState, dirtyGather, computeGather, nullptr};
static const Op kOpScatter = {kHeadScatter, prepareScatter, releaseState, dirtyScatter, computeScatter, runScatter};
static const Op kOpBincount = {kHeadBincount, prepareBincount, releaseState, nullptr, computeCounting, runCounting};
static const Op kOpHistogram = {kHeadHistogram, prepareHistogram, releaseState, nullptr, computeCounting, runCounting};

}  // namespace MMSB_NS
}  // namespace mmsb
