// Tests the native core through its C ABI, against the models of core_model.h. `core_test` runs all tests and
// prints TAP; `core_test NAME` runs one. `core_test digests` prints state digests of fixed work, to compare
// builds, thread counts and backends. With MMSB_TEST_BACKEND=cuda everything runs on the device.
#include "core_model.h"

#include <functional>

// ---- pages ------------------------------------------------------------------------------------------------

static void testPages() {
  Context c(1, 1 << 20);
  const std::string empty = c.state();
  c.create(7, F32, {3, 4});
  CHECK(c.state() == modelStateDigest({{7, F32, Bytes(48)}}));
  CHECK(c.tryCreate(7, F32, {1}) == MMSB_ERR_ARGUMENT);
  CHECK(c.tryCreate(0xffffffffu, F32, {1}) == MMSB_ERR_ARGUMENT);
  CHECK(c.tryCreate(8, 11, {1}) == MMSB_ERR_ARGUMENT);
  CHECK(c.tryCreate(8, U8, {65536, 65536}) == MMSB_ERR_ARGUMENT);
  CHECK(c.tryCreate(8, U8, {65536, 65536, 0}) == MMSB_OK);
  if (testBackend == MMSB_BACKEND_CPU) CHECK(c.tryCreate(9, U8, {1}, 0, MMSB_LOC_GPU) == MMSB_ERR_UNSUPPORTED);
  CHECK(c.tryCreate(9, U8, {1 << 20}) == MMSB_ERR_MEMORY);
  c.create(0xfffffffeu, I16, {1000}, 0xfffe);
  Bytes filled(2000);
  for (u32 i = 0; i < 1000; i++) filled[2 * i] = 0xfe, filled[2 * i + 1] = 0xff;
  CHECK(c.read(0xfffffffeu, 2000) == filled);
  CHECK(c.digest(0xfffffffeu) == modelPageDigest(filled));
  // An array of pages is created completely or not at all.
  const std::string before = c.state();
  mmsb_page_desc descs[3] = {};
  for (u32 i = 0; i < 3; i++) descs[i].id = 20 + i, descs[i].dtype = U8, descs[i].rank = 1, descs[i].shape[0] = 100;
  descs[2].id = 7;
  CHECK(mmsb_pages_create(c.ctx, descs, 3) == MMSB_ERR_ARGUMENT);
  CHECK(c.state() == before);
  mmsb_memory memory;
  CHECK(mmsb_memory_stats(c.ctx, &memory) == MMSB_OK && memory.page_count == 3 && memory.page_bytes == 2048);
  const u32 ids[3] = {7, 8, 0xfffffffeu};
  CHECK(mmsb_pages_destroy(c.ctx, ids, 3) == MMSB_OK);
  CHECK(mmsb_pages_destroy(c.ctx, ids, 1) == MMSB_ERR_ARGUMENT);
  CHECK(c.state() == empty);
  u8 byte;
  CHECK(mmsb_page_read(c.ctx, 7, 0, 1, &byte) == MMSB_ERR_ARGUMENT);
}

static void testReuse() {
  Context c;
  for (u32 round = 0; round < 4; round++) {
    for (u32 i = 0; i < 300; i++) {
      const u32 count = 1 + (i * 37 + round * 11) % 20000;
      c.create(i, U8, {count});
      CHECK(c.read(i, count) == Bytes(count));
      const Bytes noise(count, u8(i + 1));
      c.write(i, U8, noise);
      CHECK(c.digest(i) == modelPageDigest(noise));
    }
    for (u32 i = 0; i < 300; i++) CHECK(mmsb_pages_destroy(c.ctx, &i, 1) == MMSB_OK);
  }
}

static void testHugeZeroPage() {
  if (testBackend != MMSB_BACKEND_CPU) return;
  Context c;
  const u64 start = nowNs();
  c.create(1, F64, {1u << 28});
  CHECK(nowNs() - start < 50'000'000);
  const double one = 1;
  Frame frame;
  frame.dense(1, 0, F64, (1u << 28) - 1, 1, &one);
  const Result result = c.execute({}, frame.done());
  CHECK(result.status == MMSB_OK && result.changes.size() == 1);
}

static void testLoadAndGather() {
  for (u32 round = 0; round < rounds(30); round++) {
    seed(round);
    Context c;
    const u32 count = 1 + below(9000);
    c.create(3, I32, {count});
    Bytes model(count * 4);
    for (u32 i = 0; i < 5; i++) {
      const u32 from = below(u32(model.size())), length = below(u32(model.size()) - from) + 1;
      Bytes piece(length);
      for (u8& byte : piece) byte = u8(rnd());
      CHECK(mmsb_page_load(c.ctx, 3, from, length, piece.data()) == MMSB_OK);
      memcpy(model.data() + from, piece.data(), length);
    }
    CHECK(c.read(3, model.size()) == model);
    CHECK(c.digest(3) == modelPageDigest(model));
    CHECK(c.state() == modelStateDigest({{3, I32, model}}));
    const u32 start = below(count);
    const u32 ranges[4] = {0, 1, start, count - start};
    Bytes out((1 + count - start) * 4);
    CHECK(mmsb_page_gather(c.ctx, 3, ranges, 2, out.data(), out.size()) == MMSB_OK);
    CHECK(memcmp(out.data(), model.data(), 4) == 0 &&
          memcmp(out.data() + 4, model.data() + 4 * start, out.size() - 4) == 0);
    CHECK(mmsb_page_gather(c.ctx, 3, ranges, 2, out.data(), out.size() - 1) == MMSB_ERR_ARGUMENT);
    const u32 past[2] = {count, 1};
    CHECK(mmsb_page_gather(c.ctx, 3, past, 1, out.data(), out.size()) == MMSB_ERR_ARGUMENT);
    CHECK(mmsb_page_load(c.ctx, 3, model.size(), 1, out.data()) == MMSB_ERR_ARGUMENT);
  }
}

