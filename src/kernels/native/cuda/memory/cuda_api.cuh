// The CUDA runtime as the backend uses it. Errors become a status and a text; a context whose device failed is unusable.
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

// The status for what a call of the runtime returned.
static int32_t cudaStatus(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return MMSB_OK;
  if (error == cudaErrorMemoryAllocation) return fail(MMSB_ERR_MEMORY, "the GPU has no memory left: %s", what);
  return fail(MMSB_ERR_DEVICE, "%s: %s", what, cudaGetErrorString(error));
}

// Returns the status of a call of the runtime from the function around it, unless it succeeded.
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
