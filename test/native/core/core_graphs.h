// Random graphs of all ops. One context computes them incrementally, on several threads; another computes
// every step from scratch, in a call of its own and on one thread. Sizes lie on both sides of those at which
// code changes its path: blocks of 1,024 elements, chunks, lanes that are selected in memory, steps that run
// tile by tile, work that is worth threads.
#pragma once
#include "core_ops.h"

struct Node {
  u32 id, dtype;
  std::vector<u32> shape;
  u32 elements() const { return u32(elementsOf(shape)); }
  u64 bytes() const { return u64(elements()) * kSize[dtype]; }
};

struct GraphStep {
  u32 op;
  std::vector<u32> inputs;  // nodes
  Bytes params;
  Node out;
};

// Page 0 to kSources - 1 are written, page kSources is the past of page 0, the others are derived.
enum { MAIN, OTHER, LINE, COLUMN, FEW, TAPS, ONE, PLACES, kSources };

struct Graph {
  bool large;
  bool fuses;  // all steps are elementwise, of pages of two sizes
  std::vector<Node> nodes;
  std::vector<GraphStep> steps;

  const Node& any() const { return nodes[below(u32(nodes.size()))]; }
  // A random node that fits, or null.
  template <class Fits>
  const Node* find(Fits fits) const {
    std::vector<const Node*> found;
    for (const Node& node : nodes) {
      if (fits(node)) found.push_back(&node);
    }
    return found.empty() ? nullptr : found[below(u32(found.size()))];
  }
};

static const u64 kGraphElements = 400000;   // most elements of a page
static const u64 kGraphProducts = 4000000;  // most products of a matmul, a conv or a distance

static bool broadcastsTo(const std::vector<u32>& from, const std::vector<u32>& to) {
  if (from.size() > to.size()) return false;
  for (size_t d = 0; d < from.size(); d++) {
    const u32 size = from[from.size() - 1 - d];
    if (size != 1 && size != to[to.size() - 1 - d]) return false;
  }
  return true;
}

static std::vector<u32> withAxis(std::vector<u32> shape, u32 axis, u32 size) {
  shape[axis] = size;
  return shape;
}

// Ops that move or pick elements. Returns false if the step does not fit.
static bool drawMoving(const Graph& graph, const Node& x, u32 axis, GraphStep& step) {
  const u32 rank = u32(x.shape.size());
  step.out.dtype = x.dtype;
  step.out.shape = x.shape;
  switch (step.op) {
    case MMSB_OP_TRANSPOSE: {
      std::vector<u32> axes(rank);
      for (u32 d = 0; d < rank; d++) axes[d] = d;
      for (u32 d = rank; d-- > 1;) std::swap(axes[d], axes[below(d + 1)]);
      for (u32 d = 0; d < rank; d++) step.out.shape[d] = x.shape[axes[d]];
      step.params = words(axes);
      return true;
    }
    case MMSB_OP_RESHAPE:
      step.out.shape = {x.elements()};
      step.params = words({1, x.elements()});
      return true;
    case MMSB_OP_FLIP: step.params = words({below(1u << rank), 0}); return true;
    case MMSB_OP_SLICE:
      for (u32 d = 0; d < rank; d++) {
        const u32 stride = 1 + below(below(2) ? 3 : 1), count = 1 + below((x.shape[d] + stride - 1) / stride);
        const u32 span = (count - 1) * stride, first = below(x.shape[d] - span);
        const bool backward = below(2) != 0;
        for (u32 word : {backward ? first + span : first, count, backward ? 0 - stride : stride, 0u}) {
          put32(step.params, word);
        }
        step.out.shape[d] = count;
      }
      return true;
    case MMSB_OP_CONCAT:
      for (u32 i = 0; i < 1 + below(2); i++) {
        const Node* more = graph.find([&](const Node& y) {
          return y.shape.size() == rank && withAxis(y.shape, axis, 1) == withAxis(x.shape, axis, 1) &&
                 modelPromote(step.out.dtype, y.dtype) != DTYPES;
        });
        step.inputs.push_back(more->id);
        step.out.dtype = modelPromote(step.out.dtype, more->dtype);
        step.out.shape[axis] += more->shape[axis];
      }
      step.params = words({axis, 0});
      return true;
    default: break;
  }
  step.inputs.push_back(PLACES);
  const std::vector<u32> picked = withAxis(x.shape, axis, graph.nodes[PLACES].elements());
  if (step.op == MMSB_OP_GATHER) {
    step.out.shape = picked;
    step.params = words({axis, 0});
    return true;
  }
  const Node* values = graph.find([&](const Node& y) { return y.shape == picked; });
  if (values == nullptr && below(3) != 0) {  // what it picks can be scattered later
    step.op = MMSB_OP_GATHER;
    step.out.shape = picked;
    step.params = words({axis, 0});
    return true;
  }
  step.inputs.push_back(values == nullptr || below(4) == 0 ? u32(ONE) : values->id);
  step.params = words({axis, below(x.dtype >= F32 ? 4 : 7)});
  return true;
}

