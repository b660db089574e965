// The launches of a segment: what each step's kernels are started with, and how a planned segment is run and read back.
//
// Invariants: grids and arguments depend on the plan alone. Nothing here asks for memory but runSegment, before the first
// launch.
#pragma once
#include "cuda/ops/cuda_count.cuh"
#include "cuda/plan/cuda_plan.cuh"

namespace mmsb {
namespace MMSB_NS {

static inline u32 blocksFor(const Device& device, u64 items) { return items < device.blocks ? (items == 0 ? 1 : u32(items)) : device.blocks; }

static void launchReduce(Device& device, const Launch& launch, const StoreSink& sink) {
  const Step& step = *launch.step;
  const Reduce& r = *static_cast<const Reduce*>(step.state);
  const DeviceStep& own = *deviceStepOf(step);
  const Reduce* state = static_cast<const Reduce*>(own.state);
  const DeviceRanges* work = staged<DeviceRanges>(device, launch.work);
  const u8* input = step.inputs[0]->data;
  const u32 perBlock = kReduceThreads / 32;
  if (r.blocks <= 1) {
    MMSB_LAUNCH(reduceShortKernel, blocksFor(device, (u64(launch.workElements) + perBlock - 1) / perBlock), kReduceThreads, device.stream, state,
                input, work, sink);
    return;
  }
  u64 partials = 1;
  for (u64 count = r.blocks; count > 1; count = (count + 1) / 2) partials += count;
  Partial* trees = static_cast<Partial*>(device.scratch);
  const u64 room = device.scratchBytes / (partials * sizeof(Partial));  // at least one: prepareStep has seen to it
  for (u64 first = 0; first < launch.workElements; first += room) {
    const u32 numbers = u32(launch.workElements - first < room ? launch.workElements - first : room);
    MMSB_LAUNCH(reduceBlocksKernel, blocksFor(device, (numbers * r.blocks + perBlock - 1) / perBlock), kReduceThreads, device.stream, state,
                input, work, trees, partials, u32(first), numbers);
    MMSB_LAUNCH(reduceClimbKernel, blocksFor(device, numbers), kReduceThreads, device.stream, state, work, trees, partials, u32(first),
                numbers, sink);
  }
}

static u64 paddedLane(const Topk& state) {
  u64 padded = 1;
  while (padded < state.lanes.n) padded *= 2;
  return padded;
}

static void launchTopk(Device& device, const Launch& launch, const StoreSink& sink) {
  const Step& step = *launch.step;
  const Topk& state = *static_cast<const Topk*>(step.state);
  const DeviceRanges* work = staged<DeviceRanges>(device, launch.work);
  const Page& input = *step.inputs[0];
  if (state.k <= kTopkSearches) {
    MMSB_LAUNCH(topkSearchKernel, blocksFor(device, launch.workElements), kSelectThreads, device.stream, state, input.data, u32(input.dtype),
                work, sink);
    return;
  }
  const u64 padded = paddedLane(state), room = device.scratchBytes / (padded * sizeof(Candidate));
  const u64 blocks = launch.workElements < room ? launch.workElements : room;
  MMSB_LAUNCH(topkSortKernel, blocksFor(device, blocks), kSelectThreads, device.stream, state, input.data, u32(input.dtype), work,
              static_cast<Candidate*>(device.scratch), padded, sink);
}

// ---- scan, sort, scatter, counts, windows ---------------------------------------------------------------------------------------

static void launchScan(Device& device, const Launch& launch, const StoreSink& sink) {
  const Step& step = *launch.step;
  const LaneOp& op = *static_cast<const LaneOp*>(step.state);
  const Page& input = *step.inputs[0];
  const ScanWork work = {staged<DeviceRanges>(device, launch.work), staged<u32>(device, launch.first)};
  const u32 ordered = op.wide == F64 && (op.fn == MMSB_REDUCE_SUM || op.fn == MMSB_REDUCE_PROD) ? 1 : 0;
  const bool blocks = launch.workElements < kScanLongLanes && op.lanes.n > 64;
  const auto start = [&](auto word) {
    typedef decltype(word) W;
    if (blocks) {
      const auto kernel = scanBlockKernel<W>;
      MMSB_LAUNCH(kernel, blocksFor(device, launch.workElements), kLaneThreads, device.stream, op, input.data, u32(input.dtype), work, ordered, sink);
    } else {
      const auto kernel = scanThreadKernel<W>;
      MMSB_LAUNCH(kernel, blocksFor(device, (u64(launch.workElements) + kLaneThreads - 1) / kLaneThreads), kLaneThreads, device.stream, op,
                  input.data, u32(input.dtype), work, sink);
    }
  };
  if (op.wide == F64) start(f64(0));
  else if (op.wide == I64) start(i64(0));
  else start(u64(0));
}

static void launchSort(Device& device, const Launch& launch, const StoreSink& sink) {
  const Step& step = *launch.step;
  const LaneOp& op = *static_cast<const LaneOp*>(step.state);
  const Page& input = *step.inputs[0];
  const DeviceRanges* work = staged<DeviceRanges>(device, launch.work);
  if (op.lanes.n <= kSortShort) {
    MMSB_LAUNCH(sortShortKernel, blocksFor(device, (u64(launch.workElements) + kLaneThreads - 1) / kLaneThreads), kLaneThreads, device.stream, op,
                input.data, u32(input.dtype), work, sink);
  } else if (dtypeBytes(input.dtype) == 8) {
    launchSortAs<u64>(op, input, work, launch.workElements, device.scratch, device.scratchBytes, device.blocks, sink, device.stream);
  } else {
    launchSortAs<u32>(op, input, work, launch.workElements, device.scratch, device.scratchBytes, device.blocks, sink, device.stream);
  }
}

static void launchScatter(Device& device, const Launch& launch, const StoreSink& sink) {
  const Step& step = *launch.step;
  const Indexed& g = *static_cast<const Indexed*>(step.state);
  const Page& input = *step.inputs[0];
  const Page& indices = *step.inputs[1];
  const Page& values = *step.inputs[2];
  RadixRoom<u32> room;
  memset(&room, 0, sizeof room);
  u32 side = 0;
  if (g.count != 0) {
    room = radixRoom<u32>(device.scratch, g.count, 1);
    MMSB_LAUNCH(scatterKeysKernel, blocksFor(device, (u64(g.count) + kLaneThreads - 1) / kLaneThreads), kLaneThreads, device.stream, g,
                indices.data, u32(indices.dtype), room);
    u32 bytes = 1;
    while (bytes < 4 && g.n >> (8 * bytes) != 0) bytes++;
    side = launchRadix<u32>(room, bytes, device.blocks, device.stream);
  }
  MMSB_LAUNCH(scatterKernel, blocksFor(device, (u64(launch.workElements) + kThreads - 1) / kThreads), kThreads, device.stream, g, input.data,
              u32(input.dtype), values.data, u32(values.dtype), room.keys[side], room.places[side],
              staged<DeviceRanges>(device, launch.work), sink);
}

static void launchCounting(Device& device, const Launch& launch, const StoreSink& sink) {
  const Step& step = *launch.step;
  const Counting& c = *static_cast<const Counting*>(step.state);
  const Page& input = *step.inputs[0];
  u32* const counts = static_cast<u32*>(device.scratch);
  cudaMemsetAsync(counts, 0, 4ull * c.bins, device.stream);  // a failure is seen by cudaGetLastError
  MMSB_LAUNCH(countKernel, blocksFor(device, (u64(input.elements) + 16 * kThreads - 1) / (16 * kThreads)), kThreads, device.stream, c, input.data,
              u32(input.dtype), u64(input.elements), counts);
  MMSB_LAUNCH(storeCountsKernel, blocksFor(device, (u64(launch.workElements) + kThreads - 1) / kThreads), kThreads, device.stream, counts,
              staged<DeviceRanges>(device, launch.work), sink);
}

static inline u32 windowTile(const Window& w) { return w.size > kWindowTile ? w.size : kWindowTile; }
// Words of each of the three buffers of a block of threads.
static inline u64 windowRoom(const Window& w) {
  const u64 rows = u64(windowTile(w)) + w.size;
  return rows < u64(w.lanes.n) + 1 ? rows : u64(w.lanes.n) + 1;
}

static void launchWindow(Device& device, const Launch& launch, const StoreSink& sink) {
  const Step& step = *launch.step;
  const Window& w = *static_cast<const Window*>(step.state);
  const Page& input = *step.inputs[0];
  const DeviceRanges* work = staged<DeviceRanges>(device, launch.work);
  const u64 room = windowRoom(w), fit = device.scratchBytes / (24 * room);  // at least one: prepareStep has seen to it
  const u32 tile = windowTile(w), rowEnd = launch.rows.start + launch.rows.count;
  const u64 tasks = u64(launch.workElements) * ((launch.rows.count + tile - 1) / tile);
  const auto start = [&](auto word) {
    typedef decltype(word) W;
    if (isLongWindow(step)) {
      const auto kernel = windowLongKernel<W>;
      MMSB_LAUNCH(kernel, blocksFor(device, tasks < fit ? tasks : fit), kWindowThreads, device.stream, w, input.data, u32(input.dtype), work,
                  launch.rows.start, rowEnd, tile, static_cast<u64*>(device.scratch), room, sink);
    } else {
      const auto kernel = windowShortKernel<W>;
      MMSB_LAUNCH(kernel, blocksFor(device, (u64(launch.workElements) + kThreads - 1) / kThreads), kThreads, device.stream, w, input.data,
                  u32(input.dtype), work, sink);
    }
  };
  if (w.wide == F64) start(f64(0));
  else if (w.wide == I64) start(i64(0));
  else start(u64(0));
}

// Ops that compute each element of the output alone.
static void launchElements(Device& device, const Launch& launch, const StoreSink& sink) {
  const Step& step = *launch.step;
  const DeviceRanges* work = staged<DeviceRanges>(device, launch.work);
  const Page& input = *step.inputs[0];
  const Page& second = *step.inputs[step.inputCount > 1 ? 1 : 0];
  const StencilInputs both = {input.data, second.data, input.dtype, second.dtype};
  const u32 blocks = blocksFor(device, (u64(launch.workElements) + kThreads - 1) / kThreads);
  switch (step.op->code) {
    case MMSB_OP_CONV: return launchConv(*static_cast<const Conv*>(step.state), both, work, sink, blocks, device.stream);
    case MMSB_OP_GATHER:
      MMSB_LAUNCH(takeKernel, blocks, kThreads, device.stream, *static_cast<const Indexed*>(step.state), input.data, u32(input.dtype),
                  second.data, u32(second.dtype), work, sink);
      return;
    case MMSB_OP_CONCAT:
      MMSB_LAUNCH(concatKernel, blocks, kThreads, device.stream, static_cast<const ConcatDevice*>(deviceStepOf(step)->state), work, sink);
      return;
    case MMSB_OP_DISTANCE: {
      const u32 perBlock = kDistanceThreads / 32;
      const u32 grid = blocksFor(device, (u64(launch.workElements) + perBlock - 1) / perBlock);
      const Distance& d = *static_cast<const Distance*>(step.state);
      if (step.natural == F32) MMSB_LAUNCH(distanceKernel<f32>, grid, kDistanceThreads, device.stream, d, both, work, sink);
      else MMSB_LAUNCH(distanceKernel<f64>, grid, kDistanceThreads, device.stream, d, both, work, sink);
      return;
    }
    default:
      MMSB_LAUNCH(viewKernel, blocks, kThreads, device.stream, *static_cast<const View*>(step.state), input.data, u32(input.dtype), work, sink);
  }
}

static void launchStep(Device& device, const Launch& launch, const DeviceMarks& marks) {
  Step& step = *launch.step;
  const DeviceStep& own = *deviceStepOf(step);
  const StoreSink sink = {marks, launch.target, step.natural};
  const Page& input = *step.inputs[0];
  switch (step.op->code) {
    case MMSB_OP_COPY:
    case MMSB_OP_CAST:
    case MMSB_OP_RESHAPE:
      MMSB_LAUNCH(copyKernel, blocksFor(device, (u64(launch.workElements) + kThreads - 1) / kThreads), kThreads, device.stream,
                  staged<DeviceRanges>(device, launch.work), input.data, u32(input.dtype), sink);
      return;
    case MMSB_OP_MAP:
      if (own.kernel != nullptr) {
        return launchRtc(own.kernel, static_cast<const MapDevice*>(own.state), staged<DeviceRanges>(device, launch.work), sink,
                         blocksFor(device, (u64(launch.workElements) + kThreads - 1) / kThreads), device.stream);
      }
      launchMap(*static_cast<const MapState*>(step.state)->program, static_cast<const MapDevice*>(own.state),
                staged<DeviceRanges>(device, launch.work), blocksFor(device, (u64(launch.workElements) + kMapThreads - 1) / kMapThreads),
                static_cast<u64*>(device.scratch), sink, device.stream);
      return;
    case MMSB_OP_REDUCE: return launchReduce(device, launch, sink);
    case MMSB_OP_MATMUL:
      return launchMatmul(*static_cast<const Matmul*>(step.state), static_cast<const MatDevice*>(own.state), staged<u32>(device, launch.first),
                          staged<MatTask>(device, launch.second), launch.count, sink, device.blocks, device.stream);
    case MMSB_OP_QUANTILE:
      MMSB_LAUNCH(quantileKernel, blocksFor(device, launch.workElements), kSelectThreads, device.stream,
                  *static_cast<const Quantile*>(step.state), input.data, u32(input.dtype), staged<DeviceRanges>(device, launch.work), sink);
      return;
    case MMSB_OP_TOPK: return launchTopk(device, launch, sink);
    case MMSB_OP_SCAN: return launchScan(device, launch, sink);
    case MMSB_OP_SORT: return launchSort(device, launch, sink);
    case MMSB_OP_SCATTER: return launchScatter(device, launch, sink);
    case MMSB_OP_BINCOUNT:
    case MMSB_OP_HISTOGRAM: return launchCounting(device, launch, sink);
    case MMSB_OP_WINDOW: return launchWindow(device, launch, sink);
    default: return launchElements(device, launch, sink);
  }
}

// Chunks that may change, in the order of targets and of chunks.
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

// The staging buffer has its final place: offsets become device addresses.
static void seal(Device& device) {
  for (u32 i = 0; i < device.launches.count; i++) {
    const Launch& launch = device.launches.data[i];
    if (launch.kind == LAUNCH_DELTAS) {
      DeltaPiece* pieces = stagedHost<DeltaPiece>(device, launch.first);
      for (u32 p = 0; p < launch.count; p++) {
        rebase(device, pieces[p].values);
        if (pieces[p].indices != nullptr) rebase(device, pieces[p].indices);
      }
    } else if (launch.kind == LAUNCH_CHAINS) {
      DeltaChains* chains = stagedHost<DeltaChains>(device, launch.first);
      DeltaLink* links = stagedHost<DeltaLink>(device, reinterpret_cast<u64>(chains->links));
      for (u32 l = 0; l < launch.count; l++) rebase(device, links[l].value);
      rebase(device, chains->elements);
      rebase(device, chains->first);
      rebase(device, chains->links);
    } else if (launch.workElements != 0) {
      sealRanges(device, launch.work);
    }
  }
}

// Results: two sums for each target; how many chunks changed in part; a state for each chunk; marks of the first of those.
static inline u64 mixedOffset(const Device& device) { return (16ull * device.targets.count + 63) & ~63ull; }
static inline u64 statesOffset(const Device& device) { return mixedOffset(device) + 64; }
static inline u64 firstMarksOffset(const Device& device) { return (statesOffset(device) + 4ull * device.chunks.count + 63) & ~63ull; }
static inline u64 resultBytesOf(const Device& device) {
  const u64 first = device.chunks.count < kMixedInline ? device.chunks.count : kMixedInline;
  return firstMarksOffset(device) + 4ull * kChunkMarkWords * first;
}
static inline u64 bitBytesOf(const Device& device) { return 4ull * kChunkMarkWords * device.chunks.count; }

static DeviceReport reportOf(const Device& device) {
  u8* const result = device.result.device;
  return DeviceReport{reinterpret_cast<u32*>(result + mixedOffset(device)), reinterpret_cast<u32*>(result + statesOffset(device)),
                      reinterpret_cast<u32*>(result + firstMarksOffset(device)), device.marks + u64(kChunkMarkWords) * device.chunks.count};
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

// Marks that did not come with the results.
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
  MMSB_CUDA(cudaMemcpyAsync(device.stage.device, device.stage.host, device.stage.used, cudaMemcpyHostToDevice, device.stream));
  MMSB_CUDA(cudaMemsetAsync(device.result.device, 0, firstMarksOffset(device), device.stream));
  if (marks.chunkCount != 0) MMSB_CUDA(cudaMemsetAsync(marks.bits, 0, bitBytesOf(device), device.stream));
  if (marks.chunkCount != 0) {
    MMSB_LAUNCH(chunkSlotKernel, blocksFor(device, (u64(marks.chunkCount) + kThreads - 1) / kThreads), kThreads, device.stream, marks);
  }
  for (u32 i = 0; i < device.launches.count; i++) {
    const Launch& launch = device.launches.data[i];
    if (launch.kind == LAUNCH_DELTAS) {
      MMSB_LAUNCH(deltaKernel, blocksFor(device, launch.count), kThreads, device.stream, marks, staged<DeltaPiece>(device, launch.first),
                  launch.count);
    } else if (launch.kind == LAUNCH_CHAINS) {
      const DeltaChains chains = *stagedHost<DeltaChains>(device, launch.first);
      MMSB_LAUNCH(chainKernel, blocksFor(device, (u64(chains.count) + kThreads - 1) / kThreads), kThreads, device.stream, marks, chains);
    } else {
      launchStep(device, launch, marks);
    }
  }
  if (marks.chunkCount != 0) {
    MMSB_LAUNCH(digestKernel, blocksFor(device, marks.chunkCount), kThreads, device.stream, marks, reportOf(device), device.keys,
                0u);
  }
  MMSB_CUDA(cudaGetLastError());
  MMSB_CUDA(cudaMemcpyAsync(device.result.host, device.result.device, resultBytes, cudaMemcpyDeviceToHost, device.stream));
  return MMSB_OK;
}

// All that a segment is started with.
static GraphKey segmentKey(const Device& device, const DeviceMarks& marks, u64 resultBytes) {
  GraphKey key = graphKey();
  const void* const pointers[] = {device.stage.host, device.stage.device, device.result.host, device.result.device, device.scratch, marks.targets,
                                  marks.chunks, marks.bits};
  for (const void* pointer : pointers) keyAdd(key, pointer);
  const u64 sizes[] = {device.stage.used, resultBytes, device.scratchBytes, marks.chunkCount, device.launches.count};
  for (u64 size : sizes) keyAdd(key, size);
  for (u32 i = 0; i < device.launches.count; i++) {
    const Launch& launch = device.launches.data[i];
    keyAdd(key, launch.kind == LAUNCH_STEP ? deviceStepOf(*launch.step)->serial : 0);
    const u64 fields[] = {launch.kind, launch.target, launch.count, launch.work, launch.workElements, launch.first, launch.second,
                          launch.rows.start, launch.rows.count};
    for (u64 field : fields) keyAdd(key, field);
    if (launch.kind != LAUNCH_CHAINS) continue;
    const DeltaChains& chains = *stagedHost<DeltaChains>(device, launch.first);
    keyAdd(key, chains.elements);
    keyAdd(key, chains.first);
    keyAdd(key, chains.links);
    keyAdd(key, u64(chains.count) << 32 | chains.target);
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
    const DeviceTarget target = {slot.page.data, slot.hashes, devicePageOf(&slot)->chunkSlot, slot.page.bytes,
                                 reinterpret_cast<u64*>(device.result.device) + 2 * t, slot.page.dtype, t};
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

// ---- reading back -----------------------------------------------------------------------------------------------------------------------

// The runs of marked elements of a target, ascending.
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
    const u32* words = place < kMixedInline ? packed + u64(place) * kChunkMarkWords : device.moreMarks + u64(place - kMixedInline) * kChunkMarkWords;
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
