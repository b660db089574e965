// The table of all ops, for one CPU part, and the interface of that part to the host part.
#pragma once
#include "core/part.cuh"
#include "exec/call.cuh"
#include "exec/pages.cuh"
#include "exec/undo.cuh"
#include "ops/elementwise/op_copy.cuh"
#include "ops/elementwise/op_map.cuh"
#include "ops/neighbours/op_stencil.cuh"
#include "ops/order/op_lanes.cuh"
#include "ops/order/op_select.cuh"
#include "ops/places/op_index.cuh"
#include "ops/places/op_move.cuh"
#include "ops/products/op_distance.cuh"
#include "ops/products/op_distance1.cuh"
#include "ops/products/op_matmul.cuh"
#include "ops/reduce/op_reduce.cuh"

namespace mmsb {
namespace MMSB_NS {

// The newest version of every op first, then the earlier ones.
#define MMSB_OP_ENTRY(name, Name, NAME, code, version, launch) &kOp##Name,
static const Op* const kOps[] = {MMSB_OPS(MMSB_OP_ENTRY) MMSB_OLD_OPS(MMSB_OP_ENTRY)};
#undef MMSB_OP_ENTRY

}  // namespace MMSB_NS

#ifdef __AVX2__
const CpuPart kCpuV3 = {
    "x86-64-v3",
#else
const CpuPart kCpuBase = {
    "x86-64",
#endif
    MMSB_NS::kOps,
    sizeof MMSB_NS::kOps / sizeof MMSB_NS::kOps[0],
    MMSB_NS::executeAll,
    MMSB_NS::beginCall,
    MMSB_NS::applyDeltas,
    MMSB_NS::runBefore,
    MMSB_NS::runStep,
    MMSB_NS::keepBehind,
    MMSB_NS::fillPage,
    MMSB_NS::loadBytes,
    MMSB_NS::updateShare,
    MMSB_NS::undoAll,
    MMSB_NS::undoCancelled,
};

}  // namespace mmsb
