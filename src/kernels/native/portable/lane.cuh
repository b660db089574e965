// Lanes: an element of any dtype as 64 bits, as expressions and kernels hold it, with loads from and stores
// to pages.
#pragma once
#include "portable/ir_ops.cuh"
#include "portable/scalar_cast.cuh"

namespace mmsb {
namespace MMSB_NS {

template <class T>
static MMSB_HD inline T laneFrom(u64 bits) {
  return T(bits);
}
template <>
MMSB_HD inline f32 laneFrom<f32>(u64 bits) {
  return f32Of(u32(bits));
}
template <>
MMSB_HD inline f64 laneFrom<f64>(u64 bits) {
  return f64Of(bits);
}
static MMSB_HD inline u64 laneTo(u8 x) { return x; }
static MMSB_HD inline u64 laneTo(i32 x) { return u32(x); }
static MMSB_HD inline u64 laneTo(u32 x) { return x; }
static MMSB_HD inline u64 laneTo(i64 x) { return u64(x); }
static MMSB_HD inline u64 laneTo(u64 x) { return x; }
static MMSB_HD inline u64 laneTo(f32 x) { return bitsOf(x); }
static MMSB_HD inline u64 laneTo(f64 x) { return bitsOf(x); }

// The lane of element `index` of an array of the dtype.
static MMSB_HD inline u64 loadLane(u32 dtype, const void* data, u64 index) {
  switch (dtype) {
    case BOOL: return static_cast<const u8*>(data)[index];
    case U8: return laneTo(i32(static_cast<const u8*>(data)[index]));
    case I8: return laneTo(i32(static_cast<const i8*>(data)[index]));
    case U16: return laneTo(i32(static_cast<const u16*>(data)[index]));
    case I16: return laneTo(i32(static_cast<const i16*>(data)[index]));
    case U64:
    case I64:
    case F64: return static_cast<const u64*>(data)[index];
    default: return static_cast<const u32*>(data)[index];
  }
}
static MMSB_HD inline void storeLane(u32 dtype, void* data, u64 index, u64 lane) {
  switch (dtypeBytes(dtype)) {
    case 1: static_cast<u8*>(data)[index] = u8(lane); break;
    case 2: static_cast<u16*>(data)[index] = u16(lane); break;
    case 8: static_cast<u64*>(data)[index] = dtype == F64 ? bitsOf(canonical(f64Of(lane))) : lane; break;
    default: static_cast<u32*>(data)[index] = dtype == F32 ? bitsOf(canonical(f32Of(u32(lane)))) : u32(lane);
  }
}

template <class To>
static MMSB_HD inline u64 castLaneTo(u32 from, u64 x) {
  switch (laneOf(from)) {
    case LANE_BOOL: return laneTo(sCast<To>(i32(u8(x))));
    case LANE_I32: return laneTo(sCast<To>(laneFrom<i32>(x)));
    case LANE_U32: return laneTo(sCast<To>(laneFrom<u32>(x)));
    case LANE_I64: return laneTo(sCast<To>(laneFrom<i64>(x)));
    case LANE_U64: return laneTo(sCast<To>(x));
    case LANE_F32: return laneTo(sCast<To>(laneFrom<f32>(x)));
    default: return laneTo(sCast<To>(laneFrom<f64>(x)));
  }
}
static MMSB_HD u64 castLane(u32 to, u32 from, u64 x) {
  switch (laneOf(to)) {
    case LANE_BOOL:
      if (from == F32) return sToBool(f32Of(u32(x)));
      return from == F64 ? sToBool(f64Of(x)) : sToBool(x);
    case LANE_I32: {
      const u64 lane = castLaneTo<i32>(from, x);
      return isNarrow(to) ? laneTo(saturateNarrow(laneFrom<i32>(lane), u8(to))) : lane;
    }
    case LANE_U32: return castLaneTo<u32>(from, x);
    case LANE_I64: return castLaneTo<i64>(from, x);
    case LANE_U64: return castLaneTo<u64>(from, x);
    case LANE_F32: return castLaneTo<f32>(from, x);
    default: return castLaneTo<f64>(from, x);
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
