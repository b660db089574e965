// Lowers the IR to loops of the VM: selects the loop of each instruction and the pairs that share one pass.
//
// Operands and results are virtual slots here; vm_compile.cuh assigns registers to them.
#pragma once
#include "expr/ir.cuh"
#include "expr/map_state.cuh"
#include "expr/vm_fused.cuh"
#include "expr/vm_loops.cuh"

namespace mmsb {
namespace MMSB_NS {

static const u32 kNone = 0xffffffffu;
// Upper bound on loops per IR instruction: three to fill scalar operands, and the operation.
static const u32 kMaxPerInst = 4;

// Values of Lowering::partner that are not nodes.
static const u16 kAlone = 0xffff, kDeferred = 0xfffe;

// A loop whose operands are virtual slots, before registers are assigned.
struct VirtualInst {
  VmKernel kernel;
  u32 dst;
  u32 operand[4];
};

// A virtual slot. Inputs and uniforms have a fixed place; other slots get a register.
struct VirtualSlot {
  u32 place;    // index among inputs or uniforms; else the assigned register
  u32 lastUse;  // index of the last instruction that reads it
  u8 kind;      // 0 input, 1 uniform, 2 register, 3 destination
  u8 bytes;     // of a lane
};

struct Lowering {
  IrInst* nodes;  // live instructions in order, operands renumbered, and a final cast
  u8* types;      // dtype of each node's value
  u32 nodeCount;
  Program* program;
  u32* slotOf;   // node -> virtual slot
  u8* uniform;   // node -> 1 if it is the same for every element
  u32* uses;     // node -> number of operands that use it
  u16* partner;  // node -> the earlier node of the same pass, kAlone, or kDeferred for that earlier node
  VirtualSlot* slots;
  u32 slotCount;
  VirtualInst* code;  // runs once per block
  u32 codeCount;
  VirtualInst* uniformCode;  // runs once per call
  u32 uniformCodeCount;
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
static void emit(Lowering& lo, bool once, VmKernel kernel, u32 dst, u32 a, u32 b = kNone, u32 c = kNone,
                 u32 d = kNone) {
  VirtualInst& inst = once ? lo.uniformCode[lo.uniformCodeCount++] : lo.code[lo.codeCount++];
  inst = VirtualInst{kernel, dst, {a, b, c, d}};
}

// Fills a block with a uniform operand, for loops without a scalar form.
static u32 spread(Lowering& lo, u32 slot) {
  const u8 bytes = lo.slots[slot].bytes;
  const u32 reg = newSlot(lo, 2, 0, bytes);
  emit(lo, false, fillKernel(bytes), reg, slot);
  return reg;
}

static void lowerPair(Lowering& lo, u32 i, u32 j, u32 dst);
static void lowerChoice(Lowering& lo, u32 i, u32 j, u32 dst);
static bool ordinaryConstant(const Lowering& lo, u32 i);

static void lowerNode(Lowering& lo, u32 i) {
  const IrInst& node = lo.nodes[i];
  const u8 dtype = lo.types[i];
  const u8 bytes = u8(dtypeBytes(dtype));
  const bool once = lo.uniform[i] != 0;
  if (node.op == IR_CONST) {
    lo.slotOf[i] = newUniform(lo, VmUniform{node.imm, 0xffff, 1, dtype}, bytes);
    return;
  }
  if (node.op == IR_INPUT) {
    if (once) {
      lo.slotOf[i] = newUniform(lo, VmUniform{0, u16(node.imm), 0, dtype}, bytes);
      return;
    }
    lo.slotOf[i] = newSlot(lo, 0, u32(node.imm), bytes);
    return;
  }
  const u32 dst = once ? newUniform(lo, VmUniform{0, 0xffff, 0, dtype}, bytes) : newSlot(lo, 2, 0, bytes);
  lo.slotOf[i] = dst;
  if (lo.partner[i] != kAlone) {
    if (node.op == IR_SELECT) lowerChoice(lo, lo.partner[i], i, dst);
    else lowerPair(lo, lo.partner[i], i, dst);
    return;
  }
  const u32 arity = irFacts(node.op).arity;
  u32 a = lo.slotOf[node.a], b = arity > 1 ? lo.slotOf[node.b] : kNone, c = arity > 2 ? lo.slotOf[node.c] : kNone;
  const bool aScalar = !once && lo.uniform[node.a] != 0;
  const bool bScalar = !once && arity > 1 && lo.uniform[node.b] != 0;
  const bool cScalar = !once && arity > 2 && lo.uniform[node.c] != 0;
  if (node.op == IR_CAST) {
    const u8 from = lo.types[node.a];
    emit(lo, once, from == dtype ? copyKernel(bytes) : castKernel(dtype, from), dst, a);
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
    if (isFloatDtype(node.dtype) && (node.op == IR_MIN || node.op == IR_MAX) && (aScalar || bScalar) &&
        ordinaryConstant(lo, aScalar ? node.a : node.b)) {
      kernel = ordinaryKernel(node.op, node.dtype);
    }
    if (kernel == nullptr) {  // no scalar form
      if (aScalar) a = spread(lo, a);
      else b = spread(lo, b);
      kernel = kernelOf(node.op, node.dtype, MODE_VV);
    } else if (aScalar && commutes) {
      const u32 swap = a;
      a = b;
      b = swap;
    }
    emit(lo, once, kernel, dst, a, b);
  } else {
    emit(lo, once, kernelOf(node.op, node.dtype, MODE_VV), dst, a);
  }
}

// ---- fusion -----------------------------------------------------------------------------------------------

// A constant that is neither NaN nor zero.
static bool ordinaryConstant(const Lowering& lo, u32 i) {
  const IrInst& node = lo.nodes[i];
  if (node.op != IR_CONST) return false;
  const f64 x = node.dtype == F32 ? f64(f32Of(u32(node.imm))) : f64Of(node.imm);
  return x == x && x != 0;
}

// Node j as an operation on the carried value, which is one of its operands, and the other operand.
struct PairUse {
  u32 op;        // PairOp
  u32 other;     // the other operand's node
  bool negated;  // negate the other operand
};
static PairUse pairUse(const Lowering& lo, u32 j, u32 carried) {
  const IrInst& node = lo.nodes[j];
  const bool isA = carried == node.a;
  const u32 other = isA ? node.b : node.a;
  if (!isFloatDtype(node.dtype) || lo.uniform[j] != 0) return PairUse{PAIR_NONE, other, false};
  const bool scalar = lo.uniform[other] != 0;
  switch (node.op) {
    case IR_ADD: return PairUse{scalar ? PAIR_ADD_S : PAIR_ADD_V, other, false};
    case IR_MUL: return PairUse{scalar ? PAIR_MUL_S : PAIR_MUL_V, other, false};
    case IR_SUB:
      if (isA) return PairUse{scalar ? PAIR_ADD_S : PAIR_SUB_V, other, scalar};
      return PairUse{scalar ? PAIR_RSUB_S : PAIR_RSUB_V, other, false};
    case IR_MIN: return PairUse{ordinaryConstant(lo, other) ? PAIR_MIN_S : PAIR_NONE, other, false};
    case IR_MAX: return PairUse{ordinaryConstant(lo, other) ? PAIR_MAX_S : PAIR_NONE, other, false};
    default: return PairUse{PAIR_NONE, other, false};
  }
}
// The operand that the first operation of a pair carries: one that is not uniform.
static u32 carriedOf(const Lowering& lo, u32 i) {
  return lo.uniform[lo.nodes[i].a] != 0 ? lo.nodes[i].b : lo.nodes[i].a;
}

static bool canPair(const Lowering& lo, u32 i, u32 j) {
  if (lo.partner[i] != kAlone || lo.uses[i] != 1 || lo.uniform[i] != 0 || lo.nodes[i].dtype != lo.nodes[j].dtype) {
    return false;
  }
  return irFacts(lo.nodes[i].op).arity == 2 && pairUse(lo, i, carriedOf(lo, i)).op != PAIR_NONE &&
         pairUse(lo, j, i).op != PAIR_NONE;
}
static bool canChoose(const Lowering& lo, u32 i, u32 j) {
  return isCompare(lo.nodes[i].op) && lo.uses[i] == 1 && lo.uniform[i] == 0 && isFloatDtype(lo.nodes[j].dtype) &&
         lo.nodes[i].dtype == lo.nodes[j].dtype;
}

// Finds the nodes that share a pass with an earlier node that only they use.
static void findPartners(Lowering& lo) {
  for (u32 j = 0; j < lo.nodeCount; j++) {
    const IrInst& node = lo.nodes[j];
    lo.partner[j] = kAlone;
    const u32 arity = irFacts(node.op).arity;
    u32 i = kNone;
    if (node.op == IR_SELECT) {
      if (canChoose(lo, node.a, j)) i = node.a;
    } else if (arity == 2) {
      if (canPair(lo, node.a, j)) i = node.a;
      else if (canPair(lo, node.b, j)) i = node.b;
    }
    if (i == kNone) continue;
    lo.partner[j] = u16(i);
    lo.partner[i] = kDeferred;
  }
}

// The slot of -x for a uniform x.
static u32 negatedUniform(Lowering& lo, u32 i) {
  const u8 dtype = lo.types[i];
  const u8 bytes = u8(dtypeBytes(dtype));
  if (lo.nodes[i].op == IR_CONST) {
    return newUniform(lo, VmUniform{lo.nodes[i].imm ^ (1ull << (8 * bytes - 1)), 0xffff, 1, dtype}, bytes);
  }
  const u32 slot = newUniform(lo, VmUniform{0, 0xffff, 0, dtype}, bytes);
  emit(lo, true, kernelOf(IR_NEG, dtype, MODE_VV), slot, lo.slotOf[i]);
  return slot;
}

static u32 otherSlot(Lowering& lo, const PairUse& use) {
  return use.negated ? negatedUniform(lo, use.other) : lo.slotOf[use.other];
}
static void lowerPair(Lowering& lo, u32 i, u32 j, u32 dst) {
  const u32 carried = carriedOf(lo, i);
  const PairUse first = pairUse(lo, i, carried), second = pairUse(lo, j, i);
  u32 a = lo.slotOf[carried], b = otherSlot(lo, first), op = first.op;
  if (op == PAIR_RSUB_V) {
    op = PAIR_SUB_V;
    const u32 swap = a;
    a = b;
    b = swap;
  }
  const u32 c = otherSlot(lo, second);
  emit(lo, false, lo.types[j] == F32 ? pairKernel<f32>(op, second.op) : pairKernel<f64>(op, second.op), dst, a, b, c);
}

static void lowerChoice(Lowering& lo, u32 i, u32 j, u32 dst) {
  const IrInst& test = lo.nodes[i];
  u32 a = test.a, b = test.b, x = lo.nodes[j].b, y = lo.nodes[j].c, op = test.op;
  if (op == IR_NE) {
    op = IR_EQ;
    const u32 swap = x;
    x = y;
    y = swap;
  }
  const bool greater = op == IR_GT || op == IR_GE;
  if (lo.uniform[a] != 0 || (greater && lo.uniform[b] == 0)) {
    const u32 swap = a;
    a = b;
    b = swap;
    op = op == IR_LT ? u32(IR_GT) : op == IR_LE ? u32(IR_GE) : op == IR_GT ? u32(IR_LT) : op == IR_GE ? u32(IR_LE) : op;
  }
  const u32 choice = op == IR_LT   ? CHOICE_LT
                     : op == IR_LE ? CHOICE_LE
                     : op == IR_EQ ? CHOICE_EQ
                     : op == IR_GT ? CHOICE_GT_S
                                   : CHOICE_GE_S;
  const u32 mode = (lo.uniform[b] != 0 ? 1 : 0) | (lo.uniform[x] != 0 ? 2 : 0) | (lo.uniform[y] != 0 ? 4 : 0);
  const VmKernel kernel = lo.types[j] == F32 ? choiceKernel<f32>(choice, mode) : choiceKernel<f64>(choice, mode);
  emit(lo, false, kernel, dst, lo.slotOf[a], lo.slotOf[b], lo.slotOf[x], lo.slotOf[y]);
}

}  // namespace MMSB_NS
}  // namespace mmsb