// The worked example of docs/internals/FORMAT.md.
static void testDigestExample() {
  Context c;
  c.create(1, U32, {3});
  const u32 values[3] = {1, 2, 3};
  Bytes bytes;
  put(bytes, values, 12);
  c.write(1, U32, bytes);
  const auto hex = [](const std::string& digest) {
    std::string text;
    char two[3];
    for (char byte : digest) {
      snprintf(two, 3, "%02x", u8(byte));
      text += two;
    }
    return text;
  };
  CHECK(hex(c.digest(1)) == "0dfbafb0cbcc6ad7c4570cc9d1b12fe8");
  CHECK(hex(c.state()) == "19615f0f1f9d183a9bda98f949047e4e");
}

// ---- deltas -----------------------------------------------------------------------------------------------

// A random delta to a page and its effect on the model.
static void randomDelta(Frame& frame, u32 page, u32 dtype, u32 count, Bytes& model) {
  const u32 merge = below(dtype >= F32 ? 4 : 7), size = kSize[dtype];
  const auto merged = [&](u32 index, const u8* value) {
    mergeElement(dtype, merge, model.data() + u64(index) * size, value);
  };
  const u32 kind = below(3);
  const u32 offset = below(count), length = 1 + below(below(3) == 0 ? count - offset : std::min(count - offset, 20u));
  if (kind == 0) {
    const Bytes values = randomElements(dtype, length);
    for (u32 i = 0; i < length; i++) merged(offset + i, values.data() + u64(i) * size);
    frame.dense(page, u8(merge), u8(dtype), offset, length, values.data());
  } else if (kind == 1) {
    const u32 n = 1 + below(40);
    std::vector<u32> indices;
    for (u32 i = 0; i < n; i++) {
      indices.push_back(below(3) == 0 && i > 0 ? std::min(indices[i - 1] + 1, count - 1) : below(count));
    }
    if (below(2)) std::sort(indices.begin(), indices.end());
    const Bytes values = randomElements(dtype, n);
    for (u32 i = 0; i < n; i++) merged(indices[i], values.data() + u64(i) * size);
    Bytes payload = words(indices);
    pad(payload);
    put(payload, values.data(), values.size());
    frame.delta(page, 1, u8(merge), u8(dtype), 4, 0, n, n, payload);
  } else {
    std::vector<bool> mask(length);
    u32 bits = 0;
    const u32 density = below(3);
    for (u32 i = 0; i < length; i++) {
      bits += (mask[i] = density == 0 ? below(20) == 0 : density == 1 ? below(2) != 0 : below(20) != 0);
    }
    const Bytes values = randomElements(dtype, bits);
    Bytes payload;
    const u8 encoding = u8(below(2));
    u32 taken = 0;
    for (u32 i = 0; i < length; i++) {
      if (mask[i]) merged(offset + i, values.data() + u64(taken++) * size);
    }
    if (encoding == 0) {
      payload.resize((length + 7) / 8);
      for (u32 i = 0; i < length; i++) payload[i / 8] = u8(payload[i / 8] | (mask[i] ? 1 << (i % 8) : 0));
    } else {
      std::vector<u32> runs = {0, 0};
      for (u32 i = 0; i < length;) {
        u32 skip = 0, take = 0;
        while (i < length && !mask[i]) skip++, i++;
        while (i < length && mask[i]) take++, i++;
        runs.push_back(skip);
        runs.push_back(take);
        runs[0]++;
      }
      payload = words(runs);
    }
    pad(payload);
    put(payload, values.data(), values.size());
    frame.delta(page, 2, u8(merge), u8(dtype), encoding, offset, length, bits, payload);
  }
}

static void testDeltas() {
  for (u32 round = 0; round < rounds(600); round++) {
    seed(round);
    Context c(1 + below(2) * 2);
    const u32 dtype = below(DTYPES);
    std::vector<ModelPage> pages;
    for (u32 p = 0; p < 1 + below(3); p++) {
      const u32 count = 1 + below(below(2) ? 40 : 12000);
      c.create(10 + p, dtype, {count});
      pages.push_back({10 + p, dtype, Bytes(u64(count) * kSize[dtype])});
    }
    for (u32 epoch = 0; epoch < 4; epoch++) {
      const std::vector<ModelPage> before = pages;
      Bytes frames;
      for (u32 f = 0; f < 1 + below(3); f++) {
        Frame frame(below(2) ? "key" : "", below(2) ? "{\"a\":1}" : "");
        for (u32 d = 0; d < 1 + below(4); d++) {
          ModelPage& page = pages[below(u32(pages.size()))];
          randomDelta(frame, page.id, dtype, u32(page.bytes.size() / kSize[dtype]), page.bytes);
        }
        put(frames, frame.done().data(), frame.bytes.size());
      }
      const u32 shift = below(8);  // frames need not be aligned
      Bytes shifted(shift);
      put(shifted, frames.data(), frames.size());
      Bytes out(1 << 16);
      u64 length;
      CHECK(mmsb_execute(c.ctx, nullptr, 0, shifted.data() + shift, frames.size(), out.data(), out.size(), &length) ==
            MMSB_OK);
      out.resize(length);
      const Result result = parseResult(out);
      size_t changed = 0;
      for (size_t p = 0; p < pages.size(); p++) {
        CHECK(c.read(pages[p].id, pages[p].bytes.size()) == pages[p].bytes);
        CHECK(c.digest(pages[p].id) == modelPageDigest(pages[p].bytes));
        const Change* change = result.of(pages[p].id);
        CHECK((change != nullptr) == (before[p].bytes != pages[p].bytes));
        if (change == nullptr) continue;
        changed++;
        CHECK(change->ranges == modelChanges(dtype, before[p].bytes, pages[p].bytes));
        CHECK(std::string((const char*)change->digest, 16) == c.digest(pages[p].id));
      }
      CHECK(changed == result.changes.size());
      CHECK(modelStateDigest(pages) == c.state());
      CHECK(std::string((const char*)result.state, 16) == c.state());
    }
  }
}

