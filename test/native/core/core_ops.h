// Tests of ops against their models, computed from scratch and incrementally.
#pragma once
#include <functional>

#include "core_pages.h"

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

// A small change of a long lane computes the blocks of 1024 that it meets, all of them and also the last.
static void testReduceBlocks() {
  const u32 n = 10007, rows = 2;
  const u32 changes[][2] = {{1000, 100}, {500, 3000}, {1023, 2}, {1024, 1}, {n - 1, 1}, {n - 1, 2}, {n + 1000, 2100}};
  for (u32 fn = 0; fn < REDUCE_FNS; fn++) {
    for (const u32 dtype : {u32(I32), u32(F64)}) {
      seed(fn);
      Context c;
      const u32 natural = reduceNatural(fn, dtype), size = kSize[dtype];
      c.create(1, dtype, {rows, n});
      c.create(2, natural, {rows});
      Bytes model(u64(rows) * n * size);
      const u32 step = c.step(MMSB_OP_REDUCE, 2, {1}, words({fn, 2, 0, 0}));
      for (const auto& change : changes) {
        const Bytes values = randomElements(dtype, change[1]);
        memcpy(model.data() + u64(change[0]) * size, values.data(), values.size());
        Frame frame;
        frame.dense(1, 0, u8(dtype), change[0], change[1], values.data());
        CHECK(c.execute({step}, frame.done()).status == MMSB_OK);
        Bytes expected(rows * kSize[natural]);
        for (u32 r = 0; r < rows; r++) {
          std::vector<const u8*> lane;
          for (u32 i = 0; i < n; i++) lane.push_back(model.data() + (u64(r) * n + i) * size);
          modelReduce(fn, dtype, lane, expected.data() + r * kSize[natural]);
        }
        CHECK(c.read(2, expected.size()) == expected);
      }
      // The step is left out of a call, and then runs in full.
      for (const u32 place : {3000u, 7000u}) {
        const Bytes value = randomElements(dtype, 1);
        memcpy(model.data() + u64(place) * size, value.data(), size);
        Frame frame;
        frame.dense(1, 0, u8(dtype), place, 1, value.data());
        CHECK(c.execute(place == 3000 ? std::vector<u32>() : std::vector<u32>{step | MMSB_STEP_FULL}, frame.done())
                  .status == MMSB_OK);
      }
      std::vector<const u8*> lane;
      for (u32 i = 0; i < n; i++) lane.push_back(model.data() + u64(i) * size);
      Bytes expected(kSize[natural]);
      modelReduce(fn, dtype, lane, expected.data());
      CHECK(c.read(2, kSize[natural]) == expected);
    }
  }
}

// Long lanes keep a tree of partials; threads share the work.
static void testReduceLong() {
  for (u32 round = 0; round < rounds(22); round++) {
    seed(round);
    const u32 fn = round % REDUCE_FNS, dtype = below(3) == 0 ? below(DTYPES) : u32(below(2) ? F32 : F64);
    const u32 count = 210000 + below(5000), rows = 1 + below(2);  // enough for threads
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

static std::vector<Number> numbersOf(u32 dtype, const Bytes& values) {
  std::vector<Number> numbers;
  for (size_t at = 0; at < values.size(); at += kSize[dtype]) numbers.push_back(load(dtype, &values[at]));
  return numbers;
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
    const u32 m = 1 + below(below(5) == 0 ? 150 : 9), n = 1 + below(below(5) == 0 ? 150 : 9),
              k = below(10) == 0 && !tropical ? 0 : 1 + below(below(6) == 0 ? 600 : 9);
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
          const std::vector<Number> x = numbersOf(natural, castAll(a, natural, in[0]));
          const std::vector<Number> y = numbersOf(natural, castAll(b, natural, in[1]));
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
                modelChain(semiring, natural, x.data() + (atA * rows + i) * k, y.data() + atB * k * columns + j,
                           columns, k, result.data() + ((matrix * rows + i) * columns + j) * kSize[natural]);
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
