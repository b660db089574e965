// Merges delta values into a page's elements: set, add, min, max, and, or, xor, for every dtype.
//
// Rules: integers wrap. On bool, add and max mean or, min means and. On floats, min and max give NaN when an
// operand is NaN and order -0 below +0. A computed NaN is canonical; `set` keeps the bits it is given, except
// that it stores a bool as 0 or 1.
#pragma once
#include "core/cast.cuh"
#include "core/delta.cuh"

namespace mmsb {
namespace MMSB_NS {

template <class T>
static void mergeLoop(u32 merge, const void* now, const void* values, void* out, u32 count) {
  typedef typename Raw<T>::type Value;
  const T* a = static_cast<const T*>(now);
  const Value* b = static_cast<const Value*>(values);
  T* c = static_cast<T*>(out);
  switch (merge) {
    case MERGE_ADD:
      for (u32 i = 0; i < count; i++) c[i] = T(a[i] + b[i]);
      return;
    case MERGE_MIN:
      for (u32 i = 0; i < count; i++) c[i] = sMin<T>(a[i], b[i]);
      return;
    default:
      for (u32 i = 0; i < count; i++) c[i] = sMax<T>(a[i], b[i]);
      return;
  }
}

template <class T>
static void mergeBits(u32 merge, const void* now, const void* values, void* out, u32 count) {
  typedef typename Raw<T>::type Value;
  const T* a = static_cast<const T*>(now);
  const Value* b = static_cast<const Value*>(values);
  T* c = static_cast<T*>(out);
  switch (merge) {
    case MERGE_AND:
      for (u32 i = 0; i < count; i++) c[i] = a[i] & b[i];
      return;
    case MERGE_OR:
      for (u32 i = 0; i < count; i++) c[i] = a[i] | b[i];
      return;
    default:
      for (u32 i = 0; i < count; i++) c[i] = a[i] ^ b[i];
      return;
  }
}

static void mergeBool(u32 merge, const u8* now, const u8* values, u8* out, u32 count) {
  switch (merge) {
    case MERGE_SET:
      for (u32 i = 0; i < count; i++) out[i] = values[i] != 0;
      return;
    case MERGE_MIN:
    case MERGE_AND:
      for (u32 i = 0; i < count; i++) out[i] = u8((now[i] != 0) & (values[i] != 0));
      return;
    case MERGE_XOR:
      for (u32 i = 0; i < count; i++) out[i] = u8((now[i] != 0) ^ (values[i] != 0));
      return;
    default:
      for (u32 i = 0; i < count; i++) out[i] = u8((now[i] != 0) | (values[i] != 0));
      return;
  }
}

// out = now merged with values, element by element. `now` and `out` are aligned; `values` may be unaligned.
static void mergeBlock(u32 dtype, u32 merge, const u8* now, const u8* values, u8* out, u32 count) {
  const u32 size = dtypeBytes(dtype);
  if (dtype == BOOL) return mergeBool(merge, now, values, out, count);
  if (merge == MERGE_SET) {
    memcpy(out, values, u64(count) * size);
    return;
  }
  if (merge >= MERGE_AND) {
    switch (size) {
      case 1: return mergeBits<u8>(merge, now, values, out, count);
      case 2: return mergeBits<u16>(merge, now, values, out, count);
      case 4: return mergeBits<u32>(merge, now, values, out, count);
      default: return mergeBits<u64>(merge, now, values, out, count);
    }
  }
  // Signed integers are added as unsigned ones: the same bits, but defined on overflow.
  switch (dtype) {
    case U8: return mergeLoop<u8>(merge, now, values, out, count);
    case I8:
      return merge == MERGE_ADD ? mergeLoop<u8>(merge, now, values, out, count)
                                : mergeLoop<i8>(merge, now, values, out, count);
    case U16: return mergeLoop<u16>(merge, now, values, out, count);
    case I16:
      return merge == MERGE_ADD ? mergeLoop<u16>(merge, now, values, out, count)
                                : mergeLoop<i16>(merge, now, values, out, count);
    case U32: return mergeLoop<u32>(merge, now, values, out, count);
    case I32:
      return merge == MERGE_ADD ? mergeLoop<u32>(merge, now, values, out, count)
                                : mergeLoop<i32>(merge, now, values, out, count);
    case U64: return mergeLoop<u64>(merge, now, values, out, count);
    case I64:
      return merge == MERGE_ADD ? mergeLoop<u64>(merge, now, values, out, count)
                                : mergeLoop<i64>(merge, now, values, out, count);
    case F32: mergeLoop<f32>(merge, now, values, out, count); break;
    default: mergeLoop<f64>(merge, now, values, out, count);
  }
  canonicalBlock(dtype, out, count);
}

}  // namespace MMSB_NS
}  // namespace mmsb
