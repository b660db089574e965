// The state of a map step in device memory, for the interpreting kernel (map_cuda.cuh) and compiled ones
// (cuda_rtc.cuh).
#pragma once
#include "cuda/memory/cuda_sink.cuh"

namespace mmsb {

struct EvalInst;

struct MapDeviceInput {
  const void* data;
  u32 mode;  // MapMode
  u32 stride[8];
};

// A map step in device memory.
struct MapDevice {
  const EvalInst* code;
  u32 count, result;
  u32 rank;
  u32 inner[9];
  MapDeviceInput inputs[kIrMaxInputs];
};

namespace MMSB_NS {

static __device__ inline u64 mapSource(const MapDevice& map, const MapDeviceInput& input, u32 element) {
  if (input.mode == MAP_SAME) return element;
  if (input.mode != MAP_STRIDED) return 0;
  u64 at = 0;
  for (u32 d = 0; d < map.rank; d++) {
    const u32 below = map.inner[d + 1], index = element / below;
    element -= index * below;
    at += u64(index) * input.stride[d];
  }
  return at;
}

}  // namespace MMSB_NS
}  // namespace mmsb
