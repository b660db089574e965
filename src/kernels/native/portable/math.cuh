// exp, log, log2, sin, cos, tan, tanh and pow for f32 and f64, the same bits on every machine.
//
// Invariants: only IEEE 754 + - * / and integer work on bits, so that g++ (-ffp-contract=off) and nvcc (-fmad=false)
// give equal results; no libm, no tables in memory but the bits of 2/pi. f32 functions compute in f64 and round once.
// Error bounds and edge cases: docs/internals/DETERMINISM.md; edge cases are those of C99 Annex F. A function that needs a rare
// slow path has three parts: mXxxSpecial(x) (is it rare?), mXxxFast(x) (no branches, so that loops over it are
// vectorised; any value where special) and mXxxSlow(x). Must not know of expressions or pages.
//
// Polynomials are minimax fits (Remez) on the reduced ranges; the error stated beside each is that of the fit.
// Methods: Muller, "Elementary Functions"; W. J. Cody and W. Waite (argument reduction with split constants); M. Payne and
// R. Hanek (huge arguments); K. C. Ng's splitting for log; T. J. Dekker (exact products).
#pragma once
#include "portable/types.cuh"

namespace mmsb {
namespace MMSB_NS {

#define MMSB_FN static MMSB_HD inline

// ---- bits and exact products --------------------------------------------------------------------------------------

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

// The rounding error of the product p = a * b, exactly. Both forms give the same bits as long as nothing underflows,
// which every caller sees to; the first is used where the machine has a fused multiply-add.
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

// Adding it rounds to the nearest integer (half to even) and leaves that integer in the low bits: |x| < 2^51.
static const f64 kRounder = 6755399441055744.0;  // 1.5 * 2^52
// 2^k for -1022 <= k <= 1023, k in two's complement. (Where the number rounded was NaN, k is anything, and so is 2^k.)
MMSB_FN f64 powerOfTwo(u64 k) { return f64Of((k + 1023) << 52); }

// p * 2^k for p in [0.5, 2] and |k| <= 1100, rounded once: gradual underflow and overflow included.
MMSB_FN f64 scaled(f64 p, u64 k) {
  const u64 half = ((k + 2048) >> 1) - 1024;
  return (p * powerOfTwo(half)) * powerOfTwo(k - half);
}

static const f64 kLog2E = 0x1.71547652b82fep+0;
static const f64 kLn2 = 0x1.62e42fefa39efp-1, kLn2Low = 0x1.abc9e3b39803fp-56;
// The head has 36 bits, so that its product with an exponent is exact.
static const f64 kLn2Head = 0x1.62e42fefa0000p-1, kLn2Tail = 0x1.cf79abc9e3b3ap-40;

// ---- exp ----------------------------------------------------------------------------------------------------------

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

// ---- logarithms ---------------------------------------------------------------------------------------------------

// x = 2^exponent * (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), for finite x > 0, subnormals included. Both exact.
struct LogParts {
  f64 exponent, f;
};
MMSB_FN LogParts splitForLog(f64 x) {
  const bool tiny = x < 0x1p-1022;
  const f64 normal = tiny ? x * 0x1p54 : x;
  const u64 rootHalf = 0x3fe6a09e667f3bcdull;
  const u64 moved = bitsOf(normal) + (0x3ff0000000000000ull - rootHalf);
  const f64 m = f64Of((moved & 0x000fffffffffffffull) + rootHalf);
  // The biased exponent as the low bits of 2^52 + exponent: an exact conversion without an integer-to-float instruction.
  const f64 biased = f64Of(0x4330000000000000ull | (moved >> 52));
  return LogParts{biased - (tiny ? 4503599627371573.0 : 4503599627371519.0), m - 1.0};
}

// (atanh(s)/s - 1) / s^2 as a function of z = s^2, 0 <= z <= 0.0295. Errors relative to atanh(s)/s: 2^-52 and 2^-58.6.
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

// The results at 0, negative numbers, infinity and NaN, which the formulas do not give.
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

// ---- sin, cos, tan ------------------------------------------------------------------------------------------------

// x = (quadrant + 4 n) pi/2 + head + tail, |head| <= pi/4 (slightly more after rounding).
struct Reduced {
  f64 head, tail;
  u64 quadrant;  // only the two low bits count
};

static const f64 kTwoOverPi = 0x1.45f306dc9c883p-1;
// pi/2 in pieces: three of 33 bits, whose products with a quadrant below 2^20 are exact, and the rest.
static const f64 kHalfPi1 = 0x1.921fb54400000p+0, kHalfPi2 = 0x1.0b4611a600000p-34, kHalfPi3 = 0x1.3198a2e000000p-69,
                 kHalfPi4 = 0x1.b839a252049c1p-104;
static const f64 kHalfPi = 0x1.921fb54442d18p+0, kHalfPiLow = 0x1.1a62633145c07p-54;

// Above this the quadrant would not fit 20 bits: infinity and NaN count as huge.
MMSB_FN bool trigSpecial(f64 x) { return !(mAbs(x) <= 1.0e6); }

MMSB_FN Reduced reduceFast(f64 x) {
  const f64 shifted = x * kTwoOverPi + kRounder;
  const f64 k = shifted - kRounder;
  const f64 a = x - k * kHalfPi1;  // exact
  const f64 p2 = k * kHalfPi2, p3 = k * kHalfPi3;
  const f64 b = a - p2, bv = b - a;
  const f64 bError = (a - (b - bv)) - (p2 + bv);
  const f64 c = b - p3, cv = c - b;
  const f64 cError = (b - (c - cv)) - (p3 + cv);
  const f64 rest = (bError + cError) - k * kHalfPi4;
  const f64 head = c + rest;
  return Reduced{head, (c - head) + rest, bitsOf(shifted)};
}

// The same for f32 arguments, where one f64 is exact enough.
MMSB_FN Reduced reduceFast32(f64 x) {
  const f64 shifted = x * kTwoOverPi + kRounder;
  const f64 k = shifted - kRounder;
  const f64 rest = 0x1.0b4611a626331p-34;  // pi/2 - kHalfPi1
  return Reduced{(x - k * kHalfPi1) - k * rest, 0.0, bitsOf(shifted)};
}

// 64 bits of 2/pi from bit `at` behind the binary point.
MMSB_FN u64 twoOverPiBits(u32 at) {
  const u64 words[20] = {0xa2f9836e4e441529ull, 0xfc2757d1f534ddc0ull, 0xdb6295993c439041ull, 0xfe5163abdebbc561ull,
                         0xb7246e3a424dd2e0ull, 0x06492eea09d1921cull, 0xfe1deb1cb129a73eull, 0xe88235f52ebb4484ull,
                         0xe99c7026b45f7e41ull, 0x3991d639835339f4ull, 0x9c845f8bbdf9283bull, 0x1ff897ffde05980full,
                         0xef2f118b5a0a6d1full, 0x6d367ecf27cb09b7ull, 0x4f463f669e5fea2dull, 0x7527bac7ebe5f17bull,
                         0x3d0739f78a5292eaull, 0x6bfb5fb11f8d5d08ull, 0x56033046fc7b6babull, 0xf0cfbc209af4361dull};
  const u32 word = at >> 6, bit = at & 63;
  return bit == 0 ? words[word] : (words[word] << bit) | (words[word + 1] >> (64 - bit));
}

// Payne and Hanek: |x| * 2/pi modulo 4 from the 192 bits of 2/pi that matter. |x| >= 2^19; NaN for infinity and NaN.
static MMSB_HD Reduced reduceHuge(f64 x) {
  const u64 bits = bitsOf(x);
  const u32 biased = u32(bits >> 52) & 0x7ff;
  if (biased == 0x7ff) return Reduced{MMSB_NAN, 0.0, 0};
  const u64 m = (bits & 0x000fffffffffffffull) | 0x0010000000000000ull;
  const int exponent = int(biased) - 1075;             // |x| = m * 2^exponent
  const u32 at = exponent > 2 ? u32(exponent - 2) : 0;  // bits before `at` only add multiples of 4
  const u32 shift = u32(2 - (exponent - int(at)));      // 0..35
  const u64 w2 = twoOverPiBits(at), w1 = twoOverPiBits(at + 64), w0 = twoOverPiBits(at + 128);
  // m * w, 256 bits, p3 on top.
  const u64 p0 = m * w0;
  u64 p1 = mulHigh(m, w0);
  u64 p2 = mulHigh(m, w1);
  u64 p3 = mulHigh(m, w2);
  u64 low = m * w1;
  p1 += low;
  u64 carry = p1 < low;
  low = m * w2;
  p2 += carry;
  carry = p2 < carry;
  p2 += low;
  carry += p2 < low;
  p3 += carry;
  // The low 192 bits of the product shifted right are the fraction of |x| / (2 pi).
  u64 f2 = p2, f1 = p1, f0 = p0;
  if (shift != 0) {
    f0 = (p0 >> shift) | (p1 << (64 - shift));
    f1 = (p1 >> shift) | (p2 << (64 - shift));
    f2 = (p2 >> shift) | (p3 << (64 - shift));
  }
  u64 quadrant = f2 >> 62;
  u64 high = (f2 << 2) | (f1 >> 62);
  u64 next = (f1 << 2) | (f0 >> 62);
  bool negative = false;
  if (high >> 63) {  // nearer to the next quadrant
    quadrant += 1;
    negative = true;
    next = ~next + 1;
    high = ~high + (next == 0);
  }
  high |= high == 0;  // cannot be: no f64 is that near a multiple of pi/2
  const int zeros = leadingZeros(high);
  if (zeros != 0) {
    high = (high << zeros) | (next >> (64 - zeros));
    next <<= zeros;
  }
  // fraction = (a + b) * 2^-zeros with a of 53 bits.
  const f64 a = f64(high >> 11) * 0x1p-53;
  const f64 b = f64((high << 53 | next >> 11) >> 11) * 0x1p-106;
  const f64 product = a * kHalfPi;
  const f64 rest = productError(a, kHalfPi, product) + (a * kHalfPiLow + b * kHalfPi);
  const f64 head = product + rest;
  f64 scale = powerOfTwo(0 - u64(zeros));
  if (negative) scale = -scale;
  Reduced r = {head * scale, ((product - head) + rest) * scale, quadrant};
  if (bits & kSignBit) {
    r.head = -r.head;
    r.tail = -r.tail;
    r.quadrant = 0 - quadrant;
  }
  return r;
}

// (sin(y)/y - 1)/z and (cos(y) - 1 + z/2)/z^2 as functions of z = y^2 on |y| <= pi/4. Errors of the f32 pair relative to
// the functions: 2^-37.6, 2^-43; of the f64 pair 2^-58, 2^-64.
MMSB_FN f64 sinSeries32(f64 z) {
  const f64 z2 = z * z;
  return (-0x1.5555554cb66c8p-3 + z * 0x1.11110893b88a8p-7) + z2 * (-0x1.a00f9b8d04ee5p-13 + z * 0x1.6cd7d6c951049p-19);
}
MMSB_FN f64 cosSeries32(f64 z) {
  const f64 z2 = z * z;
  return (0x1.5555554f4bd32p-5 + z * -0x1.6c16b8961c03ep-10) + z2 * (0x1.a0111e5aab66dp-16 + z * -0x1.242a758dc9561p-22);
}
MMSB_FN f64 sinSeries64(f64 z) {
  const f64 z2 = z * z;
  const f64 p01 = -0x1.5555555555549p-3 + z * 0x1.111111110f871p-7;
  const f64 p23 = -0x1.a01a019c105c9p-13 + z * 0x1.71de357698190p-19;
  const f64 p45 = -0x1.ae5e6551ad9dbp-26 + z * 0x1.5d92bb2633c85p-33;
  return p01 + z2 * (p23 + z2 * p45);
}
MMSB_FN f64 cosSeries64(f64 z) {
  const f64 z2 = z * z;
  const f64 p01 = 0x1.555555555554cp-5 + z * -0x1.6c16c16c15173p-10;
  const f64 p23 = 0x1.a01a019cb0b1fp-16 + z * -0x1.27e4f80926b43p-22;
  const f64 p45 = 0x1.1ee9eb5a7e858p-29 + z * -0x1.8fae4fec35516p-37;
  return p01 + z2 * (p23 + z2 * p45);
}

MMSB_FN f64 sin32(f64 y) {
  const f64 z = y * y;
  return y + y * (z * sinSeries32(z));
}
MMSB_FN f64 cos32(f64 y) {
  const f64 z = y * y;
  return (1.0 - 0.5 * z) + z * z * cosSeries32(z);
}
MMSB_FN f64 sin64(f64 y, f64 tail) {
  const f64 z = y * y;
  return y + (y * z * sinSeries64(z) + tail * (1.0 - 0.5 * z));
}
MMSB_FN f64 cos64(f64 y, f64 tail) {
  const f64 z = y * y, half = 0.5 * z, w = 1.0 - half;
  return w + (((1.0 - w) - half) + (z * z * cosSeries64(z) - y * tail));
}

// The sine of a reduced argument `quadrants` quadrants further on.
MMSB_FN f64 sinOf32(Reduced r, u64 quadrants) {
  const u64 q = r.quadrant + quadrants;
  const f64 value = (q & 1) != 0 ? cos32(r.head) : sin32(r.head);
  return f64Of(bitsOf(value) ^ ((q & 2) << 62));
}
MMSB_FN f64 sinOf64(Reduced r, u64 quadrants) {
  const u64 q = r.quadrant + quadrants;
  const f64 value = (q & 1) != 0 ? cos64(r.head, r.tail) : sin64(r.head, r.tail);
  return f64Of(bitsOf(value) ^ ((q & 2) << 62));
}
MMSB_FN f64 tanOf32(Reduced r) {
  const f64 s = sin32(r.head), c = cos32(r.head);
  const bool odd = (r.quadrant & 1) != 0;
  return (odd ? -c : s) / (odd ? s : c);
}
// Sine and cosine as heads and tails, and a quotient corrected by its remainder: below 1 ulp.
MMSB_FN f64 tanOf64(Reduced r) {
  const f64 y = r.head, z = y * y, zLow = productError(y, y, z);
  const f64 sRest = y * z * sinSeries64(z) + r.tail * (1.0 - 0.5 * z);
  const f64 s = y + sRest, sLow = (y - s) + sRest;
  const f64 half = 0.5 * z, w = 1.0 - half;
  const f64 cRest = ((1.0 - w) - half) + ((z * z * cosSeries64(z) - y * r.tail) - 0.5 * zLow);
  const f64 c = w + cRest, cLow = (w - c) + cRest;
  const bool odd = (r.quadrant & 1) != 0;
  const f64 a = odd ? -c : s, aLow = odd ? -cLow : sLow;
  const f64 b = odd ? s : c, bLow = odd ? sLow : cLow;
  const f64 q = a / b, p = q * b;
  return q + ((((a - p) - productError(q, b, p)) + aLow) - q * bLow) / b;
}

// Where sin(x) and tan(x) round to x; it also keeps -0.
static const f64 kTrigTiny = 0x1p-27;

MMSB_FN bool mSinSpecial(f32 x) { return trigSpecial(f64(x)); }
MMSB_FN bool mSinSpecial(f64 x) { return trigSpecial(x); }
MMSB_FN f32 mSinFast(f32 x) {
  const f64 r = sinOf32(reduceFast32(f64(x)), 0);
  return mAbs(f64(x)) < kTrigTiny ? x : f32(r);
}
MMSB_FN f64 mSinFast(f64 x) {
  const f64 r = sinOf64(reduceFast(x), 0);
  return mAbs(x) < kTrigTiny ? x : r;
}
static MMSB_HD f32 mSinSlow(f32 x) { return f32(sinOf32(reduceHuge(f64(x)), 0)); }
static MMSB_HD f64 mSinSlow(f64 x) { return sinOf64(reduceHuge(x), 0); }

MMSB_FN bool mCosSpecial(f32 x) { return trigSpecial(f64(x)); }
MMSB_FN bool mCosSpecial(f64 x) { return trigSpecial(x); }
MMSB_FN f32 mCosFast(f32 x) { return f32(sinOf32(reduceFast32(f64(x)), 1)); }
MMSB_FN f64 mCosFast(f64 x) { return sinOf64(reduceFast(x), 1); }
static MMSB_HD f32 mCosSlow(f32 x) { return f32(sinOf32(reduceHuge(f64(x)), 1)); }
static MMSB_HD f64 mCosSlow(f64 x) { return sinOf64(reduceHuge(x), 1); }

MMSB_FN bool mTanSpecial(f32 x) { return trigSpecial(f64(x)); }
MMSB_FN bool mTanSpecial(f64 x) { return trigSpecial(x); }
MMSB_FN f32 mTanFast(f32 x) {
  const f64 r = tanOf32(reduceFast32(f64(x)));
  return mAbs(f64(x)) < kTrigTiny ? x : f32(r);
}
MMSB_FN f64 mTanFast(f64 x) {
  const f64 r = tanOf64(reduceFast(x));
  return mAbs(x) < kTrigTiny ? x : r;
}
static MMSB_HD f32 mTanSlow(f32 x) { return f32(tanOf32(reduceHuge(f64(x)))); }
static MMSB_HD f64 mTanSlow(f64 x) { return tanOf64(reduceHuge(x)); }

// ---- tanh ---------------------------------------------------------------------------------------------------------

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

// ---- pow ----------------------------------------------------------------------------------------------------------

// a >= 0 rounded to an integer, half to even.
MMSB_FN f64 nearestInteger(f64 a) { return a < 0x1p52 ? (a + 0x1p52) - 0x1p52 : a; }

// Signs and the exceptional cases around `magnitude` = |x|^y as computed for ordinary numbers. (& and |, not && and ||: a
// branch would keep loops from being vectorised.)
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
  // Beyond these bounds of |y| the result is 0, 1 or infinity whatever x is; inside nothing over- or underflows.
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
