// conv and window: each output element is computed from the neighbours of its place.
//
// conv: correlation over the last axis or the last two, with an output of the same size and the kernel's
// centre at size / 2. Each output is one chain over the kernel's elements in row-major order, from 0: acc =
// fma(kernel, x, acc); integers wrap. Elements outside are 0, taken from the opposite side, or equal to the
// edge; they take part like any other.
//
// window: a fold of the last `size` elements of a lane up to each element, fewer at its start. A window of m
// elements is cut, from its oldest element, into blocks whose sizes are the powers of two in m, largest
// first. A block is folded as a balanced tree; blocks are joined from the newest: b1 + (b2 + (b3 ...)). So
// each output costs 2 log2(size) steps and depends only on its window. Float sums and means are computed in
// f64 and rounded once.
#pragma once
#include "ops/boxes.cuh"
#include "ops/common.cuh"
#include "ops/neighbours/stencil_state.cuh"
#include "ops/semirings.cuh"

namespace mmsb {
namespace MMSB_NS {

static const u32 kConvTile = 16;

// Copies elements [from, from + count) of a row, cast to the common dtype, with values for elements outside.
static void padRow(const Conv& c, const Page& x, u64 rowStart, i64 from, u32 count, u8* to, void* wide) {
  const u32 size = dtypeBytes(c.dtype), own = dtypeBytes(x.dtype), n = c.columns;
  u32 i = 0;
  while (i < count) {
    const i64 at = from + i;
    if (at >= 0 && at < n) {
      const u32 left = count - i, run = n - u32(at) < left ? n - u32(at) : left;
      castMany(x.dtype, x.data + (rowStart + u64(at)) * own, c.dtype, to + u64(i) * size, run, wide);
      i += run;
      continue;
    }
    const u32 place = outside(c.boundary, at, n);
    if (place == n) memset(to + u64(i) * size, 0, size);
    else castBlock(x.dtype, x.data + (rowStart + place) * own, c.dtype, to + u64(i) * size, 1, wide);
    i++;
  }
}

template <class T, class S>
static void convTile(const T* row, const T* kernel, u32 kernelColumns, T* acc, u32 count) {
  u32 i = 0;
  for (; i + kConvTile <= count; i += kConvTile) {
    T sum[kConvTile];
    for (u32 l = 0; l < kConvTile; l++) sum[l] = acc[i + l];
    for (u32 k = 0; k < kernelColumns; k++) {
      const T factor = kernel[k];
      for (u32 l = 0; l < kConvTile; l++) sum[l] = S::go(sum[l], factor, row[i + k + l]);
    }
    for (u32 l = 0; l < kConvTile; l++) acc[i + l] = sum[l];
  }
  for (; i < count; i++) {
    T sum = acc[i];
    for (u32 k = 0; k < kernelColumns; k++) sum = S::go(sum, kernel[k], row[i + k]);
    acc[i] = sum;
  }
}

static void convRow(u32 dtype, const u8* row, const u8* kernel, u32 kernelColumns, u8* acc, u32 count) {
#define MMSB_CONV(T, S)                                                                              \
  convTile<T, S>(reinterpret_cast<const T*>(row), reinterpret_cast<const T*>(kernel), kernelColumns, \
                 reinterpret_cast<T*>(acc), count)
  switch (dtype) {
    case BOOL: return MMSB_CONV(u8, OrAnd);
    case U8:
    case I8: return MMSB_CONV(u8, PlusTimes<u8>);
    case U16:
    case I16: return MMSB_CONV(u16, PlusTimes<u16>);
    case U32:
    case I32: return MMSB_CONV(u32, PlusTimes<u32>);
    case U64:
    case I64: return MMSB_CONV(u64, PlusTimes<u64>);
    case F32: return MMSB_CONV(f32, PlusTimes<f32>);
    default: return MMSB_CONV(f64, PlusTimes<f64>);
  }
#undef MMSB_CONV
}

static void computeConv(const Step& step, u32 start, u32 count, void* out, void* scratch) {
  const Conv& c = *static_cast<const Conv*>(step.state);
  const Page& x = *step.inputs[0];
  const Page& kernel = *step.inputs[1];
  const u32 size = dtypeBytes(c.dtype);
  u8* const memory = static_cast<u8*>(scratch);
  u8* const factors = memory + c.kernelAt;
  u8* const padded = memory + c.rowAt;
  void* const wide = memory + c.wideAt;
  castMany(kernel.dtype, kernel.data, c.dtype, factors, kernel.elements, wide);
  u8* acc = static_cast<u8*>(out);
  memset(acc, 0, u64(count) * size);
  while (count != 0) {
    const u32 column = start % c.columns, row = start / c.columns % c.rows;
    const u64 batch = u64(start / c.columns / c.rows) * c.rows * c.columns;
    const u32 run = c.columns - column < count ? c.columns - column : count;
    const u32 width = run + c.kernelColumns - 1;
    for (u32 k = 0; k < c.kernelRows; k++) {
      const u32 from = outside(c.boundary, i64(row) + k - c.centreRow, c.rows);
      if (from == c.rows) memset(padded, 0, u64(width) * size);
      else padRow(c, x, batch + u64(from) * c.columns, i64(column) - c.centreColumn, width, padded, wide);
      convRow(c.dtype, padded, factors + u64(k) * c.kernelColumns * size, c.kernelColumns, acc, run);
    }
    acc += u64(run) * size;
    start += run;
    count -= run;
  }
}

// The output intervals along an axis that depend on the inputs [lo, hi). Returns their number: 2 only if they
// wrap.
static u32 widenInterval(u32 boundary, u32 n, u32 kernel, u32 centre, u32 lo, u32 hi, u32 outLo[2], u32 outHi[2]) {
  const i64 from = i64(lo) - (i64(kernel) - 1 - centre), to = i64(hi) + centre;
  if (boundary != CONV_WRAP || (from >= 0 && to <= n)) {
    outLo[0] = from < 0 ? 0 : u32(from);
    outHi[0] = to > n ? n : u32(to);
    return 1;
  }
  if (to - from >= n) {
    outLo[0] = 0;
    outHi[0] = n;
    return 1;
  }
  const u32 first = outside(CONV_WRAP, from, n), end = outside(CONV_WRAP, to, n);
  outLo[0] = 0;
  outHi[0] = end;
  outLo[1] = first;
  outHi[1] = n;
  if (first < end) {
    outLo[0] = first;
    outHi[0] = end;
    return 1;
  }
  return 2;
}

static void dirtyConv(const Step& step, u32 input, const RangeSet& changed, RangeSet& out, Arena& arena) {
  const Conv& c = *static_cast<const Conv*>(step.state);
  if (input == 1) return rangesPush(out, 0, step.out->elements, arena);
  const Extent extent = extentOf3(c.batches, c.rows, c.columns);
  BoxSink sink = makeBoxSink(out, arena, extent);
  eachBox(extent, changed, [&](const Box& box) {
    u32 rowLo[2], rowHi[2], columnLo[2], columnHi[2];
    const u32 rows = widenInterval(c.boundary, c.rows, c.kernelRows, c.centreRow, box.lo[1], box.hi[1], rowLo, rowHi);
    const u32 columns =
        widenInterval(c.boundary, c.columns, c.kernelColumns, c.centreColumn, box.lo[2], box.hi[2], columnLo, columnHi);
    for (u32 r = 0; r < rows; r++) {
      for (u32 k = 0; k < columns; k++) {
        Box wider = box;
        wider.lo[1] = rowLo[r];
        wider.hi[1] = rowHi[r];
        wider.lo[2] = columnLo[k];
        wider.hi[2] = columnHi[k];
        pushBox(sink, wider);
      }
    }
  });
}

static int32_t prepareConv(Step& step) {
  if (step.inputCount != 2 || step.paramBytes < 8) {
    return fail(MMSB_ERR_ARGUMENT, "conv takes two inputs and 8 bytes of parameters");
  }
  const Page& x = *step.inputs[0];
  const Page& kernel = *step.inputs[1];
  Conv* c = static_cast<Conv*>(calloc(1, sizeof(Conv)));
  if (c == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for a step");
  step.state = c;
  memcpy(&c->boundary, step.params, 4);
  if (c->boundary > CONV_EDGE) return fail(MMSB_ERR_ARGUMENT, "conv: unknown boundary %u", c->boundary);
  if (kernel.rank == 0 || kernel.rank > 2 || x.rank < kernel.rank || kernel.elements == 0) {
    return fail(MMSB_ERR_ARGUMENT, "conv of rank %u with a kernel of rank %u and %u elements", x.rank, kernel.rank,
                kernel.elements);
  }
  if (x.elements != step.out->elements) {
    return fail(MMSB_ERR_ARGUMENT, "conv into a page of %u elements", step.out->elements);
  }
  c->dtype = promote(x.dtype, kernel.dtype);
  if (c->dtype == DTYPE_COUNT) {
    return fail(MMSB_ERR_ARGUMENT, "conv: dtypes %u and %u have no common dtype", x.dtype, kernel.dtype);
  }
  c->columns = x.shape[x.rank - 1];
  c->rows = kernel.rank == 2 ? x.shape[x.rank - 2] : 1;
  c->batches = x.elements == 0 ? 0 : x.elements / c->columns / c->rows;
  c->kernelRows = kernel.rank == 2 ? kernel.shape[0] : 1;
  c->kernelColumns = kernel.shape[kernel.rank - 1];
  c->centreRow = c->kernelRows / 2;
  c->centreColumn = c->kernelColumns / 2;
  const u64 size = dtypeBytes(c->dtype);
  c->rowAt = (kernel.elements * size + 127) & ~63ull;
  c->wideAt = c->rowAt + (((u64(c->kernelColumns) + kBlockElements) * size + 127) & ~63ull);
  const u64 scratch = c->wideAt + kBlockElements * 8;
  if (scratch >> 30 != 0) return fail(MMSB_ERR_MEMORY, "no memory for a kernel of %u elements", kernel.elements);
  step.natural = c->dtype;
  step.scratchBytes = u32(scratch);
  step.costNs = 1 + 0.15f * f32(kernel.elements);
  return MMSB_OK;
}

// ---- window -----------------------------------------------------------------------------------------------

static const u32 kWindowLevels = 22;

// Loads and widens rows [from, from + rows) of `width` columns.
static void windowLoad(const Window& w, const Page& x, u64 base, u32 from, u32 rows, u32 width, u8* to) {
  const u32 size = dtypeBytes(x.dtype), inner = w.lanes.inner;
  const u32 run = inner == 1 ? rows : width, runs = inner == 1 ? 1 : rows;
  for (u32 r = 0; r < runs; r++) {
    const u8* row = x.data + (base + u64(from + r) * inner) * size;
    u8* target = to + u64(r) * run * 8;
    if (w.wide == F64) floatBlock(x.dtype, row, reinterpret_cast<f64*>(target), run);
    else widenBlock(x.dtype, row, target, run);
  }
}

// Finishes and writes the folded windows of one row.
template <class W>
static void windowStore(const Step& step, const Window& w, const W* folds, u32 length, u32 count, u8* to) {
  if (w.fn == MMSB_REDUCE_MEAN) {
    f64 means[64];
    for (u32 at = 0; at < count; at += 64) {
      const u32 now = count - at < 64 ? count - at : 64;
      for (u32 i = 0; i < now; i++) means[i] = f64(folds[at + i]) / f64(length);
      narrowBlockOf<f64>(step.natural, means, to + u64(at) * dtypeBytes(step.natural), now);
    }
  } else if (step.natural == I64) {
    memcpy(to, folds, 8ull * count);
  } else {
    narrowBlockOf<W>(step.natural, folds, to, count);
  }
}

// Computes rows [from, end) before the first full window. Blocks are built up from the start of the lane.
template <class W, class F>
static void windowHead(const Step& step, const Window& w, u64 base, u32 from, u32 end, u32 width, u8* out, u32 pitch,
                       W* row, W* acc) {
  W* stack = row + width;  // kWindowLevels blocks, largest first
  u32 sizes[kWindowLevels], depth = 0;
  for (u32 r = 0; r < end; r++) {
    W* top = stack + u64(depth) * width;
    windowLoad(w, *step.inputs[0], base, r, 1, width, reinterpret_cast<u8*>(top));
    u32 size = 1;
    while (depth != 0 && sizes[depth - 1] == size) {
      depth--;
      W* left = stack + u64(depth) * width;
      for (u32 c = 0; c < width; c++) left[c] = F::go(left[c], left[width + c]);
      size *= 2;
    }
    sizes[depth++] = size;
    if (r < from) continue;
    memcpy(acc, stack + u64(depth - 1) * width, u64(width) * sizeof(W));
    for (u32 d = depth - 1; d-- > 0;) {
      const W* block = stack + u64(d) * width;
      for (u32 c = 0; c < width; c++) acc[c] = F::go(block[c], acc[c]);
    }
    windowStore<W>(step, w, acc, r + 1, width, out + u64(r - from) * pitch);
  }
}

// Computes rows [from, end), from >= size - 1. Block sizes double; each window takes the blocks whose sizes
// add up to its own.
template <class W, class F>
static void windowBody(const Step& step, const Window& w, u64 base, u32 from, u32 end, u32 width, u8* out, u32 pitch,
                       W* x, W* acc) {
  const u32 rows = end - from, first = from - (w.size - 1);
  windowLoad(w, *step.inputs[0], base, first, rows + w.size - 1, width, reinterpret_cast<u8*>(x));
  u64 held = u64(rows + w.size - 1) * width;  // number of blocks in x
  const u64 wanted = u64(rows) * width;
  bool begun = false;
  for (u32 block = 1; block != 0 && block <= w.size; block *= 2) {
    if ((w.size & block) != 0) {
      const W* place = x + u64(w.size & ~(2 * block - 1)) * width;  // larger blocks are older
      if (begun) {
        for (u64 i = 0; i < wanted; i++) acc[i] = F::go(place[i], acc[i]);
      } else {
        memcpy(acc, place, wanted * sizeof(W));
      }
      begun = true;
    }
    if (block * 2 > w.size) break;
    const u64 step2 = u64(block) * width;
    held -= step2;
    for (u64 i = 0; i < held; i++) x[i] = F::go(x[i], x[i + step2]);
  }
  if (w.lanes.inner == 1) return windowStore<W>(step, w, acc, w.size, rows, out);
  for (u32 r = 0; r < rows; r++) windowStore<W>(step, w, acc + u64(r) * width, w.size, width, out + u64(r) * pitch);
}

// Computes rows [from, end) of columns [column, column + width) in slab `o`.
template <class W, class F>
static void windowPiece(const Step& step, u64 o, u32 from, u32 end, u32 column, u32 width, u8* out, u32 pitch,
                        void* scratch) {
  const Window& w = *static_cast<const Window*>(step.state);
  W* const x = static_cast<W*>(scratch);
  W* const acc = x + w.room;
  const u32 natural = dtypeBytes(step.natural);
  const u32 most = u32(w.room / (w.size + kWindowLevels + 1));
  for (u32 c = 0; c < width; c += most) {
    const u32 strip = width - c < most ? width - c : most;
    const u64 base = o * w.lanes.n * w.lanes.inner + column + c;
    u8* to = out + u64(c) * natural;
    u32 at = from;
    const u32 head = w.size - 1 < end ? w.size - 1 : end;
    if (at < head) {
      windowHead<W, F>(step, w, base, at, head, strip, to, pitch, x, acc);
      to += u64(head - at) * pitch;
      at = head;
    }
    while (at < end) {
      u32 rows = u32(w.room / strip) - (w.size - 1);
      rows = end - at < rows ? end - at : rows;
      windowBody<W, F>(step, w, base, at, at + rows, strip, to, pitch, x, acc);
      to += u64(rows) * pitch;
      at += rows;
    }
  }
}

template <class W, class F>
static void windowRun(const Step& step, u32 start, u32 count, u8* out, void* scratch) {
  const Window& w = *static_cast<const Window*>(step.state);
  const u32 inner = w.lanes.inner, n = w.lanes.n, natural = dtypeBytes(step.natural);
  const u32 pitch = inner * natural;
  while (count != 0) {
    const u32 column = start % inner, row = start / inner % n;
    const u64 o = start / inner / n;
    u32 rows = 1, width = inner - column < count ? inner - column : count;
    if (column == 0 && count >= inner) {
      rows = count / inner < n - row ? count / inner : n - row;
      width = inner;
    }
    windowPiece<W, F>(step, o, row, row + rows, column, width, out, pitch, scratch);
    out += u64(rows) * width * natural;
    start += rows * width;
    count -= rows * width;
  }
}

template <class W>
static void windowRunBy(const Step& step, u32 fn, u32 start, u32 count, u8* out, void* scratch) {
  switch (fn) {
    case MMSB_REDUCE_MIN: return windowRun<W, FoldMin>(step, start, count, out, scratch);
    case MMSB_REDUCE_MAX: return windowRun<W, FoldMax>(step, start, count, out, scratch);
    default: return windowRun<W, FoldSum>(step, start, count, out, scratch);
  }
}

static void computeWindow(const Step& step, u32 start, u32 count, void* out, void* scratch) {
  const Window& w = *static_cast<const Window*>(step.state);
  u8* to = static_cast<u8*>(out);
  if (w.wide == F64) windowRunBy<f64>(step, w.fn, start, count, to, scratch);
  else if (w.wide == I64) windowRunBy<i64>(step, w.fn, start, count, to, scratch);
  else windowRunBy<u64>(step, w.fn, start, count, to, scratch);
}

static void dirtyWindow(const Step& step, u32, const RangeSet& changed, RangeSet& out, Arena& arena) {
  const Window& w = *static_cast<const Window*>(step.state);
  const Extent extent = extentOf3(w.lanes.outer, w.lanes.n, w.lanes.inner);
  BoxSink sink = makeBoxSink(out, arena, extent);
  eachBox(extent, changed, [&](const Box& box) {
    Box wider = box;
    const u64 end = u64(box.hi[1]) + w.size - 1;
    wider.hi[1] = end < w.lanes.n ? u32(end) : w.lanes.n;
    pushBox(sink, wider);
  });
}

static int32_t prepareWindow(Step& step) {
  if (step.inputCount != 1 || step.paramBytes < 16) {
    return fail(MMSB_ERR_ARGUMENT, "window takes one input and 16 bytes of parameters");
  }
  u32 params[4];
  memcpy(params, step.params, sizeof params);
  const Page& input = *step.inputs[0];
  Window* w = static_cast<Window*>(calloc(1, sizeof(Window)));
  if (w == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for a step");
  step.state = w;
  w->fn = params[0];
  w->size = params[1];
  if (w->fn != MMSB_REDUCE_SUM && w->fn != MMSB_REDUCE_MIN && w->fn != MMSB_REDUCE_MAX && w->fn != MMSB_REDUCE_MEAN) {
    return fail(MMSB_ERR_ARGUMENT, "window: unknown function %u", w->fn);
  }
  if (w->size == 0 || w->size > 1u << 20) return fail(MMSB_ERR_ARGUMENT, "window: size %u is out of range", w->size);
  if (params[2] >= input.rank || !lanesOf(input, i32(params[2]), w->lanes)) {
    return fail(MMSB_ERR_ARGUMENT, "axis %u of a page of rank %u: the limit is 8", params[2], input.rank);
  }
  if (input.elements != step.out->elements) {
    return fail(MMSB_ERR_ARGUMENT, "window into a page of %u elements", step.out->elements);
  }
  const u8 wide = u8(wideOf(input.dtype));
  const bool extreme = w->fn == MMSB_REDUCE_MIN || w->fn == MMSB_REDUCE_MAX;
  w->wide = w->fn == MMSB_REDUCE_MEAN ? u8(F64) : extreme || wide == F64 ? wide : u8(U64);
  if (w->fn == MMSB_REDUCE_MEAN) step.natural = input.dtype == F32 ? u8(F32) : u8(F64);
  else step.natural = extreme || wide == F64 ? input.dtype : wide;
  w->room = u64(w->size) + kWindowLevels + 1;
  if (w->room < 4 * kBlockElements) w->room = 4 * kBlockElements;
  else w->room += kBlockElements;
  step.scratchBytes = u32(2 * w->room * 8);
  step.costNs = 3 + 0.5f * f32(32 - __builtin_clz(w->size));
  return MMSB_OK;
}

static const Op kOpConv = {kHeadConv, prepareConv, releaseState, dirtyConv, computeConv, nullptr};
static const Op kOpWindow = {kHeadWindow, prepareWindow, releaseState, dirtyWindow, computeWindow, nullptr};

}  // namespace MMSB_NS
}  // namespace mmsb
