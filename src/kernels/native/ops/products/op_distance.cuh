// distance: dot product, Euclidean distance or cosine distance of each query and each vector.
// distance_sums.cuh defines what is computed, and how sums are rounded; this file runs it on the CPU.
#pragma once
#include <immintrin.h>

#include "ops/boxes.cuh"
#include "ops/common.cuh"
#include "ops/products/distance_state.cuh"
#include "ops/products/distance_sums.cuh"

namespace mmsb {
namespace MMSB_NS {

// A register of neighbouring lanes.
#if defined(__AVX2__) && defined(__FMA__)
static const u32 kLanesWide = 4;
#else
static const u32 kLanesWide = 2;
#endif
typedef f64 LaneVector __attribute__((vector_size(8 * kLanesWide)));
struct WideLanes {
  LaneVector of;
  inline f64 operator[](u32 l) const { return of[l]; }
  inline WideLanes operator-() const { return WideLanes{-of}; }
};
static inline WideLanes operator+(WideLanes a, WideLanes b) { return WideLanes{a.of + b.of}; }
static inline WideLanes operator-(WideLanes a, WideLanes b) { return WideLanes{a.of - b.of}; }
static inline WideLanes operator*(WideLanes a, WideLanes b) { return WideLanes{a.of * b.of}; }
static inline WideLanes operator*(WideLanes a, f64 b) { return WideLanes{a.of * b}; }
static inline WideLanes operator*(f64 a, WideLanes b) { return WideLanes{a * b.of}; }
#if defined(__AVX2__) && defined(__FMA__)
static inline WideLanes fmaOf(WideLanes a, WideLanes b, WideLanes c) {
  return WideLanes{LaneVector(_mm256_fmadd_pd(__m256d(a.of), __m256d(b.of), __m256d(c.of)))};
}
static inline WideLanes fmaOf(f64 a, WideLanes b, WideLanes c) {
  return WideLanes{LaneVector(_mm256_fmadd_pd(_mm256_set1_pd(a), __m256d(b.of), __m256d(c.of)))};
}
#else
static inline WideLanes fmaOf(WideLanes a, WideLanes b, WideLanes c) {
  return WideLanes{LaneVector{sFma<f64>(a[0], b[0], c[0]), sFma<f64>(a[1], b[1], c[1])}};
}
static inline WideLanes fmaOf(f64 a, WideLanes b, WideLanes c) {
  return WideLanes{LaneVector{sFma<f64>(a, b[0], c[0]), sFma<f64>(a, b[1], c[1])}};
}
#endif

static inline WideLanes loadWide(const f32* at) {
  typedef f32 Narrow __attribute__((vector_size(4 * kLanesWide), aligned(4), may_alias));
  return WideLanes{__builtin_convertvector(*reinterpret_cast<const Narrow*>(at), LaneVector)};
}
static inline WideLanes loadWide(const f64* at) {
  typedef f64 Unaligned __attribute__((vector_size(8 * kLanesWide), aligned(8), may_alias));
  return WideLanes{*reinterpret_cast<const Unaligned*>(at)};
}

// A query, already widened, and a vector of T, in the memory of the host.
template <class SUM, class T, bool kScaled>
struct HostRows {
  typedef SUM Sum;
  typedef typename SUM::template Part<WideLanes> WidePart;
  typedef typename SUM::template Part<f64> LanePart;
  static const u32 kRegisters = kDistanceLanes / kLanesWide;
  // Registers of one loop over the vectors; with more their sums do not fit in the processor's registers.
  static const u32 kTogether = SUM::kIsWide ? kRegisters / 2 : kRegisters;

  const f64* query;
  const T* vector;
  u32 depth;
  Scale queryScale, vectorScale;

  HostRows<SUM, T, true> scaled(Scale forQuery, Scale forVector) const {
    return HostRows<SUM, T, true>{query, vector, depth, forQuery, forVector};
  }

  template <class X>
  static inline X scaledBy(X x, const Scale& scale) {
    if constexpr (kScaled) return x * scale.first * scale.second;
    else return x;
  }

  template <class Term>
  inline void addWide(WidePart& part, const Term& term, u32 at) const {
    WideLanes x, y;
    term.factors(scaledBy(loadWide(query + at), queryScale), scaledBy(loadWide(vector + at), vectorScale), x, y);
    part.add(x, y);
  }

