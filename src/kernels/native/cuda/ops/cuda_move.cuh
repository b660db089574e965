// transpose, slice, concat and gather on the GPU: one thread per output element, which reads its source.
#pragma once
#include "cuda/memory/cuda_store.cuh"
#include "ops/places/index_state.cuh"
#include "ops/places/move_state.cuh"

namespace mmsb {

// The state of a concat in device memory.
struct ConcatDevicePart {
  const u8* data;
  u32 dtype, first, n;
};
struct ConcatDevice {
  u32 n, inner, parts;
  ConcatDevicePart part[64];
};

namespace MMSB_NS {

static __global__ void viewKernel(View view, const u8* input, u32 dtype, const DeviceRanges* work, StoreSink sink) {
  const u32 threads = gridDim.x * blockDim.x;
  for (u64 number = blockIdx.x * blockDim.x + threadIdx.x; number < work->elements; number += threads) {
    const u32 element = elementOf(*work, u32(number));
    u32 rest = element;
    i64 place = view.base;
    for (u32 d = view.out.rank; d-- > 0;) {
      place += i64(rest % view.out.shape[d]) * view.stride[d];
      rest /= view.out.shape[d];
    }
    sink(element, loadLane(dtype, input, u64(place)));
  }
}

static __global__ void concatKernel(const ConcatDevice* state, const DeviceRanges* work, StoreSink sink) {
  const u32 threads = gridDim.x * blockDim.x;
  for (u64 number = blockIdx.x * blockDim.x + threadIdx.x; number < work->elements; number += threads) {
    const u32 element = elementOf(*work, u32(number));
    const u32 column = element % state->inner, row = element / state->inner % state->n;
    const u64 outer = element / state->inner / state->n;
    u32 p = 0;
    while (row >= state->part[p].first + state->part[p].n) p++;
    const ConcatDevicePart& part = state->part[p];
    const u64 lane = loadLane(part.dtype, part.data, (outer * part.n + (row - part.first)) * state->inner + column);
    sink(element, part.dtype == sink.natural ? lane : castLane(sink.natural, part.dtype, lane));
  }
}

// An index as 0 .. n - 1, or kNowhere.
static __device__ inline u32 placeOfIndex(const u8* indices, u32 dtype, u64 at, u32 n) {
  const bool isSigned = dtype == I8 || dtype == I16 || dtype == I32 || dtype == I64;
  u64 index = castLane(isSigned ? u32(I64) : u32(U64), dtype, loadLane(dtype, indices, at));
  if (isSigned && (index >> 63) != 0) index += n;
  return index < n ? u32(index) : kNowhere;
}

static __global__ void takeKernel(Indexed g, const u8* input, u32 dtype, const u8* indices, u32 indexDtype,
                                  const DeviceRanges* work, StoreSink sink) {
  const u32 threads = gridDim.x * blockDim.x;
  const u64 nothing = dtype == F32 ? 0x7fc00000ull : dtype == F64 ? 0x7ff8000000000000ull : 0;
  for (u64 number = blockIdx.x * blockDim.x + threadIdx.x; number < work->elements; number += threads) {
    const u32 element = elementOf(*work, u32(number));
    const u32 column = element % g.inner, place = element / g.inner % g.count;
    const u64 slab = u64(element / g.inner / g.count) * g.n;
    const u32 index = placeOfIndex(indices, indexDtype, place, g.n);
    sink(element, index == kNowhere ? nothing : loadLane(dtype, input, (slab + index) * g.inner + column));
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
