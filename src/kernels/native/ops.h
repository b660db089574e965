// The table of all ops, and the layout of their parameter blocks. src/kernels/ops has the same codes,
// versions and layouts; a test compares codes and versions through mmsb_catalogue. Codes are stored in logs
// and never change meaning. docs/internals/ADD-AN-OP.md says how to add an op.
#pragma once
#include <stdint.h>

// OP(name, Name, NAME, code, version, launch). The entry of an op is kOp<Name> (ops/), its code
// MMSB_OP_<NAME>. The version rises when the bits of any result change. `launch` starts its kernels on a GPU
// (cuda/plan/cuda_launch.cuh); nullptr if it runs on the host.
//
// The row of an op has its newest version. MMSB_OLD_OPS has the earlier ones, which pages of older logs use.
//
// Every parameter block starts at a multiple of 8 and is padded to a multiple of 8. Axes are normalised
// (0..rank-1).
// clang-format off
#define MMSB_OPS(OP) \
  /* params: none. in: x. out has x's shape */ \
  OP(copy, Copy, COPY, 1, 1, launchCopy) \
  /* params: none. in: x. out dtype is the target; saturating */ \
  OP(cast, Cast, CAST, 2, 1, launchCopy) \
  /* params: an IR blob (docs/internals/FORMAT.md). in: one page per IR input, broadcast */ \
  OP(map, Map, MAP, 3, 1, launchMapStep) \
  /* params: u32 fn, u32 axes_mask, u32 keepdims, u32 0. in: x */ \
  OP(reduce, Reduce, REDUCE, 4, 1, launchReduce) \
  /* params: u32 semiring, u32 0. in: a, b. NumPy matmul shapes, 1-D and batched included */ \
  OP(matmul, Matmul, MATMUL, 5, 1, launchMatmulStep) \
  /* params: f64 q, i32 axis (-1: all elements), u32 0. in: x */ \
  OP(quantile, Quantile, QUANTILE, 6, 2, launchQuantile) \
  /* params: u32 k, u32 axis, u32 output (0 indices, 1 values), u32 largest. in: x */ \
  OP(topk, Topk, TOPK, 7, 1, launchTopk) \
  /* params: u32 fn (sum prod min max of mmsb_reduce_fn), u32 axis. in: x */ \
  OP(scan, Scan, SCAN, 8, 1, launchScan) \
  /* params: u32 boundary (0 zero, 1 wrap, 2 edge), u32 0. in: x, kernel */ \
  OP(conv, Conv, CONV, 9, 1, launchConvStep) \
  /* params: u32 fn (sum min max mean of mmsb_reduce_fn), u32 size, u32 axis, u32 0. in: x */ \
  OP(window, Window, WINDOW, 10, 1, launchWindow) \
  /* params: u32 axis, u32 descending. in: x */ \
  OP(sort, Sort, SORT, 11, 1, launchSort) \
  /* params: u32 axis, u32 0. in: x, indices */ \
  OP(gather, Gather, GATHER, 12, 1, launchGather) \
  /* params: u32 axis, u32 merge (as a delta's). in: x, indices, values */ \
  OP(scatter, Scatter, SCATTER, 13, 1, launchScatter) \
  /* params: u32 length, u32 0. in: x */ \
  OP(bincount, Bincount, BINCOUNT, 14, 1, launchCounting) \
  /* params: u32 bins, u32 0, f64 low, f64 high. in: x */ \
  OP(histogram, Histogram, HISTOGRAM, 15, 1, launchCounting) \
  /* params: u32 axes[rank], padded to 8. in: x */ \
  OP(transpose, Transpose, TRANSPOSE, 16, 1, launchView) \
  /* params: u32 rank, u32 shape[rank], padded to 8. in: x */ \
  OP(reshape, Reshape, RESHAPE, 17, 1, launchCopy) \
  /* params: per axis of x: u32 start, u32 count, i32 step, u32 0. in: x */ \
  OP(slice, Slice, SLICE, 18, 1, launchView) \
  /* params: u32 axis, u32 0. in: 1 to 64 pages */ \
  OP(concat, Concat, CONCAT, 19, 1, launchConcat) \
  /* params: u32 metric (0 dot, 1 l2, 2 cosine), u32 0. in: queries, vectors */ \
  OP(distance, Distance, DISTANCE, 20, 2, launchDistance) \
  /* params: u32 axes_mask, u32 0. in: x */ \
  OP(flip, Flip, FLIP, 21, 1, launchView)

// Released versions that are not the newest. `Name` is that of the entry, kOp<Name>; the block is the same
// unless a comment says otherwise. A row stays for ever: a step descriptor names the version it runs.
#define MMSB_OLD_OPS(OP) \
  /* NaN or the wrong infinity between neighbours that lie further apart than the largest number */ \
  OP(quantile, Quantile1, QUANTILE, 6, 1, launchQuantile) \
  /* everything in the dtype of the result: l2 and cosine overflow and underflow in their squares */ \
  OP(distance, Distance1, DISTANCE, 20, 1, launchDistance1)
// clang-format on

enum mmsb_op : uint32_t {
#define MMSB_OP_CODE(name, Name, NAME, code, version, launch) MMSB_OP_##NAME = code,
  MMSB_OPS(MMSB_OP_CODE)
#undef MMSB_OP_CODE
};

enum mmsb_reduce_fn : uint32_t {
  MMSB_REDUCE_SUM = 0,
  MMSB_REDUCE_PROD = 1,
  MMSB_REDUCE_MIN = 2,
  MMSB_REDUCE_MAX = 3,
  MMSB_REDUCE_MEAN = 4,
  MMSB_REDUCE_VAR = 5,
  MMSB_REDUCE_ANY = 6,
  MMSB_REDUCE_ALL = 7,
  MMSB_REDUCE_COUNT = 8,  // of non-zero elements
  MMSB_REDUCE_ARGMIN = 9,
  MMSB_REDUCE_ARGMAX = 10,
};

enum mmsb_semiring : uint32_t {
  MMSB_PLUS_TIMES = 0,
  MMSB_MIN_PLUS = 1,
  MMSB_MAX_PLUS = 2,
  MMSB_OR_AND = 3,
};

// Natural result dtypes. If the output page has another dtype, the result is cast to it last, saturating.
//   copy, cast, topk values, gather...: x's. topk indices, count, argmin, argmax: u32. any, all: bool.
//   sum, prod: bool, unsigned -> u64; signed -> i64; f32 -> f32 (summed in f64, rounded once); f64 -> f64.
//   min, max: x's. mean, var: integers -> f64, f32 -> f32 (accumulated in f64), f64 -> f64.
//   quantile: f32 -> f32 (interpolated in f64), everything else f64.
//   matmul: the promotion rule of map applied to (a, b); integers wrap in the promoted dtype; or_and -> bool.
//   scan, window: as the reduction of the same name. sort, gather, scatter, transpose, reshape, slice,
//   flip: x's.
//   conv, concat: the promotion rule of map. bincount, histogram: u32.
//   distance: f32 if that rule gives f32, else f64.
