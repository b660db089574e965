// The device state of a context, of its pages and of its steps; and the segment being planned: targets,
// launches, and the staging buffer that is copied to the device at once.
//
// Invariants: every buffer grows on the host side first. Device addresses are written into it when its place
// is final.
#pragma once
#include "core/changes.cuh"
#include "core/device_part.cuh"
#include "cuda/memory/cuda_store.cuh"
#include "cuda/plan/cuda_graph.cuh"

namespace mmsb {

// The device state of a page; PageSlot::device.
struct DevicePage {
  u32* chunkSlot;
  PageSlot* mirror;
  RangeSet planned;  // elements that may change in the segment; valid if `segment` is the current one
  u64 segment;
  u32 target;
  u32 firstDelta, lastDelta;  // deltas of this page in the list of the call; valid if deltaCall is the call's
  u64 deltaCall;
};

// The device state of a step; Step::device.
struct DeviceStep {
  bool onHost;
  u64 serial;    // unique in its context, never reused
  Step* shadow;  // copy of the step with inputs in host memory, for its dirty rule
  void* state;   // MapDevice, Reduce, MatDevice or ConcatDevice, on the device
  void* code;    // of a map: EvalInst array
  void* kernel;  // of a map: compiled at run time, or null
  u64 stateBytes, codeBytes;
  u64 scratchBytes;
  PageSlot* mirroredOut;  // the device page that a step on the host writes through its mirror, or null
};

// The kinds of launches. Each has its own struct of arguments; places in it are offsets into the staging
// buffer.
enum LaunchKind : u32 {
  LAUNCH_PIECES,  // deltas that do not overlap
  LAUNCH_CHAINS,  // deltas of one page that overlap
  LAUNCH_TILES,   // a matmul
  LAUNCH_RANGES,  // any other step
};

struct PieceLaunch {
  u64 at;  // DeltaPiece[count]; each names its target
  u32 count;
};

struct ChainLaunch {
  u64 at;     // a DeltaChains
  u32 links;  // number of links in all its chains
};

struct TileLaunch {
  u64 rows;   // u32 per row of the tiles
  u64 tasks;  // MatTask[taskCount]
  u32 taskCount;
};

struct RangeLaunch {
  u64 work;       // a DeviceRanges, of elements or of lanes
  u32 items;      // elements or lanes in it
  u64 laneFirst;  // scan: u32 per range of lanes, the element to resume from
  Range rows;     // a long window: the rows of its lanes that it computes
};

struct Launch {
  LaunchKind kind;
  u32 target;  // the page it writes, in Device::targets; unused by LAUNCH_PIECES
  Step* step;  // of LAUNCH_TILES and LAUNCH_RANGES
  union {
    PieceLaunch pieces;
    ChainLaunch chains;
    TileLaunch tiles;
    RangeLaunch ranges;
  };
};

// A step to log when its segment has ended.
struct PlannedStep {
  Step* step;
  bool full, before;
  u64 elements;  // for a step that runs before the deltas
};

template <class T>
struct List {
  T* data;
  u32 count, capacity;
};

struct Target {
  PageSlot* slot;
  u32 firstChunk, chunkCount;  // in the list of chunks
  bool fromMirror;
};

struct Device {
  const CpuPart* cpu;
  cudaStream_t stream;
  DevicePools pools;
  u32* keys;
  TwinBuffer stage, result;
  void* scratch;
  u64 scratchBytes;
  u32* marks;  // marks of all chunks of a segment, then marks of partly changed chunks
  u64 markBytes;
  u32* moreMarks;  // on the host: marks that were read back separately
  u64 moreBytes;
  u32 blocks;  // limit on the blocks of a launch
  u32 arch;    // 90 for compute capability 9.0
  u64 segment;
  List<Launch> launches;
  List<Target> targets;
  List<PlannedStep> planned;
  List<DeviceChunk> chunks;
  u64 framesAt;  // place in the staging buffer, or ~0
  u64 serials;   // last serial of a step
  Graphs graphs;
};

namespace MMSB_NS {

template <class T>
static int32_t listPush(List<T>& list, const T& item) {
  if (list.count == list.capacity) {
    const u32 wanted = list.capacity == 0 ? 64 : list.capacity * 2;
    void* larger = realloc(list.data, u64(wanted) * sizeof(T));
    if (larger == nullptr) return fail(MMSB_ERR_MEMORY, "no memory to plan an epoch");
    list.data = static_cast<T*>(larger);
    list.capacity = wanted;
  }
  list.data[list.count++] = item;
  return MMSB_OK;
}

static inline DevicePage* devicePageOf(const PageSlot* slot) { return static_cast<DevicePage*>(slot->device); }
static inline DeviceStep* deviceStepOf(const Step& step) { return static_cast<DeviceStep*>(step.device); }

static RangeSet emptySet() {
  RangeSet set;
  memset(&set, 0, sizeof set);
  return set;
}

static void pushAll(RangeSet& to, const RangeSet& from, Arena& arena) {
  for (u32 i = 0; i < from.count; i++) rangesPush(to, from.data[i].start, from.data[i].count, arena);
}

// ---- targets ----------------------------------------------------------------------------------------------

static int32_t beginSegment(Device& device) {
  device.segment++;
  device.launches.count = 0;
  device.targets.count = 0;
  device.planned.count = 0;
  device.chunks.count = 0;
  device.stage.used = 0;
  device.framesAt = ~0ull;
  return MMSB_OK;
}

static inline bool isTarget(const Device& device, const PageSlot& slot) {
  return devicePageOf(&slot)->segment == device.segment;
}

// Adds a page whose elements `planned` (canonical) may change.
static int32_t addTarget(Device& device, PageSlot& slot, const RangeSet& planned, bool fromMirror, u32* number) {
  DevicePage& page = *devicePageOf(&slot);
  page.segment = device.segment;
  page.planned = planned;
  page.target = device.targets.count;
  *number = page.target;
  return listPush(device.targets, Target{&slot, 0, 0, fromMirror});
}

// ---- staging ----------------------------------------------------------------------------------------------

// Stages a DeviceRanges for a set. Its pointers are offsets until the segment is sealed.
static int32_t stageRanges(Device& device, const RangeSet& set, u64* at, u32* elements) {
  DeviceRanges work = {set.count, u32(rangesElements(set)), nullptr, nullptr};
  u64 ranges, first;
  MMSB_TRY(twinPut(device.stage, set.data, u64(set.count) * sizeof(Range), &ranges));
  MMSB_TRY(twinPut(device.stage, nullptr, u64(set.count) * sizeof(u32), &first));
  u32 sum = 0;
  for (u32 i = 0; i < set.count; i++) {
    memcpy(device.stage.host + first + 4ull * i, &sum, 4);
    sum += set.data[i].count;
  }
  work.ranges = reinterpret_cast<const Range*>(ranges);
  work.first = reinterpret_cast<const u32*>(first);
  *elements = work.elements;
  return twinPut(device.stage, &work, sizeof work, at);
}

template <class T>
static inline T* staged(const Device& device, u64 offset) {
  return reinterpret_cast<T*>(device.stage.device + offset);
}
template <class T>
static inline T* stagedHost(const Device& device, u64 offset) {
  return reinterpret_cast<T*>(device.stage.host + offset);
}
template <class T>
static inline void rebase(const Device& device, T*& pointer) {
  pointer = reinterpret_cast<T*>(device.stage.device + reinterpret_cast<u64>(pointer));
}

static void sealRanges(const Device& device, u64 at) {
  DeviceRanges* work = stagedHost<DeviceRanges>(device, at);
  rebase(device, work->ranges);
  rebase(device, work->first);
}

// ---- launches ---------------------------------------------------------------------------------------------

static inline Launch launchOf(LaunchKind kind, u32 target, Step* step) {
  Launch launch;
  memset(&launch, 0, sizeof launch);
  launch.kind = kind;
  launch.target = target;
  launch.step = step;
  return launch;
}

static int32_t planPieces(Device& device, const List<DeltaPiece>& pieces) {
  Launch launch = launchOf(LAUNCH_PIECES, 0, nullptr);
  MMSB_TRY(twinPut(device.stage, pieces.data, pieces.count * sizeof(DeltaPiece), &launch.pieces.at));
  launch.pieces.count = pieces.count;
  return listPush(device.launches, launch);
}

}  // namespace MMSB_NS
}  // namespace mmsb
