// A decoded delta command of a frame, as the executors read it. The decoder is abi/frame_decoder.cuh.
//
// Invariants: a record points into the frames and into live pages; its payload, its element range and every
// index lie inside them. The decoder refuses only what would be unsafe for memory; it ignores padding,
// reserved fields and the values of bool.
#pragma once
#include "core/page.cuh"

namespace mmsb {

enum DeltaKind : u8 { DELTA_DENSE = 0, DELTA_SPARSE = 1, DELTA_MASKED = 2 };
enum Merge : u8 { MERGE_SET = 0, MERGE_ADD, MERGE_MIN, MERGE_MAX, MERGE_AND, MERGE_OR, MERGE_XOR, MERGE_COUNT };

struct Delta {
  PageSlot* slot;
  const u8* values;  // unaligned
  const u8* where;   // sparse: u32 indices; masked: bitset or runs; unaligned
  u32 offset, count, valueCount;
  u32 runCount;  // masked, run-length
  u8 kind, merge, runLength;
  u8 ascending;  // sparse: the indices are strictly ascending
};

struct DeltaList {
  Delta* data;
  u64 count, capacity;
  u64 valueBytes;
};

}  // namespace mmsb
