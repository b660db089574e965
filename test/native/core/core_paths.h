// Sizes at which code changes its path, from both sides, against plain loops. Random graphs (core_graphs.h)
// cross many of them too; here are those that they rarely or never meet.
#pragma once
#include <signal.h>
#include <sys/time.h>

#include "core_graphs.h"

// Many single elements in one delta.
static void sparse(Frame& frame, u32 page, u32 dtype, const std::vector<u32>& places, const Bytes& values) {
  Bytes payload = words(places);
  pad(payload);
  put(payload, values.data(), values.size());
  const u32 count = u32(places.size());
  frame.delta(page, 1, 0, u8(dtype), 4, 0, count, count, payload);
}

// ---- pages ------------------------------------------------------------------------------------------------

// Memory: at 64 KiB pools end, at 2 MiB huge pages begin. From 1 MiB on a page is filled when it is first
// used.
static void testPageSizes() {
  if (testBackend != MMSB_BACKEND_CPU) return;
  for (const u32 edge : {1u << 16, 1u << 20, 1u << 21}) {
    for (const u32 size : {edge - 8, edge, edge + 8}) {
      Context c;
      for (u32 round = 0; round < 2; round++) {  // the second time in memory that was used
        c.create(1, U64, {size / 8}, round == 0 ? 0 : 0x0102030405060708ull);
        Bytes model(size);
        for (u32 i = 0; round == 1 && i < size; i++) model[i] = u8(8 - i % 8);
        c.create(2, U64, {size / 8});
        if (round == 0) CHECK(c.read(1, size) == model);
        const u32 copy = c.step(MMSB_OP_COPY, 2, {1});
        const u64 value = 77;
        memcpy(&model[size - 8], &value, 8);
        Frame frame;
        frame.dense(1, 0, U64, size / 8 - 1, 1, &value);
        CHECK(c.execute({copy | MMSB_STEP_FULL}, frame.done()).status == MMSB_OK);
        CHECK(c.read(1, size) == model && c.read(2, size) == model);
        CHECK(c.digest(1) == modelPageDigest(model) && c.digest(2) == c.digest(1));
        CHECK(mmsb_step_destroy(c.ctx, copy) == MMSB_OK);
        const u32 ids[2] = {1, 2};
        CHECK(mmsb_pages_destroy(c.ctx, ids, 2) == MMSB_OK);
      }
    }
  }
}

// Of at most 256 ranges all are reported. Pages are reported in the order of their ids; from 33 pages on
// another sort finds it.
static void testReports() {
  for (const u32 count : {255u, 256u, 257u, 512u, 513u}) {
    Context c;
    c.create(1, U16, {4000});
    std::vector<u32> places;
    Bytes model(8000), ones;
    for (u32 i = 0; i < count; i++) places.push_back(i * 7 + i % 3);
    for (u32 place : places) model[2 * place] = 1, ones.push_back(1), ones.push_back(0);
    Frame frame;
    sparse(frame, 1, U16, places, ones);
    const Result result = c.execute({}, frame.done());
    CHECK(result.changes.size() == 1 && result.changes[0].ranges == modelChanges(U16, Bytes(8000), model));
  }
  for (const u32 count : {2u, 31u, 32u, 33u, 100u}) {
    seed(count);
    Context c;
    std::vector<u32> ids;
    for (u32 i = 0; i < count; i++) ids.push_back(i * 5000 + 3);
    for (u32 id : ids) c.create(id, U8, {10});
    for (u32 i = count; i-- > 1;) std::swap(ids[i], ids[below(i + 1)]);
    if (count == 2) ids = {5003, 3};
    Frame frame;
    for (u32 id : ids) frame.dense(id, 0, U8, 0, 4, "abcd");
    const Result result = c.execute({}, frame.done());
    CHECK(result.changes.size() == count);
    for (u32 i = 0; i < count; i++) CHECK(result.changes[i].page == i * 5000 + 3);
  }
}

// ---- the past ---------------------------------------------------------------------------------------------

