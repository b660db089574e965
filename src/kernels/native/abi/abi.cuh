// The functions of the C ABI (abi.h), with the checks that memory safety depends on.
#pragma once
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>

#include "abi/epoch.cuh"
#include "abi/log_scan.cuh"
#include "expr/ir.cuh"

namespace mmsb {
namespace MMSB_NS {

static thread_local char threadError[512];

static int32_t finish(mmsb_ctx* ctx, int32_t status) {
  if (status != MMSB_OK) memcpy(ctx->error, threadError, sizeof ctx->error);
  return status;
}

static int32_t findPage(const mmsb_ctx& ctx, u32 id, PageSlot** slot) {
  *slot = pageOf(ctx, id);
  return *slot != nullptr ? MMSB_OK : fail(MMSB_ERR_ARGUMENT, "page %u does not exist", id);
}

static int32_t findBytes(const mmsb_ctx& ctx, u32 id, u64 offset, u64 length, PageSlot** slot) {
  const int32_t status = findPage(ctx, id, slot);
  if (status != MMSB_OK) return status;
  const u64 bytes = (*slot)->page.bytes;
  if (offset > bytes || length > bytes - offset) {
    return fail(MMSB_ERR_ARGUMENT, "bytes %llu + %llu are out of range: of %llu, in page %u",
                (unsigned long long)offset, (unsigned long long)length, (unsigned long long)bytes, id);
  }
  return MMSB_OK;
}

}  // namespace MMSB_NS

int32_t fail(int32_t status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(MMSB_NS::threadError, sizeof MMSB_NS::threadError, format, arguments);
  va_end(arguments);
  return status;
}

}  // namespace mmsb

using namespace mmsb;
using namespace mmsb::MMSB_NS;

#define MMSB_API extern "C" __attribute__((visibility("default")))

// ---- library ----------------------------------------------------------------------------------------------

MMSB_API uint32_t mmsb_abi_version(void) { return MMSB_ABI_VERSION; }

MMSB_API const char* mmsb_build_info(void) {
  static char text[512];
  char arch[256] = "";
#ifdef MMSB_CUDA_ARCHS
  snprintf(arch, sizeof arch, "%s", MMSB_CUDA_ARCHS);
#endif
  snprintf(text, sizeof text,
           "{\"version\":\"%s\",\"compiler\":\"g++ %s\",\"cuda\":%s,\"cudaArch\":[%s],\"isa\":\"%s\"}", MMSB_VERSION,
           __VERSION__, arch[0] != 0 ? "true" : "false", arch, pickPart()->isa);
  return text;
}

MMSB_API const char* mmsb_last_error(void) { return threadError; }

MMSB_API const char* mmsb_context_error(mmsb_ctx* ctx) { return ctx->error; }

MMSB_API uint32_t mmsb_crc32c(const void* data, uint64_t len, uint32_t seed) {
  return crc32c(static_cast<const u8*>(data), len, seed);
}

MMSB_API uint32_t mmsb_sound_records(const void* bytes, uint64_t len, uint64_t first_epoch, uint32_t record_seed) {
  return soundRecords(static_cast<const u8*>(bytes), len, first_epoch, record_seed);
}

MMSB_API uint32_t mmsb_device_count(void) {
#ifdef MMSB_HAS_CUDA
  return kDevicePart.deviceCount();
#else
  return 0;
#endif
}

MMSB_API int32_t mmsb_file_allocate(int32_t fd, uint64_t offset, uint64_t len) {
  int status;
  do {
    status = posix_fallocate(fd, off_t(offset), off_t(len));
  } while (status == EINTR);
  return status;
}

