// Simple models of what the native core guarantees: the digest, merges, casts, the reduction tree, matmul
// chains, quantile and topk. Written for reading, not for speed. Must not use code of the core.
#pragma once
#include "core_kit.h"

// ---- one element as a number ------------------------------------------------------------------------------

// Holds any element exactly.
struct Number {
  bool isFloat;
  double f;
  __int128 i;
};

static Number load(u32 dtype, const u8* at) {
  Number n = {dtype >= F32, 0, 0};
  switch (dtype) {
    case BOOL: n.i = *at != 0; break;
    case U8: n.i = *at; break;
    case I8: n.i = i8(*at); break;
    case U16: {
      u16 v;
      memcpy(&v, at, 2);
      n.i = v;
      break;
    }
    case I16: {
      i16 v;
      memcpy(&v, at, 2);
      n.i = v;
      break;
    }
    case U32: {
      u32 v;
      memcpy(&v, at, 4);
      n.i = v;
      break;
    }
    case I32: {
      i32 v;
      memcpy(&v, at, 4);
      n.i = v;
      break;
    }
    case U64: {
      u64 v;
      memcpy(&v, at, 8);
      n.i = v;
      break;
    }
    case I64: {
      i64 v;
      memcpy(&v, at, 8);
      n.i = v;
      break;
    }
    case F32: {
      float v;
      memcpy(&v, at, 4);
      n.f = v;
      break;
    }
    default: memcpy(&n.f, at, 8);
  }
  return n;
}

static bool isSigned(u32 dtype) { return dtype == I8 || dtype == I16 || dtype == I32 || dtype == I64; }
static __int128 highest(u32 dtype) { return ((__int128)1 << (8 * kSize[dtype] - (isSigned(dtype) ? 1 : 0))) - 1; }
static __int128 lowest(u32 dtype) { return isSigned(dtype) ? -((__int128)1 << (8 * kSize[dtype] - 1)) : 0; }

static double asDouble(const Number& n) {
  if (n.isFloat) return n.f;
  return n.i < 0 ? double(i64(n.i)) : double(u64(n.i));
}

static void storeBits(u32 dtype, u8* at, __int128 value) {
  const u64 bits = u64(value);
  memcpy(at, &bits, kSize[dtype]);
}
static void storeFloat(u32 dtype, u8* at, double value) {
  if (dtype == F32) {
    float narrow = float(value);
    u32 bits;
    memcpy(&bits, &narrow, 4);
    if (value != value) bits = 0x7fc00000u;
    memcpy(at, &bits, 4);
  } else {
    u64 bits;
    memcpy(&bits, &value, 8);
    if (value != value) bits = 0x7ff8000000000000ull;
    memcpy(at, &bits, 8);
  }
}

// Saturating cast, canonical NaN.
static void storeCast(u32 dtype, u8* at, const Number& n) {
  if (dtype == BOOL) {
    *at = n.isFloat ? n.f != 0 : n.i != 0;
  } else if (dtype >= F32) {
    if (n.isFloat) storeFloat(dtype, at, n.f);
    else if (dtype == F32) storeFloat(F32, at, n.i < 0 ? float(i64(n.i)) : float(u64(n.i)));
    else storeFloat(F64, at, asDouble(n));
  } else if (n.isFloat) {
    const double limit = ldexp(1.0, int(8 * kSize[dtype] - (isSigned(dtype) ? 1 : 0)));
    if (n.f != n.f) storeBits(dtype, at, 0);
    else if (n.f >= limit) storeBits(dtype, at, highest(dtype));
    else if (n.f <= double(lowest(dtype))) storeBits(dtype, at, lowest(dtype));
    else storeBits(dtype, at, (__int128)trunc(n.f));
  } else {
    storeBits(dtype, at, std::min(std::max(n.i, lowest(dtype)), highest(dtype)));
  }
}

static double minimum(double a, double b) {
  if (a != a || b != b) return NAN;
  if (a == b) return signbit(a) ? a : b;
  return a < b ? a : b;
}
static double maximum(double a, double b) { return -minimum(-a, -b); }

// ---- merges -----------------------------------------------------------------------------------------------

