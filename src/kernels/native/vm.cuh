// Expressions: the IR of docs/FORMAT.md checked and lowered, the block-wise virtual machine of the CPU, and a plain
// evaluator of one element, which tests compare with the VM and which is the body of the CUDA kernel.
//
// Invariants: a blob is never trusted; compileProgram refuses what it cannot run. VM and evaluator give the same bits,
// because both consist of the functions of scalar.cuh and each element depends on its own inputs only. Values live in
// lanes (see scalar.cuh): narrow integers as i32, bool as one byte, 0 or 1.
//
// The VM runs each instruction over a block of elements that stays in the L1 cache: one indirect call per instruction and
// block, loops that the compiler vectorises. Instructions whose operands are all the same for every element ("uniform")
// run once per call; their results and the constants are scalar operands of the others.
//
// Must not know of pages, shapes or ranges (see op_map.cuh).
#pragma once
#include "op.cuh"
#include "scalar.cuh"

// code, identifier, name, operands, dtype classes it takes (1 bool, 2 integers, 4 floats), whether the result is bool
#define MMSB_IR_OPS(X)               \
  X(0, INPUT, "input", 0, 7, 0)      \
  X(1, CONST, "const", 0, 7, 0)      \
  X(2, CAST, "cast", 1, 7, 0)        \
  X(3, ADD, "add", 2, 7, 0)          \
  X(4, SUB, "sub", 2, 6, 0)          \
  X(5, MUL, "mul", 2, 7, 0)          \
  X(6, DIV, "div", 2, 4, 0)          \
  X(7, FLOORDIV, "floordiv", 2, 6, 0) \
  X(8, MOD, "mod", 2, 6, 0)          \
  X(9, POW, "pow", 2, 6, 0)          \
  X(10, NEG, "neg", 1, 6, 0)         \
  X(11, ABS, "abs", 1, 6, 0)         \
  X(12, SIGN, "sign", 1, 6, 0)       \
  X(16, EQ, "eq", 2, 7, 1)           \
  X(17, NE, "ne", 2, 7, 1)           \
  X(18, LT, "lt", 2, 7, 1)           \
  X(19, LE, "le", 2, 7, 1)           \
  X(20, GT, "gt", 2, 7, 1)           \
  X(21, GE, "ge", 2, 7, 1)           \
  X(22, AND, "and", 2, 1, 1)         \
  X(23, OR, "or", 2, 1, 1)           \
  X(24, NOT, "not", 1, 1, 1)         \
  X(25, SELECT, "select", 3, 7, 0)   \
  X(26, MIN, "min", 2, 7, 0)         \
  X(27, MAX, "max", 2, 7, 0)         \
  X(32, SQRT, "sqrt", 1, 4, 0)       \
  X(33, EXP, "exp", 1, 4, 0)         \
  X(34, LOG, "log", 1, 4, 0)         \
  X(35, LOG2, "log2", 1, 4, 0)       \
  X(36, SIN, "sin", 1, 4, 0)         \
  X(37, COS, "cos", 1, 4, 0)         \
  X(38, TAN, "tan", 1, 4, 0)         \
  X(39, TANH, "tanh", 1, 4, 0)       \
  X(40, FLOOR, "floor", 1, 4, 0)     \
  X(41, CEIL, "ceil", 1, 4, 0)       \
  X(42, ROUND, "round", 1, 4, 0)     \
  X(43, TRUNC, "trunc", 1, 4, 0)     \
  X(48, ISNAN, "isnan", 1, 7, 1)     \
  X(49, FMA, "fma", 3, 6, 0)         \
  X(50, BITAND, "bitand", 2, 3, 0)   \
  X(51, BITOR, "bitor", 2, 3, 0)     \
  X(52, BITXOR, "bitxor", 2, 3, 0)   \
  X(53, SHL, "shl", 2, 2, 0)         \
  X(54, SHR, "shr", 2, 2, 0)

namespace mmsb {

enum IrOp : u8 {
#define X(CODE, ID, NAME, ARITY, CLASSES, BOOLEAN) IR_##ID = CODE,
  MMSB_IR_OPS(X)
#undef X
};

static const u32 kIrMagic = 0x3152494d;
static const u32 kIrMaxInstructions = 4096;  // IR_MAX_INSTRUCTIONS of src/limits.ts
static const u32 kIrMaxInputs = 64;          // IR_MAX_INPUTS

// How a value is held while it is computed with.
enum LaneKind : u8 { LANE_BOOL, LANE_I32, LANE_U32, LANE_I64, LANE_U64, LANE_F32, LANE_F64 };

static MMSB_HD inline LaneKind laneOf(u32 dtype) { return LaneKind((0x65341211110ull >> (4 * dtype)) & 15); }
// Bytes of a lane: 1 4 4 8 8 4 8.
static MMSB_HD inline u32 laneBytes(u32 kind) { return (0x8488441u >> (4 * kind)) & 15; }
static MMSB_HD inline bool isNarrow(u32 dtype) { return dtype >= U8 && dtype <= I16; }
static MMSB_HD inline bool isFloatDtype(u32 dtype) { return dtype >= F32; }

// An instruction as it is in a blob.
struct IrInst {
  u8 op, dtype;
  u16 a, b, c;
  u64 imm;
};

// An instruction of the evaluator: value `dst` in a file of 64-bit registers, each holding the bits of one lane.
struct EvalInst {
  u8 op, dtype;
  u8 from;  // dtype of operand a, for cast
  u8 reserved;
  u16 dst, a, b, c;
  u32 reserved2;
  u64 imm;
};

// A loop over n elements: operands and result by address; a scalar operand is the address of one lane.
typedef void (*VmKernel)(void* dst, const void* a, const void* b, const void* c, size_t n);

// An instruction of the VM. Operands are slots of a table of addresses: inputs, then uniforms, then registers; the last
// slot is the destination of the block.
struct VmInst {
  VmKernel kernel;
  u16 dst, a, b, c;
};

// What fills a uniform slot before a call.
struct VmUniform {
  u64 bits;    // constant: the lane
  u16 input;   // else the input whose single element it is, or 0xffff: computed by uniformCode
  u8 constant;
  u8 dtype;
};

struct Program {
  u32 inputCount;
  u8 inputDtype[kIrMaxInputs];
  u8 inputUniform[kIrMaxInputs];
  u8 inputUsed[kIrMaxInputs];
  u8 outDtype;

  EvalInst* eval;
  u32 evalCount, evalRegisters;
  u16 evalResult;