// A value is set and set back in one call: nothing changed, so nothing runs.
static void testRestoredIsUnchanged() {
  Context c;
  c.create(1, F32, {5000});
  c.create(2, F32, {5000});
  const u32 copy = c.step(MMSB_OP_COPY, 2, {1});
  const float there[3] = {1, 2, 3}, zero[3] = {0, 0, 0};
  Frame frame;
  frame.dense(1, 0, F32, 2000, 3, there);
  frame.dense(1, 0, F32, 2000, 3, zero);
  Result result = c.execute({copy}, frame.done());
  CHECK(result.changes.empty() && result.steps.empty());
  Frame partly;
  partly.dense(1, 0, F32, 2000, 3, there);
  partly.dense(1, 0, F32, 2000, 1, zero);
  result = c.execute({copy}, partly.done());
  CHECK(result.changes.size() == 2 && result.changes[0].ranges == (Ranges{{2001, 2}}) &&
        result.changes[1].ranges == (Ranges{{2001, 2}}));
  CHECK(result.steps.size() == 1 && result.steps[0].elements == 2 && result.steps[0].flags == 1);
  CHECK(c.execute({copy}, partly.done()).steps.empty());
}

static void testCoarsening() {
  for (u32 round = 0; round < rounds(20); round++) {
    seed(round);
    Context c(round % 2 == 0 ? 1 : 4);
    const u32 count = 700000;
    c.create(1, U8, {count});
    c.create(2, U8, {count});
    const u32 copy = c.step(MMSB_OP_COPY, 2, {1});
    Bytes model(count);
    const u32 spread = 2 + below(200);
    for (u32 i = below(spread); i < count; i += 1 + below(spread)) model[i] = 1;
    Frame frame;
    frame.dense(1, 0, U8, 0, count, model.data());
    const Result result = c.execute({copy}, frame.done());
    const Ranges expected = modelChanges(U8, Bytes(count), model);
    CHECK(result.changes.size() == 2 && result.changes[0].ranges == expected && result.changes[1].ranges == expected);
    CHECK(c.read(2, count) == model && c.digest(1) == modelPageDigest(model) && c.digest(2) == c.digest(1));
  }
}

static void testManyPages() {
  Context c;
  std::vector<mmsb_page_desc> descs(5000);
  for (u32 i = 0; i < descs.size(); i++) {
    memset(&descs[i], 0, sizeof descs[i]);
    descs[i].id = i * 3 + 1;
    descs[i].dtype = U32;
    descs[i].rank = 1;
    descs[i].shape[0] = 600;
  }
  CHECK(mmsb_pages_create(c.ctx, descs.data(), u32(descs.size())) == MMSB_OK);
  Frame frame;
  for (u32 i = u32(descs.size()); i-- > 0;) {
    Bytes values(1200);
    for (u32 k = 0; k < 300; k++) memcpy(&values[4 * k], &i, 4);
    Bytes indices;
    for (u32 k = 0; k < 300; k++) put32(indices, 2 * k);
    put(indices, values.data(), values.size());
    frame.delta(descs[i].id, 1, 0, U32, 4, 0, 300, 300, indices);
  }
  const Result result = c.execute({}, frame.done());
  CHECK(result.status == MMSB_OK && result.changes.size() == 4999 && result.raw.size() > 1 << 16);
  for (size_t i = 1; i < result.changes.size(); i++) CHECK(result.changes[i].page > result.changes[i - 1].page);
  for (const Change& change : result.changes) CHECK(change.ranges == (Ranges{{0, 599}}));
}

// ---- damaged frames ---------------------------------------------------------------------------------------

static void testFrameFuzz() {
  u32 refused = 0, taken = 0;
  Context* c = nullptr;
  Bytes model[2];
  for (u32 round = 0; round < rounds(20000); round++) {
    seed(round);
    if (round % 500 == 0) {
      delete c;
      c = new Context;
      c->create(1, I16, {100});
      c->create(2, F64, {300});
      model[0] = Bytes(200);
      model[1] = Bytes(2400);
    }
    Frame frame(below(2) ? "key" : "");
    Bytes ignored = model[0];
    for (u32 d = 0; d < 1 + below(3); d++) {
      Bytes copy[2] = {model[0], model[1]};
      const u32 p = below(2);
      randomDelta(frame, 1 + p, p == 0 ? I16 : F64, p == 0 ? 100 : 300, copy[p]);
    }
    Bytes bytes = frame.done();
    for (u32 i = 0; i < 1 + below(4); i++) {
      if (bytes.empty()) break;
      const u32 how = below(5), at = below(std::min(u32(bytes.size()), 96u));
      if (how == 0) bytes[at] = u8(rnd());
      else if (how == 1) bytes[at] = u8(bytes[at] ^ (1 << below(8)));
      else if (how == 2) bytes[below(u32(bytes.size()))] = u8(rnd());
      else if (how == 3) bytes.resize(below(u32(bytes.size()) + 1));
      else if (at + 4 <= bytes.size()) set32(bytes, at & ~3u, below(2) ? 0xffffffffu : below(1000));
    }
    // A copy of exact size, so that the address sanitizer detects reads past the end.
    std::vector<u8> exact(bytes);
    exact.shrink_to_fit();
    const std::string state = c->state();
    const Result result = c->execute({}, exact);
    if (result.status != MMSB_OK) {
      CHECK(result.status == MMSB_ERR_FRAME);
      CHECK(c->state() == state);
      refused++;
    } else {
      taken++;
    }
    model[0] = c->read(1, 200);
    model[1] = c->read(2, 2400);
    CHECK(c->digest(1) == modelPageDigest(model[0]) && c->digest(2) == modelPageDigest(model[1]));
  }
  delete c;
  CHECK(refused > rounds(3000) && taken > rounds(1000));
}

// ---- ops: what a step gives from scratch ------------------------------------------------------------------

