// Turns the lowered IR into a program for the machine code compiler (vm_jit.cuh), if it is simple enough.
#pragma once
#include "expr/vm_jit.cuh"
#include "expr/vm_lowering.cuh"

namespace mmsb {
namespace MMSB_NS {

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

// The uniform with only the sign bit, or with all bits, of a lane. Created on first use.
static u16 bitsUniform(Lowering& lo, u64 bits, u8 dtype, u16& known) {
  if (known == 0xffff) {
    known = u16(lo.slots[newUniform(lo, VmUniform{bits, 0xffff, 1, dtype}, u8(dtypeBytes(dtype)))].place);
  }
  return known;
}

// Describes node i as an operand of machine code. Returns false if it cannot be one.
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

// Fills `nodes` from the operations that are not uniform. Returns false if one is not simple enough: all must
// have one float dtype, with bools only as conditions. The VM's loops are better at everything else.
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

// Compiles machine code if the program is simple enough. Runs before registers are assigned, because it may
// add uniforms.
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

}  // namespace MMSB_NS
}  // namespace mmsb
