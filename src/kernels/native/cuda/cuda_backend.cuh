// The CUDA backend: device pages and steps of a context, and the execution of an epoch over GPU and CPU.
//
// Invariants: results are those of the CPU backend: bytes, digests, changed ranges, log. The stream is idle between calls,
// so host code may read what it likes. A step runs on the device when all its pages are there and the op has a kernel;
// else it runs on the CPU, over mirrors of its device pages that are kept equal to them. One device: the first.
#pragma once
#include <stdio.h>

#include "cuda/plan/cuda_launch.cuh"

namespace mmsb {
namespace MMSB_NS {

static const u64 kReduceScratchBytes = 64ull << 20;   // trees of partials at once, unless one needs more
static const u64 kSortScratchBytes = 256ull << 20;    // lanes sorted at once, or rows of windows, unless one needs more

static inline bool onDevice(const Page& page) { return page.location != MMSB_LOC_CPU; }

// ---- device and context ---------------------------------------------------------------------------------------------------

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
           "{\"name\":\"%s\",\"computeCapability\":\"%d.%d\",\"memoryBytes\":%llu,\"driver\":\"%d.%d\",\"expressions\":{\"compiled\":%u,"
           "\"loaded\":%u,\"interpreted\":%u,\"reason\":\"%s\"},\"graphs\":{\"captured\":%llu,\"launched\":%llu}}",
           properties.name, properties.major, properties.minor, static_cast<unsigned long long>(properties.totalGlobalMem), driver / 1000,
           driver % 1000 / 10, counts.compiled, counts.loaded, counts.interpreted, counts.reason, static_cast<unsigned long long>(device->graphs.captured),
           static_cast<unsigned long long>(device->graphs.launched));
  return MMSB_OK;
}

static u64 deviceReserved(const Device* device) { return device->pools.reserved; }

// ---- pages ------------------------------------------------------------------------------------------------------------------

static inline u64 chunksOf(const Page& page) { return (page.bytes + kChunkBytes - 1) / kChunkBytes; }

static void freeMirror(PageSlot* mirror) {
  if (mirror == nullptr) return;
  free(mirror->page.data);
  free(mirror->hashes);
  free(mirror);
}

static void destroyDevicePage(Device* device, PageSlot& slot) {
  DevicePage* own = devicePageOf(&slot);
  if (own == nullptr) return;
  const u64 chunks = chunksOf(slot.page) == 0 ? 1 : chunksOf(slot.page);
  if (slot.page.location == MMSB_LOC_UNIFIED) {
    if (slot.page.data != nullptr) cudaFree(slot.page.data);
  } else {
    deviceFree(device->pools, slot.page.data, slot.allocated);
  }
  deviceFree(device->pools, slot.hashes, 16 * chunks);
  deviceFree(device->pools, own->chunkSlot, 4 * chunks);
  freeMirror(own->mirror);
  free(own);
  slot.device = nullptr;
}

// Managed memory is never asked for beyond what the device has free.
static int32_t allocateManaged(Device& device, u64 bytes, void** at) {
  size_t available = 0, total = 0;
  MMSB_CUDA(cudaMemGetInfo(&available, &total));
  if (bytes > available) return fail(MMSB_ERR_MEMORY, "the GPU has %llu bytes left, not %llu", (unsigned long long)available, (unsigned long long)bytes);
  MMSB_CUDA(cudaMallocManaged(at, bytes, cudaMemAttachGlobal));
  MMSB_CUDA(cudaMemsetAsync(*at, 0, bytes, device.stream));
  return MMSB_OK;
}

