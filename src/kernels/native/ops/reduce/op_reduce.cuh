// reduce: sum, prod, min, max, mean, var, any, all, count, argmin and argmax over a set of axes.
//
// The shape of the computation depends only on n, the number of elements reduced into one output, taken in
// row-major order. Elements form blocks of 1024. In a block, 32 lanes each fold every 32nd element in
// ascending order; lanes are joined by halving (lane l with l + 16, then + 8, + 4, + 2, + 1; absent lanes are
// skipped). Blocks are joined pairwise, level by level; an odd last block moves up unchanged. Floats are
// accumulated in f64 and rounded once; integers wrap in 64 bits. var computes mean and sum of squared
// distances per block, in two passes, and joins them as in Chan, Golub and LeVeque (1979). min and max give
// NaN if there is one. argmin and argmax give the first index of the extreme; a NaN is the extreme.
//
// Contiguous lanes of several blocks keep their tree of partials (reduce_tree.cuh), so that a change costs
// only its blocks and their path to the root.
#pragma once
#include "ops/common.cuh"
#include "ops/reduce/reduce_columns.cuh"
#include "ops/reduce/reduce_tree.cuh"

namespace mmsb {
namespace MMSB_NS {

// ---- geometry ---------------------------------------------------------------------------------------------

static void reduceDims(Reduce& r, const Page& input, u32 axes) {
  u64 stride = input.elements;
  for (u32 axis = 0; axis < input.rank; axis++) {
    const u32 size = input.shape[axis];
    if (size <= 1) continue;
    stride /= size;
    const bool kept = (axes >> axis & 1) == 0;
    if (r.dimCount != 0 && r.dims[r.dimCount - 1].kept == kept) {
      r.dims[r.dimCount - 1].size *= size;
      r.dims[r.dimCount - 1].stride = u32(stride);
    } else {
      r.dims[r.dimCount++] = ReduceDim{size, u32(stride), 0, kept};
    }
  }
  u32 outStride = 1;
  for (u32 d = r.dimCount; d-- > 0;) {
    if (!r.dims[d].kept) continue;
    r.dims[d].outStride = outStride;
    outStride *= r.dims[d].size;
  }
  for (u32 d = 0; d < r.dimCount; d++) {
    if (r.dims[d].kept) r.kept[r.keptCount++] = r.dims[d];
    else r.reduced[r.reducedCount++] = r.dims[d];
  }
  r.columns = r.dimCount != 0 && r.dims[r.dimCount - 1].kept;
}

static void dirtyReduce(const Step& step, u32, const RangeSet& changed, RangeSet& out, Arena& arena) {
  const Reduce& r = *static_cast<const Reduce*>(step.state);
  for (u32 i = 0; i < changed.count; i++) {
    const u64 first = changed.data[i].start;
    projectRange(r.dims, r.dimCount, 0, 0, step.inputs[0]->elements, r.outputs, first, first + changed.data[i].count,
                 out, arena);
  }
}

// ---- the op -----------------------------------------------------------------------------------------------

struct ReduceScratch {
  u64 block[kReduceBlock];  // must be first: treeTask uses the scratch as a block
  u64 results[kBlockElements];
  ColumnScratch columns;
};

static void computeReduce(const Step& step, u32 start, u32 count, void* out, void* scratch) {
  const Reduce& r = *static_cast<const Reduce*>(step.state);
  ReduceScratch& s = *static_cast<ReduceScratch*>(scratch);
  const Page& input = *step.inputs[0];
  if (r.n == 0) {
    for (u32 i = 0; i < count; i++) s.results[i] = emptyValue(r);
  } else if (r.tree != nullptr) {
    for (u32 i = 0; i < count; i++) s.results[i] = finishValue(r, r.tree[(start + i + 1) * r.treePartials - 1]);
  } else if (r.columns) {
    const u32 inner = r.kept[r.keptCount - 1].size;
    for (u32 i = 0; i < count;) {
      const u32 room = inner - (start + i) % inner;
      u32 width = count - i < room ? count - i : room;
      if (width > kReduceColumns) width = kReduceColumns;
      reduceColumns(r, input, start + i, width, s.results + i, s.columns);
      i += width;
    }
  } else {
    for (u32 i = 0; i < count; i++) s.results[i] = reduceLane(r, input, start + i, s.block);
  }
  switch (r.result) {
    case I64: return narrowBlockOf<i64>(step.natural, s.results, out, count);
    case U64: return narrowBlockOf<u64>(step.natural, s.results, out, count);
    default: return narrowBlockOf<f64>(step.natural, s.results, out, count);
  }
}

static void runReduce(Step& step, StepRun& run) {
  Reduce& r = *static_cast<Reduce*>(step.state);
  Exec& exec = *run.exec;
  if (hasTree(r) && treeReady(r)) treeUpdate(r, step, run, run.full ? nullptr : changesOf(exec, step.inputs[0]));
  const RangeSet ranges = dirtyOutput(exec, step, run.full);
  run.elements = rangesElements(ranges);
  computeRanges(exec, step, ranges, run.elements, run.changed);
}

// Recomputes the partials of restored elements. A tree that is stale anyway stays stale.
static void refreshReduce(Step& step, StepRun& run) {
  Reduce& r = *static_cast<Reduce*>(step.state);
  if (r.tree == nullptr || !r.treeValid || r.treeLoads != slotOf(step.inputs[0])->loads) return;
  treeUpdate(r, step, run, changesOf(*run.exec, step.inputs[0]));
}

static u8 reduceNatural(u32 fn, u8 dtype) {
  const bool isFloat = dtype >= F32;
  switch (fn) {
    case MMSB_REDUCE_SUM:
    case MMSB_REDUCE_PROD: return isFloat ? dtype : u8(wideOf(dtype));
    case MMSB_REDUCE_MIN:
    case MMSB_REDUCE_MAX: return dtype;
    case MMSB_REDUCE_MEAN:
    case MMSB_REDUCE_VAR: return dtype == F32 ? u8(F32) : u8(F64);
    case MMSB_REDUCE_ANY:
    case MMSB_REDUCE_ALL: return BOOL;
    default: return U32;
  }
}

static void releaseReduce(Step& step) {
  Reduce* r = static_cast<Reduce*>(step.state);
  if (r == nullptr) return;
  free(r->tree);
  free(r);
}

static int32_t prepareReduce(Step& step) {
  if (step.inputCount != 1 || step.paramBytes < 16) {
    return fail(MMSB_ERR_ARGUMENT, "reduce takes one input and 16 bytes of parameters");
  }
  u32 params[4];
  memcpy(params, step.params, sizeof params);
  const Page& input = *step.inputs[0];
  if (params[0] > MMSB_REDUCE_ARGMAX) return fail(MMSB_ERR_ARGUMENT, "reduce: unknown function %u", params[0]);
  if ((params[1] >> input.rank) != 0) {
    return fail(MMSB_ERR_ARGUMENT, "reduce axes %#x of a page of rank %u: the limit is 8", params[1], input.rank);
  }
  u64 outputs = 1, n = 1;
  for (u32 axis = 0; axis < input.rank; axis++) {
    if ((params[1] >> axis & 1) != 0) n *= input.shape[axis];
    else outputs *= input.shape[axis];
  }
  if (outputs != step.out->elements) {
    return fail(MMSB_ERR_ARGUMENT, "reduce to %llu elements into a page of %u", (unsigned long long)outputs,
                step.out->elements);
  }
  const u32 fn = params[0];
  const bool extreme = fn == MMSB_REDUCE_MIN || fn == MMSB_REDUCE_MAX || isArg(fn);
  if (extreme && n == 0 && outputs != 0) {
    return fail(MMSB_ERR_ARGUMENT, "min, max, argmin and argmax need at least one element");
  }
  Reduce* r = static_cast<Reduce*>(calloc(1, sizeof(Reduce)));
  if (r == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for a step");
  step.state = r;
  r->fn = fn;
  r->dtype = input.dtype;
  r->wide = u8(fn == MMSB_REDUCE_MEAN || fn == MMSB_REDUCE_VAR ? u32(F64) : wideOf(input.dtype));
  if ((fn == MMSB_REDUCE_SUM || fn == MMSB_REDUCE_PROD) && r->wide == I64) r->wide = U64;
  r->result = isTruth(fn) || isArg(fn) ? u8(U64) : r->wide == F64 ? u8(F64) : u8(wideOf(input.dtype));
  r->n = n;
  r->blocks = (n + kReduceBlock - 1) / kReduceBlock;
  r->outputs = u32(outputs);
  if (n != 0 && outputs != 0) reduceDims(*r, input, params[1]);
  step.natural = reduceNatural(fn, input.dtype);
  step.scratchBytes = sizeof(ReduceScratch);
  step.costNs = hasTree(*r) ? 5.0f : f32(20.0 + 0.4 * f64(n));
  return MMSB_OK;
}

static const Op kOpReduce = {kHeadReduce,   prepareReduce, releaseReduce, dirtyReduce,
                             computeReduce, runReduce,     refreshReduce};

}  // namespace MMSB_NS
}  // namespace mmsb
