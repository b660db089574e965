// How device code changes pages: compare, write, mark what changed; and the digest of the chunks marked.
//
// Invariants: as on the CPU (store.cuh): a mark for exactly the elements whose bytes differ, the page's padding stays zero.
// In one segment (cuda_plan.cuh) an element is written by one thread at most. Chunks that may change are known
// beforehand: the list of `DeviceChunk`s; a page's chunkSlot says which of them a chunk is.
#pragma once
#include "cuda_memory.cuh"
#include "digest.cuh"
#include "eval.cuh"
#include "frame.cuh"

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
  u64* sums;  // two: what is to be added to the page's digest
  u32 dtype, number;
};

// What kernels that write need: the targets, the chunks that may change, and a bit for each of their elements.
struct DeviceMarks {
  const DeviceTarget* targets;
  const DeviceChunk* chunks;
  u32* bits;  // kChunkMarkWords for each chunk
  u32 chunkCount;
};

// Work by the number: number n stands for an element of one of the ranges (as MapWork, which it is passed as).
struct DeviceRanges {
  u32 rangeCount, elements;
  const Range* ranges;
  const u32* first;
};

// A piece of a delta: elements that lie side by side, or at `indices`.
struct DeltaPiece {
  const u8* values;
  const u32* indices;
  u32 start, count;
  u32 target;
  u8 merge, valueDtype, canonical, reserved;
};

// All that happens to one element, in order, where deltas overlap.
struct DeltaLink {
  const u8* value;
  u32 merge, reserved;
};
struct DeltaChains {
  const u32* elements;
  const u32* first;  // count + 1 numbers of links
  const DeltaLink* links;
  u32 count, target;
};

namespace MMSB_NS {

static const u32 kChunkMarkWords = kChunkBytes / 32;  // one byte elements have most
static const u32 kThreads = 256;
static const u32 kPieceElements = 16384;

// ---- elements as raw bits ---------------------------------------------------------------------------------------------

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

// The bits an element holds for a lane (eval.cuh): truncated, NaN canonical.
static MMSB_HD inline u64 rawOfLane(u32 dtype, u64 lane) {
  if (dtype == F32) return bitsOf(canonical(f32Of(u32(lane))));
  if (dtype == F64) return bitsOf(canonical(f64Of(lane)));
  return lane & rawMask(dtypeBytes(dtype));
}

template <class T>
static MMSB_HD inline T mergeFloat(u32 merge, T a, T b) {
  return canonical(merge == MERGE_ADD ? sAdd<T>(a, b) : merge == MERGE_MIN ? sMin<T>(a, b) : sMax<T>(a, b));
}

// One element merged with a value, as raw bits; the rules of merge.cuh.
static MMSB_HD inline u64 mergeRaw(u32 dtype, u32 merge, u64 now, u64 value) {
  if (dtype == BOOL) {
    const u64 a = now != 0, b = value != 0;
    if (merge == MERGE_SET) return b;
    if (merge == MERGE_XOR) return a ^ b;
    return merge == MERGE_MIN || merge == MERGE_AND ? a & b : a | b;
  }
  if (merge == MERGE_SET) return value;
  if (merge == MERGE_AND) return now & value;
  if (merge == MERGE_OR) return now | value;
  if (merge == MERGE_XOR) return now ^ value;
  if (dtype == F32) return bitsOf(mergeFloat(merge, f32Of(u32(now)), f32Of(u32(value))));
  if (dtype == F64) return bitsOf(mergeFloat(merge, f64Of(now), f64Of(value)));
  const u32 size = dtypeBytes(dtype);
  if (merge == MERGE_ADD) return (now + value) & rawMask(size);
  const u64 sign = dtype == I8 || dtype == I16 || dtype == I32 || dtype == I64 ? 1ull << (8 * size - 1) : 0;
  const bool less = (now ^ sign) < (value ^ sign);
  return less == (merge == MERGE_MIN) ? now : value;
}

// ---- writing ------------------------------------------------------------------------------------------------------------

static __device__ inline void markElement(const DeviceMarks& marks, const DeviceTarget& target, u32 element) {
  const u32 perChunk = kChunkBytes / dtypeBytes(target.dtype);
  const u32 chunk = element / perChunk, inChunk = element % perChunk;
  const u32 slot = target.chunkSlot[chunk];
  if (slot >= marks.chunkCount || marks.chunks[slot].page != target.number || marks.chunks[slot].chunk != chunk) return;
  atomicOr(&marks.bits[u64(slot) * kChunkMarkWords + inChunk / 32], 1u << (inChunk % 32));
}

static __device__ inline void putRaw(const DeviceMarks& marks, const DeviceTarget& target, u32 element, u64 raw) {
  const u32 size = dtypeBytes(target.dtype);
  if (loadRaw(size, target.data, element) == raw) return;
  storeRaw(size, target.data, element, raw);
  markElement(marks, target, element);
}

// What steps write through: a lane of dtype `natural` for an element of the page.
struct StoreSink {
  DeviceMarks marks;
  u32 target, natural;
  __device__ void operator()(u32 element, u64 lane) const {
    const DeviceTarget& page = marks.targets[target];
    putRaw(marks, page, element, rawOfLane(page.dtype, natural == page.dtype ? lane : castLane(page.dtype, natural, lane)));
  }
};

// The element that work number `number` stands for.
static __device__ inline u32 elementOf(const DeviceRanges& work, u32 number) {
  u32 low = 0, high = work.rangeCount;
  while (high - low > 1) {
    const u32 middle = (low + high) / 2;
    if (work.first[middle] <= number) low = middle;
    else high = middle;
  }
  return work.ranges[low].start + (number - work.first[low]);
}

// ---- kernels --------------------------------------------------------------------------------------------------------------

// Says where the marks of each chunk are.
static __global__ void chunkSlotKernel(DeviceMarks marks) {
  const u32 threads = gridDim.x * blockDim.x;
  for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < marks.chunkCount; i += threads) {
    marks.targets[marks.chunks[i].page].chunkSlot[marks.chunks[i].chunk] = i;
  }
}

