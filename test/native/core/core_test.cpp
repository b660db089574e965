// Tests the native core through its C ABI, against the models of core_model.h. `core_test` runs all tests and
// prints TAP; `core_test NAME` runs one. `core_test digests` prints state digests of fixed work, to compare
// builds, thread counts and backends. With MMSB_TEST_BACKEND=cuda everything runs on the device.
#include "core_paths.h"

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

// Calls that are cancelled at any moment can be taken back; what follows is as if they had not been.
static void testCancel() {
  const bool kept = testBackend == MMSB_BACKEND_CPU;
  const u32 side = kept ? 120 : 48, bytes = side * side * 8;
  for (u32 threads = 1; threads <= 3; threads++) {
    Context c(threads), fresh(1);
    std::vector<u32> steps, freshSteps;
    for (Context* context : {&c, &fresh}) {
      context->create(1, F64, {side, side});
      context->create(2, F64, {side, side});
      context->create(3, F64, {side, side});
      context->create(4, F64, {});
      context->create(5, F64, {});
      auto& list = context == &c ? steps : freshSteps;
      // A sum keeps its blocks from call to call.
      list.push_back(context->step(MMSB_OP_REDUCE, 4, {1}, words({SUM, 3, 0, 0})));
      list.push_back(context->step(MMSB_OP_MATMUL, 2, {1, 1}, words({0, 0})));
      list.push_back(context->step(MMSB_OP_REDUCE, 5, {2}, words({SUM, 3, 0, 0})));
      list.push_back(context->step(MMSB_OP_MATMUL, 3, {2, 1}, words({0, 0})));
    }
    Bytes old(bytes);
    c.write(1, F64, old);
    const u64 startNs = nowNs();
    const auto full = [](std::vector<u32> list) {
      for (u32& step : list) step |= MMSB_STEP_FULL;
      return list;
    };
    CHECK(c.execute(full(steps), {}).status == MMSB_OK);
    const u32 tookUs = u32((nowNs() - startNs) / 1000) + 1;
    u32 cancelled = 0;
    for (u32 round = 0; round < rounds(40); round++) {
      seed(round);
      const u32 first = below(side * side), count = 1 + below(side * side - first);
      Bytes fill = old;
      for (u32 i = first; i < first + count; i++) {
        const double value = double(below(16));
        memcpy(&fill[8ull * i], &value, 8);
      }
      Frame frame;
      frame.dense(1, 0, F64, first, count, &fill[8ull * first]);
      const Bytes done = frame.done();
      const std::string before = c.state();
      if (kept) CHECK(mmsb_keep(c.ctx, 1) == MMSB_OK);
      // The first round cancels before the call begins, so that one call is cancelled on any machine.
      Canceller job = {&c, round == 0 ? 0 : u64(below(2 * tookUs)) * 1000};
      pthread_t thread;
      CHECK(pthread_create(&thread, nullptr, cancelLater, &job) == 0);
      if (round == 0) pthread_join(thread, nullptr);
      const int status = c.execute(steps, done).status;
      if (round > 0) pthread_join(thread, nullptr);
      mmsb_cancel(c.ctx, 0);
      CHECK(status == MMSB_OK || status == MMSB_ERR_CANCELLED);
      if (status == MMSB_ERR_CANCELLED) {
        cancelled++;
        if (kept) {
          CHECK(mmsb_undo(c.ctx, steps.data(), u32(steps.size())) == MMSB_OK);
        } else {
          Frame back;
          back.dense(1, 0, F64, 0, side * side, old.data());
          CHECK(c.execute(steps, back.done()).status == MMSB_OK);
        }
        CHECK(c.state() == before);
      } else {
        old = fill;
      }
      if (kept) CHECK(mmsb_keep(c.ctx, 0) == MMSB_OK);
      if (status != MMSB_OK || !kept) continue;
      double sum = 0, value;
      for (u32 i = 0; i < side * side; i++) memcpy(&value, &old[8ull * i], 8), sum += value;
      memcpy(&value, c.read(4, 8).data(), 8);
      CHECK(value == sum);
    }
    CHECK(cancelled > 0);
    fresh.write(1, F64, old);
    CHECK(fresh.execute(full(freshSteps), {}).status == MMSB_OK);
    CHECK(c.state() == fresh.state());
    const u32 word = 1;
    mmsb_cancel_by(fresh.ctx, &word);
    CHECK(fresh.execute(freshSteps, {}).status == MMSB_ERR_CANCELLED);
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
    {"far-apart", testFarApart},
    {"long-overlap", testLongOverlap},
    {"threads-meet", testThreadsMeet},
    {"restored-is-unchanged", testRestoredIsUnchanged},
    {"coarsening", testCoarsening},
    {"many-pages", testManyPages},
    {"frame-fuzz", testFrameFuzz},
    {"cast", testCast},
    {"cast-edges", testCastEdges},
    {"reduce", testReduce},
    {"reduce-blocks", testReduceBlocks},
    {"reduce-long", testReduceLong},
    {"matmul", testMatmul},
    {"quantile", testQuantile},
    {"topk", testTopk},
    {"steps", testSteps},
    {"cancel", testCancel},
    {"graphs", testGraphs},
    {"every-run", testEveryRun},
    {"backends", testUnknownBackend},
    {"crc32c", testCrc},
    {"page-sizes", testPageSizes},
    {"reports", testReports},
    {"past", testPast},
    {"cancel-past", testCancelPast},
    {"fused-sizes", testFusedSizes},
    {"many-copies", testManyCopies},
    {"gather-boxes", testGatherBoxes},
    {"box-budget", testBoxBudget},
    {"quantile-ends", testQuantileEnds},
    {"counting", testCounting},
    {"reduce-shared", testReduceShared},
    {"window-sizes", testWindowSizes},
    {"matmul-end", testMatmulEnd},
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
