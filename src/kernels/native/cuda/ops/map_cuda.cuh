// map on the GPU: a kernel that interprets a lowered expression; each thread computes one element at a time.
//
// Invariants: it runs the evaluator of expr/eval.cuh, so the bits equal the CPU's. The elements to compute
// are read from device memory, so that a launch can be captured in a graph. The caller passes a Sink; whole
// warps call sink.warp(valid, element, lane). Must not know how results are compared, stored or hashed.
//
// Use: describeMap() fills a MapDevice on the host from a prepared step and device addresses; the caller
// copies it and the EvalInst array to the device; launchMap() runs it.
#pragma once
#include "cuda/memory/cuda_api.cuh"
#include "cuda/ops/map_device.cuh"
#include "expr/eval.cuh"
#include "expr/map_state.cuh"

namespace mmsb {

namespace MMSB_NS {

// Up to this many registers are in the thread's own memory; more are in a shared buffer, interleaved.
static const u32 kMapLocalRegisters = 32;
static const u32 kMapThreads = 256;
// Threads of a launch that uses the shared buffer.
static const u32 kMapSharedThreads = 8192;

struct MapSharedRegisters {
  u64* base;
  u32 distance;
  __device__ u64& operator[](u32 i) const { return base[u64(i) * distance]; }
};

// Bytes of the shared buffer for a step's launches; 0 if it is not used.
static inline u64 mapRegisterBytes(const Program& p) {
  return p.evalRegisters <= kMapLocalRegisters ? 0 : u64(p.evalRegisters) * kMapSharedThreads * sizeof(u64);
}

// `code` and `data[i]` are device addresses of the step's EvalInst array and of its input pages.
static inline void describeMap(const MapState& state, const EvalInst* code, const void* const* data,
                               MapDevice& device) {
  memset(&device, 0, sizeof device);
  device.code = code;
  device.count = state.program->evalCount;
  device.result = state.program->evalResult;
  device.rank = state.rank;
  memcpy(device.inner, state.inner, sizeof device.inner);
  for (u32 i = 0; i < state.inputCount; i++) {
    device.inputs[i].data = data[i];
    device.inputs[i].mode = state.inputs[i].mode;
    memcpy(device.inputs[i].stride, state.inputs[i].stride, sizeof device.inputs[i].stride);
  }
}

template <class Registers, class Sink>
static __device__ inline void mapLoop(const MapDevice& map, const DeviceRanges& work, Registers registers,
                                      const Sink& sink) {
  eachByWarp(work, [&](bool valid, u32 element) {
    const auto load = [&](u32 input, u32 dtype) {
      return loadLane(dtype, map.inputs[input].data, mapSource(map, map.inputs[input], element));
    };
    sink.warp(valid, element, valid ? evaluate(map.code, map.count, map.result, registers, load) : 0);
  });
}

template <class Sink>
static __global__ void mapKernel(const MapDevice* map, const DeviceRanges* work, Sink sink) {
  u64 registers[kMapLocalRegisters];
  mapLoop(*map, *work, &registers[0], sink);
}

template <class Sink>
static __global__ void mapKernelShared(const MapDevice* map, const DeviceRanges* work, u64* registers, Sink sink) {
  const u32 thread = blockIdx.x * blockDim.x + threadIdx.x;
  mapLoop(*map, *work, MapSharedRegisters{registers + thread, gridDim.x * blockDim.x}, sink);
}

// `map` and `work` are device addresses; `blocks` bounds the grid (a few per multiprocessor); `registers` has
// mapRegisterBytes() bytes.
template <class Sink>
static void launchMap(const Program& p, const MapDevice* map, const DeviceRanges* work, u32 blocks, u64* registers,
                      Sink sink, cudaStream_t stream) {
  if (p.evalRegisters <= kMapLocalRegisters) {
    MMSB_LAUNCH(mapKernel<Sink>, blocks, kMapThreads, stream, map, work, sink);
  } else {
    MMSB_LAUNCH(mapKernelShared<Sink>, kMapSharedThreads / kMapThreads, kMapThreads, stream, map, work, registers,
                sink);
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
