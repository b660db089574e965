// transpose, slice, flip and concat: ops that move elements without changing them.
//
// transpose, slice and flip read through a view: each axis of the output has a size and a stride in the
// input, negative for a backward slice. A flip is a slice of all elements, backward on its axes. concat joins
// its inputs along an axis, cast to their common dtype.
#pragma once
#include "ops/boxes.cuh"
#include "ops/common.cuh"
#include "ops/places/move_state.cuh"

namespace mmsb {
namespace MMSB_NS {

static void computeView(const Step& step, u32 start, u32 count, void* out, void*) {
  const View& view = *static_cast<const View*>(step.state);
  const Page& input = *step.inputs[0];
  const u32 rank = view.out.rank, size = dtypeBytes(input.dtype);
  u8* to = static_cast<u8*>(out);
  if (rank == 0) return copyRun(input, view.base, 1, to, count);
  u32 at[8];
  u32 rest = start;
  i64 place = view.base;
  for (u32 d = rank; d-- > 0;) {
    at[d] = rest % view.out.shape[d];
    rest /= view.out.shape[d];
    place += at[d] * view.stride[d];
  }
  const u32 inner = rank - 1;
  for (;;) {
    const u32 left = view.out.shape[inner] - at[inner];
    const u32 run = left < count ? left : count;
    copyRun(input, place, view.stride[inner], to, run);
    count -= run;
    if (count == 0) return;
    to += u64(run) * size;
    place -= at[inner] * view.stride[inner];
    at[inner] = 0;
    for (u32 d = inner; d-- > 0;) {
      place += view.stride[d];
      if (++at[d] < view.out.shape[d]) break;
      place -= i64(at[d]) * view.stride[d];
      at[d] = 0;
    }
  }
}

// Maps the input's indices [lo, hi) on an axis to those of the output.
static void sliceInterval(const View& view, u32 d, u32 lo, u32 hi, u32* outLo, u32* outHi) {
  const i64 step = view.step[d], start = view.start[d], size = view.out.shape[d];
  const i64 near =
      step > 0 ? i64(lo) - start : start - (i64(hi) - 1);  // distance from the slice's start, in its direction
  const i64 far = step > 0 ? i64(hi) - 1 - start : start - i64(lo);
  const i64 stride = step > 0 ? step : -step;
  i64 first = near <= 0 ? 0 : (near + stride - 1) / stride;
  i64 end = far < 0 ? 0 : far / stride + 1;
  if (end > size) end = size;
  if (first > end) first = end;
  *outLo = u32(first);
  *outHi = u32(end);
}

static void dirtyView(const Step& step, u32, const RangeSet& changed, RangeSet& out, Arena& arena) {
  const View& view = *static_cast<const View*>(step.state);
  BoxSink sink = makeBoxSink(out, arena, view.out);
  eachBox(extentOf(*step.inputs[0]), changed, [&](const Box& box) {
    Box moved;
    for (u32 d = 0; d < view.out.rank; d++) {
      if (view.isSlice) {
        sliceInterval(view, d, box.lo[d], box.hi[d], &moved.lo[d], &moved.hi[d]);
      } else {
        moved.lo[d] = box.lo[view.axis[d]];
        moved.hi[d] = box.hi[view.axis[d]];
      }
    }
    pushBox(sink, moved);
  });
}

static View* newView(Step& step, i64 strides[8]) {
  const Page& input = *step.inputs[0];
  View* view = static_cast<View*>(calloc(1, sizeof(View)));
  if (view == nullptr) return nullptr;
  step.state = view;
  step.natural = input.dtype;
  step.costNs = 0.7f;
  i64 stride = 1;
  for (u32 d = input.rank; d-- > 0;) {
    strides[d] = stride;
    stride *= input.shape[d];
  }
  view->out.rank = input.rank;
  view->out.elements = step.out->elements;
  for (u32 d = 0; d < 8; d++) view->out.shape[d] = 1;
  return view;
}

static int32_t prepareTranspose(Step& step) {
  if (step.inputCount != 1) return fail(MMSB_ERR_ARGUMENT, "transpose takes one input");
  const Page& input = *step.inputs[0];
  if (step.paramBytes < 4u * input.rank) return fail(MMSB_ERR_ARGUMENT, "transpose needs %u axes", input.rank);
  i64 strides[8];
  View* view = newView(step, strides);
  if (view == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for a step");
  u32 seen = 0;
  for (u32 d = 0; d < input.rank; d++) {
    memcpy(&view->axis[d], step.params + 4 * d, 4);
    if (view->axis[d] >= input.rank || (seen >> view->axis[d] & 1) != 0) {
      return fail(MMSB_ERR_ARGUMENT, "transpose: the axes are not a permutation");
    }
    seen |= 1u << view->axis[d];
    view->out.shape[d] = input.shape[view->axis[d]];
    view->stride[d] = strides[view->axis[d]];
  }
  if (step.out->elements != input.elements) {
    return fail(MMSB_ERR_ARGUMENT, "transpose into a page of %u elements", step.out->elements);
  }
  return MMSB_OK;
}

static int32_t prepareSlice(Step& step) {
  if (step.inputCount != 1) return fail(MMSB_ERR_ARGUMENT, "slice takes one input");
  const Page& input = *step.inputs[0];
  if (step.paramBytes < 16u * input.rank) return fail(MMSB_ERR_ARGUMENT, "slice needs %u axes", input.rank);
  i64 strides[8];
  View* view = newView(step, strides);
  if (view == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for a step");
  view->isSlice = true;
  u64 elements = 1;
  for (u32 d = 0; d < input.rank; d++) {
    u32 count;
    memcpy(&view->start[d], step.params + 16 * d, 4);
    memcpy(&count, step.params + 16 * d + 4, 4);
    memcpy(&view->step[d], step.params + 16 * d + 8, 4);
    const i64 last = i64(view->start[d]) + (i64(count) - 1) * view->step[d];
    if (view->step[d] == 0 || count > input.shape[d] ||
        (count != 0 && (view->start[d] >= input.shape[d] || last < 0 || last >= input.shape[d]))) {
      return fail(MMSB_ERR_ARGUMENT, "slice: indices out of range on axis %u", d);
    }
    view->out.shape[d] = count;
    view->stride[d] = strides[d] * view->step[d];
    if (count != 0) view->base += i64(view->start[d]) * strides[d];
    elements *= count;
  }
  if (elements != step.out->elements) {
    return fail(MMSB_ERR_ARGUMENT, "slice into a page of %u elements", step.out->elements);
  }
  return MMSB_OK;
}

static int32_t prepareFlip(Step& step) {
  if (step.inputCount != 1 || step.paramBytes < 8) {
    return fail(MMSB_ERR_ARGUMENT, "flip takes one input and 8 bytes of parameters");
  }
  const Page& input = *step.inputs[0];
  u32 mask;
  memcpy(&mask, step.params, 4);
  if (mask >> input.rank != 0) return fail(MMSB_ERR_ARGUMENT, "flip: axes %x of a page of rank %u", mask, input.rank);
  i64 strides[8];
  View* view = newView(step, strides);
  if (view == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for a step");
  view->isSlice = true;
  for (u32 d = 0; d < input.rank; d++) {
    const bool backward = (mask >> d & 1) != 0 && input.shape[d] != 0;
    view->out.shape[d] = input.shape[d];
    view->start[d] = backward ? input.shape[d] - 1 : 0;
    view->step[d] = backward ? -1 : 1;
    view->stride[d] = strides[d] * view->step[d];
    view->base += i64(view->start[d]) * strides[d];
  }
  if (step.out->elements != input.elements) {
    return fail(MMSB_ERR_ARGUMENT, "flip into a page of %u elements", step.out->elements);
  }
  return MMSB_OK;
}

// ---- concat -----------------------------------------------------------------------------------------------

static void computeConcat(const Step& step, u32 start, u32 count, void* out, void* scratch) {
  const Concat& state = *static_cast<const Concat*>(step.state);
  const u32 size = dtypeBytes(step.natural);
  const u64 row = u64(state.n) * state.inner;
  u8* to = static_cast<u8*>(out);
  u64 at = start;
  u32 p = 0;
  while (count != 0) {
    const u64 o = at / row, within = at - o * row;
    if (within < u64(state.part[p].first) * state.inner) p = 0;
    while (within >= (u64(state.part[p].first) + state.part[p].n) * state.inner) p++;
    const ConcatPart& part = state.part[p];
    const u64 partRow = u64(part.n) * state.inner, offset = within - u64(part.first) * state.inner;
    const u32 run = partRow - offset < count ? u32(partRow - offset) : count;
    const u8* from = part.page->data + (o * partRow + offset) * dtypeBytes(part.page->dtype);
    castBlock(part.page->dtype, from, step.natural, to, run, scratch);
    to += u64(run) * size;
    at += run;
    count -= run;
  }
}

static void dirtyConcat(const Step& step, u32 input, const RangeSet& changed, RangeSet& out, Arena& arena) {
  const Concat& state = *static_cast<const Concat*>(step.state);
  const ConcatPart& part = state.part[input];
  BoxSink sink = makeBoxSink(out, arena, extentOf3(state.outer, state.n, state.inner));
  eachBox(extentOf3(state.outer, part.n, state.inner), changed, [&](const Box& box) {
    Box moved = box;
    moved.lo[1] += part.first;
    moved.hi[1] += part.first;
    pushBox(sink, moved);
  });
}

static int32_t prepareConcat(Step& step) {
  if (step.inputCount == 0 || step.inputCount > 64 || step.paramBytes < 8) {
    return fail(MMSB_ERR_ARGUMENT, "concat takes 1 to 64 inputs and 8 bytes of parameters");
  }
  Concat* state = static_cast<Concat*>(calloc(1, sizeof(Concat)));
  if (state == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for a step");
  step.state = state;
  u32 axis;
  memcpy(&axis, step.params, 4);
  const Page& first = *step.inputs[0];
  if (axis >= first.rank) {
    return fail(MMSB_ERR_ARGUMENT, "axis %u of a page of rank %u", axis, first.rank);
  }
  state->outer = state->inner = 1;
  for (u32 d = 0; d < first.rank; d++) {
    if (d < axis) state->outer *= first.shape[d];
    else if (d > axis) state->inner *= first.shape[d];
  }
  u64 n = 0;
  step.natural = first.dtype;
  for (u32 i = 0; i < step.inputCount; i++) {
    const Page& page = *step.inputs[i];
    if (page.rank != first.rank) {
      return fail(MMSB_ERR_ARGUMENT, "concat: pages of rank %u and %u", first.rank, page.rank);
    }
    for (u32 d = 0; d < first.rank; d++) {
      if (d != axis && page.shape[d] != first.shape[d]) {
        return fail(MMSB_ERR_ARGUMENT, "concat: sizes of axis %u differ", d);
      }
    }
    state->part[i] = ConcatPart{&page, u32(n), page.shape[axis]};
    n += page.shape[axis];
    step.natural = promote(step.natural, page.dtype);
    if (step.natural == DTYPE_COUNT) return fail(MMSB_ERR_ARGUMENT, "concat: the inputs have no common dtype");
  }
  if (n >> 32 != 0 || n * state->outer * state->inner != step.out->elements) {
    return fail(MMSB_ERR_ARGUMENT, "concat into a page of %u elements", step.out->elements);
  }
  state->n = u32(n);
  state->parts = step.inputCount;
  step.scratchBytes = kBlockElements * 8;
  step.costNs = 0.7f;
  return MMSB_OK;
}

static const Op kOpTranspose = {kHeadTranspose, prepareTranspose, releaseState, dirtyView, computeView, nullptr};
static const Op kOpSlice = {kHeadSlice, prepareSlice, releaseState, dirtyView, computeView, nullptr};
static const Op kOpFlip = {kHeadFlip, prepareFlip, releaseState, dirtyView, computeView, nullptr};
static const Op kOpConcat = {kHeadConcat, prepareConcat, releaseState, dirtyConcat, computeConcat, nullptr};

}  // namespace MMSB_NS
}  // namespace mmsb
