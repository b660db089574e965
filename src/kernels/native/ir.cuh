// The expression IR of docs/FORMAT.md: opcodes, and the check of a blob.
//
// Invariants: a blob is never trusted; what checkIr accepts can be run without further checks. Codes are written to logs
// and never change meaning; src/kernels/ir.ts has the same table (compared by a test). Must not know how it is run.
#pragma once
#include "op.cuh"

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
  X(48, ISNAN, "isnan", 1, 4, 1)     \
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
static MMSB_HD inline bool isNarrow(u32 dtype) { return dtype >= U8 && dtype <= I16; }
static MMSB_HD inline bool isFloatDtype(u32 dtype) { return dtype >= F32; }

// An instruction as it is in a blob.
struct IrInst {
  u8 op, dtype;
  u16 a, b, c;
  u64 imm;
};

namespace MMSB_NS {

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

}  // namespace MMSB_NS
}  // namespace mmsb
