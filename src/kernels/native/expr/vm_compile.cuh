// Compiles a blob of IR to code for the evaluator, code for the VM and, where it pays, machine code.
#pragma once
#include "expr/eval.cuh"
#include "expr/vm_to_jit.cuh"

namespace mmsb {
namespace MMSB_NS {

// Lets the loop that makes the result write to the destination. A uniform or an input is copied there.
static void lowerResult(Lowering& lo) {
  const u32 last = lo.nodeCount - 1;
  const u32 result = lo.slotOf[last];
  const u8 bytes = u8(dtypeBytes(lo.types[last]));
  const u32 dst = newSlot(lo, 3, 0, bytes);
  if (lo.slots[result].kind == 1) emit(lo, false, fillKernel(bytes), dst, result);
  else if (lo.slots[result].kind == 0) emit(lo, false, copyKernel(bytes), dst, result);
  else lo.code[lo.codeCount - 1].dst = dst;
}

// Assigns registers by last use. A result may take the register of an operand that is used for the last time
// here, if both have the same size.
static void giveRegisters(Lowering& lo) {
  for (u32 i = 0; i < lo.codeCount; i++) {
    for (u32 k = 0; k < 4; k++) {
      if (lo.code[i].operand[k] != kNone) lo.slots[lo.code[i].operand[k]].lastUse = i;
    }
  }
  Program& p = *lo.program;
  u32* freeRegisters = lo.slotOf;  // no longer needed; a register per node at most
  u32 freeCount = 0;
  u8* given = lo.uniform;  // per slot: 1 if it has a register; cleared by the caller
  for (u32 i = 0; i < lo.codeCount; i++) {
    const VirtualInst& inst = lo.code[i];
    VirtualSlot& dst = lo.slots[inst.dst];
    u32 ending[4];
    u32 endingCount = 0;
    for (u32 k = 0; k < 4; k++) {
      const u32 slot = inst.operand[k];
      if (slot == kNone || slot == inst.dst || lo.slots[slot].kind != 2 || lo.slots[slot].lastUse != i) continue;
      bool twice = false;
      for (u32 j = 0; j < k; j++) twice = twice || inst.operand[j] == slot;
      if (!twice) ending[endingCount++] = slot;
    }
    const bool needs = dst.kind == 2 && given[inst.dst] == 0;
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
    if (needs) given[inst.dst] = 1;
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

static void finish(const Lowering& lo, const VirtualInst* virtualCode, u32 count, VmInst* code) {
  for (u32 i = 0; i < count; i++) {
    const VirtualInst& d = virtualCode[i];
    code[i].kernel = d.kernel;
    code[i].dst = finalSlot(lo, d.dst);
    for (u32 k = 0; k < 4; k++) code[i].operand[k] = finalSlot(lo, d.operand[k]);
  }
}

// Makes the evaluator's instructions, with registers assigned by last use. Uses the memory of the slots,
// which do not exist yet.
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

// Keeps the instructions that the result needs, renumbers them and adds a final cast to the output dtype.
static void keepLive(const IrBlob& ir, const u8* types, Lowering& lo) {
  u32* number = lo.slotOf;  // unused until nodes have slots
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

// Rough time per element on one core; only for choosing the number of threads.
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
  // With many live values, blocks are smaller, so that the registers stay in the cache.
  while (p.blockElements > 64 && u64(p.registerCount) * p.blockElements * widest > 24 * 1024) p.blockElements /= 2;
  // The extra line keeps registers off the same cache sets and avoids 4 KiB aliasing.
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

// Copies the program into one block, with the parts that every run reads in front. So a step on a small page
// misses the caches once, not once per array.
static Program* packProgram(Program* p) {
  const u64 bytes = sizeof(Program) + p->uniformCount * sizeof(VmUniform) +
                    (u64(p->codeCount) + p->uniformCodeCount) * sizeof(VmInst) + p->evalCount * sizeof(EvalInst) + 64;
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

// Memory of one lowering: a zeroed block that is cut into pieces and freed as a whole.
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

// Bounds per instruction, including the final cast.
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
  lo.code = takeFrom<VirtualInst>(memory, nodes * kMaxPerInst + 2);
  lo.uniformCode = takeFrom<VirtualInst>(memory, nodes * 2);
  lo.uses = takeFrom<u32>(memory, nodes);
  lo.partner = takeFrom<u16>(memory, nodes);
  return memory.used <= u64(nodes) * kBytesPerNode + kExtraBytes;
}

static bool finishProgram(const Lowering& lo) {
  Program& p = *lo.program;
  p.codeCount = lo.codeCount;
  p.uniformCodeCount = lo.uniformCodeCount;
  p.code = static_cast<VmInst*>(calloc(lo.codeCount + 1, sizeof(VmInst)));
  p.uniformCode = static_cast<VmInst*>(calloc(lo.uniformCodeCount + 1, sizeof(VmInst)));
  if (p.code == nullptr || p.uniformCode == nullptr) return false;
  finish(lo, lo.code, lo.codeCount, p.code);
  finish(lo, lo.uniformCode, lo.uniformCodeCount, p.uniformCode);
  return true;
}

// Checks a blob and lowers it for outputs of `outDtype`. inputUniform[i] is 1 if input i, of `inputCount`,
// has one element for all elements of the output. `wantJit` says that machine code is worth compiling.
// Returns MMSB_OK or fail(...).
static int32_t compileProgram(const u8* blob, u32 bytes, const u8* inputUniform, u32 inputCount, u8 outDtype,
                              bool wantJit, Program** out) {
  u8 types[kIrMaxInstructions];
  IrBlob ir = {};
  const int32_t status = checkIr(blob, bytes, ir, types);
  if (status != MMSB_OK) return status;
  if (ir.inputCount != inputCount) {
    return fail(MMSB_ERR_ARGUMENT, "expression: %u inputs given, %u expected", inputCount, ir.inputCount);
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

}  // namespace MMSB_NS
}  // namespace mmsb
