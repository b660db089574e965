// Random expressions, shapes and pages, and the comparison of map's VM with the plain evaluator, for vm.cpp
// and rtc.cpp.
#pragma once
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include <initializer_list>
#include <vector>

// Compile machine code for every program that allows it, for any size.
#define MMSB_JIT_ELEMENTS 1
#include "ops/elementwise/op_map.cuh"

using namespace mmsb;
using namespace mmsb::MMSB_NS;

static char lastError[256];
int32_t mmsb::fail(int32_t status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(lastError, sizeof lastError, format, arguments);
  va_end(arguments);
  return status;
}

static int failures = 0;
#define REPORT(...)                                   \
  do {                                                \
    if (failures++ < 20) printf("FAIL " __VA_ARGS__); \
  } while (0)

static u64 seed = 1;
static u64 draw() {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return seed * 0x2545f4914f6cdd1dull;
}
static u32 below(u32 n) { return u32((draw() >> 32) * n >> 32); }
static void start(u64 number) {
  seed = (number + 1) * 0x9e3779b97f4a7c15ull;
  for (int i = 0; i < 4; i++) draw();
}

// ---- random values, pages and programs --------------------------------------------------------------------

// Bits of an element: often small, often an edge case, sometimes random.
static u64 randomElement(u32 dtype) {
  const u64 raw = draw();
  const u32 kind = below(8);
  const u64 mask = dtypeBytes(dtype) == 8 ? ~0ull : (1ull << (8 * dtypeBytes(dtype))) - 1;
  if (dtype == BOOL) return raw & 1;
  if (dtype == F32 || dtype == F64) {
    const f64 edges[] = {0.0,           -0.0,   1,        -1,        0.5,     2,
                         1e-40,         1e30,   3.5,      2.5,       1e-310,  4294967296.0,
                         -2147483648.5, 9.3e18, MMSB_INF, -MMSB_INF, MMSB_NAN};
    f64 x = f64(i64(raw % 2001) - 1000) / 64;
    if (kind == 0) x = edges[below(17)];
    if (kind == 1) return dtype == F32 ? raw & mask : raw;
    return dtype == F32 ? bitsOf(f32(x)) : bitsOf(x);
  }
  if (kind == 0) return raw & mask;
  if (kind == 1) return (1ull << (8 * dtypeBytes(dtype) - 1)) - below(2);  // the ends of the signed range
  if (kind == 2) return mask;
  return u64(i64(raw % 21) - 10) & mask;
}

struct Buffer {
  Page page;
  std::vector<u64> memory;
};
static void makePage(Buffer& buffer, u32 dtype, u32 rank, const u32* shape) {
  Page& page = buffer.page;
  memset(&page, 0, sizeof page);
  page.dtype = u8(dtype);
  page.rank = u8(rank);
  page.elements = 1;
  for (u32 d = 0; d < 8; d++) page.shape[d] = d < rank ? shape[d] : 1;
  for (u32 d = 0; d < rank; d++) page.elements *= shape[d];
  page.bytes = u64(page.elements) * dtypeBytes(dtype);
  buffer.memory.assign((page.bytes + 63) / 64 * 8 + 16, 0);
  page.data = reinterpret_cast<u8*>((reinterpret_cast<uintptr_t>(buffer.memory.data()) + 63) & ~uintptr_t(63));
}
static void setElement(Page& page, u32 i, u64 bits) {
  memcpy(page.data + u64(i) * dtypeBytes(page.dtype), &bits, dtypeBytes(page.dtype));
}

struct Blob {
  std::vector<u8> inputs;
  std::vector<IrInst> code;
  std::vector<u64> bytes;  // aligned
  u32 size;
};
static void encode(Blob& blob) {
  const u32 table = (u32(blob.inputs.size()) + 7) & ~7u;
  blob.size = 16 + table + 16 * u32(blob.code.size());
  blob.bytes.assign(blob.size / 8 + 1, 0);
  u8* to = reinterpret_cast<u8*>(blob.bytes.data());
  const u32 head[4] = {kIrMagic, 1u | u32(blob.inputs.size()) << 16, u32(blob.code.size()), u32(blob.code.size()) - 1};
  memcpy(to, head, 16);
  if (!blob.inputs.empty()) memcpy(to + 16, blob.inputs.data(), blob.inputs.size());
  memcpy(to + 16 + table, blob.code.data(), 16 * blob.code.size());
}

static const u8 kCodes[] = {
#define X(CODE, ID, NAME, ARITY, CLASSES, BOOLEAN) CODE,
    MMSB_IR_OPS(X)
#undef X
};