// Ops that fold or order lanes.
static bool drawLanes(const Node& x, u32 axis, GraphStep& step) {
  const u32 rank = u32(x.shape.size()), n = x.shape[axis];
  step.out.dtype = x.dtype;
  step.out.shape = x.shape;
  switch (step.op) {
    case MMSB_OP_REDUCE: {
      const u32 fn = below(REDUCE_FNS), axes = below(2) ? 1u << axis : below(1u << rank);
      step.out.dtype = reduceNatural(fn, x.dtype);
      step.out.shape.clear();
      for (u32 d = 0; d < rank; d++) {
        if ((axes >> d & 1) == 0) step.out.shape.push_back(x.shape[d]);
      }
      step.params = words({fn, axes, 0, 0});
      return true;
    }
    case MMSB_OP_QUANTILE: {
      const double qs[] = {0, 1, 0.5, 0.05, double(below(1000)) / 999};
      const bool all = below(2) != 0;
      put(step.params, &qs[below(5)], 8);
      put32(step.params, all ? 0xffffffffu : axis);
      put32(step.params, 0);
      step.out.dtype = x.dtype == F32 ? F32 : F64;
      if (all) step.out.shape.clear();
      else step.out.shape.erase(step.out.shape.begin() + axis);
      return true;
    }
    case MMSB_OP_TOPK: {
      const u32 k = 1 + below(std::min(n, below(2) ? 5u : 60u)), values = below(2);
      step.out.shape[axis] = k;
      if (!values) step.out.dtype = U32;
      step.params = words({k, axis, values, below(2)});
      return true;
    }
    case MMSB_OP_SCAN: {
      const u32 fn = below(4);
      step.out.dtype = reduceNatural(fn, x.dtype);
      step.params = words({fn, axis});
      return true;
    }
    case MMSB_OP_WINDOW: {
      const u32 fns[] = {SUM, MIN, MAX, MEAN}, fn = fns[below(4)];
      step.out.dtype = reduceNatural(fn, x.dtype);
      step.params = words({fn, 1 + below(below(2) ? std::min(n, 5u) : std::min(n, 2000u)), axis, 0});
      return true;
    }
    case MMSB_OP_SORT: step.params = words({axis, below(2)}); return true;
    case MMSB_OP_HISTOGRAM: {
      const double range[2] = {-6, 6};
      step.params = words({1 + below(below(2) ? 9 : 5000), 0});
      put(step.params, range, 16);
      break;
    }
    default:
      if (x.dtype >= F32) return false;
      step.params = words({1 + below(below(2) ? 9 : 5000), 0});
  }
  step.out.dtype = U32;
  step.out.shape = {0};
  memcpy(step.out.shape.data(), step.params.data(), 4);
  return true;
}

