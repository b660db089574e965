// The state of gather, scatter, bincount and histogram steps, and the bin of a value, for the CPU
// (op_index.cuh, which defines the ops) and the CUDA kernels.
#pragma once
#include "core/ranges.cuh"

namespace mmsb {

static const u32 kNowhere = 0xffffffffu;

struct Indexed {
  u32 outer, n, inner;  // shape of x, and of the output of scatter
  u32 count;            // number of indices
  u32 merge;            // scatter
  u64 valueStride[3];   // scatter: strides of [outer, count, inner] in the values; all 0 if there is one value for all
  const Range* order;   // scatter, during a call: {index, its place in the list}, sorted by index, then by place
  u32 orderCount;
};

struct Counting {
  u32 bins;
  f64 low, high;
  // scale is 1, or 0.5 where high - low overflows, and unscale undoes it; the others are scaled.
  f64 scale, unscale, first, width, perUnit;
  bool isHistogram;
  u32* counts;  // valid during a call
};

namespace MMSB_NS {

static MMSB_HD inline f64 edgeOf(const Counting& c, u32 bin) {
  return bin == c.bins ? c.high : (c.first + f64(bin) * c.width) * c.unscale;
}

static MMSB_HD inline u32 binOf(const Counting& c, f64 x) {
  if (!(x >= c.low && x <= c.high)) return kNowhere;
  const f64 guess = (x * c.scale - c.first) * c.perUnit;
  u32 bin = guess < f64(c.bins) ? u32(guess) : c.bins - 1;
  while (bin != 0 && x < edgeOf(c, bin)) bin--;
  while (bin + 1 < c.bins && x >= edgeOf(c, bin + 1)) bin++;
  return bin;
}

}  // namespace MMSB_NS
}  // namespace mmsb
