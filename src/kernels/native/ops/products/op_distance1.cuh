// distance, version 1: kept for pages that older logs define. op_distance.cuh is the newest version, and has
// the prepare and dirty functions of both.
//
// A sum over a vector has 32 lanes. Each lane starts at 0 and adds every 32nd element by fma. The lanes are
// joined by halving (lane l with l + 16, then + 8, + 4, + 2, + 1). dot: sum of q * v. l2: square root of the
// sum of (q - v) squared. cosine: 1 - dot / (|q| * |v|). Everything is computed in f32 if the common dtype is
// f32, else in f64, so squares overflow and underflow where the distance does not.
#pragma once
#include <immintrin.h>

#include "ops/products/op_distance.cuh"

namespace mmsb {
namespace MMSB_NS {

template <class T>
static inline T joinLanes(T* acc) {
  for (u32 half = kDistanceLanes / 2; half != 0; half /= 2) {
    for (u32 l = 0; l < half; l++) acc[l] += acc[l + half];
  }
  return acc[0];
}

// Adds the last elements, fewer than 32, from `first` on, and joins the lanes.
template <class T, class F>
static inline T sumRest(T* acc, const T* a, const T* b, u32 first, u32 count) {
  for (u32 l = 0; first + l < count; l++) acc[l] = F::template go<T>(acc[l], a[first + l], b[first + l]);
  return joinLanes<T>(acc);
}

#if defined(__AVX2__) && defined(__FMA__)

// A register of neighbouring lanes.
template <class T>
struct LaneRegister;
template <>
struct LaneRegister<f32> {
  using Register = __m256;
  static inline Register zero() { return _mm256_setzero_ps(); }
  static inline Register load(const f32* at) { return _mm256_loadu_ps(at); }
  static inline void store(f32* at, Register x) { _mm256_storeu_ps(at, x); }
  static inline Register add(Register a, Register b) { return _mm256_add_ps(a, b); }
  static inline Register share(TakeDot, Register acc, Register a, Register b) { return _mm256_fmadd_ps(a, b, acc); }
  static inline Register share(TakeSquare, Register acc, Register a, Register b) {
    const Register d = _mm256_sub_ps(a, b);
    return _mm256_fmadd_ps(d, d, acc);
  }
  static inline f32 join(Register x) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
};
template <>
struct LaneRegister<f64> {
  using Register = __m256d;
  static inline Register zero() { return _mm256_setzero_pd(); }
  static inline Register load(const f64* at) { return _mm256_loadu_pd(at); }
  static inline void store(f64* at, Register x) { _mm256_storeu_pd(at, x); }
  static inline Register add(Register a, Register b) { return _mm256_add_pd(a, b); }
  static inline Register share(TakeDot, Register acc, Register a, Register b) { return _mm256_fmadd_pd(a, b, acc); }
  static inline Register share(TakeSquare, Register acc, Register a, Register b) {
    const Register d = _mm256_sub_pd(a, b);
    return _mm256_fmadd_pd(d, d, acc);
  }
  static inline f64 join(Register x) {
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
  }
};

template <class T, class F>
static inline T sumLanes(const T* a, const T* b, u32 count) {
  using L = LaneRegister<T>;
  constexpr u32 width = 32 / sizeof(T), registers = kDistanceLanes / width;
  typename L::Register acc[registers];
  for (u32 r = 0; r < registers; r++) acc[r] = L::zero();
  u32 i = 0;
  for (; i + kDistanceLanes <= count; i += kDistanceLanes) {
    for (u32 r = 0; r < registers; r++) {
      acc[r] = L::share(F(), acc[r], L::load(a + i + r * width), L::load(b + i + r * width));
    }
  }
  if (i != count) {
    T lanes[kDistanceLanes];
    for (u32 r = 0; r < registers; r++) L::store(lanes + r * width, acc[r]);
    return sumRest<T, F>(lanes, a, b, i, count);
  }
  for (u32 half = registers / 2; half != 0; half /= 2) {
    for (u32 r = 0; r < half; r++) acc[r] = L::add(acc[r], acc[r + half]);
  }
  return L::join(acc[0]);
}

#else

template <class T, class F>
static T sumLanes(const T* a, const T* b, u32 count) {
  T acc[kDistanceLanes];
  for (u32 l = 0; l < kDistanceLanes; l++) acc[l] = 0;
  u32 i = 0;
  for (; i + kDistanceLanes <= count; i += kDistanceLanes) {
    for (u32 l = 0; l < kDistanceLanes; l++) acc[l] = F::template go<T>(acc[l], a[i + l], b[i + l]);
  }
  return sumRest<T, F>(acc, a, b, i, count);
}

#endif

template <class T>
static void distances1(const Step& step, u32 start, u32 count, T* out, u8* scratch) {
  const Distance& d = *static_cast<const Distance*>(step.state);
  const T* query = nullptr;
  T norm = 0;
  u32 q = start / d.vectors, v = start % d.vectors;
  for (u32 i = 0; i < count; i++, v++) {
    if (v == d.vectors) {
      v = 0;
      q++;
    }
    if (i == 0 || v == 0) {
      query = rowAs<T>(*step.inputs[0], step.natural, q, d.depth, scratch, scratch + d.wideAt);
      if (d.metric == METRIC_COSINE) norm = sSqrt(sumLanes<T, TakeDot>(query, query, d.depth));
    }
    const T* vector = rowAs<T>(*step.inputs[1], step.natural, v, d.depth, scratch + d.vectorAt, scratch + d.wideAt);
    if (d.metric == METRIC_L2) {
      out[i] = sSqrt(sumLanes<T, TakeSquare>(query, vector, d.depth));
      continue;
    }
    const T dot = sumLanes<T, TakeDot>(query, vector, d.depth);
    if (d.metric == METRIC_DOT) out[i] = dot;
    else out[i] = T(1) - dot / (norm * sSqrt(sumLanes<T, TakeDot>(vector, vector, d.depth)));
  }
}

static void computeDistance1(const Step& step, u32 start, u32 count, void* out, void* scratch) {
  if (step.natural == F32) distances1<f32>(step, start, count, static_cast<f32*>(out), static_cast<u8*>(scratch));
  else distances1<f64>(step, start, count, static_cast<f64*>(out), static_cast<u8*>(scratch));
}

static const Op kOpDistance1 = {kHeadDistance1, prepareDistance,  releaseState,
                                dirtyDistance,  computeDistance1, nullptr};

}  // namespace MMSB_NS
}  // namespace mmsb
