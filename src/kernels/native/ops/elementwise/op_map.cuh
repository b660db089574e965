// map: an expression of its inputs, evaluated element by element, with NumPy broadcasting to the output's
// shape.
//
// Invariants: each output element depends on one element of each input, so any run of elements can be
// computed alone, with the same bits. dirtyMap returns at least the changed elements: exactly these if they
// are few ranges, else one range that covers them.
#pragma once
#include "core/op.cuh"
#include "expr/vm.cuh"

namespace mmsb {
namespace MMSB_NS {

// Least size of the output for which machine code is worth compiling.
#ifndef MMSB_JIT_ELEMENTS
#define MMSB_JIT_ELEMENTS 4096
#endif

// ---- shapes -----------------------------------------------------------------------------------------------

// Computes the strides of an input over the output's dimensions, aligned at the last. Returns false if it
// does not broadcast.
static bool broadcastStrides(const Page& input, const Page& out, u32* stride) {
  if (input.rank > out.rank) return false;
  const u32 lead = out.rank - input.rank;
  u64 step = 1;
  for (u32 d = out.rank; d-- > 0;) {
    const u32 size = d >= lead ? input.shape[d - lead] : 1;
    if (size != out.shape[d] && size != 1) return false;
    stride[d] = size == 1 ? 0 : u32(step);
    step *= size;
  }
  return true;
}

static bool canJoin(const MapState& state, u32 outer, u32 inner) {
  for (u32 i = 0; i < state.inputCount; i++) {
    const MapInput& input = state.inputs[i];
    if (input.mode == MAP_STRIDED && input.stride[outer] != u64(input.stride[inner]) * state.size[inner]) return false;
  }
  return true;
}

// Drops dimensions of size 1 and joins neighbouring dimensions that every strided input walks with one
// stride.
static void collapse(MapState& state) {
  u32 rank = 0;
  for (u32 d = 0; d < state.rank; d++) {
    if (state.size[d] == 1) continue;
    if (rank != d) {
      state.size[rank] = state.size[d];
      for (u32 i = 0; i < state.inputCount; i++) state.inputs[i].stride[rank] = state.inputs[i].stride[d];
    }
    if (rank > 0 && canJoin(state, rank - 1, rank)) {
      state.size[rank - 1] *= state.size[rank];
      for (u32 i = 0; i < state.inputCount; i++) state.inputs[i].stride[rank - 1] = state.inputs[i].stride[rank];
      continue;
    }
    rank++;
  }
  state.rank = rank;
  state.inner[rank] = 1;
  for (u32 d = rank; d-- > 0;) state.inner[d] = state.inner[d + 1] * state.size[d];
}

static void releaseMap(Step& step) {
  MapState* state = static_cast<MapState*>(step.state);
  if (state == nullptr) return;
  freeProgram(state->program);
  free(state);
  step.state = nullptr;
}

static int32_t bindInputs(Step& step, MapState& state, u8* uniform) {
  const Page& out = *step.out;
  state.rank = out.rank;
  memcpy(state.size, out.shape, sizeof state.size);
  state.inputCount = step.inputCount;
  for (u32 i = 0; i < step.inputCount; i++) {
    const Page& page = *step.inputs[i];
    MapInput& input = state.inputs[i];
    if (!broadcastStrides(page, out, input.stride)) {
      return fail(MMSB_ERR_ARGUMENT, "map: input %u does not broadcast to the output's shape", i);
    }
    input.elementBytes = dtypeBytes(page.dtype);
    input.mode = page.elements == out.elements ? MAP_SAME : page.elements == 1 ? MAP_SCALAR : MAP_STRIDED;
    uniform[i] = page.elements == 1;
    if (uniform[i] != 0) input.mode = MAP_SCALAR;
  }
  return MMSB_OK;
}

static int32_t prepareMap(Step& step) {
  if (step.inputCount > kIrMaxInputs) return fail(MMSB_ERR_ARGUMENT, "map takes at most %u inputs", kIrMaxInputs);
  MapState* state = static_cast<MapState*>(calloc(1, sizeof(MapState)));
  if (state == nullptr) return fail(MMSB_ERR_MEMORY, "map: out of memory");
  step.state = state;
  u8 uniform[kIrMaxInputs] = {};
  int32_t status = bindInputs(step, *state, uniform);
  if (status == MMSB_OK) {
    status = compileProgram(step.params, step.paramBytes, uniform, step.inputCount, step.out->dtype,
                            step.out->elements >= MMSB_JIT_ELEMENTS, &state->program);
  }
  if (status == MMSB_OK) {
    const Program& p = *state->program;
    for (u32 i = 0; i < step.inputCount && status == MMSB_OK; i++) {
      if (p.inputDtype[i] != step.inputs[i]->dtype) {
        status = fail(MMSB_ERR_ARGUMENT, "map: input %u has dtype %u, the expression expects %u", i,
                      step.inputs[i]->dtype, p.inputDtype[i]);
      }
    }
  }
  if (status != MMSB_OK) {
    releaseMap(step);
    return status;
  }
  const Program& p = *state->program;
  for (u32 i = 0; i < step.inputCount; i++) {
    if (p.inputUsed[i] == 0) state->inputs[i].mode = MAP_UNUSED;
  }
  collapse(*state);
  state->vmBytes = vmScratchBytes(p);
  u32 bytes = state->vmBytes;
  for (u32 i = 0; i < step.inputCount; i++) {
    MapInput& input = state->inputs[i];
    if (input.mode != MAP_STRIDED) continue;
    state->gathers++;
    input.gatherOffset = bytes;
    bytes += (p.blockElements * input.elementBytes + 63) & ~63u;
  }
  step.scratchBytes = bytes;
  step.natural = step.out->dtype;
  step.costNs = p.costNs;
  return MMSB_OK;
}

// ---- dirty elements ---------------------------------------------------------------------------------------

// Approximate limit on the ranges for one input. Above it, one range covers them all.
static const u32 kMapRangesMax = MMSB_SIZE(4096, 6);

struct MapDirty {
  const MapState* state;
  const MapInput* input;
  u32 inputInner[9];  // elements of the input in dimensions d, d+1, ...
  RangeSet* out;
  Arena* arena;
};

// Estimates, by at least half, the number of output ranges for the input's elements [lo, hi) of the block
// below dimension d.
static u64 countRanges(const MapDirty& dirty, u32 d, u32 lo, u32 hi) {
  if (d == dirty.state->rank || (lo == 0 && hi == dirty.inputInner[d])) return 1;
  const u32 below = dirty.inputInner[d + 1];
  if (dirty.input->stride[d] == 0) return dirty.state->size[d] * countRanges(dirty, d + 1, lo, hi);
  const u32 first = lo / below, last = (hi - 1) / below;
  if (first == last) return countRanges(dirty, d + 1, lo - first * below, hi - first * below);
  return 1 + (lo % below != 0 ? countRanges(dirty, d + 1, lo % below, below) : 0) +
         (hi % below != 0 ? countRanges(dirty, d + 1, 0, hi % below) : 0);
}

// The place of the first (or, with `last`, the last) copy of input element e in the output block below
// dimension d.
static u32 placeOf(const MapDirty& dirty, u32 d, u32 e, bool last) {
  u32 place = 0;
  for (; d < dirty.state->rank; d++) {
    const u32 below = dirty.inputInner[d + 1];
    u32 index = last ? dirty.state->size[d] - 1 : 0;
    if (dirty.input->stride[d] != 0) {
      index = e / below;
      e -= index * below;
    }
    place += index * dirty.state->inner[d + 1];
  }
  return place;
}

// Appends the copies of the input's elements [lo, hi) of the block below dimension d. `base` is the start of
// the output block.
static void pushCopies(const MapDirty& dirty, u32 d, u32 lo, u32 hi, u32 base) {
  const MapState& state = *dirty.state;
  if (d == state.rank || (lo == 0 && hi == dirty.inputInner[d])) {
    rangesPush(*dirty.out, base, state.inner[d], *dirty.arena);
    return;
  }
  const u32 below = dirty.inputInner[d + 1], outBelow = state.inner[d + 1];
  if (dirty.input->stride[d] == 0) {
    for (u32 i = 0; i < state.size[d]; i++) pushCopies(dirty, d + 1, lo, hi, base + i * outBelow);
    return;
  }
  const u32 first = lo / below, last = (hi - 1) / below;
  if (first == last) {
    pushCopies(dirty, d + 1, lo - first * below, hi - first * below, base + first * outBelow);
    return;
  }
  const u32 whole = (lo + below - 1) / below, end = hi / below;
  if (lo % below != 0) pushCopies(dirty, d + 1, lo % below, below, base + first * outBelow);
  rangesPush(*dirty.out, base + whole * outBelow, (end - whole) * outBelow, *dirty.arena);
  if (hi % below != 0) pushCopies(dirty, d + 1, 0, hi % below, base + last * outBelow);
}

static void dirtyMap(const Step& step, u32 index, const RangeSet& changed, RangeSet& out, Arena& arena) {
  const MapState& state = *static_cast<const MapState*>(step.state);
  const MapInput& input = state.inputs[index];
  if (input.mode == MAP_UNUSED) return;
  if (input.mode == MAP_SCALAR) return rangesPush(out, 0, step.out->elements, arena);
  if (input.mode == MAP_SAME) {
    for (u32 r = 0; r < changed.count; r++) rangesPush(out, changed.data[r].start, changed.data[r].count, arena);
    return;
  }
  MapDirty dirty = {&state, &input, {}, &out, &arena};
  dirty.inputInner[state.rank] = 1;
  for (u32 d = state.rank; d-- > 0;) {
    dirty.inputInner[d] = dirty.inputInner[d + 1] * (input.stride[d] != 0 ? state.size[d] : 1);
  }
  u64 ranges = 0;
  for (u32 r = 0; r < changed.count && ranges <= kMapRangesMax; r++) {
    const u32 lo = changed.data[r].start;
    ranges += countRanges(dirty, 0, lo, lo + changed.data[r].count);
  }
  if (ranges > kMapRangesMax) {
    const Range& end = changed.data[changed.count - 1];
    // Places increase with the element's number, so all copies lie between these two.
    const u32 first = placeOf(dirty, 0, changed.data[0].start, false);
    const u32 last = placeOf(dirty, 0, end.start + end.count - 1, true);
    rangesPush(out, first, last - first + 1, arena);
    return;
  }
  for (u32 r = 0; r < changed.count; r++) {
    const u32 lo = changed.data[r].start;
    pushCopies(dirty, 0, lo, lo + changed.data[r].count, 0);
  }
}

// ---- computing --------------------------------------------------------------------------------------------

template <class T>
static void fillElements(u8* to, const u8* from, u32 count) {
  T* target = reinterpret_cast<T*>(to);
  const T value = *reinterpret_cast<const T*>(from);
  for (u32 i = 0; i < count; i++) target[i] = value;
}

// Copies `count` elements of a row: one element repeated, or neighbours.
static inline void gatherRow(u8* to, const u8* from, u32 count, u32 elementBytes, bool repeat) {
  if (!repeat) {
    memcpy(to, from, u64(count) * elementBytes);
    return;
  }
  switch (elementBytes) {
    case 1: memset(to, *from, count); break;
    case 2: fillElements<u16>(to, from, count); break;
    case 4: fillElements<u32>(to, from, count); break;
    default: fillElements<u64>(to, from, count);
  }
}

// The index of an output element in the collapsed dimensions, and the place of its input element.
struct MapCursor {
  u32 index[8];
  u64 at;
};

static MapCursor cursorAt(const MapState& state, const MapInput& input, u32 start) {
  MapCursor cursor = {};
  for (u32 d = 0; d < state.rank; d++) {
    cursor.index[d] = start / state.inner[d + 1];
    start -= cursor.index[d] * state.inner[d + 1];
    cursor.at += u64(cursor.index[d]) * input.stride[d];
  }
  return cursor;
}

// Returns the elements of a strided input for the output elements [start, start + count): in place if they
// are neighbours, else copied into `buffer`.
static const u8* gather(const MapState& state, const MapInput& input, const u8* data, u32 start, u32 count,
                        u8* buffer) {
  const u32 last = state.rank - 1, bytes = input.elementBytes;
  MapCursor cursor = cursorAt(state, input, start);
  const bool repeat = input.stride[last] == 0;
  u32 room = state.size[last] - cursor.index[last];
  if (!repeat && count <= room) return data + cursor.at * bytes;
  u8* to = buffer;
  for (;;) {
    const u32 now = count < room ? count : room;
    gatherRow(to, data + cursor.at * bytes, now, bytes, repeat);
    to += u64(now) * bytes;
    count -= now;
    if (count == 0) return buffer;
    // Go to the start of the next row.
    cursor.at -= u64(cursor.index[last]) * input.stride[last];
    cursor.index[last] = 0;
    room = state.size[last];
    for (u32 d = last; d-- > 0;) {
      cursor.at += input.stride[d];
      if (++cursor.index[d] < state.size[d]) break;
      cursor.at -= u64(state.size[d]) * input.stride[d];
      cursor.index[d] = 0;
    }
  }
}

static void computeMap(const Step& step, u32 start, u32 count, void* out, void* scratch) {
  const MapState& state = *static_cast<const MapState*>(step.state);
  const Program& p = *state.program;
  const void* scalars[kIrMaxInputs];
  for (u32 i = 0; i < state.inputCount; i++) scalars[i] = step.inputs[i]->data;
  void** at = vmBegin(p, scratch, scalars);
  u8* memory = static_cast<u8*>(scratch);
  u8* to = static_cast<u8*>(out);
  const u32 outBytes = dtypeBytes(p.outDtype);
  // Machine code needs no registers in memory, so only gathered inputs limit the block.
  const u32 block = p.jit != nullptr && state.gathers == 0 ? count : p.blockElements;
  while (count != 0) {
    const u32 now = count < block ? count : block;
    for (u32 i = 0; i < state.inputCount; i++) {
      const MapInput& input = state.inputs[i];
      u8* data = step.inputs[i]->data;
      if (input.mode == MAP_SAME) {
        at[i] = data + u64(start) * input.elementBytes;
      } else if (input.mode == MAP_STRIDED) {
        at[i] = const_cast<u8*>(gather(state, input, data, start, now, memory + input.gatherOffset));
      }
    }
    vmBlock(p, at, to, now);
    to += u64(now) * outBytes;
    start += now;
    count -= now;
  }
}

static void fetchMap(const Step& step) {
  const u8* program = reinterpret_cast<const u8*>(static_cast<const MapState*>(step.state)->program);
  __builtin_prefetch(program);
  for (u32 line = 192; line < 448; line += 64) __builtin_prefetch(program + line);
}

static const Op kOpMap = {kHeadMap, prepareMap, releaseMap, dirtyMap, computeMap, nullptr, nullptr, true, fetchMap};

}  // namespace MMSB_NS
}  // namespace mmsb