// A value of the dtype: an earlier one, a cast of one, a constant.
static u16 valueOf(Blob& blob, std::vector<u8>& types, u8 dtype) {
  for (u32 tries = 0; tries < 6; tries++) {
    const u32 i = below(u32(types.size()));
    if (types[i] == dtype) return u16(i);
  }
  if (below(3) == 0) blob.code.push_back(IrInst{IR_CONST, dtype, 0, 0, 0, randomElement(dtype)});
  else blob.code.push_back(IrInst{IR_CAST, dtype, u16(below(u32(types.size()))), 0, 0, 0});
  types.push_back(dtype);
  return u16(types.size() - 1);
}

// A program of one float dtype whose operations can become machine code.
static void simpleBlob(Blob& blob, u32 inputs, u32 instructions) {
  static const u8 ops[] = {IR_ADD,   IR_SUB,  IR_MUL,   IR_DIV,   IR_MIN, IR_MAX, IR_NEG,    IR_ABS,  IR_SQRT,
                           IR_FLOOR, IR_CEIL, IR_ROUND, IR_TRUNC, IR_FMA, IR_EQ,  IR_NE,     IR_LT,   IR_LE,
                           IR_GT,    IR_GE,   IR_ISNAN, IR_AND,   IR_OR,  IR_NOT, IR_SELECT, IR_CONST};
  const u8 dtype = u8(F32 + below(2));
  blob.inputs.assign(inputs, dtype);
  blob.code.clear();
  std::vector<u16> floats, bools;
  for (u32 i = 0; i < inputs; i++) {
    floats.push_back(u16(blob.code.size()));
    blob.code.push_back(IrInst{IR_INPUT, dtype, 0, 0, 0, i});
  }
  for (u32 k = 0; k < instructions; k++) {
    const u8 op = ops[below(u32(sizeof ops))];
    const IrFacts facts = irFacts(op);
    const bool onBools = op == IR_AND || op == IR_OR || op == IR_NOT;
    if ((onBools || op == IR_SELECT) && bools.empty()) continue;
    // Mostly the newest values, so that chains grow.
    const auto pick = [](const std::vector<u16>& from) {
      return from[from.size() - 1 - below(u32(from.size() < 4 ? from.size() : 4))];
    };
    const std::vector<u16>& from = onBools ? bools : floats;
    IrInst inst = {op, u8(onBools ? u8(BOOL) : dtype), 0, 0, 0, 0};
    if (op == IR_CONST) inst.imm = randomElement(dtype);
    if (facts.arity > 0) inst.a = op == IR_SELECT ? pick(bools) : pick(from);
    if (facts.arity > 1) inst.b = pick(from);
    if (facts.arity > 2) inst.c = pick(from);
    (facts.boolean ? bools : floats).push_back(u16(blob.code.size()));
    blob.code.push_back(inst);
  }
  encode(blob);
  const u32 result = floats.back();
  memcpy(reinterpret_cast<u8*>(blob.bytes.data()) + 12, &result, 4);
}

static void randomBlob(Blob& blob, u32 inputs, u32 instructions) {
  blob.inputs.clear();
  blob.code.clear();
  std::vector<u8> types;
  const bool fewTypes = below(2) == 0;
  const u8 base = below(3) == 0 ? u8(F32 + below(2)) : u8(below(DTYPE_COUNT));
  for (u32 i = 0; i < inputs; i++) {
    const u8 dtype = fewTypes && below(4) != 0 ? base : u8(below(DTYPE_COUNT));
    blob.inputs.push_back(dtype);
    blob.code.push_back(IrInst{IR_INPUT, dtype, 0, 0, 0, i});
    types.push_back(dtype);
  }
  if (inputs == 0) {
    blob.code.push_back(IrInst{IR_CONST, base, 0, 0, 0, randomElement(base)});
    types.push_back(base);
  }
  for (u32 k = 0; k < instructions; k++) {
    const u8 op = kCodes[2 + below(u32(sizeof kCodes) - 2)];
    const IrFacts facts = irFacts(op);
    const u8 dtype = fewTypes && below(3) != 0 ? base : u8(below(DTYPE_COUNT));
    const u32 kind = dtype == BOOL ? 1 : isFloatDtype(dtype) ? 4 : 2;
    if ((facts.classes & kind) == 0) continue;
    IrInst inst = {op, dtype, 0, 0, 0, 0};
    if (op == IR_CAST) inst.a = u16(below(u32(types.size())));
    else inst.a = valueOf(blob, types, op == IR_SELECT ? u8(BOOL) : dtype);
    if (facts.arity > 1) inst.b = valueOf(blob, types, dtype);
    if (facts.arity > 2) inst.c = valueOf(blob, types, dtype);
    blob.code.push_back(inst);
    types.push_back(facts.boolean ? u8(BOOL) : dtype);
  }
  encode(blob);
}

