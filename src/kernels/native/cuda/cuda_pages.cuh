// Creates, reads, loads and packs device pages, and keeps their mirrors in host memory.
//
// Invariant: a mirror equals its page whenever a step on the host may read it.
#pragma once
#include "cuda/plan/cuda_segment.cuh"
#include "exec/past.cuh"

namespace mmsb {
namespace MMSB_NS {

static inline bool onDevice(const Page& page) { return page.location != MMSB_LOC_CPU; }

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

// Never allocates more managed memory than the device has free.
static int32_t allocateManaged(Device& device, u64 bytes, void** at) {
  size_t available = 0, total = 0;
  MMSB_CUDA(cudaMemGetInfo(&available, &total));
  if (bytes > available) {
    return fail(MMSB_ERR_MEMORY, "%llu bytes are free on the GPU, %llu are needed", (unsigned long long)available,
                (unsigned long long)bytes);
  }
  MMSB_CUDA(cudaMallocManaged(at, bytes, cudaMemAttachGlobal));
  MMSB_CUDA(cudaMemsetAsync(*at, 0, bytes, device.stream));
  return MMSB_OK;
}

// Rehashes chunks [first, end) of a page and updates its digest.
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
  const DeviceTarget described = {slot.page.data,
                                  slot.hashes,
                                  devicePageOf(&slot)->chunkSlot,
                                  slot.page.bytes,
                                  reinterpret_cast<u64*>(device.result.device),
                                  slot.page.dtype,
                                  0};
  *stagedHost<DeviceTarget>(device, targetsAt) = described;
  MMSB_CUDA(cudaMemcpyAsync(device.stage.device, device.stage.host, device.stage.used, cudaMemcpyHostToDevice,
                            device.stream));
  MMSB_CUDA(cudaMemsetAsync(device.result.device, 0, mixedOffset(device), device.stream));
  const DeviceMarks marks = {staged<DeviceTarget>(device, targetsAt), staged<DeviceChunk>(device, chunksAt), nullptr,
                             device.chunks.count};
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
  MMSB_LAUNCH(fillKernel, blocksFor(device, (u64(page.elements) + kThreads - 1) / kThreads), kThreads, device.stream,
              page.data, size, u64(page.elements), fill);
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
  while (next < count) {  // as many ranges at once as have fewer than 2^32 elements
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
    MMSB_CUDA(cudaMemcpyAsync(device->stage.device, device->stage.host, device->stage.used, cudaMemcpyHostToDevice,
                              device->stream));
    MMSB_LAUNCH(gatherKernel, blocksFor(*device, (elements + kThreads - 1) / kThreads), kThreads, device->stream,
                staged<DeviceRanges>(*device, work), slot.page.data, size, device->result.device);
    MMSB_CUDA(cudaGetLastError());
    MMSB_CUDA(cudaMemcpyAsync(device->result.host, device->result.device, elements * size, cudaMemcpyDeviceToHost,
                              device->stream));
    MMSB_CUDA(cudaStreamSynchronize(device->stream));
    memcpy(out, device->result.host, elements * size);
    out += elements * size;
  }
  return MMSB_OK;
}

// ---- mirrors ----------------------------------------------------------------------------------------------

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
      return fail(MMSB_ERR_MEMORY, "no memory for the mirror of a page of %llu bytes",
                  (unsigned long long)slot.page.bytes);
    }
    memset(mirror->page.data, 0, mirror->allocated);
    MMSB_TRY(readDevicePage(&device, slot, 0, slot.page.bytes, mirror->page.data));
  }
  *out = own.mirror;
  return MMSB_OK;
}

// Copies the changes of a page to its mirror and marks the mirror as changed in this call.
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

}  // namespace MMSB_NS
}  // namespace mmsb
