// Views of a page as kept and reduced axes, or as lanes along one axis, and the outputs that a changed input
// affects.
//
// For all ops that work along axes, on the CPU and on the GPU.
#pragma once
#include "core/ranges.cuh"

namespace mmsb {

struct ReduceDim {
  u32 size, stride;  // stride in elements of the input
  u32 outStride;     // if kept: stride in elements of the output
  bool kept;
};

// A page as [outer, n, inner]. Element i of lane l is at (l / inner) * n * inner + l % inner + i * inner.
struct Lanes {
  u32 outer, n, inner;
  ReduceDim dims[3];
};

namespace MMSB_NS {

// Appends the outputs that depend on the input elements [first, end) of a sub-box. inSize and outSize are the
// sizes of the box of the dims from `d` on.
static void projectRange(const ReduceDim* dims, u32 dimCount, u32 d, u32 base, u64 inSize, u64 outSize, u64 first,
                         u64 end, RangeSet& out, Arena& arena) {
  if (d == dimCount || (first == 0 && end == inSize)) return rangesPush(out, base, u32(outSize), arena);
  const u64 stride = inSize / dims[d].size;
  const u64 outStride = dims[d].kept ? outSize / dims[d].size : outSize;
  const u32 step = dims[d].kept ? u32(outStride) : 0;
  const u64 from = first / stride, last = (end - 1) / stride;
  if (from == last) {
    return projectRange(dims, dimCount, d + 1, u32(base + from * step), stride, outStride, first - from * stride,
                        end - from * stride, out, arena);
  }
  const bool headWhole = first % stride == 0, tailWhole = end % stride == 0;
  if (!dims[d].kept && (headWhole || tailWhole || last - from > 1)) return rangesPush(out, base, u32(outSize), arena);
  if (!headWhole) {
    projectRange(dims, dimCount, d + 1, u32(base + from * step), stride, outStride, first - from * stride, stride, out,
                 arena);
  }
  if (dims[d].kept) {
    const u64 wholeFrom = headWhole ? from : from + 1, wholeEnd = tailWhole ? last + 1 : last;
    if (wholeEnd > wholeFrom) rangesPush(out, u32(base + wholeFrom * step), u32((wholeEnd - wholeFrom) * step), arena);
  }
  if (!tailWhole) {
    projectRange(dims, dimCount, d + 1, u32(base + last * step), stride, outStride, 0, end - last * stride, out, arena);
  }
}

static bool lanesOf(const Page& input, i32 axis, Lanes& lanes) {
  lanes.outer = lanes.inner = 1;
  lanes.n = axis < 0 ? input.elements : 1;
  if (axis >= i32(input.rank)) return false;
  for (u32 d = 0; axis >= 0 && d < input.rank; d++) {
    if (d < u32(axis)) lanes.outer *= input.shape[d];
    else if (d == u32(axis)) lanes.n = input.shape[d];
    else lanes.inner *= input.shape[d];
  }
  lanes.dims[0] = ReduceDim{lanes.outer, 0, 0, true};
  lanes.dims[1] = ReduceDim{lanes.n, 0, 0, false};
  lanes.dims[2] = ReduceDim{lanes.inner, 0, 0, true};
  return true;
}

static void dirtyLanes(const Lanes& lanes, u32 elements, const RangeSet& changed, RangeSet& out, Arena& arena) {
  for (u32 i = 0; i < changed.count; i++) {
    const u64 first = changed.data[i].start;
    projectRange(lanes.dims, 3, 0, 0, elements, u64(lanes.outer) * lanes.inner, first, first + changed.data[i].count,
                 out, arena);
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
