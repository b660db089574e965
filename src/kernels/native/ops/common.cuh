// Helpers of several ops: the promotion rule, the dirty rule of elementwise ops, and copying and casting
// runs.
#pragma once
#include "core/cast.cuh"
#include "core/op.cuh"

namespace mmsb {
namespace MMSB_NS {

// Op::release for ops whose state is one block of memory.
static void releaseState(Step& step) { free(step.state); }

// The promotion rule of map. Returns DTYPE_COUNT for u64 with a signed integer.
static u8 promote(u8 a, u8 b) {
  if (a == b || b == BOOL) return a;
  if (a == BOOL) return b;
  if (a >= F32 || b >= F32) return a > b ? a : b;
  const bool aSigned = wideOf(a) == I64, bSigned = wideOf(b) == I64;
  if (aSigned == bSigned) return a > b ? a : b;
  const u8 withSign = aSigned ? a : b, without = aSigned ? b : a;
  if (dtypeBytes(withSign) > dtypeBytes(without)) return withSign;
  return without == U8 ? u8(I16) : without == U16 ? u8(I32) : without == U32 ? u8(I64) : u8(DTYPE_COUNT);
}

// The changed elements of the output are those of the input.
static void dirtySame(const Step&, u32, const RangeSet& changed, RangeSet& out, Arena& arena) {
  for (u32 i = 0; i < changed.count; i++) rangesPush(out, changed.data[i].start, changed.data[i].count, arena);
}

template <class T>
static void copyStrided(const u8* from, i64 stride, u8* to, u32 count) {
  for (u32 i = 0; i < count; i++) memcpy(to + i * sizeof(T), from + i64(i) * stride * i64(sizeof(T)), sizeof(T));
}

static void copyRun(const Page& input, i64 at, i64 stride, u8* to, u32 count) {
  const u32 size = dtypeBytes(input.dtype);
  const u8* from = input.data + at * size;
  if (stride == 1) {
    memcpy(to, from, u64(count) * size);
    return;
  }
  switch (size) {
    case 1: return copyStrided<u8>(from, stride, to, count);
    case 2: return copyStrided<u16>(from, stride, to, count);
    case 4: return copyStrided<u32>(from, stride, to, count);
    default: return copyStrided<u64>(from, stride, to, count);
  }
}

// Casts any number of elements. `wide` has room for kBlockElements of 8 bytes.
static void castMany(u32 from, const u8* src, u32 to, u8* dst, u32 count, void* wide) {
  while (count != 0) {
    const u32 now = count < kBlockElements ? count : kBlockElements;
    castBlock(from, src, to, dst, now, wide);
    src += u64(now) * dtypeBytes(from);
    dst += u64(now) * dtypeBytes(to);
    count -= now;
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
