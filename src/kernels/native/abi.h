// The C ABI of libmmsb: everything that crosses between TypeScript (src/ffi) and native code, and nothing else.
//
// Invariants: every function returns an mmsb_status (0 = ok) unless its comment says otherwise; no exception and no
// exit crosses this boundary; after a status other than 0 mmsb_last_error() says why (per thread). Little-endian,
// fixed-width types only. A context is not thread-safe: one call at a time, on any thread. Contexts are independent.
// Arguments are validated in TypeScript; native checks what would be memory-unsafe.
// Any change of a signature or a layout here raises MMSB_ABI_VERSION.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MMSB_ABI_VERSION 4

typedef enum {
  MMSB_OK = 0,
  MMSB_ERR_ARGUMENT = 1,     // a caller's bug: bad id, bad range, bad descriptor
  MMSB_ERR_MEMORY = 2,       // quota or allocator exhausted; nothing changed
  MMSB_ERR_UNSUPPORTED = 3,  // backend, location, op or version not available here
  MMSB_ERR_FRAME = 4,        // a delta could not be decoded; nothing applied
  MMSB_ERR_DEVICE = 5,       // the GPU failed; the context is unusable
  MMSB_ERR_INTERNAL = 6
} mmsb_status;

typedef enum { MMSB_BACKEND_CPU = 0, MMSB_BACKEND_CUDA = 1 } mmsb_backend;
typedef enum { MMSB_LOC_AUTO = 0, MMSB_LOC_CPU = 1, MMSB_LOC_GPU = 2, MMSB_LOC_UNIFIED = 3 } mmsb_location;

typedef struct mmsb_ctx mmsb_ctx;

// ---- library ------------------------------------------------------------------------------------------------------
uint32_t mmsb_abi_version(void);
// JSON: {"version","compiler","cuda":bool,"cudaArch":[..],"isa":"x86-64-v3"|"x86-64"}. Static storage.
const char* mmsb_build_info(void);
// Text of the last failure of a call on this context, on whichever thread it ran. Valid until the next call on it.
const char* mmsb_context_error(mmsb_ctx* ctx);
// Text of this thread's last failure. Static per-thread storage, valid until the next call on this thread.
const char* mmsb_last_error(void);
// CRC-32C (Castagnoli) of len bytes, continuing from seed (0 to start). Standard pre/post inversion inside.
uint32_t mmsb_crc32c(const void* data, uint64_t len, uint32_t seed);
// How many sound records of the log (docs/internals/FORMAT.md) stand one after another at the start of bytes, wholly in it, the first of
// them that of first_epoch.
uint32_t mmsb_sound_records(const void* bytes, uint64_t len, uint64_t first_epoch, uint32_t record_seed);
// Number of usable CUDA devices; 0 without driver, device or CUDA build.
uint32_t mmsb_device_count(void);
// posix_fallocate on an open file descriptor. Returns 0 or an errno.
int32_t mmsb_file_allocate(int32_t fd, uint64_t offset, uint64_t len);
// JSON: {"ir":{"OPNAME":code,...},"ops":{"NAME":{"code":n,"version":n},...}}: what this library can run, compared by
// a test with the tables in TypeScript. Static storage.
const char* mmsb_catalogue(void);

// ---- context ------------------------------------------------------------------------------------------------------
typedef struct {
  uint32_t backend;      // mmsb_backend
  uint32_t threads;      // worker threads for large steps; 0 = number of cores; 1 = none
  uint64_t quota_bytes;  // bound on the bytes of all pages; 0 = none
} mmsb_options;
int32_t mmsb_open(const mmsb_options* options, mmsb_ctx** out);
void mmsb_close(mmsb_ctx* ctx);
// JSON: {"name","computeCapability","memoryBytes","driver"} or {} on the CPU backend. Copies at most cap bytes, NUL-terminated.
int32_t mmsb_device_info(mmsb_ctx* ctx, char* out, uint64_t cap);
typedef struct {
  uint64_t page_count, page_bytes, cpu_bytes, gpu_bytes, unified_bytes, pool_bytes, quota_bytes;
} mmsb_memory;
int32_t mmsb_memory_stats(mmsb_ctx* ctx, mmsb_memory* out);

// ---- pages --------------------------------------------------------------------------------------------------------
// One descriptor; an array of them is created together or not at all.
typedef struct {
  uint32_t id;
  uint8_t dtype;      // code, see src/wire/dtype.ts: bool u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 = 0..10
  uint8_t rank;       // 0..8
  uint8_t location;   // mmsb_location
  uint8_t flags;      // 0
  uint32_t shape[8];  // the first rank entries count; elements < 2^32; any may be 0
  uint64_t fill;      // bits of one element, in the low bytes
} mmsb_page_desc;     // 48 bytes
int32_t mmsb_pages_create(mmsb_ctx* ctx, const mmsb_page_desc* descs, uint32_t count);
// Pages must not be used by a live step. Their share leaves the state digest.
int32_t mmsb_pages_destroy(mmsb_ctx* ctx, const uint32_t* ids, uint32_t count);
int32_t mmsb_page_read(mmsb_ctx* ctx, uint32_t id, uint64_t byte_offset, uint64_t byte_len, void* dst);
// Raw write, for loading checkpoints only: no change tracking; the digest is brought up to date.
int32_t mmsb_page_load(mmsb_ctx* ctx, uint32_t id, uint64_t byte_offset, uint64_t byte_len, const void* src);
// Packs the elements of n ranges {u32 offset, u32 count} one after another into dst.
int32_t mmsb_page_gather(mmsb_ctx* ctx, uint32_t id, const uint32_t* ranges, uint32_t n, void* dst, uint64_t dst_len);
int32_t mmsb_page_digest(mmsb_ctx* ctx, uint32_t id, uint8_t out[16]);
int32_t mmsb_state_digest(mmsb_ctx* ctx, uint8_t out[16]);
// The location the page was really given (auto resolved): mmsb_location.
int32_t mmsb_page_location(mmsb_ctx* ctx, uint32_t id, uint32_t* out);

