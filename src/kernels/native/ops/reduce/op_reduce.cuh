// reduce: sum prod min max mean var any all count argmin argmax over a set of axes.
//
// The shape of the computation depends on n, the number of elements reduced into one output (taken in row-major order),
// alone: blocks of 1024 elements; in a block, 32 lanes fold the elements 32 apart in ascending order; lanes are joined by
// halving (lane l with l + 16, then + 8, + 4, + 2, + 1, absent lanes left out); blocks are joined pairwise, level by
// level, an odd last one moving up as it is. Floats are accumulated in f64 and rounded once; integers wrap in 64 bits.
// var: mean and sum of squared distances per block (two passes), joined as in Chan, Golub and LeVeque (1979). min and
// max give NaN where there is one; argmin and argmax the first index of the extreme, a NaN being the extreme.
//
// Lanes of neighbouring elements that are several blocks long keep their tree of partials, so that a change costs its
// blocks and their path to the root.
#pragma once
#include "core/cast.cuh"
#include "exec/exec.cuh"
#include "ops/reduce/reduce_state.cuh"

namespace mmsb {
namespace MMSB_NS {

static const u32 kReduceColumns = 64;  // outputs side by side when the innermost axis is kept
static const u32 kReduceDepth = 23;    // levels over 2^22 blocks
static const u32 kReduceTreeMin = 4 * kReduceBlock;

// ---- geometry ---------------------------------------------------------------------------------------------------------

static void reduceDims(Reduce& r, const Page& input, u32 axes) {
  u64 stride = input.elements;
  for (u32 axis = 0; axis < input.rank; axis++) {
    const u32 size = input.shape[axis];
    if (size <= 1) continue;
    stride /= size;
    const bool kept = (axes >> axis & 1) == 0;
    if (r.dimCount != 0 && r.dims[r.dimCount - 1].kept == kept) {
      r.dims[r.dimCount - 1].size *= size;
      r.dims[r.dimCount - 1].stride = u32(stride);
    } else {
      r.dims[r.dimCount++] = ReduceDim{size, u32(stride), 0, kept};
    }
  }
  u32 outStride = 1;
  for (u32 d = r.dimCount; d-- > 0;) {
    if (!r.dims[d].kept) continue;
    r.dims[d].outStride = outStride;
    outStride *= r.dims[d].size;
  }
  for (u32 d = 0; d < r.dimCount; d++) {
    if (r.dims[d].kept) r.kept[r.keptCount++] = r.dims[d];
    else r.reduced[r.reducedCount++] = r.dims[d];
  }
  r.columns = r.dimCount != 0 && r.dims[r.dimCount - 1].kept;
}

static void dirtyReduce(const Step& step, u32, const RangeSet& changed, RangeSet& out, Arena& arena) {
  const Reduce& r = *static_cast<const Reduce*>(step.state);
  for (u32 i = 0; i < changed.count; i++) {
    const u64 first = changed.data[i].start;
    projectRange(r.dims, r.dimCount, 0, 0, step.inputs[0]->elements, r.outputs, first, first + changed.data[i].count, out, arena);
  }
}

// ---- folding ------------------------------------------------------------------------------------------------------------

// `count` rows of `width` values, `pitch` values apart, are folded into acc[32][width] lanes, which are then joined into the
// first. One row is a lane of a single output when width is 1 and pitch 1.
template <class W, class F>
static void foldLanes(W* acc, u32 width, u32 lanes) {
  for (u32 half = kReduceLanes / 2; half != 0; half /= 2) {
    for (u32 l = 0; l < half && l + half < lanes; l++) {
      W* a = acc + u64(l) * width;
      const W* b = acc + u64(l + half) * width;
      for (u32 c = 0; c < width; c++) a[c] = F::go(a[c], b[c]);
    }
    if (lanes > half) lanes = half;
  }
}

// The fold of `count` (1 .. 1024) neighbouring values, widened from S to W on the way. Eight lanes at a time stay in
// registers through the whole block: each lane is folded in ascending order all the same.
template <class W, class F, class S>
static W foldRow(const S* x, u32 count) {
  W acc[kReduceLanes];
  const u32 lanes = count < kReduceLanes ? count : kReduceLanes;
  const u32 whole = count / kReduceLanes * kReduceLanes;
  if (whole != 0) {
    for (u32 part = 0; part < kReduceLanes; part += 8) {
      W own[8];
      for (u32 l = 0; l < 8; l++) own[l] = W(x[part + l]);
      for (u32 i = kReduceLanes + part; i < whole; i += kReduceLanes) {
        for (u32 l = 0; l < 8; l++) own[l] = F::go(own[l], W(x[i + l]));
      }
      for (u32 l = 0; l < 8; l++) acc[part + l] = own[l];
    }
  }
  for (u32 l = 0; whole + l < count; l++) acc[l] = whole == 0 ? W(x[l]) : F::go(acc[l], W(x[whole + l]));
  foldLanes<W, F>(acc, 1, lanes);
  return acc[0];
}

// The same, all lanes at a time: better where an operation is several instructions.
template <class W, class F, class S>
static W foldRowWide(const S* x, u32 count) {
  W acc[kReduceLanes];
  const u32 lanes = count < kReduceLanes ? count : kReduceLanes;
  for (u32 l = 0; l < lanes; l++) acc[l] = W(x[l]);
  u32 i = kReduceLanes;
  for (; i + kReduceLanes <= count; i += kReduceLanes) {
    for (u32 l = 0; l < kReduceLanes; l++) acc[l] = F::go(acc[l], W(x[i + l]));
  }
  for (u32 l = 0; i + l < count; l++) acc[l] = F::go(acc[l], W(x[i + l]));
  foldLanes<W, F>(acc, 1, lanes);
  return acc[0];
}

template <class W, class S>
static W foldRowBy(u32 fn, const S* x, u32 count) {
  switch (fn) {
    case MMSB_REDUCE_PROD: return foldRow<W, FoldProd>(x, count);
    case MMSB_REDUCE_MIN:
    case MMSB_REDUCE_ARGMIN: return foldRowWide<W, FoldMin>(x, count);
    case MMSB_REDUCE_MAX:
    case MMSB_REDUCE_ARGMAX: return foldRowWide<W, FoldMax>(x, count);
    default: return foldRow<W, FoldSum>(x, count);
  }
}

// The extreme of `count` values as they are, in no particular order: which one it is does not depend on it.
template <class S, class F>
static S extremeRow(const S* x, u32 count) {
  return foldRowWide<S, F>(x, count);
}

#ifdef __AVX2__
// Floats: the machine's minimum and maximum, which pass over a NaN in the accumulator and take either zero, and a look for a NaN; where
// the result is a zero, its sign is looked for.
template <bool MAX>
static inline __m256 extremeOf(__m256 x, __m256 acc) {
  return MAX ? _mm256_max_ps(x, acc) : _mm256_min_ps(x, acc);
}
template <bool MAX>
static inline __m256d extremeOf(__m256d x, __m256d acc) {
  return MAX ? _mm256_max_pd(x, acc) : _mm256_min_pd(x, acc);
}
static inline __m256 loadLanes(const f32* x) { return _mm256_loadu_ps(x); }
static inline __m256d loadLanes(const f64* x) { return _mm256_loadu_pd(x); }
static inline void storeLanes(f32* to, __m256 x) { _mm256_storeu_ps(to, x); }
static inline void storeLanes(f64* to, __m256d x) { _mm256_storeu_pd(to, x); }
static inline __m256 unordered(__m256 a, __m256 b) { return _mm256_cmp_ps(a, b, _CMP_UNORD_Q); }
static inline __m256d unordered(__m256d a, __m256d b) { return _mm256_cmp_pd(a, b, _CMP_UNORD_Q); }
static inline __m256 eitherOf(__m256 a, __m256 b) { return _mm256_or_ps(a, b); }
static inline __m256d eitherOf(__m256d a, __m256d b) { return _mm256_or_pd(a, b); }
static inline bool anyLane(__m256 x) { return _mm256_movemask_ps(x) != 0; }
static inline bool anyLane(__m256d x) { return _mm256_movemask_pd(x) != 0; }

template <class S, class F, bool MAX>
static S extremeFloats(const S* x, u32 count) {
  constexpr u32 width = 32 / sizeof(S), step = 4 * width;
  if (count < step) return foldRowWide<S, F>(x, count);
  auto a = loadLanes(x), b = loadLanes(x + width), c = loadLanes(x + 2 * width), d = loadLanes(x + 3 * width);
  auto nan = eitherOf(unordered(a, b), unordered(c, d));
  u32 i = step;
  for (; i + step <= count; i += step) {
    const auto e = loadLanes(x + i), f = loadLanes(x + i + width), g = loadLanes(x + i + 2 * width), h = loadLanes(x + i + 3 * width);
    nan = eitherOf(nan, eitherOf(unordered(e, f), unordered(g, h)));
    a = extremeOf<MAX>(e, a);
    b = extremeOf<MAX>(f, b);
    c = extremeOf<MAX>(g, c);
    d = extremeOf<MAX>(h, d);
  }
  if (anyLane(nan)) return foldRowWide<S, F>(x, count);
  S lanes[width];
  storeLanes(lanes, extremeOf<MAX>(extremeOf<MAX>(a, b), extremeOf<MAX>(c, d)));
  S best = lanes[0];
  for (u32 l = 1; l < width; l++) best = F::go(best, lanes[l]);
  for (; i < count; i++) best = F::go(best, x[i]);
  return best == S(0) ? foldRowWide<S, F>(x, count) : best;
}
template <>
f32 extremeRow<f32, FoldMin>(const f32* x, u32 count) {
  return extremeFloats<f32, FoldMin, false>(x, count);
}
template <>
f32 extremeRow<f32, FoldMax>(const f32* x, u32 count) {
  return extremeFloats<f32, FoldMax, true>(x, count);
}
template <>
f64 extremeRow<f64, FoldMin>(const f64* x, u32 count) {
  return extremeFloats<f64, FoldMin, false>(x, count);
}
template <>
f64 extremeRow<f64, FoldMax>(const f64* x, u32 count) {
  return extremeFloats<f64, FoldMax, true>(x, count);
}
#endif

static inline bool wantsLeast(u32 fn) { return fn == MMSB_REDUCE_MIN || fn == MMSB_REDUCE_ARGMIN; }

template <class S>
static S extremeBy(u32 fn, const S* x, u32 count) {
  return wantsLeast(fn) ? extremeRow<S, FoldMin>(x, count) : extremeRow<S, FoldMax>(x, count);
}

// The index of the first value that equals `wanted`, or is a NaN as it is. There is one.
template <class W>
static u32 firstEqual(const W* x, u32 count, W wanted) {
  const bool nan = wanted != wanted;
  u32 i = 0;
  for (; i + kReduceLanes <= count; i += kReduceLanes) {
    u32 hits = 0;
    if (nan) for (u32 l = 0; l < kReduceLanes; l++) hits |= x[i + l] != x[i + l] ? 1u : 0u;
    else for (u32 l = 0; l < kReduceLanes; l++) hits |= x[i + l] == wanted ? 1u : 0u;
    if (hits != 0) break;
  }
  while (nan ? x[i] == x[i] : x[i] != wanted) i++;
  return i;
}

template <class W, class F>
static inline void foldInto(W* acc, const W* x, u32 width) {
  for (u32 c = 0; c < width; c++) acc[c] = F::go(acc[c], x[c]);
}

template <class W>
static void foldIntoBy(u32 fn, W* acc, const W* x, u32 width) {
  switch (fn) {
    case MMSB_REDUCE_PROD: return foldInto<W, FoldProd>(acc, x, width);
    case MMSB_REDUCE_MIN:
    case MMSB_REDUCE_ARGMIN: return foldInto<W, FoldMin>(acc, x, width);
    case MMSB_REDUCE_MAX:
    case MMSB_REDUCE_ARGMAX: return foldInto<W, FoldMax>(acc, x, width);
    default: return foldInto<W, FoldSum>(acc, x, width);
  }
}

template <class W>
static void foldLanesBy(u32 fn, W* acc, u32 width, u32 lanes) {
  switch (fn) {
    case MMSB_REDUCE_PROD: return foldLanes<W, FoldProd>(acc, width, lanes);
    case MMSB_REDUCE_MIN:
    case MMSB_REDUCE_ARGMIN: return foldLanes<W, FoldMin>(acc, width, lanes);
    case MMSB_REDUCE_MAX:
    case MMSB_REDUCE_ARGMAX: return foldLanes<W, FoldMax>(acc, width, lanes);
    default: return foldLanes<W, FoldSum>(acc, width, lanes);
  }
}

// The partial of a block in `x`, which is overwritten. `first` is the index of x[0] in its lane.
template <class W>
static Partial blockPartial(u32 fn, W* x, u32 count, u64 first) {
  Partial partial = {0, 0, count};
  if (isTruth(fn)) {
    u64 sum = 0;
    for (u32 i = 0; i < count; i++) sum += x[i] != W(0);
    partial.a = sum;
    return partial;
  }
  const W folded = foldRowBy<W>(fn, x, count);
  partial.a = asWord<W>(folded);
  if (fn == MMSB_REDUCE_VAR) {
    const f64 mean = f64(folded) / count;
    partial.a = asWord<f64>(mean);
    for (u32 i = 0; i < count; i++) x[i] = W((f64(x[i]) - mean) * (f64(x[i]) - mean));
    partial.b = asWord<f64>(f64(foldRow<W, FoldSum>(x, count)));
  } else if (isArg(fn)) {
    partial.b = first + firstEqual<W>(x, count, folded);
  }
  return partial;
}

static void loadWide(const Reduce& r, const u8* from, void* to, u32 count) {
  if (r.wide == F64) floatBlock(r.dtype, from, static_cast<f64*>(to), count);
  else widenBlock(r.dtype, from, to, count);
}

static Partial blockPartialOf(const Reduce& r, void* x, u32 count, u64 first) {
  switch (r.wide) {
    case I64: return blockPartial<i64>(r.fn, static_cast<i64*>(x), count, first);
    case U64: return blockPartial<u64>(r.fn, static_cast<u64*>(x), count, first);
    default: return blockPartial<f64>(r.fn, static_cast<f64*>(x), count, first);
  }
}

static inline bool isExtreme(u32 fn) { return fn == MMSB_REDUCE_MIN || fn == MMSB_REDUCE_MAX || isArg(fn); }

// Values are folded where they lie, extremes without widening. S the dtype, W what sums and products widen to, C the class of
// the accumulator.
template <class S, class W, class C>
static void foldValues(u32 fn, const S* x, u32 count, u64 first, Partial* partial) {
  if (!isExtreme(fn)) {
    *partial = Partial{asWord<W>(foldRowBy<W>(fn, x, count)), 0, count};
    return;
  }
  const S folded = extremeBy<S>(fn, x, count);
  *partial = Partial{asWord<C>(C(folded)), 0, count};
  if (isArg(fn)) partial->b = first + firstEqual<S>(x, count, folded);
}

// False for var, truth, and means of integers.
static bool foldInPlace(const Reduce& r, const u8* from, u32 count, u64 first, Partial* partial) {
  if (r.fn == MMSB_REDUCE_VAR || isTruth(r.fn) || (r.wide == F64 && r.dtype < F32)) return false;
  const void* x = from;
  switch (r.dtype) {
    case F32: foldValues<f32, f64, f64>(r.fn, static_cast<const f32*>(x), count, first, partial); return true;
    case F64: foldValues<f64, f64, f64>(r.fn, static_cast<const f64*>(x), count, first, partial); return true;
    case I8: foldValues<i8, u64, i64>(r.fn, static_cast<const i8*>(x), count, first, partial); return true;
    case I16: foldValues<i16, u64, i64>(r.fn, static_cast<const i16*>(x), count, first, partial); return true;
    case I32: foldValues<i32, u64, i64>(r.fn, static_cast<const i32*>(x), count, first, partial); return true;
    case I64: foldValues<i64, u64, i64>(r.fn, static_cast<const i64*>(x), count, first, partial); return true;
    case U16: foldValues<u16, u64, u64>(r.fn, static_cast<const u16*>(x), count, first, partial); return true;
    case U32: foldValues<u32, u64, u64>(r.fn, static_cast<const u32*>(x), count, first, partial); return true;
    case U64: foldValues<u64, u64, u64>(r.fn, static_cast<const u64*>(x), count, first, partial); return true;
    default: foldValues<u8, u64, u64>(r.fn, from, count, first, partial); return true;
  }
}

// ---- one lane: rows -----------------------------------------------------------------------------------------------------

// Gathers a lane's elements [first, first + count) into `x`, widened.
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

// Joins partials that come in order exactly as the levels of the head do: equal subtrees at once, the rest at the end.
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

// The partial of the elements [first, first + count) of the lane that starts at `start`.
static Partial laneBlockPartial(const Reduce& r, const Page& input, u32 start, u64 first, u32 count, void* x) {
  Partial partial;
  const bool neighbours = r.reducedCount == 1 && r.reduced[0].stride == 1;
  if (neighbours && foldInPlace(r, input.data + (start + first) * dtypeBytes(r.dtype), count, first, &partial)) return partial;
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

// ---- neighbouring lanes: columns ------------------------------------------------------------------------------------------

struct ColumnScratch {
  u64 lanes[kReduceLanes * kReduceColumns];
  u64 row[kReduceColumns];
  f64 mean[kReduceColumns];
  Partial stack[(kReduceDepth + 1) * kReduceColumns];
  u64 sizes[kReduceDepth + 1];
  Partial partial[kReduceColumns];
};

// Walks the rows of a block: row i of the block lies at the offset that rowOffset gives.
template <class W>
static void columnBlock(const Reduce& r, const Page& input, u32 start, u64 first, u32 count, u32 width, ColumnScratch& s) {
  const u32 size = dtypeBytes(r.dtype);
  W* lanes = reinterpret_cast<W*>(s.lanes);
  W* row = reinterpret_cast<W*>(s.row);
  const u32 passes = r.fn == MMSB_REDUCE_VAR ? 2 : 1;
  for (u32 c = 0; c < width; c++) s.partial[c] = Partial{0, 0, count};
  for (u32 pass = 0; pass < passes; pass++) {
    for (u32 i = 0; i < count; i++) {
      const u32 offset = start + laneOffset(r.reduced, r.reducedCount, first + i);
      W* lane = lanes + u64(i % kReduceLanes) * width;
      loadWide(r, input.data + u64(offset) * size, row, width);
      if (pass == 1) {
        for (u32 c = 0; c < width; c++) row[c] = W((f64(row[c]) - s.mean[c]) * (f64(row[c]) - s.mean[c]));
      }
      if (isArg(r.fn)) {
        for (u32 c = 0; c < width; c++) {
          Partial& best = s.partial[c];
          if (i == 0 || argWins<W>(r.fn, wordAs<W>(best.a), row[c])) best = Partial{asWord<W>(row[c]), first + i, count};
        }
      } else if (isTruth(r.fn)) {
        for (u32 c = 0; c < width; c++) s.partial[c].a += row[c] != W(0);
      } else if (i < kReduceLanes) {
        memcpy(lane, row, u64(width) * sizeof(W));
      } else {
        foldIntoBy<W>(r.fn, lane, row, width);
      }
    }
    if (isArg(r.fn) || isTruth(r.fn)) return;
    foldLanesBy<W>(r.fn, lanes, width, count < kReduceLanes ? count : kReduceLanes);
    for (u32 c = 0; c < width; c++) {
      if (r.fn != MMSB_REDUCE_VAR) {
        s.partial[c].a = asWord<W>(lanes[c]);
      } else if (pass == 0) {
        s.mean[c] = f64(lanes[c]) / count;
        s.partial[c].a = asWord<f64>(s.mean[c]);
      } else {
        s.partial[c].b = asWord<f64>(f64(lanes[c]));
      }
    }
  }
}

// Rows of floats that are `pitch` elements apart are folded into their lanes as they are read.
template <class F, class S>
static void foldRows(const S* x, u64 pitch, u32 count, u32 width, f64* lanes) {
  for (u32 i = 0; i < count; i++, x += pitch) {
    f64* lane = lanes + u64(i % kReduceLanes) * width;
    if (i < kReduceLanes) {
      for (u32 c = 0; c < width; c++) lane[c] = f64(x[c]);
    } else if (width == kReduceColumns) {
      for (u32 c = 0; c < kReduceColumns; c++) lane[c] = F::go(lane[c], f64(x[c]));
    } else {
      for (u32 c = 0; c < width; c++) lane[c] = F::go(lane[c], f64(x[c]));
    }
  }
  foldLanes<f64, F>(lanes, width, count < kReduceLanes ? count : kReduceLanes);
}

template <class S>
static void foldRowsBy(u32 fn, const S* x, u64 pitch, u32 count, u32 width, f64* lanes) {
  switch (fn) {
    case MMSB_REDUCE_PROD: return foldRows<FoldProd>(x, pitch, count, width, lanes);
    default: return foldRows<FoldSum>(x, pitch, count, width, lanes);
  }
}

// Extremes do not depend on the order: one accumulator for each column.
template <class F, class S>
static void extremeRows(const S* x, u64 pitch, u32 count, u32 width, S* best) {
  for (u32 c = 0; c < width; c++) best[c] = x[c];
  for (u32 i = 1; i < count; i++) {
    x += pitch;
    if (width == kReduceColumns) {
      for (u32 c = 0; c < kReduceColumns; c++) best[c] = F::go(best[c], x[c]);
    } else {
      for (u32 c = 0; c < width; c++) best[c] = F::go(best[c], x[c]);
    }
  }
}

// Nor do sums and products of integers, which wrap.
template <class F, class S>
static void wrapRows(const S* x, u64 pitch, u32 count, u32 width, u64* acc) {
  for (u32 c = 0; c < width; c++) acc[c] = u64(x[c]);
  for (u32 i = 1; i < count; i++) {
    x += pitch;
    for (u32 c = 0; c < width; c++) acc[c] = F::go(acc[c], u64(x[c]));
  }
}

// C is the class of the accumulator.
template <class S, class C>
static void columnValues(u32 fn, const u8* from, u64 pitch, u32 count, u32 width, u64* words) {
  const S* x = reinterpret_cast<const S*>(from);
  if (fn == MMSB_REDUCE_MIN || fn == MMSB_REDUCE_MAX) {
    S best[kReduceColumns];
    if (fn == MMSB_REDUCE_MIN) extremeRows<FoldMin>(x, pitch, count, width, best);
    else extremeRows<FoldMax>(x, pitch, count, width, best);
    for (u32 c = 0; c < width; c++) words[c] = asWord<C>(C(best[c]));
  } else if (fn == MMSB_REDUCE_PROD) {
    wrapRows<FoldProd>(x, pitch, count, width, words);
  } else {
    wrapRows<FoldSum>(x, pitch, count, width, words);
  }
}

static void columnFloats(const Reduce& r, const u8* from, u64 pitch, u32 count, u32 width, u64* words) {
  f64* lanes = reinterpret_cast<f64*>(words);
  const bool extreme = r.fn == MMSB_REDUCE_MIN || r.fn == MMSB_REDUCE_MAX;
  if (r.dtype == F32) {
    if (extreme) return columnValues<f32, f64>(r.fn, from, pitch, count, width, words);
    return foldRowsBy(r.fn, reinterpret_cast<const f32*>(from), pitch, count, width, lanes);
  }
  if (extreme) return columnValues<f64, f64>(r.fn, from, pitch, count, width, words);
  return foldRowsBy(r.fn, reinterpret_cast<const f64*>(from), pitch, count, width, lanes);
}

// A block of columns in one go. False for what is not sum, prod, min, max or mean (of floats) along one axis.
static bool foldColumns(const Reduce& r, const Page& input, u32 start, u64 first, u32 count, u32 width, ColumnScratch& s) {
  if (r.fn > MMSB_REDUCE_MEAN || r.reducedCount != 1 || (r.wide == F64 && r.dtype < F32)) return false;
  const u64 pitch = r.reduced[0].stride;
  const u8* from = input.data + (start + first * pitch) * dtypeBytes(r.dtype);
  switch (r.dtype) {
    case F32:
    case F64: columnFloats(r, from, pitch, count, width, s.lanes); break;
    case I8: columnValues<i8, i64>(r.fn, from, pitch, count, width, s.lanes); break;
    case I16: columnValues<i16, i64>(r.fn, from, pitch, count, width, s.lanes); break;
    case I32: columnValues<i32, i64>(r.fn, from, pitch, count, width, s.lanes); break;
    case I64: columnValues<i64, i64>(r.fn, from, pitch, count, width, s.lanes); break;
    case U16: columnValues<u16, u64>(r.fn, from, pitch, count, width, s.lanes); break;
    case U32: columnValues<u32, u64>(r.fn, from, pitch, count, width, s.lanes); break;
    case U64: columnValues<u64, u64>(r.fn, from, pitch, count, width, s.lanes); break;
    default: columnValues<u8, u64>(r.fn, from, pitch, count, width, s.lanes);
  }
  for (u32 c = 0; c < width; c++) s.partial[c] = Partial{s.lanes[c], 0, count};
  return true;
}

static void columnBlockOf(const Reduce& r, const Page& input, u32 start, u64 first, u32 count, u32 width, ColumnScratch& s) {
  if (foldColumns(r, input, start, first, count, width, s)) return;
  switch (r.wide) {
    case I64: return columnBlock<i64>(r, input, start, first, count, width, s);
    case U64: return columnBlock<u64>(r, input, start, first, count, width, s);
    default: return columnBlock<f64>(r, input, start, first, count, width, s);
  }
}

// Outputs [output, output + width) lie side by side.
static void reduceColumns(const Reduce& r, const Page& input, u32 output, u32 width, u64* results, ColumnScratch& s) {
  const u32 start = laneStart(r.kept, r.keptCount, output);
  u32 depth = 0;
  for (u64 block = 0; block < r.blocks; block++) {
    columnBlockOf(r, input, start, block * kReduceBlock, blockCount(r, block), width, s);
    u64 size = 1;
    while (depth != 0 && s.sizes[depth - 1] == size) {
      depth--;
      for (u32 c = 0; c < width; c++) s.partial[c] = joinOf(r, s.stack[depth * kReduceColumns + c], s.partial[c]);
      size *= 2;
    }
    memcpy(s.stack + depth * kReduceColumns, s.partial, width * sizeof(Partial));
    s.sizes[depth++] = size;
  }
  depth--;
  while (depth-- != 0) {
    Partial* right = s.stack + (depth + 1) * kReduceColumns;
    Partial* left = s.stack + depth * kReduceColumns;
    for (u32 c = 0; c < width; c++) left[c] = joinOf(r, left[c], right[c]);
  }
  for (u32 c = 0; c < width; c++) results[c] = finishValue(r, s.stack[c]);
}

// ---- the tree of partials ---------------------------------------------------------------------------------------------------

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

// Task t computes the blocks t * perTask .. of the set, counted through its ranges.
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

// The blocks that changed elements lie in, as output * r.blocks + block.
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
  if (changed == nullptr || !r.treeValid || r.treeLoads != input->loads) rangesPush(blocks, 0, u32(r.outputs * r.blocks), arena);
  else dirtyBlocks(r, *changed, blocks, arena);
  TreeJob job = {&exec, &r, step.inputs[0], &blocks, 32, rangesElements(blocks)};
  if (worthThreads(exec, f64(job.total) * kReduceBlock * 0.3)) {
    while (job.total / job.perTask >= kTasksMax) job.perTask *= 2;
    poolRun(*exec.pool, u32((job.total + job.perTask - 1) / job.perTask), treeTask, &job);
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

// ---- the op -----------------------------------------------------------------------------------------------------------------

struct ReduceScratch {
  u64 block[kReduceBlock];  // first: treeTask uses the scratch as this
  u64 results[kBlockElements];
  ColumnScratch columns;
};

static void computeReduce(const Step& step, u32 start, u32 count, void* out, void* scratch) {
  const Reduce& r = *static_cast<const Reduce*>(step.state);
  ReduceScratch& s = *static_cast<ReduceScratch*>(scratch);
  const Page& input = *step.inputs[0];
  if (r.n == 0) {
    for (u32 i = 0; i < count; i++) s.results[i] = emptyValue(r);
  } else if (r.tree != nullptr) {
    for (u32 i = 0; i < count; i++) s.results[i] = finishValue(r, r.tree[(start + i + 1) * r.treePartials - 1]);
  } else if (r.columns) {
    const u32 inner = r.kept[r.keptCount - 1].size;
    for (u32 i = 0; i < count;) {
      const u32 room = inner - (start + i) % inner;
      u32 width = count - i < room ? count - i : room;
      if (width > kReduceColumns) width = kReduceColumns;
      reduceColumns(r, input, start + i, width, s.results + i, s.columns);
      i += width;
    }
  } else {
    for (u32 i = 0; i < count; i++) s.results[i] = reduceLane(r, input, start + i, s.block);
  }
  switch (r.result) {
    case I64: return narrowBlockOf<i64>(step.natural, s.results, out, count);
    case U64: return narrowBlockOf<u64>(step.natural, s.results, out, count);
    default: return narrowBlockOf<f64>(step.natural, s.results, out, count);
  }
}

static void runReduce(Step& step, StepRun& run) {
  Reduce& r = *static_cast<Reduce*>(step.state);
  Exec& exec = *run.exec;
  if (hasTree(r) && treeReady(r)) treeUpdate(r, step, run, run.full ? nullptr : changesOf(exec, step.inputs[0]));
  const RangeSet ranges = dirtyOutput(exec, step, run.full);
  run.elements = rangesElements(ranges);
  computeRanges(exec, step, ranges, run.elements, run.changed);
}

// The partials of what was put back are computed again; those that are stale anyway stay so.
static void refreshReduce(Step& step, StepRun& run) {
  Reduce& r = *static_cast<Reduce*>(step.state);
  if (r.tree == nullptr || !r.treeValid || r.treeLoads != slotOf(step.inputs[0])->loads) return;
  treeUpdate(r, step, run, changesOf(*run.exec, step.inputs[0]));
}

static u8 reduceNatural(u32 fn, u8 dtype) {
  const bool isFloat = dtype >= F32;
  switch (fn) {
    case MMSB_REDUCE_SUM:
    case MMSB_REDUCE_PROD: return isFloat ? dtype : u8(wideOf(dtype));
    case MMSB_REDUCE_MIN:
    case MMSB_REDUCE_MAX: return dtype;
    case MMSB_REDUCE_MEAN:
    case MMSB_REDUCE_VAR: return dtype == F32 ? u8(F32) : u8(F64);
    case MMSB_REDUCE_ANY:
    case MMSB_REDUCE_ALL: return BOOL;
    default: return U32;
  }
}

static void releaseReduce(Step& step) {
  Reduce* r = static_cast<Reduce*>(step.state);
  if (r == nullptr) return;
  free(r->tree);
  free(r);
}

static int32_t prepareReduce(Step& step) {
  if (step.inputCount != 1 || step.paramBytes < 16) return fail(MMSB_ERR_ARGUMENT, "reduce takes one input and 16 bytes of parameters");
  u32 params[4];
  memcpy(params, step.params, sizeof params);
  const Page& input = *step.inputs[0];
  if (params[0] > MMSB_REDUCE_ARGMAX) return fail(MMSB_ERR_ARGUMENT, "reduce function %u", params[0]);
  if ((params[1] >> input.rank) != 0) return fail(MMSB_ERR_ARGUMENT, "reduce axes %#x of a page of rank %u", params[1], input.rank);
  u64 outputs = 1, n = 1;
  for (u32 axis = 0; axis < input.rank; axis++) {
    if ((params[1] >> axis & 1) != 0) n *= input.shape[axis];
    else outputs *= input.shape[axis];
  }
  if (outputs != step.out->elements) return fail(MMSB_ERR_ARGUMENT, "reduce to %llu elements into a page of %u", (unsigned long long)outputs, step.out->elements);
  const u32 fn = params[0];
  const bool extreme = fn == MMSB_REDUCE_MIN || fn == MMSB_REDUCE_MAX || isArg(fn);
  if (extreme && n == 0 && outputs != 0) return fail(MMSB_ERR_ARGUMENT, "an extreme of no elements");
  Reduce* r = static_cast<Reduce*>(calloc(1, sizeof(Reduce)));
  if (r == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for a step");
  step.state = r;
  r->fn = fn;
  r->dtype = input.dtype;
  r->wide = u8(fn == MMSB_REDUCE_MEAN || fn == MMSB_REDUCE_VAR ? u32(F64) : wideOf(input.dtype));
  if ((fn == MMSB_REDUCE_SUM || fn == MMSB_REDUCE_PROD) && r->wide == I64) r->wide = U64;
  r->result = isTruth(fn) || isArg(fn) ? u8(U64) : r->wide == F64 ? u8(F64) : u8(wideOf(input.dtype));
  r->n = n;
  r->blocks = (n + kReduceBlock - 1) / kReduceBlock;
  r->outputs = u32(outputs);
  if (n != 0 && outputs != 0) reduceDims(*r, input, params[1]);
  step.natural = reduceNatural(fn, input.dtype);
  step.scratchBytes = sizeof(ReduceScratch);
  step.costNs = hasTree(*r) ? 5.0f : f32(20.0 + 0.4 * f64(n));
  return MMSB_OK;
}

static const Op kOpReduce = {"reduce", MMSB_OP_REDUCE, 1, prepareReduce, releaseReduce, dirtyReduce, computeReduce, runReduce, refreshReduce};

}  // namespace MMSB_NS
}  // namespace mmsb
