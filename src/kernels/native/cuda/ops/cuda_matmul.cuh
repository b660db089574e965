// matmul on the GPU: tiles of 64 x 64 outputs, 4 x 4 per thread of 256, with 16 values of k at a time in
// shared memory.
//
// Invariants: each output is one chain over k in ascending order, as in op_matmul.cuh, so the bits equal the
// CPU's.
#pragma once
#include "cuda/memory/cuda_store.cuh"
#include "ops/products/matmul_state.cuh"

namespace mmsb {

struct MatDevice {
  Matmul m;
  const u8* a;
  const u8* b;
  u8 dtypeA, dtypeB;
};

namespace MMSB_NS {

static const u32 kMatTile = 64;
static const u32 kMatStep = 16;
static const u32 kMatThreads = 256;
static const u32 kMatEach = 4;  // rows and columns per thread

template <class T, class S>
static __global__ void matmulKernel(const MatDevice* step, const u32* rows, const MatTask* tasks, u32 taskCount,
                                    StoreSink sink) {
  __shared__ T tileA[kMatStep][kMatTile];
  __shared__ T tileB[kMatStep][kMatTile];
  const Matmul& m = step->m;
  const u32 threadRow = threadIdx.x / 16 * kMatEach, threadColumn = threadIdx.x % 16 * kMatEach;
  for (u32 t = blockIdx.x; t < taskCount; t += gridDim.x) {
    const MatTask task = tasks[t];
    const u64 matrixA = matrixOf(m, m.aStride, task.batch), matrixB = matrixOf(m, m.bStride, task.batch);
    T acc[kMatEach][kMatEach];
    for (u32 i = 0; i < kMatEach; i++) {
      for (u32 j = 0; j < kMatEach; j++) acc[i][j] = S::zero();
    }
    for (u32 k0 = 0; k0 < m.depth; k0 += kMatStep) {
      const u32 depth = m.depth - k0 < kMatStep ? m.depth - k0 : kMatStep;
      for (u32 i = threadIdx.x; i < kMatStep * kMatTile; i += kMatThreads) {
        const u32 row = i / kMatStep, k = i % kMatStep;
        if (row < task.rowCount && k < depth) {
          tileA[k][row] =
              loadAs<T>(m.dtype, step->dtypeA, step->a, (matrixA * m.rows + rows[task.rowAt + row]) * m.depth + k0 + k);
        }
      }
      for (u32 i = threadIdx.x; i < kMatStep * kMatTile; i += kMatThreads) {
        const u32 k = i / kMatTile, column = i % kMatTile;
        if (column < task.columnCount && k < depth) {
          tileB[k][column] = loadAs<T>(m.dtype, step->dtypeB, step->b,
                                       (matrixB * m.depth + k0 + k) * m.columns + task.column + column);
        }
      }
      __syncthreads();
      for (u32 k = 0; k < depth; k++) {
        for (u32 i = 0; i < kMatEach; i++) {
          for (u32 j = 0; j < kMatEach; j++) {
            acc[i][j] = S::go(acc[i][j], tileA[k][threadRow + i], tileB[k][threadColumn + j]);
          }
        }
      }
      __syncthreads();
    }
    for (u32 i = 0; i < kMatEach && threadRow + i < task.rowCount; i++) {
      const u64 row = u64(task.batch) * m.rows + rows[task.rowAt + threadRow + i];
      for (u32 j = 0; j < kMatEach && threadColumn + j < task.columnCount; j++) {
        sink(u32(row * m.columns + task.column + threadColumn + j), laneOfValue<T>(m.dtype, acc[i][j]));
      }
    }
  }
}

template <class T, class S>
static void launchMatmulAs(const MatDevice* step, const u32* rows, const MatTask* tasks, u32 taskCount,
                           const StoreSink& sink, u32 blocks, cudaStream_t stream) {
  const auto kernel = matmulKernel<T, S>;
  MMSB_LAUNCH(kernel, taskCount < blocks ? taskCount : blocks, kMatThreads, stream, step, rows, tasks, taskCount, sink);
}

template <class T>
static void launchTropical(const Matmul& m, const MatDevice* step, const u32* rows, const MatTask* tasks, u32 taskCount,
                           const StoreSink& sink, u32 blocks, cudaStream_t stream) {
  if (m.semiring == MMSB_MIN_PLUS) launchMatmulAs<T, MinPlus<T>>(step, rows, tasks, taskCount, sink, blocks, stream);
  else launchMatmulAs<T, MaxPlus<T>>(step, rows, tasks, taskCount, sink, blocks, stream);
}

static void launchMatmul(const Matmul& m, const MatDevice* step, const u32* rows, const MatTask* tasks, u32 taskCount,
                         const StoreSink& sink, u32 blocks, cudaStream_t stream) {
  if (m.dtype == BOOL) return launchMatmulAs<u8, OrAnd>(step, rows, tasks, taskCount, sink, blocks, stream);
  if (m.semiring == MMSB_PLUS_TIMES) {
    if (m.dtype == F32) return launchMatmulAs<f32, PlusTimes<f32>>(step, rows, tasks, taskCount, sink, blocks, stream);
    if (m.dtype == F64) return launchMatmulAs<f64, PlusTimes<f64>>(step, rows, tasks, taskCount, sink, blocks, stream);
    switch (dtypeBytes(m.dtype)) {
      case 1: return launchMatmulAs<u8, PlusTimes<u8>>(step, rows, tasks, taskCount, sink, blocks, stream);
      case 2: return launchMatmulAs<u16, PlusTimes<u16>>(step, rows, tasks, taskCount, sink, blocks, stream);
      case 4: return launchMatmulAs<u32, PlusTimes<u32>>(step, rows, tasks, taskCount, sink, blocks, stream);
      default: return launchMatmulAs<u64, PlusTimes<u64>>(step, rows, tasks, taskCount, sink, blocks, stream);
    }
  }
  switch (m.dtype) {
    case U8: return launchTropical<u8>(m, step, rows, tasks, taskCount, sink, blocks, stream);
    case I8: return launchTropical<i8>(m, step, rows, tasks, taskCount, sink, blocks, stream);
    case U16: return launchTropical<u16>(m, step, rows, tasks, taskCount, sink, blocks, stream);
    case I16: return launchTropical<i16>(m, step, rows, tasks, taskCount, sink, blocks, stream);
    case U32: return launchTropical<u32>(m, step, rows, tasks, taskCount, sink, blocks, stream);
    case I32: return launchTropical<i32>(m, step, rows, tasks, taskCount, sink, blocks, stream);
    case U64: return launchTropical<u64>(m, step, rows, tasks, taskCount, sink, blocks, stream);
    case I64: return launchTropical<i64>(m, step, rows, tasks, taskCount, sink, blocks, stream);
    case F32: return launchTropical<f32>(m, step, rows, tasks, taskCount, sink, blocks, stream);
    default: return launchTropical<f64>(m, step, rows, tasks, taskCount, sink, blocks, stream);
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
