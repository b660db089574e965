// conv, window and distance on the GPU.
//
// Invariants: conv is one chain per output, and window and distance have the trees of op_stencil.cuh and
// distance_sums.cuh, so the bits equal the CPU's. One thread folds a window of up to kWindowShort elements.
// For longer windows a block of threads doubles blocks of elements in a buffer, and each output takes the
// blocks that make up its window.
#pragma once
#include "cuda/ops/cuda_select.cuh"
#include "ops/neighbours/stencil_state.cuh"
#include "ops/products/distance_sums.cuh"
#include "ops/products/matmul_state.cuh"

namespace mmsb {

struct StencilInputs {
  const u8* a;
  const u8* b;
  u32 dtypeA, dtypeB;
};

namespace MMSB_NS {

static const u32 kWindowShort = 64;
static const u32 kWindowDepth = 7;  // most blocks of a short window, plus one
static const u32 kWindowTile =
    4096;  // rows that a block of threads processes at once; the window's size if that is larger
static const u32 kWindowThreads = 256;
static const u32 kDistanceThreads = 256;

// ---- conv -------------------------------------------------------------------------------------------------

template <class T, class S>
static __global__ void convKernel(Conv c, StencilInputs in, const DeviceRanges* work, StoreSink sink) {
  const u32 threads = gridDim.x * blockDim.x;
  for (u64 number = blockIdx.x * blockDim.x + threadIdx.x; number < work->elements; number += threads) {
    const u32 element = elementOf(*work, u32(number));
    const u32 column = element % c.columns, row = element / c.columns % c.rows;
    const u64 batch = u64(element / c.columns / c.rows) * c.rows;
    T acc = T(0);
    for (u32 k = 0; k < c.kernelRows; k++) {
      const u32 fromRow = outside(c.boundary, i64(row) + k - c.centreRow, c.rows);
      for (u32 j = 0; j < c.kernelColumns; j++) {
        const u32 from = outside(c.boundary, i64(column) + j - c.centreColumn, c.columns);
        const bool inside = fromRow != c.rows && from != c.columns;
        const T x = inside ? loadAs<T>(c.dtype, in.dtypeA, in.a, (batch + fromRow) * c.columns + from) : T(0);
        acc = S::go(acc, loadAs<T>(c.dtype, in.dtypeB, in.b, u64(k) * c.kernelColumns + j), x);
      }
    }
    sink(element, laneOfValue<T>(c.dtype, acc));
  }
}

template <class T, class S>
static void launchConvAs(const Conv& c, const StencilInputs& in, const DeviceRanges* work, const StoreSink& sink,
                         u32 blocks, cudaStream_t stream) {
  const auto kernel = convKernel<T, S>;
  MMSB_LAUNCH(kernel, blocks, kThreads, stream, c, in, work, sink);
}

static void launchConv(const Conv& c, const StencilInputs& in, const DeviceRanges* work, const StoreSink& sink,
                       u32 blocks, cudaStream_t stream) {
  if (c.dtype == BOOL) return launchConvAs<u8, OrAnd>(c, in, work, sink, blocks, stream);
  if (c.dtype == F32) return launchConvAs<f32, PlusTimes<f32>>(c, in, work, sink, blocks, stream);
  if (c.dtype == F64) return launchConvAs<f64, PlusTimes<f64>>(c, in, work, sink, blocks, stream);
  switch (dtypeBytes(c.dtype)) {
    case 1: return launchConvAs<u8, PlusTimes<u8>>(c, in, work, sink, blocks, stream);
    case 2: return launchConvAs<u16, PlusTimes<u16>>(c, in, work, sink, blocks, stream);
    case 4: return launchConvAs<u32, PlusTimes<u32>>(c, in, work, sink, blocks, stream);
    default: return launchConvAs<u64, PlusTimes<u64>>(c, in, work, sink, blocks, stream);
  }
}

// ---- window -----------------------------------------------------------------------------------------------

template <class W>
static __device__ inline u64 windowLane(const Window& w, u32 natural, W fold, u32 length) {
  if (w.fn == MMSB_REDUCE_MEAN) return castLane(natural, F64, asWord<f64>(f64(fold) / f64(length)));
  return narrowWord(natural, w.wide, asWord<W>(fold));
}

template <class W>
static __global__ void windowShortKernel(Window w, const u8* input, u32 dtype, const DeviceRanges* work,
                                         StoreSink sink) {
  const u32 threads = gridDim.x * blockDim.x, inner = w.lanes.inner;
  for (u64 number = blockIdx.x * blockDim.x + threadIdx.x; number < work->elements; number += threads) {
    const u32 element = elementOf(*work, u32(number));
    const u32 row = element / inner % w.lanes.n;
    const u32 length = row + 1 < w.size ? row + 1 : w.size;
    const u64 oldest = element - u64(length - 1) * inner;
    W stack[kWindowDepth + 1];  // blocks of powers of two, largest first
    u32 depth = 0;
    for (u32 i = 0; i < length; i++) {
      W block = wordAs<W>(wideWordOf(w.wide, dtype, input, oldest + u64(i) * inner));
      for (u32 joins = i + 1; (joins & 1) == 0; joins /= 2) block = joinBy<W>(w.fn, stack[--depth], block);
      stack[depth++] = block;
    }
    W fold = stack[--depth];
    while (depth != 0) fold = joinBy<W>(w.fn, stack[--depth], fold);
    sink(element, windowLane<W>(w, sink.natural, fold, length));
  }
}

// Computes rows [rowFirst, rowEnd) of the lanes of `work`. A block of threads processes `tile` rows at a
// time, with three buffers of `room` words in `scratch`.
template <class W>
static __global__ void windowLongKernel(Window w, const u8* input, u32 dtype, const DeviceRanges* work, u32 rowFirst,
                                        u32 rowEnd, u32 tile, u64* scratch, u64 room, StoreSink sink) {
  const u32 tiles = (rowEnd - rowFirst + tile - 1) / tile;
  W* const acc = reinterpret_cast<W*>(scratch + 3 * room * blockIdx.x);
  for (u64 task = blockIdx.x; task < u64(work->elements) * tiles; task += gridDim.x) {
    const u32 lane = elementOf(*work, u32(task / tiles));
    const u32 first = rowFirst + u32(task % tiles) * tile, end = rowEnd - first < tile ? rowEnd : first + tile;
    const u32 base = first < w.size - 1 ? 0 : first - (w.size - 1), length = end - base;
    W* x = acc + room;
    W* next = x + room;
    for (u32 i = threadIdx.x; i < length; i += blockDim.x) {
      x[i] = wordAs<W>(wideWordOf(w.wide, dtype, input, laneIndex(w.lanes, lane, base + i)));
    }
    __syncthreads();
    for (u32 block = 1; block <= w.size; block *= 2) {
      for (u32 row = first + threadIdx.x; row < end; row += blockDim.x) {
        const u32 size = row + 1 < w.size ? row + 1 : w.size;
        if ((size & block) == 0) continue;
        const W value = x[row + 1 - size + (size & ~(2 * block - 1)) - base];  // larger blocks are older
        acc[row - first] = (size & (block - 1)) != 0 ? joinBy<W>(w.fn, value, acc[row - first]) : value;
      }
      for (u32 i = threadIdx.x; u64(i) + 2ull * block <= length; i += blockDim.x) {
        next[i] = joinBy<W>(w.fn, x[i], x[i + block]);
      }
      __syncthreads();
      W* const swap = x;
      x = next;
      next = swap;
    }
    for (u32 row = first + threadIdx.x; row < end; row += blockDim.x) {
      const u32 size = row + 1 < w.size ? row + 1 : w.size;
      sink(u32(laneIndex(w.lanes, lane, row)), windowLane<W>(w, sink.natural, acc[row - first], size));
    }
    __syncthreads();
  }
}

// ---- distance ---------------------------------------------------------------------------------------------

static __device__ inline PlainSum::Part<f64> ofLaneAbove(const PlainSum::Part<f64>& own, u32 by) {
  return {__shfl_down_sync(0xffffffffu, own.sum, by)};
}
static __device__ inline DoubleSum::Part<f64> ofLaneAbove(const DoubleSum::Part<f64>& own, u32 by) {
  return {__shfl_down_sync(0xffffffffu, own.sum, by), __shfl_down_sync(0xffffffffu, own.error, by)};
}

// A query and a vector of pages, taken as T. A whole warp computes each sum, and all its threads get it.
template <class SUM, class T>
struct WarpRows {
  typedef SUM Sum;
  StencilInputs in;
  u32 natural, depth;
  u64 query, vector;  // places of the first elements
  Scale queryScale, vectorScale;