// A past copies what changed since it ran, be that in one call or in several. Of few ranges it copies no
// more; above 4,096 it copies everything.
static void testPast() {
  const u32 count = 20000;
  Context c;
  c.create(1, U8, {count});
  c.create(2, U8, {count});
  const u32 past = c.step(MMSB_OP_COPY, 2, {1}, {}, 1, MMSB_STEP_PAST) | MMSB_STEP_BEFORE;
  Bytes now(count), then(count), behind(count, 1);
  u32 ranges = count;
  for (u32 round = 0; round < 60; round++) {
    seed(round);
    const bool runs = below(3) != 0;
    std::vector<u32> places;
    for (u32 i = below(9), n = round % 10 == 9 ? 3000 : 5; places.size() < n; i += 2 + below(4)) places.push_back(i);
    const Bytes values(places.size(), u8(round + 1));
    Frame frame;
    sparse(frame, 1, U8, places, values);
    const Result result = c.execute(runs ? std::vector<u32>{past} : std::vector<u32>(), frame.done());
    CHECK(result.status == MMSB_OK);
    if (runs) {
      const u64 changed = u64(std::count(behind.begin(), behind.end(), 1));
      const u64 least = ranges > 4096 ? count : changed, most = ranges > 200 ? count : changed;
      CHECK(result.steps.size() == 1 && result.steps[0].elements >= least && result.steps[0].elements <= most);
      then = now;
      behind = Bytes(count);
      ranges = 0;
    }
    CHECK(c.read(2, count) == then);
    for (u32 place : places) now[place] = u8(round + 1), behind[place] = 1;
    ranges += u32(places.size());
  }
}

static u32 alarmWord;  // atomic

// Sets the word after a while. Other than a thread, a signal comes in time on a busy machine.
static void alarmAfter(u64 ns) {
  struct sigaction action = {};
  action.sa_handler = [](int) { __atomic_store_n(&alarmWord, 1, __ATOMIC_RELAXED); };
  action.sa_flags = SA_RESTART;
  sigaction(SIGALRM, &action, nullptr);
  itimerval timer = {};
  timer.it_value.tv_usec = suseconds_t(1 + ns / 1000);
  setitimer(ITIMER_REAL, &timer, nullptr);
}

static u64 ownNs() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return u64(now.tv_sec) * 1000000000ull + u64(now.tv_nsec);
}

// A call that is cancelled while a past is copied loses nothing of what the past has yet to copy.
static void testCancelPast() {
  if (testBackend != MMSB_BACKEND_CPU) return;
  const u32 count = 1u << 20;
  for (u32 threads : {1u, 3u}) {
    Context c(threads);
    c.create(1, U32, {count});
    c.create(2, U32, {count});
    c.create(3, U32, {1});
    const u32 past = c.step(MMSB_OP_COPY, 2, {1}, {}, 1, MMSB_STEP_PAST) | MMSB_STEP_BEFORE;
    CHECK(mmsb_keep(c.ctx, 1) == MMSB_OK);
    mmsb_cancel_by(c.ctx, &alarmWord);
    u64 tookNs = 0;
    for (u32 round = 0; round < 16; round++) {
      seed(round);
      c.write(1, U32, Bytes(4ull * count, u8(round + 1)));
      Frame frame;
      frame.dense(3, 0, U32, 0, 1, &round);
      const u64 startNs = ownNs();
      if (round > 0) alarmAfter(below(u32(tookNs)));
      const int status = c.execute({past}, frame.done()).status;
      if (round == 0) tookNs = std::min<u64>(ownNs() - startNs, 900'000'000);
      const itimerval none = {};
      setitimer(ITIMER_REAL, &none, nullptr);
      __atomic_store_n(&alarmWord, 0, __ATOMIC_RELAXED);
      if (status == MMSB_ERR_CANCELLED) {
        CHECK(mmsb_undo(c.ctx, &past, 1) == MMSB_OK);
        CHECK(c.execute({past}, {}).status == MMSB_OK);
      }
      CHECK(c.digest(2) == c.digest(1));
    }
  }
}

// ---- steps that run tile by tile --------------------------------------------------------------------------

