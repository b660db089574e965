// Lists of element ranges: sorting, joining, and coarsening to a bound.
//
// Invariant: the ranges of a canonical set are ascending, disjoint and not touching, and the set depends only
// on the elements in it. A set that is longer than a bound is coarsened: gaps of fewer than 2, 4, 8, ...
// elements are closed until it fits. The result again depends only on the elements, because closing gaps
// below g and then below 2g equals closing gaps below 2g at once.
#pragma once
#include "core/op.cuh"

namespace mmsb {
namespace MMSB_NS {

// Bound on the dirty ranges of a page during a call. The ABI's bound on reported ranges is smaller.
static const u32 kRangesMax = MMSB_SIZE(65536, 300);
static const u32 kReportedRangesMax = 256;

static void rangesClose(RangeSet& set, u64 gap) {
  if (set.count == 0) return;
  u32 kept = 0;
  for (u32 i = 1; i < set.count; i++) {
    Range& last = set.data[kept];
    const Range next = set.data[i];
    if (u64(next.start) - (u64(last.start) + last.count) < gap) last.count = next.start + next.count - last.start;
    else set.data[++kept] = next;
  }
  set.count = kept + 1;
  set.gap = gap > 0xffffffffu ? 0xffffffffu : u32(gap);
}

// Shortens an ascending, disjoint set to at most `bound` ranges.
static void rangesCoarsen(RangeSet& set, u32 bound) {
  u64 gap = set.gap > 1 ? set.gap : 1;
  if (gap > 1) rangesClose(set, gap);
  while (set.count > bound) {
    gap *= 2;
    rangesClose(set, gap);
  }
}

// rangesPush for any number of ascending ranges. Coarsens on the way, so that memory stays bounded.
static inline void rangesPushAscending(RangeSet& set, u32 start, u32 count, Arena& arena) {
  if (set.gap > 1 && set.count != 0) {
    Range& last = set.data[set.count - 1];
    if (start - (last.start + last.count) < set.gap) {
      last.count = start + count - last.start;
      return;
    }
  }
  rangesPush(set, start, count, arena);
  if (set.count >= 2 * kRangesMax) rangesCoarsen(set, kRangesMax);
}

static void rangesSortSmall(Range* data, u32 count) {
  for (u32 i = 1; i < count; i++) {
    const Range range = data[i];
    u32 at = i;
    for (; at > 0 && data[at - 1].start > range.start; at--) data[at] = data[at - 1];
    data[at] = range;
  }
}

static const u32 kSortSmallMax = MMSB_SIZE(32, 3);
static const u32 kSortBits = MMSB_SIZE(11, 3);
static const u32 kSortDigits = 1u << kSortBits;

// Radix sort, least significant digit first. Skips passes where all digits are equal.
static void rangesSortRadix(RangeSet& set, Arena& arena) {
  Range* other = static_cast<Range*>(arenaAlloc(arena, u64(set.count) * sizeof(Range)));
  if (other == nullptr) return;
  Range* from = set.data;
  Range* to = other;
  for (u32 shift = 0; shift < 32; shift += kSortBits) {
    u32 counts[kSortDigits] = {};
    for (u32 i = 0; i < set.count; i++) counts[(from[i].start >> shift) & (kSortDigits - 1)]++;
    if (counts[(from[0].start >> shift) & (kSortDigits - 1)] == set.count) continue;
    u32 sum = 0;
    for (u32 d = 0; d < kSortDigits; d++) {
      const u32 n = counts[d];
      counts[d] = sum;
      sum += n;
    }
    for (u32 i = 0; i < set.count; i++) to[counts[(from[i].start >> shift) & (kSortDigits - 1)]++] = from[i];
    Range* swap = from;
    from = to;
    to = swap;
  }
  if (from != set.data) memcpy(set.data, from, u64(set.count) * sizeof(Range));
}

// Sorts by start. Returns whether any two ranges overlap.
static bool rangesSort(RangeSet& set, Arena& arena) {
  bool ascending = true;
  for (u32 i = 1; i < set.count && ascending; i++) ascending = set.data[i - 1].start <= set.data[i].start;
  if (!ascending) {
    if (set.count <= kSortSmallMax) rangesSortSmall(set.data, set.count);
    else rangesSortRadix(set, arena);
  }
  for (u32 i = 1; i < set.count; i++) {
    if (set.data[i].start < set.data[i - 1].start + set.data[i - 1].count) return true;
  }
  return false;
}

// Joins overlapping and touching ranges of a set sorted by start.
static void rangesJoin(RangeSet& set) {
  if (set.count == 0) return;
  u32 kept = 0;
  for (u32 i = 1; i < set.count; i++) {
    Range& last = set.data[kept];
    const Range next = set.data[i];
    const u32 lastEnd = last.start + last.count, nextEnd = next.start + next.count;
    if (next.start <= lastEnd) {
      if (nextEnd > lastEnd) last.count = nextEnd - last.start;
    } else {
      set.data[++kept] = next;
    }
  }
  set.count = kept + 1;
}

// Makes the set canonical. The ranges may be in any order.
static void rangesNormalise(RangeSet& set, Arena& arena) {
  if (set.count < 2) return;
  rangesSort(set, arena);
  rangesJoin(set);
  rangesCoarsen(set, kRangesMax);
}

static u64 rangesElements(const RangeSet& set) {
  u64 sum = 0;
  for (u32 i = 0; i < set.count; i++) sum += set.data[i].count;
  return sum;
}

}  // namespace MMSB_NS
}  // namespace mmsb
