// Emulates enough of CUDA to run the library's device code without a GPU. Kernels are plain functions; the
// threads of a block are coroutines that run until a barrier or a shuffle; blocks run one after another. Only
// for correctness tests. Included before kernels.cu (-include), and defines MMSB_CUDA_EMULATED.
#pragma once
#define MMSB_CUDA_EMULATED 1
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <functional>
#include <vector>

#define __device__
#define __global__
#define __host__
#define __shared__ static
#define __restrict__

struct EmulatedDim {
  unsigned x, y, z;
};
static EmulatedDim threadIdx, blockIdx, blockDim, gridDim;

namespace emulated {

static const unsigned kThreadsMax = 1024;
static const size_t kStackBytes = 128 << 10;

enum State { READY, AT_BLOCK, AT_WARP, DONE };

struct Fiber {
  void* stackPointer;
  char* stack;
  State state;
  unsigned turn;  // how many barriers of its warp it has passed, modulo 2
};

static const unsigned kNobody = ~0u;

static Fiber fibers[kThreadsMax];
static void* scheduler;
static unsigned current, threadCount;
static void (*body)(void*);
static void* bodyArgument;
// What threads of a warp tell each other. Between two barriers some threads read what was told before the
// first, while others write what is told at the second; so there are two sets, in turn.
static uint64_t warpSlots[2][kThreadsMax];
static int blockVote;

extern "C" void mmsb_emulated_switch(void** save, void* load);
__asm__(
    ".text\n.globl mmsb_emulated_switch\n.type mmsb_emulated_switch, @function\nmmsb_emulated_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n");

static unsigned nextReady();

// Goes on with the next thread at once. By way of the scheduler it would be two switches, which the
// processor predicts wrongly; most of the time of a kernel would go into them.
static void pause(State state) {
  Fiber& own = fibers[current];
  own.state = state;
  const unsigned next = nextReady();
  if (next == current) return;
  current = next;
  threadIdx = {next, 0, 0};
  mmsb_emulated_switch(&own.stackPointer, next == kNobody ? scheduler : fibers[next].stackPointer);
}

static void fiberMain() {
  body(bodyArgument);
  pause(DONE);
  abort();
}

static void startFiber(unsigned number) {
  Fiber& fiber = fibers[number];
  if (fiber.stack == nullptr) fiber.stack = static_cast<char*>(aligned_alloc(64, kStackBytes));
  void** top = reinterpret_cast<void**>(fiber.stack + kStackBytes);
  *--top = nullptr;  // aligns the stack as after a call
  *--top = reinterpret_cast<void*>(&fiberMain);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  fiber.stackPointer = top;
  fiber.state = READY;
  fiber.turn = 0;
}

// True if all threads of [first, end) that have not finished wait in `state`; then they may continue.
static bool release(unsigned first, unsigned end, State state) {
  bool waiting = false;
  for (unsigned i = first; i < end; i++) {
    if (fibers[i].state != state && fibers[i].state != DONE) return false;
    waiting = waiting || fibers[i].state == state;
  }
  for (unsigned i = first; i < end; i++) {
    if (fibers[i].state == state) fibers[i].state = READY;
  }
  return waiting;
}

// The next thread after the current one that can run, in rounds over the block; kNobody when all are done.
static unsigned nextReady() {
  for (unsigned i = current + 1;; i = 0) {
    for (; i < threadCount; i++) {
      if (fibers[i].state == READY) return i;
    }
    bool released = release(0, threadCount, AT_BLOCK);
    for (unsigned w = 0; w < threadCount; w += 32) {
      released = release(w, w + 32 < threadCount ? w + 32 : threadCount, AT_WARP) || released;
    }
    if (released) continue;
    for (i = 0; i < threadCount; i++) {
      if (fibers[i].state == DONE) continue;
      fprintf(stderr, "emulated CUDA: a barrier that not all threads reach\n");
      abort();
    }
    return kNobody;
  }
}

static void runBlock(unsigned threads) {
  threadCount = threads;
  for (unsigned i = 0; i < threads; i++) startFiber(i);
  current = 0;
  threadIdx = {0, 0, 0};
  mmsb_emulated_switch(&scheduler, fibers[0].stackPointer);
}

template <class Body>
static void launch(unsigned grid, unsigned block, Body run) {
  if (grid == 0 || block == 0 || block > kThreadsMax) {
    fprintf(stderr, "emulated CUDA: a launch of %u x %u\n", grid, block);
    abort();
  }
  body = [](void* argument) { (*static_cast<Body*>(argument))(); };
  bodyArgument = &run;
  gridDim = {grid, 1, 1};
  blockDim = {block, 1, 1};
  for (unsigned b = 0; b < grid; b++) {
    blockIdx = {b, 0, 0};
    runBlock(block);
  }
  body = nullptr;
  bodyArgument = nullptr;
}

}  // namespace emulated