// Merges in place; set, add, min, max, and, or, xor are 0..6.
static void mergeElement(u32 dtype, u32 merge, u8* now, const u8* value) {
  const Number a = load(dtype, now), b = load(dtype, value);
  if (dtype == BOOL) {
    const bool x = a.i != 0, y = b.i != 0;
    *now = merge == 0 ? y : merge == 2 || merge == 4 ? x && y : merge == 6 ? x != y : x || y;
  } else if (merge == 0) {
    memcpy(now, value, kSize[dtype]);
  } else if (dtype >= F32) {
    double result = merge == 2 ? minimum(a.f, b.f) : maximum(a.f, b.f);
    if (merge == 1) result = dtype == F32 ? double(float(a.f) + float(b.f)) : a.f + b.f;
    storeFloat(dtype, now, result);
  } else {
    const __int128 results[7] = {0, a.i + b.i, std::min(a.i, b.i), std::max(a.i, b.i), a.i & b.i, a.i | b.i, a.i ^ b.i};
    storeBits(dtype, now, results[merge]);
  }
}

// ---- digest -----------------------------------------------------------------------------------------------

static u64 modelFinalize(u64 x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdull;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ull;
  return x ^ (x >> 33);
}
static void modelMix(u64 index, u64& lo, u64& hi) {
  const u64 x = modelFinalize(lo + (index + 1) * 0x9e3779b97f4a7c15ull);
  const u64 y = modelFinalize((hi ^ x) + 0xd1b54a32d192ed03ull);
  lo = modelFinalize(x + y);
  hi = y;
}
static void modelPageDigest(const Bytes& bytes, u64 digest[2]) {
  std::vector<u32> key;
  u64 state = 0x4d4d53422d763121ull;
  while (key.size() < 1032) {
    u64 z = (state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    key.push_back(u32(z));
    key.push_back(u32(z >> 32));
  }
  digest[0] = digest[1] = 0;
  for (u64 chunk = 0; chunk * 4096 < bytes.size(); chunk++) {
    u32 words[1024] = {};
    memcpy(words, bytes.data() + chunk * 4096, std::min<u64>(4096, bytes.size() - chunk * 4096));
    u64 hash[2] = {0, 0};
    for (u32 lane = 0; lane < 2; lane++) {
      for (u32 w = 0; w < 1024; w += 2) {
        const u32 k0 = key[w + 8 * lane], k1 = key[w + 1 + 8 * lane];
        hash[lane] += u64(u32(words[w] + k0)) * u32(words[w + 1] + k1) - u64(k0) * k1;
      }
    }
    if ((hash[0] | hash[1]) == 0) continue;
    modelMix(chunk, hash[0], hash[1]);
    digest[0] += hash[0];
    digest[1] += hash[1];
  }
}
static std::string modelPageDigest(const Bytes& bytes) {
  u64 digest[2];
  modelPageDigest(bytes, digest);
  return std::string(reinterpret_cast<char*>(digest), 16);
}

struct ModelPage {
  u32 id, dtype;
  Bytes bytes;
};
static std::string modelStateDigest(const std::vector<ModelPage>& pages) {
  u64 sum[2] = {0, 0};
  for (const ModelPage& page : pages) {
    u64 share[2];
    modelPageDigest(page.bytes, share);
    share[0] += page.bytes.size();
    modelMix(u64(page.id) | u64(page.dtype) << 32, share[0], share[1]);
    sum[0] += share[0];
    sum[1] += share[1];
  }
  return std::string(reinterpret_cast<char*>(sum), 16);
}

// ---- changed ranges ---------------------------------------------------------------------------------------

typedef std::vector<std::pair<u32, u32>> Ranges;

// The exact runs of differing elements, coarsened as in abi.h.
static Ranges modelChanges(u32 dtype, const Bytes& before, const Bytes& after) {
  Ranges runs;
  const u32 size = kSize[dtype];
  for (u32 i = 0; i < before.size() / size; i++) {
    if (memcmp(before.data() + u64(i) * size, after.data() + u64(i) * size, size) == 0) continue;
    if (!runs.empty() && runs.back().first + runs.back().second == i) runs.back().second++;
    else runs.push_back({i, 1});
  }
  for (u64 gap = 2; runs.size() > 256; gap *= 2) {
    Ranges closed;
    for (const auto& run : runs) {
      if (!closed.empty() && run.first - (closed.back().first + closed.back().second) < gap) {
        closed.back().second = run.first + run.second - closed.back().first;
      } else {
        closed.push_back(run);
      }
    }
    runs = closed;
  }
  return runs;
}

// ---- reduce -----------------------------------------------------------------------------------------------

enum { SUM, PROD, MIN, MAX, MEAN, VAR, ANY, ALL, COUNT, ARGMIN, ARGMAX, REDUCE_FNS };

struct ModelPartial {
  double f = 0, square = 0;
  u64 i = 0;
  Number extreme = {};
  u64 index = 0, count = 0;
};

static bool lessNumber(const Number& a, const Number& b) { return a.isFloat ? a.f < b.f : a.i < b.i; }

static ModelPartial foldTwo(u32 fn, const ModelPartial& a, const ModelPartial& b, bool lanes) {
  ModelPartial r;
  r.count = a.count + b.count;
  const bool product = fn == PROD;
  r.i = product ? a.i * b.i : a.i + b.i;
  if (fn == MIN) r.f = minimum(a.f, b.f);
  else if (fn == MAX) r.f = maximum(a.f, b.f);
  else r.f = product ? a.f * b.f : a.f + b.f;
  if (fn == VAR && !lanes) {
    const double n = double(r.count), distance = b.f - a.f;
    r.f = a.f + distance * (double(b.count) / n);
    r.square = (a.square + b.square) + (distance * distance) * (double(a.count) * double(b.count) / n);
  }
  const bool nanA = a.extreme.isFloat && a.extreme.f != a.extreme.f,
             nanB = b.extreme.isFloat && b.extreme.f != b.extreme.f;
  bool right = false;
  const bool low = fn == ARGMIN || fn == MIN;
  if (!nanA) right = nanB || (low ? lessNumber(b.extreme, a.extreme) : lessNumber(a.extreme, b.extreme));
  // The order of indices in a lane is arbitrary; among equal values the lower index wins.
  const bool equal =
      (nanA && nanB) || (!nanA && !nanB && !lessNumber(a.extreme, b.extreme) && !lessNumber(b.extreme, a.extreme));
  if (equal) right = b.index < a.index;
  r.extreme = right ? b.extreme : a.extreme;
  r.index = right ? b.index : a.index;
  return r;
}

static ModelPartial modelBlock(u32 fn, const std::vector<ModelPartial>& values) {
  std::vector<ModelPartial> lanes;
  for (size_t i = 0; i < values.size(); i++) {
    if (i < 32) lanes.push_back(values[i]);
    else lanes[i % 32] = foldTwo(fn, lanes[i % 32], values[i], true);
  }
  for (size_t half = 16; half != 0; half /= 2) {
    for (size_t l = 0; l < half && l + half < lanes.size(); l++) {
      lanes[l] = foldTwo(fn, lanes[l], lanes[l + half], true);
    }
    if (lanes.size() > half) lanes.resize(half);
  }
  return lanes[0];
}

// The natural dtype of a reduction.
static u32 reduceNatural(u32 fn, u32 dtype) {
  if (fn == SUM || fn == PROD) return dtype >= F32 ? dtype : u32(isSigned(dtype) ? I64 : U64);
  if (fn == MIN || fn == MAX) return dtype;
  if (fn == MEAN || fn == VAR) return dtype == F32 ? F32 : F64;
  return fn == ANY || fn == ALL ? BOOL : U32;
}

// Reduces a lane of elements into one element of the natural dtype.
static void modelReduce(u32 fn, u32 dtype, const std::vector<const u8*>& lane, u8* out) {
  const u32 natural = reduceNatural(fn, dtype);
  const u64 n = lane.size();
  if (n == 0) {
    Number value = {natural >= F32,
                    fn == PROD                ? 1.0
                    : fn == MEAN || fn == VAR ? NAN
                                              : 0.0,
                    fn == PROD || fn == ALL ? 1 : 0};
    storeCast(natural, out, value);
    return;
  }
  std::vector<ModelPartial> level;
  for (u64 block = 0; block < n; block += 1024) {
    std::vector<ModelPartial> values;
    for (u64 i = block; i < std::min<u64>(n, block + 1024); i++) {
      const Number number = load(dtype, lane[i]);
      ModelPartial p;
      p.count = 1;
      p.extreme = number;
      p.index = i;
      p.f = asDouble(number);
      p.i = number.isFloat ? 0 : u64(number.i);
      if (fn == ANY || fn == ALL || fn == COUNT) p.i = number.isFloat ? number.f != 0 : number.i != 0;
      values.push_back(p);
    }
    ModelPartial partial = modelBlock(fn, values);
    if (fn == VAR) {
      const double mean = partial.f / double(values.size());
      for (ModelPartial& p : values) p.f = (p.f - mean) * (p.f - mean);
      partial.square = modelBlock(SUM, values).f;
      partial.f = mean;
    }
    level.push_back(partial);
  }
  while (level.size() > 1) {
    std::vector<ModelPartial> up;
    for (size_t i = 0; i < level.size(); i += 2) {
      up.push_back(i + 1 < level.size() ? foldTwo(fn, level[i], level[i + 1], false) : level[i]);
    }
    level = up;
  }
  const ModelPartial& root = level[0];
  switch (fn) {
    case SUM:
    case PROD: return dtype >= F32 ? storeFloat(natural, out, root.f) : storeBits(natural, out, (__int128)root.i);
    case MIN:
    case MAX: return dtype >= F32 ? storeFloat(natural, out, root.f) : storeCast(natural, out, root.extreme);
    case MEAN: return storeFloat(natural, out, root.f / double(n));
    case VAR: return storeFloat(natural, out, root.square / double(n));
    case ANY: return storeBits(BOOL, out, root.i != 0);
    case ALL: return storeBits(BOOL, out, root.i == n);
    case COUNT: return storeBits(U32, out, (__int128)root.i);
    default: storeBits(U32, out, (__int128)root.index);
  }
}

// Calls visit(output index, lane of element indices) for each output of a reduction over `axes`.
template <class Visit>
static void eachLane(const std::vector<u32>& shape, u32 axes, Visit visit) {
  u64 outputs = 1, n = 1, elements = 1;
  for (size_t d = 0; d < shape.size(); d++) {
    elements *= shape[d];
    if (axes >> d & 1) n *= shape[d];
    else outputs *= shape[d];
  }
  std::vector<std::vector<u64>> lanes(outputs, std::vector<u64>());
  for (u64 e = 0; e < elements; e++) {
    u64 rest = e, out = 0, outStride = 1;
    for (size_t d = shape.size(); d-- > 0;) {
      const u64 index = rest % shape[d];
      rest /= shape[d];
      if (axes >> d & 1) continue;
      out += index * outStride;
      outStride *= shape[d];
    }
    lanes[out].push_back(e);
  }
  for (u64 o = 0; o < outputs; o++) visit(o, lanes[o]);
}

// ---- matmul -----------------------------------------------------------------------------------------------

static u32 modelPromote(u32 a, u32 b) {
  if (a == b || b == BOOL) return a;
  if (a == BOOL) return b;
  if (a >= F32 || b >= F32) return std::max(a, b);
  if (isSigned(a) == isSigned(b)) return std::max(a, b);
  const u32 s = isSigned(a) ? a : b, u = isSigned(a) ? b : a;
  if (kSize[s] > kSize[u]) return s;
  return u == U8 ? I16 : u == U16 ? I32 : u == U32 ? I64 : DTYPES;
}

// One output element: a chain over `count` values, of `dtype`. Those of b are `pitch` apart.
static void modelChain(u32 semiring, u32 dtype, const Number* a, const Number* b, u32 pitch, u32 count, u8* out) {
  const bool isFloat = dtype >= F32;
  double f = semiring == 1 ? INFINITY : semiring == 2 ? -INFINITY : 0;
  __int128 i = semiring == 1 ? highest(dtype) : semiring == 2 ? lowest(dtype) : 0;
  for (u32 k = 0; k < count; k++) {
    const Number &x = a[k], &y = b[u64(k) * pitch];
    if (isFloat) {
      if (semiring == 0) f = dtype == F32 ? double(fmaf(float(x.f), float(y.f), float(f))) : fma(x.f, y.f, f);
      const double plus = dtype == F32 ? double(float(x.f) + float(y.f)) : x.f + y.f;
      if (semiring == 1) f = minimum(f, plus);
      if (semiring == 2) f = maximum(f, plus);
    } else if (dtype == BOOL) {
      i = i != 0 || (x.i != 0 && y.i != 0);
    } else {
      u8 wrapped[8] = {};
      storeBits(dtype, wrapped, x.i + y.i);
      const __int128 plus = load(dtype, wrapped).i;
      if (semiring == 0) i = (__int128)(u64(i) + u64(x.i) * u64(y.i));
      if (semiring == 1) i = std::min(i, plus);
      if (semiring == 2) i = std::max(i, plus);
    }
  }
  if (isFloat) storeFloat(dtype, out, f);
  else storeBits(dtype, out, i);
}
