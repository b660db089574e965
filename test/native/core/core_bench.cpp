// Microbenchmarks of the native core on one thread (or `core_bench THREADS`): ns per hop, deltas per second,
// and bytes per second compared with memcpy. Prints one JSON object per line.
#include "core_kit.h"

static u32 threads = 1;

static void report(const char* name, double value, const char* unit, double budget = 0) {
  printf("{\"name\":\"%s\",\"value\":%.2f,\"unit\":\"%s\"", name, value, unit);
  if (budget != 0) printf(",\"budget\":%.2f", budget);
  printf("}\n");
  fflush(stdout);
}

static Bytes timesPlus(double factor, double addend) {
  Ir ir;
  const u16 x = ir.input(F32);
  const u16 product = ir.add(5, F32, x, ir.constant(factor, F32));
  return ir.blob(ir.add(3, F32, product, ir.constant(addend, F32)));
}

// Best of several runs of `body`, in nanoseconds.
template <class Body>
static double best(u32 runs, Body body) {
  double least = 1e300;
  for (u32 i = 0; i < runs; i++) {
    const u64 start = nowNs();
    body(i);
    least = std::min(least, double(nowNs() - start));
  }
  return least;
}

static int run(Context& c, const std::vector<u32>& steps, const Bytes& frames, Bytes& out) {
  u64 length;
  return mmsb_execute(c.ctx, steps.data(), u32(steps.size()), frames.data(), frames.size(), out.data(), out.size(),
                      &length);
}

static double memcpyNs(u64 bytes, u32 n) {
  u64 ns;
  mmsb_bench_memcpy(bytes, n, &ns);
  return double(ns);
}

// A chain of maps on small pages; every element changes at each hop.
static void chain(u32 hops, u32 elements) {
  Context c(threads);
  c.create(0, F32, {elements});
  std::vector<u32> steps;
  for (u32 i = 1; i <= hops; i++) {
    c.create(i, F32, {elements});
    steps.push_back(c.step(MMSB_OP_MAP, i, {i - 1}, timesPlus(1.0001, 0.5)));
  }
  Bytes out(1 << 20);
  std::vector<float> values(elements);
  const double ns = best(40, [&](u32 round) {
    for (u32 i = 0; i < elements; i++) values[i] = float(i + round);
    Frame frame;
    frame.dense(0, 0, F32, 0, elements, values.data());
    run(c, steps, frame.done(), out);
  });
  char name[64];
  snprintf(name, sizeof name, "hop, %u bytes, chain of %u", elements * 4, hops);
  report(name, ns / hops, "ns", 300);
}

