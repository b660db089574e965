// Fused loops of the expression VM: two float operations in one pass over a block.
//
// Invariants: the bits are those of the two operations one after the other; nothing is contracted. A pass
// costs more for reading and writing a block in the L1 cache than for arithmetic, so pairs nearly halve the
// time of long expressions. This file defines the pairs; vm_lowering.cuh decides where they apply.
#pragma once
#include "expr/vm_loops.cuh"

namespace mmsb {
namespace MMSB_NS {

// ---- arithmetic: second(first(a, b), c) -------------------------------------------------------------------

// x is the value that the pass carries, y the other operand: a block (V) or one value for all elements (S). x
// - s is x + (-s).
enum PairOp : u32 {
  PAIR_ADD_V,
  PAIR_ADD_S,
  PAIR_SUB_V,
  PAIR_RSUB_S,
  PAIR_MUL_V,
  PAIR_MUL_S,
  PAIR_MIN_S,
  PAIR_MAX_S,
  PAIR_RSUB_V,
  PAIR_NONE
};
static const u32 kPairFirsts =
    8;  // operations that can come first; PAIR_RSUB_V becomes PAIR_SUB_V with swapped operands
static const u32 kPairSeconds = 9;

static constexpr bool pairScalar(u32 op) {
  return op == PAIR_ADD_S || op == PAIR_RSUB_S || op == PAIR_MUL_S || op == PAIR_MIN_S || op == PAIR_MAX_S;
}

template <u32 OP, class T>
static inline T pairApply(T x, T y) {
  if constexpr (OP == PAIR_ADD_V || OP == PAIR_ADD_S) return x + y;
  else if constexpr (OP == PAIR_SUB_V) return x - y;
  else if constexpr (OP == PAIR_RSUB_V || OP == PAIR_RSUB_S) return y - x;
  else if constexpr (OP == PAIR_MUL_V || OP == PAIR_MUL_S) return x * y;
  else if constexpr (OP == PAIR_MIN_S) return minOrdinary(x, y);
  else return maxOrdinary(x, y);
}

template <class T, u32 FIRST, u32 SECOND>
static void loopPair(void* dst, const void* a_, const void* b_, const void* c_, const void*, size_t n) {
  T* d = static_cast<T*>(dst);
  const T *a = static_cast<const T*>(a_), *b = static_cast<const T*>(b_), *c = static_cast<const T*>(c_);
  const T b0 = *b, c0 = *c;
  MMSB_LOOP {
    const T x = pairApply<FIRST>(a[i], pairScalar(FIRST) ? b0 : b[i]);
    d[i] = pairApply<SECOND>(x, pairScalar(SECOND) ? c0 : c[i]);
  }
}

template <class T, u32 FIRST>
static VmKernel pairKernelOf(u32 second) {
  switch (second) {
    case PAIR_ADD_V: return loopPair<T, FIRST, PAIR_ADD_V>;
    case PAIR_ADD_S: return loopPair<T, FIRST, PAIR_ADD_S>;
    case PAIR_SUB_V: return loopPair<T, FIRST, PAIR_SUB_V>;
    case PAIR_RSUB_S: return loopPair<T, FIRST, PAIR_RSUB_S>;
    case PAIR_MUL_V: return loopPair<T, FIRST, PAIR_MUL_V>;
    case PAIR_MUL_S: return loopPair<T, FIRST, PAIR_MUL_S>;
    case PAIR_MIN_S: return loopPair<T, FIRST, PAIR_MIN_S>;
    case PAIR_MAX_S: return loopPair<T, FIRST, PAIR_MAX_S>;
    default: return loopPair<T, FIRST, PAIR_RSUB_V>;
  }
}
template <class T>
static VmKernel pairKernel(u32 first, u32 second) {
  switch (first) {
    case PAIR_ADD_V: return pairKernelOf<T, PAIR_ADD_V>(second);
    case PAIR_ADD_S: return pairKernelOf<T, PAIR_ADD_S>(second);
    case PAIR_SUB_V: return pairKernelOf<T, PAIR_SUB_V>(second);
    case PAIR_RSUB_S: return pairKernelOf<T, PAIR_RSUB_S>(second);
    case PAIR_MUL_V: return pairKernelOf<T, PAIR_MUL_V>(second);
    case PAIR_MUL_S: return pairKernelOf<T, PAIR_MUL_S>(second);
    case PAIR_MIN_S: return pairKernelOf<T, PAIR_MIN_S>(second);
    default: return pairKernelOf<T, PAIR_MAX_S>(second);
  }
}

// ---- a comparison and the choice it makes: a ? b ? x : y --------------------------------------------------

// A comparison and a choice, without writing a bool in between. a != b is a == b with x and y swapped; a > b
// is b < a.
enum ChoiceOp : u32 { CHOICE_LT, CHOICE_LE, CHOICE_EQ, CHOICE_GT_S, CHOICE_GE_S };

template <u32 OP, class T>
static inline bool choiceTest(T a, T b) {
  if constexpr (OP == CHOICE_LT) return a < b;
  else if constexpr (OP == CHOICE_LE) return a <= b;
  else if constexpr (OP == CHOICE_EQ) return a == b;
  else if constexpr (OP == CHOICE_GT_S) return a > b;
  else return a >= b;
}

// MODE: bit 0 is set if b is one value for all elements, bit 1 for x, bit 2 for y.
template <class T, u32 OP, u32 MODE>
static void loopChoice(void* dst, const void* a_, const void* b_, const void* x_, const void* y_, size_t n) {
  T* d = static_cast<T*>(dst);
  const T *a = static_cast<const T*>(a_), *b = static_cast<const T*>(b_);
  const T *x = static_cast<const T*>(x_), *y = static_cast<const T*>(y_);
  const T b0 = *b, x0 = *x, y0 = *y;
  MMSB_LOOP {
    const T chosen = (MODE & 2) != 0 ? x0 : x[i], other = (MODE & 4) != 0 ? y0 : y[i];
    d[i] = choiceTest<OP>(a[i], (MODE & 1) != 0 ? b0 : b[i]) ? chosen : other;
  }
}
template <class T, u32 OP>
static VmKernel choiceKernelOf(u32 mode) {
  if constexpr (OP == CHOICE_LT || OP == CHOICE_LE || OP == CHOICE_EQ) {
    switch (mode) {
      case 0: return loopChoice<T, OP, 0>;
      case 2: return loopChoice<T, OP, 2>;
      case 4: return loopChoice<T, OP, 4>;
      case 6: return loopChoice<T, OP, 6>;
      default: break;
    }
  }
  switch (mode) {
    case 1: return loopChoice<T, OP, 1>;
    case 3: return loopChoice<T, OP, 3>;
    case 5: return loopChoice<T, OP, 5>;
    default: return loopChoice<T, OP, 7>;
  }
}
template <class T>
static VmKernel choiceKernel(u32 op, u32 mode) {
  switch (op) {
    case CHOICE_LT: return choiceKernelOf<T, CHOICE_LT>(mode);
    case CHOICE_LE: return choiceKernelOf<T, CHOICE_LE>(mode);
    case CHOICE_EQ: return choiceKernelOf<T, CHOICE_EQ>(mode);
    case CHOICE_GT_S: return choiceKernelOf<T, CHOICE_GT_S>(mode);
    default: return choiceKernelOf<T, CHOICE_GE_S>(mode);
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
