// A context: page table, memory, steps, executor and the buffer of the last result. Host part only.
//
// Invariants: a table of two levels maps ids to pages. A step holds a reference to each page it uses, and a
// referenced page cannot be destroyed. `state` is the sum of the shares of all pages, brought up to date at
// the end of each call.
#pragma once
#include "abi/kept.cuh"
#include "abi/threads_host.cuh"
#include "core/device_part.cuh"
#include "core/memory.cuh"
#include "core/part.cuh"
#include "exec/past.cuh"

struct mmsb_ctx {
  mmsb::Memory memory;
  mmsb::ThreadPool pool;
  mmsb::Exec exec;
  const mmsb::CpuPart* cpu;
  const mmsb::DevicePart* gpu;  // null on the CPU backend
  mmsb::Device* device;
  mmsb::PageSlot*** pages;  // 2^20 leaves of 4096
  mmsb::u32 leafEnd;        // leaves from here on are unused
  mmsb::u64 pageCount, pageBytes, quotaBytes;
  mmsb::u64 locationBytes[4];  // pageBytes by mmsb_location
  mmsb::u64 state[2];
  mmsb::u64 calls;           // of mmsb_execute and mmsb_undo so far
  mmsb::PageSlot* unfilled;  // pages whose memory is still to be filled
  mmsb::Step** steps;
  mmsb::u32 stepCount, stepCapacity;  // step numbers in use or free; capacity
  mmsb::u32* freeSteps;
  mmsb::u32 freeStepCount;
  mmsb::Step** running;  // the steps of the running call
  mmsb::u32 runningCapacity;
  mmsb::DeltaList deltas;
  mmsb::u8* result;
  mmsb::u64 resultBytes, resultCapacity;
  mmsb::KeptCalls kept;
  mmsb::u32 backend;
  mmsb::u32 broken;  // a call failed half-way; no further call is accepted
  char error[512];
};

