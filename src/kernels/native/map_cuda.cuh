// map on the GPU: a kernel that interprets a lowered expression, one element per thread and turn.
//
// Invariants: it runs the evaluator of eval.cuh, so its bits are those of the CPU. What varies from epoch to epoch (which
// elements) is read from device memory, so that a launch can be captured in a graph. Where results go is the caller's:
// a Sink is called as sink(element, lane). Must not know how results are compared, stored or hashed.
//
// Use: describeMap() fills a MapDevice on the host from a prepared step and device addresses; the caller copies it and the
// EvalInst array to the device; launchMap() runs it.
#pragma once
#include "cuda_api.cuh"
#include "eval.cuh"
#include "map_state.cuh"

namespace mmsb {

struct MapDeviceInput {
  const void* data;
  u32 mode;  // MapMode
  u32 stride[8];
};

// A step as the kernel reads it, in device memory.
struct MapDevice {
  const EvalInst* code;
  u32 count, result;
  u32 rank;
  u32 inner[9];
  MapDeviceInput inputs[kIrMaxInputs];
};

// Which elements to compute, in device memory: range i holds the results numbered first[i], first[i] + 1, ...
struct MapWork {
  u32 rangeCount, elements;
  const Range* ranges;
  const u32* first;
};

namespace MMSB_NS {

// Registers of a thread. Few enough live in its own memory, else in a buffer shared by all, interleaved.
static const u32 kMapLocalRegisters = 32;
static const u32 kMapThreads = 256;
// Threads of a launch whose registers are in the buffer.
static const u32 kMapSharedThreads = 8192;

struct MapSharedRegisters {
  u64* base;
  u32 distance;
  __device__ u64& operator[](u32 i) const { return base[u64(i) * distance]; }
};

// Bytes of the buffer that a step's launches need; 0 when registers are the threads' own.
static inline u64 mapRegisterBytes(const Program& p) {
  return p.evalRegisters <= kMapLocalRegisters ? 0 : u64(p.evalRegisters) * kMapSharedThreads * sizeof(u64);
}

// `code` and `data[i]` are device addresses of the step's EvalInst array and of its input pages.
static inline void describeMap(const MapState& state, const EvalInst* code, const void* const* data, MapDevice& device) {
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

// The output element that result `number` is for.
static __device__ inline u32 mapElement(const MapWork& work, u32 number) {
  u32 low = 0, high = work.rangeCount;
  while (high - low > 1) {
    const u32 middle = (low + high) / 2;
    if (work.first[middle] <= number) low = middle;
    else high = middle;
  }
  return work.ranges[low].start + (number - work.first[low]);
}

template <class Registers, class Sink>
static __device__ inline void mapLoop(const MapDevice& map, const MapWork& work, Registers registers, const Sink& sink) {
  const u32 threads = gridDim.x * blockDim.x;
  for (u64 number = blockIdx.x * blockDim.x + threadIdx.x; number < work.elements; number += threads) {
    const u32 element = mapElement(work, u32(number));
    const auto load = [&](u32 input, u32 dtype) {
      return loadLane(dtype, map.inputs[input].data, mapSource(map, map.inputs[input], element));
    };
    sink(element, evaluate(map.code, map.count, map.result, registers, load));
  }
}

template <class Sink>
static __global__ void mapKernel(const MapDevice* map, const MapWork* work, Sink sink) {
  u64 registers[kMapLocalRegisters];
  mapLoop(*map, *work, &registers[0], sink);
}

template <class Sink>
static __global__ void mapKernelShared(const MapDevice* map, const MapWork* work, u64* registers, Sink sink) {
  const u32 thread = blockIdx.x * blockDim.x + threadIdx.x;
  mapLoop(*map, *work, MapSharedRegisters{registers + thread, gridDim.x * blockDim.x}, sink);
}

// Writes results to where the page's elements are, comparing nothing.
struct MapPlainSink {
  void* out;
  u32 dtype;
  __device__ void operator()(u32 element, u64 lane) const { storeLane(dtype, out, element, lane); }
};

// `map` and `work` are device addresses; `blocks` bounds the grid (a few per multiprocessor); `registers` has
// mapRegisterBytes() bytes.
template <class Sink>
static void launchMap(const Program& p, const MapDevice* map, const MapWork* work, u32 blocks, u64* registers, Sink sink,
                      cudaStream_t stream) {
  if (p.evalRegisters <= kMapLocalRegisters) {
    MMSB_LAUNCH(mapKernel<Sink>, blocks, kMapThreads, stream, map, work, sink);
  } else {
    MMSB_LAUNCH(mapKernelShared<Sink>, kMapSharedThreads / kMapThreads, kMapThreads, stream, map, work, registers, sink);
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