// Ops over two pages.
static bool drawPair(const Graph& graph, const Node& x, GraphStep& step) {
  const u32 rank = u32(x.shape.size());
  const auto takes = [&](const Node* y, const std::vector<u32>& shape, const Bytes& params) {
    step.inputs.push_back(y->id);
    step.out.shape = shape;
    step.out.dtype = modelPromote(x.dtype, y->dtype);
    step.params = params;
    return step.out.dtype != DTYPES;
  };
  std::vector<u32> outer(x.shape.begin(), x.shape.end() - 1);
  const u32 last = x.shape[rank - 1];
  if (step.op == MMSB_OP_MAP) {
    const bool smaller = below(2) != 0;  // if there is one
    const auto fits = [&](const Node& n) { return n.dtype == x.dtype && broadcastsTo(n.shape, x.shape); };
    const Node* y = graph.find([&](const Node& n) { return fits(n) && (!smaller || n.shape != x.shape); });
    if (y == nullptr) y = graph.find(fits);
    Ir ir;
    const u16 a = ir.input(u8(x.dtype)), b = ir.input(u8(x.dtype));
    const u8 ops[] = {3, 26, 27};
    return takes(y, x.shape, ir.blob(ir.add(ops[below(3)], u8(x.dtype), a, b)));
  }
  if (step.op == MMSB_OP_CONV) {
    const Node* y = graph.find([&](const Node& n) {
      return !n.shape.empty() && n.shape.size() <= std::min(rank, 2u) &&
             u64(n.elements()) * x.elements() <= kGraphProducts && n.elements() <= 200;
    });
    return y != nullptr && takes(y, x.shape, words({below(3), 0}));
  }
  const Node* y = graph.find([&](const Node& n) {
    const size_t axis = step.op == MMSB_OP_MATMUL ? 0 : 1;
    const bool fits = step.op == MMSB_OP_MATMUL ? n.shape.size() == 1 || n.shape.size() == 2 : n.shape.size() == 2;
    return fits && rank <= 2 && n.shape[axis] == last &&
           u64(x.elements()) * (n.elements() / n.shape[axis]) <= kGraphProducts;
  });
  if (y == nullptr) return false;
  if (step.op == MMSB_OP_DISTANCE) {
    outer.push_back(y->shape[0]);
    if (!takes(y, outer, words({below(3), 0}))) return false;
    if (step.out.dtype != F32) step.out.dtype = F64;
    return true;
  }
  const u32 semiring = below(4);
  if (y->shape.size() == 2) outer.push_back(y->shape[1]);
  if (semiring != 0 && semiring != 3 && modelPromote(x.dtype, y->dtype) == BOOL) return false;
  if (!takes(y, outer, words({semiring, 0}))) return false;
  if (semiring == 3) step.out.dtype = BOOL;
  return true;
}

// A random step over the nodes so far. Returns false if it does not fit.
static bool drawStep(const Graph& graph, GraphStep& step) {
  const u32 elementwise[] = {MMSB_OP_COPY, MMSB_OP_CAST, MMSB_OP_MAP, MMSB_OP_MAP};
  step.op = graph.fuses || (graph.large && below(2)) ? elementwise[below(4)]
            : below(8) == 0                          ? u32(MMSB_OP_MAP)
                                                     : 1 + below(21);
  const Node& x = graph.fuses ? graph.nodes[below(2)] : graph.large && below(2) ? graph.nodes[MAIN] : graph.any();
  step.inputs = {x.id};
  step.out.id = u32(graph.nodes.size());
  step.out.dtype = x.dtype;
  step.out.shape = x.shape;
  bool fits = true;
  switch (step.op) {
    case MMSB_OP_COPY: break;
    case MMSB_OP_CAST: step.out.dtype = below(DTYPES); break;
    case MMSB_OP_MAP:
    case MMSB_OP_MATMUL:
    case MMSB_OP_CONV:
    case MMSB_OP_DISTANCE: fits = !x.shape.empty() && drawPair(graph, x, step); break;
    default: {
      const u32 rank = u32(x.shape.size());
      if (rank == 0) return false;
      const u32 axis = below(rank);
      const bool moves = step.op >= MMSB_OP_GATHER && step.op != MMSB_OP_BINCOUNT && step.op != MMSB_OP_HISTOGRAM;
      fits = moves ? drawMoving(graph, x, axis, step) : drawLanes(x, axis, step);
    }
  }
  if (below(6) == 0 && step.op != MMSB_OP_COPY && step.op != MMSB_OP_RESHAPE) step.out.dtype = below(DTYPES);
  pad(step.params);
  return fits && elementsOf(step.out.shape) <= kGraphElements;
}

