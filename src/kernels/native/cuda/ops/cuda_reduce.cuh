// reduce on the GPU: one warp per block of 1024 elements, one thread per lane of op_reduce.cuh.
//
// Invariants: every sum has the shape that op_reduce.cuh defines, so the bits equal the CPU's. Floats are
// never added atomically.
#pragma once
#include "cuda/memory/cuda_store.cuh"
#include "ops/reduce/reduce_state.cuh"

namespace mmsb {
namespace MMSB_NS {

static const u32 kReduceThreads = 256;

template <class W>
static __device__ inline W joinLanes(u32 fn, W a, W b) {
  switch (fn) {
    case MMSB_REDUCE_PROD: return FoldProd::go(a, b);
    case MMSB_REDUCE_MIN:
    case MMSB_REDUCE_ARGMIN: return FoldMin::go(a, b);
    case MMSB_REDUCE_MAX:
    case MMSB_REDUCE_ARGMAX: return FoldMax::go(a, b);
    default: return FoldSum::go(a, b);
  }
}

// Joins the lanes of a warp by halving. Lane 0 gets the result. Lanes from `lanes` on are absent.
template <class W>
static __device__ inline W foldWarp(u32 fn, W value, u32 lanes) {
  const u32 lane = threadIdx.x % 32;
  for (u32 half = 16; half != 0; half /= 2) {
    const W other = __shfl_down_sync(0xffffffffu, value, half);
    if (lane < half && lane + half < lanes) value = joinLanes<W>(fn, value, other);
    if (lanes > half) lanes = half;
  }
  return value;
}

// Computes the partial of `count` elements, from `first` of the lane that starts at `start`, by a whole warp.
// All threads get it.
template <class W>
static __device__ Partial warpPartial(const Reduce& r, const u8* input, u32 start, u64 first, u32 count) {
  const u32 lane = threadIdx.x % 32, lanes = count < 32 ? count : 32;
  const auto at = [&](u32 i) {
    return wordAs<W>(wideWordOf(r.wide, r.dtype, input, start + laneOffset(r.reduced, r.reducedCount, first + i)));
  };
  Partial partial = {0, 0, count};
  if (isTruth(r.fn)) {
    u64 sum = 0;
    for (u32 i = lane; i < count; i += 32) sum += at(i) != W(0);
    partial.a = __shfl_sync(0xffffffffu, foldWarp<u64>(MMSB_REDUCE_SUM, sum, 32), 0);
    return partial;
  }
  W acc = W(0);
  for (u32 i = lane; i < count; i += 32) acc = i == lane ? at(i) : joinLanes<W>(r.fn, acc, at(i));
  const W folded = __shfl_sync(0xffffffffu, foldWarp<W>(r.fn, acc, lanes), 0);
  partial.a = asWord<W>(folded);
  if (r.fn == MMSB_REDUCE_VAR) {
    const f64 mean = f64(folded) / count;
    f64 squares = 0;
    for (u32 i = lane; i < count; i += 32) {
      const f64 distance = f64(at(i)) - mean;
      squares = i == lane ? distance * distance : squares + distance * distance;
    }
    partial.a = asWord<f64>(mean);
    partial.b = asWord<f64>(__shfl_sync(0xffffffffu, foldWarp<f64>(MMSB_REDUCE_SUM, squares, lanes), 0));
  } else if (isArg(r.fn)) {
    u64 index = ~0ull;  // the first element that equals the extreme, or is NaN if it is
    for (u32 i = lane; i < count && index == ~0ull; i += 32) {
      const W value = at(i);
      if (value == folded || (folded != folded && value != value)) index = first + i;
    }
    for (u32 half = 16; half != 0; half /= 2) {
      const u64 other = __shfl_down_sync(0xffffffffu, index, half);
      if (lane + half < 32 && other < index) index = other;
    }
    partial.b = __shfl_sync(0xffffffffu, index, 0);
  }
  return partial;
}

static __device__ inline Partial warpPartialOf(const Reduce& r, const u8* input, u32 start, u64 first, u32 count) {
  switch (r.wide) {
    case I64: return warpPartial<i64>(r, input, start, first, count);
    case U64: return warpPartial<u64>(r, input, start, first, count);
    default: return warpPartial<f64>(r, input, start, first, count);
  }
}

static __device__ inline void storeReduced(const Reduce& r, const StoreSink& sink, u32 output, u64 word) {
  sink(output, castLane(sink.natural, r.result, word));
}

// For outputs of one block: one warp per output.
static __global__ void reduceShortKernel(const Reduce* reduce, const u8* input, const DeviceRanges* work,
                                         StoreSink sink) {
  const Reduce& r = *reduce;
  const u32 warps = gridDim.x * blockDim.x / 32;
  for (u64 number = (blockIdx.x * blockDim.x + threadIdx.x) / 32; number < work->elements; number += warps) {
    const u32 output = elementOf(*work, u32(number));
    u64 word = 0;
    if (r.n == 0) word = emptyValue(r);
    else word = finishValue(r, warpPartialOf(r, input, laneStart(r.kept, r.keptCount, output), 0, u32(r.n)));
    if (threadIdx.x % 32 == 0) storeReduced(r, sink, output, word);
  }
}

// For longer outputs: computes the partials of blocks, one warp per block, into the first level of each
// output's tree.
static __global__ void reduceBlocksKernel(const Reduce* reduce, const u8* input, const DeviceRanges* work,
                                          Partial* trees, u64 treePartials, u32 firstNumber, u32 numbers) {
  const Reduce& r = *reduce;
  const u64 warps = u64(gridDim.x) * blockDim.x / 32, total = u64(numbers) * r.blocks;
  for (u64 i = (u64(blockIdx.x) * blockDim.x + threadIdx.x) / 32; i < total; i += warps) {
    const u32 number = u32(i / r.blocks);
    const u64 block = i % r.blocks;
    const u32 start = laneStart(r.kept, r.keptCount, elementOf(*work, firstNumber + number));
    const Partial partial = warpPartialOf(r, input, start, block * kReduceBlock, blockCount(r, block));
    if (threadIdx.x % 32 == 0) trees[number * treePartials + block] = partial;
  }
}

// Then computes the trees, one block of threads per output.
static __global__ void reduceClimbKernel(const Reduce* reduce, const DeviceRanges* work, Partial* trees,
                                         u64 treePartials, u32 firstNumber, u32 numbers, StoreSink sink) {
  const Reduce& r = *reduce;
  for (u32 number = blockIdx.x; number < numbers; number += gridDim.x) {
    Partial* level = trees + number * treePartials;
    for (u64 count = r.blocks; count > 1; count = (count + 1) / 2) {
      Partial* parents = level + count;
      for (u64 i = threadIdx.x; i < (count + 1) / 2; i += blockDim.x) {
        parents[i] = 2 * i + 1 < count ? joinOf(r, level[2 * i], level[2 * i + 1]) : level[2 * i];
      }
      __syncthreads();
      level = parents;
    }
    if (threadIdx.x == 0) storeReduced(r, sink, elementOf(*work, firstNumber + number), finishValue(r, level[0]));
    __syncthreads();
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