// ---- one random map ---------------------------------------------------------------------------------------

struct Case {
  Blob blob;
  Buffer out;
  std::vector<Buffer> inputs;
  std::vector<Page*> pages;
  Step step;
};

static void randomShapes(Case& c, u8 dtype) {
  static const u32 lengths[] = {1, 2, 3, 7, 31, 32, 33, 64, 100, 1023, 1024, 1025, 2500};
  const u32 rank = below(5);
  u32 shape[8];
  u64 elements = 1;
  for (u32 d = 0; d < rank; d++) {
    shape[d] = lengths[below(rank > 2 ? 6 : 13)];
    if (elements * shape[d] > 20000) shape[d] = 2;
    elements *= shape[d];
  }
  makePage(c.out, dtype, rank, shape);
  c.inputs.resize(c.blob.inputs.size());
  c.pages.clear();
  for (u32 i = 0; i < c.inputs.size(); i++) {
    const u32 drop = below(3) == 0 ? below(rank + 1) : 0;
    u32 own[8];
    const u32 style = below(4);
    for (u32 d = drop; d < rank; d++) own[d - drop] = style == 0 || (style == 1 && below(2) == 0) ? 1 : shape[d];
    makePage(c.inputs[i], c.blob.inputs[i], rank - drop, own);
    Page& page = c.inputs[i].page;
    for (u32 e = 0; e < page.elements; e++) setElement(page, e, randomElement(page.dtype));
    c.pages.push_back(&page);
  }
  memset(&c.step, 0, sizeof c.step);
  c.step.op = &kOpMap;
  c.step.out = &c.out.page;
  c.step.inputs = c.pages.data();
  c.step.inputCount = u32(c.pages.size());
  c.step.params = reinterpret_cast<const u8*>(c.blob.bytes.data());
  c.step.paramBytes = c.blob.size;
}

// The element of an input for element i of the output, computed in the simplest way.
static u32 sourceElement(const Page& out, const Page& input, u32 i) {
  u32 element = 0, step = 1;
  for (u32 d = out.rank; d-- > 0;) {
    const u32 index = i % out.shape[d];
    i /= out.shape[d];
    const i32 own = i32(d) - i32(out.rank) + i32(input.rank);
    if (own < 0) continue;
    if (input.shape[own] != 1) element += index * step;
    step *= input.shape[own];
  }
  return element;
}

static u64 elementBits(const void* data, u32 dtype, u32 i) {
  u64 bits = 0;
  memcpy(&bits, static_cast<const u8*>(data) + u64(i) * dtypeBytes(dtype), dtypeBytes(dtype));
  if (dtype == F32) return bitsOf(canonical(f32Of(u32(bits))));
  if (dtype == F64) return bitsOf(canonical(f64Of(bits)));
  return bits;
}

static void computeRun(const Case& c, u32 at, u32 count, u8* to, u8* scratch) {
  const u32 bytes = dtypeBytes(c.out.page.dtype);
  while (count != 0) {
    const u32 now = count < kBlockElements ? count : kBlockElements;
    alignas(64) static u8 block[kBlockElements * 8 + 64];
    memset(block + u64(now) * bytes, 0x5a, 64);
    computeMap(c.step, at, now, block, scratch);
    for (u32 k = 0; k < 64; k++) {
      if (block[u64(now) * bytes + k] != 0x5a) REPORT("wrote behind the block\n");
    }
    memcpy(to, block, u64(now) * bytes);
    to += u64(now) * bytes;
    at += now;
    count -= now;
  }
}

