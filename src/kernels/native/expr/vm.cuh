// The block-wise virtual machine that runs expressions on the CPU. vm_compile.cuh makes its programs.
//
// The VM runs each instruction over a block of elements that stays in the L1 cache: one indirect call per
// instruction and block. Instructions whose operands are the same for every element ("uniform") run once per
// call; their results and the constants are scalar operands of the others. Values have the width of their
// dtype.
//
// Invariants: each element depends on its own inputs only. Must not know of pages, shapes or ranges (see
// op_map.cuh).
#pragma once
#include "expr/vm_compile.cuh"

namespace mmsb {
namespace MMSB_NS {

// Slots before the table of addresses, for machine code: the destination and the uniforms.
static const u32 kJitSlots = 2;

// Bytes of scratch for one call: the table of addresses, the uniforms and the registers.
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

// Lays out `scratch` (vmScratchBytes, 64-byte aligned) and computes the uniforms. uniformInput[i] is the
// address of the single element of a uniform input. Returns the table of addresses, where the caller sets
// inputs and destination.
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

// Computes n elements, at most blockElements without machine code. The addresses of the inputs must be in the
// table.
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
