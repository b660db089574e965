// Tests of pages and deltas: creating, reading, loading, digests, changed ranges, and damaged frames.
#pragma once
#include "core_model.h"

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
  const u32 pages = rounds(300);
  for (u32 round = 0; round < 4; round++) {
    for (u32 i = 0; i < pages; i++) {
      const u32 count = 1 + (i * 37 + round * 11) % 20000;
      c.create(i, U8, {count});
      CHECK(c.read(i, count) == Bytes(count));
      const Bytes noise(count, u8(i + 1));
      c.write(i, U8, noise);
      CHECK(c.digest(i) == modelPageDigest(noise));
    }
    for (u32 i = 0; i < pages; i++) CHECK(mmsb_pages_destroy(c.ctx, &i, 1) == MMSB_OK);
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

// Values of a delta. A frame may hold a true bool as any byte but 0.
static Bytes deltaValues(u32 dtype, u32 count) {
  Bytes values = randomElements(dtype, count);
  if (dtype != BOOL) return values;
  for (u8& value : values) value = u8(value << below(8));
  return values;
}

// A random delta to a page and its effect on the model.
static void randomDelta(Frame& frame, u32 page, u32 dtype, u32 count, Bytes& model) {
  const u32 merge = below(dtype >= F32 ? 4 : 7), size = kSize[dtype];
  const auto merged = [&](u32 index, const u8* value) {
    mergeElement(dtype, merge, model.data() + u64(index) * size, value);
  };
  const u32 kind = below(3);
  const u32 offset = below(count), length = 1 + below(below(3) == 0 ? count - offset : std::min(count - offset, 20u));
  if (kind == 0) {
    const Bytes values = deltaValues(dtype, length);
    for (u32 i = 0; i < length; i++) merged(offset + i, values.data() + u64(i) * size);
    frame.dense(page, u8(merge), u8(dtype), offset, length, values.data());
  } else if (kind == 1) {
    const u32 n = 1 + below(40);
    std::vector<u32> indices;
    for (u32 i = 0; i < n; i++) {
      indices.push_back(below(3) == 0 && i > 0 ? std::min(indices[i - 1] + 1, count - 1) : below(count));
    }
    if (below(2)) std::sort(indices.begin(), indices.end());
    const Bytes values = deltaValues(dtype, n);
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
    const Bytes values = deltaValues(dtype, bits);
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

// Places in no order, on both sides of 2^11 and 2^22, the digits of the sort of ranges. At 32 ranges another
// sort begins.
static void testFarApart() {
  const u32 count = (1u << 23) + 7;
  for (const u32 n : {31u, 32u, 33u, 40u, 300u}) {
    seed(n);
    Context c;
    c.create(1, U8, {count});
    c.create(2, U8, {count});
    const u32 copy = c.step(MMSB_OP_COPY, 2, {1});
    std::vector<u32> indices = {count - 1, 0, 1u << 22, (1u << 22) - 1, 1u << 11, (1u << 11) - 1};
    while (indices.size() < n) indices.push_back(indices.size() % 2 ? below(count) : below(1 << 13));
    Bytes model(count);
    Bytes payload = words(indices);
    pad(payload);
    const Bytes ones(n, 1);
    put(payload, ones.data(), n);
    for (const u32 index : indices) model[index] = 1;
    Frame frame;
    frame.delta(1, 1, 0, U8, 4, 0, n, n, payload);
    const Result result = c.execute({copy}, frame.done());
    const Ranges expected = modelChanges(U8, Bytes(count), model);
    CHECK(result.changes.size() == 2 && result.changes[0].ranges == expected && result.changes[1].ranges == expected);
    CHECK(c.read(1, count) == model && c.read(2, count) == model && c.digest(2) == modelPageDigest(model));
  }
}

// Two deltas over the same places, longer than the 1 MiB that is compared at once.
static void testLongOverlap() {
  const u32 count = (3u << 20) + 5;
  Context c;
  c.create(1, U8, {count});
  const Bytes ones(count, 1);
  Bytes twos(count, 2);
  Frame frame;
  frame.dense(1, 0, U8, 0, count, ones.data());
  frame.dense(1, 0, U8, 0, count, twos.data());
  const Result result = c.execute({}, frame.done());
  CHECK(result.changes.size() == 1 && result.changes[0].ranges == (Ranges{{0, count}}));
  CHECK(c.read(1, count) == twos && c.digest(1) == modelPageDigest(twos));
}

// Threads that store into one page must not meet in a chunk, because each hashes the chunks that it writes.
// So a delta that begins inside a chunk is not cut there, nor are changes that are a few elements apart. The
// digest is rarely wrong when threads meet; the thread sanitizer always notices.
static void testThreadsMeet() {
  const u32 count = 500000;
  Context c(4);
  c.create(1, F32, {count});
  c.create(2, F32, {count});
  Ir ir;
  const u16 r = ir.add(39, F32, ir.input(F32));
  const u32 step = c.step(MMSB_OP_MAP, 2, {1}, ir.blob(r));
  std::vector<float> model(count);
  const auto bytesOf = [](const std::vector<float>& values) {
    Bytes bytes;
    put(bytes, values.data(), values.size() * 4);
    return bytes;
  };
  for (u32 round = 0; round < rounds(10); round++) {
    seed(round);
    const u32 offset = 1 + below(3000);
    Frame dense;
    for (u32 i = offset; i < count; i++) model[i] = float(round * 7 + i % 1000);
    dense.dense(1, 0, F32, offset, count - offset, &model[offset]);
    CHECK(c.execute({step}, dense.done()).status == MMSB_OK);
    CHECK(c.digest(1) == modelPageDigest(bytesOf(model)));
    std::vector<u32> places;
    for (u32 i = below(9); i < count; i += 9) places.push_back(i);
    Bytes payload = words(places);
    pad(payload);
    for (u32 place : places) put(payload, &(model[place] += 1), 4);
    Frame sparse;
    sparse.delta(1, 1, 0, F32, 4, 0, u32(places.size()), u32(places.size()), payload);
    CHECK(c.execute({step}, sparse.done()).status == MMSB_OK);
    CHECK(c.digest(1) == modelPageDigest(bytesOf(model)));
    CHECK(c.digest(2) == modelPageDigest(c.read(2, count * 4)));
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
    if (round % 4 < 2) {
      for (u32 i = below(spread); i < count; i += 1 + below(spread)) model[i] = 1;
    } else {  // one thread has as many ranges as it may keep, the others have a few pairs
      for (u32 i = 0; i < 1u << 18; i += 2) model[i] = 1;
      for (u32 i = 1u << 18; i + 2 < count; i += 9001) model[i] = model[i + 2] = 1;
    }
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
  std::vector<mmsb_page_desc> descs(testBackend == MMSB_BACKEND_CPU ? 5000 : 2500);
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
  CHECK(result.status == MMSB_OK && result.changes.size() == descs.size() - 1 && result.raw.size() > 1 << 16);
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
