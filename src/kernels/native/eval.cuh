// A plain evaluator of one element of an expression: what tests compare the VM with, and the body of the CUDA kernel.
//
// Invariants: it gives the same bits as the VM, because both consist of the functions of scalar.cuh. It runs programs that
// compileProgram (vm.cuh) has made and trusts them. Must not know of pages or shapes.
#pragma once
#include "map_state.cuh"
#include "scalar.cuh"

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

// Operations that every lane type has.
template <class T>
static MMSB_HD inline u64 evalCommon(u32 op, T a, T b) {
  switch (op) {
    case IR_ADD: return laneTo(sAdd(a, b));
    case IR_MUL: return laneTo(sMul(a, b));
    case IR_MIN: return laneTo(sMin(a, b));
    case IR_MAX: return laneTo(sMax(a, b));
    case IR_EQ: return sEq(a, b);
    case IR_NE: return sNe(a, b);
    case IR_LT: return sLt(a, b);
    case IR_LE: return sLe(a, b);
    case IR_GT: return sGt(a, b);
    default: return sGe(a, b);
  }
}
static MMSB_HD inline u64 evalBool(u32 op, u8 a, u8 b) {
  switch (op) {
    case IR_AND:
    case IR_MUL:
    case IR_MIN:
    case IR_BITAND: return a & b;
    case IR_OR:
    case IR_ADD:
    case IR_MAX:
    case IR_BITOR: return a | b;
    case IR_BITXOR: return a ^ b;
    case IR_NOT: return a ^ 1;
    default: return evalCommon(op, a, b);
  }
}
template <class T>
static MMSB_HD u64 evalInteger(u32 op, T a, T b, T c) {
  switch (op) {
    case IR_SUB: return laneTo(sSub(a, b));
    case IR_FLOORDIV: return laneTo(sFloorDiv(a, b));
    case IR_MOD: return laneTo(sMod(a, b));
    case IR_POW: return laneTo(sPow(a, b));
    case IR_NEG: return laneTo(sNeg(a));
    case IR_ABS: return laneTo(sAbs(a));
    case IR_SIGN: return laneTo(sSign(a));
    case IR_FMA: return laneTo(sFma(a, b, c));
    case IR_BITAND: return laneTo(sBitAnd(a, b));
    case IR_BITOR: return laneTo(sBitOr(a, b));
    case IR_BITXOR: return laneTo(sBitXor(a, b));
    case IR_SHL: return laneTo(sShl(a, b));
    case IR_SHR: return laneTo(sShr(a, b));
    default: return evalCommon(op, a, b);
  }
}
template <class T>
static MMSB_HD u64 evalFloat(u32 op, T a, T b, T c) {
  switch (op) {
    case IR_SUB: return laneTo(sSub(a, b));
    case IR_DIV: return laneTo(sDiv(a, b));
    case IR_FLOORDIV: return laneTo(sFloorDiv(a, b));
    case IR_MOD: return laneTo(sMod(a, b));
    case IR_POW: return laneTo(sPow(a, b));
    case IR_NEG: return laneTo(sNeg(a));
    case IR_ABS: return laneTo(sAbs(a));
    case IR_SIGN: return laneTo(sSign(a));
    case IR_FMA: return laneTo(sFma(a, b, c));
    case IR_SQRT: return laneTo(sSqrt(a));
    case IR_EXP: return laneTo(mExp(a));
    case IR_LOG: return laneTo(mLog(a));
    case IR_LOG2: return laneTo(mLog2(a));
    case IR_SIN: return laneTo(sSin(a));
    case IR_COS: return laneTo(sCos(a));
    case IR_TAN: return laneTo(sTan(a));
    case IR_TANH: return laneTo(mTanh(a));
    case IR_FLOOR: return laneTo(sFloor(a));
    case IR_CEIL: return laneTo(sCeil(a));
    case IR_ROUND: return laneTo(sRound(a));
    case IR_TRUNC: return laneTo(sTrunc(a));
    case IR_ISNAN: return sIsNan(a);
    default: return evalCommon(op, a, b);
  }
}

static MMSB_HD inline u64 evalInst(const EvalInst& inst, u64 a, u64 b, u64 c) {
  if (inst.op == IR_SELECT) return a != 0 ? b : c;
  if (inst.op == IR_CAST) return castLane(inst.dtype, inst.from, a);
  switch (laneOf(inst.dtype)) {
    case LANE_BOOL: return evalBool(inst.op, u8(a), u8(b));
    case LANE_I32: {
      const u64 r = evalInteger(inst.op, laneFrom<i32>(a), laneFrom<i32>(b), laneFrom<i32>(c));
      return laneTo(narrow(laneFrom<i32>(r), inst.dtype));
    }
    case LANE_U32: return evalInteger(inst.op, laneFrom<u32>(a), laneFrom<u32>(b), laneFrom<u32>(c));
    case LANE_I64: return evalInteger(inst.op, laneFrom<i64>(a), laneFrom<i64>(b), laneFrom<i64>(c));
    case LANE_U64: return evalInteger(inst.op, a, b, c);
    case LANE_F32: return evalFloat(inst.op, laneFrom<f32>(a), laneFrom<f32>(b), laneFrom<f32>(c));
    default: return evalFloat(inst.op, laneFrom<f64>(a), laneFrom<f64>(b), laneFrom<f64>(c));
  }
}

// The lane of the result for one element; load(input, dtype) gives the lane of an input's element; registers[i] is a u64.
template <class Registers, class Load>
static MMSB_HD inline u64 evaluate(const EvalInst* code, u32 count, u32 result, Registers registers, const Load& load) {
  for (u32 i = 0; i < count; i++) {
    const EvalInst inst = code[i];
    u64 r;
    if (inst.op == IR_INPUT) r = load(u32(inst.imm), inst.dtype);
    else if (inst.op == IR_CONST) r = inst.imm;
    else r = evalInst(inst, registers[inst.a], registers[inst.b], registers[inst.c]);
    registers[inst.dst] = r;
  }
  return registers[result];
}

}  // namespace MMSB_NS
}  // namespace mmsb
