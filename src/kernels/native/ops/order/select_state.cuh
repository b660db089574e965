// The state of quantile and topk steps, and their rules for one lane or element, for the CPU (op_select.cuh)
// and the CUDA kernels.
#pragma once
#include "ops/folds.cuh"
#include "ops/projection.cuh"

namespace mmsb {

struct Quantile {
  Lanes lanes;
  f64 q;
  bool isVersion1;
};

struct Topk {
  Lanes lanes;
  u32 k;
  bool values, largest;
  u32 width;  // neighbouring lanes that are stored together
};

namespace MMSB_NS {

// Maps f64 (without NaN) to u64 one to one, keeping the order, with -0 below 0.
static MMSB_HD inline u64 keyOf(f64 value) {
  const u64 bits = asWord<f64>(value);
  return (bits >> 63) != 0 ? ~bits : bits | 0x8000000000000000ull;
}
static MMSB_HD inline f64 valueOf(u64 key) {
  return wordAs<f64>((key >> 63) != 0 ? key & 0x7fffffffffffffffull : ~key);
}

// The place of the quantile in a sorted lane of n elements: returns k and sets t, for a place t of the way
// from rank k to k + 1.
static MMSB_HD inline u32 quantilePlace(f64 q, u32 n, f64* t) {
  const f64 position = q * f64(n - 1);
  const f64 whole = sFloor(position);
  *t = position - whole;
  return u32(whole);
}

// The value t of the way between two neighbours. If they lie further apart than the largest number, version 1
// went wrong. Next to one infinity everything in between is that infinity; between both it is NaN.
static MMSB_HD inline f64 interpolate(f64 low, f64 high, f64 t, bool isVersion1) {
  if (t == 0 || low == high) return low;
  const f64 largest = 1.7976931348623157e308;
  const f64 distance = high - low;
  if (isVersion1 || distance <= largest) return t < 0.5 ? low + distance * t : high - distance * (1 - t);
  if (low < -largest) return high > largest ? wordAs<f64>(0x7ff8000000000000ull) : low;
  if (high > largest) return high;
  const f64 half = high * 0.5 - low * 0.5;
  return (t < 0.5 ? low * 0.5 + half * t : high * 0.5 - half * (1 - t)) * 2;
}

// An element of a lane. A higher key is better; for equal keys a lower index is better.
struct Candidate {
  u64 key;
  u32 index;
};

static MMSB_HD inline bool better(const Candidate& a, const Candidate& b) {
  return a.key > b.key || (a.key == b.key && a.index < b.index);
}

// The key of a widened element. NaN is worst; zeros have equal keys.
static MMSB_HD inline u64 candidateKey(u32 wide, bool largest, u64 word) {
  u64 key = wide == I64 ? word ^ 0x8000000000000000ull : word;
  if (wide == F64) {
    const f64 value = wordAs<f64>(word) + 0.0;
    if (value != value) return 0;
    key = keyOf(value);
  }
  return largest ? key : ~key;
}

}  // namespace MMSB_NS
}  // namespace mmsb
