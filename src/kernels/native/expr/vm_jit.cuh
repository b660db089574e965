// Machine code for float expressions: one loop that does all operations of a lowered program on one vector at
// a time.
//
// Invariants: the bits are those of the VM: the same IEEE operations on the same operands, nothing
// contracted. The VM runs programs that are not simple enough, and all programs on systems without executable
// memory. Code is written once, into its own memory, which is never writable and executable at the same time.
// x86-64-v3 only. Must not know of the IR.
//
// A value occupies a ymm register from its definition to its last use. Comparisons give masks of the lane's
// width. ymm0..12 hold values (from below) and uniforms (from above), ymm12..14 temporaries of one operation,
// ymm15 the mask of the last, incomplete vector.
#pragma once
#include <sys/mman.h>

#include "expr/map_state.cuh"

namespace mmsb {
namespace MMSB_NS {

// The operations; each becomes one or more machine instructions.
enum JitOp : u8 {
  JIT_ADD,
  JIT_SUB,
  JIT_MUL,
  JIT_DIV,
  JIT_MIN,
  JIT_MAX,
  JIT_MIN_ORDINARY,
  JIT_MAX_ORDINARY,
  JIT_NEG,
  JIT_ABS,
  JIT_SQRT,
  JIT_FLOOR,
  JIT_CEIL,
  JIT_ROUND,
  JIT_TRUNC,
  JIT_FMA,
  JIT_EQ,
  JIT_NE,
  JIT_LT,
  JIT_LE,
  JIT_GT,
  JIT_GE,
  JIT_ISNAN,
  JIT_AND,
  JIT_OR,
  JIT_NOT,
  JIT_SELECT
};

// An operand: a node's value, a uniform, or an input (an array).
enum JitKind : u8 { JIT_NODE, JIT_UNIFORM, JIT_INPUT };
struct JitOperand {
  u8 kind;
  u16 index;
};
// One operation. Operands refer to its value by its index.
struct JitNode {
  u8 op, arity;
  JitOperand operand[3];
  u16 sign;  // JIT_NEG, JIT_ABS: the uniform with only the sign bit; JIT_NOT: the one with all bits
};
// The last node is the result.
struct JitProgram {
  const JitNode* nodes;
  u32 count;
  u32 laneBytes;  // 4 or 8
  u32 inputCount, uniformCount;
};

static const u32 kJitMaxNodes = 512;

#if defined(__AVX2__) && defined(__FMA__) && defined(__x86_64__)

static const bool kJitHere = true;
static const u32 kJitMaxBytes = 32 * 1024;
static const u32 kJitAhead = 4096;  // prefetch distance of inputs, in bytes
static const u32 kJitMaxInputs = 10;
static const u32 kJitMaxHoisted = 6;

alignas(64) static const u8 kJitMasks[64] = {255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
                                             255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
                                             255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0};

enum : u32 { YMM_SPARE = 12, YMM_T = 13, YMM_U = 14, YMM_MASK = 15 };
enum : u32 { RAX = 0, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
static const u32 kJitNone = 0xff;

struct JitWriter {
  const JitProgram* program;
  u8* code;
  u32 size;
  bool failed;
  bool tail;  // the last, masked vector
  u32 hoisted;
  u8 inputPointer[kIrMaxInputs];
  u8 uniformRegister[kIrMaxInstructions];  // or kJitNone
  u16 nodeLast[kJitMaxNodes];              // last node that uses it
  u16 inputLast[kIrMaxInputs];
  u8 nodeRegister[kJitMaxNodes];
  u8 inputRegister[kIrMaxInputs];
  u32 freeRegisters;  // a bit per ymm
};

// ---- instructions -----------------------------------------------------------------------------------------

static void jitBytes(JitWriter& w, const void* bytes, u32 count) {
  if (w.size + count > kJitMaxBytes) {
    w.failed = true;
    return;
  }
  memcpy(w.code + w.size, bytes, count);
  w.size += count;
}
static void jitByte(JitWriter& w, u32 byte) {
  const u8 b = u8(byte);
  jitBytes(w, &b, 1);
}
static void jitWord(JitWriter& w, u32 word) { jitBytes(w, &word, 4); }

// VEX.256: map 1 = 0F, 2 = 0F38, 3 = 0F3A; prefix 0 none, 1 = 66.
static void jitVex(JitWriter& w, u32 map, u32 prefix, u32 wide, u32 opcode, u32 reg, u32 second, u32 base) {
  jitByte(w, 0xc4);
  jitByte(w, ((reg & 8) != 0 ? 0 : 0x80) | 0x40 | ((base & 8) != 0 ? 0 : 0x20) | map);
  jitByte(w, wide << 7 | (~second & 15) << 3 | 4 | prefix);
  jitByte(w, opcode);
}
static void jitRegister(JitWriter& w, u32 map, u32 prefix, u32 wide, u32 opcode, u32 reg, u32 second, u32 third) {
  jitVex(w, map, prefix, wide, opcode, reg, second, third);
  jitByte(w, 0xc0 | (reg & 7) << 3 | (third & 7));
}
// [base + rax]
static void jitIndexed(JitWriter& w, u32 map, u32 prefix, u32 opcode, u32 reg, u32 second, u32 base) {
  jitVex(w, map, prefix, 0, opcode, reg, second, base);
  jitByte(w, 0x44 | (reg & 7) << 3);
  jitByte(w, base & 7);
  jitByte(w, 0);
}
// prefetcht0 [base + rax + distance]
static void jitPrefetch(JitWriter& w, u32 base, u32 distance) {
  if (base >= 8) jitByte(w, 0x41);
  const u8 code[] = {0x0f, 0x18, 0x8c, u8(base & 7)};
  jitBytes(w, code, sizeof code);
  jitWord(w, distance);
}
// A float instruction of map 0F on whole vectors: prefix 66 for f64.
static void jitFloat(JitWriter& w, u32 opcode, u32 dst, u32 a, u32 b) {
  jitRegister(w, 1, w.program->laneBytes == 8, 0, opcode, dst, a, b);
}
enum : u32 {
  OP_SQRT = 0x51,
  OP_AND = 0x54,
  OP_ANDN = 0x55,
  OP_OR = 0x56,
  OP_XOR = 0x57,
  OP_ADD = 0x58,
  OP_MUL = 0x59,
  OP_SUB = 0x5c,
  OP_MIN = 0x5d,
  OP_DIV = 0x5e,
  OP_MAX = 0x5f
};
enum : u32 {
  CMP_EQ = 0x00,
  CMP_UNORDERED = 0x03,
  CMP_NE = 0x04,
  CMP_LT = 0x11,
  CMP_LE = 0x12,
  CMP_GE = 0x1d,
  CMP_GT = 0x1e
};

static void jitCompare(JitWriter& w, u32 dst, u32 a, u32 b, u32 predicate) {
  jitFloat(w, 0xc2, dst, a, b);
  jitByte(w, predicate);
}
static void jitRound(JitWriter& w, u32 dst, u32 a, u32 mode) {
  jitRegister(w, 3, 1, 0, w.program->laneBytes == 8 ? 0x09 : 0x08, dst, 0, a);
  jitByte(w, mode);
}
static void jitMove(JitWriter& w, u32 dst, u32 a) { jitRegister(w, 1, 0, 0, 0x28, dst, 0, a); }

// mov reg, [rdi + offset]
static void jitLoadPointer(JitWriter& w, u32 reg, u32 offset) {
  jitByte(w, 0x48 | (reg >= 8 ? 4 : 0));
  jitByte(w, 0x8b);
  jitByte(w, 0x80 | (reg & 7) << 3 | RDI);
  jitWord(w, offset);
}
// vbroadcastss or vbroadcastsd reg, [rdi + offset]
static void jitBroadcast(JitWriter& w, u32 reg, u32 offset) {
  jitVex(w, 2, 1, 0, w.program->laneBytes == 8 ? 0x19 : 0x18, reg, 0, RDI);
  jitByte(w, 0x80 | (reg & 7) << 3 | RDI);
  jitWord(w, offset);
}

// ---- registers --------------------------------------------------------------------------------------------

static u32 jitTake(JitWriter& w) {
  if (w.freeRegisters == 0) {
    w.failed = true;
    return 0;
  }
  const u32 reg = u32(__builtin_ctz(w.freeRegisters));
  w.freeRegisters &= w.freeRegisters - 1;
  return reg;
}

static u32 jitOperand(JitWriter& w, const JitOperand& operand) {
  if (operand.kind == JIT_NODE) return w.nodeRegister[operand.index];
  if (operand.kind == JIT_UNIFORM) {
    if (w.uniformRegister[operand.index] != kJitNone) return w.uniformRegister[operand.index];
    jitBroadcast(w, YMM_SPARE, 8u * operand.index);
    return YMM_SPARE;
  }
  u8& reg = w.inputRegister[operand.index];
  if (reg == kJitNone) {
    reg = u8(jitTake(w));
    const u32 pointer = w.inputPointer[operand.index];
    if (w.tail) jitIndexed(w, 2, 1, w.program->laneBytes == 8 ? 0x2d : 0x2c, reg, YMM_MASK, pointer);
    else jitIndexed(w, 1, 0, 0x10, reg, 0, pointer);
  }
  return reg;
}

static void jitRelease(JitWriter& w, const JitOperand& operand, u32 node) {
  if (operand.kind == JIT_NODE && w.nodeLast[operand.index] == node && w.nodeRegister[operand.index] != kJitNone) {
    w.freeRegisters |= 1u << w.nodeRegister[operand.index];
    w.nodeRegister[operand.index] = kJitNone;
  }
  if (operand.kind == JIT_INPUT && w.inputLast[operand.index] == node && w.inputRegister[operand.index] != kJitNone) {
    w.freeRegisters |= 1u << w.inputRegister[operand.index];
    w.inputRegister[operand.index] = kJitNone;
  }
}

// ---- operations -------------------------------------------------------------------------------------------

// dst may be any of the operands: each sequence reads them before, or in, the instruction that writes dst.
static void jitOperation(JitWriter& w, const JitNode& node, u32 dst, u32 a, u32 b, u32 c) {
  const bool f64Lanes = w.program->laneBytes == 8;
  switch (node.op) {
    case JIT_ADD: return jitFloat(w, OP_ADD, dst, a, b);
    case JIT_SUB: return jitFloat(w, OP_SUB, dst, a, b);
    case JIT_MUL: return jitFloat(w, OP_MUL, dst, a, b);
    case JIT_DIV: return jitFloat(w, OP_DIV, dst, a, b);
    case JIT_MIN:  // sMin of scalar.cuh: both orders, combined
      jitFloat(w, OP_MIN, YMM_T, b, a);
      jitFloat(w, OP_MIN, dst, a, b);
      return jitFloat(w, OP_OR, dst, dst, YMM_T);
    case JIT_MAX:
      jitFloat(w, OP_MAX, YMM_T, b, a);
      jitCompare(w, YMM_U, a, b, CMP_UNORDERED);
      jitFloat(w, OP_MAX, dst, a, b);
      jitFloat(w, OP_AND, dst, dst, YMM_T);
      return jitFloat(w, OP_OR, dst, dst, YMM_U);                  // all bits set is a NaN
    case JIT_MIN_ORDINARY: return jitFloat(w, OP_MIN, dst, b, a);  // gives a if a is NaN
    case JIT_MAX_ORDINARY: return jitFloat(w, OP_MAX, dst, b, a);
    case JIT_NEG: return jitFloat(w, OP_XOR, dst, a, b);
    case JIT_ABS: return jitFloat(w, OP_ANDN, dst, b, a);
    case JIT_SQRT: return jitFloat(w, OP_SQRT, dst, 0, a);
    case JIT_FLOOR: return jitRound(w, dst, a, 9);
    case JIT_CEIL: return jitRound(w, dst, a, 10);
    case JIT_TRUNC: return jitRound(w, dst, a, 11);
    case JIT_ROUND: return jitRound(w, dst, a, 8);
    case JIT_FMA:
      jitMove(w, YMM_T, a);
      jitRegister(w, 2, 1, f64Lanes, 0xa8, YMM_T, b, c);  // vfmadd213: t = b * t + c
      return jitMove(w, dst, YMM_T);
    case JIT_EQ: return jitCompare(w, dst, a, b, CMP_EQ);
    case JIT_NE: return jitCompare(w, dst, a, b, CMP_NE);
    case JIT_LT: return jitCompare(w, dst, a, b, CMP_LT);
    case JIT_LE: return jitCompare(w, dst, a, b, CMP_LE);
    case JIT_GT: return jitCompare(w, dst, a, b, CMP_GT);
    case JIT_GE: return jitCompare(w, dst, a, b, CMP_GE);
    case JIT_ISNAN: return jitCompare(w, dst, a, a, CMP_UNORDERED);
    case JIT_AND: return jitFloat(w, OP_AND, dst, a, b);
    case JIT_OR: return jitFloat(w, OP_OR, dst, a, b);
    case JIT_NOT: return jitFloat(w, OP_XOR, dst, a, b);
    default:  // JIT_SELECT: vblendv takes its second operand if the mask (last) is set
      jitRegister(w, 3, 1, 0, f64Lanes ? 0x4b : 0x4a, dst, c, b);
      jitByte(w, a << 4);
  }
}

// Emits all nodes once, for the vector at offset rax.
static void jitBody(JitWriter& w) {
  const JitProgram& p = *w.program;
  memset(w.nodeRegister, kJitNone, sizeof w.nodeRegister);
  memset(w.inputRegister, kJitNone, sizeof w.inputRegister);
  w.freeRegisters = ((1u << YMM_SPARE) - 1) >> w.hoisted;
  for (u32 i = 0; i < p.count && !w.failed; i++) {
    const JitNode& node = p.nodes[i];
    u32 reg[3] = {0, 0, 0};
    u32 spares = 0;
    for (u32 k = 0; k < node.arity; k++) {
      reg[k] = jitOperand(w, node.operand[k]);
      if (reg[k] == YMM_SPARE && ++spares > 1) w.failed = true;  // two uniforms without registers in one operation
    }
    if (node.op == JIT_NEG || node.op == JIT_ABS || node.op == JIT_NOT) {
      reg[1] = jitOperand(w, JitOperand{JIT_UNIFORM, node.sign});
    }
    for (u32 k = 0; k < node.arity; k++) jitRelease(w, node.operand[k], i);
    const u32 dst = jitTake(w);
    jitOperation(w, node, dst, reg[0], reg[1], reg[2]);
    w.nodeRegister[i] = u8(dst);
  }
  const u32 result = w.nodeRegister[p.count - 1];
  if (w.tail) jitIndexed(w, 2, 1, p.laneBytes == 8 ? 0x2f : 0x2e, result, YMM_MASK, RCX);
  else jitIndexed(w, 1, 0, 0x11, result, 0, RCX);
}

// ---- the whole function -----------------------------------------------------------------------------------

static const u8 kJitPointers[] = {RDX, R8, R9, R10, RBX, RBP, R12, R13, R14, R15};  // rcx is the destination
static const u32 kJitFreePointers = 4;                                              // caller-saved registers

static void jitPushPop(JitWriter& w, u32 inputs, bool pop) {
  for (u32 k = kJitFreePointers; k < inputs; k++) {
    const u32 reg = kJitPointers[pop ? inputs - 1 - (k - kJitFreePointers) : k];
    if (reg >= 8) jitByte(w, 0x41);
    jitByte(w, (pop ? 0x58 : 0x50) | (reg & 7));
  }
}

// Emits a jump with an unknown target. Returns the place of its distance.
static u32 jitJump(JitWriter& w, u32 condition) {
  jitByte(w, 0x0f);
  jitByte(w, condition);
  jitWord(w, 0);
  return w.size - 4;
}
static void jitTarget(JitWriter& w, u32 at, u32 target) {
  const u32 distance = target - (at + 4);
  if (!w.failed) memcpy(w.code + at, &distance, 4);
}

static void jitFunction(JitWriter& w, const u16* inputs, u32 inputCount) {
  const JitProgram& p = *w.program;
  jitPushPop(w, inputCount, false);
  const u8 scale[] = {0x48, 0xc1, 0xe6, u8(p.laneBytes == 8 ? 3 : 2)};  // shl rsi, 2 or 3: bytes
  jitBytes(w, scale, 4);
  jitLoadPointer(w, RCX, 0);  // the destination is the first entry of the table
  for (u32 k = 0; k < inputCount; k++) {
    w.inputPointer[inputs[k]] = kJitPointers[k];
    jitLoadPointer(w, kJitPointers[k], 16 + 8u * inputs[k]);
  }
  jitLoadPointer(w, RDI, 8);  // the uniforms
  for (u32 i = 0; i < p.uniformCount; i++) {
    if (w.uniformRegister[i] != kJitNone) jitBroadcast(w, w.uniformRegister[i], 8 * i);
  }
  const u8 start[] = {0x31, 0xc0, 0x48, 0x83, 0xee, 0x20};  // xor eax, eax; sub rsi, 32
  jitBytes(w, start, sizeof start);
  const u32 toTail = jitJump(w, 0x82);  // jb
  const u32 loop = w.size;
  w.tail = false;
  // The processor's own prefetching stops at the end of a memory page.
  for (u32 k = 0; k < inputCount; k++) jitPrefetch(w, kJitPointers[k], kJitAhead);
  jitBody(w);
  const u8 next[] = {0x48, 0x83, 0xc0, 0x20, 0x48, 0x39, 0xf0};  // add rax, 32; cmp rax, rsi
  jitBytes(w, next, sizeof next);
  jitTarget(w, jitJump(w, 0x86), loop);  // jbe
  jitTarget(w, toTail, w.size);
  const u8 left[] = {0x48, 0x83, 0xc6, 0x20, 0x48, 0x29, 0xc6};  // add rsi, 32; sub rsi, rax: bytes left
  jitBytes(w, left, sizeof left);
  const u32 toEnd = jitJump(w, 0x84);  // jz
  const u8 masks[] = {0x49, 0xbb};     // mov r11, kJitMasks
  jitBytes(w, masks, sizeof masks);
  const u8* table = kJitMasks;
  jitBytes(w, &table, 8);
  const u8 mask[] = {0x49, 0x29, 0xf3, 0xc4, 0x41, 0x7e, 0x6f, 0x7b, 0x20};  // sub r11, rsi; vmovdqu ymm15, [r11 + 32]
  jitBytes(w, mask, sizeof mask);
  w.tail = true;
  jitBody(w);
  jitTarget(w, toEnd, w.size);
  const u8 vzeroupper[] = {0xc5, 0xf8, 0x77};
  jitBytes(w, vzeroupper, sizeof vzeroupper);
  jitPushPop(w, inputCount, true);
  jitByte(w, 0xc3);
}

// Finds last uses, used inputs, and the uniforms that get registers. Returns false if the program is too
// large.
static bool jitPlan(JitWriter& w, u16* inputs, u32* inputCount) {
  const JitProgram& p = *w.program;
  if (p.count == 0 || p.count > kJitMaxNodes || p.uniformCount > kIrMaxInstructions) return false;
  memset(w.uniformRegister, kJitNone, sizeof w.uniformRegister);
  memset(w.inputLast, 0xff, sizeof w.inputLast);
  *inputCount = 0;
  for (u32 i = 0; i < p.count; i++) {
    const JitNode& node = p.nodes[i];
    w.nodeLast[i] = u16(i);
    const bool extra = node.op == JIT_NEG || node.op == JIT_ABS || node.op == JIT_NOT;
    for (u32 k = 0; k < node.arity + (extra ? 1u : 0u); k++) {
      const JitOperand operand = k < node.arity ? node.operand[k] : JitOperand{JIT_UNIFORM, node.sign};
      if (operand.kind == JIT_NODE) w.nodeLast[operand.index] = u16(i);
      if (operand.kind == JIT_UNIFORM && w.uniformRegister[operand.index] == kJitNone && w.hoisted < kJitMaxHoisted) {
        w.uniformRegister[operand.index] = u8(YMM_SPARE - 1 - w.hoisted++);
      }
      if (operand.kind != JIT_INPUT) continue;
      if (w.inputLast[operand.index] == 0xffff) {
        if (*inputCount == kJitMaxInputs) return false;
        inputs[(*inputCount)++] = operand.index;
      }
      w.inputLast[operand.index] = u16(i);
    }
  }
  w.nodeLast[p.count - 1] = 0xffff;
  return true;
}

// Returns machine code for a program, or null. Call it as code(table, n) with n > 0: table[0] is the
// destination, table[1] the uniforms (8 bytes each), table[2 + i] input i. Pass *mapped to jitFree.
static JitFunction jitCompile(const JitProgram& program, u64* mapped) {
  JitWriter* w = static_cast<JitWriter*>(calloc(1, sizeof(JitWriter)));
  u8* code = static_cast<u8*>(malloc(kJitMaxBytes));
  JitFunction function = nullptr;
  u16 inputs[kJitMaxInputs];
  u32 inputCount;
  if (w != nullptr && code != nullptr) {
    w->program = &program;
    w->code = code;
    if (jitPlan(*w, inputs, &inputCount)) {
      jitFunction(*w, inputs, inputCount);
      if (!w->failed) {
        const u64 bytes = (u64(w->size) + 4095) & ~4095ull;
        void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory != MAP_FAILED) {
          memcpy(memory, code, w->size);
          if (mprotect(memory, bytes, PROT_READ | PROT_EXEC) == 0) {
            memcpy(&function, &memory, sizeof function);
            *mapped = bytes;
          } else {
            munmap(memory, bytes);
          }
        }
      }
    }
  }
  free(w);
  free(code);
  return function;
}

static void jitFree(JitFunction function, u64 mapped) {
  void* memory;
  memcpy(&memory, &function, sizeof memory);
  if (memory != nullptr) munmap(memory, mapped);
}

#else

static const bool kJitHere = false;
static JitFunction jitCompile(const JitProgram&, u64*) { return nullptr; }
static void jitFree(JitFunction, u64) {}

#endif

}  // namespace MMSB_NS
}  // namespace mmsb
