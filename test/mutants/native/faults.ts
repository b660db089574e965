/**
 * Faults planted in the native sources, one at a time, to see that the tests notice: an off-by-one at a
 * boundary, a range that is lost, a cache that is not cleared. The harness (run.ts) builds all of them into
 * one library and chooses one at run time.
 *
 * Invariants: `right` stands in its file exactly once. An expression keeps its type. A fault that gives the
 * same bytes on every input is no fault: it is listed with `equivalent`, which says why.
 */

export interface Fault {
  /** A path below src/kernels/native. */
  readonly file: string
  /** What is replaced: the whole text, or the part of it in double braces. */
  readonly right: string
  readonly wrong: string
  /** `right` is a whole statement; it becomes `wrong`, which may be empty. */
  readonly isStatement?: true
  /** Why no test can notice. */
  readonly equivalent?: string
}

/** `right` is an expression. */
const fault = (file: string, right: string, wrong: string): Fault => ({ file, right, wrong })
const statement = (file: string, right: string, wrong = ''): Fault => ({
  file,
  right,
  wrong,
  isStatement: true,
})

const core: readonly Fault[] = [
  statement(
    'core/ranges.cuh',
    'if (nextEnd > lastEnd) last.count = nextEnd - last.start;',
    'last.count = nextEnd - last.start;',
  ),
  fault('core/ranges.cuh', 'next.start <= lastEnd', 'next.start < lastEnd - 1'),
  fault('core/ranges.cuh', 'shift < 32', 'shift < 22'),
  fault('core/ranges.cuh', 'data[at - 1].start > range.start', 'data[at - 1].start > range.start + 1'),
  fault('core/ranges.cuh', 'set.data[i].start < set.data[i - 1].start + set.data[i - 1].count', 'false'),
  fault('core/ranges.cuh', 'from != set.data', 'false'),
  fault('core/ranges.cuh', 'while ({{set.count > bound}})', 'set.count > bound + 1'),
  statement('core/memory.cuh', 'memset(at, 0, pool.size);'),
  fault(
    'core/memory.cuh',
    'memory.classes[middle].size >= bytes',
    'memory.classes[middle].size + 64 >= bytes',
  ),
  statement('core/journal.cuh', 'journal.capacity = capacity;', 'journal.capacity = capacity + 64;'),
  fault('core/merge.cuh', '(now[i] != 0) & (values[i] != 0)', 'now[i] & values[i]'),
  statement('core/merge.cuh', 'canonicalBlock(dtype, out, count);'),
  fault(
    'core/merge.cuh',
    'merge == MERGE_ADD ? mergeLoop<u16>(merge, now, values, out, count)\n                                : mergeLoop<i16>(merge, now, values, out, count)',
    'mergeLoop<u16>(merge, now, values, out, count)',
  ),
  fault(
    'core/digest.cuh',
    'left < kChunkBytes ? u32(left) : kChunkBytes',
    'left <= kChunkBytes / 2 ? u32(left) : kChunkBytes',
  ),
]

