// What map keeps of a step: the lowered expression and how inputs are broadcast. Plain data, one layout in every part of
// the build: made by the CPU part (op_map.cuh), read by it and by the CUDA part (map_cuda.cuh).
#pragma once
#include "expr/ir.cuh"

namespace mmsb {

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
typedef void (*VmKernel)(void* dst, const void* a, const void* b, const void* c, const void* d, size_t n);

// An instruction of the VM. Operands are slots of a table of addresses: inputs, then uniforms, then registers; the last
// slot is the destination of the block.
struct VmInst {
  VmKernel kernel;
  u16 dst, operand[4];
};

// Machine code for the whole program (vm_jit.cuh): n elements, addresses by table.
typedef void (*JitFunction)(void* const* table, size_t n);

// What fills a uniform slot before a call.
struct VmUniform {
  u64 bits;   // constant: the lane
  u16 input;  // else the input whose single element it is, or 0xffff: computed by uniformCode
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

  JitFunction jit;  // instead of `code`, or null
  u64 jitBytes;     // of memory behind it
  u32 packed;       // the arrays lie behind this struct, in one block with it
};

struct MapInput {
  u32 mode;
  u32 elementBytes;
  u32 gatherOffset;  // MAP_STRIDED: where its block lies in the scratch behind the VM's
  u32 stride[8];     // in elements, per collapsed dimension; 0 = broadcast
};

// The output's shape without the dimensions that no input tells apart.
struct MapState {
  Program* program;
  u32 rank;
  u32 size[8];
  u32 inner[9];  // inner[d] = elements of dimensions d, d+1, ...: inner[rank] = 1
  u32 vmBytes;
  u32 gathers;  // inputs that are MAP_STRIDED
  u32 inputCount;
  MapInput inputs[kIrMaxInputs];
};

}  // namespace mmsb
