// The loops of the expression VM, one per operation, lane type and form of operands, and the functions that
// select them.
//
// Invariants: a loop reads operand i before it writes result i, so the result may overwrite an operand of the
// same lane size. Loops are short and have no branches, so that the compiler vectorises them.
#pragma once
#include "expr/map_state.cuh"
#include "portable/scalar_cast.cuh"

namespace mmsb {
namespace MMSB_NS {

#define MMSB_LOOP _Pragma("GCC ivdep") for (size_t i = 0; i < n; i++)

template <class D, class A, D (*F)(A)>
static void loop1(void* dst, const void* a_, const void*, const void*, const void*, size_t n) {
  D* d = static_cast<D*>(dst);
  const A* a = static_cast<const A*>(a_);
  MMSB_LOOP d[i] = F(a[i]);
}
template <class D, class A, D (*F)(A, A)>
static void loopVV(void* dst, const void* a_, const void* b_, const void*, const void*, size_t n) {
  D* d = static_cast<D*>(dst);
  const A *a = static_cast<const A*>(a_), *b = static_cast<const A*>(b_);
  MMSB_LOOP d[i] = F(a[i], b[i]);
}
template <class D, class A, D (*F)(A, A)>
static void loopVS(void* dst, const void* a_, const void* b_, const void*, const void*, size_t n) {
  D* d = static_cast<D*>(dst);
  const A* a = static_cast<const A*>(a_);
  const A b = *static_cast<const A*>(b_);
  MMSB_LOOP d[i] = F(a[i], b);
}
template <class D, class A, D (*F)(A, A)>
static void loopSV(void* dst, const void* a_, const void* b_, const void*, const void*, size_t n) {
  D* d = static_cast<D*>(dst);
  const A a = *static_cast<const A*>(a_);
  const A* b = static_cast<const A*>(b_);
  MMSB_LOOP d[i] = F(a, b[i]);
}
template <class T, T (*F)(T, T, T)>
static void loop3(void* dst, const void* a_, const void* b_, const void* c_, const void*, size_t n) {
  T* d = static_cast<T*>(dst);
  const T *a = static_cast<const T*>(a_), *b = static_cast<const T*>(b_), *c = static_cast<const T*>(c_);
  MMSB_LOOP d[i] = F(a[i], b[i], c[i]);
}
template <class T>
static void loopSelectVV(void* dst, const void* c_, const void* a_, const void* b_, const void*, size_t n) {
  T* d = static_cast<T*>(dst);
  const u8* c = static_cast<const u8*>(c_);
  const T *a = static_cast<const T*>(a_), *b = static_cast<const T*>(b_);
  MMSB_LOOP d[i] = c[i] != 0 ? a[i] : b[i];
}
template <class T>
static void loopSelectVS(void* dst, const void* c_, const void* a_, const void* b_, const void*, size_t n) {
  T* d = static_cast<T*>(dst);
  const u8* c = static_cast<const u8*>(c_);
  const T* a = static_cast<const T*>(a_);
  const T b = *static_cast<const T*>(b_);
  MMSB_LOOP d[i] = c[i] != 0 ? a[i] : b;
}
template <class T>
static void loopSelectSV(void* dst, const void* c_, const void* a_, const void* b_, const void*, size_t n) {
  T* d = static_cast<T*>(dst);
  const u8* c = static_cast<const u8*>(c_);
  const T a = *static_cast<const T*>(a_);
  const T* b = static_cast<const T*>(b_);
  MMSB_LOOP d[i] = c[i] != 0 ? a : b[i];
}
template <class T>
static void loopSelectSS(void* dst, const void* c_, const void* a_, const void* b_, const void*, size_t n) {
  T* d = static_cast<T*>(dst);
  const u8* c = static_cast<const u8*>(c_);
  const T a = *static_cast<const T*>(a_), b = *static_cast<const T*>(b_);
  MMSB_LOOP d[i] = c[i] != 0 ? a : b;
}
template <class T>
static void loopFill(void* dst, const void* a_, const void*, const void*, const void*, size_t n) {
  T* d = static_cast<T*>(dst);
  const T a = *static_cast<const T*>(a_);
  MMSB_LOOP d[i] = a;
}
template <class T>
static void loopCopy(void* dst, const void* a, const void*, const void*, const void*, size_t n) {
  if (dst != a) memmove(dst, a, n * sizeof(T));
}
// Runs the fast form on all elements, then the slow one on the rare elements that need it. In pieces, because
// dst may be a.
template <class T, T (*FAST)(T), bool (*SPECIAL)(T), T (*SLOW)(T)>
static void loopRare(void* dst, const void* a_, const void*, const void*, const void*, size_t count) {
  T* d = static_cast<T*>(dst);
  const T* a = static_cast<const T*>(a_);
  const size_t piece = 64;
  for (size_t at = 0; at < count; at += piece) {
    const size_t n = count - at < piece ? count - at : piece;
    alignas(64) T x[piece];
    memcpy(x, a + at, n * sizeof(T));
    u32 rare = 0;
    MMSB_LOOP {
      rare |= SPECIAL(x[i]) ? 1u : 0u;
      d[at + i] = FAST(x[i]);
    }
    if (rare == 0) continue;
    for (size_t i = 0; i < n; i++) {
      if (SPECIAL(x[i])) d[at + i] = SLOW(x[i]);
    }
  }
}

// The same for two operands.
template <class T, T (*FAST)(T, T), bool (*SPECIAL)(T, T), T (*SLOW)(T, T)>
static void loopRare2(void* dst, const void* a_, const void* b_, const void*, const void*, size_t count) {
  T* d = static_cast<T*>(dst);
  const T *a = static_cast<const T*>(a_), *b = static_cast<const T*>(b_);
  const size_t piece = 64;
  for (size_t at = 0; at < count; at += piece) {
    const size_t n = count - at < piece ? count - at : piece;
    alignas(64) T x[piece], y[piece];
    memcpy(x, a + at, n * sizeof(T));
    memcpy(y, b + at, n * sizeof(T));
    u32 rare = 0;
    MMSB_LOOP {
      rare |= SPECIAL(x[i], y[i]) ? 1u : 0u;
      d[at + i] = FAST(x[i], y[i]);
    }
    if (rare == 0) continue;
    for (size_t i = 0; i < n; i++) {
      if (SPECIAL(x[i], y[i])) d[at + i] = SLOW(x[i], y[i]);
    }
  }
}

// Minimum and maximum with a scalar s that is neither NaN nor zero: one instruction, with the bits of sMin
// and sMax.
template <class T>
static inline T minOrdinary(T x, T s) {
  return s < x ? s : x;
}
template <class T>
static inline T maxOrdinary(T x, T s) {
  return s > x ? s : x;
}

static inline u8 boolAnd(u8 a, u8 b) { return a & b; }
static inline u8 boolOr(u8 a, u8 b) { return a | b; }
static inline u8 boolXor(u8 a, u8 b) { return a ^ b; }
static inline u8 boolNot(u8 a) { return a ^ 1; }
template <class To, class From>
static inline To convert(From x) {
  return sCast<To>(x);
}

// ---- from instruction to loop -----------------------------------------------------------------------------

enum OperandMode : u32 { MODE_VV, MODE_VS, MODE_SV };

template <class D, class A, D (*F)(A, A)>
static VmKernel binaryLoop(OperandMode mode) {
  return mode == MODE_VV ? loopVV<D, A, F> : mode == MODE_VS ? loopVS<D, A, F> : loopSV<D, A, F>;
}
// For slow operations there is no scalar form: on null the caller fills a block with the scalar.
template <class T, T (*F)(T, T)>
static VmKernel heavyLoop(OperandMode mode) {
  return mode == MODE_VV ? loopVV<T, T, F> : nullptr;
}

template <class T>
static VmKernel compareLoop(u32 op, OperandMode mode) {
  // c < x is compiled as x > c, for smaller code.
  if (mode == MODE_SV) {
    switch (op) {
      case IR_EQ: return loopVS<u8, T, sEq<T>>;
      case IR_NE: return loopVS<u8, T, sNe<T>>;
      case IR_LT: return loopVS<u8, T, sGt<T>>;
      case IR_LE: return loopVS<u8, T, sGe<T>>;
      case IR_GT: return loopVS<u8, T, sLt<T>>;
      default: return loopVS<u8, T, sLe<T>>;
    }
  }
  switch (op) {
    case IR_EQ: return mode == MODE_VV ? loopVV<u8, T, sEq<T>> : loopVS<u8, T, sEq<T>>;
    case IR_NE: return mode == MODE_VV ? loopVV<u8, T, sNe<T>> : loopVS<u8, T, sNe<T>>;
    case IR_LT: return mode == MODE_VV ? loopVV<u8, T, sLt<T>> : loopVS<u8, T, sLt<T>>;
    case IR_LE: return mode == MODE_VV ? loopVV<u8, T, sLe<T>> : loopVS<u8, T, sLe<T>>;
    case IR_GT: return mode == MODE_VV ? loopVV<u8, T, sGt<T>> : loopVS<u8, T, sGt<T>>;
    default: return mode == MODE_VV ? loopVV<u8, T, sGe<T>> : loopVS<u8, T, sGe<T>>;
  }
}
static bool isCompare(u32 op) { return op >= IR_EQ && op <= IR_GE; }

static VmKernel boolKernel(u32 op, OperandMode mode) {
  switch (op) {
    case IR_AND:
    case IR_MUL:
    case IR_MIN:
    case IR_BITAND: return mode == MODE_VV ? loopVV<u8, u8, boolAnd> : loopVS<u8, u8, boolAnd>;
    case IR_OR:
    case IR_ADD:
    case IR_MAX:
    case IR_BITOR: return mode == MODE_VV ? loopVV<u8, u8, boolOr> : loopVS<u8, u8, boolOr>;
    case IR_NE:
    case IR_BITXOR: return mode == MODE_VV ? loopVV<u8, u8, boolXor> : loopVS<u8, u8, boolXor>;
    case IR_NOT: return loop1<u8, u8, boolNot>;
    default: return compareLoop<u8>(op, mode);
  }
}

// Operations that ignore the sign; signed lanes use the unsigned loops.
template <class U>
static VmKernel wrappingKernel(u32 op, OperandMode mode) {
  switch (op) {
    case IR_ADD: return mode == MODE_VV ? loopVV<U, U, sAdd<U>> : loopVS<U, U, sAdd<U>>;
    case IR_MUL: return mode == MODE_VV ? loopVV<U, U, sMul<U>> : loopVS<U, U, sMul<U>>;
    case IR_SUB: return binaryLoop<U, U, sSub<U>>(mode);
    case IR_BITAND: return mode == MODE_VV ? loopVV<U, U, sBitAnd<U>> : loopVS<U, U, sBitAnd<U>>;
    case IR_BITOR: return mode == MODE_VV ? loopVV<U, U, sBitOr<U>> : loopVS<U, U, sBitOr<U>>;
    case IR_BITXOR: return mode == MODE_VV ? loopVV<U, U, sBitXor<U>> : loopVS<U, U, sBitXor<U>>;
    case IR_NEG: return loop1<U, U, sNeg<U>>;
    case IR_SHL: return heavyLoop<U, sShl<U>>(mode);
    case IR_FMA: return loop3<U, sFma<U>>;
    default: return nullptr;
  }
}
// The unsigned type of the same size, whose loops both types use.
template <u32 BYTES>
struct SameSize;
template <>
struct SameSize<1> {
  using Unsigned = u8;
};
template <>
struct SameSize<2> {
  using Unsigned = u16;
};
template <>
struct SameSize<4> {
  using Unsigned = u32;
};
template <>
struct SameSize<8> {
  using Unsigned = u64;
};

template <class T>
static VmKernel integerKernel(u32 op, OperandMode mode) {
  switch (op) {
    case IR_FLOORDIV: return heavyLoop<T, sFloorDiv<T>>(mode);
    case IR_MOD: return heavyLoop<T, sMod<T>>(mode);
    case IR_POW: return heavyLoop<T, sPow<T>>(mode);
    case IR_SHR: return heavyLoop<T, sShr<T>>(mode);
    case IR_ABS: return loop1<T, T, sAbs<T>>;
    case IR_SIGN: return loop1<T, T, sSign<T>>;
    case IR_MIN: return mode == MODE_VV ? loopVV<T, T, sMin<T>> : loopVS<T, T, sMin<T>>;
    case IR_MAX: return mode == MODE_VV ? loopVV<T, T, sMax<T>> : loopVS<T, T, sMax<T>>;
    default:
      return isCompare(op) ? compareLoop<T>(op, mode)
                           : wrappingKernel<typename SameSize<sizeof(T)>::Unsigned>(op, mode);
  }
}
template <class T>
static VmKernel floatKernel(u32 op, OperandMode mode) {
  switch (op) {
    case IR_ADD: return mode == MODE_VV ? loopVV<T, T, sAdd<T>> : loopVS<T, T, sAdd<T>>;
    case IR_MUL: return mode == MODE_VV ? loopVV<T, T, sMul<T>> : loopVS<T, T, sMul<T>>;
    case IR_SUB: return binaryLoop<T, T, sSub<T>>(mode);
    case IR_DIV: return binaryLoop<T, T, sDiv<T>>(mode);
    case IR_MIN: return mode == MODE_VV ? loopVV<T, T, sMin<T>> : loopVS<T, T, sMin<T>>;
    case IR_MAX: return mode == MODE_VV ? loopVV<T, T, sMax<T>> : loopVS<T, T, sMax<T>>;
    case IR_FLOORDIV: return mode == MODE_VV ? loopRare2<T, floorDivFast, remainderSpecial, floorDivSlow> : nullptr;
    case IR_MOD: return mode == MODE_VV ? loopRare2<T, modFast, remainderSpecial, modSlow> : nullptr;
    case IR_POW: return heavyLoop<T, sPow<T>>(mode);
    case IR_NEG: return loop1<T, T, sNeg<T>>;
    case IR_ABS: return loop1<T, T, sAbs<T>>;
    case IR_SIGN: return loop1<T, T, sSign<T>>;
    case IR_SQRT: return loop1<T, T, sSqrt>;
    case IR_EXP: return loop1<T, T, mExp>;
    case IR_LOG: return loop1<T, T, mLog>;
    case IR_LOG2: return loop1<T, T, mLog2>;
    case IR_TANH: return loop1<T, T, mTanh>;
    case IR_SIN: return loopRare<T, mSinFast, mSinSpecial, mSinSlow>;
    case IR_COS: return loopRare<T, mCosFast, mCosSpecial, mCosSlow>;
    case IR_TAN: return loopRare<T, mTanFast, mTanSpecial, mTanSlow>;
    case IR_FLOOR: return loop1<T, T, sFloor>;
    case IR_CEIL: return loop1<T, T, sCeil>;
    case IR_ROUND: return loop1<T, T, sRound>;
    case IR_TRUNC: return loop1<T, T, sTrunc>;
    case IR_ISNAN: return loop1<u8, T, sIsNan<T>>;
    case IR_FMA: return loop3<T, sFma<T>>;
    default: return isCompare(op) ? compareLoop<T>(op, mode) : nullptr;
  }
}
static VmKernel ordinaryKernel(u32 op, u32 dtype) {
  if (dtype == F32) return op == IR_MIN ? loopVS<f32, f32, minOrdinary> : loopVS<f32, f32, maxOrdinary>;
  return op == IR_MIN ? loopVS<f64, f64, minOrdinary> : loopVS<f64, f64, maxOrdinary>;
}
static VmKernel kernelOf(u32 op, u32 dtype, OperandMode mode) {
  switch (dtype) {
    case BOOL: return boolKernel(op, mode);
    case U8: return integerKernel<u8>(op, mode);
    case I8: return integerKernel<i8>(op, mode);
    case U16: return integerKernel<u16>(op, mode);
    case I16: return integerKernel<i16>(op, mode);
    case U32: return integerKernel<u32>(op, mode);
    case I32: return integerKernel<i32>(op, mode);
    case U64: return integerKernel<u64>(op, mode);
    case I64: return integerKernel<i64>(op, mode);
    case F32: return floatKernel<f32>(op, mode);
    default: return floatKernel<f64>(op, mode);
  }
}

template <class From>
static VmKernel castKernelFrom(u32 to) {
  switch (to) {
    case BOOL: return loop1<u8, From, sToBool<From>>;
    case U8: return loop1<u8, From, convert<u8, From>>;
    case I8: return loop1<i8, From, convert<i8, From>>;
    case U16: return loop1<u16, From, convert<u16, From>>;
    case I16: return loop1<i16, From, convert<i16, From>>;
    case U32: return loop1<u32, From, convert<u32, From>>;
    case I32: return loop1<i32, From, convert<i32, From>>;
    case U64: return loop1<u64, From, convert<u64, From>>;
    case I64: return loop1<i64, From, convert<i64, From>>;
    case F32: return loop1<f32, From, convert<f32, From>>;
    default: return loop1<f64, From, convert<f64, From>>;
  }
}
static VmKernel castKernel(u32 to, u32 from) {
  switch (from) {
    case BOOL:
    case U8: return castKernelFrom<u8>(to);
    case I8: return castKernelFrom<i8>(to);
    case U16: return castKernelFrom<u16>(to);
    case I16: return castKernelFrom<i16>(to);
    case U32: return castKernelFrom<u32>(to);
    case I32: return castKernelFrom<i32>(to);
    case U64: return castKernelFrom<u64>(to);
    case I64: return castKernelFrom<i64>(to);
    case F32: return castKernelFrom<f32>(to);
    default: return castKernelFrom<f64>(to);
  }
}

static VmKernel fillKernel(u32 bytes) {
  if (bytes == 1) return loopFill<u8>;
  return bytes == 2 ? loopFill<u16> : bytes == 4 ? loopFill<u32> : loopFill<u64>;
}
static VmKernel copyKernel(u32 bytes) {
  if (bytes == 1) return loopCopy<u8>;
  return bytes == 2 ? loopCopy<u16> : bytes == 4 ? loopCopy<u32> : loopCopy<u64>;
}
template <class T>
static VmKernel selectLoop(bool aUniform, bool bUniform) {
  if (aUniform) return bUniform ? loopSelectSS<T> : loopSelectSV<T>;
  return bUniform ? loopSelectVS<T> : loopSelectVV<T>;
}
static VmKernel selectKernel(u32 bytes, bool aUniform, bool bUniform) {
  if (bytes == 1) return selectLoop<u8>(aUniform, bUniform);
  if (bytes == 2) return selectLoop<u16>(aUniform, bUniform);
  return bytes == 4 ? selectLoop<u32>(aUniform, bUniform) : selectLoop<u64>(aUniform, bUniform);
}

}  // namespace MMSB_NS
}  // namespace mmsb
