// What transpose, slice and concat keep of a step. Shared by the CPU's ops (op_move.cuh) and the CUDA kernels.
#pragma once
#include "ops/boxes.cuh"

namespace mmsb {

struct View {
  Extent out;
  i64 base;       // where the first element lies in the input
  i64 stride[8];  // of each axis of the output, in elements of the input
  u32 axis[8];    // transpose: the input's axis that becomes this one
  u32 start[8];   // slice: of each axis
  i32 step[8];
  bool isSlice;
};

struct ConcatPart {
  const Page* page;
  u32 first, n;  // on the axis of the output
};
struct Concat {
  u32 outer, n, inner;
  u32 parts;
  ConcatPart part[64];
};

}  // namespace mmsb