// Hashes chunks [first, end) of a page anew and brings its digest up to date.
static int32_t rehashOnDevice(Device& device, PageSlot& slot, u64 first, u64 end) {
  MMSB_TRY(beginSegment(device));
  const u32 perChunk = kChunkBytes / dtypeBytes(slot.page.dtype);
  Range range = {u32(first * perChunk), 0};
  const u64 last = end * perChunk;
  range.count = u32((last < slot.page.elements ? last : slot.page.elements) - range.start);
  RangeSet whole = emptySet();
  whole.data = &range;
  whole.count = range.count == 0 ? 0 : 1;
  u32 target;
  MMSB_TRY(addTarget(device, slot, whole, true, &target));
  MMSB_TRY(listChunks(device));
  u64 targetsAt, chunksAt;
  MMSB_TRY(twinPut(device.stage, device.chunks.data, u64(device.chunks.count) * sizeof(DeviceChunk), &chunksAt));
  MMSB_TRY(twinPut(device.stage, nullptr, sizeof(DeviceTarget), &targetsAt));
  MMSB_TRY(twinReserve(device.result, mixedOffset(device)));
  const DeviceTarget described = {slot.page.data, slot.hashes, devicePageOf(&slot)->chunkSlot, slot.page.bytes,
                                  reinterpret_cast<u64*>(device.result.device), slot.page.dtype, 0};
  *stagedHost<DeviceTarget>(device, targetsAt) = described;
  MMSB_CUDA(cudaMemcpyAsync(device.stage.device, device.stage.host, device.stage.used, cudaMemcpyHostToDevice, device.stream));
  MMSB_CUDA(cudaMemsetAsync(device.result.device, 0, mixedOffset(device), device.stream));
  const DeviceMarks marks = {staged<DeviceTarget>(device, targetsAt), staged<DeviceChunk>(device, chunksAt),
                             nullptr, device.chunks.count};
  MMSB_LAUNCH(digestKernel, blocksFor(device, marks.chunkCount), kThreads, device.stream, marks,
              DeviceReport{nullptr, nullptr, nullptr, nullptr}, device.keys, 1u);
  MMSB_CUDA(cudaGetLastError());
  MMSB_CUDA(cudaMemcpyAsync(device.result.host, device.result.device, 16, cudaMemcpyDeviceToHost, device.stream));
  MMSB_CUDA(cudaStreamSynchronize(device.stream));
  u64 sums[2];
  memcpy(sums, device.result.host, 16);
  slot.digest[0] += sums[0];
  slot.digest[1] += sums[1];
  devicePageOf(&slot)->segment = 0;
  return MMSB_OK;
}

static int32_t fillDevicePage(Device& device, PageSlot& slot, u64 fill) {
  const Page& page = slot.page;
  const u32 size = dtypeBytes(page.dtype);
  fill = page.dtype == BOOL ? u64((fill & 255) != 0) : fill & rawMask(size);
  if (fill == 0 || page.elements == 0) return MMSB_OK;
  MMSB_LAUNCH(fillKernel, blocksFor(device, (u64(page.elements) + kThreads - 1) / kThreads), kThreads, device.stream, page.data, size,
              u64(page.elements), fill);
  MMSB_CUDA(cudaGetLastError());
  return rehashOnDevice(device, slot, 0, chunksOf(page));
}

static int32_t allocateDevicePage(Device& device, PageSlot& slot, u64 fill) {
  const u64 chunks = chunksOf(slot.page) == 0 ? 1 : chunksOf(slot.page);
  void* data = nullptr;
  if (slot.page.location == MMSB_LOC_UNIFIED) MMSB_TRY(allocateManaged(device, slot.allocated, &data));
  else MMSB_TRY(deviceAllocate(device.pools, slot.allocated, &data));
  slot.page.data = static_cast<u8*>(data);
  void* hashes = nullptr;
  MMSB_TRY(deviceAllocate(device.pools, 16 * chunks, &hashes));
  slot.hashes = static_cast<u64*>(hashes);
  void* slots = nullptr;
  MMSB_TRY(deviceAllocate(device.pools, 4 * chunks, &slots));
  devicePageOf(&slot)->chunkSlot = static_cast<u32*>(slots);
  return fillDevicePage(device, slot, fill);
}