  // Adds the elements after the last whole row of lanes, and joins the lanes.
  template <class Term>
  f64 finish(WidePart* parts, const Term& term) const {
    LanePart lanes[kDistanceLanes];
    u32 half = kDistanceLanes / 2;
    const u32 whole = depth / kDistanceLanes * kDistanceLanes;
    if (whole == depth) {
      for (u32 r = kRegisters / 2; r != 0; r /= 2, half /= 2) {
        for (u32 i = 0; i < r; i++) parts[i].join(parts[i + r]);
      }
      for (u32 l = 0; l < kLanesWide; l++) lanes[l] = parts[0].lane(l);
    } else {
      for (u32 l = 0; l < kDistanceLanes; l++) lanes[l] = parts[l / kLanesWide].lane(l % kLanesWide);
      for (u32 i = whole; i < depth; i++) {
        f64 x, y;
        term.factors(scaledBy(query[i], queryScale), scaledBy(f64(vector[i]), vectorScale), x, y);
        lanes[i - whole].add(x, y);
      }
    }
    for (; half != 0; half /= 2) {
      for (u32 l = 0; l < half; l++) lanes[l].join(lanes[l + half]);
    }
    return lanes[0].total();
  }

  template <class Term>
  f64 sum(const Term& term) const {
    WidePart parts[kRegisters];
    for (u32 first = 0; first < kRegisters; first += kTogether) {
      WidePart own[kTogether] = {};
      for (u32 i = first * kLanesWide; i + (kRegisters - first) * kLanesWide <= depth; i += kDistanceLanes) {
        for (u32 r = 0; r < kTogether; r++) addWide(own[r], term, i + r * kLanesWide);
      }
      for (u32 r = 0; r < kTogether; r++) parts[first + r] = own[r];
    }
    return finish(parts, term);
  }

  // Two sums, which share the loads where their registers allow it.
  template <class A, class B>
  f64 sums(const A& a, const B& b, f64& sumOfB) const {
    if constexpr (SUM::kIsWide) {
      sumOfB = sum(b);
      return sum(a);
    }
    WidePart ofA[kRegisters], ofB[kRegisters];
    const u32 together = kRegisters / 2;
    for (u32 first = 0; first < kRegisters; first += together) {
      WidePart ownA[together] = {}, ownB[together] = {};
      for (u32 i = first * kLanesWide; i + (kRegisters - first) * kLanesWide <= depth; i += kDistanceLanes) {
        for (u32 r = 0; r < together; r++) {
          addWide(ownA[r], a, i + r * kLanesWide);
          addWide(ownB[r], b, i + r * kLanesWide);
        }
      }
      for (u32 r = 0; r < together; r++) {
        ofA[first + r] = ownA[r];
        ofB[first + r] = ownB[r];
      }
    }
    sumOfB = finish(ofB, b);
    return finish(ofA, a);
  }

  f64 signSum() const {
    f64 sum = 0;
    for (u32 i = 0; i < depth; i++) sum += signOf(query[i]) * signOf(f64(vector[i]));
    return sum;
  }