static Graph makeGraph(u32 dtype, const std::vector<u32>& main, const std::vector<u32>& other) {
  Graph graph = {};
  const u32 columns = main.back();
  std::vector<u32> column = main;
  column[column.size() == 3 ? 1 : column.size() - 1] = 1;
  const std::vector<std::vector<u32>> shapes = {
      main, other, {columns}, column, {3, columns}, {1 + below(below(2) ? 5 : 40)}, {}, {1 + below(2000)}};
  for (u32 i = 0; i < kSources; i++) graph.nodes.push_back({i, i == PLACES ? u32(I32) : dtype, shapes[i]});
  graph.nodes.push_back({kSources, dtype, main});
  return graph;
}

static void drawSteps(Graph& graph) {
  for (u32 tries = 0; graph.steps.size() < 16 && tries < 200; tries++) {
    GraphStep step;
    if (!drawStep(graph, step)) continue;
    graph.nodes.push_back(step.out);
    graph.steps.push_back(step);
  }
}

static u32 graphDtype() {
  const u32 dtypes[] = {F32, F32, F64, I32, U8, I16};
  return dtypes[below(6)];
}

static Graph drawGraph(u32 round) {
  const bool large = testBackend == MMSB_BACKEND_CPU && round % 10 == 9;
  u32 rows = 1 + below(40), columns = 1 + below(60);
  const u32 most = testBackend == MMSB_BACKEND_CPU ? 6 : 2;
  if (round % 4 == 2) rows = 1 + below(most), columns = 1000 + below(800 * most);
  if (round % 4 == 3) rows = 1000 + below(500 * most), columns = 1 + below(most);
  if (large) rows = 1 + below(400), columns = (140000 + below(140000)) / rows;
  std::vector<u32> main = {rows, columns};
  if (!large && round % 3 == 1) main = {1 + below(5), 1 + rows / 5, columns};
  const bool fuses = large && round % 20 == 9;
  Graph graph = makeGraph(graphDtype(), main, fuses ? std::vector<u32>{rows * columns + 999} : main);
  graph.large = large;
  graph.fuses = fuses;
  drawSteps(graph);
  return graph;
}

// Writes to some sources, and to their models.
static void drawDeltas(const Graph& graph, Frame& frame, std::vector<Bytes>& models) {
  for (u32 count = 1 + below(3); count > 0; count--) {
    const Node& node = graph.nodes[below(kSources)];
    Bytes& model = models[node.id];
    if (node.id == PLACES) {
      const u32 at = below(node.elements()), run = 1 + below(std::min(node.elements() - at, 30u));
      const u32 n = below(2) ? graph.nodes[MAIN].shape[0] : graph.nodes[MAIN].shape[1];
      for (u32 i = at; i < at + run; i++) {
        const i32 place = i32(below(2 * n + 4)) - i32(n) - 2;
        memcpy(&model[4ull * i], &place, 4);
      }
      frame.dense(node.id, 0, I32, at, run, &model[4ull * at]);
    } else if (graph.fuses || (graph.large && below(2))) {
      const u32 at = below(std::min(node.elements(), 100u)), run = node.elements() - at;
      const Bytes values = randomElements(node.dtype, run);
      memcpy(&model[u64(at) * kSize[node.dtype]], values.data(), values.size());
      frame.dense(node.id, 0, u8(node.dtype), at, run, values.data());
    } else {
      randomDelta(frame, node.id, node.dtype, node.elements(), model);
    }
  }
}

// The pages and steps of a graph in one context.
struct GraphRun {
  Context context;
  u32 past = 0;  // the step, or 0 if the past is an ordinary page
  std::vector<u32> steps;

