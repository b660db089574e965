// quantile and topk on the GPU: one block of threads per lane.
//
// Invariants: results depend only on the values of the lane (select_state.cuh), so they equal the CPU's for
// any algorithm. quantile counts digits of keys from the top; topk searches the lane once per place if k is
// small, else it sorts the lane.
#pragma once
#include "cuda/memory/cuda_store.cuh"
#include "ops/order/select_state.cuh"

namespace mmsb {
namespace MMSB_NS {

static const u32 kSelectThreads = 256;
static const u32 kTopkSearches = 32;  // for larger k, lanes are sorted

static __device__ inline u64 laneIndex(const Lanes& lanes, u32 lane, u64 i) {
  return u64(lane / lanes.inner) * lanes.n * lanes.inner + lane % lanes.inner + i * lanes.inner;
}

static __device__ inline f64 laneValue(const Lanes& lanes, const u8* input, u32 dtype, u32 lane, u64 i) {
  return f64Of(castLane(F64, dtype, loadLane(dtype, input, laneIndex(lanes, lane, i))));
}

static __global__ void quantileKernel(Quantile state, const u8* input, u32 dtype, const DeviceRanges* work,
                                      StoreSink sink) {
  __shared__ u32 counts[256];
  __shared__ u64 prefix;
  __shared__ unsigned long long beyond;
  __shared__ u32 rank, left;
  const Lanes& lanes = state.lanes;
  for (u32 number = blockIdx.x; number < work->elements; number += gridDim.x) {
    const u32 lane = elementOf(*work, number);
    f64 t;
    const u32 k = quantilePlace(state.q, lanes.n, &t);
    if (threadIdx.x == 0) {
      prefix = 0;
      rank = k;
      beyond = ~0ull;
    }
    int nan = 0;
    for (u32 pass = 0; pass < 8 && nan == 0; pass++) {
      const u32 shift = 56 - 8 * pass;
      for (u32 i = threadIdx.x; i < 256; i += blockDim.x) counts[i] = 0;
      __syncthreads();
      for (u64 i = threadIdx.x; i < lanes.n; i += blockDim.x) {
        const f64 value = laneValue(lanes, input, dtype, lane, i);
        const u64 key = keyOf(value);
        if (value != value) nan = 1;
        if (pass == 0 || key >> (shift + 8) == prefix) atomicAdd(&counts[key >> shift & 255], 1u);
      }
      nan = __syncthreads_or(nan);
      if (threadIdx.x == 0) {
        u32 digit = 0;
        for (; nan == 0 && rank >= counts[digit]; digit++) rank -= counts[digit];
        prefix = prefix << 8 | digit;
        left = counts[digit];
      }
      __syncthreads();
    }
    const u64 found = prefix;
    if (nan == 0 && rank + 1 >= left) {
      for (u64 i = threadIdx.x; i < lanes.n; i += blockDim.x) {
        const u64 key = keyOf(laneValue(lanes, input, dtype, lane, i));
        if (key > found) atomicMin(&beyond, static_cast<unsigned long long>(key));
      }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      const u64 next = rank + 1 < left ? found : beyond;
      const f64 value =
          nan != 0 ? f64Of(0x7ff8000000000000ull) : interpolate(valueOf(found), valueOf(next), t, state.isVersion1);
      sink(lane, castLane(sink.natural, F64, bitsOf(value)));
    }
    __syncthreads();
  }
}

// ---- topk -------------------------------------------------------------------------------------------------

static __device__ inline Candidate candidateAt(const Topk& state, const u8* input, u32 dtype, u32 lane, u64 i) {
  const u32 wide = dtype >= F32                                                  ? u32(F64)
                   : dtype == I8 || dtype == I16 || dtype == I32 || dtype == I64 ? u32(I64)
                                                                                 : u32(U64);
  const u64 word = castLane(wide, dtype, loadLane(dtype, input, laneIndex(state.lanes, lane, i)));
  return Candidate{candidateKey(wide, state.largest, word), u32(i)};
}

static __device__ inline void storeCandidate(const Topk& state, const u8* input, u32 dtype, u32 lane, u32 place,
                                             u32 index, const StoreSink& sink) {
  const u32 inner = state.lanes.inner;
  const u32 element = u32((u64(lane / inner) * state.k + place) * inner + lane % inner);
  sink(element, state.values ? loadLane(dtype, input, laneIndex(state.lanes, lane, index)) : u64(index));
}

// For each place, searches the lane for the best candidate after the one before.
static __global__ void topkSearchKernel(Topk state, const u8* input, u32 dtype, const DeviceRanges* work,
                                        StoreSink sink) {
  __shared__ Candidate best[kSelectThreads];
  for (u32 number = blockIdx.x; number < work->elements; number += gridDim.x) {
    const u32 lane = elementOf(*work, number);
    Candidate last = {0, 0};
    for (u32 place = 0; place < state.k; place++) {
      Candidate own = {0, 0xffffffffu};
      for (u64 i = threadIdx.x; i < state.lanes.n; i += blockDim.x) {
        const Candidate candidate = candidateAt(state, input, dtype, lane, i);
        if ((place == 0 || better(last, candidate)) && better(candidate, own)) own = candidate;
      }
      best[threadIdx.x] = own;
      __syncthreads();
      for (u32 half = kSelectThreads / 2; half != 0; half /= 2) {
        if (threadIdx.x < half && better(best[threadIdx.x + half], best[threadIdx.x])) {
          best[threadIdx.x] = best[threadIdx.x + half];
        }
        __syncthreads();
      }
      last = best[0];
      __syncthreads();
      if (threadIdx.x == 0) storeCandidate(state, input, dtype, lane, place, last.index, sink);
    }
  }
}

// Bitonic sort of the whole lane. Each block has scratch for `padded` candidates, a power of two.
static __global__ void topkSortKernel(Topk state, const u8* input, u32 dtype, const DeviceRanges* work,
                                      Candidate* scratch, u64 padded, StoreSink sink) {
  Candidate* list = scratch + blockIdx.x * padded;
  for (u32 number = blockIdx.x; number < work->elements; number += gridDim.x) {
    const u32 lane = elementOf(*work, number);
    for (u64 i = threadIdx.x; i < padded; i += blockDim.x) {
      list[i] = i < state.lanes.n ? candidateAt(state, input, dtype, lane, i) : Candidate{0, 0xffffffffu};
    }
    __syncthreads();
    for (u64 size = 2; size <= padded; size *= 2) {
      for (u64 stride = size / 2; stride != 0; stride /= 2) {
        for (u64 i = threadIdx.x; i < padded; i += blockDim.x) {
          const u64 j = i ^ stride;
          if (j < i) continue;
          const bool bestFirst = (i & size) == 0;
          if (better(list[j], list[i]) != bestFirst) continue;
          const Candidate swap = list[i];
          list[i] = list[j];
          list[j] = swap;
        }
        __syncthreads();
      }
    }
    for (u64 place = threadIdx.x; place < state.k; place += blockDim.x) {
      storeCandidate(state, input, dtype, lane, u32(place), list[place].index, sink);
    }
    __syncthreads();
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
