// sin, cos and tan for f32 and f64, with the same bits on every machine. The rules of math.cuh apply.
//
// Method: the argument is reduced to a quarter turn, with split constants (W. J. Cody and W. Waite) or, if it
// is huge, with the relevant bits of 2/pi (M. Payne and R. Hanek). Polynomials do the rest.
#pragma once
#include "portable/math.cuh"

namespace mmsb {
namespace MMSB_NS {

#define MMSB_FN static MMSB_HD inline

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

// Above this bound the quadrant would not fit in 20 bits. Infinity and NaN count as huge.
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

// The same for f32 arguments, for which one f64 is exact enough.
MMSB_FN Reduced reduceFast32(f64 x) {
  const f64 shifted = x * kTwoOverPi + kRounder;
  const f64 k = shifted - kRounder;
  const f64 rest = 0x1.0b4611a626331p-34;  // pi/2 - kHalfPi1
  return Reduced{(x - k * kHalfPi1) - k * rest, 0.0, bitsOf(shifted)};
}

// 64 bits of 2/pi, starting at bit `at` after the binary point.
MMSB_FN u64 twoOverPiBits(u32 at) {
  const u64 words[20] = {0xa2f9836e4e441529ull, 0xfc2757d1f534ddc0ull, 0xdb6295993c439041ull, 0xfe5163abdebbc561ull,
                         0xb7246e3a424dd2e0ull, 0x06492eea09d1921cull, 0xfe1deb1cb129a73eull, 0xe88235f52ebb4484ull,
                         0xe99c7026b45f7e41ull, 0x3991d639835339f4ull, 0x9c845f8bbdf9283bull, 0x1ff897ffde05980full,
                         0xef2f118b5a0a6d1full, 0x6d367ecf27cb09b7ull, 0x4f463f669e5fea2dull, 0x7527bac7ebe5f17bull,
                         0x3d0739f78a5292eaull, 0x6bfb5fb11f8d5d08ull, 0x56033046fc7b6babull, 0xf0cfbc209af4361dull};
  const u32 word = at >> 6, bit = at & 63;
  return bit == 0 ? words[word] : (words[word] << bit) | (words[word + 1] >> (64 - bit));
}

// Payne and Hanek: |x| * 2/pi modulo 4, from the 192 relevant bits of 2/pi, for |x| >= 2^19. Gives NaN for
// infinity and NaN.
static MMSB_HD Reduced reduceHuge(f64 x) {
  const u64 bits = bitsOf(x);
  const u32 biased = u32(bits >> 52) & 0x7ff;
  if (biased == 0x7ff) return Reduced{MMSB_NAN, 0.0, 0};
  const u64 m = (bits & 0x000fffffffffffffull) | 0x0010000000000000ull;
  const int exponent = int(biased) - 1075;              // |x| = m * 2^exponent
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
  high |= high == 0;  // cannot happen: no f64 is that near a multiple of pi/2
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

// (sin(y)/y - 1)/z and (cos(y) - 1 + z/2)/z^2 as functions of z = y^2 on |y| <= pi/4. Errors of the f32 pair
// relative to the functions: 2^-37.6, 2^-43; of the f64 pair 2^-58, 2^-64.
MMSB_FN f64 sinSeries32(f64 z) {
  const f64 z2 = z * z;
  return (-0x1.5555554cb66c8p-3 + z * 0x1.11110893b88a8p-7) + z2 * (-0x1.a00f9b8d04ee5p-13 + z * 0x1.6cd7d6c951049p-19);
}
MMSB_FN f64 cosSeries32(f64 z) {
  const f64 z2 = z * z;
  return (0x1.5555554f4bd32p-5 + z * -0x1.6c16b8961c03ep-10) +
         z2 * (0x1.a0111e5aab66dp-16 + z * -0x1.242a758dc9561p-22);
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

// The sine of a reduced argument, moved on by `quadrants` quadrants.
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
// Sine and cosine are computed as head and tail, and the quotient is corrected by its remainder. The error is
// below 1 ulp.
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

// Below this bound sin(x) and tan(x) round to x. Returning x also keeps -0.
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

#undef MMSB_FN

}  // namespace MMSB_NS
}  // namespace mmsb
