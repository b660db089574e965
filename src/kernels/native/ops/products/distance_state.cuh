// The state of a distance step, and the contribution of one element to a sum of version 1, for the CPU
// (op_distance1.cuh) and the CUDA kernels.
#pragma once
#include "portable/scalar.cuh"

namespace mmsb {

enum Metric : u32 { METRIC_DOT = 0, METRIC_L2 = 1, METRIC_COSINE = 2 };

struct Distance {
  u32 metric;
  u32 queries, vectors, depth;
  u64 vectorAt, wideAt;  // places in the scratch; the query is at 0
};

static const u32 kDistanceLanes = 32;

namespace MMSB_NS {

struct TakeDot {
  template <class T>
  static MMSB_HD inline T go(T acc, T a, T b) {
    return sFma<T>(a, b, acc);
  }
};
struct TakeSquare {
  template <class T>
  static MMSB_HD inline T go(T acc, T a, T b) {
    return sFma<T>(a - b, a - b, acc);
  }
};

}  // namespace MMSB_NS
}  // namespace mmsb