// One block per piece and turn.
static __global__ void deltaKernel(DeviceMarks marks, const DeltaPiece* pieces, u32 count) {
  for (u32 p = blockIdx.x; p < count; p += gridDim.x) {
    const DeltaPiece piece = pieces[p];
    const DeviceTarget& target = marks.targets[piece.target];
    const u32 size = dtypeBytes(target.dtype);
    for (u32 i = threadIdx.x; i < piece.count; i += blockDim.x) {
      const u32 element = piece.indices != nullptr ? piece.indices[i] : piece.start + i;
      const u64 value = loadRaw(size, piece.values, i);
      putRaw(marks, target, element, mergeRaw(target.dtype, piece.merge, loadRaw(size, target.data, element), value));
    }
  }
}

static __global__ void chainKernel(DeviceMarks marks, DeltaChains chains) {
  const u32 threads = gridDim.x * blockDim.x;
  const DeviceTarget& target = marks.targets[chains.target];
  const u32 size = dtypeBytes(target.dtype);
  for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < chains.count; i += threads) {
    u64 raw = loadRaw(size, target.data, chains.elements[i]);
    for (u32 l = chains.first[i]; l < chains.first[i + 1]; l++) {
      raw = mergeRaw(target.dtype, chains.links[l].merge, raw, loadRaw(size, chains.links[l].value, 0));
    }
    putRaw(marks, target, chains.elements[i], raw);
  }
}

static __global__ void copyKernel(const DeviceRanges* work, const u8* from, u32 dtype, StoreSink sink) {
  const u32 threads = gridDim.x * blockDim.x;
  for (u64 number = blockIdx.x * blockDim.x + threadIdx.x; number < work->elements; number += threads) {
    const u32 element = elementOf(*work, u32(number));
    sink(element, loadLane(dtype, from, element));
  }
}