MMSB_API const char* mmsb_catalogue(void) {
  static char text[8192];
  u64 at = u64(snprintf(text, sizeof text, "{\"ir\":{"));
#define MMSB_IR_ENTRY(CODE, ID, NAME, ARITY, CLASSES, BOOLEAN) \
  at += u64(snprintf(text + at, sizeof text - at, "\"%s\":%u,", NAME, unsigned(CODE)));
  MMSB_IR_OPS(MMSB_IR_ENTRY)
#undef MMSB_IR_ENTRY
  at--;
  at += u64(snprintf(text + at, sizeof text - at, "},\"ops\":{"));
  const CpuPart* part = pickPart();
  for (u32 i = 0; i < part->opCount; i++) {
    const Op& op = *part->ops[i];
    bool isNewest = true;
    for (u32 j = 0; j < i; j++) isNewest = isNewest && part->ops[j]->code != op.code;
    if (!isNewest) continue;
    at += u64(snprintf(text + at, sizeof text - at, "%s\"%s\":{\"code\":%u,\"version\":%u,\"old\":[", i == 0 ? "" : ",",
                       op.name, op.code, op.version));
    const char* comma = "";
    for (u32 j = i + 1; j < part->opCount; j++) {
      if (part->ops[j]->code != op.code) continue;
      at += u64(snprintf(text + at, sizeof text - at, "%s%u", comma, part->ops[j]->version));
      comma = ",";
    }
    at += u64(snprintf(text + at, sizeof text - at, "]}"));
  }
  snprintf(text + at, sizeof text - at, "}}");
  return text;
}

// ---- context ----------------------------------------------------------------------------------------------

MMSB_API int32_t mmsb_open(const mmsb_options* options, mmsb_ctx** out) { return openContext(*options, out); }

MMSB_API void mmsb_close(mmsb_ctx* ctx) {
  if (ctx != nullptr) closeContext(ctx);
}

MMSB_API int32_t mmsb_device_info(mmsb_ctx* ctx, char* out, uint64_t cap) {
  if (ctx->gpu != nullptr) return finish(ctx, ctx->gpu->info(ctx->device, out, cap));
  snprintf(out, cap, "{}");
  return MMSB_OK;
}

MMSB_API int32_t mmsb_memory_stats(mmsb_ctx* ctx, mmsb_memory* out) {
  memset(out, 0, sizeof *out);
  out->page_count = ctx->pageCount;
  out->page_bytes = ctx->pageBytes;
  out->cpu_bytes = ctx->locationBytes[MMSB_LOC_CPU];
  out->gpu_bytes = ctx->locationBytes[MMSB_LOC_GPU];
  out->unified_bytes = ctx->locationBytes[MMSB_LOC_UNIFIED];
  out->pool_bytes = ctx->memory.reserved + (ctx->gpu != nullptr ? ctx->gpu->reservedBytes(ctx->device) : 0);
  out->quota_bytes = ctx->quotaBytes;
  return MMSB_OK;
}

// ---- pages ------------------------------------------------------------------------------------------------

MMSB_API int32_t mmsb_pages_create(mmsb_ctx* ctx, const mmsb_page_desc* descs, uint32_t count) {
  return finish(ctx, createPages(*ctx, descs, count));
}

MMSB_API int32_t mmsb_pages_destroy(mmsb_ctx* ctx, const uint32_t* ids, uint32_t count) {
  return finish(ctx, destroyPages(*ctx, ids, count));
}

MMSB_API int32_t mmsb_page_read(mmsb_ctx* ctx, uint32_t id, uint64_t byte_offset, uint64_t byte_len, void* dst) {
  PageSlot* slot;
  const int32_t status = findBytes(*ctx, id, byte_offset, byte_len, &slot);
  if (status != MMSB_OK) return finish(ctx, status);
  if (slot->page.location != MMSB_LOC_CPU) {
    return finish(ctx, ctx->gpu->read(ctx->device, *slot, byte_offset, byte_len, dst));
  }
  fillNow(*ctx, *slot);
  if (byte_len != 0) memcpy(dst, slot->page.data + byte_offset, byte_len);
  return MMSB_OK;
}