// Applies the same deltas incrementally in one context, and compares with a fresh context that computes
// everything at once.
struct OpCase {
  u32 op;
  Bytes params;
  std::vector<std::vector<u32>> shapes;
  std::vector<u32> dtypes;
  u32 outDtype;
  std::vector<u32> outShape;
  std::function<Bytes(const std::vector<Bytes>&)> model;
};

static u64 elementsOf(const std::vector<u32>& shape) {
  u64 count = 1;
  for (u32 size : shape) count *= size;
  return count;
}

// On CUDA most pages are on the device, some in host or unified memory.
static u32 randomLocation() {
  if (testBackend == MMSB_BACKEND_CPU) return MMSB_LOC_AUTO;
  return below(4) != 0 ? u32(MMSB_LOC_AUTO) : 1 + below(3);
}

static void runCase(const OpCase& test, u32 threads, u32 epochs) {
  Context c(threads);
  std::vector<Bytes> inputs;
  std::vector<u32> ids;
  for (size_t i = 0; i < test.shapes.size(); i++) {
    CHECK(c.tryCreate(u32(i), test.dtypes[i], test.shapes[i], 0, randomLocation()) == MMSB_OK);
    inputs.push_back(Bytes(elementsOf(test.shapes[i]) * kSize[test.dtypes[i]]));
    ids.push_back(u32(i));
  }
  const u64 outBytes = elementsOf(test.outShape) * kSize[test.outDtype];
  CHECK(c.tryCreate(99, test.outDtype, test.outShape, 0, randomLocation()) == MMSB_OK);
  const u32 step = c.step(test.op, 99, ids, test.params);
  for (u32 epoch = 0; epoch < epochs; epoch++) {
    Frame frame;
    for (size_t i = 0; i < inputs.size(); i++) {
      const u32 count = u32(elementsOf(test.shapes[i]));
      if (count == 0) continue;
      if (epoch == 0) {
        inputs[i] = randomElements(test.dtypes[i], count);
        frame.dense(u32(i), 0, u8(test.dtypes[i]), 0, count, inputs[i].data());
      } else if (below(2)) {
        randomDelta(frame, u32(i), test.dtypes[i], count, inputs[i]);
      }
    }
    const Bytes before = c.read(99, outBytes);
    const Result result = c.execute({epoch == 0 ? step | MMSB_STEP_FULL : step}, frame.done());
    CHECK(result.status == MMSB_OK);
    const Bytes after = c.read(99, outBytes);
    const Bytes expected = test.model(inputs);
    CHECK(after == expected);
    const Change* change = result.of(99);
    CHECK((change != nullptr) == (before != after));
    if (change != nullptr) CHECK(change->ranges == modelChanges(test.outDtype, before, after));
    CHECK(c.digest(99) == modelPageDigest(after));
    if (after != expected) return;
  }
}

static Bytes castAll(u32 from, u32 to, const Bytes& values) {
  const u64 count = values.size() / kSize[from];
  Bytes out(count * kSize[to]);
  for (u64 i = 0; i < count; i++) {
    storeCast(to, out.data() + i * kSize[to], load(from, values.data() + i * kSize[from]));
  }
  return out;
}

static void testCast() {
  for (u32 from = 0; from < DTYPES; from++) {
    for (u32 to = 0; to < DTYPES; to++) {
      seed(from * 16 + to);
      const u32 count = 1 + below(9000);
      OpCase test = {from == to ? u32(MMSB_OP_COPY) : u32(MMSB_OP_CAST),
                     {},
                     {{count}},
                     {from},
                     to,
                     {count},
                     [=](const std::vector<Bytes>& in) { return castAll(from, to, in[0]); }};
      runCase(test, 1, 4);
    }
  }
}

// Edge values that are rare among random elements.
static void testCastEdges() {
  const double edges[] = {0.0,
                          -0.0,
                          0.5,
                          -0.5,
                          0.99,
                          -0.99,
                          1.5,
                          2.5,
                          127.5,
                          128,
                          -128.5,
                          -129,
                          255.9,
                          256,
                          32767.5,
                          32768,
                          -32769,
                          65535.5,
                          65536,
                          2147483647.0,
                          2147483647.5,
                          2147483648.0,
                          -2147483648.0,
                          -2147483649.0,
                          4294967295.0,
                          4294967295.5,
                          4294967296.0,
                          9223372036854774784.0,
                          9223372036854775808.0,
                          -9223372036854775808.0,
                          -9223372036854777856.0,
                          18446744073709549568.0,
                          18446744073709551616.0,
                          1e300,
                          -1e300,
                          1e-320,
                          3.4028235e38,
                          3.4028236e38,
                          INFINITY,
                          -INFINITY,
                          NAN,
                          16777217.0};
  const u32 count = sizeof edges / sizeof edges[0];
  Bytes doubles;
  put(doubles, edges, sizeof edges);
  const u64 integers[] = {0,
                          1,
                          127,
                          128,
                          255,
                          256,
                          32767,
                          32768,
                          65535,
                          65536,
                          16777217,
                          2147483647,
                          2147483648,
                          4294967295,
                          4294967296,
                          9007199254740993ull,
                          9223372036854775807ull,
                          9223372036854775808ull,
                          18446744073709551615ull,
                          9223372586610589697ull};
  Bytes wide;
  put(wide, integers, sizeof integers);
  for (u32 to = 0; to < DTYPES; to++) {
    for (u32 from : {u32(F64), u32(F32), u32(U64), u32(I64), u32(I32)}) {
      Bytes values = from >= F32 ? castAll(F64, from, doubles) : from == I32 ? castAll(I64, I32, wide) : wide;
      const u32 n = u32(values.size() / kSize[from]);
      Context c;
      c.create(1, from, {n});
      c.create(2, to, {n});
      const u32 step = c.step(MMSB_OP_CAST, 2, {1});
      Frame frame;
      frame.dense(1, 0, u8(from), 0, n, values.data());
      CHECK(c.execute({step}, frame.done()).status == MMSB_OK);
      CHECK(c.read(2, n * kSize[to]) == castAll(from, to, values));
    }
  }
  (void)count;
}