// Pages of 131,072 elements and more, in tiles of 16,384, at most 16 steps together.
static void testFusedSizes() {
  if (testBackend != MMSB_BACKEND_CPU) return;
  u32 number = 0;
  for (const u32 count : {147456u, 131071u, 131072u, 131073u, 150001u}) {
    if (!isSampled(number++)) continue;
    seed(count);
    Context fused(count % 2 == 0 ? 3 : 1), alone(1);
    std::vector<u32> steps[2];
    Context* contexts[2] = {&fused, &alone};
    for (u32 which = 0; which < 2; which++) {
      for (u32 i = 0; i < 20; i++) contexts[which]->create(i, I16, {count});
      for (u32 i = 2; i < 20; i++) {
        Ir ir;
        const u16 x = ir.input(I16), y = ir.input(I16);
        const Bytes params = ir.blob(ir.add(i % 3 == 0 ? 26 : 3, I16, x, y));
        // Some steps are twins of the one before.
        steps[which].push_back(contexts[which]->step(MMSB_OP_MAP, i, {(i - i % 4) / 2, i % 5 < 2 ? 0u : 1u}, params));
      }
    }
    Bytes models[2] = {Bytes(2 * count), Bytes(2 * count)};
    for (u32 epoch = 0; epoch < 4; epoch++) {
      Frame frame;
      for (u32 page = 0; page < 2; page++) {
        if (epoch > 1) randomDelta(frame, page, I16, count, models[page]);
        if (epoch > 1 && (page != 0 || epoch != 2)) continue;
        models[page] = randomElements(I16, count);
        frame.dense(page, 0, I16, 0, count, models[page].data());
      }
      CHECK(fused.execute(steps[0], frame.done()).status == MMSB_OK);
      for (u32 page = 0; page < 2; page++) alone.write(page, I16, models[page]);
      for (u32 step : steps[1]) CHECK(alone.execute({step | MMSB_STEP_FULL}, {}).status == MMSB_OK);
      CHECK(fused.state() == alone.state());
    }
  }
}

// ---- dirty rules ------------------------------------------------------------------------------------------

// An element of `line` has as many copies as `table` has rows; above 4,096 ranges one range covers them.
static void testManyCopies() {
  for (const u32 rows : {2048u, 2049u, 4095u, 4096u, 4097u}) {
    Context c;
    c.create(1, U8, {rows, 5});
    c.create(2, U8, {5});
    c.create(3, U8, {rows, 5});
    Ir ir;
    const u16 x = ir.input(U8), y = ir.input(U8);
    const u32 step = c.step(MMSB_OP_MAP, 3, {1, 2}, ir.blob(ir.add(3, U8, x, y)));
    Bytes line(5), expected(5 * rows);
    for (const std::vector<u32>& places : {std::vector<u32>{0}, {4}, {2}, {1, 3}, {0, 2, 4}}) {
      Frame frame;
      Bytes values;
      for (u32 place : places) values.push_back(u8(line[place] += 3));
      sparse(frame, 2, U8, places, values);
      CHECK(c.execute({step}, frame.done()).status == MMSB_OK);
      for (u32 i = 0; i < 5 * rows; i++) expected[i] = line[i % 5];
      CHECK(c.read(3, 5 * rows) == expected);
    }
  }
}

// Up to 8 changed boxes are compared with each index of a gather; more are marked along the axis.
static void testGatherBoxes() {
  for (const u32 inner : {1u, 3u}) {
    for (u32 boxes = 1; boxes <= 12; boxes++) {
      seed(boxes);
      const u32 n = 500, count = 2500;
      Context c;
      c.create(1, U8, {n, inner});
      c.create(2, I32, {count});
      c.create(3, U8, {count, inner});
      std::vector<u32> indices(count);
      for (u32& index : indices) index = below(n);
      c.write(2, I32, words(indices));
      const u32 step = c.step(MMSB_OP_GATHER, 3, {1, 2}, words({0, 0}));
      Bytes model(n * inner), expected(count * inner);
      for (u32 round = 0; round < 4; round++) {
        std::vector<u32> places;
        for (u32 i = 0; i < boxes; i++) places.push_back((i * 41 + below(40)) * inner + below(inner));
        for (u32 place : places) model[place] = u8(model[place] + 1 + below(9));
        Bytes values;
        for (u32 place : places) values.push_back(model[place]);
        Frame frame;
        sparse(frame, 1, U8, places, values);
        CHECK(c.execute({step}, frame.done()).status == MMSB_OK);
        for (u32 i = 0; i < count * inner; i++) expected[i] = model[indices[i / inner] * inner + i % inner];
        CHECK(c.read(3, count * inner) == expected);
      }
    }
  }
}