static void checkDirty(const Case& c) {
  if (c.pages.empty()) return;
  const u32 input = below(u32(c.pages.size()));
  const Page& page = *c.pages[input];
  const Page& out = c.out.page;
  if (page.elements == 0 || out.elements == 0) return;
  Arena arena = {};
  RangeSet changed = {}, dirty = {};
  std::vector<u8> marked(page.elements, 0), covered(out.elements, 0);
  for (u32 at = below(page.elements); at < page.elements;) {
    const u32 count = 1 + below(page.elements - at < 50 ? page.elements - at : 50);
    rangesPush(changed, at, count, arena);
    for (u32 k = 0; k < count; k++) marked[at + k] = 1;
    at += count + 1 + below(page.elements);
  }
  dirtyMap(c.step, input, changed, dirty, arena);
  u64 ranges = dirty.count;
  for (u32 r = 0; r < dirty.count; r++) {
    const Range range = dirty.data[r];
    if (u64(range.start) + range.count > out.elements) REPORT("dirty range past the end\n");
    else memset(covered.data() + range.start, 1, range.count);
  }
  const bool used = static_cast<const MapState*>(c.step.state)->program->inputUsed[input] != 0;
  u32 missing = 0, extra = 0;
  for (u32 i = 0; i < out.elements; i++) {
    const bool wanted = used && marked[sourceElement(out, page, i)] != 0;
    missing += wanted && covered[i] == 0;
    extra += !wanted && covered[i] != 0;
  }
  if (missing != 0) REPORT("%u dirty elements missing\n", missing);
  if (extra != 0 && ranges > 1) REPORT("%u elements dirty without need\n", extra);
  for (ArenaBlock* block = arena.first; block != nullptr;) {
    ArenaBlock* next = block->next;
    free(block);
    block = next;
  }
}

static u32 compiled = 0;  // number of programs compiled to machine code

static u64 checkCase(Case& c, u64 hash) {
  const u32 status = u32(prepareMap(c.step));
  if (status != MMSB_OK) {
    REPORT("refused: %s\n", lastError);
    return hash;
  }
  const Page& out = c.out.page;
  Program& p = *static_cast<const MapState*>(c.step.state)->program;
  const u32 bytes = dtypeBytes(out.dtype);
  std::vector<u8> whole(out.bytes + 1), pieces(out.bytes + 1), loops(out.bytes + 1);
  u8* scratch = static_cast<u8*>(aligned_alloc(64, (c.step.scratchBytes + 63) & ~63u));
  computeRun(c, 0, out.elements, whole.data(), scratch);
  const JitFunction jit = p.jit;
  compiled += jit != nullptr;
  p.jit = nullptr;
  computeRun(c, 0, out.elements, loops.data(), scratch);
  p.jit = jit;
  for (u32 at = 0; at < out.elements;) {
    const u32 left = out.elements - at;
    u32 count = 1 + below(below(2) == 0 ? 5 : 3000);
    if (count > left) count = left;
    computeRun(c, at, count, pieces.data() + u64(at) * bytes, scratch);
    at += count;
  }
  std::vector<u64> registers(p.evalRegisters);
  for (u32 i = 0; i < out.elements; i++) {
    const auto load = [&](u32 input, u32 dtype) {
      return loadLane(dtype, c.pages[input]->data, sourceElement(out, *c.pages[input], i));
    };
    u64 lane = evaluate(p.eval, p.evalCount, p.evalResult, registers.data(), load);
    u64 expected = 0;
    storeLane(out.dtype, &expected, 0, lane);
    const u64 got = elementBits(whole.data(), out.dtype, i);
    if (got != expected) {
      REPORT("element %u of %u: VM %llx, evaluator %llx (dtype %u)\n", i, out.elements,
             static_cast<unsigned long long>(got), static_cast<unsigned long long>(expected), out.dtype);
    }
    if (got != elementBits(pieces.data(), out.dtype, i)) REPORT("element %u differs in pieces\n", i);
    if (got != elementBits(loops.data(), out.dtype, i)) REPORT("element %u: machine code differs from the loops\n", i);
    hash = (hash ^ got) * 1099511628211ull;
  }
  free(scratch);
  checkDirty(c);
  releaseMap(c.step);
  return hash;
}

static void randomPrograms(u64 first, u32 count) {
  u64 hash = 14695981039346656037ull;
  for (u32 k = 0; k < count; k++) {
    start(first + k);
    Case c;
    const bool simple = below(3) == 0;
    if (simple) simpleBlob(c.blob, 1 + below(below(4) == 0 ? 12 : 3), below(10) == 0 ? 60 : 2 + below(20));
    else randomBlob(c.blob, below(8) == 0 ? 0 : 1 + below(4), below(10) == 0 ? 100 : 1 + below(12));
    randomShapes(c, simple ? c.blob.inputs[0] : u8(below(DTYPE_COUNT)));
    const int before = failures;
    hash = checkCase(c, hash);
    if (failures != before) printf("  in program %llu\n", static_cast<unsigned long long>(first + k));
  }
  printf("hash %016llx\ncompiled %u of %u\n", static_cast<unsigned long long>(hash), compiled, count);
}
