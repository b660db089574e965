// The state of conv and window steps, for the CPU (op_stencil.cuh, which defines the order of work) and the
// CUDA kernels.
#pragma once
#include "ops/folds.cuh"
#include "ops/projection.cuh"

namespace mmsb {

enum ConvBoundary : u32 { CONV_ZERO = 0, CONV_WRAP = 1, CONV_EDGE = 2 };

struct Conv {
  u32 boundary;
  u32 batches, rows, columns;  // rows is 1 in one dimension
  u32 kernelRows, kernelColumns, centreRow, centreColumn;
  u8 dtype;
  u64 kernelAt, rowAt, accAt, wideAt;  // places in the scratch
};

struct Window {
  Lanes lanes;
  u32 fn;  // mmsb_reduce_fn: sum, min, max, mean
  u32 size;
  u8 wide;   // class of the accumulator
  u64 room;  // elements of 8 bytes in each of the two buffers
};

namespace MMSB_NS {

// The index that replaces `at` if it is outside of 0 .. n - 1; n if the element is 0.
static MMSB_HD inline u32 outside(u32 boundary, i64 at, u32 n) {
  if (at >= 0 && at < n) return u32(at);
  if (boundary == CONV_EDGE) return at < 0 ? 0 : n - 1;
  if (boundary == CONV_ZERO) return n;
  const i64 rest = at % i64(n);
  return u32(rest < 0 ? rest + n : rest);
}

}  // namespace MMSB_NS
}  // namespace mmsb