  GraphRun(const Graph& graph, u32 threads, bool keepsPast) : context(threads) {
    for (const Node& node : graph.nodes) {
      CHECK(context.tryCreate(node.id, node.dtype, node.shape, 0, keepsPast ? randomLocation() : 0) == MMSB_OK);
    }
    if (keepsPast) past = context.step(MMSB_OP_COPY, kSources, {MAIN}, {}, 1, MMSB_STEP_PAST) | MMSB_STEP_BEFORE;
    for (const GraphStep& step : graph.steps) {
      const u32 version = step.op == MMSB_OP_QUANTILE || step.op == MMSB_OP_DISTANCE ? 2 : 1;
      steps.push_back(context.step(step.op, step.out.id, step.inputs, step.params, version));
    }
  }
  std::vector<u32> list(bool full) const {
    std::vector<u32> numbers = {past};
    for (u32 step : steps) numbers.push_back(step | (full ? MMSB_STEP_FULL : 0));
    return numbers;
  }
};

// What a call that is undone goes back to.
struct GraphState {
  std::vector<Bytes> models;  // of the sources and of the past
  std::string digest;
  bool stale;  // the derived pages were left out of a call
};

// The state of `live` is that of a graph that is computed from scratch.
static void compareGraphs(const Graph& graph, GraphRun& live, GraphRun& fresh, const std::vector<Bytes>& models) {
  for (u32 i = 0; i <= kSources; i++) {
    CHECK(mmsb_page_load(fresh.context.ctx, i, 0, models[i].size(), models[i].data()) == MMSB_OK);
  }
  for (u32 step : fresh.steps) CHECK(fresh.context.execute({step | MMSB_STEP_FULL}, {}).status == MMSB_OK);
  CHECK(live.context.state() == fresh.context.state());
  if (live.context.state() == fresh.context.state()) return;
  for (const GraphStep& step : graph.steps) {
    if (live.context.digest(step.out.id) == fresh.context.digest(step.out.id)) continue;
    printf("# page %u, of op %u, differs first\n", step.out.id, step.op);
    return;
  }
}

// The ranges that a call reports.
static void checkRanges(const Graph& graph, const Result& result, const std::vector<Bytes>& before, Context& c) {
  for (size_t i = 0; i < before.size(); i++) {
    const Node& node = graph.nodes[i];
    const Bytes after = c.read(node.id, node.bytes());
    const Change* change = result.of(node.id);
    CHECK((change != nullptr) == (before[i] != after));
    if (change != nullptr) CHECK(change->ranges == modelChanges(node.dtype, before[i], after));
  }
}

static std::vector<Bytes> readNodes(const Graph& graph, Context& c) {
  std::vector<Bytes> pages;
  for (const Node& node : graph.nodes) pages.push_back(c.read(node.id, node.bytes()));
  return pages;
}

static void runGraph(u32 round) {
  seed(round);
  plainNumbers = round % 4 != 0;
  const Graph graph = drawGraph(round);
  GraphRun live(graph, 1 + below(3), true), fresh(graph, 1, false);
  Context& c = live.context;
  const bool keeps = testBackend == MMSB_BACKEND_CPU && round % 3 == 0;
  if (keeps) CHECK(mmsb_keep(c.ctx, 1) == MMSB_OK);
  GraphState now = {{}, "", true};
  for (u32 i = 0; i <= kSources; i++) now.models.push_back(Bytes(graph.nodes[i].bytes()));
  std::vector<GraphState> older;
  for (u32 epoch = 0, epochs = testBackend == MMSB_BACKEND_CPU ? 8 : 4; epoch < epochs; epoch++) {
    now.digest = c.state();
    older.push_back(now);
    // Steps may be left out, and run in full later. So may the past, which then stays behind.
    const bool full = now.stale, leftOut = epoch != 0 && below(5) == 0, keepsPast = !leftOut || below(2);
    if (keepsPast) now.models[kSources] = now.models[MAIN];
    Frame frame;
    drawDeltas(graph, frame, now.models);
    std::vector<u32> steps;
    if (keepsPast) steps = {live.past};
    if (!leftOut) steps = live.list(full);
    const std::vector<Bytes> before = graph.large ? std::vector<Bytes>() : readNodes(graph, c);
    const Result result = c.execute(steps, frame.done());
    CHECK(result.status == MMSB_OK);
    now.stale = leftOut;
    checkRanges(graph, result, before, c);
    if (!leftOut) compareGraphs(graph, live, fresh, now.models);
    for (u32 back = keeps ? below(3) : 0; back > 0 && older.size() > 1; back--) {
      CHECK(mmsb_undo(c.ctx, live.list(false).data(), u32(1 + live.steps.size())) == MMSB_OK);
      now = older.back();
      older.pop_back();
      CHECK(c.state() == now.digest);
    }
  }
  plainNumbers = false;
}