  VmInst* code;  // per block
  u32 codeCount;
  VmInst* uniformCode;  // once per call
  u32 uniformCodeCount;
  VmUniform* uniforms;
  u32 uniformCount, registerCount;
  u32 slotCount;      // inputCount + uniformCount + registerCount + 1
  u32 blockElements;  // elements of a block
  u32 registerBytes;  // distance between registers
  f32 costNs;         // rough time per element
};

namespace MMSB_NS {

// ---- one element: the reference, and the CUDA kernel's body --------------------------------------------------------

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
    case LANE_BOOL: return laneTo(sCast<To>(u8(x)));
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
    case LANE_BOOL: return castLaneTo<u8>(from, x);
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
    case IR_GE: return sGe(a, b);
    default: return sIsNan(a);
  }
}
static MMSB_HD inline u64 evalBool(u32 op, u8 a, u8 b) {
  switch (op) {
    case IR_AND:
    case IR_BITAND: return a & b;
    case IR_OR:
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

// The lane of the result for one element; load(input, dtype) gives the lane of an input's element.
template <class Load>
static MMSB_HD inline u64 evaluate(const EvalInst* code, u32 count, u32 result, u64* registers, const Load& load) {
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

// ---- the VM's loops -----------------------------------------------------------------------------------------------

// Operand i is read before result i is written, and a result may lie on an operand of the same lane size.
#define MMSB_LOOP _Pragma("GCC ivdep") for (size_t i = 0; i < n; i++)

template <class D, class A, D (*F)(A)>
static void loop1(void* dst, const void* a_, const void*, const void*, size_t n) {
  D* d = static_cast<D*>(dst);
  const A* a = static_cast<const A*>(a_);
  MMSB_LOOP d[i] = F(a[i]);
}
template <class D, class A, D (*F)(A, A)>
static void loopVV(void* dst, const void* a_, const void* b_, const void*, size_t n) {
  D* d = static_cast<D*>(dst);
  const A *a = static_cast<const A*>(a_), *b = static_cast<const A*>(b_);
  MMSB_LOOP d[i] = F(a[i], b[i]);
}
template <class D, class A, D (*F)(A, A)>
static void loopVS(void* dst, const void* a_, const void* b_, const void*, size_t n) {
  D* d = static_cast<D*>(dst);
  const A* a = static_cast<const A*>(a_);
  const A b = *static_cast<const A*>(b_);
  MMSB_LOOP d[i] = F(a[i], b);
}
template <class D, class A, D (*F)(A, A)>
static void loopSV(void* dst, const void* a_, const void* b_, const void*, size_t n) {
  D* d = static_cast<D*>(dst);
  const A a = *static_cast<const A*>(a_);
  const A* b = static_cast<const A*>(b_);
  MMSB_LOOP d[i] = F(a, b[i]);
}
template <class T, T (*F)(T, T, T)>
static void loop3(void* dst, const void* a_, const void* b_, const void* c_, size_t n) {
  T* d = static_cast<T*>(dst);
  const T *a = static_cast<const T*>(a_), *b = static_cast<const T*>(b_), *c = static_cast<const T*>(c_);
  MMSB_LOOP d[i] = F(a[i], b[i], c[i]);
}
template <class T>
static void loopSelectVV(void* dst, const void* c_, const void* a_, const void* b_, size_t n) {
  T* d = static_cast<T*>(dst);
  const u8* c = static_cast<const u8*>(c_);
  const T *a = static_cast<const T*>(a_), *b = static_cast<const T*>(b_);
  MMSB_LOOP d[i] = c[i] != 0 ? a[i] : b[i];
}
template <class T>
static void loopSelectVS(void* dst, const void* c_, const void* a_, const void* b_, size_t n) {
  T* d = static_cast<T*>(dst);
  const u8* c = static_cast<const u8*>(c_);
  const T* a = static_cast<const T*>(a_);
  const T b = *static_cast<const T*>(b_);
  MMSB_LOOP d[i] = c[i] != 0 ? a[i] : b;
}
template <class T>
static void loopSelectSV(void* dst, const void* c_, const void* a_, const void* b_, size_t n) {
  T* d = static_cast<T*>(dst);
  const u8* c = static_cast<const u8*>(c_);
  const T a = *static_cast<const T*>(a_);
  const T* b = static_cast<const T*>(b_);
  MMSB_LOOP d[i] = c[i] != 0 ? a : b[i];
}
template <class T>
static void loopSelectSS(void* dst, const void* c_, const void* a_, const void* b_, size_t n) {
  T* d = static_cast<T*>(dst);
  const u8* c = static_cast<const u8*>(c_);
  const T a = *static_cast<const T*>(a_), b = *static_cast<const T*>(b_);
  MMSB_LOOP d[i] = c[i] != 0 ? a : b;
}
template <class T>
static void loopFill(void* dst, const void* a_, const void*, const void*, size_t n) {
  T* d = static_cast<T*>(dst);
  const T a = *static_cast<const T*>(a_);
  MMSB_LOOP d[i] = a;
}
template <class T>
static void loopCopy(void* dst, const void* a, const void*, const void*, size_t n) {
  if (dst != a) memmove(dst, a, n * sizeof(T));
}
// The fast form for all, then the slow one for the rare elements that need it; in pieces, because dst may be a.
template <class T, T (*FAST)(T), bool (*SPECIAL)(T), T (*SLOW)(T)>
static void loopRare(void* dst, const void* a_, const void*, const void*, size_t count) {
  T* d = static_cast<T*>(dst);
  const T* a = static_cast<const T*>(a_);
  const size_t piece = 64;
  for (size_t at = 0; at < count; at += piece) {
    const size_t n = count - at < piece ? count - at : piece;
    alignas(64) T x[piece];
    memcpy(x, a + at, n * sizeof(T));
    u32 rare = 0;
    MMSB_LOOP {
      rare |= SPECIAL(x[i]) ? 1u : 0u;
      d[at + i] = FAST(x[i]);
    }
    if (rare == 0) continue;
    for (size_t i = 0; i < n; i++) {
      if (SPECIAL(x[i])) d[at + i] = SLOW(x[i]);
    }
  }
}

static inline u8 boolAnd(u8 a, u8 b) { return a & b; }
static inline u8 boolOr(u8 a, u8 b) { return a | b; }
static inline u8 boolXor(u8 a, u8 b) { return a ^ b; }
static inline u8 boolNot(u8 a) { return a ^ 1; }
template <class To, class From>
static inline To convert(From x) {
  return sCast<To>(x);
}
template <class From>
static inline i32 widen(From x) {
  return i32(x);
}
template <class To>
static inline To storeNarrow(i32 x) {
  return To(x);
}
template <u8 DTYPE>
static inline i32 wrapTo(i32 x) {
  return narrow(x, DTYPE);
}
template <u8 DTYPE>
static inline i32 clampTo(i32 x) {
  return saturateNarrow(x, DTYPE);
}

// ---- from instruction to loop -------------------------------------------------------------------------------------

enum OperandMode : u32 { MODE_VV, MODE_VS, MODE_SV };

template <class D, class A, D (*F)(A, A)>
static VmKernel binaryLoop(OperandMode mode) {
  return mode == MODE_VV ? loopVV<D, A, F> : mode == MODE_VS ? loopVS<D, A, F> : loopSV<D, A, F>;
}
// For operations so slow that a scalar operand may as well be written out: null asks for that.
template <class T, T (*F)(T, T)>
static VmKernel heavyLoop(OperandMode mode) {
  return mode == MODE_VV ? loopVV<T, T, F> : nullptr;
}

template <class T>
static VmKernel compareLoop(u32 op, OperandMode mode) {
  // Order matters less than code size: c < x is x > c.
  if (mode == MODE_SV) {
    switch (op) {
      case IR_EQ: return loopVS<u8, T, sEq<T>>;
      case IR_NE: return loopVS<u8, T, sNe<T>>;
      case IR_LT: return loopVS<u8, T, sGt<T>>;
      case IR_LE: return loopVS<u8, T, sGe<T>>;
      case IR_GT: return loopVS<u8, T, sLt<T>>;
      default: return loopVS<u8, T, sLe<T>>;
    }
  }
  switch (op) {
    case IR_EQ: return mode == MODE_VV ? loopVV<u8, T, sEq<T>> : loopVS<u8, T, sEq<T>>;
    case IR_NE: return mode == MODE_VV ? loopVV<u8, T, sNe<T>> : loopVS<u8, T, sNe<T>>;
    case IR_LT: return mode == MODE_VV ? loopVV<u8, T, sLt<T>> : loopVS<u8, T, sLt<T>>;
    case IR_LE: return mode == MODE_VV ? loopVV<u8, T, sLe<T>> : loopVS<u8, T, sLe<T>>;
    case IR_GT: return mode == MODE_VV ? loopVV<u8, T, sGt<T>> : loopVS<u8, T, sGt<T>>;
    default: return mode == MODE_VV ? loopVV<u8, T, sGe<T>> : loopVS<u8, T, sGe<T>>;
  }
}
static bool isCompare(u32 op) { return op >= IR_EQ && op <= IR_GE; }

static VmKernel boolKernel(u32 op, OperandMode mode) {
  switch (op) {
    case IR_AND:
    case IR_MUL:
    case IR_MIN:
    case IR_BITAND: return mode == MODE_VV ? loopVV<u8, u8, boolAnd> : loopVS<u8, u8, boolAnd>;
    case IR_OR:
    case IR_ADD:
    case IR_MAX:
    case IR_BITOR: return mode == MODE_VV ? loopVV<u8, u8, boolOr> : loopVS<u8, u8, boolOr>;
    case IR_NE:
    case IR_BITXOR: return mode == MODE_VV ? loopVV<u8, u8, boolXor> : loopVS<u8, u8, boolXor>;
    case IR_NOT: return loop1<u8, u8, boolNot>;
    case IR_ISNAN: return loop1<u8, u8, sIsNan<u8>>;
    default: return compareLoop<u8>(op, mode);
  }
}

// Operations that do not look at the sign: signed lanes use the unsigned loops.
template <class U>
static VmKernel wrappingKernel(u32 op, OperandMode mode) {
  switch (op) {
    case IR_ADD: return mode == MODE_VV ? loopVV<U, U, sAdd<U>> : loopVS<U, U, sAdd<U>>;
    case IR_MUL: return mode == MODE_VV ? loopVV<U, U, sMul<U>> : loopVS<U, U, sMul<U>>;
    case IR_SUB: return binaryLoop<U, U, sSub<U>>(mode);
    case IR_BITAND: return mode == MODE_VV ? loopVV<U, U, sBitAnd<U>> : loopVS<U, U, sBitAnd<U>>;
    case IR_BITOR: return mode == MODE_VV ? loopVV<U, U, sBitOr<U>> : loopVS<U, U, sBitOr<U>>;
    case IR_BITXOR: return mode == MODE_VV ? loopVV<U, U, sBitXor<U>> : loopVS<U, U, sBitXor<U>>;
    case IR_NEG: return loop1<U, U, sNeg<U>>;
    case IR_SHL: return heavyLoop<U, sShl<U>>(mode);
    case IR_ISNAN: return loop1<u8, U, sIsNan<U>>;
    case IR_FMA: return loop3<U, sFma<U>>;
    default: return nullptr;
  }
}
template <class T>
static VmKernel integerKernel(u32 op, OperandMode mode) {
  switch (op) {
    case IR_FLOORDIV: return heavyLoop<T, sFloorDiv<T>>(mode);
    case IR_MOD: return heavyLoop<T, sMod<T>>(mode);
    case IR_POW: return heavyLoop<T, sPow<T>>(mode);
    case IR_SHR: return heavyLoop<T, sShr<T>>(mode);
    case IR_ABS: return loop1<T, T, sAbs<T>>;
    case IR_SIGN: return loop1<T, T, sSign<T>>;
    case IR_MIN: return mode == MODE_VV ? loopVV<T, T, sMin<T>> : loopVS<T, T, sMin<T>>;
    case IR_MAX: return mode == MODE_VV ? loopVV<T, T, sMax<T>> : loopVS<T, T, sMax<T>>;
    default: return isCompare(op) ? compareLoop<T>(op, mode) : wrappingKernel<typename Lane<T>::Unsigned>(op, mode);
  }
}
template <class T>
static VmKernel floatKernel(u32 op, OperandMode mode) {
  switch (op) {
    case IR_ADD: return mode == MODE_VV ? loopVV<T, T, sAdd<T>> : loopVS<T, T, sAdd<T>>;
    case IR_MUL: return mode == MODE_VV ? loopVV<T, T, sMul<T>> : loopVS<T, T, sMul<T>>;
    case IR_SUB: return binaryLoop<T, T, sSub<T>>(mode);
    case IR_DIV: return binaryLoop<T, T, sDiv<T>>(mode);
    case IR_MIN: return mode == MODE_VV ? loopVV<T, T, sMin<T>> : loopVS<T, T, sMin<T>>;
    case IR_MAX: return mode == MODE_VV ? loopVV<T, T, sMax<T>> : loopVS<T, T, sMax<T>>;
    case IR_FLOORDIV: return heavyLoop<T, sFloorDiv<T>>(mode);
    case IR_MOD: return heavyLoop<T, sMod<T>>(mode);
    case IR_POW: return heavyLoop<T, sPow<T>>(mode);
    case IR_NEG: return loop1<T, T, sNeg<T>>;
    case IR_ABS: return loop1<T, T, sAbs<T>>;
    case IR_SIGN: return loop1<T, T, sSign<T>>;
    case IR_SQRT: return loop1<T, T, sSqrt>;
    case IR_EXP: return loop1<T, T, mExp>;
    case IR_LOG: return loop1<T, T, mLog>;
    case IR_LOG2: return loop1<T, T, mLog2>;
    case IR_TANH: return loop1<T, T, mTanh>;
    case IR_SIN: return loopRare<T, mSinFast, mSinSpecial, mSinSlow>;
    case IR_COS: return loopRare<T, mCosFast, mCosSpecial, mCosSlow>;
    case IR_TAN: return loopRare<T, mTanFast, mTanSpecial, mTanSlow>;
    case IR_FLOOR: return loop1<T, T, sFloor>;
    case IR_CEIL: return loop1<T, T, sCeil>;
    case IR_ROUND: return loop1<T, T, sRound>;
    case IR_TRUNC: return loop1<T, T, sTrunc>;
    case IR_ISNAN: return loop1<u8, T, sIsNan<T>>;
    case IR_FMA: return loop3<T, sFma<T>>;
    default: return isCompare(op) ? compareLoop<T>(op, mode) : nullptr;
  }
}
static VmKernel kernelOf(u32 op, u32 dtype, OperandMode mode) {
  switch (laneOf(dtype)) {
    case LANE_BOOL: return boolKernel(op, mode);
    case LANE_I32: return integerKernel<i32>(op, mode);
    case LANE_U32: return integerKernel<u32>(op, mode);
    case LANE_I64: return integerKernel<i64>(op, mode);
    case LANE_U64: return integerKernel<u64>(op, mode);
    case LANE_F32: return floatKernel<f32>(op, mode);
    default: return floatKernel<f64>(op, mode);
  }
}

template <class To>
static VmKernel castKernelTo(LaneKind from) {
  switch (from) {
    case LANE_BOOL: return loop1<To, u8, convert<To, u8>>;
    case LANE_I32: return loop1<To, i32, convert<To, i32>>;
    case LANE_U32: return loop1<To, u32, convert<To, u32>>;
    case LANE_I64: return loop1<To, i64, convert<To, i64>>;
    case LANE_U64: return loop1<To, u64, convert<To, u64>>;
    case LANE_F32: return loop1<To, f32, convert<To, f32>>;
    default: return loop1<To, f64, convert<To, f64>>;
  }
}
static VmKernel castKernel(LaneKind to, LaneKind from) {
  switch (to) {
    case LANE_BOOL: return castKernelTo<u8>(from);
    case LANE_I32: return castKernelTo<i32>(from);
    case LANE_U32: return castKernelTo<u32>(from);
    case LANE_I64: return castKernelTo<i64>(from);
    case LANE_U64: return castKernelTo<u64>(from);
    case LANE_F32: return castKernelTo<f32>(from);
    default: return castKernelTo<f64>(from);
  }
}

static VmKernel fillKernel(u32 bytes) { return bytes == 1 ? loopFill<u8> : bytes == 4 ? loopFill<u32> : loopFill<u64>; }
static VmKernel copyKernel(u32 bytes) { return bytes == 1 ? loopCopy<u8> : bytes == 4 ? loopCopy<u32> : loopCopy<u64>; }
template <class T>
static VmKernel selectLoop(bool aUniform, bool bUniform) {
  if (aUniform) return bUniform ? loopSelectSS<T> : loopSelectSV<T>;
  return bUniform ? loopSelectVS<T> : loopSelectVV<T>;
}
static VmKernel selectKernel(u32 bytes, bool aUniform, bool bUniform) {
  if (bytes == 1) return selectLoop<u8>(aUniform, bUniform);
  return bytes == 4 ? selectLoop<u32>(aUniform, bUniform) : selectLoop<u64>(aUniform, bUniform);
}
static VmKernel loadKernel(u32 dtype) {
  switch (dtype) {
    case U8: return loop1<i32, u8, widen<u8>>;
    case I8: return loop1<i32, i8, widen<i8>>;
    case U16: return loop1<i32, u16, widen<u16>>;
    default: return loop1<i32, i16, widen<i16>>;
  }
}
static VmKernel storeKernel(u32 dtype) {
  if (dtype == F32) return loop1<f32, f32, canonical>;
  if (dtype == F64) return loop1<f64, f64, canonical>;
  return dtypeBytes(dtype) == 1 ? loop1<u8, i32, storeNarrow<u8>> : loop1<u16, i32, storeNarrow<u16>>;
}
static VmKernel wrapKernel(u32 dtype) {
  switch (dtype) {
    case U8: return loop1<i32, i32, wrapTo<U8>>;
    case I8: return loop1<i32, i32, wrapTo<I8>>;
    case U16: return loop1<i32, i32, wrapTo<U16>>;
    default: return loop1<i32, i32, wrapTo<I16>>;
  }
}
static VmKernel clampKernel(u32 dtype) {
  switch (dtype) {
    case U8: return loop1<i32, i32, clampTo<U8>>;
    case I8: return loop1<i32, i32, clampTo<I8>>;
    case U16: return loop1<i32, i32, clampTo<U16>>;
    default: return loop1<i32, i32, clampTo<I16>>;
  }
}

// ---- checking a blob ----------------------------------------------------------------------------------------------

struct IrFacts {
  u8 known, arity, classes, boolean;
};
static IrFacts irFacts(u32 op) {
  switch (op) {
#define X(CODE, ID, NAME, ARITY, CLASSES, BOOLEAN) \
  case CODE: return IrFacts{1, ARITY, CLASSES, BOOLEAN};
    MMSB_IR_OPS(X)
#undef X
    default: return IrFacts{0, 0, 0, 0};
  }
}

struct IrBlob {
  u32 inputCount, count, result;
  const u8* inputDtypes;
  const IrInst* code;
};

static int32_t checkInstruction(const IrBlob& ir, u32 i, u8* types) {
  const IrInst inst = ir.code[i];
  const IrFacts facts = irFacts(inst.op);
  if (!facts.known) return fail(MMSB_ERR_ARGUMENT, "expression: instruction %u has the unknown op %u", i, inst.op);
  if (inst.dtype >= DTYPE_COUNT) return fail(MMSB_ERR_ARGUMENT, "expression: instruction %u has dtype %u", i, inst.dtype);
  const u32 kind = inst.dtype == BOOL ? 1 : isFloatDtype(inst.dtype) ? 4 : 2;
  if ((facts.classes & kind) == 0) {
    return fail(MMSB_ERR_ARGUMENT, "expression: instruction %u: op %u does not take dtype %u", i, inst.op, inst.dtype);
  }
  const u16 operands[3] = {inst.a, inst.b, inst.c};
  for (u32 k = 0; k < 3; k++) {
    if (k >= facts.arity ? operands[k] != 0 : operands[k] >= i) {
      return fail(MMSB_ERR_ARGUMENT, "expression: instruction %u has operand %u out of order", i, operands[k]);
    }
    if (k >= facts.arity || inst.op == IR_CAST) continue;
    const u8 wanted = inst.op == IR_SELECT && k == 0 ? u8(BOOL) : inst.dtype;
    if (types[operands[k]] != wanted) return fail(MMSB_ERR_ARGUMENT, "expression: instruction %u mixes dtypes", i);
  }
  const u32 bits = 8 * dtypeBytes(inst.dtype);
  bool good = inst.imm == 0;
  if (inst.op == IR_INPUT) good = inst.imm < ir.inputCount && ir.inputDtypes[inst.imm] == inst.dtype;
  if (inst.op == IR_CONST) good = inst.dtype == BOOL ? inst.imm <= 1 : bits == 64 || inst.imm >> bits == 0;
  if (!good) return fail(MMSB_ERR_ARGUMENT, "expression: instruction %u has a bad immediate", i);
  types[i] = facts.boolean ? u8(BOOL) : inst.dtype;
  return MMSB_OK;
}

// Checks a blob of `bytes` bytes wholly; types gets the dtype of each value (room for kIrMaxInstructions).
static int32_t checkIr(const u8* blob, u32 bytes, IrBlob& ir, u8* types) {
  if (bytes < 16 || (bytes & 7) != 0) return fail(MMSB_ERR_ARGUMENT, "expression: %u bytes are not an IR blob", bytes);
  u32 head[4];
  memcpy(head, blob, 16);
  ir.inputCount = head[1] >> 16;
  ir.count = head[2];
  ir.result = head[3];
  if (head[0] != kIrMagic) return fail(MMSB_ERR_ARGUMENT, "expression: not an IR blob");
  if ((head[1] & 0xffff) != 1) return fail(MMSB_ERR_UNSUPPORTED, "expression: IR version %u", head[1] & 0xffff);
  if (ir.inputCount > kIrMaxInputs || ir.count == 0 || ir.count > kIrMaxInstructions || ir.result >= ir.count) {
    return fail(MMSB_ERR_ARGUMENT, "expression: counts out of bounds");
  }
  const u32 table = (ir.inputCount + 7) & ~7u;
  if (bytes != 16 + table + 16 * ir.count) {
    return fail(MMSB_ERR_ARGUMENT, "expression: %u bytes, %u expected", bytes, 16 + table + 16 * ir.count);
  }
  ir.inputDtypes = blob + 16;
  ir.code = reinterpret_cast<const IrInst*>(blob + 16 + table);
  for (u32 i = 0; i < table; i++) {
    if (i < ir.inputCount ? ir.inputDtypes[i] >= DTYPE_COUNT : ir.inputDtypes[i] != 0) {
      return fail(MMSB_ERR_ARGUMENT, "expression: bad dtype table");
    }
  }
  for (u32 i = 0; i < ir.count; i++) {
    const int32_t status = checkInstruction(ir, i, types);
    if (status != MMSB_OK) return status;
  }
  return MMSB_OK;
}

// ---- lowering -----------------------------------------------------------------------------------------------------

static const u32 kNone = 0xffffffffu;
// Steps of lowering per instruction of the IR: at most three operands written out, the operation, a wrap or a clamp.
static const u32 kMaxPerInst = 6;

// One loop before registers are given: operands are virtual slots.
struct Draft {
  VmKernel kernel;
  u32 dst;
  u32 operand[3];
};

// A virtual slot. Inputs and uniforms have their place; the others get a register.
struct VirtualSlot {
  u32 place;    // index among inputs or uniforms; for registers, the register given
  u32 lastUse;  // index of the last draft that reads it
  u8 kind;      // 0 input, 1 uniform, 2 register, 3 destination
  u8 bytes;     // of a lane
};

struct Lowering {
  IrInst* nodes;  // live instructions in order, operands renumbered, and a final cast
  u8* types;      // dtype of each node's value
  u32 nodeCount;
  Program* program;
  u32* slotOf;  // node -> virtual slot
  u8* uniform;  // node -> the same for every element
  VirtualSlot* slots;
  u32 slotCount;
  Draft* drafts;  // per block
  u32 draftCount;
  Draft* once;  // uniform code
  u32 onceCount;
};

static u32 newSlot(Lowering& lo, u8 kind, u32 place, u8 bytes) {
  lo.slots[lo.slotCount] = VirtualSlot{place, kNone, kind, bytes};
  return lo.slotCount++;
}
static u32 newUniform(Lowering& lo, VmUniform value, u8 bytes) {
  Program& p = *lo.program;
  p.uniforms[p.uniformCount] = value;
  return newSlot(lo, 1, p.uniformCount++, bytes);
}
static void emit(Lowering& lo, bool once, VmKernel kernel, u32 dst, u32 a, u32 b, u32 c) {
  Draft& draft = once ? lo.once[lo.onceCount++] : lo.drafts[lo.draftCount++];
  draft = Draft{kernel, dst, {a, b, c}};
}

static bool canOverflow(u32 op) {
  switch (op) {
    case IR_ADD:
    case IR_SUB:
    case IR_MUL:
    case IR_POW:
    case IR_NEG:
    case IR_ABS:
    case IR_FLOORDIV:
    case IR_SHL:
    case IR_FMA: return true;
    default: return false;
  }
}

static void lowerCast(Lowering& lo, u32 i, bool once, u32 dst, u32 a) {
  const u8 to = lo.types[i], from = lo.types[lo.nodes[i].a];
  const bool sameLane = laneOf(to) == laneOf(from);
  if (isNarrow(to) && from != BOOL && from != to) {
    if (!sameLane) emit(lo, once, castKernel(LANE_I32, laneOf(from)), dst, a, kNone, kNone);
    emit(lo, once, clampKernel(to), dst, sameLane ? a : dst, kNone, kNone);
  } else if (sameLane) {
    emit(lo, once, copyKernel(laneBytes(laneOf(to))), dst, a, kNone, kNone);
  } else {
    emit(lo, once, castKernel(laneOf(to), laneOf(from)), dst, a, kNone, kNone);
  }
}

// A uniform operand as a whole block, for loops that have no scalar form.
static u32 spread(Lowering& lo, u32 slot) {
  const u8 bytes = lo.slots[slot].bytes;
  const u32 reg = newSlot(lo, 2, 0, bytes);
  emit(lo, false, fillKernel(bytes), reg, slot, kNone, kNone);
  return reg;
}

static void lowerNode(Lowering& lo, u32 i) {
  const IrInst& node = lo.nodes[i];
  const u8 dtype = lo.types[i];
  const u8 bytes = u8(laneBytes(laneOf(dtype)));
  const bool once = lo.uniform[i] != 0;
  if (node.op == IR_CONST) {
    lo.slotOf[i] = newUniform(lo, VmUniform{loadLane(dtype, &node.imm, 0), 0xffff, 1, dtype}, bytes);
    return;
  }
  if (node.op == IR_INPUT) {
    if (once) {
      lo.slotOf[i] = newUniform(lo, VmUniform{0, u16(node.imm), 0, dtype}, bytes);
      return;
    }
    const u32 input = newSlot(lo, 0, u32(node.imm), u8(dtypeBytes(dtype)));
    lo.slotOf[i] = input;
    if (!isNarrow(dtype)) return;
    lo.slotOf[i] = newSlot(lo, 2, 0, bytes);
    emit(lo, false, loadKernel(dtype), lo.slotOf[i], input, kNone, kNone);
    return;
  }
  const u32 dst = once ? newUniform(lo, VmUniform{0, 0xffff, 0, dtype}, bytes) : newSlot(lo, 2, 0, bytes);
  lo.slotOf[i] = dst;
  const u32 arity = irFacts(node.op).arity;
  u32 a = lo.slotOf[node.a], b = arity > 1 ? lo.slotOf[node.b] : kNone, c = arity > 2 ? lo.slotOf[node.c] : kNone;
  const bool aScalar = !once && lo.uniform[node.a] != 0;
  const bool bScalar = !once && arity > 1 && lo.uniform[node.b] != 0;
  const bool cScalar = !once && arity > 2 && lo.uniform[node.c] != 0;
  if (node.op == IR_CAST) {
    lowerCast(lo, i, once, dst, a);
    return;
  }
  if (node.op == IR_SELECT) {
    if (aScalar) a = spread(lo, a);
    emit(lo, once, selectKernel(bytes, bScalar, cScalar), dst, a, b, c);
    return;
  }
  if (arity == 3) {
    if (aScalar) a = spread(lo, a);
    if (bScalar) b = spread(lo, b);
    if (cScalar) c = spread(lo, c);
    emit(lo, once, kernelOf(node.op, node.dtype, MODE_VV), dst, a, b, c);
  } else if (arity == 2) {
    const OperandMode mode = aScalar ? MODE_SV : bScalar ? MODE_VS : MODE_VV;
    const bool commutes = node.op == IR_ADD || node.op == IR_MUL || node.op == IR_MIN || node.op == IR_MAX ||
                          (node.op >= IR_BITAND && node.op <= IR_BITXOR) || isCompare(node.op) || node.dtype == BOOL;
    VmKernel kernel = kernelOf(node.op, node.dtype, mode);
    if (kernel == nullptr) {  // no scalar form
      if (aScalar) a = spread(lo, a);
      else b = spread(lo, b);
      kernel = kernelOf(node.op, node.dtype, MODE_VV);
    } else if (aScalar && commutes) {
      const u32 swap = a;
      a = b;
      b = swap;
    }
    emit(lo, once, kernel, dst, a, b, kNone);
  } else {
    emit(lo, once, kernelOf(node.op, node.dtype, MODE_VV), dst, a, kNone, kNone);
  }
  if (isNarrow(dtype) && canOverflow(node.op)) emit(lo, once, wrapKernel(dtype), dst, dst, kNone, kNone);
}

// The last loop: from lanes to the destination's elements.
static void lowerResult(Lowering& lo) {
  const u32 last = lo.nodeCount - 1;
  const u8 dtype = lo.types[last];
  const u32 result = lo.slotOf[last];
  const u32 dst = newSlot(lo, 3, 0, u8(dtypeBytes(dtype)));
  const u32 bytes = laneBytes(laneOf(dtype));
  if (lo.slots[result].kind == 1) {
    // A whole block of one value.
    const bool direct = !isNarrow(dtype) && !isFloatDtype(dtype);
    const u32 block = direct ? dst : newSlot(lo, 2, 0, u8(bytes));
    emit(lo, false, fillKernel(bytes), block, result, kNone, kNone);
    if (!direct) emit(lo, false, storeKernel(dtype), dst, block, kNone, kNone);
  } else if (isNarrow(dtype) || isFloatDtype(dtype)) {
    emit(lo, false, storeKernel(dtype), dst, result, kNone, kNone);
  } else if (lo.slots[result].kind == 0) {
    emit(lo, false, copyKernel(bytes), dst, result, kNone, kNone);
  } else {
    // The instructions that made the result (an operation and perhaps a wrap) write the destination instead.
    for (u32 i = lo.draftCount; i-- > 0 && lo.drafts[i].dst == result;) {
      lo.drafts[i].dst = dst;
      if (lo.drafts[i].operand[0] == result) lo.drafts[i].operand[0] = dst;
    }
  }
}

// Registers by last use. A result may take the register of an operand that ends here when the lanes are of one size.
static void giveRegisters(Lowering& lo) {
  for (u32 i = 0; i < lo.draftCount; i++) {
    for (u32 k = 0; k < 3; k++) {
      if (lo.drafts[i].operand[k] != kNone) lo.slots[lo.drafts[i].operand[k]].lastUse = i;
    }
  }
  Program& p = *lo.program;
  u32* freeRegisters = lo.slotOf;  // no longer needed; a register per node at most
  u32 freeCount = 0;
  u8* given = lo.uniform;  // per slot: has a register. Cleared by the caller
  for (u32 i = 0; i < lo.draftCount; i++) {
    const Draft& draft = lo.drafts[i];
    VirtualSlot& dst = lo.slots[draft.dst];
    u32 ending[3];
    u32 endingCount = 0;
    for (u32 k = 0; k < 3; k++) {
      const u32 slot = draft.operand[k];
      if (slot == kNone || slot == draft.dst || lo.slots[slot].kind != 2 || lo.slots[slot].lastUse != i) continue;
      bool twice = false;
      for (u32 j = 0; j < k; j++) twice = twice || draft.operand[j] == slot;
      if (!twice) ending[endingCount++] = slot;
    }
    const bool needs = dst.kind == 2 && given[draft.dst] == 0;
    bool served = !needs;
    for (u32 k = 0; k < endingCount; k++) {
      const VirtualSlot& slot = lo.slots[ending[k]];
      if (!served && slot.bytes == dst.bytes) {
        dst.place = slot.place;
        served = true;
        ending[k] = kNone;
      }
    }
    if (!served) dst.place = freeCount != 0 ? freeRegisters[--freeCount] : p.registerCount++;
    if (needs) given[draft.dst] = 1;
    for (u32 k = 0; k < endingCount; k++) {
      if (ending[k] != kNone) freeRegisters[freeCount++] = lo.slots[ending[k]].place;
    }
  }
}

static u16 finalSlot(const Lowering& lo, u32 slot) {
  if (slot == kNone) return 0;
  const Program& p = *lo.program;
  const VirtualSlot& s = lo.slots[slot];
  if (s.kind == 0) return u16(s.place);
  if (s.kind == 1) return u16(p.inputCount + s.place);
  if (s.kind == 2) return u16(p.inputCount + p.uniformCount + s.place);
  return u16(p.inputCount + p.uniformCount + p.registerCount);
}

static void finish(const Lowering& lo, const Draft* drafts, u32 count, VmInst* code) {
  for (u32 i = 0; i < count; i++) {
    const Draft& d = drafts[i];
    code[i].kernel = d.kernel;
    code[i].dst = finalSlot(lo, d.dst);
    code[i].a = finalSlot(lo, d.operand[0]);
    code[i].b = finalSlot(lo, d.operand[1]);
    code[i].c = finalSlot(lo, d.operand[2]);
  }
}

// Registers of the evaluator, by last use too. `registers` has room for a number per node.
static void makeEval(const Lowering& lo, EvalInst* code, u16* registers, u32* lastUse, u16* freeRegisters) {
  Program& p = *lo.program;
  for (u32 i = 0; i < lo.nodeCount; i++) {
    const IrInst& node = lo.nodes[i];
    const u32 arity = irFacts(node.op).arity;
    lastUse[i] = i;
    if (arity > 0) lastUse[node.a] = i;
    if (arity > 1) lastUse[node.b] = i;
    if (arity > 2) lastUse[node.c] = i;
  }
  lastUse[lo.nodeCount - 1] = kNone;
  u32 freeCount = 0;
  for (u32 i = 0; i < lo.nodeCount; i++) {
    const IrInst& node = lo.nodes[i];
    const u32 arity = irFacts(node.op).arity;
    const u16 operands[3] = {node.a, node.b, node.c};
    EvalInst e = {};
    e.op = node.op;
    e.dtype = node.dtype;
    e.imm = node.op == IR_CONST ? loadLane(node.dtype, &node.imm, 0) : node.imm;
    if (arity > 0) e.a = registers[node.a];
    if (arity > 1) e.b = registers[node.b];
    if (arity > 2) e.c = registers[node.c];
    if (node.op == IR_CAST) e.from = lo.types[node.a];
    for (u32 k = 0; k < arity; k++) {
      bool twice = false;
      for (u32 j = 0; j < k; j++) twice = twice || operands[j] == operands[k];
      if (!twice && lastUse[operands[k]] == i) freeRegisters[freeCount++] = registers[operands[k]];
    }
    registers[i] = freeCount != 0 ? freeRegisters[--freeCount] : u16(p.evalRegisters++);
    e.dst = registers[i];
    code[i] = e;
  }
  p.evalCount = lo.nodeCount;
  p.evalResult = registers[lo.nodeCount - 1];
}

// Keeps what the result needs, renumbered, and ends with a cast to the dtype asked for.
static void keepLive(const IrBlob& ir, const u8* types, Lowering& lo, u32* number) {
  for (u32 i = 0; i < ir.count; i++) number[i] = 0;
  number[ir.result] = 1;
  for (u32 i = ir.result + 1; i-- > 0;) {
    if (number[i] == 0) continue;
    const u32 arity = irFacts(ir.code[i].op).arity;
    if (arity > 0) number[ir.code[i].a] = 1;
    if (arity > 1) number[ir.code[i].b] = 1;
    if (arity > 2) number[ir.code[i].c] = 1;
  }
  for (u32 i = 0; i <= ir.result; i++) {
    if (number[i] == 0) continue;
    IrInst node = ir.code[i];
    const u32 arity = irFacts(node.op).arity;
    if (arity > 0) node.a = u16(number[node.a]);
    if (arity > 1) node.b = u16(number[node.b]);
    if (arity > 2) node.c = u16(number[node.c]);
    if (node.op == IR_INPUT) lo.program->inputUsed[node.imm] = 1;
    number[i] = lo.nodeCount;
    lo.types[lo.nodeCount] = types[i];
    lo.nodes[lo.nodeCount++] = node;
  }
  const u8 out = lo.program->outDtype;
  if (lo.types[lo.nodeCount - 1] == out) return;
  lo.nodes[lo.nodeCount] = IrInst{IR_CAST, out, u16(lo.nodeCount - 1), 0, 0, 0};
  lo.types[lo.nodeCount++] = out;
}

// Rough times of one element on one core, for the choice of threads only.
static f32 costOf(u32 op, u32 dtype) {
  const f32 width = dtypeBytes(dtype) == 8 ? 2.0f : 1.0f;
  switch (op) {
    case IR_INPUT:
    case IR_CONST: return 0.05f;
    case IR_POW: return isFloatDtype(dtype) ? 8.0f * width : 6.0f;
    case IR_FLOORDIV:
    case IR_MOD: return 5.0f;
    case IR_EXP:
    case IR_LOG:
    case IR_LOG2:
    case IR_SIN:
    case IR_COS:
    case IR_TAN:
    case IR_TANH: return 2.0f * width;
    default: return 0.08f * width;
  }
}

static void chooseBlock(Program& p, const Lowering& lo) {
  u32 widest = 4;
  for (u32 i = 0; i < lo.nodeCount; i++) {
    const u32 bytes = laneBytes(laneOf(lo.types[i]));
    widest = bytes > widest ? bytes : widest;
    p.costNs += costOf(lo.nodes[i].op, lo.nodes[i].dtype);
  }
  p.blockElements = 4096 / widest;
  // Many live values: smaller blocks, so that the registers stay in the cache.
  while (p.blockElements > 64 && u64(p.registerCount) * p.blockElements * widest > 24 * 1024) p.blockElements /= 2;
  // The odd line keeps registers from falling on the same cache sets and from 4 KiB aliasing.
  p.registerBytes = p.blockElements * widest + 64;
}

static void freeProgram(Program* program) {
  if (program == nullptr) return;
  free(program->eval);
  free(program->code);
  free(program->uniformCode);
  free(program->uniforms);
  free(program);
}

static void lowerProgram(Lowering& lo) {
  Program& p = *lo.program;
  for (u32 i = 0; i < lo.nodeCount; i++) {
    const IrInst& node = lo.nodes[i];
    const u32 arity = irFacts(node.op).arity;
    lo.uniform[i] = node.op == IR_INPUT ? p.inputUniform[node.imm] : 1;
    if (arity > 0) lo.uniform[i] &= lo.uniform[node.a];
    if (arity > 1) lo.uniform[i] &= lo.uniform[node.b];
    if (arity > 2) lo.uniform[i] &= lo.uniform[node.c];
    lowerNode(lo, i);
  }
  lowerResult(lo);
  memset(lo.uniform, 0, lo.slotCount);
  giveRegisters(lo);
  p.slotCount = p.inputCount + p.uniformCount + p.registerCount + 1;
  chooseBlock(p, lo);
}

// Checks a blob and lowers it for outputs of `outDtype`. inputUniform[i] says that input i has one element for all
// elements of the output. MMSB_OK or fail(...).
static int32_t compileProgram(const u8* blob, u32 bytes, const u8* inputUniform, u8 outDtype, Program** out) {
  u8 types[kIrMaxInstructions];
  IrBlob ir;
  const int32_t status = checkIr(blob, bytes, ir, types);
  if (status != MMSB_OK) return status;
  const u32 nodes = ir.count + 1, slots = nodes * 5 + 2, drafts = nodes * kMaxPerInst + 2;
  Program* p = static_cast<Program*>(calloc(1, sizeof(Program)));
  Lowering lo = {};
  lo.program = p;
  lo.nodes = static_cast<IrInst*>(calloc(nodes, sizeof(IrInst)));
  lo.types = static_cast<u8*>(calloc(nodes, 1));
  lo.slotOf = static_cast<u32*>(calloc(slots, sizeof(u32)));
  lo.uniform = static_cast<u8*>(calloc(slots, 1));
  lo.slots = static_cast<VirtualSlot*>(calloc(slots, sizeof(VirtualSlot)));
  lo.drafts = static_cast<Draft*>(calloc(drafts, sizeof(Draft)));
  lo.once = static_cast<Draft*>(calloc(drafts, sizeof(Draft)));
  u32* number = static_cast<u32*>(calloc(nodes, sizeof(u32)));
  u16* registers = static_cast<u16*>(calloc(2 * nodes, sizeof(u16)));
  if (p != nullptr) {
    p->eval = static_cast<EvalInst*>(calloc(nodes, sizeof(EvalInst)));
    p->uniforms = static_cast<VmUniform*>(calloc(nodes, sizeof(VmUniform)));
  }
  bool good = p != nullptr && lo.nodes != nullptr && lo.types != nullptr && lo.slotOf != nullptr && lo.uniform != nullptr &&
              lo.slots != nullptr && lo.drafts != nullptr && lo.once != nullptr && number != nullptr &&
              registers != nullptr && p->eval != nullptr && p->uniforms != nullptr;
  if (good) {
    p->inputCount = ir.inputCount;
    p->outDtype = outDtype;
    memcpy(p->inputDtype, ir.inputDtypes, ir.inputCount);
    memcpy(p->inputUniform, inputUniform, ir.inputCount);
    keepLive(ir, types, lo, number);
    makeEval(lo, p->eval, registers, number, registers + nodes);
    lowerProgram(lo);
    p->codeCount = lo.draftCount;
    p->uniformCodeCount = lo.onceCount;
    p->code = static_cast<VmInst*>(calloc(lo.draftCount + 1, sizeof(VmInst)));
    p->uniformCode = static_cast<VmInst*>(calloc(lo.onceCount + 1, sizeof(VmInst)));
    good = p->code != nullptr && p->uniformCode != nullptr;
  }
  if (good) {
    finish(lo, lo.drafts, lo.draftCount, p->code);
    finish(lo, lo.once, lo.onceCount, p->uniformCode);
  }
  free(lo.nodes);
  free(lo.types);
  free(lo.slotOf);
  free(lo.uniform);
  free(lo.slots);
  free(lo.drafts);
  free(lo.once);
  free(number);
  free(registers);
  if (!good) {
    freeProgram(p);
    return fail(MMSB_ERR_MEMORY, "expression: out of memory");
  }
  *out = p;
  return MMSB_OK;
}

// ---- running ------------------------------------------------------------------------------------------------------

// Scratch of one call: the table of addresses, the uniforms, the registers.
static u32 vmScratchBytes(const Program& p) {
  const u32 table = (p.slotCount * u32(sizeof(void*)) + 63) & ~63u;
  const u32 uniforms = (p.uniformCount * 8 + 63) & ~63u;
  return table + uniforms + p.registerCount * p.registerBytes;
}

static inline void vmRun(const VmInst* code, u32 count, void** at, size_t n) {
  for (u32 i = 0; i < count; i++) {
    const VmInst& inst = code[i];
    inst.kernel(at[inst.dst], at[inst.a], at[inst.b], at[inst.c], n);
  }
}

// Lays out `scratch` (vmScratchBytes, 64-byte aligned) and computes the uniforms; uniformInput[i] is the address of the
// one element of a uniform input. Gives the table of addresses, in which the caller sets inputs and destination.
static void** vmBegin(const Program& p, void* scratch, const void* const* uniformInput) {
  u8* memory = static_cast<u8*>(scratch);
  void** at = reinterpret_cast<void**>(memory);
  memory += (p.slotCount * sizeof(void*) + 63) & ~size_t(63);
  u64* lanes = reinterpret_cast<u64*>(memory);
  memory += (p.uniformCount * 8 + 63) & ~size_t(63);
  void** slot = at + p.inputCount;
  for (u32 i = 0; i < p.uniformCount; i++) {
    const VmUniform& u = p.uniforms[i];
    if (u.constant != 0) lanes[i] = u.bits;
    else if (u.input != 0xffff) lanes[i] = loadLane(u.dtype, uniformInput[u.input], 0);
    *slot++ = lanes + i;
  }
  for (u32 i = 0; i < p.registerCount; i++) *slot++ = memory + size_t(i) * p.registerBytes;
  vmRun(p.uniformCode, p.uniformCodeCount, at, 1);
  return at;
}

#undef MMSB_LOOP

}  // namespace MMSB_NS
}  // namespace mmsb