const exec: readonly Fault[] = [
  {
    ...fault('exec/deltas.cuh', 'next != index + run', 'next != index + run || run == 63'),
    equivalent: 'a run written in two parts writes the same bytes, and ranges that touch become one',
  },
  {
    ...fault('exec/deltas.cuh', '(at & 7) == 0 && delta.where[at >> 3] == 0', 'delta.where[at >> 3] == 0'),
    equivalent: 'a byte is entered at its first bit; further inside it is known not to be zero',
  },
  {
    ...fault(
      'exec/deltas.cuh',
      'at + run < delta.count && maskBit(delta, u32(at + run))',
      'at + run + 1 < delta.count && maskBit(delta, u32(at + run))',
    ),
    equivalent: 'the last element is written as a run of its own, and ranges that touch become one',
  },
  fault('exec/deltas.cuh', 'taskElements - delta.offset % taskElements', 'taskElements'),
  fault('exec/deltas.cuh', 'slot.deltaCount > 1 || !delta.ascending', 'slot.deltaCount > 1'),
  fault('exec/deltas.cuh', 'u32 i = undo.spans.count; i-- > {{0}};', '1'),
  statement(
    'exec/deltas.cuh',
    'if (spans.data[middle].start <= span.start) low = middle;\n      else high = middle - 1;',
    'if (spans.data[middle].start < span.start) low = middle;\n      else high = middle - 1;',
  ),
  fault(
    'exec/deltas.cuh',
    'span.count - at < piece ? span.count - at : piece',
    'span.count - at <= piece ? span.count - at : piece - 1',
  ),
  statement('exec/deltas.cuh', 'rehashChunk(slot, chunk, out.digest);'),
  statement(
    'exec/deltas.cuh',
    'journalKeep(*arena.journal, slot.page.id, at + lo, slot.snapshot + at + lo, hi - lo);',
  ),
  fault(
    'exec/deltas.cuh',
    'if ({{delta.merge != MERGE_SET || dtype == BOOL}}) return mergeBlock',
    'delta.merge != MERGE_SET',
  ),
  {
    ...fault('exec/past.cuh', 'count > kBehindMax', 'false'),
    equivalent: 'the list only takes more memory; what is copied is the same',
  },
  statement('exec/past.cuh', 'if (slot.pastStep != nullptr) fallBehindWholly(*slot.pastStep->past);'),
  statement(
    'exec/past.cuh',
    'memcpy(behind.data + behind.count, changed.data, u64(changed.count) * sizeof(Range));',
    'memcpy(behind.data, changed.data, u64(changed.count) * sizeof(Range));',
  ),
  statement('exec/past.cuh', 'past.whole = 0;'),
  fault('exec/compute.cuh', 'start / perChunk != (open.end - 1) / perChunk', 'true'),
  {
    ...fault('exec/compute.cuh', 'r == task.last ? task.end : range.start + range.count', 'task.end'),
    equivalent: 'elements between the ranges are computed again, to the same bytes',
  },
  fault('exec/compute.cuh', 'step.natural != dtype', 'step.natural != dtype && count > 1'),
  statement('exec/compute.cuh', 'rehashRanges(slot, all, digest);'),
  fault('exec/compute.cuh', 'outs[i].changed.gap > gap ? outs[i].changed.gap : gap', 'gap'),
  {
    ...fault('exec/store.cuh', 'chunk > next ? chunk : next', 'chunk'),
    equivalent: 'a chunk that two ranges share is hashed twice, and the second time nothing has changed',
  },
  fault('exec/store.cuh', 'return ~{{mask}};', '0'),
  fault('exec/store.cuh', '{{(last + 1 - first) * size}}, *out.arena', '(last - first) * size'),
  fault('exec/store.cuh', 'end - at <= kSmallBytes', 'end - at <= kSmallBytes + 8'),
  {
    ...fault('exec/store.cuh', 'slot.page.bytes <= kChunkBytes', 'slot.page.bytes < kChunkBytes'),
    equivalent: 'the hash of the only chunk gives the same share as the digest of the page',
  },
  fault('exec/store.cuh', '(hi + 31) / 32 * 4', 'hi / 32 * 4'),
  statement('exec/store.cuh', 'if (SIZE == 8) same = _mm_and_si128(same, _mm_shuffle_epi32(same, 0xb1));'),
  fault('exec/store.cuh', 'whole && {{!kept}} && storeDifferent', 'true'),
  statement(
    'exec/store.cuh',
    'if (journal != nullptr) journalKeep(*journal, slot.page.id, at + lo, slot.page.data + at + lo, hi - lo);',
    'if (journal != nullptr) journalKeep(*journal, slot.page.id, at + lo, slot.page.data + at + lo, hi - lo > 4096 ? 4096 - 64 : hi - lo > 64 ? hi - lo - 1 : hi - lo);',
  ),
  fault('exec/store.cuh', 'slot.page.data + from, {{(last + 1 - first) * size}});', '(last - first) * size'),
  statement('exec/undo.cuh', '{{forgetPast(slot);}}\n    rangesNormalise'),
  statement('exec/undo.cuh', 'steps[i]->op->refresh(*steps[i], run);'),
  fault(
    'exec/undo.cuh',
    'u64 i = count; i-- > {{0}};) {\n    const JournalSpan& span = spans[i];\n    PageSlot& slot',
    '1',
  ),
  {
    ...statement('exec/undo.cuh', '{{forgetPast(slot);}}\n    slot.digest'),
    equivalent: 'pasts of a touched page are among the steps of the call, which are told below',
  },
  statement('exec/undo.cuh', 'slot.loads++;'),
  statement('exec/undo.cuh', 'if (steps[i]->past != nullptr) fallBehindWholly(*steps[i]->past);'),
  {
    ...fault('exec/fuse.cuh', '{{a.natural == b.natural}} &&', 'true'),
    equivalent: 'it follows from the op, the inputs and the output, which are equal',
  },
  fault('exec/fuse.cuh', 'dirty->count == 0 && own.madeCount == 1', 'own.madeCount == 1'),
  fault(
    'exec/fuse.cuh',
    'set.data[at].start + set.data[at].count <= start',
    'set.data[at].start + set.data[at].count <= end',
  ),
  fault('exec/fuse.cuh', 'step.out->elements != group.elements', 'false'),
  fault('exec/fuse.cuh', 'memcmp(a.params, b.params, a.paramBytes) == 0', 'true'),
]

