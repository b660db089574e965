// copy, cast and reshape: the elements of the input in row-major order, cast to the dtype of the output
// (saturating; see core/cast.cuh).
#pragma once
#include "ops/common.cuh"

namespace mmsb {
namespace MMSB_NS {

static int32_t prepareCopy(Step& step) {
  if (step.inputCount != 1) {
    return fail(MMSB_ERR_ARGUMENT, "%s takes one input, not %u", step.op->name, step.inputCount);
  }
  const Page& input = *step.inputs[0];
  if (input.elements != step.out->elements) {
    return fail(MMSB_ERR_ARGUMENT, "%s of %u elements into %u", step.op->name, input.elements, step.out->elements);
  }
  step.natural = input.dtype;
  step.costNs = 0.3f;
  return MMSB_OK;
}

static void computeCopy(const Step& step, u32 start, u32 count, void* out, void*) {
  const u32 size = dtypeBytes(step.natural);
  memcpy(out, step.inputs[0]->data + u64(start) * size, u64(count) * size);
}

static const Op kOpCopy = {kHeadCopy, prepareCopy, nullptr, dirtySame, computeCopy, nullptr, nullptr, true};
static const Op kOpCast = {kHeadCast, prepareCopy, nullptr, dirtySame, computeCopy, nullptr, nullptr, true};
static const Op kOpReshape = {kHeadReshape, prepareCopy, nullptr, dirtySame, computeCopy, nullptr, nullptr, true};

}  // namespace MMSB_NS
}  // namespace mmsb