static void testReduce() {
  for (u32 round = 0; round < rounds(900); round++) {
    seed(round);
    const u32 dtype = below(DTYPES);
    std::vector<u32> shape;
    const u32 rank = below(5);
    u64 elements = 1;
    for (u32 d = 0; d < rank; d++) {
      u32 size = below(12) == 0 ? below(2) : 1 + below(8);
      if (below(6) == 0) size = 1 + below(70);
      if (below(16) == 0) size = 1000 + below(5000);
      if (elements * size > 40000) size = 1;
      elements *= size;
      shape.push_back(size);
    }
    const u32 axes = rank == 0 ? 0 : below(1u << rank);
    const u32 keep = below(2);
    std::vector<u32> outShape;
    u64 n = 1;
    for (u32 d = 0; d < rank; d++) {
      if (axes >> d & 1) {
        n *= shape[d];
        if (keep) outShape.push_back(1);
      } else {
        outShape.push_back(shape[d]);
      }
    }
    const u32 fn = below(REDUCE_FNS);
    if (n == 0 && (fn == MIN || fn == MAX || fn >= ARGMIN)) continue;
    const u32 natural = reduceNatural(fn, dtype), out = below(3) == 0 ? below(DTYPES) : natural;
    OpCase test = {
        MMSB_OP_REDUCE, words({fn, axes, keep, 0}), {shape}, {dtype}, out, outShape, [=](const std::vector<Bytes>& in) {
          Bytes result(elementsOf(outShape) * kSize[natural]);
          eachLane(shape, axes, [&](u64 o, const std::vector<u64>& lane) {
            std::vector<const u8*> at;
            for (u64 e : lane) at.push_back(in[0].data() + e * kSize[dtype]);
            modelReduce(fn, dtype, at, result.data() + o * kSize[natural]);
          });
          return castAll(natural, out, result);
        }};
    runCase(test, 1 + below(2) * 3, 3);
  }
}

// Long lanes keep a tree of partials; threads share the work.
static void testReduceLong() {
  for (u32 round = 0; round < rounds(30); round++) {
    seed(round);
    const u32 fn = round % REDUCE_FNS, dtype = below(3) == 0 ? below(DTYPES) : u32(below(2) ? F32 : F64);
    const u32 count = 300000 + below(5000), rows = 1 + below(3);
    const u32 natural = reduceNatural(fn, dtype);
    OpCase test = {MMSB_OP_REDUCE,
                   words({fn, 2, 0, 0}),
                   {{rows, count}},
                   {dtype},
                   natural,
                   {rows},
                   [=](const std::vector<Bytes>& in) {
                     Bytes result(rows * kSize[natural]);
                     for (u32 r = 0; r < rows; r++) {
                       std::vector<const u8*> at;
                       for (u64 e = 0; e < count; e++) at.push_back(in[0].data() + (r * u64(count) + e) * kSize[dtype]);
                       modelReduce(fn, dtype, at, result.data() + r * kSize[natural]);
                     }
                     return result;
                   }};
    runCase(test, 4, 3);
  }
}

static void testMatmul() {
  for (u32 round = 0; round < rounds(500); round++) {
    seed(round);
    const u32 semiring = below(4);
    u32 a = below(DTYPES), b = below(DTYPES);
    if (below(3) == 0) a = b = below(2) ? F32 : F64;
    const u32 natural = semiring == 3 ? u32(BOOL) : modelPromote(a, b);
    const bool tropical = semiring == 1 || semiring == 2;
    if (natural == DTYPES || (natural == BOOL && tropical)) continue;
    const u32 top = below(5) == 0 ? 150 : 9;
    const u32 m = 1 + below(top), n = 1 + below(top),
              k = below(10) == 0 && !tropical ? 0 : 1 + below(below(8) == 0 ? 600 : top);
    std::vector<u32> batchA, batchB, batch;
    for (u32 d = below(3); d > 0; d--) {
      const u32 size = 1 + below(3), how = below(3);
      batchA.push_back(how == 1 ? 1 : size);
      batchB.push_back(how == 2 ? 1 : size);
    }
    if (below(3) == 0 && !batchA.empty()) batchA.erase(batchA.begin());
    else if (below(3) == 0) batchB.clear();
    const size_t batchRank = std::max(batchA.size(), batchB.size());
    for (size_t d = 0; d < batchRank; d++) {
      const u32 sizeA = d + batchA.size() >= batchRank ? batchA[d + batchA.size() - batchRank] : 1;
      const u32 sizeB = d + batchB.size() >= batchRank ? batchB[d + batchB.size() - batchRank] : 1;
      batch.push_back(std::max(sizeA, sizeB));
    }
    const bool vectorA = batchA.empty() && below(4) == 0, vectorB = batchB.empty() && below(4) == 0;
    std::vector<u32> shapeA = batchA, shapeB = batchB, shape = batch;
    if (!vectorA) shapeA.push_back(m), shape.push_back(m);
    shapeA.push_back(k);
    shapeB.push_back(k);
    if (!vectorB) shapeB.push_back(n), shape.push_back(n);
    const u32 rows = vectorA ? 1 : m, columns = vectorB ? 1 : n;
    const u32 out = below(4) == 0 ? below(DTYPES) : natural;
    OpCase test = {
        MMSB_OP_MATMUL, words({semiring, 0}), {shapeA, shapeB}, {a, b}, out, shape, [=](const std::vector<Bytes>& in) {
          const u64 matrices = elementsOf(batch);
          Bytes result(matrices * rows * columns * kSize[natural]);
          for (u64 matrix = 0; matrix < matrices; matrix++) {
            u64 rest = matrix, atA = 0, atB = 0, strideA = 1, strideB = 1;
            for (size_t d = batch.size(); d-- > 0;) {
              const u64 index = rest % batch[d];
              rest /= batch[d];
              const size_t back = batch.size() - d;
              const u32 sizeA = back <= batchA.size() ? batchA[batchA.size() - back] : 1;
              const u32 sizeB = back <= batchB.size() ? batchB[batchB.size() - back] : 1;
              atA += sizeA == 1 ? 0 : index * strideA;
              atB += sizeB == 1 ? 0 : index * strideB;
              strideA *= sizeA;
              strideB *= sizeB;
            }
            for (u32 i = 0; i < rows; i++) {
              for (u32 j = 0; j < columns; j++) {
                std::vector<Number> x, y;
                for (u32 l = 0; l < k; l++) {
                  x.push_back(load(a, in[0].data() + ((atA * rows + i) * k + l) * kSize[a]));
                  y.push_back(load(b, in[1].data() + ((atB * k + l) * columns + j) * kSize[b]));
                }
                modelChain(semiring, natural, x, y,
                           result.data() + ((matrix * rows + i) * columns + j) * kSize[natural]);
              }
            }
          }
          return castAll(natural, out, result);
        }};
    runCase(test, 1 + below(2) * 3, 3);
  }
}

