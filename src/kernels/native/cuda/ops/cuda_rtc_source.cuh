// Writes an expression as CUDA source: a kernel that calls the same functions as the evaluator, in the same
// order, on the same types.
#pragma once
#include <stdarg.h>
#include <stdio.h>

#include "expr/map_state.cuh"
#include "portable/lane.cuh"

namespace mmsb {

// A growing text. `failed` is set when there is no memory.
struct Text {
  char* data;
  u64 used, capacity;
  bool failed;
};

namespace MMSB_NS {

static const u32 kRtcInstructionsMax = 512;  // longer expressions take too long to compile

static void put(Text& text, const char* format, ...) __attribute__((format(printf, 2, 3)));
static void put(Text& text, const char* format, ...) {
  for (;;) {
    const u64 room = text.capacity - text.used;
    va_list arguments;
    va_start(arguments, format);
    const int length = vsnprintf(text.data == nullptr ? nullptr : text.data + text.used, room, format, arguments);
    va_end(arguments);
    if (length < 0 || text.failed) return;
    if (u64(length) < room) {
      text.used += u64(length);
      return;
    }
    const u64 capacity = (text.capacity + u64(length) + 1) * 2;
    void* larger = realloc(text.data, capacity);
    text.failed = larger == nullptr;
    if (text.failed) return;
    text.data = static_cast<char*>(larger);
    text.capacity = capacity;
  }
}

static const char* laneTypeName(u32 dtype) {
  static const char* const names[] = {"u8", "i32", "u32", "i64", "u64", "f32", "f64"};
  return names[laneOf(dtype)];
}

static bool isBooleanOp(u32 op) { return (op >= IR_EQ && op <= IR_NOT) || op == IR_ISNAN; }

// The name of the function for an operation on numbers, or null.
static const char* functionOf(u32 op) {
  switch (op) {
    case IR_ADD: return "sAdd";
    case IR_SUB: return "sSub";
    case IR_MUL: return "sMul";
    case IR_DIV: return "sDiv";
    case IR_FLOORDIV: return "sFloorDiv";
    case IR_MOD: return "sMod";
    case IR_POW: return "sPow";
    case IR_NEG: return "sNeg";
    case IR_ABS: return "sAbs";
    case IR_SIGN: return "sSign";
    case IR_EQ: return "sEq";
    case IR_NE: return "sNe";
    case IR_LT: return "sLt";
    case IR_LE: return "sLe";
    case IR_GT: return "sGt";
    case IR_GE: return "sGe";
    case IR_MIN: return "sMin";
    case IR_MAX: return "sMax";
    case IR_SQRT: return "sSqrt";
    case IR_EXP: return "mExp";
    case IR_LOG: return "mLog";
    case IR_LOG2: return "mLog2";
    case IR_SIN: return "sSin";
    case IR_COS: return "sCos";
    case IR_TAN: return "sTan";
    case IR_TANH: return "mTanh";
    case IR_FLOOR: return "sFloor";
    case IR_CEIL: return "sCeil";
    case IR_ROUND: return "sRound";
    case IR_TRUNC: return "sTrunc";
    case IR_ISNAN: return "sIsNan";
    case IR_FMA: return "sFma";
    case IR_BITAND: return "sBitAnd";
    case IR_BITOR: return "sBitOr";
    case IR_BITXOR: return "sBitXor";
    case IR_SHL: return "sShl";
    case IR_SHR: return "sShr";
    default: return nullptr;
  }
}

static u32 operandsOf(u32 op) {
  switch (op) {
#define X(CODE, ID, NAME, ARITY, CLASSES, BOOLEAN) \
  case CODE: return ARITY;
    MMSB_IR_OPS(X)
#undef X
    default: return 0;
  }
}

// Writes an operation on bool, as in evalBool.
static void putBool(Text& text, u32 op, u32 a, u32 b) {
  switch (op) {
    case IR_AND:
    case IR_MUL:
    case IR_MIN:
    case IR_BITAND: return put(text, "v%u & v%u", a, b);
    case IR_OR:
    case IR_ADD:
    case IR_MAX:
    case IR_BITOR: return put(text, "v%u | v%u", a, b);
    case IR_BITXOR: return put(text, "v%u ^ v%u", a, b);
    case IR_NOT: return put(text, "v%u ^ 1", a);
    default: return put(text, "%s<u8>(v%u, v%u)", functionOf(op), a, b);
  }
}

// Writes the value of an instruction. Operands are numbers of variables.
static void putValue(Text& text, const EvalInst& inst, const u32 operand[3]) {
  const char* const type = laneTypeName(inst.dtype);
  if (inst.op == IR_SELECT) return put(text, "v%u != 0 ? v%u : v%u", operand[0], operand[1], operand[2]);
  if (inst.op == IR_CAST) {
    return put(text, "laneFrom<%s>(castLane(%u, %u, laneTo(v%u)))", type, inst.dtype, inst.from, operand[0]);
  }
  if (inst.dtype == BOOL) return putBool(text, inst.op, operand[0], operand[1]);
  const bool narrows = isNarrow(inst.dtype) && !isBooleanOp(inst.op);
  put(text, "%s%s(", narrows ? "narrow(" : "", functionOf(inst.op));
  for (u32 i = 0; i < operandsOf(inst.op); i++) put(text, "%sv%u", i == 0 ? "" : ", ", operand[i]);
  put(text, narrows ? "), u8(%u))" : ")", inst.dtype);
}

static void putInput(Text& text, const MapState& state, u32 input, u32 dtype) {
  put(text, "laneFrom<%s>(loadLane(%u, map->inputs[%u].data, ", laneTypeName(dtype), dtype, input);
  switch (state.inputs[input].mode) {
    case MAP_SAME: return put(text, "element))");
    case MAP_STRIDED: return put(text, "mapSource(*map, map->inputs[%u], element)))", input);
    default: return put(text, "0))");
  }
}

// Writes the body of the kernel, which sets `lane` to the result for `element`. Returns false if the
// expression is too long.
static bool putBody(Text& text, const MapState& state) {
  const Program& p = *state.program;
  if (p.evalCount > kRtcInstructionsMax) return false;
  u32* holder =
      static_cast<u32*>(calloc(p.evalRegisters + 1, sizeof(u32)));  // register -> number of the variable it holds
  if (holder == nullptr) return false;
  for (u32 i = 0; i < p.evalCount; i++) {
    const EvalInst& inst = p.eval[i];
    const u32 operand[3] = {holder[inst.a], holder[inst.b], holder[inst.c]};
    put(text, "    const %s v%u = ", isBooleanOp(inst.op) ? "u8" : laneTypeName(inst.dtype), i);
    if (inst.op == IR_INPUT) putInput(text, state, u32(inst.imm), inst.dtype);
    else if (inst.op == IR_CONST) {
      put(text, "laneFrom<%s>(0x%llxull)", laneTypeName(inst.dtype), static_cast<unsigned long long>(inst.imm));
    } else {
      putValue(text, inst, operand);
    }
    put(text, ";\n");
    holder[inst.dst] = i;
  }
  put(text, "    lane = laneTo(v%u);\n", holder[p.evalResult]);
  free(holder);
  return !text.failed;
}

// Writes the kernel `name`, which stores results of dtype `natural` into a page of dtype `out`.
static bool putKernel(Text& text, const MapState& state, const char* name, u32 natural, u32 out) {
  put(text, "extern \"C\" __global__ void %s(const MapDevice* map, const DeviceRanges* work, StoreSink sink) {\n",
      name);
  put(text, "  const DeviceTarget& page = sink.marks.targets[sink.target];\n");
  put(text,
      "  eachByWarp(*work, [&](bool valid, u32 element) {\n    bool changed = false;\n    if (valid) {\n    u64 "
      "lane;\n");
  if (!putBody(text, state)) return false;
  if (natural != out) put(text, "    lane = castLane(%u, %u, lane);\n", out, natural);
  put(text, "    changed = replaceRaw(%u, page.data, element, rawOfLane(%u, lane));\n    }\n", dtypeBytes(out), out);
  put(text, "    markWarp(sink.marks, page, element, changed);\n  });\n}\n");
  return !text.failed;
}

static const char* const kRtcName = "mmsb_map";
static const char* const kRtcHead =
    "#include \"cuda/ops/map_device.cuh\"\nusing namespace mmsb;\nusing namespace mmsb::rtc;\n";

}  // namespace MMSB_NS
}  // namespace mmsb
