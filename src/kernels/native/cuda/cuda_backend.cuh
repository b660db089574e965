// The CUDA backend: opens the device and executes an epoch on GPU and CPU.
//
// Invariants: bytes, digests, changed ranges and the log equal those of the CPU backend. The stream is idle
// between calls, so host code may read anything. A step runs on the device if all its pages are there and the
// op has a kernel; else it runs on the CPU, on mirrors of its device pages. Only the first device is used.
#pragma once
#include <stdio.h>

#include "cuda/cuda_steps.cuh"
#include "cuda/plan/cuda_plan.cuh"

namespace mmsb {
namespace MMSB_NS {

// ---- device and context -----------------------------------------------------------------------------------

static u32 cudaDeviceCount() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count < 0 ? 0 : u32(count);
}

static void closeDevice(Device* device) {
  if (device == nullptr) return;
  closeGraphs(device->graphs);
  twinClose(device->stage);
  twinClose(device->result);
  if (device->scratch != nullptr) cudaFree(device->scratch);
  if (device->marks != nullptr) cudaFree(device->marks);
  free(device->moreMarks);
  if (device->keys != nullptr) cudaFree(device->keys);
  devicePoolsClose(device->pools);
  free(device->launches.data);
  free(device->targets.data);
  free(device->planned.data);
  free(device->chunks.data);
  if (device->stream != nullptr) cudaStreamDestroy(device->stream);
  free(device);
}

static int32_t fillDevice(Device& device) {
  MMSB_CUDA(cudaSetDevice(0));
  cudaDeviceProp properties;
  MMSB_CUDA(cudaGetDeviceProperties(&properties, 0));
  MMSB_CUDA(cudaStreamCreateWithFlags(&device.stream, cudaStreamNonBlocking));
  device.pools.stream = device.stream;
  device.blocks = u32(properties.multiProcessorCount) * 8;
  device.arch = u32(properties.major * 10 + properties.minor);
  void* keys = nullptr;
  MMSB_CUDA(cudaMalloc(&keys, sizeof kDigestKeys.key));
  device.keys = static_cast<u32*>(keys);
  MMSB_CUDA(cudaMemcpyAsync(keys, kDigestKeys.key, sizeof kDigestKeys.key, cudaMemcpyHostToDevice, device.stream));
  MMSB_CUDA(cudaStreamSynchronize(device.stream));
  return MMSB_OK;
}

static int32_t openDevice(const CpuPart& cpu, Device** out) {
  if (cudaDeviceCount() == 0) return fail(MMSB_ERR_UNSUPPORTED, "there is no usable CUDA device");
  Device* device = static_cast<Device*>(calloc(1, sizeof(Device)));
  if (device == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for a context");
  device->cpu = &cpu;
  const int32_t status = fillDevice(*device);
  if (status != MMSB_OK) {
    closeDevice(device);
    return status;
  }
  *out = device;
  return MMSB_OK;
}

static int32_t deviceInfo(Device* device, char* out, u64 capacity) {
  cudaDeviceProp properties;
  int driver = 0;
  MMSB_CUDA(cudaGetDeviceProperties(&properties, 0));
  MMSB_CUDA(cudaDriverGetVersion(&driver));
  const RtcCounts counts = rtcCounts();
  snprintf(out, capacity,
           "{\"name\":\"%s\",\"computeCapability\":\"%d.%d\",\"memoryBytes\":%llu,\"driver\":\"%d.%d\",\"expressions\":"
           "{\"compiled\":%u,"
           "\"loaded\":%u,\"interpreted\":%u,\"reason\":\"%s\"},\"graphs\":{\"captured\":%llu,\"launched\":%llu}}",
           properties.name, properties.major, properties.minor,
           static_cast<unsigned long long>(properties.totalGlobalMem), driver / 1000, driver % 1000 / 10,
           counts.compiled, counts.loaded, counts.interpreted, counts.reason,
           static_cast<unsigned long long>(device->graphs.captured),
           static_cast<unsigned long long>(device->graphs.launched));
  return MMSB_OK;
}

static u64 deviceReserved(const Device* device) { return device->pools.reserved; }

// ---- an epoch ---------------------------------------------------------------------------------------------

// Logs a device step exactly as the CPU would. All changes are known now.
static void logPlanned(Exec& exec, const PlannedStep& planned, bool changedOut) {
  const Step& step = *planned.step;
  u64 elements = planned.elements;
  if (!planned.before) {
    const RangeSet* changed[64];
    bool any = false;
    for (u32 i = 0; i < step.inputCount; i++) {
      changed[i] = changesOf(exec, step.inputs[i]);
      any = any || changed[i] != nullptr;
    }
    if (!any && !planned.full) return;
    elements = stepDirty(step, planned.full, changed, mainArena(exec)).count;
    if (elements == 0 && !planned.full) return;
  }
  exec.elements += elements;
  exec.bytesMoved += elements * dtypeBytes(step.out->dtype);
  exec.log[exec.logCount++] = StepLog{step.id, (changedOut ? 1u : 0u) | (planned.full ? 2u : 0u), elements};
}

// Runs the planned segment. Afterwards the changes of its pages, the mirrors and the log are exact.
static int32_t endSegment(Device& device, Exec& exec) {
  if (device.targets.count == 0 && device.planned.count == 0) return MMSB_OK;
  if (device.targets.count != 0) MMSB_TRY(runSegment(device));
  Arena& arena = mainArena(exec);
  // Updating mirrors overwrites these buffers, so read everything from them first.
  RangeSet* runs = static_cast<RangeSet*>(arenaAlloc(arena, (device.targets.count + 1) * sizeof(RangeSet)));
  if (runs == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for the changes of an epoch");
  for (u32 t = 0; t < device.targets.count; t++) {
    const Target& target = device.targets.data[t];
    u64 sums[2];
    memcpy(sums, device.result.host + 16ull * t, 16);
    target.slot->digest[0] += sums[0];
    target.slot->digest[1] += sums[1];
    runs[t] = markedRuns(device, target, arena);
    rangesNormalise(runs[t], arena);
    if (runs[t].count == 0) continue;
    touch(exec, *target.slot);
    pushAll(target.slot->dirty, runs[t], arena);
    if (runs[t].gap > target.slot->dirty.gap) target.slot->dirty.gap = runs[t].gap;
    rangesNormalise(target.slot->dirty, arena);
  }
  const u32 targets = device.targets.count, planned = device.planned.count;
  bool* changedOut = static_cast<bool*>(arenaAlloc(arena, planned + 1));
  if (changedOut == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for the log of an epoch");
  for (u32 p = 0; p < planned; p++) {
    const PageSlot* out = slotOf(device.planned.data[p].step->out);
    changedOut[p] = isTarget(device, *out) && runs[devicePageOf(out)->target].count != 0;
  }
  for (u32 t = 0; t < targets; t++) {
    const Target target = device.targets.data[t];
    if (runs[t].count == 0 || target.fromMirror || devicePageOf(target.slot)->mirror == nullptr) continue;
    MMSB_TRY(followMirror(device, exec, *target.slot, runs[t]));
  }
  // The log of gather and scatter depends on their new indices, which are in the mirrors now.
  for (u32 p = 0; p < planned; p++) logPlanned(exec, device.planned.data[p], changedOut[p]);
  return beginSegment(device);
}

static int32_t runHostStep(Device& device, Exec& exec, Step& step, bool full, bool before) {
  MMSB_TRY(endSegment(device, exec));
  if (before) device.cpu->runBefore(exec, step, full);
  else device.cpu->runStep(exec, step, full);
  PageSlot* out = deviceStepOf(step)->mirroredOut;
  const PageSlot* mirror = out == nullptr ? nullptr : devicePageOf(out)->mirror;
  if (mirror == nullptr || mirror->mark != exec.call || mirror->dirty.count == 0) return MMSB_OK;
  MMSB_TRY(planMirror(device, *out, *mirror));
  return endSegment(device, exec);
}

static int32_t runDeviceStep(Device& device, Exec& exec, Step& step, bool full, bool before) {
  if (isTarget(device, *slotOf(step.out))) MMSB_TRY(endSegment(device, exec));
  return before ? planBefore(device, exec, step, full) : planStep(device, exec, step, full);
}

// A step estimated to take longer on one CPU core ends its segment, so that a call can be cancelled after
// it.
static const f64 kCancelSegmentNs = 2e8;

// Ends the segment and the call if the call is cancelled.
static int32_t checkCancelled(Device& device, Exec& exec) {
  if (!isCancelled(exec)) return MMSB_OK;
  MMSB_TRY(endSegment(device, exec));
  return fail(MMSB_ERR_CANCELLED, "the call was cancelled");
}

static int32_t runAny(Device& device, Exec& exec, Step& step, bool full, bool before) {
  const DeviceStep* own = deviceStepOf(step);
  MMSB_TRY(checkCancelled(device, exec));
  if (own == nullptr || own->onHost) return runHostStep(device, exec, step, full, before);
  MMSB_TRY(runDeviceStep(device, exec, step, full, before));
  if (f64(step.costNs) * step.out->elements > kCancelSegmentNs) return endSegment(device, exec);
  return MMSB_OK;
}

// The deltas of a list whose pages are on the device, or are not. Null without memory.
static DeltaList pickDeltas(const DeltaList& list, bool device, Arena& arena) {
  DeltaList picked = {nullptr, 0, list.count, 0};
  picked.data = static_cast<Delta*>(arenaAlloc(arena, list.count * sizeof(Delta) + 1));
  for (u64 i = 0; picked.data != nullptr && i < list.count; i++) {
    const Delta& delta = list.data[i];
    if (onDevice(delta.slot->page) != device) continue;
    picked.data[picked.count++] = delta;
    picked.valueBytes += u64(delta.valueCount) * dtypeBytes(delta.slot->page.dtype);
  }
  return picked;
}

static int32_t executeOnDevice(Device* device, Exec& exec, const DeltaList& list, const u8* frames, u64 framesLength,
                               Step* const* steps, const u32* numbers, u32 count) {
  MMSB_CUDA(cudaSetDevice(0));
  device->cpu->beginCall(exec);
  Arena& arena = mainArena(exec);
  MMSB_TRY(beginSegment(*device));
  u32 first = 0;
  for (; first < count && (numbers[first] & MMSB_STEP_BEFORE) != 0; first++) {
    MMSB_TRY(runAny(*device, exec, *steps[first], (numbers[first] & MMSB_STEP_FULL) != 0, true));
  }
  const DeltaList here = pickDeltas(list, true, arena), there = pickDeltas(list, false, arena);
  if (here.data == nullptr || there.data == nullptr) {
    return fail(MMSB_ERR_MEMORY, "no memory for the deltas of an epoch");
  }
  device->cpu->applyDeltas(exec, there);
  if (here.count != 0) MMSB_TRY(planDeltas(*device, exec, here, frames, framesLength));
  exec.bytesMoved += here.valueBytes;
  for (u32 i = first; i < count; i++) {
    MMSB_TRY(runAny(*device, exec, *steps[i], (numbers[i] & MMSB_STEP_FULL) != 0, false));
  }
  MMSB_TRY(endSegment(*device, exec));
  MMSB_TRY(checkCancelled(*device, exec));
  device->cpu->keepBehind(exec);
  return MMSB_OK;
}

}  // namespace MMSB_NS

const DevicePart kDevicePart = {
    MMSB_NS::cudaDeviceCount,   MMSB_NS::openDevice,       MMSB_NS::closeDevice,       MMSB_NS::deviceInfo,
    MMSB_NS::deviceReserved,    MMSB_NS::createDevicePage, MMSB_NS::destroyDevicePage, MMSB_NS::readDevicePage,
    MMSB_NS::loadDevicePage,    MMSB_NS::gatherDevicePage, MMSB_NS::placeStep,         MMSB_NS::prepareDeviceStep,
    MMSB_NS::releaseDeviceStep, MMSB_NS::executeOnDevice,
};

}  // namespace mmsb