  template <class Term>
  f64 largest(const Term& term) const {
    f64 most = 0;
    for (u32 i = 0; i < depth; i++) {
      f64 x, y;
      term.factors(query[i], f64(vector[i]), x, y);
      most = largerOf(most, x);
    }
    return most;
  }
};

// Returns a row in the dtype of the result: the page's own memory if it has that dtype, else a cast copy.
template <class T>
static const T* rowAs(const Page& page, u32 dtype, u64 row, u32 depth, u8* room, void* wide) {
  const u8* from = page.data + row * depth * dtypeBytes(page.dtype);
  if (page.dtype == dtype) return reinterpret_cast<const T*>(from);
  castMany(page.dtype, from, dtype, room, depth, wide);
  return reinterpret_cast<const T*>(room);
}

// A query of T as f64: the page's own memory if it has that dtype, else a copy in `scratch`.
template <class T>
static const f64* queryAs(const Step& step, u32 q, u8* scratch) {
  const Distance& d = *static_cast<const Distance*>(step.state);
  const T* row = rowAs<T>(*step.inputs[0], step.natural, q, d.depth, scratch + d.vectorAt, scratch + d.wideAt);
  if (step.inputs[0]->dtype == F64) return reinterpret_cast<const f64*>(row);
  f64* wide = reinterpret_cast<f64*>(scratch);
  for (u32 i = 0; i < d.depth; i++) wide[i] = f64(row[i]);
  return wide;
}

template <class SUM, class T>
static void distances(const Step& step, u32 start, u32 count, T* out, u8* scratch) {
  const Distance& d = *static_cast<const Distance*>(step.state);
  HostRows<SUM, T, false> rows = {nullptr, nullptr, d.depth, {1, 1}, {1, 1}};
  f64 square = 0;
  u32 q = start / d.vectors, v = start % d.vectors;
  for (u32 i = 0; i < count; i++, v++) {
    if (v == d.vectors) {
      v = 0;
      q++;
    }
    const bool isNext = i == 0 || v == 0;
    if (isNext) rows.query = queryAs<T>(step, q, scratch);
    rows.vector = rowAs<T>(*step.inputs[1], step.natural, v, d.depth, scratch + d.vectorAt, scratch + d.wideAt);
    if (isNext && d.metric == METRIC_COSINE) square = rows.sum(QuerySquare());
    out[i] = T(distanceOf(d.metric, rows, square));
  }
}

static void computeDistance(const Step& step, u32 start, u32 count, void* out, void* scratch) {
  u8* const room = static_cast<u8*>(scratch);
  if (step.natural == F32) distances<PlainSum, f32>(step, start, count, static_cast<f32*>(out), room);
  else distances<DoubleSum, f64>(step, start, count, static_cast<f64*>(out), room);
}

static void dirtyDistance(const Step& step, u32 input, const RangeSet& changed, RangeSet& out, Arena& arena) {
  const Distance& d = *static_cast<const Distance*>(step.state);
  BoxSink sink = makeBoxSink(out, arena, Extent{2, {d.queries, d.vectors, 1, 1, 1, 1, 1, 1}, step.out->elements});
  for (u32 i = 0; i < changed.count; i++) {
    const u32 from = changed.data[i].start / d.depth,
              to = (changed.data[i].start + changed.data[i].count - 1) / d.depth + 1;
    if (input == 0) pushBox(sink, Box{{from, 0}, {to, d.vectors}});
    else pushBox(sink, Box{{0, from}, {d.queries, to}});
  }
}

static int32_t prepareDistance(Step& step) {
  if (step.inputCount != 2 || step.paramBytes < 8) {
    return fail(MMSB_ERR_ARGUMENT, "distance takes two inputs and 8 bytes of parameters");
  }
  const Page& queries = *step.inputs[0];
  const Page& vectors = *step.inputs[1];
  Distance* d = static_cast<Distance*>(calloc(1, sizeof(Distance)));
  if (d == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for a step");
  step.state = d;
  memcpy(&d->metric, step.params, 4);
  if (d->metric > METRIC_COSINE) return fail(MMSB_ERR_ARGUMENT, "distance: unknown metric %u", d->metric);
  if (queries.rank == 0 || queries.rank > 2 || vectors.rank != 2) {
    return fail(MMSB_ERR_ARGUMENT, "distance does not take pages of rank %u and %u", queries.rank, vectors.rank);
  }
  d->queries = queries.rank == 2 ? queries.shape[0] : 1;
  d->depth = queries.shape[queries.rank - 1];
  d->vectors = vectors.shape[0];
  if (d->depth != vectors.shape[1]) {
    return fail(MMSB_ERR_ARGUMENT, "distance: queries have %u elements, vectors %u", d->depth, vectors.shape[1]);
  }
  if (u64(d->queries) * d->vectors != step.out->elements) {
    return fail(MMSB_ERR_ARGUMENT, "distance into a page of %u elements", step.out->elements);
  }
  step.natural = promote(queries.dtype, vectors.dtype) == F32 ? u8(F32) : u8(F64);
  d->vectorAt = (u64(d->depth) * 8 + 127) & ~63ull;
  d->wideAt = 2 * d->vectorAt;
  const u64 scratch = d->wideAt + kBlockElements * 8;
  if (scratch >> 31 != 0) return fail(MMSB_ERR_MEMORY, "no memory for vectors of %u elements", d->depth);
  step.scratchBytes = u32(scratch);
  step.costNs = 5 + 0.2f * f32(d->depth);
  return MMSB_OK;
}

static const Op kOpDistance = {kHeadDistance, prepareDistance, releaseState, dirtyDistance, computeDistance, nullptr};

}  // namespace MMSB_NS
}  // namespace mmsb
