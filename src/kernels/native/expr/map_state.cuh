// The state of a map step: the lowered expression, and how inputs are broadcast. Plain data with one layout
// in every part of the build. The CPU part makes it (op_map.cuh); the CUDA part reads it too (map_cuda.cuh).
#pragma once
#include "expr/ir.cuh"

namespace mmsb {

// An instruction of the evaluator. Operands and result are 64-bit registers, each with the bits of one lane.
struct EvalInst {
  u8 op, dtype;
  u8 from;  // dtype of operand a, for cast
  u8 reserved;
  u16 dst, a, b, c;
  u32 reserved2;
  u64 imm;
};

// A loop over n elements. Operands and result are given by address; a scalar operand is the address of one
// lane.
typedef void (*VmKernel)(void* dst, const void* a, const void* b, const void* c, const void* d, size_t n);

// An instruction of the VM. Operands are slots of a table of addresses: inputs, uniforms, registers, and last
// the destination of the block.
struct VmInst {
  VmKernel kernel;
  u16 dst, operand[4];
};

// Machine code for the whole program (vm_jit.cuh): computes n elements, with addresses taken from a table.
typedef void (*JitFunction)(void* const* table, size_t n);

// The content of a uniform slot before a call.
struct VmUniform {
  u64 bits;   // the lane, if constant
  u16 input;  // else the input whose single element it holds, or 0xffff if uniformCode computes it
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
  u64 jitBytes;     // size of the memory behind it
  u32 packed;       // the arrays are in one block with this struct
};

struct MapInput {
  u32 mode;
  u32 elementBytes;
  u32 gatherOffset;  // MAP_STRIDED: place of its block in the scratch after the VM's
  u32 stride[8];     // in elements, per collapsed dimension; 0 = broadcast
};

// The output's shape, with dimensions joined where every input allows it.
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
