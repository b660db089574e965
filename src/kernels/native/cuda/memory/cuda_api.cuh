// The CUDA runtime, with errors turned into a status and a text. After a device error the context is
// unusable.
#pragma once
#ifndef MMSB_CUDA_EMULATED
#include <cuda_runtime.h>
#define MMSB_LAUNCH(KERNEL, GRID, BLOCK, STREAM, ...)        \
  do {                                                       \
    const auto launchedKernel = KERNEL;                      \
    launchedKernel<<<GRID, BLOCK, 0, STREAM>>>(__VA_ARGS__); \
  } while (0)
#endif

#include "core/op.cuh"

namespace mmsb {
namespace MMSB_NS {

// The status for the result of a runtime call.
static int32_t cudaStatus(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return MMSB_OK;
  if (error == cudaErrorMemoryAllocation) return fail(MMSB_ERR_MEMORY, "the GPU is out of memory: %s", what);
  return fail(MMSB_ERR_DEVICE, "%s: %s", what, cudaGetErrorString(error));
}

// If a runtime call fails, returns its status from the enclosing function.
#define MMSB_CUDA(CALL)                                 \
  do {                                                  \
    const int32_t cudaResult = cudaStatus(CALL, #CALL); \
    if (cudaResult != MMSB_OK) return cudaResult;       \
  } while (0)
#define MMSB_TRY(CALL)                  \
  do {                                  \
    const int32_t tried = CALL;         \
    if (tried != MMSB_OK) return tried; \
  } while (0)

}  // namespace MMSB_NS
}  // namespace mmsb
