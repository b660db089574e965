// scan, sort and scatter on the GPU.
//
// scan: sums and products of floats must go from element to element. So one thread scans a lane, or, if lanes
// are few and long, a block of threads loads and one thread adds. All other scans are associative to the bit,
// and the whole block computes them.
// sort, and the order in which scatter merges: a radix sort, least significant digit first, 8 bits per pass,
// on pairs of key and place. Digits are counted per tile, summed up, and the pairs moved. The sort is stable,
// so that 0 and -0 come out as on the CPU.
#pragma once
#include "cuda/ops/cuda_move.cuh"
#include "cuda/ops/cuda_select.cuh"
#include "ops/order/lanes_state.cuh"

namespace mmsb {

// Buffers of a sort: `lanes` lists of `n` pairs, twice, and the digit counts of each tile.
template <class K>
struct RadixRoom {
  K* keys[2];
  u32* places[2];
  u32* table;  // per lane, per digit, per tile
  u64 n;
  u32 tiles, lanes;
};

namespace MMSB_NS {

static const u32 kLaneThreads = 256;
static const u32 kScanEach = 4;  // elements per thread in a tile of scan
static const u32 kScanTile = kLaneThreads * kScanEach;
static const u32 kScanLongLanes = 8192;  // with at least this many lanes, one thread scans a lane
static const u32 kRadixRounds = 16;
static const u32 kRadixWarp = 32 * kRadixRounds;  // elements per warp in a tile of sort
static const u32 kRadixTile = kRadixWarp * kLaneThreads / 32;
static const u32 kRadixDigits = 256;
static const u32 kSortShort = 32;  // one thread sorts a lane of at most this many

// ---- scan -------------------------------------------------------------------------------------------------

// Work number -> lane, and the element to recompute it from.
struct ScanWork {
  const DeviceRanges* lanes;
  const u32* from;
};

template <class W>
static __device__ inline W scanBefore(const LaneOp& op, const u8* out, u32 natural, u32 lane, u32 from) {
  return wordAs<W>(wideWordOf(op.wide, natural, out, laneIndex(op.lanes, lane, from - 1)));
}

template <class W>
static __global__ void scanThreadKernel(LaneOp op, const u8* input, u32 dtype, ScanWork work, StoreSink sink) {
  const u32 threads = gridDim.x * blockDim.x;
  const u8* const out = sink.marks.targets[sink.target].data;
  for (u64 number = blockIdx.x * blockDim.x + threadIdx.x; number < work.lanes->elements; number += threads) {
    const u32 range = rangeOf(*work.lanes, u32(number));
    const u32 lane = work.lanes->ranges[range].start + (u32(number) - work.lanes->first[range]),
              from = work.from[range];
    const bool resumed = op.resumes && from != 0;
    W running = resumed ? scanBefore<W>(op, out, sink.natural, lane, from) : W(0);
    for (u32 i = resumed ? from : 0; i < op.lanes.n; i++) {
      const u64 at = laneIndex(op.lanes, lane, i);
      const W value = wordAs<W>(wideWordOf(op.wide, dtype, input, at));
      running = i == 0 ? value : joinBy<W>(op.fn, running, value);
      if (i >= from) sink(u32(at), narrowWord(sink.natural, op.wide, asWord<W>(running)));
    }
  }
}

// Replaces the values in `tile` by their running values. `totals` has room for a word per thread.
template <class W>
static __device__ inline void scanTile(u32 fn, u32 count, bool first, W before, W* tile, W* totals) {
  const u32 at = threadIdx.x * kScanEach;
  for (u32 i = at + 1; i < at + kScanEach && i < count; i++) tile[i] = joinBy<W>(fn, tile[i - 1], tile[i]);
  if (at < count) totals[threadIdx.x] = tile[at + kScanEach < count ? at + kScanEach - 1 : count - 1];
  __syncthreads();
  const u32 parts = (count + kScanEach - 1) / kScanEach;
  for (u32 distance = 1; distance < parts; distance *= 2) {
    const bool joins = threadIdx.x >= distance && threadIdx.x < parts;
    W joined = W(0);
    if (joins) joined = joinBy<W>(fn, totals[threadIdx.x - distance], totals[threadIdx.x]);
    __syncthreads();
    if (joins) totals[threadIdx.x] = joined;
    __syncthreads();
  }
  for (u32 i = at; i < at + kScanEach && i < count; i++) {
    W value = tile[i];
    if (threadIdx.x != 0) value = joinBy<W>(fn, totals[threadIdx.x - 1], value);
    tile[i] = first ? value : joinBy<W>(fn, before, value);
  }
  __syncthreads();
}

// One block of threads per lane. `ordered`: floats, which must be added one after the other.
template <class W>
static __global__ void scanBlockKernel(LaneOp op, const u8* input, u32 dtype, ScanWork work, u32 ordered,
                                       StoreSink sink) {
  __shared__ W tile[kScanTile];
  __shared__ W totals[kLaneThreads];
  const u8* const out = sink.marks.targets[sink.target].data;
  for (u32 number = blockIdx.x; number < work.lanes->elements; number += gridDim.x) {
    const u32 range = rangeOf(*work.lanes, number);
    const u32 lane = work.lanes->ranges[range].start + (number - work.lanes->first[range]), from = work.from[range];
    const bool resumed = op.resumes && from != 0;
    W before = resumed ? scanBefore<W>(op, out, sink.natural, lane, from) : W(0);
    bool first = !resumed;
    for (u64 start = resumed ? from : 0; start < op.lanes.n; start += kScanTile) {
      const u32 count = op.lanes.n - start < kScanTile ? u32(op.lanes.n - start) : kScanTile;
      for (u32 i = threadIdx.x; i < count; i += blockDim.x) {
        tile[i] = wordAs<W>(wideWordOf(op.wide, dtype, input, laneIndex(op.lanes, lane, start + i)));
      }
      __syncthreads();
      if (ordered == 0) {
        scanTile<W>(op.fn, count, first, before, tile, totals);
      } else if (threadIdx.x == 0) {
        W running = before;
        for (u32 i = 0; i < count; i++) {
          running = first && i == 0 ? tile[0] : joinBy<W>(op.fn, running, tile[i]);
          tile[i] = running;
        }
      }
      __syncthreads();
      before = tile[count - 1];
      first = false;
      for (u32 i = threadIdx.x; i < count; i += blockDim.x) {
        if (start + i >= from) {
          sink(u32(laneIndex(op.lanes, lane, start + i)), narrowWord(sink.natural, op.wide, asWord<W>(tile[i])));
        }
      }
      __syncthreads();
    }
  }
}

// ---- radix sort of pairs ----------------------------------------------------------------------------------

template <class K>
static __global__ void radixCountKernel(RadixRoom<K> room, u32 side, u32 shift) {
  __shared__ u32 counts[kRadixDigits];
  const K* const keys = room.keys[side];
  for (u64 task = blockIdx.x; task < u64(room.lanes) * room.tiles; task += gridDim.x) {
    const u64 lane = task / room.tiles, tile = task % room.tiles;
    for (u32 d = threadIdx.x; d < kRadixDigits; d += blockDim.x) counts[d] = 0;
    __syncthreads();
    const u64 first = tile * kRadixTile, end = first + kRadixTile < room.n ? first + kRadixTile : room.n;
    for (u64 i = first + threadIdx.x; i < end; i += blockDim.x) {
      atomicAdd(&counts[u32(keys[lane * room.n + i] >> shift) & 255], 1u);
    }
    __syncthreads();
    for (u32 d = threadIdx.x; d < kRadixDigits; d += blockDim.x) {
      room.table[(lane * kRadixDigits + d) * room.tiles + tile] = counts[d];
    }
    __syncthreads();
  }
}

// Turns counts into the places where the elements of each digit and tile begin. One block per lane.
static __global__ void radixSumKernel(u32* table, u32 tiles, u32 lanes) {
  __shared__ u32 sums[kLaneThreads];
  const u64 entries = u64(kRadixDigits) * tiles;
  for (u32 lane = blockIdx.x; lane < lanes; lane += gridDim.x) {
    u32* const list = table + lane * entries;
    u32 before = 0;
    for (u64 start = 0; start < entries; start += kScanTile) {  // entries is a multiple of 4
      const u64 at = start + threadIdx.x * kScanEach;
      u32 own[kScanEach], sum = 0;
      for (u32 i = 0; i < kScanEach; i++) {
        own[i] = sum;
        sum += at + i < entries ? list[at + i] : 0;
      }
      sums[threadIdx.x] = sum;
      __syncthreads();
      for (u32 distance = 1; distance < blockDim.x; distance *= 2) {
        const u32 other = threadIdx.x >= distance ? sums[threadIdx.x - distance] : 0;
        __syncthreads();
        sums[threadIdx.x] += other;
        __syncthreads();
      }
      const u32 ahead = before + sums[threadIdx.x] - sum;
      for (u32 i = 0; i < kScanEach; i++) {
        if (at + i < entries) list[at + i] = ahead + own[i];
      }
      before += sums[blockDim.x - 1];
      __syncthreads();
    }
  }
}

// Moves each pair of a tile to its place. Warps process neighbouring parts of the tile, 32 elements at a
// time, so that elements with equal digits keep their order.
template <class K>
static __global__ void radixMoveKernel(RadixRoom<K> room, u32 side, u32 shift) {
  __shared__ u32 counts[kLaneThreads / 32][kRadixDigits];
  const u32 warp = threadIdx.x / 32, thread = threadIdx.x % 32;
  for (u64 task = blockIdx.x; task < u64(room.lanes) * room.tiles; task += gridDim.x) {
    const u64 lane = task / room.tiles, tile = task % room.tiles;
    const K* const keys = room.keys[side] + lane * room.n;
    const u64 first = tile * kRadixTile + warp * kRadixWarp;
    for (u32 i = threadIdx.x; i < kLaneThreads / 32 * kRadixDigits; i += blockDim.x) {
      counts[i / kRadixDigits][i % kRadixDigits] = 0;
    }
    __syncthreads();
    u32 ranks[kRadixRounds];
    for (u32 r = 0; r < kRadixRounds; r++) {
      const u64 i = first + 32 * r + thread;
      const u32 digit = i < room.n ? u32(keys[i] >> shift) & 255 : kRadixDigits;
      const u32 peers = __match_any_sync(0xffffffffu, digit), ahead = u32(__popc(peers & ((1u << thread) - 1)));
      const u32 before = digit < kRadixDigits ? counts[warp][digit] : 0;
      ranks[r] = before + ahead;
      __syncwarp();
      if (digit < kRadixDigits && ahead == 0) counts[warp][digit] = before + u32(__popc(peers));
      __syncwarp();
    }
    __syncthreads();
    for (u32 d = threadIdx.x; d < kRadixDigits; d += blockDim.x) {
      u32 place = room.table[(lane * kRadixDigits + d) * room.tiles + tile];
      for (u32 w = 0; w < kLaneThreads / 32; w++) {
        const u32 count = counts[w][d];
        counts[w][d] = place;
        place += count;
      }
    }
    __syncthreads();
    for (u32 r = 0; r < kRadixRounds; r++) {
      const u64 i = first + 32 * r + thread;
      if (i >= room.n) continue;
      const u64 to = lane * room.n + counts[warp][u32(keys[i] >> shift) & 255] + ranks[r];
      room.keys[1 - side][to] = keys[i];
      room.places[1 - side][to] = room.places[side][lane * room.n + i];
    }
    __syncthreads();
  }
}

static inline u32 radixTiles(u64 n) { return u32((n + kRadixTile - 1) / kRadixTile); }

// Bytes of scratch for sorting `lanes` lists of n.
static inline u64 radixBytes(u64 n, u64 lanes, u32 keyBytes) {
  return lanes * (2 * n * (keyBytes + 4) + 4ull * kRadixDigits * radixTiles(n)) + 5 * 256;
}

template <class K>
static RadixRoom<K> radixRoom(void* scratch, u64 n, u32 lanes) {
  u8* at = static_cast<u8*>(scratch);
  const auto take = [&](u64 bytes) {
    u8* const start = at;
    at += (bytes + 255) & ~255ull;
    return start;
  };
  RadixRoom<K> room;
  for (u32 side = 0; side < 2; side++) room.keys[side] = reinterpret_cast<K*>(take(lanes * n * sizeof(K)));
  for (u32 side = 0; side < 2; side++) room.places[side] = reinterpret_cast<u32*>(take(lanes * n * 4));
  room.tiles = radixTiles(n);
  room.table = reinterpret_cast<u32*>(take(4ull * kRadixDigits * room.tiles * lanes));
  room.n = n;
  room.lanes = lanes;
  return room;
}

// Sorts the pairs of side 0 by the lowest `bytes` of their keys. Returns the side with the result.
template <class K>
static u32 launchRadix(const RadixRoom<K>& room, u32 bytes, u32 blocks, cudaStream_t stream) {
  const u64 tasks = u64(room.lanes) * room.tiles;
  const u32 grid = tasks < blocks ? u32(tasks) : blocks;
  const auto count = radixCountKernel<K>;
  const auto move = radixMoveKernel<K>;
  for (u32 pass = 0; pass < bytes; pass++) {
    MMSB_LAUNCH(count, grid, kLaneThreads, stream, room, pass % 2, 8 * pass);
    MMSB_LAUNCH(radixSumKernel, room.lanes < blocks ? room.lanes : blocks, kLaneThreads, stream, room.table, room.tiles,
                room.lanes);
    MMSB_LAUNCH(move, grid, kLaneThreads, stream, room, pass % 2, 8 * pass);
  }
  return bytes % 2;
}

// ---- sort -------------------------------------------------------------------------------------------------

// A key that keeps the order. NaN is last; zeros are equal.
static __device__ inline u64 sortKey(u32 dtype, bool descending, u64 raw) {
  const u32 size = dtypeBytes(dtype);
  const u64 top = 1ull << (8 * size - 1), all = rawMask(size);
  u64 key = raw & all;
  if (dtype >= F32) {
    const u64 infinity = dtype == F32 ? 0x7f800000ull : 0x7ff0000000000000ull;
    if ((key & ~top) > infinity) return all;
    if (key == top) key = 0;
    key = (key & top) != 0 ? ~key & all : key | top;
  } else if (dtype == I8 || dtype == I16 || dtype == I32 || dtype == I64) {
    key ^= top;
  }
  return descending ? ~key & all : key;
}

// Makes the pairs for the lanes with work numbers from `firstNumber` on.
template <class K>
static __global__ void sortKeysKernel(LaneOp op, const u8* input, u32 dtype, const DeviceRanges* work, u32 firstNumber,
                                      RadixRoom<K> room) {
  const u64 threads = u64(gridDim.x) * blockDim.x, n = op.lanes.n;
  for (u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x; i < room.lanes * n; i += threads) {
    const u32 lane = elementOf(*work, firstNumber + u32(i / n));
    room.keys[0][i] =
        K(sortKey(dtype, op.descending, loadRaw(dtypeBytes(dtype), input, laneIndex(op.lanes, lane, i % n))));
    room.places[0][i] = u32(i % n);
  }
}

static __global__ void sortStoreKernel(LaneOp op, const u8* input, u32 dtype, const DeviceRanges* work, u32 firstNumber,
                                       u32 lanes, const u32* places, StoreSink sink) {
  const u64 threads = u64(gridDim.x) * blockDim.x, n = op.lanes.n;
  for (u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x; i < lanes * n; i += threads) {
    const u32 lane = elementOf(*work, firstNumber + u32(i / n));
    sink(u32(laneIndex(op.lanes, lane, i % n)), loadLane(dtype, input, laneIndex(op.lanes, lane, places[i])));
  }
}

static __global__ void sortShortKernel(LaneOp op, const u8* input, u32 dtype, const DeviceRanges* work,
                                       StoreSink sink) {
  const u32 threads = gridDim.x * blockDim.x, n = op.lanes.n;
  for (u64 number = blockIdx.x * blockDim.x + threadIdx.x; number < work->elements; number += threads) {
    const u32 lane = elementOf(*work, u32(number));
    u64 keys[kSortShort];
    u8 places[kSortShort];
    for (u32 i = 0; i < n; i++) {
      const u64 key = sortKey(dtype, op.descending, loadRaw(dtypeBytes(dtype), input, laneIndex(op.lanes, lane, i)));
      u32 at = i;
      for (; at > 0 && keys[at - 1] > key; at--) {
        keys[at] = keys[at - 1];
        places[at] = places[at - 1];
      }
      keys[at] = key;
      places[at] = u8(i);
    }
    for (u32 i = 0; i < n; i++) {
      sink(u32(laneIndex(op.lanes, lane, i)), loadLane(dtype, input, laneIndex(op.lanes, lane, places[i])));
    }
  }
}

template <class K>
static void launchSortAs(const LaneOp& op, const Page& input, const DeviceRanges* work, u32 workLanes, void* scratch,
                         u64 scratchBytes, u32 blocks, const StoreSink& sink, cudaStream_t stream) {
  const u64 n = op.lanes.n, one = radixBytes(n, 1, sizeof(K)), more = radixBytes(n, 2, sizeof(K)) - one;
  const u64 fit = 1 + (scratchBytes - one) / more;  // prepareStep ensured room for one
  const auto fill = sortKeysKernel<K>;
  for (u64 first = 0; first < workLanes; first += fit) {
    const u32 lanes = u32(workLanes - first < fit ? workLanes - first : fit);
    const u64 wanted = (lanes * n + kLaneThreads - 1) / kLaneThreads;
    const u32 grid = wanted < blocks ? u32(wanted) : blocks;
    const RadixRoom<K> room = radixRoom<K>(scratch, n, lanes);
    MMSB_LAUNCH(fill, grid, kLaneThreads, stream, op, input.data, u32(input.dtype), work, u32(first), room);
    const u32 side = launchRadix<K>(room, dtypeBytes(input.dtype), blocks, stream);
    MMSB_LAUNCH(sortStoreKernel, grid, kLaneThreads, stream, op, input.data, u32(input.dtype), work, u32(first), lanes,
                room.places[side], sink);
  }
}

// ---- scatter ----------------------------------------------------------------------------------------------

// Makes pairs of target row and place in the index list; the row is n for an index out of range.
static __global__ void scatterKeysKernel(Indexed g, const u8* indices, u32 dtype, RadixRoom<u32> room) {
  const u32 threads = gridDim.x * blockDim.x;
  for (u64 i = blockIdx.x * blockDim.x + threadIdx.x; i < g.count; i += threads) {
    const u32 row = placeOfIndex(indices, dtype, i, g.n);
    room.keys[0][i] = row == kNowhere ? g.n : row;
    room.places[0][i] = u32(i);
  }
}

// `rows` is sorted; `places` has the place in the index list of each.
static __global__ void scatterKernel(Indexed g, const u8* input, u32 dtype, const u8* values, u32 valueDtype,
                                     const u32* rows, const u32* places, const DeviceRanges* work, StoreSink sink) {
  const u32 threads = gridDim.x * blockDim.x;
  for (u64 number = blockIdx.x * blockDim.x + threadIdx.x; number < work->elements; number += threads) {
    const u32 element = elementOf(*work, u32(number));
    const u32 column = element % g.inner, row = element / g.inner % g.n;
    const u64 from = u64(element / g.inner / g.n) * g.valueStride[0] + column * g.valueStride[2];
    u64 raw = loadRaw(dtypeBytes(dtype), input, element);
    u32 low = 0, high = g.count;
    while (low < high) {
      const u32 middle = low + (high - low) / 2;
      if (rows[middle] < row) low = middle + 1;
      else high = middle;
    }
    for (; low < g.count && rows[low] == row; low++) {
      const u64 lane = loadLane(valueDtype, values, from + places[low] * g.valueStride[1]);
      raw = mergeRaw(dtype, g.merge, raw,
                     rawOfLane(dtype, valueDtype == dtype ? lane : castLane(dtype, valueDtype, lane)));
    }
    sink(element, loadLane(dtype, &raw, 0));
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
