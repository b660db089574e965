// A plain evaluator for one element of an expression. Tests compare the VM with it, and it is the body of the
// CUDA kernel.
//
// Invariants: it gives the same bits as the VM, because both call the functions of scalar.cuh. It trusts the
// programs that compileProgram (vm_compile.cuh) has made. Must not know of pages or shapes.
#pragma once
#include "expr/map_state.cuh"
#include "portable/lane.cuh"

namespace mmsb {
namespace MMSB_NS {

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

// Returns the lane of the result for one element. load(input, dtype) returns the lane of an input's element;
// registers[i] is a u64.
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
