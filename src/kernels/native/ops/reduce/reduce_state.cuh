// The state of a reduce step, and the arithmetic of its partials, for the CPU (op_reduce.cuh, which defines
// the order of work) and the CUDA kernels.
#pragma once
#include "ops/folds.cuh"
#include "ops/projection.cuh"

namespace mmsb {

static const u32 kReduceBlock = 1024;
static const u32 kReduceLanes = 32;

// The result of a block or of a subtree of blocks. sum, prod, min, max, count: a. var: a is the mean, b the
// sum of squared distances, and count is used. argmin, argmax: a is the value, b the index. Words hold u64,
// i64 or f64, by the class of the accumulator.
struct Partial {
  u64 a, b, count;
};

struct Reduce {
  u32 fn;
  u8 dtype;      // of the input
  u8 wide;       // class of the accumulator: I64, U64 or F64; sums and products of integers are U64, which wraps
  u8 result;     // class of the finished value
  bool columns;  // the innermost axis is kept
  u32 dimCount;
  ReduceDim dims[8];  // axes of size 1 are dropped, neighbours of one kind joined
  u32 keptCount, reducedCount;
  ReduceDim kept[8], reduced[8];
  u64 n, blocks;
  u32 outputs;
  // The tree of partials (reduce_tree.cuh).
  Partial* tree;     // per output: level 0 (blocks), level 1, ... the root
  u64 treePartials;  // per output
  bool treeValid;
  u64 treeLoads;  // PageSlot::loads of the input when the tree was made
};

namespace MMSB_NS {

// The place in the input where the lane of an output begins.
static MMSB_HD inline u32 laneStart(const ReduceDim* kept, u32 keptCount, u32 output) {
  u32 offset = 0;
  for (u32 d = 0; d < keptCount; d++) {
    offset += output / kept[d].outStride * kept[d].stride;
    output %= kept[d].outStride;
  }
  return offset;
}

// The offset of element `index` of a lane from the lane's start.
static MMSB_HD inline u32 laneOffset(const ReduceDim* reduced, u32 reducedCount, u64 index) {
  u32 offset = 0;
  for (u32 d = reducedCount; d-- > 0;) {
    offset += u32(index % reduced[d].size) * reduced[d].stride;
    index /= reduced[d].size;
  }
  return offset;
}

// ---- partials ---------------------------------------------------------------------------------------------

static MMSB_HD inline bool isArg(u32 fn) { return fn == MMSB_REDUCE_ARGMIN || fn == MMSB_REDUCE_ARGMAX; }
static MMSB_HD inline bool isTruth(u32 fn) {
  return fn == MMSB_REDUCE_ANY || fn == MMSB_REDUCE_ALL || fn == MMSB_REDUCE_COUNT;
}

// Tells whether the right value wins over the left one, which has the lower index.
template <class W>
static MMSB_HD inline bool argWins(u32 fn, W left, W right) {
  if (left != left) return false;
  if (right != right) return true;
  return fn == MMSB_REDUCE_ARGMIN ? right < left : right > left;
}

template <class W>
static MMSB_HD inline Partial joinPartials(u32 fn, const Partial& left, const Partial& right) {
  Partial joined = {0, 0, left.count + right.count};
  if (fn == MMSB_REDUCE_VAR) {
    const f64 meanA = wordAs<f64>(left.a), meanB = wordAs<f64>(right.a);
    const f64 nA = f64(left.count), nB = f64(right.count), n = nA + nB;
    const f64 distance = meanB - meanA;
    joined.a = asWord<f64>(meanA + distance * (nB / n));
    joined.b = asWord<f64>((wordAs<f64>(left.b) + wordAs<f64>(right.b)) + (distance * distance) * (nA * nB / n));
  } else if (isArg(fn)) {
    const bool wins = argWins<W>(fn, wordAs<W>(left.a), wordAs<W>(right.a));
    joined.a = wins ? right.a : left.a;
    joined.b = wins ? right.b : left.b;
  } else {
    joined.a = asWord<W>(joinBy<W>(fn, wordAs<W>(left.a), wordAs<W>(right.a)));
  }
  return joined;
}

static MMSB_HD inline Partial joinPartialsOf(const Reduce& r, const Partial& left, const Partial& right) {
  switch (r.wide) {
    case I64: return joinPartials<i64>(r.fn, left, right);
    case U64: return joinPartials<u64>(r.fn, left, right);
    default: return joinPartials<f64>(r.fn, left, right);
  }
}

// Counts are joined as integers, for every dtype.
static MMSB_HD inline Partial joinOf(const Reduce& r, const Partial& left, const Partial& right) {
  if (isTruth(r.fn)) return Partial{left.a + right.a, 0, left.count + right.count};
  return joinPartialsOf(r, left, right);
}

// The final value of a lane, as a word of class r.result.
static MMSB_HD inline u64 finishValue(const Reduce& r, const Partial& root) {
  switch (r.fn) {
    case MMSB_REDUCE_MEAN: return asWord<f64>(wordAs<f64>(root.a) / f64(r.n));
    case MMSB_REDUCE_VAR: return asWord<f64>(wordAs<f64>(root.b) / f64(r.n));
    case MMSB_REDUCE_ANY: return root.a != 0;
    case MMSB_REDUCE_ALL: return root.a == r.n;
    case MMSB_REDUCE_ARGMIN:
    case MMSB_REDUCE_ARGMAX: return root.b;
    default: return root.a;
  }
}

static MMSB_HD inline u64 emptyValue(const Reduce& r) {
  switch (r.fn) {
    case MMSB_REDUCE_PROD: return r.result == F64 ? asWord<f64>(1.0) : 1;
    case MMSB_REDUCE_MEAN:
    case MMSB_REDUCE_VAR: return 0x7ff8000000000000ull;
    case MMSB_REDUCE_ALL: return 1;
    default: return 0;
  }
}

static MMSB_HD inline u32 blockCount(const Reduce& r, u64 block) {
  const u64 left = r.n - block * kReduceBlock;
  return left < kReduceBlock ? u32(left) : kReduceBlock;
}

}  // namespace MMSB_NS
}  // namespace mmsb
