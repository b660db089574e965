// The block-wise virtual machine for expressions on the CPU: lowering the IR to loops over blocks, and running them.
//
// The VM runs each instruction over a block of elements that stays in the L1 cache: one indirect call per instruction and
// block. Instructions whose operands are the same for every element ("uniform") run once per call; their results and the
// constants are scalar operands of the others. Values have the dtype's own width; registers are given by last use.
//
// Invariants: each element depends on its own inputs only; compileProgram refuses what it cannot run. Must not know of
// pages, shapes or ranges (see op_map.cuh).
#pragma once
#include "expr/eval.cuh"
#include "expr/map_state.cuh"
#include "expr/vm_fused.cuh"
#include "expr/vm_jit.cuh"
#include "expr/vm_loops.cuh"

namespace mmsb {
namespace MMSB_NS {

// ---- lowering -----------------------------------------------------------------------------------------------------

static const u32 kNone = 0xffffffffu;
// Loops per instruction of the IR: at most three operands written out, and the operation.
static const u32 kMaxPerInst = 4;

// Values of Lowering::partner that are no node.
static const u16 kAlone = 0xffff, kDeferred = 0xfffe;

// One loop before registers are given: operands are virtual slots.
struct Draft {
  VmKernel kernel;
  u32 dst;
  u32 operand[4];
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
  u32* uses;    // node -> operands that name it
  u16* partner; // node -> the earlier node computed in the same pass, or kAlone, or kDeferred for that earlier node
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
static void emit(Lowering& lo, bool once, VmKernel kernel, u32 dst, u32 a, u32 b = kNone, u32 c = kNone, u32 d = kNone) {
  Draft& draft = once ? lo.once[lo.onceCount++] : lo.drafts[lo.draftCount++];
  draft = Draft{kernel, dst, {a, b, c, d}};
}

// A uniform operand as a whole block, for loops that have no scalar form.
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

// ---- fusion ---------------------------------------------------------------------------------------------------------

// Neither NaN nor zero, for any element.
static bool ordinaryConstant(const Lowering& lo, u32 i) {
  const IrInst& node = lo.nodes[i];
  if (node.op != IR_CONST) return false;
  const f64 x = node.dtype == F32 ? f64(f32Of(u32(node.imm))) : f64Of(node.imm);
  return x == x && x != 0;
}

// Node j as a pass over the value of node `carried`, one of its operands, and the other one.
struct PairUse {
  u32 op;        // PairOp
  u32 other;     // the other operand's node
  bool negated;  // the other operand is to be negated
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
// The operand that the first operation of a pair carries: one that varies.
static u32 carriedOf(const Lowering& lo, u32 i) { return lo.uniform[lo.nodes[i].a] != 0 ? lo.nodes[i].b : lo.nodes[i].a; }

static bool canPair(const Lowering& lo, u32 i, u32 j) {
  if (lo.partner[i] != kAlone || lo.uses[i] != 1 || lo.uniform[i] != 0 || lo.nodes[i].dtype != lo.nodes[j].dtype) return false;
  return irFacts(lo.nodes[i].op).arity == 2 && pairUse(lo, i, carriedOf(lo, i)).op != PAIR_NONE && pairUse(lo, j, i).op != PAIR_NONE;
}
static bool canChoose(const Lowering& lo, u32 i, u32 j) {
  return isCompare(lo.nodes[i].op) && lo.uses[i] == 1 && lo.uniform[i] == 0 && isFloatDtype(lo.nodes[j].dtype) &&
         lo.nodes[i].dtype == lo.nodes[j].dtype;
}

// Decides which nodes share a pass with an earlier one that only they use.
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
  const u32 choice = op == IR_LT ? CHOICE_LT : op == IR_LE ? CHOICE_LE : op == IR_EQ ? CHOICE_EQ : op == IR_GT ? CHOICE_GT_S : CHOICE_GE_S;
  const u32 mode = (lo.uniform[b] != 0 ? 1 : 0) | (lo.uniform[x] != 0 ? 2 : 0) | (lo.uniform[y] != 0 ? 4 : 0);
  const VmKernel kernel = lo.types[j] == F32 ? choiceKernel<f32>(choice, mode) : choiceKernel<f64>(choice, mode);
  emit(lo, false, kernel, dst, lo.slotOf[a], lo.slotOf[b], lo.slotOf[x], lo.slotOf[y]);
}

// ---- machine code -------------------------------------------------------------------------------------------------------

static u32 jitOpOf(u32 op) {
  switch (op) {
    case IR_ADD: return JIT_ADD;
    case IR_SUB: return JIT_SUB;
    case IR_MUL: return JIT_MUL;
    case IR_DIV: return JIT_DIV;
    case IR_MIN: return JIT_MIN;
    case IR_MAX: return JIT_MAX;
    case IR_NEG: return JIT_NEG;
    case IR_ABS: return JIT_ABS;
    case IR_SQRT: return JIT_SQRT;
    case IR_FLOOR: return JIT_FLOOR;
    case IR_CEIL: return JIT_CEIL;
    case IR_ROUND: return JIT_ROUND;
    case IR_TRUNC: return JIT_TRUNC;
    case IR_FMA: return JIT_FMA;
    case IR_EQ: return JIT_EQ;
    case IR_NE: return JIT_NE;
    case IR_LT: return JIT_LT;
    case IR_LE: return JIT_LE;
    case IR_GT: return JIT_GT;
    case IR_GE: return JIT_GE;
    case IR_ISNAN: return JIT_ISNAN;
    case IR_AND: return JIT_AND;
    case IR_OR: return JIT_OR;
    case IR_NOT: return JIT_NOT;
    case IR_SELECT: return JIT_SELECT;
    default: return kNone;
  }
}

// The uniform with only the sign bit, or with all bits, of a lane; made when first asked for.
static u16 bitsUniform(Lowering& lo, u64 bits, u8 dtype, u16& known) {
  if (known == 0xffff) known = u16(lo.slots[newUniform(lo, VmUniform{bits, 0xffff, 1, dtype}, u8(dtypeBytes(dtype)))].place);
  return known;
}

// Node i as an operand of machine code; false when it cannot be one.
static bool jitOperandOf(const Lowering& lo, const u16* number, u8 dtype, u32 i, JitOperand& operand) {
  if (lo.uniform[i] != 0) {
    operand = JitOperand{JIT_UNIFORM, u16(lo.slots[lo.slotOf[i]].place)};
    return lo.types[i] == dtype;
  }
  if (lo.nodes[i].op == IR_INPUT) {
    operand = JitOperand{JIT_INPUT, u16(lo.nodes[i].imm)};
    return lo.types[i] == dtype;
  }
  operand = JitOperand{JIT_NODE, number[i]};
  return true;
}

// Fills `nodes` from the varying operations; false when one is not simple enough. All of one float dtype, and bools that only
// decide: the loops of the VM are the better place for everything else.
static bool jitNodes(Lowering& lo, JitNode* nodes, u16* number, u32* count) {
  const u8 dtype = lo.types[lo.nodeCount - 1];
  const u64 signBit = dtype == F32 ? 0x80000000ull : kSignBit;
  u16 sign = 0xffff, ones = 0xffff;
  *count = 0;
  for (u32 i = 0; i < lo.nodeCount; i++) {
    const IrInst& node = lo.nodes[i];
    if (lo.uniform[i] != 0 || node.op == IR_INPUT) continue;
    const u32 op = jitOpOf(node.op);
    const u32 arity = irFacts(node.op).arity;
    const bool onBools = node.op == IR_AND || node.op == IR_OR || node.op == IR_NOT;
    if (op == kNone || *count == kJitMaxNodes || node.dtype != (onBools ? u8(BOOL) : dtype)) return false;
    JitNode out = {u8(op), u8(arity), {}, 0};
    u32 operands[3] = {node.a, node.b, node.c};
    if (op == JIT_MIN || op == JIT_MAX) {
      if (ordinaryConstant(lo, operands[0])) {
        operands[0] = node.b;
        operands[1] = node.a;
      }
      if (ordinaryConstant(lo, operands[1])) out.op = op == JIT_MIN ? JIT_MIN_ORDINARY : JIT_MAX_ORDINARY;
    }
    for (u32 k = 0; k < arity; k++) {
      if (!jitOperandOf(lo, number, dtype, operands[k], out.operand[k])) return false;
    }
    if (op == JIT_NEG || op == JIT_ABS) out.sign = bitsUniform(lo, signBit, dtype, sign);
    if (op == JIT_NOT) out.sign = bitsUniform(lo, ~0ull, dtype, ones);
    number[i] = u16(*count);
    nodes[(*count)++] = out;
  }
  return *count >= 2 && lo.types[lo.nodeCount - 1] == lo.program->outDtype;
}

// Machine code where the program is simple enough. Before registers are given; it may add uniforms.
static void compileJit(Lowering& lo) {
  Program& p = *lo.program;
  const u32 last = lo.nodeCount - 1;
  if (!isFloatDtype(lo.types[last]) || lo.uniform[last] != 0) return;
  JitNode* nodes = static_cast<JitNode*>(calloc(kJitMaxNodes, sizeof(JitNode)));
  u16* number = static_cast<u16*>(calloc(lo.nodeCount, sizeof(u16)));
  u32 count;
  if (nodes != nullptr && number != nullptr && jitNodes(lo, nodes, number, &count)) {
    const JitProgram program = {nodes, count, dtypeBytes(lo.types[last]), p.inputCount, p.uniformCount};
    p.jit = jitCompile(program, &p.jitBytes);
  }
  free(nodes);
  free(number);
}

// ---- the whole program ------------------------------------------------------------------------------------------------

// The loop that makes the result writes to the destination; a uniform or an input is copied there.
static void lowerResult(Lowering& lo) {
  const u32 last = lo.nodeCount - 1;
  const u32 result = lo.slotOf[last];
  const u8 bytes = u8(dtypeBytes(lo.types[last]));
  const u32 dst = newSlot(lo, 3, 0, bytes);
  if (lo.slots[result].kind == 1) emit(lo, false, fillKernel(bytes), dst, result);
  else if (lo.slots[result].kind == 0) emit(lo, false, copyKernel(bytes), dst, result);
  else lo.drafts[lo.draftCount - 1].dst = dst;
}

// Registers by last use. A result may take the register of an operand that ends here when the lanes are of one size.
static void giveRegisters(Lowering& lo) {
  for (u32 i = 0; i < lo.draftCount; i++) {
    for (u32 k = 0; k < 4; k++) {
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
    u32 ending[4];
    u32 endingCount = 0;
    for (u32 k = 0; k < 4; k++) {
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
    for (u32 k = 0; k < 4; k++) code[i].operand[k] = finalSlot(lo, d.operand[k]);
  }
}

// The evaluator's instructions; its registers are given by last use too. Uses the slots' memory before there are slots.
static void makeEval(Lowering& lo) {
  Program& p = *lo.program;
  EvalInst* code = p.eval;
  u32* lastUse = lo.slotOf;
  u16* registers = reinterpret_cast<u16*>(lo.slots);
  u16* freeRegisters = registers + lo.nodeCount;
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
static void keepLive(const IrBlob& ir, const u8* types, Lowering& lo) {
  u32* number = lo.slotOf;  // free until nodes have slots
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
  u32 widest = 1;
  for (u32 i = 0; i < lo.nodeCount; i++) {
    const u32 bytes = dtypeBytes(lo.types[i]);
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
  jitFree(program->jit, program->jitBytes);
  if (program->packed == 0) {
    free(program->eval);
    free(program->code);
    free(program->uniformCode);
    free(program->uniforms);
  }
  free(program);
}

template <class T>
static inline T* packArray(T* from, u32 count, u8** to) {
  T* packed = reinterpret_cast<T*>(*to);
  if (count != 0) memcpy(packed, from, count * sizeof(T));
  *to += (count * sizeof(T) + 7) & ~size_t(7);
  free(from);
  return packed;
}

// The program in one block, what every run reads first: a small page's step misses the caches once instead of once for each array.
static Program* packProgram(Program* p) {
  const u64 bytes = sizeof(Program) + p->uniformCount * sizeof(VmUniform) + (u64(p->codeCount) + p->uniformCodeCount) * sizeof(VmInst) +
                    p->evalCount * sizeof(EvalInst) + 64;
  Program* packed = static_cast<Program*>(aligned_alloc(64, (bytes + 63) & ~63ull));
  if (packed == nullptr) return p;
  memcpy(packed, p, sizeof(Program));
  u8* to = reinterpret_cast<u8*>(packed + 1);
  packed->uniforms = packArray(p->uniforms, p->uniformCount, &to);
  packed->code = packArray(p->code, p->codeCount, &to);
  packed->uniformCode = packArray(p->uniformCode, p->uniformCodeCount, &to);
  packed->eval = packArray(p->eval, p->evalCount, &to);
  packed->packed = 1;
  free(p);
  return packed;
}

static void findUniforms(Lowering& lo) {
  for (u32 i = 0; i < lo.nodeCount; i++) {
    const IrInst& node = lo.nodes[i];
    const u16 operands[3] = {node.a, node.b, node.c};
    u8 uniform = node.op == IR_INPUT ? lo.program->inputUniform[node.imm] : 1;
    for (u32 k = 0; k < irFacts(node.op).arity; k++) {
      uniform &= lo.uniform[operands[k]];
      lo.uses[operands[k]]++;
    }
    lo.uniform[i] = uniform;
  }
}

static void lowerProgram(Lowering& lo, bool wantJit) {
  Program& p = *lo.program;
  findUniforms(lo);
  findPartners(lo);
  for (u32 i = 0; i < lo.nodeCount; i++) {
    if (lo.partner[i] != kDeferred) lowerNode(lo, i);
  }
  lowerResult(lo);
  if (wantJit && kJitHere) compileJit(lo);
  memset(lo.uniform, 0, lo.slotCount);
  giveRegisters(lo);
  p.slotCount = p.inputCount + p.uniformCount + p.registerCount + 1;
  chooseBlock(p, lo);
}

// Memory of one lowering: a block that is cleared, cut into pieces and freed as a whole.
struct LoweringMemory {
  u8* block;
  u64 used;
};
template <class T>
static T* takeFrom(LoweringMemory& memory, u64 count) {
  T* at = reinterpret_cast<T*>(memory.block + memory.used);
  memory.used += (count * sizeof(T) + 15) & ~15ull;
  return at;
}

// Bounds for a program of `nodes` instructions, the final cast included.
static const u32 kSlotsPerNode = 5, kUniformsPerNode = 2, kBytesPerNode = 320, kExtraBytes = 4096;

static bool allocateLowering(Lowering& lo, Program& p, LoweringMemory& memory, u32 nodes) {
  memory.block = static_cast<u8*>(calloc(1, u64(nodes) * kBytesPerNode + kExtraBytes));
  p.eval = static_cast<EvalInst*>(calloc(nodes, sizeof(EvalInst)));
  p.uniforms = static_cast<VmUniform*>(calloc(nodes * kUniformsPerNode + 2, sizeof(VmUniform)));
  if (memory.block == nullptr || p.eval == nullptr || p.uniforms == nullptr) return false;
  const u32 slots = nodes * kSlotsPerNode + 4;
  lo.program = &p;
  lo.nodes = takeFrom<IrInst>(memory, nodes);
  lo.types = takeFrom<u8>(memory, nodes);
  lo.slotOf = takeFrom<u32>(memory, slots);
  lo.uniform = takeFrom<u8>(memory, slots);
  lo.slots = takeFrom<VirtualSlot>(memory, slots);
  lo.drafts = takeFrom<Draft>(memory, nodes * kMaxPerInst + 2);
  lo.once = takeFrom<Draft>(memory, nodes * 2);
  lo.uses = takeFrom<u32>(memory, nodes);
  lo.partner = takeFrom<u16>(memory, nodes);
  return memory.used <= u64(nodes) * kBytesPerNode + kExtraBytes;
}

static bool finishProgram(const Lowering& lo) {
  Program& p = *lo.program;
  p.codeCount = lo.draftCount;
  p.uniformCodeCount = lo.onceCount;
  p.code = static_cast<VmInst*>(calloc(lo.draftCount + 1, sizeof(VmInst)));
  p.uniformCode = static_cast<VmInst*>(calloc(lo.onceCount + 1, sizeof(VmInst)));
  if (p.code == nullptr || p.uniformCode == nullptr) return false;
  finish(lo, lo.drafts, lo.draftCount, p.code);
  finish(lo, lo.once, lo.onceCount, p.uniformCode);
  return true;
}

// Checks a blob and lowers it for outputs of `outDtype`. inputUniform[i], for `inputCount` inputs, says that input i has
// one element for all elements of the output. `wantJit`: machine code is worth its making. MMSB_OK or fail(...).
static int32_t compileProgram(const u8* blob, u32 bytes, const u8* inputUniform, u32 inputCount, u8 outDtype, bool wantJit,
                              Program** out) {
  u8 types[kIrMaxInstructions];
  IrBlob ir = {};
  const int32_t status = checkIr(blob, bytes, ir, types);
  if (status != MMSB_OK) return status;
  if (ir.inputCount != inputCount) {
    return fail(MMSB_ERR_ARGUMENT, "expression: %u inputs for an expression of %u", inputCount, ir.inputCount);
  }
  Program* p = static_cast<Program*>(calloc(1, sizeof(Program)));
  Lowering lo = {};
  LoweringMemory memory = {};
  bool good = p != nullptr && allocateLowering(lo, *p, memory, ir.count + 1);
  if (good) {
    p->inputCount = ir.inputCount;
    p->outDtype = outDtype;
    memcpy(p->inputDtype, ir.inputDtypes, ir.inputCount);
    memcpy(p->inputUniform, inputUniform, ir.inputCount);
    keepLive(ir, types, lo);
    makeEval(lo);
    lowerProgram(lo, wantJit);
    good = finishProgram(lo);
  }
  free(memory.block);
  if (!good) {
    freeProgram(p);
    return fail(MMSB_ERR_MEMORY, "expression: out of memory");
  }
  *out = packProgram(p);
  return MMSB_OK;
}

// ---- running ------------------------------------------------------------------------------------------------------

// Before the table of addresses: the destination and the uniforms, for machine code.
static const u32 kJitSlots = 2;

// Scratch of one call: the table of addresses, the uniforms, the registers.
static u32 vmScratchBytes(const Program& p) {
  const u32 table = ((kJitSlots + p.slotCount) * u32(sizeof(void*)) + 63) & ~63u;
  const u32 uniforms = (p.uniformCount * 8 + 63) & ~63u;
  return table + uniforms + p.registerCount * p.registerBytes;
}

static inline void vmRun(const VmInst* code, u32 count, void** at, size_t n) {
  for (u32 i = 0; i < count; i++) {
    const VmInst& inst = code[i];
    inst.kernel(at[inst.dst], at[inst.operand[0]], at[inst.operand[1]], at[inst.operand[2]], at[inst.operand[3]], n);
  }
}

// Lays out `scratch` (vmScratchBytes, 64-byte aligned) and computes the uniforms; uniformInput[i] is the address of the
// one element of a uniform input. Gives the table of addresses, in which the caller sets inputs and destination.
static void** vmBegin(const Program& p, void* scratch, const void* const* uniformInput) {
  u8* memory = static_cast<u8*>(scratch);
  void** at = reinterpret_cast<void**>(memory) + kJitSlots;
  memory += ((kJitSlots + p.slotCount) * sizeof(void*) + 63) & ~size_t(63);
  u64* lanes = reinterpret_cast<u64*>(memory);
  at[-1] = lanes;
  memory += (p.uniformCount * 8 + 63) & ~size_t(63);
  void** slot = at + p.inputCount;
  for (u32 i = 0; i < p.uniformCount; i++) {
    const VmUniform& u = p.uniforms[i];
    if (u.constant != 0) lanes[i] = u.bits;
    else if (u.input != 0xffff) memcpy(lanes + i, uniformInput[u.input], dtypeBytes(u.dtype));
    *slot++ = lanes + i;
  }
  for (u32 i = 0; i < p.registerCount; i++) *slot++ = memory + size_t(i) * p.registerBytes;
  vmRun(p.uniformCode, p.uniformCodeCount, at, 1);
  return at;
}

// Computes n elements (at most blockElements without machine code); the inputs' addresses are in place.
static inline void vmBlock(const Program& p, void** at, void* to, size_t n) {
  if (p.jit != nullptr) {
    at[-2] = to;
    p.jit(at - kJitSlots, n);
    return;
  }
  at[p.slotCount - 1] = to;
  vmRun(p.code, p.codeCount, at, n);
}

}  // namespace MMSB_NS
}  // namespace mmsb