static int32_t createDevicePage(Device* device, PageSlot& slot, u64 fill) {
  MMSB_CUDA(cudaSetDevice(0));
  slot.device = calloc(1, sizeof(DevicePage));
  if (slot.device == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for a page");
  slot.page.data = nullptr;
  slot.hashes = nullptr;
  const int32_t status = allocateDevicePage(*device, slot, fill);
  if (status != MMSB_OK) destroyDevicePage(device, slot);
  return status;
}

static int32_t readDevicePage(Device* device, const PageSlot& slot, u64 offset, u64 bytes, void* to) {
  if (bytes == 0) return MMSB_OK;
  MMSB_CUDA(cudaSetDevice(0));
  MMSB_CUDA(cudaMemcpyAsync(to, slot.page.data + offset, bytes, cudaMemcpyDeviceToHost, device->stream));
  MMSB_CUDA(cudaStreamSynchronize(device->stream));
  return MMSB_OK;
}

static int32_t loadDevicePage(Device* device, PageSlot& slot, u64 offset, u64 bytes, const void* from) {
  if (bytes == 0) return MMSB_OK;
  MMSB_CUDA(cudaSetDevice(0));
  slot.loads++;
  forgetPast(slot);
  PageSlot* mirror = devicePageOf(&slot)->mirror;
  if (mirror != nullptr) device->cpu->loadBytes(*mirror, offset, static_cast<const u8*>(from), bytes);
  MMSB_CUDA(cudaMemcpyAsync(slot.page.data + offset, from, bytes, cudaMemcpyHostToDevice, device->stream));
  MMSB_CUDA(cudaStreamSynchronize(device->stream));
  return rehashOnDevice(*device, slot, offset / kChunkBytes, (offset + bytes - 1) / kChunkBytes + 1);
}

// Packs ranges into the result buffer on the device, then copies them in one go.
static int32_t gatherDevicePage(Device* device, const PageSlot& slot, const Range* ranges, u32 count, void* to) {
  MMSB_CUDA(cudaSetDevice(0));
  if (count == 1) {
    const u64 size = dtypeBytes(slot.page.dtype);
    return readDevicePage(device, slot, ranges[0].start * size, ranges[0].count * size, to);
  }
  MMSB_TRY(beginSegment(*device));
  u8* out = static_cast<u8*>(to);
  const u32 size = dtypeBytes(slot.page.dtype);
  u32 next = 0;
  while (next < count) {  // as many ranges at once as give fewer than 2^32 elements
    RangeSet set = emptySet();
    set.data = const_cast<Range*>(ranges + next);
    u64 elements = 0;
    while (next < count && elements + ranges[next].count < 1ull << 32) {
      elements += ranges[next++].count;
      set.count++;
    }
    if (elements == 0) continue;
    u64 work;
    u32 total;
    device->stage.used = 0;
    MMSB_TRY(stageRanges(*device, set, &work, &total));
    MMSB_TRY(twinReserve(device->result, elements * size));
    sealRanges(*device, work);
    MMSB_CUDA(cudaMemcpyAsync(device->stage.device, device->stage.host, device->stage.used, cudaMemcpyHostToDevice, device->stream));
    MMSB_LAUNCH(gatherKernel, blocksFor(*device, (elements + kThreads - 1) / kThreads), kThreads, device->stream,
                staged<DeviceRanges>(*device, work), slot.page.data, size, device->result.device);
    MMSB_CUDA(cudaGetLastError());
    MMSB_CUDA(cudaMemcpyAsync(device->result.host, device->result.device, elements * size, cudaMemcpyDeviceToHost, device->stream));
    MMSB_CUDA(cudaStreamSynchronize(device->stream));
    memcpy(out, device->result.host, elements * size);
    out += elements * size;
  }
  return MMSB_OK;
}

// ---- mirrors --------------------------------------------------------------------------------------------------------------------

static int32_t mirrorOf(Device& device, PageSlot& slot, PageSlot** out) {
  DevicePage& own = *devicePageOf(&slot);
  if (own.mirror == nullptr) {
    PageSlot* mirror = static_cast<PageSlot*>(calloc(1, sizeof(PageSlot)));
    if (mirror == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for the mirror of a page");
    mirror->page = slot.page;
    mirror->page.location = MMSB_LOC_CPU;
    mirror->page.flags |= kPageMirror;
    mirror->allocated = paddedBytes(slot.page.bytes);
    mirror->page.data = static_cast<u8*>(aligned_alloc(64, mirror->allocated));
    mirror->hashes = static_cast<u64*>(calloc(2 * (chunksOf(slot.page) + 1), sizeof(u64)));
    own.mirror = mirror;
    if (mirror->page.data == nullptr || mirror->hashes == nullptr) {
      freeMirror(mirror);
      own.mirror = nullptr;
      return fail(MMSB_ERR_MEMORY, "no memory for the mirror of a page of %llu bytes", (unsigned long long)slot.page.bytes);
    }
    memset(mirror->page.data, 0, mirror->allocated);
    MMSB_TRY(readDevicePage(&device, slot, 0, slot.page.bytes, mirror->page.data));
  }
  *out = own.mirror;
  return MMSB_OK;
}

// What changed of a page is brought to its mirror, which is then a page that changed in this call.
static int32_t followMirror(Device& device, Exec& exec, PageSlot& slot, const RangeSet& changed) {
  PageSlot& mirror = *devicePageOf(&slot)->mirror;
  const u64 size = dtypeBytes(slot.page.dtype);
  u8* packed = static_cast<u8*>(arenaAlloc(mainArena(exec), rangesElements(changed) * size));
  if (packed == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for the mirror of a page");
  MMSB_TRY(gatherDevicePage(&device, slot, changed.data, changed.count, packed));
  touch(exec, mirror);
  for (u32 i = 0; i < changed.count; i++) {
    const Range range = changed.data[i];
    memcpy(mirror.page.data + range.start * size, packed, range.count * size);
    packed += range.count * size;
  }
  pushAll(mirror.dirty, changed, mainArena(exec));
  rangesNormalise(mirror.dirty, mainArena(exec));
  return MMSB_OK;
}

// ---- steps ------------------------------------------------------------------------------------------------------------------------

static bool hasKernel(u32 op) { return op >= MMSB_OP_COPY && op <= MMSB_OP_DISTANCE; }

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
  bool all = onDevice(*step.out) && hasKernel(step.op->code) && step.inputCount > 0 && step.inputCount <= 64;
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
  return growDeviceScratch(device, all < kReduceScratchBytes ? all : one > kReduceScratchBytes ? one : kReduceScratchBytes);
}

static int32_t prepareDeviceMatmul(Device& device, Step& step, DeviceStep& own) {
  MatDevice described = {*static_cast<const Matmul*>(step.state), step.inputs[0]->data, step.inputs[1]->data, step.inputs[0]->dtype,
                         step.inputs[1]->dtype};
  own.stateBytes = sizeof described;
  return upload(device, &described, sizeof described, &own.state);
}

// Scratch for `count` pieces of work of `one` byte each, or for as many as there is room for.
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

// gather and scatter: the host follows the indices, to know which elements a change leads to.
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
      return growForPieces(*device, radixBytes(lanes.n, 1, dtypeBytes(step.inputs[0]->dtype) == 8 ? 8 : 4), u64(lanes.outer) * lanes.inner);
    }
    case MMSB_OP_WINDOW: {
      const Window& w = *static_cast<const Window*>(step.state);
      if (!isLongWindow(step)) return MMSB_OK;
      return growForPieces(*device, 24 * windowRoom(w), u64(w.lanes.outer) * w.lanes.inner * (w.lanes.n / windowTile(w) + 1));
    }
    case MMSB_OP_BINCOUNT:
    case MMSB_OP_HISTOGRAM: return growDeviceScratch(*device, 4ull * static_cast<const Counting*>(step.state)->bins);
    case MMSB_OP_CONCAT: return prepareDeviceConcat(*device, step, own);
    case MMSB_OP_GATHER:
    case MMSB_OP_SCATTER: return shadowIndices(*device, step, own);
    default: return MMSB_OK;
  }
}

