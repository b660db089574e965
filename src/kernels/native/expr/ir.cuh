// The expression IR (docs/internals/FORMAT.md): layout and validation of a blob.
//
// Invariants: a blob is never trusted. A blob that checkIr accepts can run without further checks. Must not
// know how it is run.
#pragma once
#include "core/op.cuh"
#include "portable/ir_ops.cuh"

namespace mmsb {

static const u32 kIrMagic = 0x3152494d;
static const u32 kIrMaxInstructions = 4096;  // IR_MAX_INSTRUCTIONS of src/limits.ts

// An instruction as stored in a blob.
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
  if (inst.dtype >= DTYPE_COUNT) {
    return fail(MMSB_ERR_ARGUMENT, "expression: instruction %u has dtype %u", i, inst.dtype);
  }
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

// Validates a whole blob of `bytes` bytes. `types` gets the dtype of each value and has room for
// kIrMaxInstructions.
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
    return fail(MMSB_ERR_ARGUMENT, "expression: counts out of range");
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