const reduce: readonly Fault[] = [
  fault('ops/reduce/reduce_tree.cuh', 'u32(last - first + 1)', '1'),
  statement(
    'ops/reduce/reduce_tree.cuh',
    'treeClimb(r, u32(output), at - output * r.blocks, laneEnd - 1 - output * r.blocks);',
    'treeClimb(r, u32(output), at - output * r.blocks, at - output * r.blocks);',
  ),
  {
    ...fault('ops/reduce/op_reduce.cuh', '{{!r.treeValid}} || r.treeLoads', 'false'),
    equivalent: 'treeUpdate computes a tree that is not valid as a whole',
  },
  statement('ops/reduce/reduce_tree.cuh', 'skip = 0;'),
  fault(
    'ops/reduce/op_reduce.cuh',
    '{{run.full ? nullptr : changesOf(exec, step.inputs[0])}});\n  const',
    'changesOf(exec, step.inputs[0])',
  ),
  fault('ops/reduce/reduce_fold.cuh', 'best == S(0) ? foldRowWide<S, F>(x, count) : best', 'best'),
  fault('ops/reduce/reduce_fold.cuh', 'anyLane(nan)', 'false'),
  fault(
    'ops/reduce/reduce_fold.cuh',
    'l < half && l + half < lanes',
    'l < half && l + half <= lanes - 1 && l + half != 31',
  ),
  fault('ops/reduce/reduce_fold.cuh', 'partial.b = {{first}} + firstEqual', '0'),
  fault(
    'ops/reduce/reduce_columns.cuh',
    'i == 0 || argWins<W>(r.fn, wordAs<W>(best.a), row[c])',
    'argWins<W>(r.fn, wordAs<W>(best.a), row[c])',
  ),
  fault(
    'ops/reduce/reduce_columns.cuh',
    '(start + first * pitch) * dtypeBytes(r.dtype)',
    '(start + (first != 0 ? 1024 : 0) * pitch) * dtypeBytes(r.dtype)',
  ),
]

const order: readonly Fault[] = [
  {
    ...fault(
      'ops/order/op_lanes.cuh',
      'state.resumes && {{from != 0}}) {\n    widenBlock(step.natural, step.out->data + (base + from - 1)',
      'from > 1',
    ),
    equivalent: 'the lane is then read from its start, with the same result',
  },
  fault('ops/order/op_lanes.cuh', '(extreme || dtype != F32)', 'true'),
  statement('ops/order/lanes_state.cuh', 'if (next.from < last.from) last.from = next.from;'),
  statement('ops/order/op_lanes.cuh', 'if (signs) settleZeros<T>(old, data, count);'),
  fault(
    'ops/order/op_lanes.cuh',
    'value != value ? all : descending ? K(~key) : key',
    'descending ? K(~key) : value != value ? all : key',
  ),
  fault(
    'ops/order/op_lanes.cuh',
    'digits[from[0] >> (8 * b) & 255] == count',
    'b + 1 == bytes || digits[from[0] >> (8 * b) & 255] == count',
  ),
  fault('ops/order/op_select.cuh', 'k + 1 < lanes.n ? s.keys[k + 1] : s.keys[k]', 's.keys[k]'),
  fault('ops/order/op_select.cuh', 'head > prefix && key < *beyond', 'head > prefix'),
  fault('ops/order/op_select.cuh', 'if ({{k + 1 < left}}) next', 'k < left'),
  fault('ops/order/op_select.cuh', 'block[i] <= heap[0].key', 'block[i] < heap[0].key'),
]