static std::vector<u32> randomShape(u32 limit, u32* axis) {
  std::vector<u32> shape;
  const u32 rank = 1 + below(3);
  u64 elements = 1;
  for (u32 d = 0; d < rank; d++) {
    u32 size = 1 + below(below(4) == 0 ? 300 : 12);
    if (elements * size > limit) size = 1;
    elements *= size;
    shape.push_back(size);
  }
  *axis = below(rank);
  return shape;
}

static double modelQuantile(std::vector<double> lane, double q) {
  for (double value : lane) {
    if (value != value) return NAN;
  }
  std::sort(lane.begin(), lane.end(),
            [](double a, double b) { return a < b || (a == b && signbit(a) && !signbit(b)); });
  const double position = q * double(lane.size() - 1), whole = floor(position), t = position - whole;
  const double low = lane[size_t(whole)], high = lane[std::min(size_t(whole) + 1, lane.size() - 1)];
  if (t == 0 || low == high) return low;
  return t < 0.5 ? low + (high - low) * t : high - (high - low) * (1 - t);
}

static void testQuantile() {
  for (u32 round = 0; round < rounds(300); round++) {
    seed(round);
    const u32 dtype = below(DTYPES), natural = dtype == F32 ? u32(F32) : u32(F64);
    u32 axis;
    std::vector<u32> shape = randomShape(20000, &axis);
    const bool all = below(3) == 0;
    if (round % 60 == 0) shape = {120000 + below(1000)}, axis = 0;
    const u32 axes = all ? (1u << shape.size()) - 1 : 1u << axis;
    std::vector<u32> outShape;
    for (u32 d = 0; d < shape.size(); d++) {
      if ((axes >> d & 1) == 0) outShape.push_back(shape[d]);
    }
    const double qs[] = {0, 1, 0.5, 0.05, 0.95, double(below(1000)) / 999};
    const double q = qs[below(6)];
    Bytes params;
    put(params, &q, 8);
    put32(params, all ? 0xffffffffu : axis);
    put32(params, 0);
    OpCase test = {MMSB_OP_QUANTILE, params, {shape}, {dtype}, natural, outShape, [=](const std::vector<Bytes>& in) {
                     Bytes result(elementsOf(outShape) * kSize[natural]);
                     eachLane(shape, axes, [&](u64 o, const std::vector<u64>& lane) {
                       std::vector<double> values;
                       for (u64 e : lane) values.push_back(asDouble(load(dtype, in[0].data() + e * kSize[dtype])));
                       storeFloat(natural, result.data() + o * kSize[natural], modelQuantile(values, q));
                     });
                     return result;
                   }};
    runCase(test, 1 + below(2) * 3, 3);
  }
}

static void testTopk() {
  for (u32 round = 0; round < rounds(300); round++) {
    seed(round);
    const u32 dtype = below(DTYPES);
    u32 axis;
    const std::vector<u32> shape = randomShape(20000, &axis);
    const u32 k = 1 + below(below(2) ? shape[axis] : std::min(shape[axis], 5u)), values = below(2), largest = below(2);
    const u32 natural = values ? dtype : u32(U32);
    std::vector<u32> outShape = shape;
    outShape[axis] = k;
    u64 inner = 1;
    for (size_t d = axis + 1; d < shape.size(); d++) inner *= shape[d];
    OpCase test = {MMSB_OP_TOPK,
                   words({k, axis, values, largest}),
                   {shape},
                   {dtype},
                   natural,
                   outShape,
                   [=](const std::vector<Bytes>& in) {
                     Bytes result(elementsOf(outShape) * kSize[natural]);
                     eachLane(shape, 1u << axis, [&](u64 o, const std::vector<u64>& lane) {
                       std::vector<u32> order(lane.size());
                       for (u32 i = 0; i < order.size(); i++) order[i] = i;
                       std::vector<Number> numbers;
                       for (u64 e : lane) numbers.push_back(load(dtype, in[0].data() + e * kSize[dtype]));
                       std::stable_sort(order.begin(), order.end(), [&](u32 x, u32 y) {
                         const bool nanX = numbers[x].isFloat && numbers[x].f != numbers[x].f,
                                    nanY = numbers[y].isFloat && numbers[y].f != numbers[y].f;
                         if (nanX || nanY) return nanY && !nanX;
                         return largest ? lessNumber(numbers[y], numbers[x]) : lessNumber(numbers[x], numbers[y]);
                       });
                       for (u32 j = 0; j < k; j++) {
                         const u64 at = (o / inner * k + j) * inner + o % inner;
                         if (values) {
                           storeCast(natural, result.data() + at * kSize[natural],
                                     load(dtype, in[0].data() + lane[order[j]] * kSize[dtype]));
                         } else {
                           memcpy(result.data() + at * 4, &order[j], 4);
                         }
                       }
                     });
                     return result;
                   }};
    runCase(test, 1 + below(2) * 3, 3);
  }
}

// ---- steps and graphs -------------------------------------------------------------------------------------

