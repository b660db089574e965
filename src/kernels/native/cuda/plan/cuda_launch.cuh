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

// ---- one thread or warp per output element ----------------------------------------------------------------

static inline u32 elementBlocks(const Device& device, const Launch& launch) {
  return blocksFor(device, (u64(launch.ranges.items) + kThreads - 1) / kThreads);
}

static StencilInputs bothInputs(const Step& step) {
  return StencilInputs{step.inputs[0]->data, step.inputs[1]->data, step.inputs[0]->dtype, step.inputs[1]->dtype};
}

static void launchCopy(Device& device, const Launch& launch, const StoreSink& sink) {
  const Page& input = *launch.step->inputs[0];
  MMSB_LAUNCH(copyKernel, elementBlocks(device, launch), kThreads, device.stream,
              staged<DeviceRanges>(device, launch.ranges.work), input.data, u32(input.dtype), sink);
}

// Ops whose state is a View: any that only move elements along axes.
static void launchView(Device& device, const Launch& launch, const StoreSink& sink) {
  const Page& input = *launch.step->inputs[0];
  MMSB_LAUNCH(viewKernel, elementBlocks(device, launch), kThreads, device.stream,
              *static_cast<const View*>(launch.step->state), input.data, u32(input.dtype),
              staged<DeviceRanges>(device, launch.ranges.work), sink);
}

static void launchConcat(Device& device, const Launch& launch, const StoreSink& sink) {
  MMSB_LAUNCH(concatKernel, elementBlocks(device, launch), kThreads, device.stream,
              static_cast<const ConcatDevice*>(deviceStepOf(*launch.step)->state),
              staged<DeviceRanges>(device, launch.ranges.work), sink);
}

static void launchGather(Device& device, const Launch& launch, const StoreSink& sink) {
  const Step& step = *launch.step;
  const Page &input = *step.inputs[0], &indices = *step.inputs[1];
  MMSB_LAUNCH(takeKernel, elementBlocks(device, launch), kThreads, device.stream,
              *static_cast<const Indexed*>(step.state), input.data, u32(input.dtype), indices.data, u32(indices.dtype),
              staged<DeviceRanges>(device, launch.ranges.work), sink);
}

static void launchConvStep(Device& device, const Launch& launch, const StoreSink& sink) {
  launchConv(*static_cast<const Conv*>(launch.step->state), bothInputs(*launch.step),
             staged<DeviceRanges>(device, launch.ranges.work), sink, elementBlocks(device, launch), device.stream);
}

// A warp for each distance.
static u32 distanceGrid(const Device& device, const Launch& launch) {
  const u32 perBlock = kDistanceThreads / 32;
  return blocksFor(device, (u64(launch.ranges.items) + perBlock - 1) / perBlock);
}

static void launchDistance(Device& device, const Launch& launch, const StoreSink& sink) {
  const Step& step = *launch.step;
  const Distance& d = *static_cast<const Distance*>(step.state);
  const DeviceRanges* work = staged<DeviceRanges>(device, launch.ranges.work);
  const u32 grid = distanceGrid(device, launch);
  const auto start = [&](auto kernel) {
    MMSB_LAUNCH(kernel, grid, kDistanceThreads, device.stream, d, bothInputs(step), work, sink);
  };
  if (step.natural == F32) start(distanceKernel<PlainSum, f32>);
  else start(distanceKernel<DoubleSum, f64>);
}

static void launchDistance1(Device& device, const Launch& launch, const StoreSink& sink) {
  const Step& step = *launch.step;
  const Distance& d = *static_cast<const Distance*>(step.state);
  const DeviceRanges* work = staged<DeviceRanges>(device, launch.ranges.work);
  const u32 grid = distanceGrid(device, launch);
  if (step.natural == F32) {
    MMSB_LAUNCH(distance1Kernel<f32>, grid, kDistanceThreads, device.stream, d, bothInputs(step), work, sink);
  } else {
    MMSB_LAUNCH(distance1Kernel<f64>, grid, kDistanceThreads, device.stream, d, bothInputs(step), work, sink);
  }
}

static void launchQuantile(Device& device, const Launch& launch, const StoreSink& sink) {
  const Step& step = *launch.step;
  const Page& input = *step.inputs[0];
  MMSB_LAUNCH(quantileKernel, blocksFor(device, launch.ranges.items), kSelectThreads, device.stream,
              *static_cast<const Quantile*>(step.state), input.data, u32(input.dtype),
              staged<DeviceRanges>(device, launch.ranges.work), sink);
}

static void launchMapStep(Device& device, const Launch& launch, const StoreSink& sink) {
  const Step& step = *launch.step;
  const DeviceStep& own = *deviceStepOf(step);
  const MapDevice* state = static_cast<const MapDevice*>(own.state);
  const DeviceRanges* work = staged<DeviceRanges>(device, launch.ranges.work);
  if (own.kernel != nullptr) {
    return launchRtc(own.kernel, state, work, sink, elementBlocks(device, launch), device.stream);
  }
  launchMap(*static_cast<const MapState*>(step.state)->program, state, work,
            blocksFor(device, (u64(launch.ranges.items) + kMapThreads - 1) / kMapThreads),
            static_cast<u64*>(device.scratch), sink, device.stream);
}

static void launchMatmulStep(Device& device, const Launch& launch, const StoreSink& sink) {
  const Step& step = *launch.step;
  launchMatmul(*static_cast<const Matmul*>(step.state), static_cast<const MatDevice*>(deviceStepOf(step)->state),
               staged<u32>(device, launch.tiles.rows), staged<MatTask>(device, launch.tiles.tasks),
               launch.tiles.taskCount, sink, device.blocks, device.stream);
}

// ---- the table --------------------------------------------------------------------------------------------

typedef void (*Launcher)(Device& device, const Launch& launch, const StoreSink& sink);

// Null for an op without kernels, which runs on the host.
static Launcher launcherOf(const Op& op) {
  switch (op.code << 8 | op.version) {
#define MMSB_OP_LAUNCHER(name, Name, NAME, code, version, launch) \
  case code << 8 | version: return launch;
    MMSB_OPS(MMSB_OP_LAUNCHER)
    MMSB_OLD_OPS(MMSB_OP_LAUNCHER)
#undef MMSB_OP_LAUNCHER
    default: return nullptr;
  }
}

static void launchStep(Device& device, const Launch& launch, const DeviceMarks& marks) {
  const StoreSink sink = {marks, launch.target, launch.step->natural};
  launcherOf (*launch.step->op)(device, launch, sink);
}

}  // namespace MMSB_NS
}  // namespace mmsb
