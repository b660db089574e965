// Helpers for the test driver of the native core: checks, random numbers, contexts, frames, steps. Uses the C
// ABI only.
#pragma once
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <algorithm>
#include <string>
#include <vector>

#include "abi.h"
#include "ops.h"

typedef uint8_t u8;
typedef int8_t i8;
typedef uint16_t u16;
typedef int16_t i16;
typedef uint32_t u32;
typedef int32_t i32;
typedef uint64_t u64;
typedef int64_t i64;
typedef std::vector<u8> Bytes;

enum { BOOL, U8, I8, U16, I16, U32, I32, U64, I64, F32, F64, DTYPES };
static const u32 kSize[DTYPES] = {1, 1, 1, 2, 2, 4, 4, 8, 8, 4, 8};

// ---- checks -----------------------------------------------------------------------------------------------

static u64 checksRun = 0, checksFailed = 0;
static u64 currentSeed = 0;

static void failed(const char* file, int line, const char* what) {
  checksFailed++;
  if (checksFailed <= 20) {
    printf("# %s:%d: %s (seed %llu; last error: %s)\n", file, line, what, (unsigned long long)currentSeed,
           mmsb_last_error());
  }
}
#define CHECK(CONDITION)                                      \
  do {                                                        \
    checksRun++;                                              \
    if (!(CONDITION)) failed(__FILE__, __LINE__, #CONDITION); \
  } while (0)

// ---- random -----------------------------------------------------------------------------------------------

static u64 randomState = 1;
static u64 rnd() {
  u64 z = (randomState += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}
static u32 below(u32 n) { return n == 0 ? 0 : u32(rnd() % n); }
[[maybe_unused]] static void seed(u64 value) {
  currentSeed = value;
  randomState = value * 7919 + 1;
}

// How many fewer cases a slow build tests.
[[maybe_unused]] static u32 testScale() {
  static const u32 scale = getenv("MMSB_TEST_SCALE") == nullptr ? 1 : u32(atoi(getenv("MMSB_TEST_SCALE")));
  return scale;
}
// Rounds of a random test: `all`, or fewer.
[[maybe_unused]] static u32 rounds(u32 all) { return (all + testScale() - 1) / testScale(); }
// Whether case `number` of a list is tested.
[[maybe_unused]] static bool isSampled(u32 number) { return number % testScale() == 0; }

// No NaN or infinities, which would hide what else is wrong in a sum.
static bool plainNumbers = false;

// A random element, often a small number, so that equal values, zeros and NaN occur.
static void randomElement(u32 dtype, u8* to) {
  u64 bits = rnd();
  const u32 kind = below(8);
  if (dtype == BOOL) {
    to[0] = bits & 1;
    return;
  }
  if (dtype == F32 || dtype == F64) {
    double value = double(int(below(21)) - 10);
    if (kind < 2) value = (double(rnd() % 2000001) - 1e6) / 1e3;
    if (kind == 2 && !plainNumbers) value = ldexp(double(rnd() >> 11) - 4503599627370496.0, int(below(80)) - 90);
    if (kind == 3 && !plainNumbers && below(6) == 0) value = below(3) == 0 ? NAN : below(2) ? INFINITY : -INFINITY;
    if (kind == 4 && below(3) == 0) value = -0.0;
    if (dtype == F32) {
      const float narrow = float(value);
      memcpy(to, &narrow, 4);
    } else {
      memcpy(to, &value, 8);
    }
    return;
  }
  if (kind < 6) bits = u64(i64(below(12)) - (dtype == I8 || dtype == I16 || dtype == I32 || dtype == I64 ? 6 : 0));
  memcpy(to, &bits, kSize[dtype]);
}
[[maybe_unused]] static Bytes randomElements(u32 dtype, u32 count) {
  Bytes bytes(u64(count) * kSize[dtype]);
  for (u32 i = 0; i < count; i++) randomElement(dtype, bytes.data() + u64(i) * kSize[dtype]);
  return bytes;
}

// ---- frames -----------------------------------------------------------------------------------------------

static void put(Bytes& out, const void* data, u64 size) {
  const u8* bytes = static_cast<const u8*>(data);
  out.insert(out.end(), bytes, bytes + size);
}
static void put32(Bytes& out, u32 value) { put(out, &value, 4); }
static void put16(Bytes& out, u16 value) { put(out, &value, 2); }
static void pad(Bytes& out) {
  while (out.size() % 8 != 0) out.push_back(0);
}
static void set32(Bytes& out, u64 at, u32 value) { memcpy(out.data() + at, &value, 4); }

// Builds a frame command by command.
struct Frame {
  Bytes bytes;
  u32 commands = 0;
  Frame(const char* key = "", const char* intent = "") {
    put32(bytes, 0x3146534d);
    put32(bytes, 0);
    put16(bytes, 1);
    put16(bytes, 0);
    put32(bytes, 0);
    put32(bytes, 0);
    put16(bytes, u16(strlen(key)));
    put16(bytes, 0);
    put32(bytes, u32(strlen(intent)));
    put32(bytes, 0);
    put(bytes, key, strlen(key));
    pad(bytes);
    put(bytes, intent, strlen(intent));
    pad(bytes);
  }
  void delta(u32 page, u8 kind, u8 merge, u8 dtype, u8 encoding, u32 offset, u32 count, u32 valueCount,
             const Bytes& payload) {
    put16(bytes, 4);
    put16(bytes, 0);
    put32(bytes, u32((32 + payload.size() + 7) & ~7ull));
    put32(bytes, page);
    const u8 kinds[4] = {kind, merge, dtype, encoding};
    put(bytes, kinds, 4);
    put32(bytes, offset);
    put32(bytes, count);
    put32(bytes, valueCount);
    put32(bytes, u32(payload.size()));
    put(bytes, payload.data(), payload.size());
    pad(bytes);
    commands++;
  }
  void dense(u32 page, u8 merge, u8 dtype, u32 offset, u32 count, const void* values) {
    Bytes payload;
    put(payload, values, u64(count) * kSize[dtype]);
    delta(page, 0, merge, dtype, 0, offset, count, count, payload);
  }
  const Bytes& done() {
    set32(bytes, 4, u32(bytes.size()));
    set32(bytes, 12, commands);
    return bytes;
  }
};

// ---- contexts ---------------------------------------------------------------------------------------------

struct Change {
  u32 page;
  u8 digest[16];
  std::vector<std::pair<u32, u32>> ranges;
};
struct StepRun {
  u32 step, flags;
  u64 elements;
};
struct Result {
  int status = 0;
  u8 state[16] = {};
  u64 ns = 0, elements = 0, moved = 0;
  std::vector<Change> changes;
  std::vector<StepRun> steps;
  Bytes raw;
  const Change* of(u32 page) const {
    for (const Change& change : changes) {
      if (change.page == page) return &change;
    }
    return nullptr;
  }
};

static Result parseResult(const Bytes& raw) {
  Result result;
  result.raw = raw;
  const u8* at = raw.data();
  u32 head[4];
  memcpy(head, at, 16);
  memcpy(result.state, at + 16, 16);
  memcpy(&result.ns, at + 32, 8);
  memcpy(&result.elements, at + 40, 8);
  memcpy(&result.moved, at + 48, 8);
  CHECK(head[0] == raw.size());
  at += 64;
  for (u32 i = 0; i < head[1]; i++) {
    Change change;
    u32 count;
    memcpy(&change.page, at, 4);
    memcpy(&count, at + 4, 4);
    memcpy(change.digest, at + 8, 16);
    at += 24;
    for (u32 r = 0; r < count; r++, at += 8) {
      u32 range[2];
      memcpy(range, at, 8);
      change.ranges.push_back({range[0], range[1]});
    }
    result.changes.push_back(change);
  }
  for (u32 i = 0; i < head[2]; i++, at += 16) {
    StepRun run;
    memcpy(&run.step, at, 4);
    memcpy(&run.flags, at + 4, 4);
    memcpy(&run.elements, at + 8, 8);
    result.steps.push_back(run);
  }
  CHECK(at == raw.data() + raw.size());
  return result;
}

static u32 testBackend = MMSB_BACKEND_CPU;

struct Context {
  mmsb_ctx* ctx = nullptr;
  explicit Context(u32 threads = 1, u64 quota = 0, int backend = -1) {
    mmsb_options options = {backend < 0 ? testBackend : u32(backend), threads, quota};
    CHECK(mmsb_open(&options, &ctx) == MMSB_OK);
  }
  ~Context() { mmsb_close(ctx); }
  Context(const Context&) = delete;

  int tryCreate(u32 id, u32 dtype, std::vector<u32> shape, u64 fill = 0, u32 location = 0) {
    mmsb_page_desc desc = {};
    desc.id = id;
    desc.dtype = u8(dtype);
    desc.rank = u8(shape.size());
    desc.location = u8(location);
    for (size_t i = 0; i < shape.size(); i++) desc.shape[i] = shape[i];
    desc.fill = fill;
    return mmsb_pages_create(ctx, &desc, 1);
  }
  void create(u32 id, u32 dtype, std::vector<u32> shape, u64 fill = 0) {
    CHECK(tryCreate(id, dtype, shape, fill) == MMSB_OK);
  }
  int tryStep(u32 op, u32 out, std::vector<u32> inputs, const Bytes& params, u32* step, u32 version = 1,
              u32 flags = 0) {
    Bytes desc;
    put32(desc, op);
    put32(desc, version);
    put32(desc, out);
    put32(desc, u32(inputs.size()));
    put32(desc, u32(params.size()));
    put32(desc, flags);
    for (u32 input : inputs) put32(desc, input);
    pad(desc);
    put(desc, params.data(), params.size());
    return mmsb_step_create(ctx, desc.data(), desc.size(), step);
  }
  u32 step(u32 op, u32 out, std::vector<u32> inputs, const Bytes& params = {}, u32 version = 1, u32 flags = 0) {
    u32 number = 0;
    CHECK(tryStep(op, out, inputs, params, &number, version, flags) == MMSB_OK);
    return number;
  }
  Result execute(std::vector<u32> steps, const Bytes& frames) {
    Bytes out(1 << 16);
    u64 length = 0;
    const int status = mmsb_execute(ctx, steps.data(), u32(steps.size()), frames.data(), frames.size(), out.data(),
                                    out.size(), &length);
    Result result;
    result.status = status;
    if (status != MMSB_OK) {
      u32 words[4];
      memcpy(words, out.data(), 16);
      CHECK(words[0] == 64 && words[3] == (0x80000000u | u32(status)));
      return result;
    }
    out.resize(length);
    if (length > 1 << 16) CHECK(mmsb_result_copy(ctx, out.data(), out.size()) == MMSB_OK);
    return parseResult(out);
  }
  Bytes read(u32 page, u64 size) {
    Bytes bytes(size);
    CHECK(mmsb_page_read(ctx, page, 0, size, bytes.data()) == MMSB_OK);
    return bytes;
  }
  std::string digest(u32 page) {
    u8 bytes[16];
    CHECK(mmsb_page_digest(ctx, page, bytes) == MMSB_OK);
    return std::string(reinterpret_cast<char*>(bytes), 16);
  }
  std::string state() {
    u8 bytes[16];
    CHECK(mmsb_state_digest(ctx, bytes) == MMSB_OK);
    return std::string(reinterpret_cast<char*>(bytes), 16);
  }
  // Sets the whole page by one dense delta; runs no steps.
  void write(u32 page, u32 dtype, const Bytes& values) {
    Frame frame;
    frame.dense(page, 0, u8(dtype), 0, u32(values.size() / kSize[dtype]), values.data());
    CHECK(execute({}, frame.done()).status == MMSB_OK);
  }
};

static Bytes words(std::vector<u32> values) {
  Bytes bytes;
  for (u32 value : values) put32(bytes, value);
  return bytes;
}

static u64 nowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return u64(now.tv_sec) * 1000000000ull + u64(now.tv_nsec);
}

struct Canceller {
  Context* context;
  u64 afterNs;
};

[[maybe_unused]] static void* cancelLater(void* argument) {
  const Canceller& job = *static_cast<Canceller*>(argument);
  const u64 untilNs = nowNs() + job.afterNs;
  while (nowNs() < untilNs) {
  }
  mmsb_cancel(job.context->ctx, 1);
  return nullptr;
}

// ---- expressions ------------------------------------------------------------------------------------------

// An IR blob (docs/internals/FORMAT.md): instructions of {op, dtype, a, b, c, imm}.
struct Ir {
  Bytes code;
  u32 count = 0;
  std::vector<u8> inputs;
  u16 add(u8 op, u8 dtype, u16 a = 0, u16 b = 0, u16 c = 0, u64 imm = 0) {
    const u8 head[2] = {op, dtype};
    put(code, head, 2);
    put16(code, a);
    put16(code, b);
    put16(code, c);
    put(code, &imm, 8);
    return u16(count++);
  }
  u16 input(u8 dtype) {
    inputs.push_back(dtype);
    return add(0, dtype, 0, 0, 0, inputs.size() - 1);
  }
  u16 constant(double value, u8 dtype) {
    u64 bits = 0;
    const float narrow = float(value);
    if (dtype == F32) memcpy(&bits, &narrow, 4);
    else memcpy(&bits, &value, 8);
    return add(1, dtype, 0, 0, 0, bits);
  }
  Bytes blob(u16 result) const {
    Bytes bytes;
    put32(bytes, 0x3152494d);
    put16(bytes, 1);
    put16(bytes, u16(inputs.size()));
    put32(bytes, count);
    put32(bytes, result);
    put(bytes, inputs.data(), inputs.size());
    pad(bytes);
    put(bytes, code.data(), code.size());
    return bytes;
  }
};