MMSB_API int32_t mmsb_page_load(mmsb_ctx* ctx, uint32_t id, uint64_t byte_offset, uint64_t byte_len, const void* src) {
  PageSlot* slot;
  int32_t status = findBytes(*ctx, id, byte_offset, byte_len, &slot);
  if (status != MMSB_OK) return finish(ctx, status);
  if (slot->page.location != MMSB_LOC_CPU) {
    status = ctx->gpu->load(ctx->device, *slot, byte_offset, byte_len, src);
    if (status != MMSB_OK) ctx->broken = 1;
  } else {
    fillNow(*ctx, *slot);
    ctx->cpu->loadBytes(*slot, byte_offset, static_cast<const u8*>(src), byte_len);
  }
  settlePage(*ctx, *slot);
  return finish(ctx, status);
}

MMSB_API int32_t mmsb_page_gather(mmsb_ctx* ctx, uint32_t id, const uint32_t* ranges, uint32_t n, void* dst,
                                  uint64_t dst_len) {
  PageSlot* slot;
  const int32_t status = findPage(*ctx, id, &slot);
  if (status != MMSB_OK) return finish(ctx, status);
  const u64 size = dtypeBytes(slot->page.dtype);
  for (u32 i = 0; i < n; i++) {
    const u64 start = ranges[2 * i], count = ranges[2 * i + 1];
    if (start + count > slot->page.elements || count * size > dst_len) {
      return finish(ctx, fail(MMSB_ERR_ARGUMENT, "range %llu + %llu is too large for page %u or the buffer",
                              (unsigned long long)start, (unsigned long long)count, id));
    }
    dst_len -= count * size;
  }
  if (slot->page.location != MMSB_LOC_CPU) {
    return finish(ctx, ctx->gpu->gather(ctx->device, *slot, reinterpret_cast<const Range*>(ranges), n, dst));
  }
  fillNow(*ctx, *slot);
  u8* to = static_cast<u8*>(dst);
  for (u32 i = 0; i < n; i++) {
    const u64 start = ranges[2 * i], count = ranges[2 * i + 1];
    if (count != 0) memcpy(to, slot->page.data + start * size, count * size);
    to += count * size;
  }
  return MMSB_OK;
}

MMSB_API int32_t mmsb_page_digest(mmsb_ctx* ctx, uint32_t id, uint8_t out[16]) {
  PageSlot* slot;
  const int32_t status = findPage(*ctx, id, &slot);
  if (status != MMSB_OK) return finish(ctx, status);
  fillNow(*ctx, *slot);
  memcpy(out, slot->digest, 16);
  return MMSB_OK;
}

MMSB_API int32_t mmsb_page_digest_before(mmsb_ctx* ctx, uint32_t id, uint64_t call, uint8_t out[16]) {
  PageSlot* slot;
  const int32_t status = findPage(*ctx, id, &slot);
  if (status != MMSB_OK) return status;
  u64 digest[2];
  readDigest(*slot, call, digest);
  memcpy(out, digest, 16);
  return MMSB_OK;
}

MMSB_API int32_t mmsb_state_digest(mmsb_ctx* ctx, uint8_t out[16]) {
  fillAll(*ctx);
  memcpy(out, ctx->state, 16);
  return MMSB_OK;
}

MMSB_API int32_t mmsb_page_location(mmsb_ctx* ctx, uint32_t id, uint32_t* out) {
  PageSlot* slot;
  const int32_t status = findPage(*ctx, id, &slot);
  if (status == MMSB_OK) *out = slot->page.location;
  return finish(ctx, status);
}

// ---- steps and epochs -------------------------------------------------------------------------------------

MMSB_API int32_t mmsb_step_create(mmsb_ctx* ctx, const void* desc, uint64_t len, uint32_t* step_out) {
  return finish(ctx, createStep(*ctx, static_cast<const u8*>(desc), len, step_out));
}

MMSB_API int32_t mmsb_step_destroy(mmsb_ctx* ctx, uint32_t step) { return finish(ctx, destroyStep(*ctx, step)); }

