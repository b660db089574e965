// Folds one block of values into a partial: the inner loops of reduce, for rows and columns.
//
// Invariants: the order of operations is the one that op_reduce.cuh defines. Shortcuts are used only if they
// give the same bits.
#pragma once
#include <immintrin.h>

#include "core/cast.cuh"
#include "ops/reduce/reduce_state.cuh"

namespace mmsb {
namespace MMSB_NS {

// Joins the lanes acc[lanes][width] into the first one, by halving.
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

// Folds `count` (1 .. 1024) neighbouring values, widened from S to W. Eight lanes at a time stay in registers
// for the whole block; each lane is still folded in ascending order.
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

// The same with all lanes at a time. Faster if an operation takes several instructions.
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

// The extreme of `count` values, without widening. The order does not matter for the result.
template <class S, class F>
static S extremeRow(const S* x, u32 count) {
  return foldRowWide<S, F>(x, count);
}

#ifdef __AVX2__
// For floats, the machine's minimum and maximum drop a NaN in the accumulator and may return either zero. So
// these loops also look for a NaN, and take the slow path if there is one or if the result is a zero.
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
    const auto e = loadLanes(x + i), f = loadLanes(x + i + width), g = loadLanes(x + i + 2 * width),
               h = loadLanes(x + i + 3 * width);
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

// The index of the first value that equals `wanted`, or that is NaN if `wanted` is. It must exist.
template <class W>
static u32 firstEqual(const W* x, u32 count, W wanted) {
  const bool nan = wanted != wanted;
  u32 i = 0;
  for (; i + kReduceLanes <= count; i += kReduceLanes) {
    u32 hits = 0;
    if (nan) {
      for (u32 l = 0; l < kReduceLanes; l++) hits |= x[i + l] != x[i + l] ? 1u : 0u;
    } else {
      for (u32 l = 0; l < kReduceLanes; l++) hits |= x[i + l] == wanted ? 1u : 0u;
    }
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

// Computes the partial of the block in `x`, which is overwritten. `first` is the index of x[0] in its lane.
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

// Folds values in place, extremes without widening. S is the dtype, W the type of sums and products, C the
// class of the accumulator.
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

// Returns false for var, any, all, count, and means of integers.
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

}  // namespace MMSB_NS
}  // namespace mmsb
