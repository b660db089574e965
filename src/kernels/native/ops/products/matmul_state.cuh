// The state of a matmul step, and how its work is cut into tiles, for the CPU (op_matmul.cuh, which defines
// the order of work) and the CUDA kernels.
#pragma once
#include "core/ranges.cuh"
#include "ops/semirings.cuh"

namespace mmsb {

struct Matmul {
  u32 semiring;
  u8 dtype;  // both inputs are cast to it
  u32 batches, rows, columns, depth;
  u32 batchRank;
  u32 batchShape[8];
  u32 aStride[8], bStride[8];  // in matrices; 0 where broadcast
  bool aPlain, bPlain;         // no broadcasting: matrix i of the output uses matrix i
  bool bShared;                // one matrix b for all
  // The inner kernel: continues c[group][kMatPanel] (leading dimension kMatColumns) along `depth` values of
  // k.
  void (*kernel)(const void* const* a, u32 group, const void* b, u32 bPitch, u32 depth, void* c);
  void (*zero)(void* c, u32 count);
};

// Rows of one output matrix, and the columns to compute in them.
struct MatTask {
  u32 batch;
  u32 rowAt, rowCount;  // range in MatJob::rows
  u32 column, columnCount;
};

namespace MMSB_NS {

// ---- tiles ------------------------------------------------------------------------------------------------

static MMSB_HD inline u64 matrixOf(const Matmul& m, const u32* strides, u32 batch) {
  u64 at = 0;
  for (u32 d = m.batchRank; d-- > 0;) {
    at += u64(batch % m.batchShape[d]) * strides[d];
    batch /= m.batchShape[d];
  }
  return at;
}

// Appends the rows of the changed elements of a matrix of `columns` columns.
static void touchedRows(const RangeSet& changed, u32 columns, RangeSet& rows, Arena& arena) {
  for (u32 i = 0; i < changed.count; i++) {
    const u32 first = changed.data[i].start / columns;
    rangesPush(rows, first, (changed.data[i].start + changed.data[i].count - 1) / columns - first + 1, arena);
  }
}

// Appends their columns.
static void touchedColumns(const RangeSet& changed, u32 columns, RangeSet& set, Arena& arena) {
  for (u32 i = 0; i < changed.count; i++) {
    const u32 first = changed.data[i].start % columns;
    const u64 end = u64(first) + changed.data[i].count;
    if (changed.data[i].count >= columns) return rangesPush(set, 0, columns, arena);
    if (end <= columns) {
      rangesPush(set, first, changed.data[i].count, arena);
    } else {
      rangesPush(set, first, columns - first, arena);
      rangesPush(set, 0, u32(end - columns), arena);
    }
  }
}

// Finds the rows (numbered through all matrices) to compute in full, and the columns to compute in all other
// rows.
static void dirtyMatmul(const Matmul& m, bool full, const RangeSet* changedA, const RangeSet* changedB, RangeSet& rows,
                        RangeSet& columns, Arena& arena) {
  if (full || (changedA != nullptr && !m.aPlain) || (changedB != nullptr && !m.bPlain && !m.bShared)) {
    return rangesPush(rows, 0, u32(u64(m.batches) * m.rows), arena);
  }
  if (changedA != nullptr) touchedRows(*changedA, m.depth, rows, arena);
  if (changedB != nullptr && m.bShared) touchedColumns(*changedB, m.columns, columns, arena);
  if (changedB != nullptr && !m.bShared) {
    RangeSet matrices;
    memset(&matrices, 0, sizeof matrices);
    touchedRows(*changedB, m.depth * m.columns, matrices, arena);
    for (u32 i = 0; i < matrices.count; i++) {
      rangesPush(rows, matrices.data[i].start * m.rows, matrices.data[i].count * m.rows, arena);
    }
  }
  rangesNormalise(rows, arena);
  rangesNormalise(columns, arena);
}

// Tiles of at most tileRows x tileColumns that cover given columns of given rows. A tile lies in one matrix.
struct MatTiles {
  bool inverted;
  u32 column, columnCount, tileRows, tileColumns;
  u64 rowCount, taskBound;  // sizes of `rows` and `tasks`
  u32* rows;                // row numbers inside their matrix
  MatTask* tasks;
  u32 listed, taskCount;
};

// Plans the columns [column, column + columnCount) of the rows in `rows`, or, if inverted, of all other rows.
static MatTiles planTiles(const Matmul& m, const RangeSet& rows, bool inverted, u32 column, u32 columnCount,
                          u32 tileRows, u32 tileColumns) {
  MatTiles tiles;
  memset(&tiles, 0, sizeof tiles);
  tiles.inverted = inverted;
  tiles.column = column;
  tiles.columnCount = columnCount;
  tiles.tileRows = tileRows;
  tiles.tileColumns = tileColumns;
  if (columnCount == 0) return tiles;
  const u64 listed = rangesElements(rows);
  tiles.rowCount = inverted ? u64(m.batches) * m.rows - listed : listed;
  const u64 parts =
      m.batches < tiles.rowCount ? m.batches : tiles.rowCount;  // each matrix may end with an incomplete tile
  tiles.taskBound = (tiles.rowCount / tileRows + parts + 1) * ((columnCount + tileColumns - 1) / tileColumns);
  return tiles;
}

static void closeTile(MatTiles& tiles, u32 batch, u32* openAt) {
  for (u32 c = 0; *openAt < tiles.listed && c < tiles.columnCount; c += tiles.tileColumns) {
    const u32 width = tiles.columnCount - c < tiles.tileColumns ? tiles.columnCount - c : tiles.tileColumns;
    tiles.tasks[tiles.taskCount++] = MatTask{batch, *openAt, tiles.listed - *openAt, tiles.column + c, width};
  }
  *openAt = tiles.listed;
}

static void fillTiles(const Matmul& m, const RangeSet& rows, MatTiles& tiles) {
  u32 openBatch = 0, openAt = 0;
  const auto add = [&](u64 first, u64 end) {
    for (u64 row = first; row < end; row++) {
      const u32 batch = u32(row / m.rows);
      if (batch != openBatch || tiles.listed - openAt == tiles.tileRows) closeTile(tiles, openBatch, &openAt);
      openBatch = batch;
      tiles.rows[tiles.listed++] = u32(row % m.rows);
    }
  };
  u64 next = 0;
  for (u32 i = 0; i < rows.count; i++) {
    const u64 first = rows.data[i].start, end = first + rows.data[i].count;
    if (tiles.inverted) add(next, first);
    else add(first, end);
    next = end;
  }
  if (tiles.inverted) add(next, u64(m.batches) * m.rows);
  closeTile(tiles, openBatch, &openAt);
}

}  // namespace MMSB_NS
}  // namespace mmsb