// ---- an epoch -----------------------------------------------------------------------------------------------------------------------

// The log of a device step, exactly as the CPU would write it, now that all changes are known.
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

// Runs what is planned; afterwards changes of its pages, mirrors and the log are exact.
static int32_t endSegment(Device& device, Exec& exec) {
  if (device.targets.count == 0 && device.planned.count == 0) return MMSB_OK;
  if (device.targets.count != 0) MMSB_TRY(runSegment(device));
  Arena& arena = mainArena(exec);
  // Reading mirrors uses the same buffers: take everything out of them first.
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
  // What gather and scatter computed follows from their indices as they are now, in the mirrors.
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

static int32_t runAny(Device& device, Exec& exec, Step& step, bool full, bool before) {
  const DeviceStep* own = deviceStepOf(step);
  return own == nullptr || own->onHost ? runHostStep(device, exec, step, full, before) : runDeviceStep(device, exec, step, full, before);
}

// The deltas of a list whose pages are on the device, or that are not. Null without memory.
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

static int32_t executeOnDevice(Device* device, Exec& exec, const DeltaList& list, const u8* frames, u64 framesLength, Step* const* steps,
                               const u32* numbers, u32 count) {
  MMSB_CUDA(cudaSetDevice(0));
  device->cpu->beginCall(exec);
  Arena& arena = mainArena(exec);
  MMSB_TRY(beginSegment(*device));
  u32 first = 0;
  for (; first < count && (numbers[first] & MMSB_STEP_BEFORE) != 0; first++) {
    MMSB_TRY(runAny(*device, exec, *steps[first], (numbers[first] & MMSB_STEP_FULL) != 0, true));
  }
  const DeltaList here = pickDeltas(list, true, arena), there = pickDeltas(list, false, arena);
  if (here.data == nullptr || there.data == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for the deltas of an epoch");
  device->cpu->applyDeltas(exec, there);
  if (here.count != 0) MMSB_TRY(planDeltas(*device, exec, here, frames, framesLength));
  exec.bytesMoved += here.valueBytes;
  for (u32 i = first; i < count; i++) MMSB_TRY(runAny(*device, exec, *steps[i], (numbers[i] & MMSB_STEP_FULL) != 0, false));
  MMSB_TRY(endSegment(*device, exec));
  device->cpu->keepBehind(exec);
  return MMSB_OK;
}

}  // namespace MMSB_NS

const DevicePart kDevicePart = {
    MMSB_NS::cudaDeviceCount,  MMSB_NS::openDevice,       MMSB_NS::closeDevice,       MMSB_NS::deviceInfo,
    MMSB_NS::deviceReserved,   MMSB_NS::createDevicePage, MMSB_NS::destroyDevicePage, MMSB_NS::readDevicePage,
    MMSB_NS::loadDevicePage,   MMSB_NS::gatherDevicePage, MMSB_NS::placeStep,         MMSB_NS::prepareDeviceStep,
    MMSB_NS::releaseDeviceStep, MMSB_NS::executeOnDevice,
};

}  // namespace mmsb
