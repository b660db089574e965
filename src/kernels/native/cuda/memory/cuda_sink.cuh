// Writes to pages from device code: compares, writes and marks what changed.
//
// Invariants: as on the CPU (exec/store.cuh), exactly the elements whose bytes differ are marked, and the
// padding of a page stays zero. In one segment (cuda_plan.cuh) at most one thread writes an element. The
// chunks that may change are known beforehand, as a list of `DeviceChunk`s; chunkSlot maps a chunk of a page
// to its place in the list. NVRTC compiles this file too.
#pragma once
#include "portable/lane.cuh"

namespace mmsb {

struct DeviceChunk {
  u32 page;   // index in the table of DeviceTargets
  u32 chunk;  // of the page
};

// A page that a segment may write, in device memory.
struct DeviceTarget {
  u8* data;
  u64* hashes;
  u32* chunkSlot;
  u64 bytes;
  u64* sums;  // two words to add to the page's digest
  u32 dtype, number;
};

// The targets, the chunks that may change, and a mark bit for each of their elements.
struct DeviceMarks {
  const DeviceTarget* targets;
  const DeviceChunk* chunks;
  u32* bits;  // kChunkMarkWords for each chunk
  u32 chunkCount;
};

// Numbered work: number first[i] + n is element n of range i.
struct DeviceRanges {
  u32 rangeCount, elements;
  const Range* ranges;
  const u32* first;
};

namespace MMSB_NS {

static const u32 kChunkMarkWords = kChunkBytes / 32;  // enough for elements of one byte

// ---- elements as raw bits ---------------------------------------------------------------------------------

static __device__ inline u64 loadRaw(u32 size, const void* data, u64 index) {
  switch (size) {
    case 1: return static_cast<const u8*>(data)[index];
    case 2: return static_cast<const u16*>(data)[index];
    case 4: return static_cast<const u32*>(data)[index];
    default: return static_cast<const u64*>(data)[index];
  }
}
static __device__ inline void storeRaw(u32 size, void* data, u64 index, u64 raw) {
  switch (size) {
    case 1: static_cast<u8*>(data)[index] = u8(raw); break;
    case 2: static_cast<u16*>(data)[index] = u16(raw); break;
    case 4: static_cast<u32*>(data)[index] = u32(raw); break;
    default: static_cast<u64*>(data)[index] = raw;
  }
}

static MMSB_HD inline u64 rawMask(u32 size) { return size == 8 ? ~0ull : (1ull << (8 * size)) - 1; }

// The bits that an element stores for a lane: truncated, NaN canonical.
static MMSB_HD inline u64 rawOfLane(u32 dtype, u64 lane) {
  if (dtype == F32) return bitsOf(canonical(f32Of(u32(lane))));
  if (dtype == F64) return bitsOf(canonical(f64Of(lane)));
  return lane & rawMask(dtypeBytes(dtype));
}

// ---- writing ----------------------------------------------------------------------------------------------

// Sets `bits` in the word of marks that contains `element`.
static __device__ inline void markWord(const DeviceMarks& marks, const DeviceTarget& target, u32 element, u32 bits) {
  const u32 perChunk = kChunkBytes / dtypeBytes(target.dtype);
  const u32 chunk = element / perChunk, inChunk = element % perChunk;
  const u32 slot = target.chunkSlot[chunk];
  if (slot >= marks.chunkCount || marks.chunks[slot].page != target.number || marks.chunks[slot].chunk != chunk) return;
  atomicOr(&marks.bits[u64(slot) * kChunkMarkWords + inChunk / 32], bits);
}
static __device__ inline void markElement(const DeviceMarks& marks, const DeviceTarget& target, u32 element) {
  markWord(marks, target, element, 1u << (element % 32));
}

// The same for a whole warp; all its threads must call. One atomic access if its elements share a word.
static __device__ inline void markWarp(const DeviceMarks& marks, const DeviceTarget& target, u32 element,
                                       bool changed) {
  const u32 thread = threadIdx.x % 32;
  const u32 bits = __ballot_sync(0xffffffffu, int(changed));
  if (bits == 0) return;
  const u32 word = __shfl_sync(0xffffffffu, element / 32, 0);
  if (__all_sync(0xffffffffu, int(element % 32 == thread && element / 32 == word)) != 0) {
    if (thread == 0) markWord(marks, target, element, bits);
  } else if (changed) {
    markElement(marks, target, element);
  }
}

// Stores the bits of an element. Returns whether they changed.
static __device__ inline bool replaceRaw(u32 size, u8* data, u32 element, u64 raw) {
  if (loadRaw(size, data, element) == raw) return false;
  storeRaw(size, data, element, raw);
  return true;
}

static __device__ inline void putRaw(const DeviceMarks& marks, const DeviceTarget& target, u32 element, u64 raw) {
  if (replaceRaw(dtypeBytes(target.dtype), target.data, element, raw)) markElement(marks, target, element);
}

// Writes results of steps: lanes of dtype `natural` to elements of the page.
struct StoreSink {
  DeviceMarks marks;
  u32 target, natural;
  __device__ void operator()(u32 element, u64 lane) const {
    const DeviceTarget& page = marks.targets[target];
    putRaw(marks, page, element, rawOf(page.dtype, lane));
  }
  // The same for a whole warp; threads that are not `valid` store nothing.
  __device__ void warp(bool valid, u32 element, u64 lane) const {
    const DeviceTarget& page = marks.targets[target];
    const bool changed = valid && replaceRaw(dtypeBytes(page.dtype), page.data, element, rawOf(page.dtype, lane));
    markWarp(marks, page, element, changed);
  }
  __device__ u64 rawOf(u32 dtype, u64 lane) const {
    return rawOfLane(dtype, natural == dtype ? lane : castLane(dtype, natural, lane));
  }
};

// The range that contains work number `number`.
static __device__ inline u32 rangeOf(const DeviceRanges& work, u32 number) {
  u32 low = 0, high = work.rangeCount;
  while (high - low > 1) {
    const u32 middle = (low + high) / 2;
    if (work.first[middle] <= number) low = middle;
    else high = middle;
  }
  return low;
}
static __device__ inline u32 elementOf(const DeviceRanges& work, u32 number) {
  const u32 range = rangeOf(work, number);
  return work.ranges[range].start + (number - work.first[range]);
}

// Calls body(valid, element) for all work, by whole warps. Threads past the end call it with valid = false.
template <class Body>
static __device__ inline void eachByWarp(const DeviceRanges& work, const Body& body) {
  const u32 threads = gridDim.x * blockDim.x, thread = threadIdx.x % 32;
  for (u64 base = blockIdx.x * blockDim.x + threadIdx.x - thread; base < work.elements; base += threads) {
    const bool valid = base + thread < work.elements;
    body(valid, valid ? elementOf(work, u32(base) + thread) : 0xffffffffu);
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