static void testSteps() {
  Context c;
  c.create(1, F32, {4});
  c.create(2, F32, {4});
  u32 step;
  CHECK(c.tryStep(999, 2, {1}, {}, &step) == MMSB_ERR_UNSUPPORTED);
  CHECK(c.tryStep(MMSB_OP_COPY, 2, {3}, {}, &step) == MMSB_ERR_ARGUMENT);
  CHECK(c.tryStep(MMSB_OP_COPY, 3, {1}, {}, &step) == MMSB_ERR_ARGUMENT);
  CHECK(c.tryStep(MMSB_OP_COPY, 1, {1}, {}, &step) == MMSB_ERR_ARGUMENT);
  CHECK(c.tryStep(MMSB_OP_COPY, 2, {}, {}, &step) == MMSB_ERR_ARGUMENT);
  CHECK(c.tryStep(MMSB_OP_REDUCE, 2, {1}, {}, &step) == MMSB_ERR_ARGUMENT);
  CHECK(c.tryStep(MMSB_OP_REDUCE, 2, {1}, words({0, 1, 0, 0}), &step) == MMSB_ERR_ARGUMENT);
  CHECK(c.tryStep(MMSB_OP_MATMUL, 2, {1, 1}, words({9, 0}), &step) == MMSB_ERR_ARGUMENT);
  CHECK(c.tryStep(MMSB_OP_TOPK, 2, {1}, words({5, 0, 0, 1}), &step) == MMSB_ERR_ARGUMENT);
  const u32 copy = c.step(MMSB_OP_COPY, 2, {1});
  const u32 id = 1;
  CHECK(mmsb_pages_destroy(c.ctx, &id, 1) == MMSB_ERR_ARGUMENT);
  CHECK(c.execute({copy + 1}, {}).status == MMSB_ERR_ARGUMENT);
  CHECK(mmsb_step_destroy(c.ctx, copy) == MMSB_OK);
  CHECK(mmsb_step_destroy(c.ctx, copy) == MMSB_ERR_ARGUMENT);
  CHECK(c.execute({copy}, {}).status == MMSB_ERR_ARGUMENT);
  CHECK(mmsb_pages_destroy(c.ctx, &id, 1) == MMSB_OK);
  CHECK(strlen(mmsb_context_error(c.ctx)) > 0);
}

// A random graph of steps, computed incrementally in one context; at each epoch another context computes
// everything from scratch.
static void testGraphs() {
  for (u32 round = 0; round < rounds(60); round++) {
    seed(round);
    Context live(1 + below(3)), fresh(1);
    const u32 rows = 1 + below(40), columns = 1 + below(60);
    std::vector<u32> pages;
    std::vector<u32> steps, freshSteps;
    const auto page = [&](u32 id, u32 dtype, std::vector<u32> shape) {
      CHECK(live.tryCreate(id, dtype, shape, 0, randomLocation()) == MMSB_OK);
      fresh.create(id, dtype, shape);
    };
    for (u32 i = 0; i < 3; i++) page(i, F32, {rows, columns}), pages.push_back(i);
    for (u32 i = 3; i < 12; i++) {
      const u32 a = pages[below(u32(pages.size()))], b = pages[below(u32(pages.size()))];
      const auto step = [&](u32 op, u32 out, std::vector<u32> inputs, Bytes params) {
        steps.push_back(live.step(op, out, inputs, params));
        freshSteps.push_back(fresh.step(op, out, inputs, params));
      };
      const u32 kind = below(5);
      if (kind < 2) {
        Ir ir;
        const u16 x = ir.input(F32), y = ir.input(F32);
        const u16 r = ir.add(u8(kind == 0 ? 3 : 26), F32, x, y);
        page(i, F32, {rows, columns});
        step(MMSB_OP_MAP, i, {a, b}, ir.blob(r));
        pages.push_back(i);
      } else if (kind == 2) {
        page(i, F32, {rows, columns});
        step(MMSB_OP_COPY, i, {a}, {});
        pages.push_back(i);
      } else if (kind == 3) {
        page(i, F32, {rows});
        step(MMSB_OP_REDUCE, i, {a}, words({below(6), 2, 0, 0}));
      } else {
        page(i, F32, {columns});
        Bytes params;
        const double q = 0.3;
        put(params, &q, 8);
        put32(params, 0);
        put32(params, 0);
        step(MMSB_OP_QUANTILE, i, {a}, params);
      }
    }
    Bytes models[3] = {Bytes(rows * columns * 4), Bytes(rows * columns * 4), Bytes(rows * columns * 4)};
    std::vector<u32> full;
    for (u32 step : steps) full.push_back(step | MMSB_STEP_FULL);
    std::vector<u32> freshFull;
    for (u32 step : freshSteps) freshFull.push_back(step | MMSB_STEP_FULL);
    live.execute(full, {});
    for (u32 epoch = 0; epoch < 6; epoch++) {
      Frame frame;
      const u32 source = below(3);
      randomDelta(frame, source, F32, rows * columns, models[source]);
      const Result result = live.execute(steps, frame.done());
      CHECK(result.status == MMSB_OK);
      for (u32 i = 0; i < 3; i++) CHECK(mmsb_page_load(fresh.ctx, i, 0, models[i].size(), models[i].data()) == MMSB_OK);
      CHECK(fresh.execute(freshFull, {}).status == MMSB_OK);
      CHECK(live.state() == fresh.state());
      for (const StepRun& run : result.steps) CHECK((run.flags & 2) == 0);
    }
  }
}

// ---- the same on every build and number of threads --------------------------------------------------------

