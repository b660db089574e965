// Casts one element between dtypes. Casts saturate, and NaN becomes 0.
#pragma once
#include "portable/scalar.cuh"

namespace mmsb {
namespace MMSB_NS {

#define MMSB_FN static MMSB_HD inline

// Wraps an i32 to a narrower integer of the given dtype, as an i32 again.
MMSB_FN i32 narrow(i32 value, u8 dtype) {
  switch (dtype) {
    case U8: return i32(u8(u32(value)));
    case I8: return i32(i8(u8(u32(value))));
    case U16: return i32(u16(u32(value)));
    case I16: return i32(i16(u16(u32(value))));
    default: return value;
  }
}
// The same, but saturating.
MMSB_FN i32 saturateNarrow(i32 value, u8 dtype) {
  const i32 low = dtype == I8 ? -128 : dtype == I16 ? -32768 : 0;
  const i32 high = dtype == I8 ? 127 : dtype == I16 ? 32767 : dtype == U8 ? 255 : 65535;
  return value < low ? low : value > high ? high : value;
}

// sCast<To>(from) saturates; NaN becomes 0. A bool counts as the integer 0 or 1. sToBool casts to bool.
template <class To>
struct CastTo;
template <>
struct CastTo<i32> {
  static MMSB_HD i32 from(u8 x) { return x; }
  static MMSB_HD i32 from(i32 x) { return x; }
  static MMSB_HD i32 from(u32 x) { return x > 0x7fffffffu ? 0x7fffffff : i32(x); }
  static MMSB_HD i32 from(i64 x) {
    return x < -0x80000000ll ? i32(-0x80000000ll) : x > 0x7fffffffll ? 0x7fffffff : i32(x);
  }
  static MMSB_HD i32 from(u64 x) { return x > 0x7fffffffu ? 0x7fffffff : i32(x); }
  static MMSB_HD i32 from(f32 x) {
    f32 y = x == x ? x : 0.0f;
    y = y < -2147483648.0f ? -2147483648.0f : y;
    const bool above = y >= 2147483648.0f;
    const i32 value = i32(above ? 0.0f : y);
    return above ? 0x7fffffff : value;
  }
  static MMSB_HD i32 from(f64 x) {
    f64 y = x == x ? x : 0.0;
    y = y < -2147483648.0 ? -2147483648.0 : y;
    y = y > 2147483647.0 ? 2147483647.0 : y;
    return i32(y);
  }
};
template <>
struct CastTo<u32> {
  static MMSB_HD u32 from(u8 x) { return x; }
  static MMSB_HD u32 from(i32 x) { return x < 0 ? 0u : u32(x); }
  static MMSB_HD u32 from(u32 x) { return x; }
  static MMSB_HD u32 from(i64 x) { return x < 0 ? 0u : x > 0xffffffffll ? 0xffffffffu : u32(x); }
  static MMSB_HD u32 from(u64 x) { return x > 0xffffffffu ? 0xffffffffu : u32(x); }
  static MMSB_HD u32 from(f32 x) { return from(f64(x)); }
  static MMSB_HD u32 from(f64 x) {
    f64 y = x > 0.0 ? x : 0.0;  // also for NaN
    y = y > 4294967295.0 ? 4294967295.0 : y;
    // Goes through i32, for which there are vector instructions.
    return u32(i32(sFloor(y) - 2147483648.0)) ^ 0x80000000u;
  }
};
template <>
struct CastTo<i64> {
  static MMSB_HD i64 from(u8 x) { return x; }
  static MMSB_HD i64 from(i32 x) { return x; }
  static MMSB_HD i64 from(u32 x) { return x; }
  static MMSB_HD i64 from(i64 x) { return x; }
  static MMSB_HD i64 from(u64 x) { return x > 0x7fffffffffffffffull ? 0x7fffffffffffffffll : i64(x); }
  static MMSB_HD i64 from(f32 x) { return from(f64(x)); }
  static MMSB_HD i64 from(f64 x) {
    if (x >= 9223372036854775808.0) return 0x7fffffffffffffffll;
    if (x > -9223372036854775808.0) return i64(x);
    return x == x ? i64(kSignBit) : 0;
  }
};
template <>
struct CastTo<u64> {
  static MMSB_HD u64 from(u8 x) { return x; }
  static MMSB_HD u64 from(i32 x) { return x < 0 ? 0 : u64(x); }
  static MMSB_HD u64 from(u32 x) { return x; }
  static MMSB_HD u64 from(i64 x) { return x < 0 ? 0 : u64(x); }
  static MMSB_HD u64 from(u64 x) { return x; }
  static MMSB_HD u64 from(f32 x) { return from(f64(x)); }
  static MMSB_HD u64 from(f64 x) {
    if (x >= 18446744073709551616.0) return 0xffffffffffffffffull;
    return x > 0.0 ? u64(x) : 0;
  }
};
template <>
struct CastTo<f32> {
  template <class From>
  static MMSB_HD f32 from(From x) {
    return f32(x);
  }
};
template <>
struct CastTo<f64> {
  template <class From>
  static MMSB_HD f64 from(From x) {
    return f64(x);
  }
};

// Goes through i32, which saturates first.
template <class To, i32 LOW, i32 HIGH>
struct CastToNarrow {
  template <class From>
  static MMSB_HD To from(From x) {
    const i32 wide = CastTo<i32>::from(x);
    return To(wide < LOW ? LOW : wide > HIGH ? HIGH : wide);
  }
};
template <>
struct CastTo<u8> : CastToNarrow<u8, 0, 255> {};
template <>
struct CastTo<i8> : CastToNarrow<i8, -128, 127> {};
template <>
struct CastTo<u16> : CastToNarrow<u16, 0, 65535> {};
template <>
struct CastTo<i16> : CastToNarrow<i16, -32768, 32767> {};

template <class From>
MMSB_FN u8 sToBool(From x) {
  return x != 0;
}
template <class To, class From>
MMSB_FN To sCast(From x) {
  return CastTo<To>::from(x);
}

#undef MMSB_FN

}  // namespace MMSB_NS
}  // namespace mmsb
