// Reduces neighbouring lanes together, if the innermost axis is kept: each row of the input is read once and
// in order.
#pragma once
#include "ops/reduce/reduce_rows.cuh"

namespace mmsb {
namespace MMSB_NS {

static const u32 kReduceColumns = MMSB_SIZE(64, 4);  // neighbouring outputs processed together

struct ColumnScratch {
  u64 lanes[kReduceLanes * kReduceColumns];
  u64 row[kReduceColumns];
  f64 mean[kReduceColumns];
  Partial stack[(kReduceDepth + 1) * kReduceColumns];
  u64 sizes[kReduceDepth + 1];
  Partial partial[kReduceColumns];
};

// Reduces a block of rows, for every function and any set of axes.
template <class W>
static void columnBlock(const Reduce& r, const Page& input, u32 start, u64 first, u32 count, u32 width,
                        ColumnScratch& s) {
  const u32 size = dtypeBytes(r.dtype);
  W* lanes = reinterpret_cast<W*>(s.lanes);
  W* row = reinterpret_cast<W*>(s.row);
  const u32 passes = r.fn == MMSB_REDUCE_VAR ? 2 : 1;
  for (u32 c = 0; c < width; c++) s.partial[c] = Partial{0, 0, count};
  for (u32 pass = 0; pass < passes; pass++) {
    for (u32 i = 0; i < count; i++) {
      const u32 offset = start + laneOffset(r.reduced, r.reducedCount, first + i);
      W* lane = lanes + u64(i % kReduceLanes) * width;
      loadWide(r, input.data + u64(offset) * size, row, width);
      if (pass == 1) {
        for (u32 c = 0; c < width; c++) row[c] = W((f64(row[c]) - s.mean[c]) * (f64(row[c]) - s.mean[c]));
      }
      if (isArg(r.fn)) {
        for (u32 c = 0; c < width; c++) {
          Partial& best = s.partial[c];
          if (i == 0 || argWins<W>(r.fn, wordAs<W>(best.a), row[c])) {
            best = Partial{asWord<W>(row[c]), first + i, count};
          }
        }
      } else if (isTruth(r.fn)) {
        for (u32 c = 0; c < width; c++) s.partial[c].a += row[c] != W(0);
      } else if (i < kReduceLanes) {
        memcpy(lane, row, u64(width) * sizeof(W));
      } else {
        foldIntoBy<W>(r.fn, lane, row, width);
      }
    }
    if (isArg(r.fn) || isTruth(r.fn)) return;
    foldLanesBy<W>(r.fn, lanes, width, count < kReduceLanes ? count : kReduceLanes);
    for (u32 c = 0; c < width; c++) {
      if (r.fn != MMSB_REDUCE_VAR) {
        s.partial[c].a = asWord<W>(lanes[c]);
      } else if (pass == 0) {
        s.mean[c] = f64(lanes[c]) / count;
        s.partial[c].a = asWord<f64>(s.mean[c]);
      } else {
        s.partial[c].b = asWord<f64>(f64(lanes[c]));
      }
    }
  }
}

// Folds rows of floats, `pitch` elements apart, into their lanes as they are read.
template <class F, class S>
static void foldRows(const S* x, u64 pitch, u32 count, u32 width, f64* lanes) {
  for (u32 i = 0; i < count; i++, x += pitch) {
    f64* lane = lanes + u64(i % kReduceLanes) * width;
    if (i < kReduceLanes) {
      for (u32 c = 0; c < width; c++) lane[c] = f64(x[c]);
    } else if (width == kReduceColumns) {
      for (u32 c = 0; c < kReduceColumns; c++) lane[c] = F::go(lane[c], f64(x[c]));
    } else {
      for (u32 c = 0; c < width; c++) lane[c] = F::go(lane[c], f64(x[c]));
    }
  }
  foldLanes<f64, F>(lanes, width, count < kReduceLanes ? count : kReduceLanes);
}

template <class S>
static void foldRowsBy(u32 fn, const S* x, u64 pitch, u32 count, u32 width, f64* lanes) {
  switch (fn) {
    case MMSB_REDUCE_PROD: return foldRows<FoldProd>(x, pitch, count, width, lanes);
    default: return foldRows<FoldSum>(x, pitch, count, width, lanes);
  }
}

// Extremes do not depend on the order, so there is one accumulator per column.
template <class F, class S>
static void extremeRows(const S* x, u64 pitch, u32 count, u32 width, S* best) {
  for (u32 c = 0; c < width; c++) best[c] = x[c];
  for (u32 i = 1; i < count; i++) {
    x += pitch;
    if (width == kReduceColumns) {
      for (u32 c = 0; c < kReduceColumns; c++) best[c] = F::go(best[c], x[c]);
    } else {
      for (u32 c = 0; c < width; c++) best[c] = F::go(best[c], x[c]);
    }
  }
}

// Neither do sums and products of integers, which wrap.
template <class F, class S>
static void wrapRows(const S* x, u64 pitch, u32 count, u32 width, u64* acc) {
  for (u32 c = 0; c < width; c++) acc[c] = u64(x[c]);
  for (u32 i = 1; i < count; i++) {
    x += pitch;
    for (u32 c = 0; c < width; c++) acc[c] = F::go(acc[c], u64(x[c]));
  }
}

// C is the class of the accumulator.
template <class S, class C>
static void columnValues(u32 fn, const u8* from, u64 pitch, u32 count, u32 width, u64* words) {
  const S* x = reinterpret_cast<const S*>(from);
  if (fn == MMSB_REDUCE_MIN || fn == MMSB_REDUCE_MAX) {
    S best[kReduceColumns];
    if (fn == MMSB_REDUCE_MIN) extremeRows<FoldMin>(x, pitch, count, width, best);
    else extremeRows<FoldMax>(x, pitch, count, width, best);
    for (u32 c = 0; c < width; c++) words[c] = asWord<C>(C(best[c]));
  } else if (fn == MMSB_REDUCE_PROD) {
    wrapRows<FoldProd>(x, pitch, count, width, words);
  } else {
    wrapRows<FoldSum>(x, pitch, count, width, words);
  }
}

static void columnFloats(const Reduce& r, const u8* from, u64 pitch, u32 count, u32 width, u64* words) {
  f64* lanes = reinterpret_cast<f64*>(words);
  const bool extreme = r.fn == MMSB_REDUCE_MIN || r.fn == MMSB_REDUCE_MAX;
  if (r.dtype == F32) {
    if (extreme) return columnValues<f32, f64>(r.fn, from, pitch, count, width, words);
    return foldRowsBy(r.fn, reinterpret_cast<const f32*>(from), pitch, count, width, lanes);
  }
  if (extreme) return columnValues<f64, f64>(r.fn, from, pitch, count, width, words);
  return foldRowsBy(r.fn, reinterpret_cast<const f64*>(from), pitch, count, width, lanes);
}

// Reduces a block of columns in one go. Only for sum, prod, min, max and the mean of floats along one axis;
// else returns false.
static bool foldColumns(const Reduce& r, const Page& input, u32 start, u64 first, u32 count, u32 width,
                        ColumnScratch& s) {
  if (r.fn > MMSB_REDUCE_MEAN || r.reducedCount != 1 || (r.wide == F64 && r.dtype < F32)) return false;
  const u64 pitch = r.reduced[0].stride;
  const u8* from = input.data + (start + first * pitch) * dtypeBytes(r.dtype);
  switch (r.dtype) {
    case F32:
    case F64: columnFloats(r, from, pitch, count, width, s.lanes); break;
    case I8: columnValues<i8, i64>(r.fn, from, pitch, count, width, s.lanes); break;
    case I16: columnValues<i16, i64>(r.fn, from, pitch, count, width, s.lanes); break;
    case I32: columnValues<i32, i64>(r.fn, from, pitch, count, width, s.lanes); break;
    case I64: columnValues<i64, i64>(r.fn, from, pitch, count, width, s.lanes); break;
    case U16: columnValues<u16, u64>(r.fn, from, pitch, count, width, s.lanes); break;
    case U32: columnValues<u32, u64>(r.fn, from, pitch, count, width, s.lanes); break;
    case U64: columnValues<u64, u64>(r.fn, from, pitch, count, width, s.lanes); break;
    default: columnValues<u8, u64>(r.fn, from, pitch, count, width, s.lanes);
  }
  for (u32 c = 0; c < width; c++) s.partial[c] = Partial{s.lanes[c], 0, count};
  return true;
}

static void columnBlockOf(const Reduce& r, const Page& input, u32 start, u64 first, u32 count, u32 width,
                          ColumnScratch& s) {
  if (foldColumns(r, input, start, first, count, width, s)) return;
  switch (r.wide) {
    case I64: return columnBlock<i64>(r, input, start, first, count, width, s);
    case U64: return columnBlock<u64>(r, input, start, first, count, width, s);
    default: return columnBlock<f64>(r, input, start, first, count, width, s);
  }
}

// Reduces the neighbouring outputs [output, output + width).
static void reduceColumns(const Reduce& r, const Page& input, u32 output, u32 width, u64* results, ColumnScratch& s) {
  const u32 start = laneStart(r.kept, r.keptCount, output);
  u32 depth = 0;
  for (u64 block = 0; block < r.blocks; block++) {
    columnBlockOf(r, input, start, block * kReduceBlock, blockCount(r, block), width, s);
    u64 size = 1;
    while (depth != 0 && s.sizes[depth - 1] == size) {
      depth--;
      for (u32 c = 0; c < width; c++) s.partial[c] = joinOf(r, s.stack[depth * kReduceColumns + c], s.partial[c]);
      size *= 2;
    }
    memcpy(s.stack + depth * kReduceColumns, s.partial, width * sizeof(Partial));
    s.sizes[depth++] = size;
  }
  depth--;
  while (depth-- != 0) {
    Partial* right = s.stack + (depth + 1) * kReduceColumns;
    Partial* left = s.stack + depth * kReduceColumns;
    for (u32 c = 0; c < width; c++) left[c] = joinOf(r, left[c], right[c]);
  }
  for (u32 c = 0; c < width; c++) results[c] = finishValue(r, s.stack[c]);
}

}  // namespace MMSB_NS
}  // namespace mmsb