// ---- steps: one op bound to pages ---------------------------------------------------------------------------------
// A descriptor is this head, u32 input_pages[input_count] (padded to 8 bytes), then params[param_bytes] (ops.h has the
// layout for each op).
typedef struct {
  uint32_t op;          // mmsb_op
  uint32_t op_version;  // must be the library's
  uint32_t out_page;
  uint32_t input_count;
  uint32_t param_bytes;
  uint32_t flags;  // MMSB_STEP_PAST or 0
} mmsb_step_desc;  // 24 bytes
// flags, MMSB_STEP_PAST: a copy step whose output is its input's past. It is run with MMSB_STEP_BEFORE only, keeps what changed
// of its input since it last ran, and brings the output up to date with that; the first time with all of it.
#define MMSB_STEP_PAST 1u
int32_t mmsb_step_create(mmsb_ctx* ctx, const void* desc, uint64_t len, uint32_t* step_out);
int32_t mmsb_step_destroy(mmsb_ctx* ctx, uint32_t step);

// ---- one epoch ----------------------------------------------------------------------------------------------------
// Applies every delta command of the frames (docs/internals/FORMAT.md; other commands are skipped), then runs the steps in the
// order given. A step runs only where an input changed in this call, or wholly when MMSB_STEP_FULL is set. Pages that
// end with the bytes they had are not reported and start nothing (cutoff). The frames are checked wholly before the
// first byte is applied.
//
// The result is written to out when it fits in out_cap; else only its header is, *out_len says how much is needed and
// mmsb_result_copy fetches it (valid until the next mmsb_execute). *out_len is always set before byte_len. Layout, little-endian:
//   header, 64 bytes: u32 byte_len, u32 changed_pages, u32 steps_run, u32 flags, u8 state_digest[16],
//                     u64 exec_ns, u64 elements_computed, u64 bytes_moved, u64 reserved
//   per changed page, in ascending page id: u32 page_id, u32 range_count, u8 digest[16],
//                     {u32 offset, u32 count} x range_count: element ranges, ascending, disjoint, not touching
//   per step run, in order: u32 step, u32 flags (1 output changed, 2 ran wholly), u64 elements_computed
// changed ranges are exact element runs (bytes differ from before the call, or were written by a changed delta); above
// 256 ranges a page's list is coarsened by closing gaps of < 2, 4, 8, ... elements until it fits. (deterministic)
// byte_len is stored last (release), so that another thread may watch for it. On failure, when out_cap >= 64, a header
// alone is written: byte_len 64, flags = 0x80000000 | status. The caller zeroes byte_len before the call.
// Steps with MMSB_STEP_BEFORE, which must come first and be MMSB_STEP_PAST ones, run before the deltas.
#define MMSB_STEP_FULL 0x80000000u
#define MMSB_STEP_BEFORE 0x40000000u
int32_t mmsb_execute(mmsb_ctx* ctx, const uint32_t* steps, uint32_t step_count, const void* frames, uint64_t frames_len,
                     void* out, uint64_t out_cap, uint64_t* out_len);
int32_t mmsb_result_copy(mmsb_ctx* ctx, void* out, uint64_t out_cap);

// ---- going back ---------------------------------------------------------------------------------------------------
// Between mmsb_keep(1) and mmsb_keep(0) each successful mmsb_execute keeps the bytes it overwrites; keep(0) forgets all of
// them. CPU backend only.
int32_t mmsb_keep(mmsb_ctx* ctx, uint32_t on);
// Takes the newest kept call back: bytes and digests of all pages that still exist are those before it, and what steps
// keep of their inputs follows. `steps`: at least the live steps that read a page the call changed. Pages and steps created
// or destroyed since are the caller's to bring back or to remove.
int32_t mmsb_undo(mmsb_ctx* ctx, const uint32_t* steps, uint32_t step_count);
// Hands over what the newest kept call overwrote and forgets it: *out_len says how many bytes that is; when out_cap is less,
// nothing else happens. Spans one after another: u32 page, u32 bytes, u64 offset in the page, then the old bytes, padded to
// 8. Where spans overlap, the earlier one is the older. Without a kept call *out_len is 0.
int32_t mmsb_kept_take(mmsb_ctx* ctx, void* out, uint64_t out_cap, uint64_t* out_len);
// Forgets the oldest kept calls until at most max_bytes and max_calls are left; *calls_out says how many are.
int32_t mmsb_kept_trim(mmsb_ctx* ctx, uint64_t max_bytes, uint32_t max_calls, uint32_t* calls_out);

// Microbenchmark aid: copies len bytes from one internal buffer to another, n times; ns per copy in *out_ns.
int32_t mmsb_bench_memcpy(uint64_t len, uint32_t n, uint64_t* out_ns);

#ifdef __cplusplus
}
#endif