// A stream that is being captured records its work, with the arguments of that time.
namespace emulated {
typedef std::vector<std::function<void()>> Graph;
static thread_local Graph* capturing;

template <class Work>
static void enqueue(const Work& work) {
  if (capturing != nullptr) capturing->push_back(work);
  else work();
}
template <class Kernel, class... Arguments>
static void start(Kernel kernel, unsigned grid, unsigned block, Arguments... arguments) {
  enqueue([=] { launch(grid, block, [&] { kernel(arguments...); }); });
}
}  // namespace emulated

#define MMSB_LAUNCH(KERNEL, GRID, BLOCK, STREAM, ...)          \
  do {                                                         \
    (void)(STREAM);                                            \
    const auto emulatedKernel = KERNEL;                        \
    emulated::start(emulatedKernel, GRID, BLOCK, __VA_ARGS__); \
  } while (0)

// ---- device functions -------------------------------------------------------------------------------------

static inline void __syncthreads() { emulated::pause(emulated::AT_BLOCK); }
static inline int __syncthreads_or(int vote) {
  if (vote) emulated::blockVote = 1;
  __syncthreads();
  const int result = emulated::blockVote;
  __syncthreads();
  if (emulated::current == 0) emulated::blockVote = 0;
  __syncthreads();
  return result;
}
static inline void __syncwarp(unsigned = 0xffffffffu) {
  emulated::fibers[emulated::current].turn ^= 1;
  emulated::pause(emulated::AT_WARP);
}

// Tells the warp a value; returns what each of the block told.
template <class T>
static inline const uint64_t* emulatedExchange(T value) {
  const unsigned own = emulated::current;
  uint64_t* slots = emulated::warpSlots[emulated::fibers[own].turn];
  slots[own] = 0;
  memcpy(&slots[own], &value, sizeof value);
  __syncwarp();
  return slots;
}

template <class T>
static inline T emulatedShuffle(T value, unsigned from) {
  const unsigned own = emulated::current;
  const uint64_t* slots = emulatedExchange(value);
  T result;
  memcpy(&result, &slots[from < 32 ? (own & ~31u) + from : own], sizeof result);
  return result;
}
template <class T>
static inline T __shfl_down_sync(unsigned, T value, unsigned delta) {
  return emulatedShuffle(value, (emulated::current & 31) + delta);
}
template <class T>
static inline T __shfl_xor_sync(unsigned, T value, unsigned mask) {
  return emulatedShuffle(value, (emulated::current & 31) ^ mask);
}
template <class T>
static inline T __shfl_sync(unsigned, T value, int lane) {
  return emulatedShuffle(value, unsigned(lane));
}