const places: readonly Fault[] = [
  fault('ops/places/op_index.cuh', 'if ({{count > kGatherBoxes}}) {', 'count > kGatherBoxes + 1'),
  {
    ...fault('ops/places/op_index.cuh', 'rangesElements(changed) * 4 >= elements', 'false'),
    equivalent: 'each element is followed, which takes longer and finds the elements that may change',
  },
  fault('ops/places/op_index.cuh', '{{input == 1}} || g.valueStride[2] == 0 ||', 'false'),
  fault('ops/places/op_index.cuh', 'g.order[middle].start < index', 'g.order[middle].start <= index'),
  fault('ops/places/op_index.cuh', 'u64 t = 1; {{t < tasks}}', 't + 1 < tasks'),
  fault(
    'ops/places/op_index.cuh',
    'end < job.x->elements ? end : job.x->elements',
    'end < job.x->elements ? end : job.x->elements - 1',
  ),
  fault(
    'ops/places/op_move.cuh',
    'near <= 0 ? 0 : (near + stride - 1) / stride',
    'near <= 0 ? 0 : (near + stride) / stride',
  ),
  fault('ops/places/op_move.cuh', 'far < 0 ? 0 : far / stride + 1', 'far <= 0 ? 0 : far / stride + 1'),
  fault('ops/places/op_move.cuh', 'within < u64(state.part[p].first) * state.inner', 'false'),
  fault('ops/boxes.cuh', 'if ({{end % stride != 0}}) part', 'false'),
  fault('ops/boxes.cuh', '{{u32(end - first) + 1}}, *sink.arena', 'u32(end - first)'),
  fault(
    'ops/projection.cuh',
    '!dims[d].kept && {{(headWhole || tailWhole || last - from > 1)}}',
    '(headWhole && tailWhole)',
  ),
  fault('ops/neighbours/op_stencil.cuh', '(i64(kernel) - 1 - centre)', '(i64(kernel) - 2 - centre)'),
  fault(
    'ops/neighbours/op_stencil.cuh',
    'i64(hi) + centre',
    'i64(hi) + (boundary == CONV_WRAP ? 0 : centre)',
  ),
  fault(
    'ops/neighbours/op_stencil.cuh',
    '{{sizes[depth - 1] == size}}) {',
    'sizes[depth - 1] == size && size < 1024',
  ),
  fault('ops/neighbours/op_stencil.cuh', 'if ({{place == n}}) memset', 'place + 1 == n'),
]

const products: readonly Fault[] = [
  fault(
    'ops/products/op_matmul.cuh',
    'task.rowCount > kMatUnpackedRows || task.columnCount % kMatPanel != 0',
    'task.rowCount > kMatUnpackedRows',
  ),
  fault(
    'ops/products/op_matmul.cuh',
    'm.depth - k0 < kMatDepth ? m.depth - k0 : kMatDepth',
    'm.depth - k0 < kMatDepth ? m.depth - k0 : kMatDepth - 1',
  ),
  statement('ops/products/matmul_state.cuh', 'rangesPush(set, 0, u32(end - columns), arena);'),
  fault('ops/products/op_distance.cuh', 'whole == depth', 'whole + 1 >= depth'),
  fault('ops/products/op_distance.cuh', 'changed.data[i].count - 1) / d.depth + {{1}};', '0'),
  {
    ...fault('ops/elementwise/op_map.cuh', 'if ({{ranges > kMapRangesMax}}) {', 'false'),
    equivalent: 'each copy is a range of its own, of the same elements',
  },
  fault('ops/elementwise/op_map.cuh', '{{last - first + 1}}, arena', 'last - first'),
  fault(
    'ops/elementwise/op_map.cuh',
    'if ({{hi % below != 0}}) pushCopies(dirty, d + 1, 0, hi % below, base',
    'false',
  ),
  fault('ops/elementwise/op_map.cuh', '!repeat && count <= room', '!repeat && count <= room + 1'),
  fault(
    'ops/common.cuh',
    'dtypeBytes(withSign) > dtypeBytes(without)',
    'dtypeBytes(withSign) >= dtypeBytes(without)',
  ),
]

