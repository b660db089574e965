// Casts blocks of elements between dtypes, and makes NaN canonical.
//
// Rules (docs/internals/DETERMINISM.md): a cast to an integer truncates and saturates; NaN becomes 0. A cast
// to bool is `x != 0`, so NaN is true. Casts to floats round to nearest, ties to even. Every cast first
// widens to i64, u64 or f64, which holds the value exactly. So each cast rounds once, and there are 44 loops
// instead of 121.
#pragma once
#include "portable/scalar.cuh"

namespace mmsb {
namespace MMSB_NS {

// The type for reading a T that is unaligned or was written as another type.
template <class T>
struct Raw {
  typedef T type __attribute__((aligned(1), may_alias));
};

template <class T>
static void canonicalValues(T* values, u32 count) {
  // NaN is rare, and reading costs less than writing.
  u32 nans = 0;
  for (u32 i = 0; i < count; i++) nans |= values[i] != values[i] ? 1u : 0u;
  if (nans == 0) return;
  for (u32 i = 0; i < count; i++) values[i] = canonical(values[i]);
}

// In place; a no-op for dtypes other than f32 and f64.
static void canonicalBlock(u32 dtype, void* data, u32 count) {
  if (dtype == F32) canonicalValues(static_cast<f32*>(data), count);
  else if (dtype == F64) canonicalValues(static_cast<f64*>(data), count);
}

// The wide dtype (I64, U64 or F64) that holds every value of `dtype`.
static inline u32 wideOf(u32 dtype) {
  if (dtype >= F32) return F64;
  return dtype == I8 || dtype == I16 || dtype == I32 || dtype == I64 ? I64 : U64;
}

template <class FROM, class TO>
static void widenLoop(const void* from, void* to, u32 count) {
  typedef typename Raw<FROM>::type Source;
  const Source* source = static_cast<const Source*>(from);
  TO* target = static_cast<TO*>(to);
  for (u32 i = 0; i < count; i++) target[i] = TO(source[i]);
}

// Widens `count` elements to wideOf(dtype). `from` may be unaligned.
static void widenBlock(u32 dtype, const void* from, void* to, u32 count) {
  switch (dtype) {
    case BOOL:
    case U8: return widenLoop<u8, u64>(from, to, count);
    case I8: return widenLoop<i8, i64>(from, to, count);
    case U16: return widenLoop<u16, u64>(from, to, count);
    case I16: return widenLoop<i16, i64>(from, to, count);
    case U32: return widenLoop<u32, u64>(from, to, count);
    case I32: return widenLoop<i32, i64>(from, to, count);
    case U64: return widenLoop<u64, u64>(from, to, count);
    case I64: return widenLoop<i64, i64>(from, to, count);
    case F32: return widenLoop<f32, f64>(from, to, count);
    default: return widenLoop<f64, f64>(from, to, count);
  }
}

// Converts to f64, rounding to nearest. quantile and mean compute in f64.
static void floatBlock(u32 dtype, const void* from, f64* to, u32 count) {
  switch (dtype) {
    case BOOL:
    case U8: return widenLoop<u8, f64>(from, to, count);
    case I8: return widenLoop<i8, f64>(from, to, count);
    case U16: return widenLoop<u16, f64>(from, to, count);
    case I16: return widenLoop<i16, f64>(from, to, count);
    case U32: return widenLoop<u32, f64>(from, to, count);
    case I32: return widenLoop<i32, f64>(from, to, count);
    case U64: return widenLoop<u64, f64>(from, to, count);
    case I64: return widenLoop<i64, f64>(from, to, count);
    case F32: return widenLoop<f32, f64>(from, to, count);
    default: return widenLoop<f64, f64>(from, to, count);
  }
}

template <class T>
struct Bounds;
#define MMSB_BOUNDS(T, LOW, HIGH, BITS)        \
  template <>                                  \
  struct Bounds<T> {                           \
    static constexpr T low = LOW, high = HIGH; \
    static constexpr u32 bits = BITS;          \
  }
MMSB_BOUNDS(u8, 0, 0xff, 8);
MMSB_BOUNDS(i8, -0x80, 0x7f, 7);
MMSB_BOUNDS(u16, 0, 0xffff, 16);
MMSB_BOUNDS(i16, -0x8000, 0x7fff, 15);
MMSB_BOUNDS(u32, 0, 0xffffffffu, 32);
MMSB_BOUNDS(i32, -0x7fffffff - 1, 0x7fffffff, 31);
MMSB_BOUNDS(u64, 0, 0xffffffffffffffffull, 64);
MMSB_BOUNDS(i64, -0x7fffffffffffffffll - 1, 0x7fffffffffffffffll, 63);
#undef MMSB_BOUNDS

template <class T>
static inline T saturate(u64 x) {
  return x > u64(Bounds<T>::high) ? Bounds<T>::high : T(x);
}
template <class T>
static inline T saturate(i64 x) {
  if (Bounds<T>::low == 0) return x < 0 ? T(0) : saturate<T>(u64(x));
  return x < i64(Bounds<T>::low) ? Bounds<T>::low : x > i64(Bounds<T>::high) ? Bounds<T>::high : T(x);
}
template <class T>
static inline T saturate(f64 x) {
  const f64 above = Bounds<T>::bits == 64 ? 18446744073709551616.0 : f64(1ull << (Bounds<T>::bits & 63));
  const f64 below =
      Bounds<T>::low == 0 ? -1.0 : -above;  // the exclusive bound; for signed types -above itself is a value
  if (!(x < above)) return x >= above ? Bounds<T>::high : T(0);
  if (Bounds<T>::low == 0) return x <= below ? T(0) : x < 0 ? T(0) : T(x);
  return x < below ? Bounds<T>::low : T(x);
}

template <class WIDE, class TO>
static void narrowLoop(const void* from, void* to, u32 count) {
  const WIDE* source = static_cast<const WIDE*>(from);
  TO* target = static_cast<TO*>(to);
  for (u32 i = 0; i < count; i++) target[i] = saturate<TO>(source[i]);
}

template <class WIDE>
static void narrowBlockOf(u32 dtype, const void* from, void* to, u32 count) {
  const WIDE* source = static_cast<const WIDE*>(from);
  switch (dtype) {
    case BOOL: {
      u8* target = static_cast<u8*>(to);
      for (u32 i = 0; i < count; i++) target[i] = source[i] != 0;
      return;
    }
    case U8: return narrowLoop<WIDE, u8>(from, to, count);
    case I8: return narrowLoop<WIDE, i8>(from, to, count);
    case U16: return narrowLoop<WIDE, u16>(from, to, count);
    case I16: return narrowLoop<WIDE, i16>(from, to, count);
    case U32: return narrowLoop<WIDE, u32>(from, to, count);
    case I32: return narrowLoop<WIDE, i32>(from, to, count);
    case U64: return narrowLoop<WIDE, u64>(from, to, count);
    case I64: return narrowLoop<WIDE, i64>(from, to, count);
    case F32: {
      f32* target = static_cast<f32*>(to);
      for (u32 i = 0; i < count; i++) target[i] = f32(source[i]);
      return;
    }
    default: {
      f64* target = static_cast<f64*>(to);
      for (u32 i = 0; i < count; i++) target[i] = f64(source[i]);
    }
  }
}

// Casts `count` <= kBlockElements elements. `wide` has room for `count` elements of 8 bytes; `from` may be
// unaligned.
static void castBlock(u32 fromDtype, const void* from, u32 toDtype, void* to, u32 count, void* wide) {
  if (fromDtype == toDtype) {
    memcpy(to, from, u64(count) * dtypeBytes(toDtype));
    return;
  }
  widenBlock(fromDtype, from, wide, count);
  switch (wideOf(fromDtype)) {
    case I64: return narrowBlockOf<i64>(toDtype, wide, to, count);
    case U64: return narrowBlockOf<u64>(toDtype, wide, to, count);
    default: return narrowBlockOf<f64>(toDtype, wide, to, count);
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