// The NH hash of a chunk by one block; `shared` has two words per warp. Thread 0 gets the result.
static __device__ inline void blockHash(const DeviceTarget& target, u32 chunk, const u32* keys, u64* shared, u64 hash[2]) {
  const u64 at = u64(chunk) * kChunkBytes;
  const u64 left = target.bytes - at;
  const u32 words = left < kChunkBytes ? u32((left + 7) / 8) : kChunkWords;
  u64 sums[2] = {0, 0};
  for (u32 w = threadIdx.x; w < words; w += blockDim.x) {
    const u64 word = reinterpret_cast<const u64*>(target.data + at)[w];
    for (u32 lane = 0; lane < 2; lane++) {
      const u32 k0 = keys[2 * w + lane * kKeyShift], k1 = keys[2 * w + lane * kKeyShift + 1];
      sums[lane] += u64(u32(u32(word) + k0)) * u32(u32(word >> 32) + k1) - u64(k0) * k1;
    }
  }
  for (u32 half = 16; half != 0; half /= 2) {
    sums[0] += __shfl_down_sync(0xffffffffu, sums[0], half);
    sums[1] += __shfl_down_sync(0xffffffffu, sums[1], half);
  }
  const u32 warp = threadIdx.x / 32;
  if (threadIdx.x % 32 == 0) {
    shared[2 * warp] = sums[0];
    shared[2 * warp + 1] = sums[1];
  }
  __syncthreads();
  hash[0] = hash[1] = 0;
  if (threadIdx.x == 0) {
    for (u32 i = 0; i < blockDim.x / 32; i++) {
      hash[0] += shared[2 * i];
      hash[1] += shared[2 * i + 1];
    }
  }
  __syncthreads();
}

// One block per chunk and turn: chunks with a mark are hashed anew. `all`: every chunk of the list.
static __global__ void digestKernel(DeviceMarks marks, const u32* keys, u32 all) {
  __shared__ u64 shared[2 * kThreads / 32];
  for (u32 i = blockIdx.x; i < marks.chunkCount; i += gridDim.x) {
    const DeviceTarget& target = marks.targets[marks.chunks[i].page];
    const u32 chunk = marks.chunks[i].chunk;
    const u32 words = kChunkMarkWords / dtypeBytes(target.dtype);
    u32 marked = all;
    for (u32 w = threadIdx.x; w < words; w += blockDim.x) marked |= marks.bits[u64(i) * kChunkMarkWords + w];
    if (__syncthreads_or(int(marked != 0)) == 0) continue;
    u64 hash[2], before[2], after[2];
    blockHash(target, chunk, keys, shared, hash);
    if (threadIdx.x != 0) continue;
    u64* stored = target.hashes + 2 * u64(chunk);
    chunkShare(chunk, stored, before);
    chunkShare(chunk, hash, after);
    stored[0] = hash[0];
    stored[1] = hash[1];
    atomicAdd(reinterpret_cast<unsigned long long*>(target.sums), static_cast<unsigned long long>(after[0] - before[0]));
    atomicAdd(reinterpret_cast<unsigned long long*>(target.sums + 1), static_cast<unsigned long long>(after[1] - before[1]));
  }
}

static __global__ void fillKernel(u8* data, u32 size, u64 count, u64 raw) {
  const u64 threads = u64(gridDim.x) * blockDim.x;
  for (u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += threads) storeRaw(size, data, i, raw);
}

// Packs the elements of ranges one after another.
static __global__ void gatherKernel(const DeviceRanges* work, const u8* from, u32 size, u8* to) {
  const u32 threads = gridDim.x * blockDim.x;
  for (u64 number = blockIdx.x * blockDim.x + threadIdx.x; number < work->elements; number += threads) {
    storeRaw(size, to, number, loadRaw(size, from, elementOf(*work, u32(number))));
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