// 64 bytes through ten maps on a page of the given size.
static double smallDelta(u32 elements) {
  Context c(threads);
  c.create(0, F32, {elements});
  std::vector<u32> steps;
  for (u32 i = 1; i <= 10; i++) {
    c.create(i, F32, {elements});
    steps.push_back(c.step(MMSB_OP_MAP, i, {i - 1}, timesPlus(1.0001, 0.5)));
  }
  Bytes out(1 << 20);
  std::vector<u32> full = steps;
  for (u32& step : full) step |= MMSB_STEP_FULL;
  run(c, full, {}, out);
  std::vector<Bytes> frames;
  for (u32 i = 0; i < 2000; i++) {
    float values[16];
    for (u32 k = 0; k < 16; k++) values[k] = float(rnd() % 1000000);
    Frame frame;
    frame.dense(0, 0, F32, below(elements / 16) * 16, 16, values);
    frames.push_back(frame.done());
  }
  std::vector<double> times;
  for (const Bytes& frame : frames) {
    const u64 start = nowNs();
    run(c, steps, frame, out);
    times.push_back(double(nowNs() - start));
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

static void deltas(const char* name, u32 pages, u32 elements, u32 bytes, bool oneFrame) {
  Context c(threads);
  for (u32 i = 0; i < pages; i++) c.create(i, F32, {elements});
  const u32 count = 100000, width = bytes / 4;
  Bytes frames;
  Frame all;
  for (u32 i = 0; i < count; i++) {
    std::vector<float> values(width);
    for (float& value : values) value = float(rnd() % 1000);
    const u32 page = below(pages), offset = below(elements - width + 1);
    if (oneFrame) {
      all.dense(page, 0, F32, offset, width, values.data());
    } else {
      Frame frame;
      frame.dense(page, 0, F32, offset, width, values.data());
      put(frames, frame.done().data(), frame.bytes.size());
    }
  }
  if (oneFrame) frames = all.done();
  Bytes out(1 << 24);
  const double ns = best(7, [&](u32) { run(c, {}, frames, out); });
  report(name, count / ns * 1e3, "M deltas/s", 10);
}

static void dense(u32 elements) {
  Context c(threads);
  c.create(0, F32, {elements});
  Bytes out(1 << 16);
  Frame frames[2];
  for (u32 f = 0; f < 2; f++) {
    std::vector<float> values(elements);
    for (u32 i = 0; i < elements; i++) values[i] = float(i * 2 + f);
    frames[f].dense(0, 0, F32, 0, elements, values.data());
    frames[f].done();
  }
  const double ns = best(12, [&](u32 round) { run(c, {}, frames[round % 2].bytes, out); });
  const double copy = memcpyNs(u64(elements) * 4, 10);
  report("dense set, 64 MiB", elements * 4.0 / ns, "GB/s");
  report("memcpy, 64 MiB", elements * 4.0 / copy, "GB/s");
  report("dense set beside memcpy", copy / ns, "ratio");
}

static void opRate(const char* name, u32 op, const Bytes& params, u32 dtype, std::vector<u32> shape, u32 outDtype,
                   std::vector<u32> outShape, double work, const char* unit, u32 inputs = 1) {
  Context c(threads);
  std::vector<u32> ids;
  for (u32 i = 0; i < inputs; i++) {
    c.create(i, dtype, shape);
    u64 count = 1;
    for (u32 size : shape) count *= size;
    Bytes values(count * kSize[dtype]);
    for (u64 k = 0; k < count; k++) {
      const float narrow = float(rnd() % 100000) / 7;
      const double wide = narrow;
      memcpy(&values[k * kSize[dtype]], dtype == F32 ? (const void*)&narrow : (const void*)&wide, kSize[dtype]);
    }
    mmsb_page_load(c.ctx, i, 0, values.size(), values.data());
    ids.push_back(i);
  }
  c.create(99, outDtype, outShape);
  const u32 step = c.step(op, 99, ids, params);
  Bytes out(1 << 16);
  const double ns = best(5, [&](u32) { run(c, {step | MMSB_STEP_FULL}, {}, out); });
  report(name, work / ns, unit);
}

static void createPages() {
  const u32 count = 100000;
  std::vector<mmsb_page_desc> descs(count);
  for (u32 i = 0; i < count; i++) {
    memset(&descs[i], 0, sizeof descs[i]);
    descs[i].id = i;
    descs[i].dtype = F32;
    descs[i].rank = 1;
    descs[i].shape[0] = 256;
  }
  const double ns = best(3, [&](u32) {
    Context c(threads);
    mmsb_pages_create(c.ctx, descs.data(), count);
  });
  report("page creation and destruction, 1 KiB, batch", ns / count, "ns", 1000);
  Context c(threads);
  const u64 start = nowNs();
  mmsb_pages_create(c.ctx, descs.data(), count);
  report("page creation, 1 KiB, batch", double(nowNs() - start) / count, "ns", 1000);
}

static void pathOfSum() {
  Context c(threads);
  c.create(0, F32, {1u << 26});
  c.create(1, F32, {});
  const u32 step = c.step(MMSB_OP_REDUCE, 1, {0}, words({0, 1, 0, 0}));
  Bytes out(1 << 16);
  run(c, {step | MMSB_STEP_FULL}, {}, out);
  std::vector<double> times;
  for (u32 i = 0; i < 500; i++) {
    const float value = float(i + 1);
    Frame frame;
    frame.dense(0, 0, F32, below(1u << 26), 1, &value);
    frame.done();
    const u64 start = nowNs();
    run(c, {step}, frame.bytes, out);
    times.push_back(double(nowNs() - start));
  }
  std::sort(times.begin(), times.end());
  report("one element of a 256 MiB sum", times[250] / 1e3, "us");
}

static void crc() {
  Bytes bytes(16 << 20, 7);
  u32 sum = 0;
  const double ns = best(5, [&](u32) { sum += mmsb_crc32c(bytes.data(), bytes.size(), 0); });
  report("crc32c", bytes.size() / ns, "GB/s");
  if (sum == 1) printf("#\n");
}

int main(int argc, char** argv) {
  if (argc > 1) threads = u32(atoi(argv[1]));
  printf("# %s\n", mmsb_build_info());
  chain(1000, 256);
  chain(1000, 16);
  const double small = smallDelta(1 << 14), large = smallDelta(1 << 26);
  report("64 bytes through 10 maps, 64 KiB pages", small, "ns");
  report("64 bytes through 10 maps, 256 MiB pages", large, "ns");
  report("large beside small", large / small, "ratio", 2);
  deltas("8-byte deltas, one frame, 1 page of 4 KiB", 1, 1024, 8, true);
  deltas("8-byte deltas, one frame, 100 pages of 4 KiB", 100, 1024, 8, true);
  deltas("64-byte deltas, one frame, 100 pages of 4 KiB", 100, 1024, 64, true);
  deltas("8-byte deltas, a frame each, 100 pages of 4 KiB", 100, 1024, 8, false);
  deltas("8-byte deltas, one frame, 1 page of 64 MiB", 1, 1 << 24, 8, true);
  dense(1 << 24);
  createPages();
  pathOfSum();
  crc();
  const double million = 1 << 24;
  opRate("map x * a + b, 64 MiB", MMSB_OP_MAP, timesPlus(1.5, 0.5), F32, {1 << 24}, F32, {1 << 24}, million * 8,
         "GB/s");
  opRate("sum f32, 64 MiB", MMSB_OP_REDUCE, words({0, 1, 0, 0}), F32, {1 << 24}, F32, {}, million * 4, "GB/s");
  opRate("sum f32 of rows, 4096 x 4096", MMSB_OP_REDUCE, words({0, 2, 0, 0}), F32, {4096, 4096}, F32, {4096},
         million * 4, "GB/s");
  opRate("sum f32 of columns, 4096 x 4096", MMSB_OP_REDUCE, words({0, 1, 0, 0}), F32, {4096, 4096}, F32, {4096},
         million * 4, "GB/s");
  opRate("max f32, 64 MiB", MMSB_OP_REDUCE, words({3, 1, 0, 0}), F32, {1 << 24}, F32, {}, million * 4, "GB/s");
  opRate("var f64, 128 MiB", MMSB_OP_REDUCE, words({5, 1, 0, 0}), F64, {1 << 24}, F64, {}, million * 8, "GB/s");
  opRate("argmax f32, 64 MiB", MMSB_OP_REDUCE, words({10, 1, 0, 0}), F32, {1 << 24}, U32, {}, million * 4, "GB/s");
  opRate("matmul f32, 1024", MMSB_OP_MATMUL, words({0, 0}), F32, {1024, 1024}, F32, {1024, 1024}, 2.0 * (1 << 30),
         "Gflop/s", 2);
  opRate("matmul f64, 768", MMSB_OP_MATMUL, words({0, 0}), F64, {768, 768}, F64, {768, 768}, 2.0 * 768 * 768 * 768,
         "Gflop/s", 2);
  Bytes q;
  const double level = 0.05;
  put(q, &level, 8);
  put32(q, 0);
  put32(q, 0);
  opRate("quantile f32, 10000 x 200, axis 0", MMSB_OP_QUANTILE, q, F32, {10000, 200}, F32, {200}, 2e6, "G elements/s");
  opRate("quantile f32, 16 Mi", MMSB_OP_QUANTILE, q, F32, {1 << 24}, F32, {}, million, "G elements/s");
  opRate("topk 10 of 16 Mi", MMSB_OP_TOPK, words({10, 0, 0, 1}), F32, {1 << 24}, U32, {10}, million, "G elements/s");
  return checksFailed == 0 ? 0 : 1;
}