// A box of more than 2^20 runs becomes one range.
static void testBoxBudget() {
  if (testBackend != MMSB_BACKEND_CPU) return;
  for (const u32 n : {(1u << 20), (1u << 20) + 1}) {
    Context c;
    c.create(1, U8, {3, n});
    c.create(2, U8, {n, 3});
    const u32 step = c.step(MMSB_OP_TRANSPOSE, 2, {1}, words({1, 0}));
    const Bytes ones(n, 1);
    Frame frame;
    frame.dense(1, 0, U8, n, n, ones.data());
    CHECK(c.execute({step}, frame.done()).status == MMSB_OK);
    const Bytes got = c.read(2, 3ull * n);
    u32 wrong = 0;
    for (u32 i = 0; i < 3 * n; i++) wrong += got[i] != (i % 3 == 1);
    CHECK(wrong == 0);
  }
}

// ---- ops --------------------------------------------------------------------------------------------------

// Lanes of more than 2^15 elements are not selected in memory. The rank lies at the end of many equal values,
// so its neighbour is the least of all others.
static void testQuantileEnds() {
  u32 number = 0;
  for (const u32 equal : {32767u, 32768u, 32769u, 40000u}) {
    for (const u32 others : {1u, 3000u}) {
      seed(equal + others);
      const u32 n = equal + others;
      std::vector<double> lane(n, 1.0);
      for (u32 i = 0; i < others; i++) lane[i] = 2 + double((i * 7919 + 1) % others) / others;
      for (u32 i = n; i-- > 1;) std::swap(lane[i], lane[below(i + 1)]);
      for (const double place : {equal - 2.0, equal - 1.5, equal - 1.0, equal - 0.5, double(equal)}) {
        if (!isSampled(number++)) continue;
        const double q = place / (n - 1);
        Context c;
        c.create(1, F64, {n});
        c.create(2, F64, {});
        Bytes params, values, expected(8);
        put(params, &q, 8);
        put32(params, 0xffffffffu);
        put32(params, 0);
        put(values, lane.data(), 8ull * n);
        c.write(1, F64, values);
        const u32 step = c.step(MMSB_OP_QUANTILE, 2, {1}, params);
        CHECK(c.execute({step | MMSB_STEP_FULL}, {}).status == MMSB_OK);
        storeFloat(F64, expected.data(), modelQuantile(lane, q));
        CHECK(c.read(2, 8) == expected);
      }
    }
  }
}

// Threads share the counting of more than 2^18 elements.
static void testCounting() {
  u32 number = 0;
  for (const u32 n : {(1u << 18) - 1, 1u << 18, (1u << 18) + 1, 600001u}) {
    for (const u32 bins : {7u, 4000u, 100000u}) {
      if (!isSampled(number++)) continue;
      seed(n);
      Context c(3);
      c.create(1, U16, {n});
      c.create(2, U32, {bins});
      c.create(3, U32, {bins});
      Bytes values(2ull * n);
      std::vector<u32> counts(bins);
      for (u32 i = 0; i < n; i++) {
        const u16 value = u16(rnd() % (bins + 3));
        memcpy(&values[2ull * i], &value, 2);
        if (value < bins) counts[value]++;
      }
      c.write(1, U16, values);
      Bytes params = words({bins, 0});
      const double range[2] = {0, double(bins)};
      put(params, range, 16);
      const std::vector<u32> steps = {c.step(MMSB_OP_BINCOUNT, 2, {1}, words({bins, 0})) | MMSB_STEP_FULL,
                                      c.step(MMSB_OP_HISTOGRAM, 3, {1}, params) | MMSB_STEP_FULL};
      CHECK(c.execute(steps, {}).status == MMSB_OK);
      CHECK(c.read(2, 4ull * bins) == words(counts));
      // The last bin has its upper edge too.
      for (u32 i = 0; i < n; i++) {
        u16 value;
        memcpy(&value, &values[2ull * i], 2);
        if (value == bins) counts[bins - 1]++;
      }
      CHECK(c.read(3, 4ull * bins) == words(counts));
    }
  }
}

