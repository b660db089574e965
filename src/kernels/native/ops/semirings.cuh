// The semirings of matmul; conv uses plus-times and or-and.
#pragma once
#include "portable/scalar.cuh"

namespace mmsb {
namespace MMSB_NS {

template <class T>
struct PlusTimes {
  static MMSB_HD inline T zero() { return T(0); }
  static MMSB_HD inline T go(T acc, T a, T b) { return T(acc + T(a * b)); }
};
template <>
struct PlusTimes<u16> {  // a product in int could overflow
  static MMSB_HD inline u16 zero() { return 0; }
  static MMSB_HD inline u16 go(u16 acc, u16 a, u16 b) { return u16(acc + u32(a) * b); }
};
template <>
struct PlusTimes<f32> {
  static MMSB_HD inline f32 zero() { return 0; }
  static MMSB_HD inline f32 go(f32 acc, f32 a, f32 b) { return sFma<f32>(a, b, acc); }
};
template <>
struct PlusTimes<f64> {
  static MMSB_HD inline f64 zero() { return 0; }
  static MMSB_HD inline f64 go(f64 acc, f64 a, f64 b) { return sFma<f64>(a, b, acc); }
};
struct OrAnd {
  static MMSB_HD inline u8 zero() { return 0; }
  static MMSB_HD inline u8 go(u8 acc, u8 a, u8 b) { return acc | (a & b); }
};

template <class T>
struct WrapAdd {
  static MMSB_HD inline T go(T a, T b) { return T(u64(a) + u64(b)); }
};
template <>
struct WrapAdd<f32> {
  static MMSB_HD inline f32 go(f32 a, f32 b) { return a + b; }
};
template <>
struct WrapAdd<f64> {
  static MMSB_HD inline f64 go(f64 a, f64 b) { return a + b; }
};
template <class T>
struct Extreme {
  static const bool hasSign = T(-1) < T(0);
  static MMSB_HD inline T high() { return hasSign ? T(~0ull >> (65 - 8 * sizeof(T))) : T(~0ull); }
  static MMSB_HD inline T low() { return hasSign ? T(~u64(high())) : T(0); }
};
template <>
struct Extreme<f32> {
  static MMSB_HD inline f32 low() { return f32Of(0xff800000u); }
  static MMSB_HD inline f32 high() { return f32Of(0x7f800000u); }
};
template <>
struct Extreme<f64> {
  static MMSB_HD inline f64 low() { return f64Of(0xfff0000000000000ull); }
  static MMSB_HD inline f64 high() { return f64Of(0x7ff0000000000000ull); }
};
template <class T>
struct MinPlus {
  static MMSB_HD inline T zero() { return Extreme<T>::high(); }
  static MMSB_HD inline T go(T acc, T a, T b) { return sMin<T>(acc, WrapAdd<T>::go(a, b)); }
};
template <class T>
struct MaxPlus {
  static MMSB_HD inline T zero() { return Extreme<T>::low(); }
  static MMSB_HD inline T go(T acc, T a, T b) { return sMax<T>(acc, WrapAdd<T>::go(a, b)); }
};

}  // namespace MMSB_NS
}  // namespace mmsb
