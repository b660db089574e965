// Runs a planned segment: one copy to the device, the launches, one copy back; then reads the changes from
// the marks.
//
// Invariant: all memory is allocated before the first launch.
#pragma once
#include "cuda/plan/cuda_launch.cuh"

namespace mmsb {
namespace MMSB_NS {

// Lists the chunks that may change, by target and chunk.
static int32_t listChunks(Device& device) {
  for (u32 t = 0; t < device.targets.count; t++) {
    Target& target = device.targets.data[t];
    const RangeSet& planned = devicePageOf(target.slot)->planned;
    const u32 perChunk = kChunkBytes / dtypeBytes(target.slot->page.dtype);
    target.firstChunk = device.chunks.count;
    u64 next = 0;
    for (u32 i = 0; i < planned.count; i++) {
      const Range range = planned.data[i];
      const u64 last = (u64(range.start) + range.count - 1) / perChunk;
      for (u64 chunk = range.start / perChunk > next ? range.start / perChunk : next; chunk <= last; chunk++) {
        MMSB_TRY(listPush(device.chunks, DeviceChunk{t, u32(chunk)}));
      }
      next = last + 1 > next ? last + 1 : next;
    }
    target.chunkCount = device.chunks.count - target.firstChunk;
  }
  return MMSB_OK;
}

// Turns offsets into device addresses. The staging buffer must have its final place.
static void seal(Device& device) {
  for (u32 i = 0; i < device.launches.count; i++) {
    const Launch& launch = device.launches.data[i];
    if (launch.kind == LAUNCH_PIECES) {
      DeltaPiece* pieces = stagedHost<DeltaPiece>(device, launch.pieces.at);
      for (u32 p = 0; p < launch.pieces.count; p++) {
        rebase(device, pieces[p].values);
        if (pieces[p].indices != nullptr) rebase(device, pieces[p].indices);
      }
    } else if (launch.kind == LAUNCH_CHAINS) {
      DeltaChains* chains = stagedHost<DeltaChains>(device, launch.chains.at);
      DeltaLink* links = stagedHost<DeltaLink>(device, reinterpret_cast<u64>(chains->links));
      for (u32 l = 0; l < launch.chains.links; l++) rebase(device, links[l].value);
      rebase(device, chains->elements);
      rebase(device, chains->first);
      rebase(device, chains->links);
    } else if (launch.kind == LAUNCH_RANGES && launch.ranges.items != 0) {
      sealRanges(device, launch.ranges.work);
    }
  }
}

// Layout of the results: two sums per target, the number of partly changed chunks, a state per chunk, and the
// marks of the first partly changed chunks.
static inline u64 mixedOffset(const Device& device) { return (16ull * device.targets.count + 63) & ~63ull; }
static inline u64 statesOffset(const Device& device) { return mixedOffset(device) + 64; }
static inline u64 firstMarksOffset(const Device& device) {
  return (statesOffset(device) + 4ull * device.chunks.count + 63) & ~63ull;
}
static inline u64 resultBytesOf(const Device& device) {
  const u64 first = device.chunks.count < kMixedInline ? device.chunks.count : kMixedInline;
  return firstMarksOffset(device) + 4ull * kChunkMarkWords * first;
}
static inline u64 bitBytesOf(const Device& device) { return 4ull * kChunkMarkWords * device.chunks.count; }

static DeviceReport reportOf(const Device& device) {
  u8* const result = device.result.device;
  return DeviceReport{reinterpret_cast<u32*>(result + mixedOffset(device)),
                      reinterpret_cast<u32*>(result + statesOffset(device)),
                      reinterpret_cast<u32*>(result + firstMarksOffset(device)),
                      device.marks + u64(kChunkMarkWords) * device.chunks.count};
}

static int32_t growMarks(Device& device) {
  const u64 bytes = 2 * bitBytesOf(device);
  if (bytes <= device.markBytes) return MMSB_OK;
  void* larger = nullptr;
  MMSB_CUDA(cudaMalloc(&larger, bytes * 2));
  if (device.marks != nullptr) cudaFree(device.marks);
  device.marks = static_cast<u32*>(larger);
  device.markBytes = bytes * 2;
  return MMSB_OK;
}

// Reads the marks that did not come with the results.
static int32_t readMoreMarks(Device& device) {
  u32 mixed;
  memcpy(&mixed, device.result.host + mixedOffset(device), 4);
  if (mixed <= kMixedInline) return MMSB_OK;
  const u64 bytes = 4ull * kChunkMarkWords * (mixed - kMixedInline);
  if (bytes > device.moreBytes) {
    free(device.moreMarks);
    device.moreBytes = 0;
    device.moreMarks = static_cast<u32*>(malloc(2 * bytes));
    if (device.moreMarks == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for the changes of an epoch");
    device.moreBytes = 2 * bytes;
  }
  MMSB_CUDA(cudaMemcpyAsync(device.moreMarks, reportOf(device).more, bytes, cudaMemcpyDeviceToHost, device.stream));
  MMSB_CUDA(cudaStreamSynchronize(device.stream));
  return MMSB_OK;
}

// Puts a sealed segment into the stream: one copy to the device, the kernels, one copy back.
static int32_t startSegment(Device& device, const DeviceMarks& marks, u64 resultBytes) {
  MMSB_CUDA(cudaMemcpyAsync(device.stage.device, device.stage.host, device.stage.used, cudaMemcpyHostToDevice,
                            device.stream));
  MMSB_CUDA(cudaMemsetAsync(device.result.device, 0, firstMarksOffset(device), device.stream));
  if (marks.chunkCount != 0) MMSB_CUDA(cudaMemsetAsync(marks.bits, 0, bitBytesOf(device), device.stream));
  if (marks.chunkCount != 0) {
    MMSB_LAUNCH(chunkSlotKernel, blocksFor(device, (u64(marks.chunkCount) + kThreads - 1) / kThreads), kThreads,
                device.stream, marks);
  }
  for (u32 i = 0; i < device.launches.count; i++) {
    const Launch& launch = device.launches.data[i];
    if (launch.kind == LAUNCH_PIECES) {
      MMSB_LAUNCH(deltaKernel, blocksFor(device, launch.pieces.count), kThreads, device.stream, marks,
                  staged<DeltaPiece>(device, launch.pieces.at), launch.pieces.count);
    } else if (launch.kind == LAUNCH_CHAINS) {
      const DeltaChains chains = *stagedHost<DeltaChains>(device, launch.chains.at);
      MMSB_LAUNCH(chainKernel, blocksFor(device, (u64(chains.count) + kThreads - 1) / kThreads), kThreads,
                  device.stream, marks, chains);
    } else {
      launchStep(device, launch, marks);
    }
  }
  if (marks.chunkCount != 0) {
    MMSB_LAUNCH(digestKernel, blocksFor(device, marks.chunkCount), kThreads, device.stream, marks, reportOf(device),
                device.keys, 0u);
  }
  MMSB_CUDA(cudaGetLastError());
  MMSB_CUDA(
      cudaMemcpyAsync(device.result.host, device.result.device, resultBytes, cudaMemcpyDeviceToHost, device.stream));
  return MMSB_OK;
}

// Adds the arguments of a launch, except what its kernels read from the staging buffer.
static void addArguments(GraphKey& key, const Device& device, const Launch& launch) {
  switch (launch.kind) {
    case LAUNCH_PIECES: keyAdd(key, launch.pieces.at); return keyAdd(key, u64(launch.pieces.count));
    case LAUNCH_CHAINS: {
      const DeltaChains& chains = *stagedHost<DeltaChains>(device, launch.chains.at);
      keyAdd(key, launch.chains.at);
      keyAdd(key, u64(launch.chains.links));
      keyAdd(key, chains.elements);
      keyAdd(key, chains.first);
      keyAdd(key, chains.links);
      return keyAdd(key, u64(chains.count) << 32 | chains.target);
    }
    case LAUNCH_TILES:
      keyAdd(key, launch.tiles.rows);
      keyAdd(key, launch.tiles.tasks);
      return keyAdd(key, u64(launch.tiles.taskCount));
    default:
      keyAdd(key, launch.ranges.work);
      keyAdd(key, u64(launch.ranges.items));
      keyAdd(key, launch.ranges.laneFirst);
      return keyAdd(key, u64(launch.ranges.rows.start) << 32 | launch.ranges.rows.count);
  }
}

// The key of a segment: everything it is started with.
static GraphKey segmentKey(const Device& device, const DeviceMarks& marks, u64 resultBytes) {
  GraphKey key = graphKey();
  const void* const pointers[] = {device.stage.host, device.stage.device, device.result.host, device.result.device,
                                  device.scratch,    marks.targets,       marks.chunks,       marks.bits};
  for (const void* pointer : pointers) keyAdd(key, pointer);
  const u64 sizes[] = {device.stage.used, resultBytes, device.scratchBytes, marks.chunkCount, device.launches.count};
  for (u64 size : sizes) keyAdd(key, size);
  for (u32 i = 0; i < device.launches.count; i++) {
    const Launch& launch = device.launches.data[i];
    keyAdd(key, u64(launch.kind) << 32 | launch.target);
    keyAdd(key, launch.step != nullptr ? deviceStepOf(*launch.step)->serial : 0);
    addArguments(key, device, launch);
  }
  return key;
}

static int32_t runSegment(Device& device) {
  MMSB_TRY(listChunks(device));
  u64 targetsAt, chunksAt;
  MMSB_TRY(twinPut(device.stage, device.chunks.data, u64(device.chunks.count) * sizeof(DeviceChunk), &chunksAt));
  MMSB_TRY(twinPut(device.stage, nullptr, u64(device.targets.count) * sizeof(DeviceTarget), &targetsAt));
  const u64 resultBytes = resultBytesOf(device);
  MMSB_TRY(growMarks(device));
  MMSB_TRY(twinReserve(device.result, resultBytes));
  for (u32 t = 0; t < device.targets.count; t++) {
    const PageSlot& slot = *device.targets.data[t].slot;
    const DeviceTarget target = {slot.page.data,
                                 slot.hashes,
                                 devicePageOf(&slot)->chunkSlot,
                                 slot.page.bytes,
                                 reinterpret_cast<u64*>(device.result.device) + 2 * t,
                                 slot.page.dtype,
                                 t};
    stagedHost<DeviceTarget>(device, targetsAt)[t] = target;
  }
  seal(device);
  const DeviceMarks marks = {staged<DeviceTarget>(device, targetsAt), staged<DeviceChunk>(device, chunksAt),
                             device.marks, device.chunks.count};
  const auto start = [&] { return startSegment(device, marks, resultBytes); };
  MMSB_TRY(startByGraph(device.graphs, segmentKey(device, marks, resultBytes), device.stream, start));
  MMSB_CUDA(cudaStreamSynchronize(device.stream));
  return readMoreMarks(device);
}

// ---- reading back -----------------------------------------------------------------------------------------

// Returns the runs of marked elements of a target, ascending.
static RangeSet markedRuns(const Device& device, const Target& target, Arena& arena) {
  RangeSet runs = emptySet();
  const u32* states = reinterpret_cast<const u32*>(device.result.host + statesOffset(device));
  const u32* packed = reinterpret_cast<const u32*>(device.result.host + firstMarksOffset(device));
  const u32 size = dtypeBytes(target.slot->page.dtype), perChunk = kChunkBytes / size;
  for (u32 c = 0; c < target.chunkCount; c++) {
    const u32 slot = target.firstChunk + c, state = states[slot];
    const u32 base = device.chunks.data[slot].chunk * perChunk, left = target.slot->page.elements - base;
    if (state == kChunkSame) continue;
    if (state == kChunkWhole) {
      rangesPushAscending(runs, base, left < perChunk ? left : perChunk, arena);
      continue;
    }
    const u32 place = state - kChunkMixed;
    const u32* words = place < kMixedInline ? packed + u64(place) * kChunkMarkWords
                                            : device.moreMarks + u64(place - kMixedInline) * kChunkMarkWords;
    for (u32 w = 0; w < kChunkMarkWords / size; w++) {
      u32 word = words[w];
      while (word != 0) {
        const u32 first = u32(__builtin_ctz(word));
        const u32 rest = ~(word >> first);
        const u32 run = rest == 0 ? 32 - first : u32(__builtin_ctz(rest));
        rangesPushAscending(runs, base + 32 * w + first, run, arena);
        word = first + run >= 32 ? 0 : word >> (first + run) << (first + run);
      }
    }
  }
  return runs;
}

}  // namespace MMSB_NS
}  // namespace mmsb
