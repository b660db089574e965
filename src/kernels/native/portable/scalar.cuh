// Every scalar operation of the expression IR, written once for the CPU's VM, the reference evaluator, the
// CUDA kernels, merges, casts and reductions.
//
// Invariants: no undefined behaviour for any operand, and the same bits on host and device
// (docs/internals/DETERMINISM.md). Operations have few branches, so that loops over blocks vectorise. Narrow
// integers may be computed in i32 and brought back by narrow(). bool is 0 or 1; its operations are written
// where it is used. Must not know of pages.
#pragma once
#include "portable/math.cuh"
#include "portable/trig.cuh"

namespace mmsb {
namespace MMSB_NS {

#define MMSB_FN static MMSB_HD inline

// ---- type facts, without the standard library -------------------------------------------------------------

template <class T>
struct Lane;
template <>
struct Lane<u8> {
  using Unsigned = u32;  // the type it wraps in
  static const bool isFloat = false, isSigned = false;
  static const u32 bits = 8;
};
template <>
struct Lane<i8> {
  using Unsigned = u32;
  static const bool isFloat = false, isSigned = true;
  static const u32 bits = 8;
};
template <>
struct Lane<u16> {
  using Unsigned = u32;
  static const bool isFloat = false, isSigned = false;
  static const u32 bits = 16;
};
template <>
struct Lane<i16> {
  using Unsigned = u32;
  static const bool isFloat = false, isSigned = true;
  static const u32 bits = 16;
};
template <>
struct Lane<i32> {
  using Unsigned = u32;
  static const bool isFloat = false, isSigned = true;
  static const u32 bits = 32;
};
template <>
struct Lane<u32> {
  using Unsigned = u32;
  static const bool isFloat = false, isSigned = false;
  static const u32 bits = 32;
};
template <>
struct Lane<i64> {
  using Unsigned = u64;
  static const bool isFloat = false, isSigned = true;
  static const u32 bits = 64;
};
template <>
struct Lane<u64> {
  using Unsigned = u64;
  static const bool isFloat = false, isSigned = false;
  static const u32 bits = 64;
};
template <>
struct Lane<f32> {
  using Unsigned = u32;
  static const bool isFloat = true, isSigned = true;
  static const u32 bits = 32;
};
template <>
struct Lane<f64> {
  using Unsigned = u64;
  static const bool isFloat = true, isSigned = true;
  static const u32 bits = 64;
};

// Replaces any NaN by the one NaN that pages store.
#ifdef __CUDA_ARCH__
MMSB_FN f32 canonical(f32 x) { return x == x ? x : f32Of(0x7fc00000u); }
MMSB_FN f64 canonical(f64 x) { return x == x ? x : f64Of(0x7ff8000000000000ull); }
#else
// Uses floating-point constants, so that the compiler sees a choice between floats and vectorises it.
MMSB_FN f32 canonical(f32 x) { return x == x ? x : __builtin_nanf(""); }
MMSB_FN f64 canonical(f64 x) { return x == x ? x : __builtin_nan(""); }
#endif

// ---- arithmetic -------------------------------------------------------------------------------------------

#define MMSB_WRAPPING(NAME, SIGN)         \
  template <class T>                      \
  MMSB_FN T NAME(T a, T b) {              \
    using U = typename Lane<T>::Unsigned; \
    return T(U(a) SIGN U(b));             \
  }                                       \
  template <>                             \
  MMSB_HD inline f32 NAME(f32 a, f32 b) { \
    return a SIGN b;                      \
  }                                       \
  template <>                             \
  MMSB_HD inline f64 NAME(f64 a, f64 b) { \
    return a SIGN b;                      \
  }
MMSB_WRAPPING(sAdd, +)
MMSB_WRAPPING(sSub, -)
MMSB_WRAPPING(sMul, *)
#undef MMSB_WRAPPING

// Floats only.
template <class T>
MMSB_FN T sDiv(T a, T b) {
  return a / b;
}

MMSB_FN f32 sSqrt(f32 a) {
#ifdef __CUDA_ARCH__
  return __fsqrt_rn(a);
#else
  return __builtin_sqrtf(a);
#endif
}
MMSB_FN f64 sSqrt(f64 a) {
#ifdef __CUDA_ARCH__
  return __dsqrt_rn(a);
#else
  return __builtin_sqrt(a);
#endif
}
#ifdef __CUDA_ARCH__
#define MMSB_LIBM(NAME) NAME
#else
#define MMSB_LIBM(NAME) __builtin_##NAME
#endif
MMSB_FN f32 sFloor(f32 a) { return MMSB_LIBM(floorf)(a); }
MMSB_FN f64 sFloor(f64 a) { return MMSB_LIBM(floor)(a); }
MMSB_FN f32 sCeil(f32 a) { return MMSB_LIBM(ceilf)(a); }
MMSB_FN f64 sCeil(f64 a) { return MMSB_LIBM(ceil)(a); }
MMSB_FN f32 sTrunc(f32 a) { return MMSB_LIBM(truncf)(a); }
MMSB_FN f64 sTrunc(f64 a) { return MMSB_LIBM(trunc)(a); }
MMSB_FN f32 sRound(f32 a) { return MMSB_LIBM(rintf)(a); }
MMSB_FN f64 sRound(f64 a) { return MMSB_LIBM(rint)(a); }

// Floats round once; integers wrap.
template <class T>
MMSB_FN T sFma(T a, T b, T c) {
  return sAdd(sMul(a, b), c);
}
template <>
MMSB_HD inline f32 sFma(f32 a, f32 b, f32 c) {
  return MMSB_LIBM(fmaf)(a, b, c);
}
template <>
MMSB_HD inline f64 sFma(f64 a, f64 b, f64 c) {
  return MMSB_LIBM(fma)(a, b, c);
}
#undef MMSB_LIBM

// The floor of an integer quotient, computed in floats because there are vector instructions for it. It is
// exact: a non-integer quotient of 32-bit integers is further from the next integer than an f64 rounding can
// move it (for 16-bit integers: an f32 rounding).
MMSB_FN f64 floorQuotient(f64 a, f64 b) { return sFloor(a / b); }
MMSB_FN f32 floorQuotient(f32 a, f32 b) { return sFloor(a / b); }
MMSB_FN f64 exactFloat(u32 x) { return f64(i32(x ^ 0x80000000u)) + 2147483648.0; }

// Rounds towards minus infinity; x // 0 = 0; the least integer // -1 wraps. This version is for up to 16 bits
// and for 64 bits.
template <class T>
MMSB_FN T sFloorDiv(T a, T b) {
  if constexpr (Lane<T>::bits <= 16) {
    const f32 q = floorQuotient(f32(a), f32(b == 0 ? T(1) : b));
    return b == 0 ? T(0) : T(i32(q));
  } else if constexpr (Lane<T>::isSigned) {
    const bool minus = b == T(-1);
    const T divisor = (b == 0) | minus ? T(1) : b;
    const T q = a / divisor;
    const T floored = T(q - T((q * divisor != a) & ((a < 0) != (divisor < 0))));
    return b == 0 ? T(0) : minus ? T(0 - u64(a)) : floored;
  } else {
    return b == 0 ? T(0) : T(a / (b == 0 ? T(1) : b));
  }
}
template <>
MMSB_HD inline i32 sFloorDiv(i32 a, i32 b) {
  f64 q = floorQuotient(f64(a), f64(b == 0 ? 1 : b));
  q = q == 2147483648.0 ? -2147483648.0 : q;
  return b == 0 ? 0 : i32(q);
}
template <>
MMSB_HD inline u32 sFloorDiv(u32 a, u32 b) {
  const f64 q = floorQuotient(exactFloat(a), exactFloat(b == 0 ? 1 : b));
  return b == 0 ? 0 : u32(i32(q - 2147483648.0)) ^ 0x80000000u;
}
// The result has the sign of the divisor; x % 0 = 0.
template <class T>
MMSB_FN T sMod(T a, T b) {
  using U = typename Lane<T>::Unsigned;
  const T r = T(U(a) - U(sFloorDiv(a, b)) * U(b));
  return b == 0 ? T(0) : r;
}

// Floor division and remainder of floats as in Python and NumPy. Both follow from the exact remainder r of a
// truncated division. r comes from fmod if the quotient is huge or an operand is not finite ("special"), else
// from one division and a correction.
MMSB_FN bool remainderSpecial(f32 a, f32 b) { return !(mAbs(f64(a) / f64(b)) < 0x1p28) | !(mAbs(f64(b)) < MMSB_INF); }
MMSB_FN bool remainderSpecial(f64 a, f64 b) { return !(mAbs(a / b) < 0x1p52) | !(mAbs(b) < MMSB_INF); }

// Before truncation the quotient is exact, or so near an integer that rounding could reach it; the product is
// exact.
MMSB_FN f32 remainderFast(f32 a, f32 b) {
  const f64 x = a, y = b;
  return f32(x - sTrunc(x / y) * y);
}
// The quotient may have been rounded up to the next integer. Then the remainder, still exact, has the wrong
// sign.
MMSB_FN f64 remainderFast(f64 a, f64 b) {
  const f64 ax = mAbs(a), ay = mAbs(b);
  const f64 r = sFma(-sTrunc(ax / ay), ay, ax);
  return mCopySign(r < 0.0 ? r + ay : r, a);
}
MMSB_FN f32 remainderSlow(f32 a, f32 b) { return f32(fmod(f64(a), f64(b))); }
MMSB_FN f64 remainderSlow(f64 a, f64 b) { return fmod(a, b); }

template <class T>
MMSB_FN T modOf(T b, T r) {
  const T moved = (r != 0) & ((b < 0) != (r < 0)) ? r + b : r;
  return r == 0 ? T(mCopySign(0.0, f64(b))) : moved;
}
template <class T>
MMSB_FN T floorDivOf(T a, T b, T r) {
  const T exact = (a - r) / b;
  const T q = (r != 0) & ((b < 0) != (r < 0)) ? exact - 1 : exact;
  const T whole = sFloor(q);
  const T nearest = q - whole > T(0.5) ? whole + 1 : whole;
  return q == 0 ? T(mCopySign(0.0, f64(a / b))) : nearest;
}
template <class T>
MMSB_FN T modFast(T a, T b) {
  return modOf(b, remainderFast(a, b));
}
template <class T>
MMSB_FN T modSlow(T a, T b) {
  return b == 0 ? T(MMSB_NAN) : modOf(b, remainderSlow(a, b));
}
template <class T>
MMSB_FN T floorDivFast(T a, T b) {
  return floorDivOf(a, b, remainderFast(a, b));
}
template <class T>
MMSB_FN T floorDivSlow(T a, T b) {
  return b == 0 ? a / b : floorDivOf(a, b, remainderSlow(a, b));
}
template <>
MMSB_HD inline f32 sFloorDiv(f32 a, f32 b) {
  return remainderSpecial(a, b) ? floorDivSlow(a, b) : floorDivFast(a, b);
}
template <>
MMSB_HD inline f64 sFloorDiv(f64 a, f64 b) {
  return remainderSpecial(a, b) ? floorDivSlow(a, b) : floorDivFast(a, b);
}
template <>
MMSB_HD inline f32 sMod(f32 a, f32 b) {
  return remainderSpecial(a, b) ? modSlow(a, b) : modFast(a, b);
}
template <>
MMSB_HD inline f64 sMod(f64 a, f64 b) {
  return remainderSpecial(a, b) ? modSlow(a, b) : modFast(a, b);
}

// Integers wrap. A negative exponent gives 1 for base 1, +-1 for base -1, else 0.
template <class T>
MMSB_FN T sPow(T base, T power) {
  using U = typename Lane<T>::Unsigned;
  if (Lane<T>::isSigned && power < 0) {
    if (base == 1) return 1;
    if (base == T(-1)) return (U(power) & 1) != 0 ? T(-1) : T(1);
    return 0;
  }
  U result = 1, square = U(base), left = U(power);
  while (left != 0) {
    if ((left & 1) != 0) result *= square;
    square *= square;
    left >>= 1;
  }
  return T(result);
}
template <>
MMSB_HD inline f32 sPow(f32 a, f32 b) {
  return mPow(a, b);
}
template <>
MMSB_HD inline f64 sPow(f64 a, f64 b) {
  return mPow(a, b);
}

template <class T>
MMSB_FN T sNeg(T a) {
  using U = typename Lane<T>::Unsigned;
  return T(U(0) - U(a));
}
template <>
MMSB_HD inline f32 sNeg(f32 a) {
  return -a;
}
template <>
MMSB_HD inline f64 sNeg(f64 a) {
  return -a;
}

template <class T>
MMSB_FN T sAbs(T a) {
  return Lane<T>::isSigned && a < 0 ? sNeg(a) : a;
}
template <>
MMSB_HD inline f32 sAbs(f32 a) {
  return f32Of(bitsOf(a) & 0x7fffffffu);
}
template <>
MMSB_HD inline f64 sAbs(f64 a) {
  return mAbs(a);
}

// Gives -1, 0 (also for -0) or 1; NaN stays NaN.
template <class T>
MMSB_FN T sSign(T a) {
  const T negative = Lane<T>::isSigned && a < 0 ? T(-1) : T(0);
  const T sign = a > 0 ? T(1) : negative;
  return Lane<T>::isFloat && a != a ? a : sign;
}

// ---- comparisons and logic --------------------------------------------------------------------------------

template <class T>
MMSB_FN u8 sEq(T a, T b) {
  return a == b;
}
template <class T>
MMSB_FN u8 sNe(T a, T b) {
  return a != b;
}
template <class T>
MMSB_FN u8 sLt(T a, T b) {
  return a < b;
}
template <class T>
MMSB_FN u8 sLe(T a, T b) {
  return a <= b;
}
template <class T>
MMSB_FN u8 sGt(T a, T b) {
  return a > b;
}
template <class T>
MMSB_FN u8 sGe(T a, T b) {
  return a >= b;
}
template <class T>
MMSB_FN u8 sIsNan(T a) {
  return a != a;
}
template <class T>
MMSB_FN T sSelect(u8 c, T a, T b) {
  return c != 0 ? a : b;
}

// IEEE 754-2019 minimum and maximum: NaN if either operand is NaN, and -0 below +0. Comparing in both orders
// gives the same operand unless they are equal or unordered; combining the bits of both results decides
// between zeros.
template <class T>
MMSB_FN T sMin(T a, T b) {
  return b < a ? b : a;
}
template <class T>
MMSB_FN T sMax(T a, T b) {
  return b > a ? b : a;
}
template <>
MMSB_HD inline f32 sMin(f32 a, f32 b) {
  return f32Of(bitsOf(a < b ? a : b) | bitsOf(b < a ? b : a));
}
template <>
MMSB_HD inline f64 sMin(f64 a, f64 b) {
  return f64Of(bitsOf(a < b ? a : b) | bitsOf(b < a ? b : a));
}
template <>
MMSB_HD inline f32 sMax(f32 a, f32 b) {
  const f32 r = f32Of(bitsOf(a > b ? a : b) & bitsOf(b > a ? b : a));
  return a != a || b != b ? a + b : r;
}
template <>
MMSB_HD inline f64 sMax(f64 a, f64 b) {
  const f64 r = f64Of(bitsOf(a > b ? a : b) & bitsOf(b > a ? b : a));
  return a != a || b != b ? a + b : r;
}

// ---- bits -------------------------------------------------------------------------------------------------

template <class T>
MMSB_FN T sBitAnd(T a, T b) {
  return a & b;
}
template <class T>
MMSB_FN T sBitOr(T a, T b) {
  return a | b;
}
template <class T>
MMSB_FN T sBitXor(T a, T b) {
  return a ^ b;
}
// A negative count, or one of at least the width, shifts everything out: the result is 0, or the sign for a
// signed shr.
template <class T>
MMSB_FN T sShl(T a, T count) {
  using U = typename Lane<T>::Unsigned;
  return U(count) < Lane<T>::bits ? T(U(a) << (U(count) & (Lane<T>::bits - 1))) : T(0);
}
template <class T>
MMSB_FN T sShr(T a, T count) {
  using U = typename Lane<T>::Unsigned;
  const U c = U(count) < Lane<T>::bits ? U(count) : U(Lane<T>::bits - 1);
  const T shifted = T(a >> c);
  return Lane<T>::isSigned || U(count) < Lane<T>::bits ? shifted : T(0);
}

// ---- functions with a rare slow path, one element ---------------------------------------------------------

template <class T>
MMSB_FN T sSin(T x) {
  return mSinSpecial(x) ? mSinSlow(x) : mSinFast(x);
}
template <class T>
MMSB_FN T sCos(T x) {
  return mCosSpecial(x) ? mCosSlow(x) : mCosFast(x);
}
template <class T>
MMSB_FN T sTan(T x) {
  return mTanSpecial(x) ? mTanSlow(x) : mTanFast(x);
}

#undef MMSB_FN

}  // namespace MMSB_NS
}  // namespace mmsb