// Threads take 32 blocks of a long lane at a time. Here a task goes from one range of changed blocks to the
// next.
static void testReduceShared() {
  const u32 n = 400 * 1024 + 5;
  const u32 parts[][2] = {{0, 100 * 1024}, {150 * 1024 + 7, 90 * 1024}, {300 * 1024, 100 * 1024 + 5}};
  Context c(4);
  c.create(1, I32, {n});
  c.create(2, I64, {});
  const u32 step = c.step(MMSB_OP_REDUCE, 2, {1}, words({SUM, 1, 0, 0}));
  std::vector<i32> model(n);
  for (u32 round = 0; round < 4; round++) {
    seed(round);
    Frame frame;
    for (const auto& part : parts) {
      if (round == 3 && part[0] == 0) continue;
      for (u32 i = part[0]; i < part[0] + part[1]; i++) model[i] = i32(below(2001)) - 1000;
      frame.dense(1, 0, I32, part[0], part[1], &model[part[0]]);
    }
    CHECK(c.execute({step}, frame.done()).status == MMSB_OK);
    i64 sum = 0, got;
    for (i32 value : model) sum += value;
    memcpy(&got, c.read(2, 8).data(), 8);
    CHECK(got == sum);
  }
}

// A window from its blocks, whose sizes are the powers of two in its own, largest first.
static double foldBlock(const double* x, u32 size) {
  return size == 1 ? x[0] : foldBlock(x, size / 2) + foldBlock(x + size / 2, size / 2);
}
static double foldWindow(const double* x, u32 size) {
  u32 block = 1;
  while (block * 2 <= size) block *= 2;
  const double first = foldBlock(x, block);
  return block == size ? first : first + foldWindow(x + block, size - block);
}

// Windows of a block of elements, of the memory for them, and of more.
static void testWindowSizes() {
  const u32 n = 21000, lanes = 2;
  u32 number = 0;
  for (const u32 size : {1u, 2u, 3u, 1023u, 1024u, 1025u, 2049u, 4096u, 5000u, 12265u, 16361u, 16362u, 20000u}) {
    for (const bool inner : {false, true}) {
      if (!isSampled(number++)) continue;
      seed(size);
      Context c;
      const std::vector<u32> shape = inner ? std::vector<u32>{n, lanes} : std::vector<u32>{lanes, n};
      c.create(1, F64, shape);
      c.create(2, F64, shape);
      std::vector<double> x(n * lanes), got(n * lanes);
      for (double& value : x) value = double(rnd() % 2000001) / 1e3;
      Bytes bytes(8ull * n * lanes);
      for (u32 l = 0; l < lanes; l++) {
        for (u32 i = 0; i < n; i++) memcpy(&bytes[8ull * (inner ? i * lanes + l : l * n + i)], &x[l * n + i], 8);
      }
      c.write(1, F64, bytes);
      const u32 step = c.step(MMSB_OP_WINDOW, 2, {1}, words({SUM, size, inner ? 0u : 1u, 0}));
      CHECK(c.execute({step | MMSB_STEP_FULL}, {}).status == MMSB_OK);
      const Bytes out = c.read(2, bytes.size());
      for (u32 sample = 0; sample < 40; sample++) {
        const u32 near[] = {size - 1, size - 2, size, n - 1, below(n), below(n)};
        const u32 l = below(lanes), i = std::min(near[sample % 6], n - 1), length = std::min(i + 1, size);
        const double expected = foldWindow(&x[l * n + i + 1 - length], length);
        CHECK(memcmp(&out[8ull * (inner ? i * lanes + l : l * n + i)], &expected, 8) == 0);
      }
    }
  }
}

// The memory of the right page ends with its last element: nothing behind it may be read.
static void testMatmulEnd() {
  if (testBackend != MMSB_BACKEND_CPU) return;
  const u32 depth = 16384, columns = 17;
  Context c;
  c.create(1, F64, {1, depth});
  c.create(2, F64, {depth, columns});
  c.create(3, F64, {1, columns});
  std::vector<double> ones(depth * columns, 1.0);
  Bytes values;
  put(values, ones.data(), 8ull * ones.size());
  c.write(2, F64, values);
  c.write(1, F64, Bytes(values.begin(), values.begin() + 8 * depth));
  const u32 step = c.step(MMSB_OP_MATMUL, 3, {1, 2}, words({0, 0}));
  CHECK(c.execute({step | MMSB_STEP_FULL}, {}).status == MMSB_OK);
  double got[columns];
  memcpy(got, c.read(3, sizeof got).data(), sizeof got);
  for (double value : got) CHECK(value == double(depth));
}
