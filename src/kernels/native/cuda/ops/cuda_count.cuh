// bincount and histogram on the GPU. Counts are integers, so they may be added in any order.
#pragma once
#include "cuda/memory/cuda_store.cuh"
#include "ops/places/index_state.cuh"

namespace mmsb {
namespace MMSB_NS {

static const u32 kCountShared = 4096;  // up to this many bins a block counts in shared memory

// The bin of an element, or kNowhere.
static __device__ inline u32 binOfElement(const Counting& c, const u8* input, u32 dtype, u64 at) {
  const u64 lane = loadLane(dtype, input, at);
  if (c.isHistogram) return binOf(c, f64Of(castLane(F64, dtype, lane)));
  const bool isSigned = dtype == I8 || dtype == I16 || dtype == I32 || dtype == I64;
  const u64 value = castLane(isSigned ? u32(I64) : u32(U64), dtype, lane);
  return value < c.bins ? u32(value) : kNowhere;
}

static __global__ void countKernel(Counting c, const u8* input, u32 dtype, u64 elements, u32* counts) {
  __shared__ u32 own[kCountShared];
  const bool shared = c.bins <= kCountShared;
  u32* const to = shared ? own : counts;
  for (u32 i = threadIdx.x; shared && i < c.bins; i += blockDim.x) own[i] = 0;
  __syncthreads();
  const u64 threads = u64(gridDim.x) * blockDim.x;
  for (u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x; i < elements; i += threads) {
    const u32 bin = binOfElement(c, input, dtype, i);
    if (bin != kNowhere) atomicAdd(&to[bin], 1u);
  }
  __syncthreads();
  for (u32 i = threadIdx.x; shared && i < c.bins; i += blockDim.x) {
    if (own[i] != 0) atomicAdd(&counts[i], own[i]);
  }
}

static __global__ void storeCountsKernel(const u32* counts, const DeviceRanges* work, StoreSink sink) {
  const u32 threads = gridDim.x * blockDim.x;
  for (u64 number = blockIdx.x * blockDim.x + threadIdx.x; number < work->elements; number += threads) {
    const u32 bin = elementOf(*work, u32(number));
    sink(bin, counts[bin]);
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