const host: readonly Fault[] = [
  fault('abi/threads_host.cuh', 'if ({{task >= job.tasks}}) return;', 'task + 1 >= job.tasks'),
  fault('abi/threads_host.cuh', '{{pool.inside != 0}}) pthread_cond_wait', 'false'),
  statement('abi/threads_host.cuh', 'if (pool.fn == nullptr) continue;'),
  fault(
    'abi/kept.cuh',
    'at += sizeof header + {{((u64(header.bytes) + 7) & ~7ull)}}',
    '((u64(header.bytes) + 15) & ~7ull)',
  ),
  statement('abi/epoch.cuh', 'fillAll(ctx);'),
  fault('abi/epoch.cuh', 'order.data[order.count - 1].start > id', 'false'),
]

/** Signed zeros, infinities and NaN. */
const numbers: readonly Fault[] = [
  fault('ops/reduce/reduce_fold.cuh', 'eitherOf(unordered(a, b), unordered(c, d))', 'unordered(a, b)'),
  fault(
    'ops/reduce/reduce_fold.cuh',
    'eitherOf(nan, eitherOf(unordered(e, f), unordered(g, h)))',
    'eitherOf(nan, unordered(e, f))',
  ),
  fault(
    'ops/reduce/reduce_fold.cuh',
    'i = step;\n  for (; {{i + step <= count}}; i += step)',
    'i + step < count + step',
  ),
  fault('core/cast.cuh', 'x >= above ? Bounds<T>::high : T(0)', 'Bounds<T>::high'),
  fault(
    'core/cast.cuh',
    'x < below ? Bounds<T>::low : T(x)',
    'x < 0 ? T(i64(x) - (f64(i64(x)) != x)) : T(x)',
  ),
  fault('core/cast.cuh', 'target[i] = {{source[i] != 0}}', 'source[i] > 0'),
  fault('core/cast.cuh', 'nans |= {{values[i] != values[i] ? 1u : 0u}};', '0u'),
  fault('portable/scalar.cuh', 'f32Of(bitsOf(a < b ? a : b) | bitsOf(b < a ? b : a))', 'a < b ? a : b'),
  fault('portable/scalar.cuh', 'f64Of(bitsOf(a < b ? a : b) | bitsOf(b < a ? b : a))', 'b < a ? b : a'),
  fault(
    'portable/scalar.cuh',
    'const f32 r = f32Of(bitsOf(a > b ? a : b) & bitsOf(b > a ? b : a));\n  return {{a != a || b != b ? a + b : r}}',
    'a != a ? a : r',
  ),
  fault(
    'portable/scalar.cuh',
    'const f64 r = {{f64Of(bitsOf(a > b ? a : b) & bitsOf(b > a ? b : a))}}',
    'a > b ? a : b',
  ),
  fault('portable/scalar.cuh', 'Lane<T>::isFloat && a != a ? a : sign', 'sign'),
  fault('portable/scalar.cuh', 'q == 0 ? T(mCopySign(0.0, f64(a / b))) : nearest', 'nearest'),
  fault('portable/scalar.cuh', 'r == 0 ? T(mCopySign(0.0, f64(b))) : moved', 'moved'),
  fault('ops/order/select_state.cuh', 'wordAs<f64>(word) + 0.0', 'wordAs<f64>(word)'),
  statement('ops/order/select_state.cuh', 'if (value != value) return 0;'),
  fault('ops/order/select_state.cuh', 't == 0 || low == high', 't == 0'),
  fault(
    'ops/order/op_select.cuh',
    'at.nan ? wordAs<f64>(0x7ff8000000000000ull) : interpolate(at.low, at.high, t, state.isVersion1)',
    'interpolate(at.low, at.high, t, state.isVersion1)',
  ),
  fault('ops/order/op_lanes.cuh', 'signs |= {{old == top}}', 'false'),
  fault(
    'ops/order/op_lanes.cuh',
    'at + i == 0 ? values[0] : F::go(running, values[i])',
    'F::go(running, values[i])',
  ),
]

/**
 * Faults that show only in one of the two builds of a test that compiles its own program. They are not built
 * into the library, and are made for the tests of docs/guide/GUARANTEES.md.
 */
export const FAULTS_OF_ONE_BUILD: readonly Fault[] = [
  fault('portable/math.cuh', '+ al * bh) + {{al * bl}};', '0.0'),
]

/** Number N of this list, from 1 on, is the fault that MMSB_FAULT=N chooses. */
export const FAULTS: readonly Fault[] = [
  ...core,
  ...exec,
  ...reduce,
  ...order,
  ...places,
  ...products,
  ...host,
  ...numbers,
]
