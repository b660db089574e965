// Launches steps: selects the kernels of each op and their arguments.
//
// Invariants: grids and arguments depend only on the plan. Nothing here allocates memory.
#pragma once
#include "cuda/ops/cuda_count.cuh"
#include "cuda/ops/cuda_reduce.cuh"
#include "cuda/ops/cuda_rtc.cuh"
#include "cuda/ops/map_cuda.cuh"
#include "cuda/plan/cuda_dirty.cuh"

namespace mmsb {
namespace MMSB_NS {

static inline u32 blocksFor(const Device& device, u64 items) {
  return items < device.blocks ? (items == 0 ? 1 : u32(items)) : device.blocks;
}

static void launchReduce(Device& device, const Launch& launch, const StoreSink& sink) {
  const Step& step = *launch.step;
  const Reduce& r = *static_cast<const Reduce*>(step.state);
  const DeviceStep& own = *deviceStepOf(step);
  const Reduce* state = static_cast<const Reduce*>(own.state);
  const DeviceRanges* work = staged<DeviceRanges>(device, launch.ranges.work);
  const u8* input = step.inputs[0]->data;
  const u32 perBlock = kReduceThreads / 32;
  if (r.blocks <= 1) {
    MMSB_LAUNCH(reduceShortKernel, blocksFor(device, (u64(launch.ranges.items) + perBlock - 1) / perBlock),
                kReduceThreads, device.stream, state, input, work, sink);
    return;
  }
  u64 partials = 1;
  for (u64 count = r.blocks; count > 1; count = (count + 1) / 2) partials += count;
  Partial* trees = static_cast<Partial*>(device.scratch);
  const u64 room = device.scratchBytes / (partials * sizeof(Partial));  // at least one: prepareStep ensured it
  for (u64 first = 0; first < launch.ranges.items; first += room) {
    const u32 numbers = u32(launch.ranges.items - first < room ? launch.ranges.items - first : room);
    MMSB_LAUNCH(reduceBlocksKernel, blocksFor(device, (numbers * r.blocks + perBlock - 1) / perBlock), kReduceThreads,
                device.stream, state, input, work, trees, partials, u32(first), numbers);
    MMSB_LAUNCH(reduceClimbKernel, blocksFor(device, numbers), kReduceThreads, device.stream, state, work, trees,
                partials, u32(first), numbers, sink);
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
  const DeviceRanges* work = staged<DeviceRanges>(device, launch.ranges.work);
  const Page& input = *step.inputs[0];
  if (state.k <= kTopkSearches) {
    MMSB_LAUNCH(topkSearchKernel, blocksFor(device, launch.ranges.items), kSelectThreads, device.stream, state,
                input.data, u32(input.dtype), work, sink);
    return;
  }
  const u64 padded = paddedLane(state), room = device.scratchBytes / (padded * sizeof(Candidate));
  const u64 blocks = launch.ranges.items < room ? launch.ranges.items : room;
  MMSB_LAUNCH(topkSortKernel, blocksFor(device, blocks), kSelectThreads, device.stream, state, input.data,
              u32(input.dtype), work, static_cast<Candidate*>(device.scratch), padded, sink);
}

// ---- scan, sort, scatter, counts, windows -----------------------------------------------------------------

static void launchScan(Device& device, const Launch& launch, const StoreSink& sink) {
  const Step& step = *launch.step;
  const LaneOp& op = *static_cast<const LaneOp*>(step.state);
  const Page& input = *step.inputs[0];
  const ScanWork work = {staged<DeviceRanges>(device, launch.ranges.work),
                         staged<u32>(device, launch.ranges.laneFirst)};
  const u32 ordered = op.wide == F64 && (op.fn == MMSB_REDUCE_SUM || op.fn == MMSB_REDUCE_PROD) ? 1 : 0;
  const bool blocks = launch.ranges.items < kScanLongLanes && op.lanes.n > 64;
  const auto start = [&](auto word) {
    typedef decltype(word) W;
    if (blocks) {
      const auto kernel = scanBlockKernel<W>;
      MMSB_LAUNCH(kernel, blocksFor(device, launch.ranges.items), kLaneThreads, device.stream, op, input.data,
                  u32(input.dtype), work, ordered, sink);
    } else {
      const auto kernel = scanThreadKernel<W>;
      MMSB_LAUNCH(kernel, blocksFor(device, (u64(launch.ranges.items) + kLaneThreads - 1) / kLaneThreads), kLaneThreads,
                  device.stream, op, input.data, u32(input.dtype), work, sink);
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
  const DeviceRanges* work = staged<DeviceRanges>(device, launch.ranges.work);
  if (op.lanes.n <= kSortShort) {
    MMSB_LAUNCH(sortShortKernel, blocksFor(device, (u64(launch.ranges.items) + kLaneThreads - 1) / kLaneThreads),
                kLaneThreads, device.stream, op, input.data, u32(input.dtype), work, sink);
  } else if (dtypeBytes(input.dtype) == 8) {
    launchSortAs<u64>(op, input, work, launch.ranges.items, device.scratch, device.scratchBytes, device.blocks, sink,
                      device.stream);
  } else {
    launchSortAs<u32>(op, input, work, launch.ranges.items, device.scratch, device.scratchBytes, device.blocks, sink,
                      device.stream);
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
    MMSB_LAUNCH(scatterKeysKernel, blocksFor(device, (u64(g.count) + kLaneThreads - 1) / kLaneThreads), kLaneThreads,
                device.stream, g, indices.data, u32(indices.dtype), room);
    u32 bytes = 1;
    while (bytes < 4 && g.n >> (8 * bytes) != 0) bytes++;
    side = launchRadix<u32>(room, bytes, device.blocks, device.stream);
  }
  MMSB_LAUNCH(scatterKernel, blocksFor(device, (u64(launch.ranges.items) + kThreads - 1) / kThreads), kThreads,
              device.stream, g, input.data, u32(input.dtype), values.data, u32(values.dtype), room.keys[side],
              room.places[side], staged<DeviceRanges>(device, launch.ranges.work), sink);
}

static void launchCounting(Device& device, const Launch& launch, const StoreSink& sink) {
  const Step& step = *launch.step;
  const Counting& c = *static_cast<const Counting*>(step.state);
  const Page& input = *step.inputs[0];
  u32* const counts = static_cast<u32*>(device.scratch);
  cudaMemsetAsync(counts, 0, 4ull * c.bins, device.stream);  // a failure is reported by cudaGetLastError
  MMSB_LAUNCH(countKernel, blocksFor(device, (u64(input.elements) + 16 * kThreads - 1) / (16 * kThreads)), kThreads,
              device.stream, c, input.data, u32(input.dtype), u64(input.elements), counts);
  MMSB_LAUNCH(storeCountsKernel, blocksFor(device, (u64(launch.ranges.items) + kThreads - 1) / kThreads), kThreads,
              device.stream, counts, staged<DeviceRanges>(device, launch.ranges.work), sink);
}

static inline u32 windowTile(const Window& w) { return w.size > kWindowTile ? w.size : kWindowTile; }
// Words in each of the three buffers of a block of threads.
static inline u64 windowRoom(const Window& w) {
  const u64 rows = u64(windowTile(w)) + w.size;
  return rows < u64(w.lanes.n) + 1 ? rows : u64(w.lanes.n) + 1;
}

static void launchWindow(Device& device, const Launch& launch, const StoreSink& sink) {
  const Step& step = *launch.step;
  const Window& w = *static_cast<const Window*>(step.state);
  const Page& input = *step.inputs[0];
  const DeviceRanges* work = staged<DeviceRanges>(device, launch.ranges.work);
  const u64 room = windowRoom(w), fit = device.scratchBytes / (24 * room);  // at least one: prepareStep ensured it
  const u32 tile = windowTile(w), rowEnd = launch.ranges.rows.start + launch.ranges.rows.count;
  const u64 tasks = u64(launch.ranges.items) * ((launch.ranges.rows.count + tile - 1) / tile);
  const auto start = [&](auto word) {
    typedef decltype(word) W;
    if (isLongWindow(step)) {
      const auto kernel = windowLongKernel<W>;
      MMSB_LAUNCH(kernel, blocksFor(device, tasks < fit ? tasks : fit), kWindowThreads, device.stream, w, input.data,
                  u32(input.dtype), work, launch.ranges.rows.start, rowEnd, tile, static_cast<u64*>(device.scratch),
                  room, sink);
    } else {
      const auto kernel = windowShortKernel<W>;
      MMSB_LAUNCH(kernel, blocksFor(device, (u64(launch.ranges.items) + kThreads - 1) / kThreads), kThreads,
                  device.stream, w, input.data, u32(input.dtype), work, sink);
    }
  };
  if (w.wide == F64) start(f64(0));
  else if (w.wide == I64) start(i64(0));
  else start(u64(0));
}

// Ops that compute each output element on its own.
static void launchElements(Device& device, const Launch& launch, const StoreSink& sink) {
  const Step& step = *launch.step;
  const DeviceRanges* work = staged<DeviceRanges>(device, launch.ranges.work);
  const Page& input = *step.inputs[0];
  const Page& second = *step.inputs[step.inputCount > 1 ? 1 : 0];
  const StencilInputs both = {input.data, second.data, input.dtype, second.dtype};
  const u32 blocks = blocksFor(device, (u64(launch.ranges.items) + kThreads - 1) / kThreads);
  switch (step.op->code) {
    case MMSB_OP_CONV:
      return launchConv(*static_cast<const Conv*>(step.state), both, work, sink, blocks, device.stream);
    case MMSB_OP_GATHER:
      MMSB_LAUNCH(takeKernel, blocks, kThreads, device.stream, *static_cast<const Indexed*>(step.state), input.data,
                  u32(input.dtype), second.data, u32(second.dtype), work, sink);
      return;
    case MMSB_OP_CONCAT:
      MMSB_LAUNCH(concatKernel, blocks, kThreads, device.stream,
                  static_cast<const ConcatDevice*>(deviceStepOf(step)->state), work, sink);
      return;
    case MMSB_OP_DISTANCE: {
      const u32 perBlock = kDistanceThreads / 32;
      const u32 grid = blocksFor(device, (u64(launch.ranges.items) + perBlock - 1) / perBlock);
      const Distance& d = *static_cast<const Distance*>(step.state);
      if (step.natural == F32) {
        MMSB_LAUNCH(distanceKernel<f32>, grid, kDistanceThreads, device.stream, d, both, work, sink);
      } else {
        MMSB_LAUNCH(distanceKernel<f64>, grid, kDistanceThreads, device.stream, d, both, work, sink);
      }
      return;
    }
    default:
      MMSB_LAUNCH(viewKernel, blocks, kThreads, device.stream, *static_cast<const View*>(step.state), input.data,
                  u32(input.dtype), work, sink);
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
      MMSB_LAUNCH(copyKernel, blocksFor(device, (u64(launch.ranges.items) + kThreads - 1) / kThreads), kThreads,
                  device.stream, staged<DeviceRanges>(device, launch.ranges.work), input.data, u32(input.dtype), sink);
      return;
    case MMSB_OP_MAP:
      if (own.kernel != nullptr) {
        return launchRtc(own.kernel, static_cast<const MapDevice*>(own.state),
                         staged<DeviceRanges>(device, launch.ranges.work), sink,
                         blocksFor(device, (u64(launch.ranges.items) + kThreads - 1) / kThreads), device.stream);
      }
      launchMap(*static_cast<const MapState*>(step.state)->program, static_cast<const MapDevice*>(own.state),
                staged<DeviceRanges>(device, launch.ranges.work),
                blocksFor(device, (u64(launch.ranges.items) + kMapThreads - 1) / kMapThreads),
                static_cast<u64*>(device.scratch), sink, device.stream);
      return;
    case MMSB_OP_REDUCE: return launchReduce(device, launch, sink);
    case MMSB_OP_MATMUL:
      return launchMatmul(*static_cast<const Matmul*>(step.state), static_cast<const MatDevice*>(own.state),
                          staged<u32>(device, launch.tiles.rows), staged<MatTask>(device, launch.tiles.tasks),
                          launch.tiles.taskCount, sink, device.blocks, device.stream);
    case MMSB_OP_QUANTILE:
      MMSB_LAUNCH(quantileKernel, blocksFor(device, launch.ranges.items), kSelectThreads, device.stream,
                  *static_cast<const Quantile*>(step.state), input.data, u32(input.dtype),
                  staged<DeviceRanges>(device, launch.ranges.work), sink);
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

}  // namespace MMSB_NS
}  // namespace mmsb