// A change of every run of elements of a few small pages.
static void testEveryRun() {
  for (u32 round = 0; round < rounds(testBackend == MMSB_BACKEND_CPU ? 12 : 6); round++) {
    seed(round);
    plainNumbers = true;
    const std::vector<std::vector<u32>> shapes = {{23}, {4, 6}, {3, 7}, {2, 3, 4}, {12, 2}, {2, 5, 2}};
    const std::vector<u32>& shape = shapes[round % shapes.size()];
    const bool flat = shape.size() == 2;
    const u32 dtype = graphDtype();
    Graph graph = makeGraph(dtype, shape, flat ? std::vector<u32>{3, shape[0]} : shape);
    graph.nodes[PLACES].shape = {1 + below(9)};
    const auto add = [&](u32 op, u32 first, u32 second, const Bytes& params, const std::vector<u32>& out) {
      graph.steps.push_back({op, {first, second}, params, {u32(graph.nodes.size()), dtype, out}});
      graph.nodes.push_back(graph.steps.back().out);
    };
    for (const u32 smaller : {LINE, COLUMN}) {
      Ir ir;
      const u16 x = ir.input(u8(dtype)), y = ir.input(u8(dtype));
      add(MMSB_OP_MAP, MAIN, smaller, ir.blob(ir.add(3, u8(dtype), x, y)), shape);
    }
    if (flat) add(MMSB_OP_MATMUL, OTHER, MAIN, words({0, 0}), {3, shape[1]});
    add(MMSB_OP_GATHER, MAIN, PLACES, words({0, 0}), withAxis(shape, 0, graph.nodes[PLACES].elements()));
    add(MMSB_OP_SCATTER, MAIN, PLACES, words({0, 1}), shape);
    graph.steps.back().inputs.push_back(graph.steps.back().out.id - 1);
    drawSteps(graph);
    GraphRun live(graph, 1, true), fresh(graph, 1, false);
    std::vector<Bytes> models;
    for (u32 i = 0; i <= kSources; i++) {
      const Node& node = graph.nodes[i];
      models.push_back(randomElements(node.dtype, node.elements()));
      CHECK(mmsb_page_load(live.context.ctx, i, 0, models[i].size(), models[i].data()) == MMSB_OK);
    }
    CHECK(live.context.execute(live.list(true), {}).status == MMSB_OK);
    u32 number = 0;
    for (const u32 source : {MAIN, LINE, COLUMN, FEW, PLACES}) {
      const Node& node = graph.nodes[source];
      for (u32 at = 0; at < node.elements(); at++) {
        for (u32 end = at + 1; end <= node.elements(); end++) {
          if (!isSampled(number++)) continue;
          const Bytes values = randomElements(node.dtype, end - at);
          models[kSources] = models[MAIN];
          memcpy(&models[source][u64(at) * kSize[node.dtype]], values.data(), values.size());
          Frame frame;
          frame.dense(source, 0, u8(node.dtype), at, end - at, values.data());
          CHECK(live.context.execute(live.list(false), frame.done()).status == MMSB_OK);
          compareGraphs(graph, live, fresh, models);
        }
      }
    }
  }
  plainNumbers = false;
}

static void testGraphs() {
  for (u32 round = 0; round < rounds(testBackend == MMSB_BACKEND_CPU ? 60 : 30); round++) runGraph(round);
}