  __device__ inline WarpRows scaled(Scale forQuery, Scale forVector) const {
    return WarpRows{in, natural, depth, query, vector, forQuery, forVector};
  }
  __device__ inline f64 queryAt(u32 i) const {
    return f64(loadAs<T>(natural, in.dtypeA, in.a, query + i)) * queryScale.first * queryScale.second;
  }
  __device__ inline f64 vectorAt(u32 i) const {
    return f64(loadAs<T>(natural, in.dtypeB, in.b, vector + i)) * vectorScale.first * vectorScale.second;
  }

  template <class Term>
  __device__ f64 sum(const Term& term) const {
    const u32 lane = threadIdx.x % 32;
    typename SUM::template Part<f64> own = {};
    for (u32 i = lane; i < depth; i += 32) {
      f64 x, y;
      term.factors(queryAt(i), vectorAt(i), x, y);
      own.add(x, y);
    }
    for (u32 half = kDistanceLanes / 2; half != 0; half /= 2) {
      const auto other = ofLaneAbove(own, half);
      if (lane < half) own.join(other);
    }
    return __shfl_sync(0xffffffffu, own.total(), 0);
  }

  template <class A, class B>
  __device__ f64 sums(const A& a, const B& b, f64& sumOfB) const {
    sumOfB = sum(b);
    return sum(a);
  }

