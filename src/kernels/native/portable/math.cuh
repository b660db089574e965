// exp, log, log2, tanh and pow for f32 and f64, with the same bits on every machine. sin, cos and tan are in
// trig.cuh.
//
// Invariants: the code uses only IEEE 754 + - * / and integer operations on bits, so that g++
// (-ffp-contract=off) and nvcc (-fmad=false) give equal results. It uses no libm, and no tables in memory
// except the bits of 2/pi. f32 functions compute in f64 and round once. Edge cases are those of C99 Annex F;
// docs/internals/DETERMINISM.md has the error bounds. A function with a rare slow path has three parts:
// mXxxSpecial(x) says whether x needs it; mXxxFast(x) has no branches, so that loops vectorise, and returns
// an arbitrary value for special x; mXxxSlow(x) handles special x. Must not know of expressions or pages.
//
// Polynomials are minimax fits (Remez) on the reduced ranges. The error stated beside each is the error of
// the fit. Methods: Muller, "Elementary Functions"; W. J. Cody and W. Waite (argument reduction with split
// constants); K. C. Ng's splitting for log; T. J. Dekker (exact products).
#pragma once
#include "portable/types.cuh"

namespace mmsb {
namespace MMSB_NS {

#define MMSB_FN static MMSB_HD inline

// ---- bits and exact products ------------------------------------------------------------------------------

MMSB_FN u64 bitsOf(f64 x) {
#ifdef __CUDA_ARCH__
  return u64(__double_as_longlong(x));
#else
  return __builtin_bit_cast(u64, x);
#endif
}
MMSB_FN u32 bitsOf(f32 x) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(x);
#else
  return __builtin_bit_cast(u32, x);
#endif
}
MMSB_FN f64 f64Of(u64 bits) {
#ifdef __CUDA_ARCH__
  return __longlong_as_double(i64(bits));
#else
  return __builtin_bit_cast(f64, bits);
#endif
}
MMSB_FN f32 f32Of(u32 bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  return __builtin_bit_cast(f32, bits);
#endif
}

MMSB_FN u64 mulHigh(u64 a, u64 b) {
#ifdef __CUDA_ARCH__
  return __umul64hi(a, b);
#else
  return u64((static_cast<unsigned __int128>(a) * b) >> 64);
#endif
}

MMSB_FN int leadingZeros(u64 x) {
#ifdef __CUDA_ARCH__
  return __clzll(i64(x));
#else
  return __builtin_clzll(x);
#endif
}

static const u64 kSignBit = 0x8000000000000000ull;
static const u64 kInfBits = 0x7ff0000000000000ull;
#define MMSB_INF (f64Of(kInfBits))
#define MMSB_NAN (f64Of(0x7ff8000000000000ull))

MMSB_FN f64 mAbs(f64 x) { return f64Of(bitsOf(x) & ~kSignBit); }
MMSB_FN f64 mCopySign(f64 magnitude, f64 sign) {
  return f64Of((bitsOf(magnitude) & ~kSignBit) | (bitsOf(sign) & kSignBit));
}

// The exact rounding error of the product p = a * b. Both forms give the same bits as long as nothing
// underflows, which every caller ensures. The first needs a fused multiply-add.
MMSB_FN f64 productError(f64 a, f64 b, f64 p) {
#if defined(__FMA__) || defined(__CUDA_ARCH__)
  return fma(a, b, -p);
#else
  const f64 splitter = 134217729.0;  // 2^27 + 1
  const f64 at = a * splitter, bt = b * splitter;
  const f64 ah = at - (at - a), bh = bt - (bt - b);
  const f64 al = a - ah, bl = b - bh;
  return ((ah * bh - p) + ah * bl + al * bh) + al * bl;
#endif
}

// Adding it to x, |x| < 2^51, rounds x to the nearest integer (half to even) and leaves that integer in the
// low bits.
static const f64 kRounder = 6755399441055744.0;  // 1.5 * 2^52
// 2^k for -1022 <= k <= 1023, k in two's complement. (If k was rounded from NaN, k and the result are
// arbitrary.)
MMSB_FN f64 powerOfTwo(u64 k) { return f64Of((k + 1023) << 52); }

// p * 2^k for p in [0.5, 2] and |k| <= 1100, rounded once, including gradual underflow and overflow.
MMSB_FN f64 scaled(f64 p, u64 k) {
  const u64 half = ((k + 2048) >> 1) - 1024;
  return (p * powerOfTwo(half)) * powerOfTwo(k - half);
}

static const f64 kLog2E = 0x1.71547652b82fep+0;
static const f64 kLn2 = 0x1.62e42fefa39efp-1, kLn2Low = 0x1.abc9e3b39803fp-56;
// The head has 36 bits, so that its product with an exponent is exact.
static const f64 kLn2Head = 0x1.62e42fefa0000p-1, kLn2Tail = 0x1.cf79abc9e3b3ap-40;

// ---- exp --------------------------------------------------------------------------------------------------

// (e^r - 1 - r) / r^2 on |r| <= ln(2)/2. Errors relative to e^r: 2^-39.7 and 2^-64.
MMSB_FN f64 expTail32(f64 r) {
  const f64 r2 = r * r;
  const f64 p01 = 0x1.000000005dee7p-1 + r * 0x1.5555557dd322ep-3;
  const f64 p23 = 0x1.5555541e5108fp-5 + r * 0x1.1110a25f77c4dp-7;
  const f64 p45 = 0x1.6c18d3307ce78p-10 + r * 0x1.a1855fe32a031p-13;
  return p01 + r2 * (p23 + r2 * (p45 + r2 * 0x1.9e8935e624780p-16));
}
MMSB_FN f64 expTail64(f64 r) {
  const f64 r2 = r * r, r4 = r2 * r2;
  const f64 p01 = 0x1.0000000000000p-1 + r * 0x1.555555555555bp-3;
  const f64 p23 = 0x1.5555555555503p-5 + r * 0x1.111111110ec5dp-7;
  const f64 p45 = 0x1.6c16c16c3048dp-10 + r * 0x1.a01a01b37e3b4p-13;
  const f64 p67 = 0x1.a01a01368f6b7p-16 + r * 0x1.71ddf020c5f0ep-19;
  const f64 p89 = 0x1.27e5b4465d3c2p-22 + r * 0x1.af6be7f1e5496p-26;
  return (p01 + r2 * p23) + r4 * ((p45 + r2 * p67) + r4 * (p89 + r2 * 0x1.1e3d2cf865016p-29));
}

MMSB_FN f32 mExp(f32 value) {
  f64 x = f64(value);
  x = x > 89.0 ? 89.0 : x;
  x = x < -104.0 ? -104.0 : x;
  const f64 shifted = x * kLog2E + kRounder;
  const f64 k = shifted - kRounder;
  const f64 r = x - k * kLn2;
  const f64 p = 1.0 + (r + r * r * expTail32(r));
  return f32(p * powerOfTwo(bitsOf(shifted) - bitsOf(kRounder)));
}

MMSB_FN f64 mExp(f64 value) {
  f64 x = value > 710.0 ? 710.0 : value;
  x = x < -746.0 ? -746.0 : x;
  const f64 shifted = x * kLog2E + kRounder;
  const f64 k = shifted - kRounder;
  const f64 r = (x - k * kLn2Head) - k * kLn2Tail;
  const f64 p = 1.0 + (r + r * r * expTail64(r));
  return scaled(p, bitsOf(shifted) - bitsOf(kRounder));
}

// ---- logarithms -------------------------------------------------------------------------------------------

// x = 2^exponent * (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), for finite x > 0, subnormals included. Both
// exact.
struct LogParts {
  f64 exponent, f;
};
MMSB_FN LogParts splitForLog(f64 x) {
  const bool tiny = x < 0x1p-1022;
  const f64 normal = tiny ? x * 0x1p54 : x;
  const u64 rootHalf = 0x3fe6a09e667f3bcdull;
  const u64 moved = bitsOf(normal) + (0x3ff0000000000000ull - rootHalf);
  const f64 m = f64Of((moved & 0x000fffffffffffffull) + rootHalf);
  // Converts the biased exponent exactly, as the low bits of 2^52 + exponent, without an integer-to-float
  // instruction.
  const f64 biased = f64Of(0x4330000000000000ull | (moved >> 52));
  return LogParts{biased - (tiny ? 4503599627371573.0 : 4503599627371519.0), m - 1.0};
}

// (atanh(s)/s - 1) / s^2 as a function of z = s^2, 0 <= z <= 0.0295. Errors relative to atanh(s)/s: 2^-52 and
// 2^-58.6.
MMSB_FN f64 logSeries32(f64 z) {
  const f64 z2 = z * z;
  const f64 p01 = 0x1.5555555553934p-2 + z * 0x1.999999a2a06b4p-3;
  const f64 p23 = 0x1.2492416ed1f76p-3 + z * 0x1.c7227d584cfd7p-4;
  const f64 p45 = 0x1.732b726895589p-4 + z * 0x1.58804bc811d76p-4;
  return p01 + z2 * (p23 + z2 * p45);
}
MMSB_FN f64 logSeries64(f64 z) {
  const f64 z2 = z * z;
  const f64 p01 = 0x1.555555555557cp-2 + z * 0x1.99999999845d8p-3;
  const f64 p23 = 0x1.2492493fd0d45p-3 + z * 0x1.c71c529dde8e5p-4;
  const f64 p45 = 0x1.74664f2799779p-4 + z * 0x1.399c613190f2dp-4;
  return p01 + z2 * (p23 + z2 * (p45 + z2 * 0x1.2f59344bb061cp-4));
}

// Results at 0, negative numbers, infinity and NaN, where the formulas fail.
MMSB_FN f64 logEdges(f64 x, f64 result) {
  f64 r = x == MMSB_INF ? x : result;
  r = x == 0.0 ? -MMSB_INF : r;
  return x >= 0.0 ? r : MMSB_NAN;
}

MMSB_FN f32 mLog(f32 value) {
  const f64 x = f64(value);
  const LogParts parts = splitForLog(x);
  const f64 s = parts.f / (2.0 + parts.f), z = s * s;
  const f64 logM = 2.0 * s + 2.0 * s * (z * logSeries32(z));
  return f32(logEdges(x, parts.exponent * kLn2 + logM));
}

MMSB_FN f64 mLog(f64 x) {
  const LogParts parts = splitForLog(x);
  const f64 f = parts.f, e = parts.exponent;
  const f64 s = f / (2.0 + f), z = s * s;
  // log(1 + f) = f - (f^2/2 - s (f^2/2 + 2 z L(z))): the large terms stay exact or nearly so.
  const f64 half = 0.5 * f * f;
  const f64 rest = s * (half + 2.0 * (z * logSeries64(z)));
  return logEdges(x, e * kLn2Head - ((half - (rest + e * kLn2Tail)) - f));
}

// log2 of a finite x > 0 for f32 arguments: relative error below 2^-50.
MMSB_FN f64 log2For32(f64 x) {
  const LogParts parts = splitForLog(x);
  const f64 s = parts.f / (2.0 + parts.f), z = s * s;
  const f64 logM = 2.0 * s + 2.0 * s * (z * logSeries32(z));
  return parts.exponent + logM * kLog2E;
}

MMSB_FN f32 mLog2(f32 value) { return f32(logEdges(f64(value), log2For32(f64(value)))); }

MMSB_FN f64 mLog2(f64 x) {
  const LogParts parts = splitForLog(x);
  const f64 f = parts.f;
  const f64 s = f / (2.0 + f), z = s * s;
  const f64 half = 0.5 * f * f;
  // log(1 + f) = head + tail, the head short enough for an exact product with the head of 1/ln 2.
  const f64 head = f64Of(bitsOf(f - half) & 0xffffffff00000000ull);
  const f64 tail = ((f - head) - half) + s * (half + 2.0 * (z * logSeries64(z)));
  const f64 log2EHead = 0x1.7154765200000p+0, log2ETail = 0x1.705fc2eefa200p-33;
  const f64 high = head * log2EHead;
  const f64 low = (tail + head) * log2ETail + tail * log2EHead;
  const f64 sum = parts.exponent + high;
  return logEdges(x, sum + (((parts.exponent - sum) + high) + low));
}

// ---- tanh -------------------------------------------------------------------------------------------------

MMSB_FN f32 mTanh(f32 value) {
  const f64 x = f64(value);
  f64 a = 2.0 * mAbs(x);
  a = a > 40.0 ? 40.0 : a;
  const f64 shifted = a * kLog2E + kRounder;
  const f64 k = shifted - kRounder;
  const f64 r = a - k * kLn2;
  const f64 scale = powerOfTwo(bitsOf(shifted) - bitsOf(kRounder));
  const f64 n = (scale - 1.0) + scale * (r + r * r * expTail32(r));  // e^a - 1
  return f32(mCopySign(n / (n + 2.0), x));
}

// With n = e^2x - 1 as head and tail, n / (n + 2) corrected by its remainder.
MMSB_FN f64 mTanh(f64 x) {
  f64 a = 2.0 * mAbs(x);
  a = a > 60.0 ? 60.0 : a;
  const f64 shifted = a * kLog2E + kRounder;
  const f64 k = shifted - kRounder;
  const f64 exact = a - k * kLn2Head, small = k * kLn2Tail;
  const f64 r = exact - small, rLow = (exact - r) - small;
  const f64 scale = powerOfTwo(bitsOf(shifted) - bitsOf(kRounder));
  const f64 whole = scale - 1.0, part = scale * r;
  const f64 sum = whole + part;
  const f64 sumLow = ((whole - sum) + part) + scale * (r * r * expTail64(r) + rLow);
  const f64 n = sum + sumLow, nLow = (sum - n) + sumLow;
  const f64 d = n + 2.0, dv = d - n;
  const f64 dLow = ((n - (d - dv)) + (2.0 - dv)) + nLow;
  const f64 q = n / d, p = q * d;
  const f64 t = q + ((((n - p) - productError(q, d, p)) + nLow) - q * dLow) / d;
  return mAbs(x) < 0x1p-28 ? x : mCopySign(t, x);
}

// ---- pow --------------------------------------------------------------------------------------------------

// a >= 0 rounded to an integer, half to even.
MMSB_FN f64 nearestInteger(f64 a) { return a < 0x1p52 ? (a + 0x1p52) - 0x1p52 : a; }

// Corrects `magnitude` = |x|^y for signs and exceptional cases. Uses & and | instead of && and ||, because
// branches would keep loops from vectorising.
MMSB_FN f64 powEdges(f64 x, f64 y, f64 magnitude) {
  const f64 ax = mAbs(x), ay = mAbs(y), half = 0.5 * ay;
  const bool fraction = nearestInteger(ay) != ay;
  const bool odd = !fraction & (nearestInteger(half) != half);
  f64 r = ((ax == 1.0) & (ay == MMSB_INF)) ? 1.0 : magnitude;
  r = f64Of(bitsOf(r) ^ (odd ? bitsOf(x) & kSignBit : 0));
  r = ((x < 0.0) & (ax < MMSB_INF) & fraction) ? MMSB_NAN : r;
  r = ((x != x) | (y != y)) ? MMSB_NAN : r;
  return ((x == 1.0) | (y == 0.0)) ? 1.0 : r;
}

MMSB_FN f32 mPow(f32 base, f32 power) {
  const f64 x = f64(base), y = f64(power);
  const f64 ax = mAbs(x);
  const f64 log2x = logEdges(ax, log2For32(ax));
  f64 t = y * log2x;
  t = t > 140.0 ? 140.0 : t;
  t = t < -160.0 ? -160.0 : t;
  const f64 shifted = t + kRounder;
  const f64 r = (t - (shifted - kRounder)) * kLn2;
  const f64 p = 1.0 + (r + r * r * expTail32(r));
  const f64 magnitude = p * powerOfTwo(bitsOf(shifted) - bitsOf(kRounder));
  return f32(powEdges(x, y, magnitude));
}

// log2(x) as head + tail with a relative error near 2^-66, for finite x > 0.
struct Double2 {
  f64 head, tail;
};
MMSB_FN Double2 log2Precise(f64 x) {
  const LogParts parts = splitForLog(x);
  const f64 f = parts.f, m = 1.0 + f;
  const f64 d = m + 1.0, dLow = m - (d - 1.0);
  // s = f / (2 + f)
  const f64 s = f / d, sd = s * d;
  const f64 sLow = (((f - sd) - productError(s, d, sd)) - s * dLow) / d;
  const f64 z = s * s, zLow = productError(s, s, z) + 2.0 * (s * sLow);
  // u = z/3 + z^2 M(z); M = (atanh(s)/s - 1 - z/3) / z^2, error relative to atanh(s)/s 2^-73
  const f64 z2 = z * z;
  const f64 p01 = 0x1.9999999999996p-3 + z * 0x1.2492492493049p-3;
  const f64 p23 = 0x1.c71c71c57dffep-4 + z * 0x1.745d18337a6e8p-4;
  const f64 p45 = 0x1.3b13626732310p-4 + z * 0x1.1120c17ccca04p-4;
  const f64 p67 = 0x1.de318efe15f42p-5 + z * 0x1.eb20d00d0083bp-5;
  const f64 series = z2 * ((p01 + z2 * p23) + (z2 * z2) * (p45 + z2 * p67));
  const f64 third = 0x1.5555555555555p-2, thirdLow = 0x1.5555555555555p-56;
  const f64 c = z * third, cLow = productError(z, third, c) + (z * thirdLow + zLow * third);
  const f64 u = c + series, uLow = ((c - u) + series) + cLow;
  // s (1 + u), then times 2/ln 2
  const f64 v = s * u, vLow = productError(s, u, v) + (s * uLow + sLow * u);
  const f64 l = s + v, lLow = ((s - l) + v) + (vLow + sLow);
  const f64 k = 2.0 * kLog2E, kLow = 0x1.777d0ffda0d24p-55;
  const f64 g = l * k, gLow = productError(l, k, g) + (l * kLow + lLow * k);
  const f64 e = parts.exponent, head = e + g;
  return Double2{head, ((e - head) + g) + gLow};
}

MMSB_FN f64 mPow(f64 x, f64 y) {
  const f64 ax = mAbs(x);
  // Outside these bounds of |y| the result is 0, 1 or infinity for every x. Inside them nothing overflows or
  // underflows.
  f64 ay = mAbs(y);
  ay = ay > 0x1p65 ? 0x1p65 : ay;
  ay = ay < 0x1p-70 ? 0x1p-70 : ay;
  const f64 yc = mCopySign(ay, y);
  const bool ordinary = (ax > 0.0) & (ax < MMSB_INF);
  const Double2 log2x = log2Precise(ordinary ? ax : 2.0);
  const f64 product = yc * log2x.head;
  const f64 productLow = productError(yc, log2x.head, product) + yc * log2x.tail;
  f64 t = ordinary ? product : (ax == 0.0 ? -yc : yc) * 0x1p1000;
  const bool clamped = !(mAbs(t) < 1100.0);
  t = t > 1100.0 ? 1100.0 : t;
  t = t < -1100.0 ? -1100.0 : t;
  const f64 shifted = t + kRounder;
  const f64 r = (t - (shifted - kRounder)) + (clamped ? 0.0 : productLow);
  const f64 q = r * kLn2;
  const f64 p = 1.0 + (q + (q * q * expTail64(q) + r * kLn2Low));
  return powEdges(x, y, scaled(p, bitsOf(shifted) - bitsOf(kRounder)));
}

#undef MMSB_FN

}  // namespace MMSB_NS
}  // namespace mmsb