MMSB_API int32_t mmsb_execute(mmsb_ctx* ctx, const uint32_t* steps, uint32_t step_count, const void* frames,
                              uint64_t frames_len, void* out, uint64_t out_cap, uint64_t* out_len) {
  const int32_t status = finish(ctx, runEpoch(*ctx, steps, step_count, static_cast<const u8*>(frames), frames_len));
  u8* to = static_cast<u8*>(out);
  if (status != MMSB_OK) {
    publishFailure(status, to, out_cap);
    return status;
  }
  *out_len = ctx->resultBytes;
  if (to == nullptr || out_cap < 64) return MMSB_OK;
  if (ctx->resultBytes <= out_cap) memcpy(to + 64, ctx->result + 64, ctx->resultBytes - 64);
  publishHeader(to, ctx->result);
  return MMSB_OK;
}

MMSB_API void mmsb_cancel(mmsb_ctx* ctx, uint32_t on) { __atomic_store_n(&ctx->pool.ownCancel, on, __ATOMIC_RELAXED); }

MMSB_API void mmsb_cancel_by(mmsb_ctx* ctx, const uint32_t* word) {
  ctx->pool.cancel = word == nullptr ? &ctx->pool.ownCancel : word;
  for (u32 w = 0; w < ctx->exec.workerCount; w++) ctx->exec.workers[w].cancel = ctx->pool.cancel;
}

MMSB_API int32_t mmsb_result_copy(mmsb_ctx* ctx, void* out, uint64_t out_cap) {
  if (ctx->resultBytes > out_cap) {
    return finish(ctx, fail(MMSB_ERR_ARGUMENT, "the result has %llu bytes; the buffer is too small",
                            (unsigned long long)ctx->resultBytes));
  }
  memcpy(out, ctx->result, ctx->resultBytes);
  return MMSB_OK;
}

MMSB_API int32_t mmsb_keep(mmsb_ctx* ctx, uint32_t on) {
  if (ctx->backend != MMSB_BACKEND_CPU) {
    return finish(ctx, fail(MMSB_ERR_UNSUPPORTED, "only the CPU backend supports undo"));
  }
  if (on == 0) {
    keptClose(ctx->kept, ctx->exec.workerCount);
  } else if (!keptOpen(ctx->kept, ctx->exec.workerCount)) {
    return finish(ctx, fail(MMSB_ERR_MEMORY, "no memory for the journals"));
  }
  return MMSB_OK;
}

MMSB_API int32_t mmsb_undo(mmsb_ctx* ctx, const uint32_t* steps, uint32_t step_count) {
  return finish(ctx, undoCall(*ctx, steps, step_count));
}

MMSB_API int32_t mmsb_kept_take(mmsb_ctx* ctx, void* out, uint64_t out_cap, uint64_t* out_len) {
  KeptCall* call = ctx->kept.newest;
  *out_len = call == nullptr ? 0 : call->bytes;
  if (call == nullptr || call->bytes > out_cap) return MMSB_OK;
  memcpy(out, call->data(), call->bytes);
  keptDrop(ctx->kept, call);
  return MMSB_OK;
}

MMSB_API int32_t mmsb_kept_trim(mmsb_ctx* ctx, uint64_t max_bytes, uint32_t max_calls, uint32_t* calls_out) {
  KeptCalls& kept = ctx->kept;
  while (kept.count != 0 && (kept.bytes > max_bytes || kept.count > max_calls)) keptDrop(kept, kept.oldest);
  *calls_out = kept.count;
  return MMSB_OK;
}

MMSB_API int32_t mmsb_bench_memcpy(uint64_t len, uint32_t n, uint64_t* out_ns) {
  u8* from = static_cast<u8*>(malloc(len + 1));
  u8* to = static_cast<u8*>(malloc(len + 1));
  if (from == nullptr || to == nullptr || n == 0) {
    free(from);
    free(to);
    return fail(MMSB_ERR_MEMORY, "no memory for two buffers of %llu bytes", (unsigned long long)len);
  }
  memset(from, 1, len);
  memset(to, 2, len);
  const u64 start = nowNs();
  for (u32 i = 0; i < n; i++) {
    memcpy(to, from, len);
    __asm__ volatile("" : : "r"(to) : "memory");
  }
  *out_ns = (nowNs() - start) / n;
  free(from);
  free(to);
  return MMSB_OK;
}
