// Op codes and the layout of their parameter blocks. src/kernels/ops has the same codes and layouts; a test
// compares the codes through mmsb_catalogue. Codes are stored in logs and never change meaning.
#pragma once
#include <stdint.h>

// Every block starts at a multiple of 8 and is padded to a multiple of 8. Axes are normalised (0..rank-1).
enum mmsb_op : uint32_t {
  MMSB_OP_COPY = 1,        // params: none. in: x. out has x's shape
  MMSB_OP_CAST = 2,        // params: none. in: x. out dtype is the target; saturating
  MMSB_OP_MAP = 3,         // params: an IR blob (docs/internals/FORMAT.md). in: one page per IR input, broadcast
  MMSB_OP_REDUCE = 4,      // params: u32 fn, u32 axes_mask, u32 keepdims, u32 0. in: x
  MMSB_OP_MATMUL = 5,      // params: u32 semiring, u32 0. in: a, b. NumPy matmul shapes, 1-D and batched included
  MMSB_OP_QUANTILE = 6,    // params: f64 q, i32 axis (-1: all elements), u32 0. in: x
  MMSB_OP_TOPK = 7,        // params: u32 k, u32 axis, u32 output (0 indices, 1 values), u32 largest. in: x
  MMSB_OP_SCAN = 8,        // params: u32 fn (sum prod min max of mmsb_reduce_fn), u32 axis. in: x
  MMSB_OP_CONV = 9,        // params: u32 boundary (0 zero, 1 wrap, 2 edge), u32 0. in: x, kernel
  MMSB_OP_WINDOW = 10,     // params: u32 fn (sum min max mean of mmsb_reduce_fn), u32 size, u32 axis, u32 0. in: x
  MMSB_OP_SORT = 11,       // params: u32 axis, u32 descending. in: x
  MMSB_OP_GATHER = 12,     // params: u32 axis, u32 0. in: x, indices
  MMSB_OP_SCATTER = 13,    // params: u32 axis, u32 merge (as a delta's). in: x, indices, values
  MMSB_OP_BINCOUNT = 14,   // params: u32 length, u32 0. in: x
  MMSB_OP_HISTOGRAM = 15,  // params: u32 bins, u32 0, f64 low, f64 high. in: x
  MMSB_OP_TRANSPOSE = 16,  // params: u32 axes[rank], padded to 8. in: x
  MMSB_OP_RESHAPE = 17,    // params: u32 rank, u32 shape[rank], padded to 8. in: x
  MMSB_OP_SLICE = 18,      // params: per axis of x: u32 start, u32 count, i32 step, u32 0. in: x
  MMSB_OP_CONCAT = 19,     // params: u32 axis, u32 0. in: 1 to 64 pages
  MMSB_OP_DISTANCE = 20,   // params: u32 metric (0 dot, 1 l2, 2 cosine), u32 0. in: queries, vectors
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
//   scan, window: as the reduction of the same name. sort, gather, scatter, transpose, reshape, slice: x's.
//   conv, concat: the promotion rule of map. bincount, histogram: u32.
//   distance: f32 if that rule gives f32, else f64.
