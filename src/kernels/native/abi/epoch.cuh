// Runs one call of mmsb_execute or mmsb_undo: finds its steps, decodes its frames, executes, and lays out the
// result.
#pragma once
#include <time.h>

#include "abi/frame_decoder.cuh"

namespace mmsb {
namespace MMSB_NS {

static u64 nowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return u64(now.tv_sec) * 1000000000ull + u64(now.tv_nsec);
}

// ---- execute ----------------------------------------------------------------------------------------------

static int32_t findSteps(mmsb_ctx& ctx, const u32* numbers, u32 count) {
  if (!grow(reinterpret_cast<void**>(&ctx.running), &ctx.runningCapacity, count, sizeof(Step*))) {
    return fail(MMSB_ERR_MEMORY, "no memory for %u steps", count);
  }
  for (u32 i = 0; i < count; i++) {
    const u32 number = numbers[i] & ~(MMSB_STEP_FULL | MMSB_STEP_BEFORE);
    if (number >= ctx.stepCount || ctx.steps[number] == nullptr) {
      return fail(MMSB_ERR_ARGUMENT, "step %u does not exist", number);
    }
    ctx.running[i] = ctx.steps[number];
    if ((numbers[i] & MMSB_STEP_BEFORE) == 0) continue;
    if (ctx.running[i]->past == nullptr) return fail(MMSB_ERR_ARGUMENT, "step %u does not keep a past", number);
    if (i != 0 && (numbers[i - 1] & MMSB_STEP_BEFORE) == 0) {
      return fail(MMSB_ERR_ARGUMENT, "step %u must run before the deltas, so it must come first", number);
    }
  }
  return MMSB_OK;
}

static int32_t reserveLists(mmsb_ctx& ctx, u32 stepCount) {
  Exec& exec = ctx.exec;
  u64 pages = (ctx.deltas.count < ctx.pageCount ? ctx.deltas.count : ctx.pageCount) + stepCount;
  if (ctx.gpu != nullptr) pages *= 2;  // each page may have a mirror
  if (!grow(reinterpret_cast<void**>(&exec.touched), &exec.touchedCapacity, pages, sizeof(PageSlot*)) ||
      !grow(reinterpret_cast<void**>(&exec.log), &exec.logCapacity, stepCount, sizeof(StepLog))) {
    return fail(MMSB_ERR_MEMORY, "no memory to prepare an epoch");
  }
  return MMSB_OK;
}

static u8* resultRoom(mmsb_ctx& ctx, u64 bytes) {
  const u64 needed = ctx.resultBytes + bytes;
  if (needed > ctx.resultCapacity) {
    const u64 capacity = needed * 2 < 4096 ? 4096 : needed * 2;
    void* larger = realloc(ctx.result, capacity);
    if (larger == nullptr) return nullptr;
    ctx.result = static_cast<u8*>(larger);
    ctx.resultCapacity = capacity;
  }
  u8* at = ctx.result + ctx.resultBytes;
  ctx.resultBytes = needed;
  return at;
}

// Appends a changed page to the result and updates its share of the state digest.
static bool reportPage(mmsb_ctx& ctx, PageSlot& slot) {
  RangeSet ranges = slot.dirty;
  if (ranges.count > kReportedRangesMax) {
    Arena& arena = ctx.exec.workers[0].arena;
    ranges.data = static_cast<Range*>(arenaAlloc(arena, u64(ranges.count) * sizeof(Range)));
    if (ranges.data == nullptr) return false;
    memcpy(ranges.data, slot.dirty.data, u64(ranges.count) * sizeof(Range));
    rangesCoarsen(ranges, kReportedRangesMax);
  }
  settlePage(ctx, slot);
  const u64 rangeBytes = u64(ranges.count) * sizeof(Range);
  u8* at = resultRoom(ctx, 24 + rangeBytes);
  if (at == nullptr) return false;
  const u32 head[2] = {slot.page.id, ranges.count};
  memcpy(at, head, 8);
  memcpy(at + 8, slot.digest, 16);
  memcpy(at + 24, ranges.data, rangeBytes);
  return true;
}

// The touched pages that changed, in ascending order of id: {id, index in touched}.
static RangeSet changedPages(Exec& exec) {
  RangeSet order;
  memset(&order, 0, sizeof order);
  Arena& arena = exec.workers[0].arena;
  order.data = static_cast<Range*>(arenaAlloc(arena, u64(exec.touchedCount) * sizeof(Range)));
  if (order.data == nullptr) return order;
  bool ascending = true;
  for (u32 i = 0; i < exec.touchedCount; i++) {
    if (exec.touched[i]->dirty.count == 0 || (exec.touched[i]->page.flags & kPageMirror) != 0) continue;
    const u32 id = exec.touched[i]->page.id;
    if (order.count != 0 && order.data[order.count - 1].start > id) ascending = false;
    order.data[order.count++] = Range{id, i};
  }
  order.capacity = order.count;
  if (!ascending && order.count <= kSortSmallMax) rangesSortSmall(order.data, order.count);
  else if (!ascending) rangesSortRadix(order, arena);
  return order;
}

static int32_t buildResult(mmsb_ctx& ctx, u64 startNs) {
  Exec& exec = ctx.exec;
  const RangeSet order = changedPages(exec);
  ctx.resultBytes = 0;
  bool ok = resultRoom(ctx, 64) != nullptr;
  for (u32 i = 0; ok && i < order.count; i++) ok = reportPage(ctx, *exec.touched[order.data[i].count]);
  u8* log = ok ? resultRoom(ctx, 16ull * exec.logCount) : nullptr;
  for (u32 w = 0; w < exec.workerCount; w++) ok = ok && exec.workers[w].arena.failed == 0;
  if (!ok || log == nullptr) {
    ctx.broken = 1;
    return fail(MMSB_ERR_INTERNAL, "out of memory during an epoch; the context is unusable");
  }
  for (u32 i = 0; i < exec.logCount; i++) {
    memcpy(log + 16 * i, &exec.log[i].step, 4);
    memcpy(log + 16 * i + 4, &exec.log[i].flags, 4);
    memcpy(log + 16 * i + 8, &exec.log[i].elements, 8);
  }
  const u32 head[4] = {u32(ctx.resultBytes), order.count, exec.logCount, 0};
  const u64 tail[4] = {nowNs() - startNs, exec.elements, exec.bytesMoved, 0};
  memcpy(ctx.result, head, 16);
  memcpy(ctx.result + 16, ctx.state, 16);
  memcpy(ctx.result + 32, tail, 32);
  return MMSB_OK;
}

// Ends a call that was cancelled half-way. Kept, it can be undone; on a device the caller writes the sources
// back and computes again; otherwise the context is unusable.
static int32_t endCancelled(mmsb_ctx& ctx) {
  bool sound = ctx.gpu != nullptr || ctx.kept.journals != nullptr;
  for (u32 w = 0; w < ctx.exec.workerCount; w++) sound = sound && ctx.exec.workers[w].arena.failed == 0;
  sound = sound && keptEnd(ctx.kept, ctx.exec, true);
  if (!sound) ctx.broken = 1;
  return fail(MMSB_ERR_CANCELLED, "the call was cancelled%s", sound ? "" : "; the context is unusable");
}

static int32_t runEpoch(mmsb_ctx& ctx, const u32* steps, u32 stepCount, const u8* frames, u64 framesLength) {
  const u64 startNs = nowNs();
  ctx.calls++;
  if (ctx.broken) return fail(MMSB_ERR_INTERNAL, "the context is unusable: an earlier call failed");
  int32_t status = findSteps(ctx, steps, stepCount);
  if (status == MMSB_OK) status = decodeFrames(ctx, frames, framesLength, ctx.deltas);
  if (status == MMSB_OK) status = reserveLists(ctx, stepCount);
  if (status != MMSB_OK) return status;
  fillAll(ctx);
  keptBegin(ctx.kept, ctx.exec);
  if (ctx.gpu != nullptr) {
    status = ctx.gpu->execute(ctx.device, ctx.exec, ctx.deltas, frames, framesLength, ctx.running, steps, stepCount);
    if (status == MMSB_ERR_CANCELLED) return endCancelled(ctx);
    ctx.broken = status != MMSB_OK;  // it is unknown how far the call came
    if (status != MMSB_OK) return status == MMSB_ERR_MEMORY ? MMSB_ERR_INTERNAL : status;
  } else {
    ctx.cpu->execute(ctx.exec, ctx.deltas, ctx.running, steps, stepCount);
    if (isCancelled(ctx.exec)) return endCancelled(ctx);
  }
  status = buildResult(ctx, startNs);
  if (status == MMSB_OK && !keptEnd(ctx.kept, ctx.exec, false)) {
    ctx.broken = 1;
    return fail(MMSB_ERR_INTERNAL, "out of memory for the bytes that an epoch overwrote; the context is unusable");
  }
  return status;
}

// ---- going back -------------------------------------------------------------------------------------------

// The spans of a call whose pages still exist. Null without memory.
static JournalSpan* spansOf(const mmsb_ctx& ctx, const KeptCall& call, u64* count) {
  JournalSpan* spans = static_cast<JournalSpan*>(malloc((call.spans + 1) * sizeof(JournalSpan)));
  if (spans == nullptr) return nullptr;
  u64 filled = 0;
  for (u64 at = 0; at < call.bytes;) {
    JournalHeader header;
    memcpy(&header, call.data() + at, sizeof header);
    const u8* old = call.data() + at + sizeof header;
    at += sizeof header + pad8(header.bytes);
    PageSlot* slot = pageOf(ctx, header.page);
    if (slot != nullptr) spans[filled++] = JournalSpan{slot, old, header.offset, header.bytes};
  }
  *count = filled;
  return spans;
}

static int32_t undoCall(mmsb_ctx& ctx, const u32* steps, u32 stepCount) {
  ctx.calls++;
  if (ctx.broken) return fail(MMSB_ERR_INTERNAL, "the context is unusable: an earlier call failed");
  KeptCall* call = ctx.kept.newest;
  if (call == nullptr) return fail(MMSB_ERR_ARGUMENT, "there is no kept call to undo");
  const int32_t status = findSteps(ctx, steps, stepCount);
  if (status != MMSB_OK) return status;
  u64 count = 0;
  JournalSpan* spans = spansOf(ctx, *call, &count);
  const u64 pages = count < ctx.pageCount ? count : ctx.pageCount;
  if (spans == nullptr ||
      !grow(reinterpret_cast<void**>(&ctx.exec.touched), &ctx.exec.touchedCapacity, pages, sizeof(PageSlot*))) {
    free(spans);
    return fail(MMSB_ERR_MEMORY, "no memory to undo a call");
  }
  const auto undo = call->cancelled != 0 ? ctx.cpu->undoCancelled : ctx.cpu->undo;
  undo(ctx.exec, spans, count, ctx.running, stepCount);
  free(spans);
  for (u32 i = 0; i < ctx.exec.touchedCount; i++) settlePage(ctx, *ctx.exec.touched[i]);
  for (u32 w = 0; w < ctx.exec.workerCount; w++) {
    if (ctx.exec.workers[w].arena.failed == 0) continue;
    ctx.broken = 1;
    return fail(MMSB_ERR_INTERNAL, "out of memory during an undo; the context is unusable");
  }
  keptDrop(ctx.kept, call);
  return MMSB_OK;
}

// ---- the result in the memory of the caller ---------------------------------------------------------------

// Stores byte_len last, because another thread may watch for it.
static void publishHeader(u8* out, const u8* header) {
  memcpy(out + 4, header + 4, 60);
  u32 length;
  memcpy(&length, header, 4);
  __atomic_store_n(reinterpret_cast<u32*>(out), length, __ATOMIC_RELEASE);
}

static void publishFailure(int32_t status, u8* out, u64 capacity) {
  if (out == nullptr || capacity < 64) return;
  u8 header[64] = {};
  const u32 words[4] = {64, 0, 0, 0x80000000u | u32(status)};
  memcpy(header, words, sizeof words);
  publishHeader(out, header);
}

}  // namespace MMSB_NS
}  // namespace mmsb
