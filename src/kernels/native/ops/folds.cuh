// The folds of reduce, scan and window, and accumulators stored as 64-bit words.
#pragma once
#include "ops.h"
#include "portable/scalar.cuh"

namespace mmsb {
namespace MMSB_NS {

struct FoldSum {
  template <class W>
  static MMSB_HD inline W go(W a, W b) {
    return a + b;
  }
};
struct FoldProd {
  template <class W>
  static MMSB_HD inline W go(W a, W b) {
    return a * b;
  }
};
struct FoldMin {
  template <class W>
  static MMSB_HD inline W go(W a, W b) {
    return sMin<W>(a, b);
  }
};
struct FoldMax {
  template <class W>
  static MMSB_HD inline W go(W a, W b) {
    return sMax<W>(a, b);
  }
};

template <class W>
static MMSB_HD inline W wordAs(u64 word) {
  W value;
  memcpy(&value, &word, 8);
  return value;
}
template <class W>
static MMSB_HD inline u64 asWord(W value) {
  u64 word;
  memcpy(&word, &value, 8);
  return word;
}

template <class W>
static MMSB_HD inline W joinBy(u32 fn, W a, W b) {
  switch (fn) {
    case MMSB_REDUCE_PROD: return FoldProd::go(a, b);
    case MMSB_REDUCE_MIN: return FoldMin::go(a, b);
    case MMSB_REDUCE_MAX: return FoldMax::go(a, b);
    default: return FoldSum::go(a, b);
  }
}

}  // namespace MMSB_NS
}  // namespace mmsb