  // The order does not matter: only infinities and NaN decide.
  __device__ f64 signSum() const {
    f64 sum = 0;
    for (u32 i = 0; i < depth; i++) sum += signOf(queryAt(i)) * signOf(vectorAt(i));
    return sum;
  }

  template <class Term>
  __device__ f64 largest(const Term& term) const {
    f64 most = 0;
    for (u32 i = threadIdx.x % 32; i < depth; i += 32) {
      f64 x, y;
      term.factors(queryAt(i), vectorAt(i), x, y);
      most = largerOf(most, x);
    }
    for (u32 half = 16; half != 0; half /= 2) most = largerOf(most, __shfl_xor_sync(0xffffffffu, most, half));
    return most;
  }
};

template <class SUM, class T>
static __global__ void distanceKernel(Distance d, StencilInputs in, const DeviceRanges* work, StoreSink sink) {
  const u32 warps = gridDim.x * blockDim.x / 32, natural = sink.natural;
  for (u64 number = (blockIdx.x * blockDim.x + threadIdx.x) / 32; number < work->elements; number += warps) {
    const u32 element = elementOf(*work, u32(number));
    const u64 query = u64(element / d.vectors) * d.depth, vector = u64(element % d.vectors) * d.depth;
    const WarpRows<SUM, T> rows = {in, natural, d.depth, query, vector, {1, 1}, {1, 1}};
    const f64 square = d.metric == METRIC_COSINE ? rows.sum(QuerySquare()) : 0;
    const f64 result = distanceOf(d.metric, rows, square);
    if (threadIdx.x % 32 == 0) sink(element, laneOfValue<T>(natural, T(result)));
  }
}

// ---- distance, version 1 ----------------------------------------------------------------------------------

// Computes the sum over a vector by a whole warp. All threads get it.
template <class T, class F>
static __device__ inline T warpSum(u32 natural, const u8* a, u32 dtypeA, u64 atA, const u8* b, u32 dtypeB, u64 atB,
                                   u32 depth) {
  const u32 lane = threadIdx.x % 32;
  T acc = 0;
  for (u32 i = lane; i < depth; i += 32) {
    acc = F::template go<T>(acc, loadAs<T>(natural, dtypeA, a, atA + i), loadAs<T>(natural, dtypeB, b, atB + i));
  }
  for (u32 half = kDistanceLanes / 2; half != 0; half /= 2) {
    const T other = __shfl_down_sync(0xffffffffu, acc, half);
    if (lane < half) acc = acc + other;
  }
  return __shfl_sync(0xffffffffu, acc, 0);
}

template <class T>
static __global__ void distance1Kernel(Distance d, StencilInputs in, const DeviceRanges* work, StoreSink sink) {
  const u32 warps = gridDim.x * blockDim.x / 32, natural = sink.natural;
  for (u64 number = (blockIdx.x * blockDim.x + threadIdx.x) / 32; number < work->elements; number += warps) {
    const u32 element = elementOf(*work, u32(number));
    const u64 query = u64(element / d.vectors) * d.depth, vector = u64(element % d.vectors) * d.depth;
    T result;
    if (d.metric == METRIC_L2) {
      result = sSqrt(warpSum<T, TakeSquare>(natural, in.a, in.dtypeA, query, in.b, in.dtypeB, vector, d.depth));
    } else {
      result = warpSum<T, TakeDot>(natural, in.a, in.dtypeA, query, in.b, in.dtypeB, vector, d.depth);
    }
    if (d.metric == METRIC_COSINE) {
      const T normA = sSqrt(warpSum<T, TakeDot>(natural, in.a, in.dtypeA, query, in.a, in.dtypeA, query, d.depth));
      const T normB = sSqrt(warpSum<T, TakeDot>(natural, in.b, in.dtypeB, vector, in.b, in.dtypeB, vector, d.depth));
      result = T(1) - result / (normA * normB);
    }
    if (threadIdx.x % 32 == 0) sink(element, laneOfValue<T>(natural, result));
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
