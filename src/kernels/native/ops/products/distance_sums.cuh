// What distance computes (version 2), for the CPU and the CUDA kernels.
//
// A sum over a vector has 32 lanes. Each lane starts at 0 and adds every 32nd element. The lanes are joined
// by halving (lane l with l + 16, then + 8, + 4, + 2, + 1). Where the common dtype is f32, elements are f64
// and sums are PlainSum: nothing overflows or underflows, and the result is rounded to f32 once. Otherwise
// sums are DoubleSum, in about 106 bits; vectors whose squares leave the range are scaled by a power of two
// first.
//
// Invariant: a distance is within 4 ulp of the exact one for finite elements; dot, whose terms may cancel, is
// within 4 ulp of the sum of the terms' sizes.
#pragma once
#include "ops/products/distance_state.cuh"

namespace mmsb {
namespace MMSB_NS {

static MMSB_HD inline f64 fmaOf(f64 a, f64 b, f64 c) { return sFma<f64>(a, b, c); }

// Sums of products of f64, for X one lane or a register of lanes.
struct PlainSum {
  static const bool kIsWide = false;
  // The cosine above which 1 - cosine has lost too many bits.
  static MMSB_HD f64 nearCosine() { return 1023.0 / 1024; }
  template <class X>
  struct Part {
    X sum;
    MMSB_HD inline void add(X x, X y) { sum = fmaOf(x, y, sum); }
    MMSB_HD inline void join(const Part& other) { sum = sum + other.sum; }
    MMSB_HD inline f64 total() const { return sum; }
    inline Part<f64> lane(u32 l) const { return Part<f64>{sum[l]}; }
  };
};

// The same with the rounding errors of products and sums beside them (Ogita, Rump, Oishi: "Accurate sum and
// dot product", Dot2).
struct DoubleSum {
  static const bool kIsWide = true;
  static MMSB_HD f64 nearCosine() { return 0.5; }
  template <class X>
  struct Part {
    X sum, error;
    MMSB_HD inline X addExact(X y) {
      const X both = sum + y, part = both - sum, lost = (sum - (both - part)) + (y - part);
      sum = both;
      return lost;
    }
    MMSB_HD inline void add(X x, X y) {
      const X product = x * y, lost = fmaOf(x, y, -product);
      error = error + (lost + addExact(product));
    }
    MMSB_HD inline void join(const Part& other) {
      const X lost = addExact(other.sum);
      error = (error + other.error) + lost;
    }
    MMSB_HD inline f64 total() const { return sum + error; }
    inline Part<f64> lane(u32 l) const { return Part<f64>{sum[l], error[l]}; }
  };
};

// ---- terms: the two factors that an element of the query and of the vector give ---------------------------

struct QuerySquare {
  template <class X>
  MMSB_HD inline void factors(X q, X, X& x, X& y) const {
    x = y = q;
  }
};
struct VectorSquare {
  template <class X>
  MMSB_HD inline void factors(X, X v, X& x, X& y) const {
    x = y = v;
  }
};
struct Product {
  template <class X>
  MMSB_HD inline void factors(X q, X v, X& x, X& y) const {
    x = q;
    y = v;
  }
};
struct DifferenceSquare {
  template <class X>
  MMSB_HD inline void factors(X q, X v, X& x, X& y) const {
    x = y = q - v;
  }
};
// q - times * v, almost exactly: `high`, and what it lacks.
template <class X>
static MMSB_HD inline X without(f64 times, X q, X v, X& lacks) {
  const X product = times * v, productLost = fmaOf(times, v, -product);
  const X rest = q - product, part = rest - q, restLost = (q - (rest - part)) - (product + part);
  const X high = rest - productLost, highPart = high - rest;
  lacks = restLost + ((rest - (high - highPart)) - (productLost + highPart));
  return high;
}
// The part of the query that is left without `along` times the vector, times the vector.
struct RestProduct {
  f64 along;
  template <class X>
  MMSB_HD inline void factors(X q, X v, X& x, X& y) const {
    X lacks;
    x = without(along, q, v, lacks);
    y = v;
  }
};
// The query without (along + more) times the vector: its square, and its product with the vector, which would
// be 0 without rounding.
struct AcrossSquare {
  f64 along, more;
  template <class X>
  MMSB_HD inline X across(X q, X v) const {
    X lacks;
    const X rest = without(along, q, v, lacks);
    return fmaOf(-more, v, rest) + lacks;
  }
  template <class X>
  MMSB_HD inline void factors(X q, X v, X& x, X& y) const {
    x = y = across(q, v);
  }
};
struct AcrossProduct {
  AcrossSquare of;
  template <class X>
  MMSB_HD inline void factors(X q, X v, X& x, X& y) const {
    x = of.across(q, v);
    y = v;
  }
};

// ---- scaling ----------------------------------------------------------------------------------------------

// A power of two as two factors, because it may be beyond the range of f64.
struct Scale {
  f64 first, second;
};
static MMSB_HD inline f64 powerOfTwo(i32 exponent) { return f64Of(u64(exponent + 1023) << 52); }  // -1022 to 1023
static MMSB_HD inline Scale scaleBy(i32 exponent) {
  const i32 half = exponent / 2;
  return Scale{powerOfTwo(half), powerOfTwo(exponent - half)};
}
// The exponent of a finite number above 0: it is 2^exponent times something from 1 to 2.
static MMSB_HD inline i32 exponentOf(f64 x) {
  const f64 normal = x < powerOfTwo(-1022) ? x * powerOfTwo(64) : x;
  return i32(bitsOf(normal) >> 52) - 1023 - (x < powerOfTwo(-1022) ? 64 : 0);
}
// x times 2^exponent, -2200 to 2200. The steps go one way, so only the last can leave the range.
static MMSB_HD inline f64 timesPowerOfTwo(f64 x, i32 exponent) {
  const i32 third = exponent / 3;
  return x * powerOfTwo(third) * powerOfTwo(third) * powerOfTwo(exponent - 2 * third);
}
struct ScaledDifferenceSquare {
  Scale scale;
  template <class X>
  MMSB_HD inline void factors(X q, X v, X& x, X& y) const {
    x = y = (q - v) * scale.first * scale.second;
  }
};
static MMSB_HD inline bool isFinite(f64 x) { return x - x == 0; }
// The sign of a finite number as -1, 0 or 1; else the number.
static MMSB_HD inline f64 signOf(f64 x) { return isFinite(x) ? f64((x > 0) - (x < 0)) : x; }
// The larger size; NaN once there was one.
static MMSB_HD inline f64 largerOf(f64 most, f64 x) {
  const f64 size = x < 0 ? -x : x;
  return size > most || size != size ? size : most;
}

// ---- distances of a query and a vector --------------------------------------------------------------------
// ROWS has `Sum`; sum(term); sums(a, b, sumOfB), which returns the sum of a; largest(term), the largest |x|
// of the factors, or NaN; signSum(), the sum of the products of signs, with infinities and NaN as they are;
// and scaled(), the same rows times powers of two.

// dot where its sum is not finite.
template <class ROWS>
static MMSB_HD f64 dotOfExtremes(const ROWS& rows) {
  const f64 ofQuery = rows.largest(QuerySquare()), ofVector = rows.largest(VectorSquare());
  if (!isFinite(ofQuery) || !isFinite(ofVector)) return rows.signSum();
  const i32 query = exponentOf(ofQuery), vector = exponentOf(ofVector);
  return timesPowerOfTwo(rows.scaled(scaleBy(-query), scaleBy(-vector)).sum(Product()), query + vector);
}

template <class ROWS>
static MMSB_HD f64 l2OfExtremes(const ROWS& rows) {
  const f64 most = rows.largest(DifferenceSquare());
  if (most == 0 || !isFinite(most)) return most;
  const i32 exponent = exponentOf(most);
  return timesPowerOfTwo(sSqrt(rows.sum(ScaledDifferenceSquare{scaleBy(-exponent)})), exponent);
}

// The square of a sine below which the angle counts as 0: vectors of rounded multiples could not be told
// apart.
static MMSB_HD inline f64 leastSineSquare() { return powerOfTwo(-200); }
// Below this, what rounding left of the query along the vector shows in the result.
static MMSB_HD inline f64 smallSineSquare() { return powerOfTwo(-140); }

// `dot` is the sum of Product; `querySquare` and `vectorSquare` are the squares of the lengths. Where the
// vectors point almost the same way, 1 - cosine is the square of the sine over 1 + cosine, and the sine comes
// from the part of the query that is left without its part along the vector. That part is found in two or
// three steps, each of which finds what rounding left of it in the one before.
template <class ROWS>
static MMSB_HD f64 cosineOf(const ROWS& rows, f64 dot, f64 querySquare, f64 vectorSquare) {
  const f64 cosine = dot / (sSqrt(querySquare) * sSqrt(vectorSquare));
  if (!(cosine > ROWS::Sum::nearCosine())) {
    const f64 result = 1 - cosine;
    return result > 2 ? 2 : result;
  }
  const f64 along = dot / vectorSquare, more = rows.sum(RestProduct{along}) / vectorSquare;
  const AcrossSquare term = {along, more};
  const f64 across = rows.sum(term);
  f64 sineSquare = across / querySquare;
  if (sineSquare < smallSineSquare()) {
    const f64 left = rows.sum(AcrossProduct{term});
    sineSquare = (across - left * (left / vectorSquare)) / querySquare;
  }
  return sineSquare < leastSineSquare() ? 0 : sineSquare / (1 + cosine);
}

// Whether squares of lengths are so far from the ends of the range that nothing in cosineOf leaves it.
static MMSB_HD inline bool isTame(f64 square) { return square >= powerOfTwo(-400) && square <= powerOfTwo(900); }

template <class ROWS>
static MMSB_HD f64 cosineOfExtremes(const ROWS& rows) {
  const f64 ofQuery = rows.largest(QuerySquare()), ofVector = rows.largest(VectorSquare());
  if (!isFinite(ofQuery) || !isFinite(ofVector) || ofQuery == 0 || ofVector == 0) return f64Of(0x7ff8000000000000ull);
  const auto scaled = rows.scaled(scaleBy(-exponentOf(ofQuery)), scaleBy(-exponentOf(ofVector)));
  return cosineOf(scaled, scaled.sum(Product()), scaled.sum(QuerySquare()), scaled.sum(VectorSquare()));
}

// `querySquare` is the sum of QuerySquare, and used for cosine only.
template <class ROWS>
static MMSB_HD f64 distanceOf(u32 metric, const ROWS& rows, f64 querySquare) {
  if (metric == METRIC_DOT) {
    const f64 dot = rows.sum(Product());
    if constexpr (ROWS::Sum::kIsWide) return isFinite(dot) ? dot : dotOfExtremes(rows);
    return dot;
  }
  if (metric == METRIC_L2) {
    const f64 square = rows.sum(DifferenceSquare());
    if constexpr (ROWS::Sum::kIsWide) return isTame(square) ? sSqrt(square) : l2OfExtremes(rows);
    return sSqrt(square);
  }
  f64 vectorSquare;
  const f64 dot = rows.sums(Product(), VectorSquare(), vectorSquare);
  if constexpr (ROWS::Sum::kIsWide) {
    if (!isTame(querySquare) || !isTame(vectorSquare)) return cosineOfExtremes(rows);
  }
  return cosineOf(rows, dot, querySquare, vectorSquare);
}

}  // namespace MMSB_NS
}  // namespace mmsb
