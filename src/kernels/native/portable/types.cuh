// Names of number types and dtypes for all native code.
//
// Invariants: NVRTC compiles this file too, at run time (cuda_rtc.cuh); it has no system headers.
#pragma once
#ifdef __CUDACC_RTC__
typedef unsigned char uint8_t;
typedef signed char int8_t;
typedef unsigned short uint16_t;
typedef short int16_t;
typedef unsigned int uint32_t;
typedef int int32_t;
typedef unsigned long long uint64_t;
typedef long long int64_t;
#else
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#endif

#ifndef MMSB_NS
#define MMSB_NS cpu
#endif

#ifdef __CUDACC__
#define MMSB_HD __host__ __device__
#else
#define MMSB_HD
#endif

namespace mmsb {

using u8 = uint8_t;
using i8 = int8_t;
using u16 = uint16_t;
using i16 = int16_t;
using u32 = uint32_t;
using i32 = int32_t;
using u64 = uint64_t;
using i64 = int64_t;
using f32 = float;
using f64 = double;

// The codes of src/wire/dtype.ts.
enum Dtype : u8 { BOOL = 0, U8, I8, U16, I16, U32, I32, U64, I64, F32, F64, DTYPE_COUNT };

// Bytes of one element: 1 1 1 2 2 4 4 8 8 4 8.
static MMSB_HD inline u32 dtypeBytes(u32 dtype) { return (0x84884422111ull >> (4 * dtype)) & 15; }

// Elements [start, start + count). start + count never exceeds 2^32 - 1, because a page has fewer than 2^32
// elements.
struct Range {
  u32 start, count;
};

// Bytes of a chunk: the unit of hashing, and of the marks of changes.
static const u32 kChunkBytes = 4096;

}  // namespace mmsb
