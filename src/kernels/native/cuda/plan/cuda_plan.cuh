// Plans the steps of a segment. A segment is a list of deltas and steps that is planned on the host, copied
// to the device at once, launched in order, and read back at once (cuda_segment.cuh).
//
// Invariants: the results of a segment are unknown while it is planned, so the planned changes are a superset
// of the real ones. Kernels mark the real changes; afterwards changes, digests and the log of steps equal the
// CPU's. In one segment at most one step or set of deltas writes a page. Nothing is launched before all
// memory is allocated.
#pragma once
#include "cuda/plan/cuda_deltas.cuh"
#include "cuda/plan/cuda_dirty.cuh"
#include "exec/past.cuh"

namespace mmsb {
namespace MMSB_NS {

static int32_t planMatmul(Device& device, Step& step, u32 target, const RangeSet& rows, bool inverted, Range columns) {
  const Matmul& m = *static_cast<const Matmul*>(step.state);
  MatTiles tiles = planTiles(m, rows, inverted, columns.start, columns.count, kMatTile, kMatTile);
  if (tiles.rowCount == 0) return MMSB_OK;
  u64 rowsAt, tasksAt;
  MMSB_TRY(twinPut(device.stage, nullptr, tiles.rowCount * sizeof(u32), &rowsAt));
  MMSB_TRY(twinPut(device.stage, nullptr, tiles.taskBound * sizeof(MatTask), &tasksAt));
  tiles.rows = stagedHost<u32>(device, rowsAt);
  tiles.tasks = stagedHost<MatTask>(device, tasksAt);
  fillTiles(m, rows, tiles);
  Launch launch = launchOf(LAUNCH_TILES, target, &step);
  launch.tiles = TileLaunch{rowsAt, tasksAt, tiles.taskCount};
  return listPush(device.launches, launch);
}

static inline bool takesLanes(const Step& step) {
  const u32 code = step.op->code;
  return code == MMSB_OP_TOPK || code == MMSB_OP_SORT || code == MMSB_OP_SCAN || isLongWindow(step);
}

static int32_t planStepWork(Device& device, Step& step, const StepDirty& dirty) {
  u32 target;
  MMSB_TRY(addTarget(device, *slotOf(step.out), dirty.elements, false, &target));
  if (step.op->code == MMSB_OP_MATMUL) {
    const Matmul& m = *static_cast<const Matmul*>(step.state);
    MMSB_TRY(planMatmul(device, step, target, dirty.rows, false, Range{0, m.columns}));
    for (u32 i = 0; i < dirty.columns.count; i++) {
      MMSB_TRY(planMatmul(device, step, target, dirty.rows, true, dirty.columns.data[i]));
    }
    return MMSB_OK;
  }
  Launch launch = launchOf(LAUNCH_RANGES, target, &step);
  launch.ranges.rows = dirty.laneRows;
  if (step.op->code == MMSB_OP_SCAN) {
    MMSB_TRY(twinPut(device.stage, nullptr, 4ull * dirty.spans.count, &launch.ranges.laneFirst));
    for (u32 i = 0; i < dirty.spans.count; i++) {
      stagedHost<u32>(device, launch.ranges.laneFirst)[i] = dirty.spans.data[i].from;
    }
  }
  MMSB_TRY(
      stageRanges(device, takesLanes(step) ? dirty.lanes : dirty.elements, &launch.ranges.work, &launch.ranges.items));
  return listPush(device.launches, launch);
}

static int32_t planStep(Device& device, Exec& exec, Step& step, bool full) {
  Arena& arena = mainArena(exec);
  const RangeSet* changed[64];
  RangeSet joined[64];
  if (step.inputCount > 64) return fail(MMSB_ERR_INTERNAL, "a step has %u inputs, more than 64", step.inputCount);
  for (u32 i = 0; i < step.inputCount; i++) {
    changed[i] = plannedChanges(device, exec, step.inputs[i], &joined[i], arena);
  }
  // If indices may change in this segment, the elements they affect are not known yet.
  const bool unknown = deviceStepOf(step)->shadow != nullptr && isTarget(device, *slotOf(step.inputs[1])) &&
                       devicePageOf(slotOf(step.inputs[1]))->planned.count != 0;
  const StepDirty dirty = stepDirty(step, full || unknown, changed, arena);
  if (dirty.elements.count == 0 && !full) return MMSB_OK;
  MMSB_TRY(listPush(device.planned, PlannedStep{&step, full, false, 0}));
  return dirty.elements.count == 0 ? MMSB_OK : planStepWork(device, step, dirty);
}

static int32_t planBefore(Device& device, Exec& exec, Step& step, bool full) {
  StepDirty dirty;
  memset(&dirty, 0, sizeof dirty);
  dirty.elements = catchUp(step, full, mainArena(exec));
  if (dirty.elements.count == 0) return MMSB_OK;
  MMSB_TRY(listPush(device.planned, PlannedStep{&step, full, true, rangesElements(dirty.elements)}));
  return planStepWork(device, step, dirty);
}

}  // namespace MMSB_NS
}  // namespace mmsb