static void printDigests(u32 threads) {
  seed(4711);
  Context c(threads);
  c.create(1, F32, {300, 500});
  c.create(2, F32, {500, 200});
  c.create(3, F32, {300, 200});
  c.create(4, F64, {300});
  c.create(5, F64, {});
  c.create(6, F32, {200});
  c.create(7, U32, {300, 7});
  c.create(8, F64, {1000, 1000});
  c.create(9, F64, {});
  c.create(10, F32, {300, 200});
  Ir ir;
  const u16 x = ir.input(F32);
  const u16 r = ir.add(3, F32, ir.add(33, F32, ir.add(39, F32, x)), ir.constant(0.1, F32));
  Bytes q;
  const double level = 0.05;
  put(q, &level, 8);
  put32(q, 0);
  put32(q, 0);
  const std::vector<u32> steps = {c.step(MMSB_OP_MATMUL, 3, {1, 2}, words({0, 0})),
                                  c.step(MMSB_OP_REDUCE, 4, {3}, words({5, 2, 0, 0})),
                                  c.step(MMSB_OP_REDUCE, 5, {3}, words({0, 3, 0, 0})),
                                  c.step(MMSB_OP_QUANTILE, 6, {3}, q),
                                  c.step(MMSB_OP_TOPK, 7, {3}, words({7, 1, 0, 1})),
                                  c.step(MMSB_OP_REDUCE, 9, {8}, words({4, 3, 0, 0})),
                                  c.step(MMSB_OP_MAP, 10, {3}, ir.blob(r))};
  Bytes models[3] = {Bytes(300 * 500 * 4), Bytes(500 * 200 * 4), Bytes(8000000)};
  const u32 ids[3] = {1, 2, 8}, counts[3] = {150000, 100000, 1000000}, dtypes[3] = {F32, F32, F64};
  for (u32 epoch = 0; epoch < 12; epoch++) {
    Frame frame;
    for (u32 p = 0; p < 3; p++) {
      if (epoch < 2) {
        const Bytes values = randomElements(dtypes[p], counts[p]);
        frame.dense(ids[p], 0, u8(dtypes[p]), 0, counts[p], values.data());
      } else {
        randomDelta(frame, ids[p], dtypes[p], counts[p], models[p]);
      }
    }
    const Result result = c.execute(steps, frame.done());
    CHECK(result.status == MMSB_OK);
    u64 hash = 0;
    for (size_t i = 64; i < result.raw.size(); i++) hash = hash * 1099511628211ull + result.raw[i];
    for (u32 i = 0; i < 16; i++) printf("%02x", result.state[i]);
    printf(" %016llx\n", (unsigned long long)hash);
  }
}

static void testUnknownBackend() {
  mmsb_ctx* ctx = nullptr;
  mmsb_options options = {7, 0, 0};
  CHECK(mmsb_open(&options, &ctx) == MMSB_ERR_ARGUMENT && ctx == nullptr);
  options.backend = MMSB_BACKEND_CUDA;
  const int status = mmsb_open(&options, &ctx);
  CHECK(mmsb_device_count() == 0 ? status == MMSB_ERR_UNSUPPORTED : status == MMSB_OK);
  mmsb_close(ctx);
  CHECK(mmsb_abi_version() == MMSB_ABI_VERSION);
}

static void testCrc() {
  CHECK(mmsb_crc32c("123456789", 9, 0) == 0xe3069283u);
  CHECK(mmsb_crc32c("", 0, 0) == 0);
  Bytes zeros(32), ones(32, 255);
  CHECK(mmsb_crc32c(zeros.data(), 32, 0) == 0x8a9136aau);  // RFC 3720, B.4
  CHECK(mmsb_crc32c(ones.data(), 32, 0) == 0x62a8ab43u);
  for (u32 round = 0; round < rounds(200); round++) {
    seed(round);
    Bytes bytes(below(20000));
    for (u8& byte : bytes) byte = u8(rnd());
    u32 crc = 0xffffffffu;
    for (u8 byte : bytes) {
      crc ^= byte;
      for (u32 bit = 0; bit < 8; bit++) crc = (crc & 1) != 0 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
    }
    CHECK(mmsb_crc32c(bytes.data(), bytes.size(), 0) == ~crc);
    const u32 cut = below(u32(bytes.size()) + 1);
    CHECK(mmsb_crc32c(bytes.data() + cut, bytes.size() - cut, mmsb_crc32c(bytes.data(), cut, 0)) == ~crc);
  }
}

struct Test {
  const char* name;
  void (*run)();
};
static const Test kTests[] = {
    {"pages", testPages},
    {"reuse", testReuse},
    {"huge-zero-page", testHugeZeroPage},
    {"load-gather", testLoadAndGather},
    {"digest-example", testDigestExample},
    {"deltas", testDeltas},
    {"restored-is-unchanged", testRestoredIsUnchanged},
    {"coarsening", testCoarsening},
    {"many-pages", testManyPages},
    {"frame-fuzz", testFrameFuzz},
    {"cast", testCast},
    {"cast-edges", testCastEdges},
    {"reduce", testReduce},
    {"reduce-long", testReduceLong},
    {"matmul", testMatmul},
    {"quantile", testQuantile},
    {"topk", testTopk},
    {"steps", testSteps},
    {"graphs", testGraphs},
    {"backends", testUnknownBackend},
    {"crc32c", testCrc},
};

int main(int argc, char** argv) {
  const char* backend = getenv("MMSB_TEST_BACKEND");
  if (backend != nullptr && strcmp(backend, "cuda") == 0) testBackend = MMSB_BACKEND_CUDA;
  if (argc > 1 && strcmp(argv[1], "digests") == 0) {
    printDigests(argc > 2 ? u32(atoi(argv[2])) : 1);
    return checksFailed == 0 ? 0 : 1;
  }
  u32 number = 0, bad = 0;
  for (const Test& test : kTests) {
    if (argc > 1 && strcmp(argv[1], test.name) != 0) continue;
    checksRun = checksFailed = 0;
    test.run();
    bad += checksFailed != 0;
    printf("%s %u - %s # %llu checks\n", checksFailed == 0 ? "ok" : "not ok", ++number, test.name,
           (unsigned long long)checksRun);
    fflush(stdout);
  }
  printf("1..%u\n", number);
  return bad == 0 ? 0 : 1;
}
