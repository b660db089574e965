// copy and cast: the input's elements, in the output page's dtype (saturating; see cast.cuh).
#pragma once
#include "core/op.cuh"

namespace mmsb {
namespace MMSB_NS {

static int32_t prepareCopy(Step& step) {
  if (step.inputCount != 1) return fail(MMSB_ERR_ARGUMENT, "%s takes one input, not %u", step.op->name, step.inputCount);
  const Page& input = *step.inputs[0];
  if (input.elements != step.out->elements) {
    return fail(MMSB_ERR_ARGUMENT, "%s of %u elements into %u", step.op->name, input.elements, step.out->elements);
  }
  step.natural = input.dtype;
  step.costNs = 0.3f;
  return MMSB_OK;
}

static void dirtyCopy(const Step&, u32, const RangeSet& changed, RangeSet& out, Arena& arena) {
  for (u32 i = 0; i < changed.count; i++) rangesPush(out, changed.data[i].start, changed.data[i].count, arena);
}

static void computeCopy(const Step& step, u32 start, u32 count, void* out, void*) {
  const u32 size = dtypeBytes(step.natural);
  memcpy(out, step.inputs[0]->data + u64(start) * size, u64(count) * size);
}

static const Op kOpCopy = {"copy", MMSB_OP_COPY, 1, prepareCopy, nullptr, dirtyCopy, computeCopy, nullptr, nullptr, true};
static const Op kOpCast = {"cast", MMSB_OP_CAST, 1, prepareCopy, nullptr, dirtyCopy, computeCopy, nullptr, nullptr, true};

}  // namespace MMSB_NS
}  // namespace mmsb
