// Kernels that apply deltas, copy, hash and pack, and functions that read elements for other kernels.
//
// Invariants: bytes, marks and hashes equal those of the CPU (exec/store.cuh).
#pragma once
#include "core/delta.cuh"
#include "core/digest.cuh"
#include "cuda/memory/cuda_memory.cuh"
#include "cuda/memory/cuda_sink.cuh"
#include "expr/eval.cuh"

namespace mmsb {

// A piece of a delta: neighbouring elements, or those at `indices`.
struct DeltaPiece {
  const u8* values;
  const u32* indices;
  u32 start, count;
  u32 target;
  u8 merge, valueDtype, canonical, reserved;
};

// Where deltas overlap, each element has a chain of links: all its writes, in order.
struct DeltaLink {
  const u8* value;
  u32 merge, reserved;
};
struct DeltaChains {
  const u32* elements;
  const u32* first;  // count + 1 indices of links
  const DeltaLink* links;
  u32 count, target;
};

// The report of a segment on its chunks: a state for each chunk, and the marks of partly changed chunks,
// packed. So little is read back when whole pages change.
struct DeviceReport {
  u32* mixed;   // number of partly changed chunks
  u32* states;  // kChunkSame, kChunkWhole, or kChunkMixed + the place of the marks
  u32* first;   // marks of the first kMixedInline places, read back with the states
  u32* more;    // marks of the others
};
static const u32 kChunkSame = 0, kChunkWhole = 1, kChunkMixed = 2;
static const u32 kMixedInline = 64;

namespace MMSB_NS {

static const u32 kThreads = 256;
static const u32 kPieceElements = 16384;

template <class T>
static MMSB_HD inline T mergeFloat(u32 merge, T a, T b) {
  return canonical(merge == MERGE_ADD ? sAdd<T>(a, b) : merge == MERGE_MIN ? sMin<T>(a, b) : sMax<T>(a, b));
}

// Merges one element with a value, as raw bits, by the rules of core/merge.cuh.
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

// ---- elements in a dtype of computing ---------------------------------------------------------------------

template <class T>
static __device__ inline T loadAs(u32 to, u32 from, const u8* data, u64 index) {
  const u64 lane = loadLane(from, data, index);
  const u64 raw = rawOfLane(to, from == to ? lane : castLane(to, from, lane));
  T value;
  memcpy(&value, &raw, sizeof value);
  return value;
}

template <class T>
static __device__ inline u64 laneOfValue(u32 dtype, T value) {
  u64 raw = 0;
  memcpy(&raw, &value, sizeof value);
  return loadLane(dtype, &raw, 0);
}

// Loads an element as a word of an accumulator class: I64, U64 or F64. Signed elements wrap into U64.
static __device__ inline u64 wideWordOf(u32 wide, u32 dtype, const void* data, u64 index) {
  const bool isSigned = dtype == I8 || dtype == I16 || dtype == I32 || dtype == I64;
  return castLane(wide == U64 && isSigned ? u32(I64) : wide, dtype, loadLane(dtype, data, index));
}

// Converts such a word to a lane of dtype `natural`. Sums of signed integers are kept as U64.
static __device__ inline u64 narrowWord(u32 natural, u32 wide, u64 word) {
  return natural == wide || (natural == I64 && wide == U64) ? word : castLane(natural, wide, word);
}

// ---- kernels ----------------------------------------------------------------------------------------------

// Fills chunkSlot for all chunks of the list.
static __global__ void chunkSlotKernel(DeviceMarks marks) {
  const u32 threads = gridDim.x * blockDim.x;
  for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < marks.chunkCount; i += threads) {
    marks.targets[marks.chunks[i].page].chunkSlot[marks.chunks[i].chunk] = i;
  }
}

// Each block of threads handles one piece at a time.
static __global__ void deltaKernel(DeviceMarks marks, const DeltaPiece* pieces, u32 count) {
  for (u32 p = blockIdx.x; p < count; p += gridDim.x) {
    const DeltaPiece piece = pieces[p];
    const DeviceTarget& target = marks.targets[piece.target];
    const u32 size = dtypeBytes(target.dtype);
    // Neighbouring elements are distributed so that a warp has those of one word of marks.
    const u32 shift = piece.indices != nullptr ? 0 : piece.start % 32;
    for (u32 base = threadIdx.x - threadIdx.x % 32; base < piece.count + shift; base += blockDim.x) {
      const u32 i = base + threadIdx.x % 32 - shift;
      u32 element = piece.start + i;
      bool changed = false;
      if (i < piece.count) {
        if (piece.indices != nullptr) element = piece.indices[i];
        const u64 value = loadRaw(size, piece.values, i);
        changed = replaceRaw(size, target.data, element,
                             mergeRaw(target.dtype, piece.merge, loadRaw(size, target.data, element), value));
      }
      markWarp(marks, target, element, changed);
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
  eachByWarp(*work,
             [&](bool valid, u32 element) { sink.warp(valid, element, valid ? loadLane(dtype, from, element) : 0); });
}

// Computes the NH hash of a chunk by one block of threads. `shared` has two words per warp. Thread 0 gets the
// result.
static __device__ inline void blockHash(const DeviceTarget& target, u32 chunk, const u32* keys, u64* shared,
                                        u64 hash[2]) {
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

// Each block of threads handles one chunk at a time: it rehashes chunks with marks and puts their marks into
// the report. With `all` it hashes every chunk of the list, without marks or report.
static __global__ void digestKernel(DeviceMarks marks, DeviceReport report, const u32* keys, u32 all) {
  __shared__ u64 shared[2 * kThreads / 32];
  __shared__ u32 place;
  for (u32 i = blockIdx.x; i < marks.chunkCount; i += gridDim.x) {
    const DeviceTarget& target = marks.targets[marks.chunks[i].page];
    const u32 chunk = marks.chunks[i].chunk, size = dtypeBytes(target.dtype);
    const u32 words = kChunkMarkWords / size, perChunk = kChunkBytes / size;
    const u64 left = target.bytes / size - u64(chunk) * perChunk;
    const u32 elements = left < perChunk ? u32(left) : perChunk;
    const u32* const bits = marks.bits + u64(i) * kChunkMarkWords;
    u32 marked = all, missing = 0;
    for (u32 w = threadIdx.x; all == 0 && w < words; w += blockDim.x) {
      const u32 here = elements > 32 * w ? elements - 32 * w : 0;
      marked |= bits[w];
      missing |= bits[w] ^ (here >= 32 ? ~0u : (1u << here) - 1);
    }
    if (__syncthreads_or(int(marked != 0)) == 0) continue;
    const bool whole = __syncthreads_or(int(missing != 0)) == 0;
    if (all == 0) {
      if (threadIdx.x == 0) {
        place = whole ? 0 : atomicAdd(report.mixed, 1u);
        report.states[i] = whole ? kChunkWhole : kChunkMixed + place;
      }
      __syncthreads();
      u32* const to = place < kMixedInline ? report.first + u64(place) * kChunkMarkWords
                                           : report.more + u64(place - kMixedInline) * kChunkMarkWords;
      for (u32 w = threadIdx.x; !whole && w < words; w += blockDim.x) to[w] = bits[w];
    }
    u64 hash[2], before[2], after[2];
    blockHash(target, chunk, keys, shared, hash);
    if (threadIdx.x != 0) continue;
    u64* stored = target.hashes + 2 * u64(chunk);
    chunkShare(chunk, stored, before);
    chunkShare(chunk, hash, after);
    stored[0] = hash[0];
    stored[1] = hash[1];
    atomicAdd(reinterpret_cast<unsigned long long*>(target.sums),
              static_cast<unsigned long long>(after[0] - before[0]));
    atomicAdd(reinterpret_cast<unsigned long long*>(target.sums + 1),
              static_cast<unsigned long long>(after[1] - before[1]));
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
