// Plans the deltas of device pages: as pieces if each element is written once, else as chains.
#pragma once
#include "core/ranges.cuh"
#include "cuda/plan/cuda_device.cuh"

namespace mmsb {
namespace MMSB_NS {

// Calls visit(start, count, value) for each run of elements that a delta writes. `value` is the number of its
// first value.
template <class Visit>
static int32_t eachRun(const Delta& delta, const Visit& visit) {
  if (delta.kind == DELTA_DENSE) return visit(delta.offset, delta.count, 0u);
  u32 value = 0;
  if (delta.kind == DELTA_SPARSE) {
    for (u32 i = 0; i < delta.count; i++) {
      u32 index;
      memcpy(&index, delta.where + 4ull * i, 4);
      MMSB_TRY(visit(index, 1u, i));
    }
    return MMSB_OK;
  }
  u64 at = 0;
  if (delta.runLength) {
    for (u32 r = 0; r < delta.runCount; r++) {
      u32 run[2];
      memcpy(run, delta.where + 8ull * r, 8);
      at += run[0];
      if (run[1] != 0) MMSB_TRY(visit(u32(delta.offset + at), run[1], value));
      value += run[1];
      at += run[1];
    }
    return MMSB_OK;
  }
  const auto bit = [&](u64 i) { return (delta.where[i >> 3] >> (i & 7) & 1) != 0; };
  while (at < delta.count) {
    if (!bit(at)) {
      at += (at & 7) == 0 && delta.where[at >> 3] == 0 ? 8 : 1;
      continue;
    }
    u32 run = 1;
    while (at + run < delta.count && bit(at + run)) run++;
    MMSB_TRY(visit(u32(delta.offset + at), run, value));
    value += run;
    at += run;
  }
  return MMSB_OK;
}

struct DeltaGroup {
  const DeltaList* list;
  const u32* next;  // next delta of the same page
  const u8* frames;
  u32 first;
};

template <class Visit>
static int32_t eachDelta(const DeltaGroup& group, const Visit& visit) {
  for (u32 i = group.first; i != ~0u; i = group.next[i]) MMSB_TRY(visit(group.list->data[i]));
  return MMSB_OK;
}

static inline u64 valueOffset(const Device& device, const DeltaGroup& group, const Delta& delta) {
  return device.framesAt + u64(delta.values - group.frames);
}

static int32_t pushPieces(const Device& device, const DeltaGroup& group, const Delta& delta, u32 target,
                          List<DeltaPiece>& pieces) {
  const u32 size = dtypeBytes(delta.slot->page.dtype);
  return eachRun(delta, [&](u32 start, u32 count, u32 value) {
    for (u32 done = 0; done < count; done += kPieceElements) {
      DeltaPiece piece;
      memset(&piece, 0, sizeof piece);
      piece.values = reinterpret_cast<const u8*>(valueOffset(device, group, delta) + (u64(value) + done) * size);
      piece.start = start + done;
      piece.count = count - done < kPieceElements ? count - done : kPieceElements;
      piece.target = target;
      piece.merge = delta.merge;
      MMSB_TRY(listPush(pieces, piece));
    }
    return int32_t(MMSB_OK);
  });
}

// Writes short runs by index: stages the indices, and lets the pieces point to them.
static int32_t pushIndexed(Device& device, const DeltaGroup& group, const Delta& delta, u32 target,
                           List<DeltaPiece>& pieces) {
  const u32 size = dtypeBytes(delta.slot->page.dtype);
  u64 indices;
  MMSB_TRY(twinPut(device.stage, nullptr, 4ull * delta.valueCount, &indices));
  u32 filled = 0;
  MMSB_TRY(eachRun(delta, [&](u32 start, u32 count, u32) {
    for (u32 i = 0; i < count; i++, filled++) {
      const u32 element = start + i;
      memcpy(device.stage.host + indices + 4ull * filled, &element, 4);
    }
    return int32_t(MMSB_OK);
  }));
  for (u32 done = 0; done < filled; done += kPieceElements) {
    DeltaPiece piece;
    memset(&piece, 0, sizeof piece);
    piece.values = reinterpret_cast<const u8*>(valueOffset(device, group, delta) + u64(done) * size);
    piece.indices = reinterpret_cast<const u32*>(indices + 4ull * done);
    piece.count = filled - done < kPieceElements ? filled - done : kPieceElements;
    piece.target = target;
    piece.merge = delta.merge;
    MMSB_TRY(listPush(pieces, piece));
  }
  return MMSB_OK;
}

// Plans deltas that overlap: each element gets a chain of its writes, in order.
static int32_t planChains(Device& device, const DeltaGroup& group, u32 target, u32 size, Arena& arena) {
  u64 total = 0;
  MMSB_TRY(eachDelta(group, [&](const Delta& delta) {
    total += delta.valueCount;
    return int32_t(MMSB_OK);
  }));
  if (total >= 1ull << 32) return fail(MMSB_ERR_MEMORY, "%llu values overlap in one epoch", (unsigned long long)total);
  RangeSet order = emptySet();  // {element, number of its link}
  order.data = static_cast<Range*>(arenaAlloc(arena, total * sizeof(Range)));
  if (order.data == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for overlapping deltas");
  order.capacity = u32(total);
  u64 linksAt, elementsAt, firstAt, sortedAt;
  MMSB_TRY(twinPut(device.stage, nullptr, total * sizeof(DeltaLink), &linksAt));
  MMSB_TRY(eachDelta(group, [&](const Delta& delta) {
    return eachRun(delta, [&](u32 start, u32 count, u32 value) {
      for (u32 i = 0; i < count; i++) {
        const DeltaLink link = {
            reinterpret_cast<const u8*>(valueOffset(device, group, delta) + (u64(value) + i) * size), delta.merge, 0};
        memcpy(stagedHost<DeltaLink>(device, linksAt) + order.count, &link, sizeof link);
        order.data[order.count] = Range{start + i, order.count};
        order.count++;
      }
      return int32_t(MMSB_OK);
    });
  }));
  if (order.count > 32) rangesSortRadix(order, arena);  // both sorts are stable
  else rangesSortSmall(order.data, order.count);
  MMSB_TRY(twinPut(device.stage, nullptr, total * sizeof(DeltaLink), &sortedAt));
  MMSB_TRY(twinPut(device.stage, nullptr, total * 4, &elementsAt));
  MMSB_TRY(twinPut(device.stage, nullptr, (total + 1) * 4, &firstAt));
  u32 count = 0;
  for (u32 i = 0; i < order.count; i++) {
    stagedHost<DeltaLink>(device, sortedAt)[i] = stagedHost<DeltaLink>(device, linksAt)[order.data[i].count];
    if (i != 0 && order.data[i].start == order.data[i - 1].start) continue;
    stagedHost<u32>(device, elementsAt)[count] = order.data[i].start;
    stagedHost<u32>(device, firstAt)[count++] = i;
  }
  stagedHost<u32>(device, firstAt)[count] = order.count;
  const DeltaChains chains = {reinterpret_cast<const u32*>(elementsAt), reinterpret_cast<const u32*>(firstAt),
                              reinterpret_cast<const DeltaLink*>(sortedAt), count, target};
  u64 at;
  MMSB_TRY(twinPut(device.stage, &chains, sizeof chains, &at));
  Launch launch = launchOf(LAUNCH_CHAINS, target, nullptr);
  launch.chains = ChainLaunch{at, order.count};
  return listPush(device.launches, launch);
}

static int32_t planPageDeltas(Device& device, PageSlot& slot, const DeltaGroup& group, List<DeltaPiece>& pieces,
                              Arena& arena) {
  RangeSet writes = emptySet();
  bool ordered = true;
  MMSB_TRY(eachDelta(group, [&](const Delta& delta) {
    ordered = ordered && delta.ascending;
    return eachRun(delta, [&](u32 start, u32 count, u32) {
      rangesPush(writes, start, count, arena);  // joins neighbours; never overlapping runs of one delta
      return int32_t(MMSB_OK);
    });
  }));
  u64 values = 0;
  MMSB_TRY(eachDelta(group, [&](const Delta& delta) {
    values += delta.valueCount;
    return int32_t(MMSB_OK);
  }));
  const bool overlap = rangesSort(writes, arena) || !ordered || rangesElements(writes) != values;
  rangesJoin(writes);
  rangesCoarsen(writes, kRangesMax);
  u32 target;
  MMSB_TRY(addTarget(device, slot, writes, false, &target));
  if (overlap) return planChains(device, group, target, dtypeBytes(slot.page.dtype), arena);
  return eachDelta(group, [&](const Delta& delta) {
    u32 runs = 0;
    MMSB_TRY(eachRun(delta, [&](u32, u32, u32) {
      runs++;
      return int32_t(MMSB_OK);
    }));
    if (runs > 1 && delta.valueCount / runs < 32) return pushIndexed(device, group, delta, target, pieces);
    return pushPieces(device, group, delta, target, pieces);
  });
}

// Plans all deltas of the list; their pages are on the device.
static int32_t planDeltas(Device& device, Exec& exec, const DeltaList& list, const u8* frames, u64 framesLength) {
  Arena& arena = mainArena(exec);
  u32* next = static_cast<u32*>(arenaAlloc(arena, list.count * sizeof(u32) + 4));
  if (next == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for the deltas of an epoch");
  MMSB_TRY(twinPut(device.stage, frames, framesLength, &device.framesAt));
  for (u64 i = 0; i < list.count; i++) {
    DevicePage& page = *devicePageOf(list.data[i].slot);
    next[i] = ~0u;
    if (page.deltaCall != exec.call) page.firstDelta = u32(i);
    else next[page.lastDelta] = u32(i);
    page.deltaCall = exec.call;
    page.lastDelta = u32(i);
  }
  List<DeltaPiece> pieces = {nullptr, 0, 0};
  int32_t status = MMSB_OK;
  for (u64 i = 0; status == MMSB_OK && i < list.count; i++) {
    PageSlot& slot = *list.data[i].slot;
    if (devicePageOf(&slot)->firstDelta != i) continue;
    status = planPageDeltas(device, slot, DeltaGroup{&list, next, frames, u32(i)}, pieces, arena);
  }
  if (status == MMSB_OK && pieces.count != 0) status = planPieces(device, pieces);
  free(pieces.data);
  return status;
}

// Plans to copy the changes of a mirror, made by a step on the host, to its device page.
static int32_t planMirror(Device& device, PageSlot& slot, const PageSlot& mirror) {
  u32 target;
  MMSB_TRY(addTarget(device, slot, mirror.dirty, true, &target));
  const u32 size = dtypeBytes(slot.page.dtype);
  u64 values;
  MMSB_TRY(twinPut(device.stage, nullptr, rangesElements(mirror.dirty) * size, &values));
  List<DeltaPiece> pieces = {nullptr, 0, 0};
  int32_t status = MMSB_OK;
  for (u32 i = 0; i < mirror.dirty.count && status == MMSB_OK; i++) {
    const Range range = mirror.dirty.data[i];
    memcpy(device.stage.host + values, mirror.page.data + u64(range.start) * size, u64(range.count) * size);
    for (u32 done = 0; done < range.count && status == MMSB_OK; done += kPieceElements) {
      DeltaPiece piece;
      memset(&piece, 0, sizeof piece);
      piece.values = reinterpret_cast<const u8*>(values + u64(done) * size);
      piece.start = range.start + done;
      piece.count = range.count - done < kPieceElements ? range.count - done : kPieceElements;
      piece.target = target;
      piece.merge = MERGE_SET;
      status = listPush(pieces, piece);
    }
    values += u64(range.count) * size;
  }
  if (status == MMSB_OK) status = planPieces(device, pieces);
  free(pieces.data);
  return status;
}

}  // namespace MMSB_NS
}  // namespace mmsb