static inline unsigned __match_any_sync(unsigned, unsigned value) {
  const unsigned first = emulated::current & ~31u;
  const uint64_t* slots = emulatedExchange(value) + first;
  unsigned peers = 0;
  for (unsigned i = 0; i < 32; i++) peers |= (slots[i] == value ? 1u : 0u) << i;
  return peers;
}
static inline unsigned __ballot_sync(unsigned, int vote) {
  const unsigned first = emulated::current & ~31u;
  const uint64_t* slots = emulatedExchange(vote != 0) + first;
  unsigned votes = 0;
  for (unsigned i = 0; i < 32; i++) votes |= unsigned(slots[i]) << i;
  return votes;
}
static inline int __all_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) == 0xffffffffu; }
static inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

template <class T>
static inline T atomicAdd(T* at, T value) {
  const T old = *at;
  *at = old + value;
  return old;
}
template <class T>
static inline T atomicOr(T* at, T value) {
  const T old = *at;
  *at = old | value;
  return old;
}
template <class T>
static inline T atomicMin(T* at, T value) {
  const T old = *at;
  if (value < old) *at = value;
  return old;
}

// ---- the runtime: host memory stands for device memory ----------------------------------------------------

typedef int cudaError_t;
typedef void* cudaStream_t;
enum { cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorDeviceLost = 999 };
enum { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum { cudaStreamNonBlocking = 1, cudaMemAttachGlobal = 1 };
struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount;
  size_t totalGlobalMem;
};

// The device fails permanently once the file named by MMSB_EMULATED_LOST exists.
static inline cudaError_t emulatedState() {
  static const char* const name = getenv("MMSB_EMULATED_LOST");
  static bool lost = false;
  if (!lost && name != nullptr) lost = access(name, F_OK) == 0;
  return lost ? cudaErrorDeviceLost : cudaSuccess;
}

static inline cudaError_t cudaMalloc(void** at, size_t bytes) {
  if (emulatedState() != cudaSuccess) return emulatedState();
  *at = aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (*at == nullptr) return cudaErrorMemoryAllocation;
  memset(*at, 0xcd, bytes);
  return cudaSuccess;
}
static inline cudaError_t cudaMallocManaged(void** at, size_t bytes, unsigned = 0) { return cudaMalloc(at, bytes); }
static inline cudaError_t cudaMallocHost(void** at, size_t bytes) { return cudaMalloc(at, bytes); }
static inline cudaError_t cudaFree(void* at) {
  free(at);
  return cudaSuccess;
}
static inline cudaError_t cudaFreeHost(void* at) { return cudaFree(at); }
static inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, int, cudaStream_t) {
  emulated::enqueue([=] { memcpy(to, from, bytes); });
  return cudaSuccess;
}
static inline cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t) {
  emulated::enqueue([=] { memset(at, value, bytes); });
  return cudaSuccess;
}

typedef emulated::Graph* cudaGraph_t;
typedef emulated::Graph* cudaGraphExec_t;
enum { cudaStreamCaptureModeThreadLocal = 1 };
static inline cudaError_t cudaStreamBeginCapture(cudaStream_t, int) {
  emulated::capturing = new emulated::Graph;
  return cudaSuccess;
}
static inline cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  *graph = emulated::capturing;
  emulated::capturing = nullptr;
  return cudaSuccess;
}
static inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new emulated::Graph(*graph);
  return cudaSuccess;
}
static inline cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t) {
  for (const auto& work : *exec) work();
  return cudaSuccess;
}
static inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
static inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return cudaGraphDestroy(exec); }
static inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = nullptr;
  return cudaSuccess;
}
static inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
static inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return emulatedState(); }
static inline cudaError_t cudaGetLastError() { return cudaSuccess; }
static inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorDeviceLost ? "the device was lost" : "emulated";
}
static inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
static inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
static inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = 0;
  return cudaSuccess;
}
static inline cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = *total = size_t(8) << 30;
  return cudaSuccess;
}
static inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  memset(properties, 0, sizeof *properties);
  snprintf(properties->name, sizeof properties->name, "emulated");
  properties->multiProcessorCount = 2;
  properties->totalGlobalMem = size_t(8) << 30;
  return cudaSuccess;
}
