// Decides where a step runs, and prepares what it needs on the device: state, code and scratch.
#pragma once
#include "cuda/cuda_pages.cuh"

namespace mmsb {
namespace MMSB_NS {

static const u64 kReduceScratchBytes = 64ull << 20;  // limit for trees of partials, unless one tree needs more
static const u64 kSortScratchBytes = 256ull
                                     << 20;  // limit for lanes being sorted or rows of windows, unless one needs more

static void releaseDeviceStep(Device* device, Step& step) {
  DeviceStep* own = deviceStepOf(step);
  if (own == nullptr) return;
  deviceFree(device->pools, own->state, own->stateBytes);
  deviceFree(device->pools, own->code, own->codeBytes);
  free(own->shadow);
  free(own);
  step.device = nullptr;
}

static int32_t placeStep(Device* device, Step& step) {
  MMSB_CUDA(cudaSetDevice(0));
  DeviceStep* own = static_cast<DeviceStep*>(calloc(1, sizeof(DeviceStep)));
  if (own == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for a step");
  step.device = own;
  own->serial = ++device->serials;
  bool all = onDevice(*step.out) && launcherOf(*step.op) != nullptr && step.inputCount > 0 && step.inputCount <= 64;
  for (u32 i = 0; i < step.inputCount; i++) all = all && onDevice(*step.inputs[i]);
  if (all) return MMSB_OK;
  own->onHost = true;
  PageSlot* mirror = nullptr;
  for (u32 i = 0; i < step.inputCount; i++) {
    if (!onDevice(*step.inputs[i])) continue;
    MMSB_TRY(mirrorOf(*device, *slotOf(step.inputs[i]), &mirror));
    step.inputs[i] = &mirror->page;
  }
  if (onDevice(*step.out)) {
    own->mirroredOut = slotOf(step.out);
    MMSB_TRY(mirrorOf(*device, *slotOf(step.out), &mirror));
    step.out = &mirror->page;
  }
  return MMSB_OK;
}

static int32_t upload(Device& device, const void* data, u64 bytes, void** at) {
  MMSB_TRY(deviceAllocate(device.pools, bytes, at));
  MMSB_CUDA(cudaMemcpyAsync(*at, data, bytes, cudaMemcpyHostToDevice, device.stream));
  MMSB_CUDA(cudaStreamSynchronize(device.stream));
  return MMSB_OK;
}

static int32_t growDeviceScratch(Device& device, u64 bytes) {
  if (bytes <= device.scratchBytes) return MMSB_OK;
  void* larger = nullptr;
  MMSB_CUDA(cudaMalloc(&larger, bytes));
  if (device.scratch != nullptr) cudaFree(device.scratch);
  device.scratch = larger;
  device.scratchBytes = bytes;
  return MMSB_OK;
}

static int32_t prepareDeviceMap(Device& device, Step& step, DeviceStep& own) {
  const MapState& state = *static_cast<const MapState*>(step.state);
  const Program& program = *state.program;
  own.codeBytes = program.evalCount * sizeof(EvalInst);
  MMSB_TRY(upload(device, program.eval, own.codeBytes, &own.code));
  const void* data[kIrMaxInputs];
  for (u32 i = 0; i < step.inputCount; i++) data[i] = step.inputs[i]->data;
  MapDevice described;
  describeMap(state, static_cast<const EvalInst*>(own.code), data, described);
  own.stateBytes = sizeof described;
  MMSB_TRY(upload(device, &described, sizeof described, &own.state));
  own.kernel = rtcKernel(step, device.arch);
  return growDeviceScratch(device, mapRegisterBytes(program));
}

static int32_t prepareDeviceReduce(Device& device, Step& step, DeviceStep& own) {
  const Reduce& r = *static_cast<const Reduce*>(step.state);
  own.stateBytes = sizeof r;
  MMSB_TRY(upload(device, &r, sizeof r, &own.state));
  if (r.blocks <= 1) return MMSB_OK;
  u64 partials = 1;
  for (u64 count = r.blocks; count > 1; count = (count + 1) / 2) partials += count;
  const u64 one = partials * sizeof(Partial), all = one * r.outputs;
  return growDeviceScratch(device, all < kReduceScratchBytes   ? all
                                   : one > kReduceScratchBytes ? one
                                                               : kReduceScratchBytes);
}

static int32_t prepareDeviceMatmul(Device& device, Step& step, DeviceStep& own) {
  MatDevice described = {*static_cast<const Matmul*>(step.state), step.inputs[0]->data, step.inputs[1]->data,
                         step.inputs[0]->dtype, step.inputs[1]->dtype};
  own.stateBytes = sizeof described;
  return upload(device, &described, sizeof described, &own.state);
}

// Grows the scratch for `count` pieces of work of `one` bytes each, or for as many as the limit allows.
static int32_t growForPieces(Device& device, u64 one, u64 count) {
  const u64 all = one * count;
  return growDeviceScratch(device, all < kSortScratchBytes ? all : one > kSortScratchBytes ? one : kSortScratchBytes);
}

static int32_t prepareDeviceConcat(Device& device, Step& step, DeviceStep& own) {
  const Concat& state = *static_cast<const Concat*>(step.state);
  ConcatDevice described;
  memset(&described, 0, sizeof described);
  described.n = state.n;
  described.inner = state.inner;
  described.parts = state.parts;
  for (u32 i = 0; i < state.parts; i++) {
    const ConcatPart& part = state.part[i];
    described.part[i] = ConcatDevicePart{part.page->data, part.page->dtype, part.first, part.n};
  }
  own.stateBytes = sizeof described;
  return upload(device, &described, sizeof described, &own.state);
}

// gather and scatter: the host keeps a copy of the indices, to know which elements a change affects.
static int32_t shadowIndices(Device& device, Step& step, DeviceStep& own) {
  PageSlot* mirror = nullptr;
  MMSB_TRY(mirrorOf(device, *slotOf(step.inputs[1]), &mirror));
  own.shadow = static_cast<Step*>(malloc(sizeof(Step) + step.inputCount * sizeof(Page*)));
  if (own.shadow == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for a step");
  *own.shadow = step;
  own.shadow->inputs = reinterpret_cast<Page**>(own.shadow + 1);
  for (u32 i = 0; i < step.inputCount; i++) own.shadow->inputs[i] = i == 1 ? &mirror->page : step.inputs[i];
  if (step.op->code != MMSB_OP_SCATTER) return MMSB_OK;
  const Indexed& g = *static_cast<const Indexed*>(step.state);
  return growDeviceScratch(device, radixBytes(g.count, 1, 4));
}

static int32_t prepareDeviceStep(Device* device, Step& step) {
  DeviceStep& own = *deviceStepOf(step);
  if (own.onHost) return MMSB_OK;
  switch (step.op->code) {
    case MMSB_OP_MAP: return prepareDeviceMap(*device, step, own);
    case MMSB_OP_REDUCE: return prepareDeviceReduce(*device, step, own);
    case MMSB_OP_MATMUL: return prepareDeviceMatmul(*device, step, own);
    case MMSB_OP_TOPK: {
      const Topk& state = *static_cast<const Topk*>(step.state);
      if (state.k <= kTopkSearches) return MMSB_OK;
      return growForPieces(*device, paddedLane(state) * sizeof(Candidate), u64(state.lanes.outer) * state.lanes.inner);
    }
    case MMSB_OP_SORT: {
      const Lanes& lanes = static_cast<const LaneOp*>(step.state)->lanes;
      if (lanes.n <= kSortShort) return MMSB_OK;
      return growForPieces(*device, radixBytes(lanes.n, 1, dtypeBytes(step.inputs[0]->dtype) == 8 ? 8 : 4),
                           u64(lanes.outer) * lanes.inner);
    }
    case MMSB_OP_WINDOW: {
      const Window& w = *static_cast<const Window*>(step.state);
      if (!isLongWindow(step)) return MMSB_OK;
      return growForPieces(*device, 24 * windowRoom(w),
                           u64(w.lanes.outer) * w.lanes.inner * (w.lanes.n / windowTile(w) + 1));
    }
    case MMSB_OP_BINCOUNT:
    case MMSB_OP_HISTOGRAM: return growDeviceScratch(*device, 4ull * static_cast<const Counting*>(step.state)->bins);
    case MMSB_OP_CONCAT: return prepareDeviceConcat(*device, step, own);
    case MMSB_OP_GATHER:
    case MMSB_OP_SCATTER: return shadowIndices(*device, step, own);
    default: return MMSB_OK;
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
