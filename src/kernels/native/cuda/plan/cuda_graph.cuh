// Captured graphs: a segment that is launched again with the same arguments goes to the device as one graph.
//
// Invariants: the key of a graph covers all arguments of its kernels and copies, except what they read from
// the staging buffer. Keys contain the serial numbers of steps, which are never reused, so a graph of
// destroyed steps is never launched. A segment is captured when its key appears for the second time. After a
// failed capture, capturing is switched off.
#pragma once
#include "cuda/memory/cuda_api.cuh"

namespace mmsb {

static const u32 kGraphsMax = 64;

struct CapturedGraph {
  u64 key[2];
  cudaGraphExec_t exec;  // null: the key appeared once
  u64 lastUse;
};

struct Graphs {
  CapturedGraph list[kGraphsMax];
  u32 count;
  bool off;
  u64 uses, captured, launched;
};

struct GraphKey {
  u64 hash[2];
};

namespace MMSB_NS {

static inline GraphKey graphKey() { return GraphKey{{0xcbf29ce484222325ull, 0x9e3779b97f4a7c15ull}}; }

// Mixes in a word by two multiplications with different odd constants.
static inline void keyAdd(GraphKey& key, u64 word) {
  key.hash[0] = (key.hash[0] ^ word) * 0xff51afd7ed558ccdull;
  key.hash[0] ^= key.hash[0] >> 32;
  key.hash[1] = (key.hash[1] + word) * 0xc4ceb9fe1a85ec53ull;
  key.hash[1] ^= key.hash[1] >> 29;
}
static inline void keyAdd(GraphKey& key, const void* pointer) {
  keyAdd(key, u64(reinterpret_cast<uintptr_t>(pointer)));
}

// Returns the entry of a key; if there is none, replaces the least recently used one.
static CapturedGraph& graphEntry(Graphs& graphs, const GraphKey& key) {
  graphs.uses++;
  u32 oldest = 0;
  for (u32 i = 0; i < graphs.count; i++) {
    CapturedGraph& entry = graphs.list[i];
    if (memcmp(entry.key, key.hash, 16) == 0) {
      entry.lastUse = graphs.uses;
      return entry;
    }
    if (entry.lastUse < graphs.list[oldest].lastUse) oldest = i;
  }
  CapturedGraph& entry = graphs.list[graphs.count < kGraphsMax ? graphs.count++ : oldest];
  if (entry.exec != nullptr) cudaGraphExecDestroy(entry.exec);
  entry = CapturedGraph{{key.hash[0], key.hash[1]}, nullptr, 0};  // lastUse 0: new
  return entry;
}

// Captures what `start` puts into the stream as a graph. Returns null on failure; then nothing has been
// started.
template <class Start>
static cudaGraphExec_t captureGraph(cudaStream_t stream, const Start& start) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  if (cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) return nullptr;
  const int32_t started = start();
  if (cudaStreamEndCapture(stream, &graph) != cudaSuccess || started != MMSB_OK) exec = nullptr;
  else if (cudaGraphInstantiate(&exec, graph, 0) != cudaSuccess) exec = nullptr;
  if (graph != nullptr) cudaGraphDestroy(graph);
  cudaGetLastError();
  return exec;
}

// Puts the work of `start` into the stream, as a graph if the key appeared before.
template <class Start>
static int32_t startByGraph(Graphs& graphs, const GraphKey& key, cudaStream_t stream, const Start& start) {
  if (graphs.off) return start();
  CapturedGraph& entry = graphEntry(graphs, key);
  const bool known = entry.lastUse != 0;
  entry.lastUse = graphs.uses;
  if (known && entry.exec == nullptr) {
    entry.exec = captureGraph(stream, start);
    graphs.off = entry.exec == nullptr;
    graphs.captured += graphs.off ? 0 : 1;
  }
  if (entry.exec == nullptr) return start();
  graphs.launched++;
  MMSB_CUDA(cudaGraphLaunch(entry.exec, stream));
  return MMSB_OK;
}

static void closeGraphs(Graphs& graphs) {
  for (u32 i = 0; i < graphs.count; i++) {
    if (graphs.list[i].exec != nullptr) cudaGraphExecDestroy(graphs.list[i].exec);
  }
  graphs.count = 0;
}

}  // namespace MMSB_NS
}  // namespace mmsb
