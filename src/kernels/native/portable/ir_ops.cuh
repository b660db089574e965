// The operations of the expression IR, and the classes of lanes that hold values during computation.
//
// Invariants: codes are stored in logs and never change meaning. src/kernels/expression/ir.ts has the same
// table; a test compares them.
#pragma once
#include "portable/types.cuh"

// Columns: code, identifier, name, number of operands, dtype classes it takes (1 bool, 2 integers, 4 floats),
// whether the result is bool.
#define MMSB_IR_OPS(X)                \
  X(0, INPUT, "input", 0, 7, 0)       \
  X(1, CONST, "const", 0, 7, 0)       \
  X(2, CAST, "cast", 1, 7, 0)         \
  X(3, ADD, "add", 2, 7, 0)           \
  X(4, SUB, "sub", 2, 6, 0)           \
  X(5, MUL, "mul", 2, 7, 0)           \
  X(6, DIV, "div", 2, 4, 0)           \
  X(7, FLOORDIV, "floordiv", 2, 6, 0) \
  X(8, MOD, "mod", 2, 6, 0)           \
  X(9, POW, "pow", 2, 6, 0)           \
  X(10, NEG, "neg", 1, 6, 0)          \
  X(11, ABS, "abs", 1, 6, 0)          \
  X(12, SIGN, "sign", 1, 6, 0)        \
  X(16, EQ, "eq", 2, 7, 1)            \
  X(17, NE, "ne", 2, 7, 1)            \
  X(18, LT, "lt", 2, 7, 1)            \
  X(19, LE, "le", 2, 7, 1)            \
  X(20, GT, "gt", 2, 7, 1)            \
  X(21, GE, "ge", 2, 7, 1)            \
  X(22, AND, "and", 2, 1, 1)          \
  X(23, OR, "or", 2, 1, 1)            \
  X(24, NOT, "not", 1, 1, 1)          \
  X(25, SELECT, "select", 3, 7, 0)    \
  X(26, MIN, "min", 2, 7, 0)          \
  X(27, MAX, "max", 2, 7, 0)          \
  X(32, SQRT, "sqrt", 1, 4, 0)        \
  X(33, EXP, "exp", 1, 4, 0)          \
  X(34, LOG, "log", 1, 4, 0)          \
  X(35, LOG2, "log2", 1, 4, 0)        \
  X(36, SIN, "sin", 1, 4, 0)          \
  X(37, COS, "cos", 1, 4, 0)          \
  X(38, TAN, "tan", 1, 4, 0)          \
  X(39, TANH, "tanh", 1, 4, 0)        \
  X(40, FLOOR, "floor", 1, 4, 0)      \
  X(41, CEIL, "ceil", 1, 4, 0)        \
  X(42, ROUND, "round", 1, 4, 0)      \
  X(43, TRUNC, "trunc", 1, 4, 0)      \
  X(48, ISNAN, "isnan", 1, 4, 1)      \
  X(49, FMA, "fma", 3, 6, 0)          \
  X(50, BITAND, "bitand", 2, 3, 0)    \
  X(51, BITOR, "bitor", 2, 3, 0)      \
  X(52, BITXOR, "bitxor", 2, 3, 0)    \
  X(53, SHL, "shl", 2, 2, 0)          \
  X(54, SHR, "shr", 2, 2, 0)

namespace mmsb {

enum IrOp : u8 {
#define X(CODE, ID, NAME, ARITY, CLASSES, BOOLEAN) IR_##ID = CODE,
  MMSB_IR_OPS(X)
#undef X
};

static const u32 kIrMaxInputs = 64;  // IR_MAX_INPUTS of src/limits.ts

// The type that holds a value during computation.
enum LaneKind : u8 { LANE_BOOL, LANE_I32, LANE_U32, LANE_I64, LANE_U64, LANE_F32, LANE_F64 };

static MMSB_HD inline LaneKind laneOf(u32 dtype) { return LaneKind((0x65341211110ull >> (4 * dtype)) & 15); }
static MMSB_HD inline bool isNarrow(u32 dtype) { return dtype >= U8 && dtype <= I16; }
static MMSB_HD inline bool isFloatDtype(u32 dtype) { return dtype >= F32; }

// How a step reads an input.
enum MapMode : u32 {
  MAP_UNUSED,   // not read by the expression
  MAP_SAME,     // element i belongs to element i of the output
  MAP_SCALAR,   // one element belongs to all of the output
  MAP_STRIDED,  // broadcast along some dimensions
};

}  // namespace mmsb
