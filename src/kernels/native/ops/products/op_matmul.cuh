// matmul with NumPy's shapes (1-D, 2-D, batched with broadcasting), over four semirings.
//
// Each output element is one chain over k in ascending order, from the semiring's zero: acc = fma(a[k], b[k],
// acc) for floats (one rounding), wrapping for integers, acc = min(acc, a[k] + b[k]) and so on. Cutting rows,
// columns and k into blocks does not change the chains, so every cut, and the GPU, gives the same bits. Both
// inputs are first cast to the natural dtype (bool for or_and).
#pragma once
#include <immintrin.h>

#include "exec/compute.cuh"
#include "ops/common.cuh"
#include "ops/products/matmul_state.cuh"

namespace mmsb {
namespace MMSB_NS {

static const u32 kMatRows = MMSB_SIZE(96, 7);  // rows of a task's tile
static const u32 kMatColumns = MMSB_SIZE(128, 32);
static const u32 kMatDepth = MMSB_SIZE(256, 5);        // values of k processed at once
static const u32 kMatPanel = 16;                       // columns of one call of the inner kernel
static const u32 kMatGroup = 6;                        // rows of one call
static const u32 kMatUnpackedRows = MMSB_SIZE(12, 2);  // for at most this many rows, b is not packed

// ---- the inner kernel -------------------------------------------------------------------------------------

template <class T, class S, u32 GROUP>
static void matGroup(const T* const* a, const T* b, u32 pitch, u32 depth, T* c) {
  T acc[GROUP][kMatPanel];
  for (u32 i = 0; i < GROUP; i++) {
    for (u32 j = 0; j < kMatPanel; j++) acc[i][j] = c[i * kMatColumns + j];
  }
  for (u32 k = 0; k < depth; k++) {
    const T* row = b + u64(k) * pitch;
    for (u32 i = 0; i < GROUP; i++) {
      const T value = a[i][k];
      for (u32 j = 0; j < kMatPanel; j++) acc[i][j] = S::go(acc[i][j], value, row[j]);
    }
  }
  for (u32 i = 0; i < GROUP; i++) {
    for (u32 j = 0; j < kMatPanel; j++) c[i * kMatColumns + j] = acc[i][j];
  }
}

template <class T, class S>
static void matKernel(const void* const* a, u32 group, const void* b, u32 pitch, u32 depth, void* c) {
  const T* const* rows = reinterpret_cast<const T* const*>(a);
  const T* columns = static_cast<const T*>(b);
  T* to = static_cast<T*>(c);
  switch (group) {
    case 1: return matGroup<T, S, 1>(rows, columns, pitch, depth, to);
    case 2: return matGroup<T, S, 2>(rows, columns, pitch, depth, to);
    default: return matGroup<T, S, 3>(rows, columns, pitch, depth, to);
  }
}

template <class T, class S>
static void matZero(void* c, u32 count) {
  T* to = static_cast<T*>(c);
  for (u32 i = 0; i < count; i++) to[i] = S::zero();
}

#if defined(__AVX2__) && defined(__FMA__)
template <u32 GROUP>
static void matGroupF32(const f32* const* a, const f32* b, u32 pitch, u32 depth, f32* c) {
  __m256 acc[GROUP][2];
  for (u32 i = 0; i < GROUP; i++) {
    acc[i][0] = _mm256_loadu_ps(c + i * kMatColumns);
    acc[i][1] = _mm256_loadu_ps(c + i * kMatColumns + 8);
  }
  for (u32 k = 0; k < depth; k++) {
    const __m256 left = _mm256_loadu_ps(b + u64(k) * pitch), right = _mm256_loadu_ps(b + u64(k) * pitch + 8);
    for (u32 i = 0; i < GROUP; i++) {
      const __m256 value = _mm256_broadcast_ss(a[i] + k);
      acc[i][0] = _mm256_fmadd_ps(value, left, acc[i][0]);
      acc[i][1] = _mm256_fmadd_ps(value, right, acc[i][1]);
    }
  }
  for (u32 i = 0; i < GROUP; i++) {
    _mm256_storeu_ps(c + i * kMatColumns, acc[i][0]);
    _mm256_storeu_ps(c + i * kMatColumns + 8, acc[i][1]);
  }
}

// Processes two halves of eight columns, one after the other, with twelve accumulators each.
template <u32 GROUP>
static void matGroupF64(const f64* const* a, const f64* b, u32 pitch, u32 depth, f64* c) {
  for (u32 half = 0; half < kMatPanel; half += 8) {
    __m256d acc[GROUP][2];
    for (u32 i = 0; i < GROUP; i++) {
      acc[i][0] = _mm256_loadu_pd(c + i * kMatColumns + half);
      acc[i][1] = _mm256_loadu_pd(c + i * kMatColumns + half + 4);
    }
    for (u32 k = 0; k < depth; k++) {
      const f64* row = b + u64(k) * pitch + half;
      const __m256d left = _mm256_loadu_pd(row), right = _mm256_loadu_pd(row + 4);
      for (u32 i = 0; i < GROUP; i++) {
        const __m256d value = _mm256_broadcast_sd(a[i] + k);
        acc[i][0] = _mm256_fmadd_pd(value, left, acc[i][0]);
        acc[i][1] = _mm256_fmadd_pd(value, right, acc[i][1]);
      }
    }
    for (u32 i = 0; i < GROUP; i++) {
      _mm256_storeu_pd(c + i * kMatColumns + half, acc[i][0]);
      _mm256_storeu_pd(c + i * kMatColumns + half + 4, acc[i][1]);
    }
  }
}

#define MMSB_MAT_KERNEL(NAME, T, GROUP_FN)                                                          \
  static void NAME(const void* const* a, u32 group, const void* b, u32 pitch, u32 depth, void* c) { \
    const T* const* rows = reinterpret_cast<const T* const*>(a);                                    \
    const T* columns = static_cast<const T*>(b);                                                    \
    T* to = static_cast<T*>(c);                                                                     \
    switch (group) {                                                                                \
      case 1: return GROUP_FN<1>(rows, columns, pitch, depth, to);                                  \
      case 2: return GROUP_FN<2>(rows, columns, pitch, depth, to);                                  \
      case 3: return GROUP_FN<3>(rows, columns, pitch, depth, to);                                  \
      case 4: return GROUP_FN<4>(rows, columns, pitch, depth, to);                                  \
      case 5: return GROUP_FN<5>(rows, columns, pitch, depth, to);                                  \
      default: return GROUP_FN<6>(rows, columns, pitch, depth, to);                                 \
    }                                                                                               \
  }
MMSB_MAT_KERNEL(matKernelF32, f32, matGroupF32)
MMSB_MAT_KERNEL(matKernelF64, f64, matGroupF64)
#undef MMSB_MAT_KERNEL
#else
static const auto matKernelF32 = matKernel<f32, PlusTimes<f32>>;
static const auto matKernelF64 = matKernel<f64, PlusTimes<f64>>;
#endif

template <class T, class S>
static void useKernel(Matmul& m) {
  m.kernel = matKernel<T, S>;
  m.zero = matZero<T, S>;
}

template <class T>
static void useTropical(Matmul& m) {
  if (m.semiring == MMSB_MIN_PLUS) useKernel<T, MinPlus<T>>(m);
  else useKernel<T, MaxPlus<T>>(m);
}

static void chooseKernel(Matmul& m) {
  if (m.dtype == BOOL) return useKernel<u8, OrAnd>(m);
  if (m.semiring == MMSB_PLUS_TIMES) {
    if (m.dtype == F32) {
      m.kernel = matKernelF32;
      m.zero = matZero<f32, PlusTimes<f32>>;
      return;
    }
    if (m.dtype == F64) {
      m.kernel = matKernelF64;
      m.zero = matZero<f64, PlusTimes<f64>>;
      return;
    }
    switch (dtypeBytes(m.dtype)) {
      case 1: return useKernel<u8, PlusTimes<u8>>(m);
      case 2: return useKernel<u16, PlusTimes<u16>>(m);
      case 4: return useKernel<u32, PlusTimes<u32>>(m);
      default: return useKernel<u64, PlusTimes<u64>>(m);
    }
  }
  switch (m.dtype) {
    case U8: return useTropical<u8>(m);
    case I8: return useTropical<i8>(m);
    case U16: return useTropical<u16>(m);
    case I16: return useTropical<i16>(m);
    case U32: return useTropical<u32>(m);
    case I32: return useTropical<i32>(m);
    case U64: return useTropical<u64>(m);
    case I64: return useTropical<i64>(m);
    case F32: return useTropical<f32>(m);
    default: return useTropical<f64>(m);
  }
}

// Rows per call: six for the kernels with intrinsics, three for the others.
static inline u32 groupOf(const Matmul& m) {
#ifdef __AVX2__
  if (m.semiring == MMSB_PLUS_TIMES && m.dtype >= F32) return kMatGroup;
#endif
  (void)m;
  return kMatGroup / 2;
}

// ---- tiles ------------------------------------------------------------------------------------------------

struct MatJob {
  Exec* exec;
  const Step* step;
  const u32* rows;  // row numbers inside their matrix
  const MatTask* tasks;
  StoreOut* outs;
};

// Scratch of a task, in elements of the common dtype.
static const u32 kMatBytesC = kMatRows * kMatColumns;
static const u32 kMatBytesA = kMatRows * kMatDepth;
static const u32 kMatBytesB = kMatDepth * kMatColumns;

// Packs and casts b[k0 .. k0 + depth)[column ..) into panels of kMatPanel columns. The last panel is padded
// with zeros.
static void packB(const Matmul& m, const Page& page, u64 matrix, u32 k0, u32 depth, const MatTask& task, u8* to,
                  u8* wide) {
  const u32 size = dtypeBytes(m.dtype), inSize = dtypeBytes(page.dtype);
  for (u32 panel = 0; panel < task.columnCount; panel += kMatPanel) {
    const u32 width = task.columnCount - panel < kMatPanel ? task.columnCount - panel : kMatPanel;
    const u8* from = page.data + ((matrix * m.depth + k0) * m.columns + task.column + panel) * inSize;
    for (u32 k = 0; k < depth; k++) {
      castBlock(page.dtype, from, m.dtype, to, width, wide);
      if (width < kMatPanel) memset(to + width * size, 0, (kMatPanel - width) * size);
      from += u64(m.columns) * inSize;
      to += kMatPanel * size;
    }
  }
}

static void matTask(void* argument, u32 number, u32 workerNumber) {
  const MatJob& job = *static_cast<MatJob*>(argument);
  const Step& step = *job.step;
  const Matmul& m = *static_cast<const Matmul*>(step.state);
  const MatTask& task = job.tasks[number];
  Worker& worker = job.exec->workers[workerNumber];
  const Page& pageA = *step.inputs[0];
  const Page& pageB = *step.inputs[1];
  const u32 size = dtypeBytes(m.dtype);
  u8* c = worker.scratch;
  u8* packedA = c + u64(kMatBytesC) * size;
  u8* packedB = packedA + u64(kMatBytesA) * size;
  const u64 matrixA = matrixOf(m, m.aStride, task.batch), matrixB = matrixOf(m, m.bStride, task.batch);
  const bool castA = pageA.dtype != m.dtype;
  const bool pack = pageB.dtype != m.dtype || task.rowCount > kMatUnpackedRows || task.columnCount % kMatPanel != 0;
  const u32 group = groupOf(m);
  m.zero(c, kMatBytesC);
  for (u32 k0 = 0; k0 < m.depth && !isCancelled(worker); k0 += kMatDepth) {
    const u32 depth = m.depth - k0 < kMatDepth ? m.depth - k0 : kMatDepth;
    if (pack) packB(m, pageB, matrixB, k0, depth, task, packedB, worker.wide);
    const void* rows[kMatRows];
    for (u32 i = 0; i < task.rowCount; i++) {
      const u64 row = matrixA * m.rows + job.rows[task.rowAt + i];
      const u8* from = pageA.data + (row * m.depth + k0) * dtypeBytes(pageA.dtype);
      rows[i] = from;
      if (castA) {
        castBlock(pageA.dtype, from, m.dtype, packedA + u64(i) * kMatDepth * size, depth, worker.wide);
        rows[i] = packedA + u64(i) * kMatDepth * size;
      }
    }
    for (u32 panel = 0; panel < task.columnCount; panel += kMatPanel) {
      const u8* b = packedB + u64(panel) * depth * size;
      if (!pack) b = pageB.data + ((matrixB * m.depth + k0) * m.columns + task.column + panel) * size;
      for (u32 i = 0; i < task.rowCount; i += group) {
        const u32 count = task.rowCount - i < group ? task.rowCount - i : group;
        m.kernel(rows + i, count, b, pack ? kMatPanel : m.columns, depth, c + (u64(i) * kMatColumns + panel) * size);
      }
    }
  }
  StoreOut out = makeUnorderedOut(&worker.arena);
  for (u32 i = 0; i < task.rowCount; i++) {
    const u64 row = u64(task.batch) * m.rows + job.rows[task.rowAt + i];
    storeValues(step, u32(row * m.columns + task.column), task.columnCount, c + u64(i) * kMatColumns * size, worker,
                out);
  }
  job.outs[number] = out;
}

// ---- what to compute --------------------------------------------------------------------------------------

// Computes the columns [column, column + columnCount) of the rows in `rows`, or, if inverted, of all other
// rows.
static void computeTiles(Step& step, StepRun& run, const RangeSet& rows, bool inverted, u32 column, u32 columnCount) {
  const Matmul& m = *static_cast<const Matmul*>(step.state);
  Exec& exec = *run.exec;
  Arena& arena = mainArena(exec);
  MatTiles tiles = planTiles(m, rows, inverted, column, columnCount, kMatRows, kMatColumns);
  if (tiles.rowCount == 0) return;
  tiles.rows = static_cast<u32*>(arenaAlloc(arena, tiles.rowCount * sizeof(u32)));
  tiles.tasks = static_cast<MatTask*>(arenaAlloc(arena, tiles.taskBound * sizeof(MatTask)));
  StoreOut* outs = static_cast<StoreOut*>(arenaAlloc(arena, tiles.taskBound * sizeof(StoreOut)));
  if (tiles.rows == nullptr || tiles.tasks == nullptr || outs == nullptr) return;
  fillTiles(m, rows, tiles);
  MatJob job = {&exec, &step, tiles.rows, tiles.tasks, outs};
  const u64 elements = tiles.rowCount * columnCount;
  if (worthThreads(exec, f64(elements) * (m.depth + 4) * step.costNs)) {
    if (!poolRun(*exec.pool, tiles.taskCount, matTask, &job)) return;
  } else {
    for (u32 i = 0; i < tiles.taskCount; i++) matTask(&job, i, 0);
  }
  run.elements += elements;
  joinUnordered(exec, step, outs, tiles.taskCount, run.changed);
}

static void runMatmul(Step& step, StepRun& run) {
  if (step.out->elements == 0) return;
  RangeSet rows, columns;
  memset(&rows, 0, sizeof rows);
  memset(&columns, 0, sizeof columns);
  const Matmul& m = *static_cast<const Matmul*>(step.state);
  Exec& exec = *run.exec;
  dirtyMatmul(m, run.full, changesOf(exec, step.inputs[0]), changesOf(exec, step.inputs[1]), rows, columns,
              mainArena(exec));
  computeTiles(step, run, rows, false, 0, m.columns);
  for (u32 i = 0; i < columns.count; i++) {
    computeTiles(step, run, rows, true, columns.data[i].start, columns.data[i].count);
  }
}

// ---- shapes -----------------------------------------------------------------------------------------------

static int32_t matmulShapes(Matmul& m, const Page& a, const Page& b, const Page& out) {
  if (a.rank == 0 || b.rank == 0) return fail(MMSB_ERR_ARGUMENT, "matmul does not take a page of rank 0");
  m.rows = a.rank == 1 ? 1 : a.shape[a.rank - 2];
  m.depth = a.shape[a.rank - 1];
  m.columns = b.rank == 1 ? 1 : b.shape[b.rank - 1];
  if (m.depth != (b.rank == 1 ? b.shape[0] : b.shape[b.rank - 2])) {
    return fail(MMSB_ERR_ARGUMENT, "matmul: inner sizes differ");
  }
  const u32 aBatch = a.rank > 2 ? a.rank - 2 : 0, bBatch = b.rank > 2 ? b.rank - 2 : 0;
  m.batchRank = aBatch > bBatch ? aBatch : bBatch;
  u64 aMatrices = 1, bMatrices = 1, batches = 1;
  for (u32 d = m.batchRank; d-- > 0;) {
    const u32 back = m.batchRank - 1 - d;
    const u32 sizeA = back < aBatch ? a.shape[aBatch - 1 - back] : 1,
              sizeB = back < bBatch ? b.shape[bBatch - 1 - back] : 1;
    if (sizeA != sizeB && sizeA != 1 && sizeB != 1) {
      return fail(MMSB_ERR_ARGUMENT, "matmul: batch axes do not broadcast");
    }
    m.batchShape[d] = sizeA == 1 ? sizeB : sizeA;
    m.aStride[d] = sizeA == 1 ? 0 : u32(aMatrices);
    m.bStride[d] = sizeB == 1 ? 0 : u32(bMatrices);
    aMatrices *= sizeA;
    bMatrices *= sizeB;
    batches *= m.batchShape[d];
    if (batches >> 32 != 0 || aMatrices >> 32 != 0 || bMatrices >> 32 != 0) {
      return fail(MMSB_ERR_ARGUMENT, "matmul: 2^32 matrices or more");
    }
  }
  if ((unsigned __int128)(u64(m.rows) * m.columns) * batches != out.elements) {
    return fail(MMSB_ERR_ARGUMENT, "matmul into a page of %u elements", out.elements);
  }
  m.batches = u32(batches);
  m.aPlain = aMatrices == batches;
  m.bPlain = bMatrices == batches;
  m.bShared = bMatrices == 1;
  if (m.bShared && m.aPlain) {  // treat all as one tall matrix
    m.rows = u32(batches * m.rows);
    m.batches = 1;
    m.batchRank = 0;
  }
  return MMSB_OK;
}

static int32_t prepareMatmul(Step& step) {
  if (step.inputCount != 2 || step.paramBytes < 8) {
    return fail(MMSB_ERR_ARGUMENT, "matmul takes two inputs and 8 bytes of parameters");
  }
  u32 semiring;
  memcpy(&semiring, step.params, 4);
  if (semiring > MMSB_OR_AND) return fail(MMSB_ERR_ARGUMENT, "matmul: unknown semiring %u", semiring);
  const Page& a = *step.inputs[0];
  const Page& b = *step.inputs[1];
  Matmul* m = static_cast<Matmul*>(calloc(1, sizeof(Matmul)));
  if (m == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for a step");
  step.state = m;
  m->semiring = semiring;
  m->dtype = semiring == MMSB_OR_AND ? u8(BOOL) : promote(a.dtype, b.dtype);
  if (m->dtype == DTYPE_COUNT) {
    return fail(MMSB_ERR_ARGUMENT, "matmul: dtypes %u and %u have no common dtype", a.dtype, b.dtype);
  }
  const bool tropical = semiring == MMSB_MIN_PLUS || semiring == MMSB_MAX_PLUS;
  if (tropical && m->dtype == BOOL) {
    return fail(MMSB_ERR_ARGUMENT, "matmul: min_plus and max_plus are not defined for bool");
  }
  const int32_t status = matmulShapes(*m, a, b, *step.out);
  if (status != MMSB_OK) return status;
  if (tropical && m->depth == 0 && step.out->elements != 0) {
    return fail(MMSB_ERR_ARGUMENT, "min, max, argmin and argmax need at least one element");
  }
  chooseKernel(*m);
  step.natural = m->dtype;
  step.scratchBytes = (kMatBytesC + kMatBytesA + kMatBytesB) * dtypeBytes(m->dtype);
  step.costNs = m->dtype >= F32 ? 0.05f : 0.2f;  // per product
  return MMSB_OK;
}

static const Op kOpMatmul = {kHeadMatmul, prepareMatmul, releaseState, nullptr, nullptr, runMatmul};

}  // namespace MMSB_NS
}  // namespace mmsb
