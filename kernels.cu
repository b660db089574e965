// The only native translation unit of MMSB. It is compiled several times, once per part; MMSB_PART selects
// the part (native.mk). So every CPU kernel exists twice, for plain x86-64 and for x86-64-v3 (chosen at load
// time), and nvcc compiles only the CUDA part:
//   1 host: C ABI, contexts, memory, frames
//   2 CPU kernels, for one instruction set
//   3 CUDA backend
#ifndef MMSB_PART
#error "compile with -DMMSB_PART=1, 2 or 3"
#endif

#if MMSB_PART != 3
#include "core/old_glibc.h"
#endif

#if MMSB_PART == 1
#define MMSB_NS host
#include "abi/abi.cuh"
#elif MMSB_PART == 2
#ifdef __AVX2__
#define MMSB_NS cpu_v3
#else
#define MMSB_NS cpu_base
#endif
#include "catalogue.cuh"
#else
#define MMSB_NS cuda
#include "cuda/cuda_backend.cuh"
#endif
