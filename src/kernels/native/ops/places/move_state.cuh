// The state of transpose, slice and concat steps, for the CPU (op_move.cuh) and the CUDA kernels.
#pragma once
#include "ops/boxes.cuh"

namespace mmsb {

struct View {
  Extent out;
  i64 base;       // place of the first output element in the input
  i64 stride[8];  // of each axis of the output, in elements of the input
  u32 axis[8];    // transpose: the input axis of each output axis
  u32 start[8];   // slice: first index on each axis
  i32 step[8];
  bool isSlice;
};

struct ConcatPart {
  const Page* page;
  u32 first, n;  // place and size on the axis of the output
};
struct Concat {
  u32 outer, n, inner;
  u32 parts;
  ConcatPart part[64];
};

}  // namespace mmsb