namespace mmsb {
namespace MMSB_NS {

static const u32 kLeafBits = 12;
static const u32 kLeafSize = 1u << kLeafBits;
static const u64 kRootBytes = (1ull << (32 - kLeafBits)) * sizeof(PageSlot**);

static inline PageSlot* pageOf(const mmsb_ctx& ctx, u32 id) {
  PageSlot** leaf = ctx.pages[id >> kLeafBits];
  return leaf == nullptr ? nullptr : leaf[id & (kLeafSize - 1)];
}

// The op in that version; if there is no such version, the newest one.
static inline const Op* opOf(const mmsb_ctx& ctx, u32 code, u32 version) {
  const Op* newest = nullptr;
  for (u32 i = 0; i < ctx.cpu->opCount; i++) {
    const Op* op = ctx.cpu->ops[i];
    if (op->code != code) continue;
    if (op->version == version) return op;
    if (newest == nullptr) newest = op;
  }
  return newest;
}

// Grows an array to at least `count` entries of `size` bytes and keeps its content. Returns false without
// memory.
static bool grow(void** data, u32* capacity, u64 count, u64 size) {
  if (count <= *capacity) return true;
  u64 wanted = *capacity == 0 ? 64 : *capacity;
  while (wanted < count) wanted *= 2;
  void* larger = realloc(*data, wanted * size);
  if (larger == nullptr) return false;
  *data = larger;
  *capacity = u32(wanted);
  return true;
}

// ---- pages ------------------------------------------------------------------------------------------------

// Brings the page's share of the state digest up to date, and keeps its digest for readers on other threads:
// they see the old one or the new one, never half of each. Whoever sees a word of the new digest sees
// `settledCall` too, and whoever sees that sees `before`: each store releases what came before it. Stronger
// ones would take longer than all the rest, for every page of every call.
static void settlePage(mmsb_ctx& ctx, PageSlot& slot) {
  ctx.cpu->updateShare(slot, ctx.state);
  if (slot.settledCall != ctx.calls) {
    for (u32 i = 0; i < 2; i++) __atomic_store_n(&slot.before[i], slot.settled[i], __ATOMIC_RELAXED);
    __atomic_store_n(&slot.settledCall, ctx.calls, __ATOMIC_RELEASE);
  }
  for (u32 i = 0; i < 2; i++) __atomic_store_n(&slot.settled[i], slot.digest[i], __ATOMIC_RELEASE);
}

// The digest of a page as it was before the call with this number, which is the newest one and may be
// running; 0 stands for a call that is still to come.
static void readDigest(const PageSlot& slot, u64 call, u64 out[2]) {
  for (u32 i = 0; i < 2; i++) out[i] = __atomic_load_n(&slot.settled[i], __ATOMIC_ACQUIRE);
  if (call == 0 || __atomic_load_n(&slot.settledCall, __ATOMIC_ACQUIRE) != call) return;
  for (u32 i = 0; i < 2; i++) out[i] = __atomic_load_n(&slot.before[i], __ATOMIC_RELAXED);
}

// Pages of this size and more are filled by the call that publishes them, which may run on another thread.
static const u64 kFillLaterBytes = 1 << 20;

static void forgetFill(mmsb_ctx& ctx, const PageSlot* slot) {
  for (PageSlot** at = &ctx.unfilled; *at != nullptr; at = &(*at)->nextUnfilled) {
    if (*at != slot) continue;
    *at = slot->nextUnfilled;
    return;
  }
}

static void fillNow(mmsb_ctx& ctx, PageSlot& slot) {
  if (slot.fill == 0) return;
  forgetFill(ctx, &slot);
  ctx.cpu->fillPage(slot, slot.fill);
  slot.fill = 0;
  settlePage(ctx, slot);
}

static void fillAll(mmsb_ctx& ctx) {
  while (ctx.unfilled != nullptr) fillNow(ctx, *ctx.unfilled);
}

static int32_t checkDescriptor(const mmsb_ctx& ctx, const mmsb_page_desc& desc, u64* elements) {
  if (desc.id == 0xffffffffu) return fail(MMSB_ERR_ARGUMENT, "page id %u is reserved", desc.id);
  if (pageOf(ctx, desc.id) != nullptr) return fail(MMSB_ERR_ARGUMENT, "page %u exists already", desc.id);
  if (desc.dtype >= DTYPE_COUNT) return fail(MMSB_ERR_ARGUMENT, "unknown dtype %u", desc.dtype);
  if (desc.rank > 8) return fail(MMSB_ERR_ARGUMENT, "a page of rank %u: the limit is 8", desc.rank);
  if (desc.location > MMSB_LOC_UNIFIED) return fail(MMSB_ERR_ARGUMENT, "unknown location %u", desc.location);
  if (desc.location > MMSB_LOC_CPU && ctx.backend == MMSB_BACKEND_CPU) {
    return fail(MMSB_ERR_UNSUPPORTED, "the CPU backend has no %s memory",
                desc.location == MMSB_LOC_GPU ? "gpu" : "unified");
  }
  u64 count = 1;
  for (u32 axis = 0; axis < desc.rank; axis++) count *= desc.shape[axis] == 0 ? 0 : 1;
  for (u32 axis = 0; axis < desc.rank; axis++) {
    count *= desc.shape[axis];
    if (count >= 1ull << 32) return fail(MMSB_ERR_ARGUMENT, "page %u has 2^32 elements or more", desc.id);
  }
  *elements = count;
  return MMSB_OK;
}

static void destroyPage(mmsb_ctx& ctx, PageSlot* slot) {
  const Page& page = slot->page;
  const u64 chunks = (page.bytes + 4095) / 4096;
  if (slot->fill != 0) forgetFill(ctx, slot);
  ctx.pages[page.id >> kLeafBits][page.id & (kLeafSize - 1)] = nullptr;
  ctx.state[0] -= slot->share[0];
  ctx.state[1] -= slot->share[1];
  ctx.pageCount--;
  ctx.pageBytes -= page.bytes;
  ctx.locationBytes[page.location] -= page.bytes;
  if (page.location != MMSB_LOC_CPU) {
    ctx.gpu->destroyPage(ctx.device, *slot);
  } else {
    if (chunks > 1) memoryFree(ctx.memory, slot->hashes, hashBytes(chunks));
    memoryFree(ctx.memory, page.data, slot->allocated);
  }
  memoryFree(ctx.memory, slot, sizeof(PageSlot));
}

// Allocates the memory of a host page. A small one is filled and gets its digest at once.
static int32_t allocateHostPage(mmsb_ctx& ctx, PageSlot& slot, u64 fill) {
  const u64 chunks = (slot.page.bytes + 4095) / 4096;
  slot.page.data = static_cast<u8*>(memoryAllocate(ctx.memory, slot.allocated));
  slot.hashes = chunks > 1 ? static_cast<u64*>(memoryAllocate(ctx.memory, hashBytes(chunks))) : slot.ownHash;
  if (slot.page.data == nullptr || slot.hashes == nullptr) {
    if (chunks > 1) memoryFree(ctx.memory, slot.hashes, hashBytes(chunks));
    memoryFree(ctx.memory, slot.page.data, slot.allocated);
    return fail(MMSB_ERR_MEMORY, "no memory for a page of %llu bytes", (unsigned long long)slot.page.bytes);
  }
  if (fill != 0 && slot.page.bytes < kFillLaterBytes) ctx.cpu->fillPage(slot, fill);
  else if (fill != 0) {
    slot.fill = fill;
    slot.nextUnfilled = ctx.unfilled;
    ctx.unfilled = &slot;
  }
  return MMSB_OK;
}

static int32_t createPage(mmsb_ctx& ctx, const mmsb_page_desc& desc) {
  u64 elements = 0;
  int32_t status = checkDescriptor(ctx, desc, &elements);
  if (status != MMSB_OK) return status;
  const u64 bytes = elements * dtypeBytes(desc.dtype);
  if (ctx.quotaBytes != 0 && bytes > ctx.quotaBytes - ctx.pageBytes) {
    return fail(MMSB_ERR_MEMORY, "a page of %llu bytes does not fit: %llu of %llu bytes are in use",
                (unsigned long long)bytes, (unsigned long long)ctx.pageBytes, (unsigned long long)ctx.quotaBytes);
  }
  PageSlot**& leaf = ctx.pages[desc.id >> kLeafBits];
  if (leaf == nullptr) leaf = static_cast<PageSlot**>(calloc(kLeafSize, sizeof(PageSlot*)));
  if (leaf != nullptr && (desc.id >> kLeafBits) >= ctx.leafEnd) ctx.leafEnd = (desc.id >> kLeafBits) + 1;
  PageSlot* slot = static_cast<PageSlot*>(memoryAllocate(ctx.memory, sizeof(PageSlot)));
  if (leaf == nullptr || slot == nullptr) {
    memoryFree(ctx.memory, slot, sizeof(PageSlot));
    return fail(MMSB_ERR_MEMORY, "no memory for a page");
  }
  Page& page = slot->page;
  page.bytes = bytes;
  page.elements = u32(elements);
  page.id = desc.id;
  page.dtype = desc.dtype;
  page.rank = desc.rank;
  page.location = desc.location != MMSB_LOC_AUTO ? desc.location
                  : ctx.gpu != nullptr           ? u8(MMSB_LOC_GPU)
                                                 : u8(MMSB_LOC_CPU);
  for (u32 axis = 0; axis < 8; axis++) page.shape[axis] = axis < desc.rank ? desc.shape[axis] : 1;
  slot->allocated = paddedBytes(bytes);
  status = page.location == MMSB_LOC_CPU ? allocateHostPage(ctx, *slot, desc.fill)
                                         : ctx.gpu->createPage(ctx.device, *slot, desc.fill);
  if (status != MMSB_OK) {
    memoryFree(ctx.memory, slot, sizeof(PageSlot));
    return status;
  }
  settlePage(ctx, *slot);
  leaf[desc.id & (kLeafSize - 1)] = slot;
  ctx.pageCount++;
  ctx.pageBytes += bytes;
  ctx.locationBytes[page.location] += bytes;
  return MMSB_OK;
}

static int32_t createPages(mmsb_ctx& ctx, const mmsb_page_desc* descs, u32 count) {
  for (u32 i = 0; i < count; i++) {
    const int32_t status = createPage(ctx, descs[i]);
    if (status == MMSB_OK) continue;
    while (i-- > 0) destroyPage(ctx, pageOf(ctx, descs[i].id));
    return status;
  }
  return MMSB_OK;
}

static int32_t destroyPages(mmsb_ctx& ctx, const u32* ids, u32 count) {
  for (u32 i = 0; i < count; i++) {
    const PageSlot* slot = pageOf(ctx, ids[i]);
    if (slot == nullptr) return fail(MMSB_ERR_ARGUMENT, "page %u does not exist", ids[i]);
    if (slot->stepRefs != 0) return fail(MMSB_ERR_ARGUMENT, "page %u is used by a step", ids[i]);
  }
  for (u32 i = 0; i < count; i++) {
    PageSlot* slot = pageOf(ctx, ids[i]);
    if (slot != nullptr) destroyPage(ctx, slot);  // null if an id was given twice
  }
  return MMSB_OK;
}

// ---- steps ------------------------------------------------------------------------------------------------

// Gives every worker at least this much scratch.
static bool growScratch(mmsb_ctx& ctx, u32 bytes) {
  if (bytes <= ctx.exec.scratchBytes) return true;
  const u64 size = (u64(bytes) + 63) & ~63ull;
  for (u32 w = 0; w < ctx.exec.workerCount; w++) {
    void* larger = aligned_alloc(64, size);
    if (larger == nullptr) return false;
    free(ctx.exec.workers[w].scratch);
    ctx.exec.workers[w].scratch = static_cast<u8*>(larger);
  }
  ctx.exec.scratchBytes = bytes;
  return true;
}

static void freeStep(const mmsb_ctx& ctx, Step* step) {
  if (step == nullptr) return;
  if (step->device != nullptr) ctx.gpu->releaseStep(ctx.device, *step);
  if (step->op->release != nullptr) step->op->release(*step);
  if (step->past != nullptr) free(step->past->behind.data);
  free(step->past);
  free(step);
}

// Builds a step in one block of memory with its inputs and parameters.
static Step* buildStep(const mmsb_ctx& ctx, const Op* op, const mmsb_step_desc& head, const u8* desc) {
  const u32 inputCount = head.input_count, paramBytes = head.param_bytes;
  const u64 inputsAt = (sizeof(Step) + 7) & ~7ull;
  const u64 paramsAt = inputsAt + 8ull * inputCount;
  u8* block = static_cast<u8*>(calloc(1, paramsAt + paramBytes + 8));
  if (block == nullptr) return nullptr;
  Step* step = reinterpret_cast<Step*>(block);
  step->op = op;
  step->out = &pageOf(ctx, head.out_page)->page;
  step->inputs = reinterpret_cast<Page**>(block + inputsAt);
  step->params = block + paramsAt;
  step->inputCount = inputCount;
  step->paramBytes = paramBytes;
  step->natural = step->out->dtype;
  step->costNs = 1;
  for (u32 i = 0; i < inputCount; i++) {
    u32 id;
    memcpy(&id, desc + sizeof head + 4ull * i, 4);
    step->inputs[i] = &pageOf(ctx, id)->page;
  }
  memcpy(block + paramsAt, desc + sizeof head + ((4ull * inputCount + 7) & ~7ull), paramBytes);
  return step;
}

static int32_t checkStepPages(const mmsb_ctx& ctx, const mmsb_step_desc& head, const u8* desc) {
  if (pageOf(ctx, head.out_page) == nullptr) {
    return fail(MMSB_ERR_ARGUMENT, "output page %u does not exist", head.out_page);
  }
  for (u32 i = 0; i < head.input_count; i++) {
    u32 id;
    memcpy(&id, desc + sizeof head + 4ull * i, 4);
    if (pageOf(ctx, id) == nullptr) return fail(MMSB_ERR_ARGUMENT, "input page %u does not exist", id);
    if (id == head.out_page) return fail(MMSB_ERR_ARGUMENT, "page %u is input and output of one step", id);
  }
  return MMSB_OK;
}

// Adds `change` to the reference counts of the pages that a step uses. Where the step uses a mirror, the page
// itself is counted.
static void holdPages(mmsb_ctx& ctx, const Step& step, u32 change) {
  pageOf(ctx, step.out->id)->stepRefs += change;
  for (u32 i = 0; i < step.inputCount; i++) pageOf(ctx, step.inputs[i]->id)->stepRefs += change;
}

static int32_t preparePast(Step& step) {
  const Page& input = *step.inputs[0];
  if (step.op->code != MMSB_OP_COPY || input.dtype != step.out->dtype) {
    return fail(MMSB_ERR_ARGUMENT, "a past must be a copy of the same dtype");
  }
  if (slotOf(step.out)->pastStep != nullptr) {
    return fail(MMSB_ERR_ARGUMENT, "page %u is the past of another step already", step.out->id);
  }
  step.past = static_cast<Past*>(calloc(1, sizeof(Past)));
  return step.past != nullptr ? MMSB_OK : fail(MMSB_ERR_MEMORY, "no memory for a step");
}

static int32_t createStep(mmsb_ctx& ctx, const u8* desc, u64 length, u32* number) {
  mmsb_step_desc head;
  if (length < sizeof head) {
    return fail(MMSB_ERR_ARGUMENT, "a step descriptor of %llu bytes is too short", (unsigned long long)length);
  }
  memcpy(&head, desc, sizeof head);
  if (sizeof head + ((4ull * head.input_count + 7) & ~7ull) + head.param_bytes > length) {
    return fail(MMSB_ERR_ARGUMENT, "a step descriptor is truncated");
  }
  const Op* op = opOf(ctx, head.op, head.op_version);
  if (op == nullptr) return fail(MMSB_ERR_UNSUPPORTED, "this library has no op %u", head.op);
  if (op->version != head.op_version) {
    return fail(MMSB_ERR_UNSUPPORTED, "this library has op %s up to version %u, not version %u", op->name, op->version,
                head.op_version);
  }
  int32_t status = checkStepPages(ctx, head, desc);
  if (status != MMSB_OK) return status;
  const bool fresh = ctx.freeStepCount == 0;
  u32 freeCapacity = ctx.stepCapacity;
  if (fresh && (!grow(reinterpret_cast<void**>(&ctx.freeSteps), &freeCapacity, ctx.stepCount + 1ull, sizeof(u32)) ||
                !grow(reinterpret_cast<void**>(&ctx.steps), &ctx.stepCapacity, ctx.stepCount + 1ull, sizeof(Step*)))) {
    return fail(MMSB_ERR_MEMORY, "no memory for a step");
  }
  Step* step = buildStep(ctx, op, head, desc);
  if (step == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for a step");
  if (ctx.gpu != nullptr) status = ctx.gpu->placeStep(ctx.device, *step);
  if (status == MMSB_OK) status = op->prepare(*step);
  if (status == MMSB_OK && ctx.gpu != nullptr) status = ctx.gpu->prepareStep(ctx.device, *step);
  if (status == MMSB_OK && (head.flags & MMSB_STEP_PAST) != 0) status = preparePast(*step);
  if (status == MMSB_OK && !growScratch(ctx, step->scratchBytes)) {
    status = fail(MMSB_ERR_MEMORY, "no memory for the scratch of a step");
  }
  if (status != MMSB_OK) {
    freeStep(ctx, step);
    return status;
  }
  step->id = fresh ? ctx.stepCount++ : ctx.freeSteps[--ctx.freeStepCount];
  ctx.steps[step->id] = step;
  holdPages(ctx, *step, 1);
  if (step->past != nullptr) linkPast(*step);
  *number = step->id;
  return MMSB_OK;
}

static int32_t destroyStep(mmsb_ctx& ctx, u32 number) {
  if (number >= ctx.stepCount || ctx.steps[number] == nullptr) {
    return fail(MMSB_ERR_ARGUMENT, "step %u does not exist", number);
  }
  Step* step = ctx.steps[number];
  holdPages(ctx, *step, ~0u);
  if (step->past != nullptr) unlinkPast(*step);
  ctx.steps[number] = nullptr;
  ctx.freeSteps[ctx.freeStepCount++] = number;
  freeStep(ctx, step);
  return MMSB_OK;
}

// ---- open and close ---------------------------------------------------------------------------------------

static void closeContext(mmsb_ctx* ctx) {
  for (u32 i = 0; i < ctx->stepCount; i++) freeStep(*ctx, ctx->steps[i]);
  poolFree(ctx->pool);
  for (u32 leaf = 0; ctx->pages != nullptr && leaf < ctx->leafEnd; leaf++) {
    for (u32 i = 0; ctx->pages[leaf] != nullptr && i < kLeafSize; i++) {
      if (ctx->pages[leaf][i] != nullptr) destroyPage(*ctx, ctx->pages[leaf][i]);
    }
    free(ctx->pages[leaf]);
  }
  if (ctx->pages != nullptr) munmap(ctx->pages, kRootBytes);
  for (u32 w = 0; ctx->exec.workers != nullptr && w < ctx->exec.workerCount; w++) {
    Worker& worker = ctx->exec.workers[w];
    for (ArenaBlock* block = worker.arena.first; block != nullptr;) {
      ArenaBlock* next = block->next;
      free(block);
      block = next;
    }
    free(worker.block);
    free(worker.wide);
    free(worker.cast);
    free(worker.scratch);
  }
  keptClose(ctx->kept, ctx->exec.workerCount);
  memoryClose(ctx->memory);
  if (ctx->gpu != nullptr) ctx->gpu->close(ctx->device);
  free(ctx->exec.workers);
  free(ctx->exec.touched);
  free(ctx->exec.log);
  free(ctx->steps);
  free(ctx->freeSteps);
  free(ctx->running);
  free(ctx->deltas.data);
  free(ctx->result);
  free(ctx);
}

static bool openWorkers(mmsb_ctx& ctx) {
  Exec& exec = ctx.exec;
  exec.pool = &ctx.pool;
  exec.workerCount = ctx.pool.workers;
  exec.workers = static_cast<Worker*>(calloc(exec.workerCount, sizeof(Worker)));
  if (exec.workers == nullptr) return false;
  for (u32 w = 0; w < exec.workerCount; w++) {
    Worker& worker = exec.workers[w];
    worker.block = static_cast<u8*>(aligned_alloc(64, kBlockElements * 8));
    worker.wide = static_cast<u8*>(aligned_alloc(64, kBlockElements * 8));
    worker.cast = static_cast<u8*>(aligned_alloc(64, kBlockElements * 8));
    worker.cancel = ctx.pool.cancel;
    if (worker.block == nullptr || worker.wide == nullptr || worker.cast == nullptr) return false;
  }
  return true;
}

static bool hasV3() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
         __builtin_cpu_supports("bmi2");
}

// MMSB_ISA=x86-64 selects the plain build, for tests that compare both.
static const CpuPart* pickPart() {
  const char* asked = getenv("MMSB_ISA");
  if (asked != nullptr && strcmp(asked, "x86-64") == 0) return &kCpuBase;
  return hasV3() ? &kCpuV3 : &kCpuBase;
}

static int32_t openContext(const mmsb_options& options, mmsb_ctx** out) {
  if (options.backend > MMSB_BACKEND_CUDA) return fail(MMSB_ERR_ARGUMENT, "unknown backend %u", options.backend);
  const DevicePart* gpu = nullptr;
  if (options.backend == MMSB_BACKEND_CUDA) {
#ifdef MMSB_HAS_CUDA
    gpu = &kDevicePart;
#else
    return fail(MMSB_ERR_UNSUPPORTED, "this library was built without CUDA");
#endif
  }
  mmsb_ctx* ctx = static_cast<mmsb_ctx*>(calloc(1, sizeof(mmsb_ctx)));
  if (ctx == nullptr) return fail(MMSB_ERR_MEMORY, "no memory for a context");
  memoryInit(ctx->memory);
  poolInit(ctx->pool, options.threads == 0 ? coreCount() : options.threads);
  ctx->cpu = pickPart();
  ctx->backend = options.backend;
  ctx->quotaBytes = options.quota_bytes;
  void* root = mmap(nullptr, kRootBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (root != MAP_FAILED) ctx->pages = static_cast<PageSlot***>(root);
  if (gpu != nullptr) {
    const int32_t status = gpu->open(*ctx->cpu, &ctx->device);
    if (status == MMSB_OK) ctx->gpu = gpu;
    if (status != MMSB_OK) closeContext(ctx);
    if (status != MMSB_OK) return status;
  }
  if (ctx->pages == nullptr || !openWorkers(*ctx)) {
    closeContext(ctx);
    return fail(MMSB_ERR_MEMORY, "no memory for a context");
  }
  *out = ctx;
  return MMSB_OK;
}

}  // namespace MMSB_NS
}  // namespace mmsb
