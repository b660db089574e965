// The C ABI of libmmsb: everything that crosses between TypeScript (src/ffi) and native code, and nothing
// else.
//
// Invariants: every function returns an mmsb_status (0 = ok) unless its comment says otherwise. No exception
// and no exit crosses this boundary. After a status other than 0, mmsb_last_error() has the reason (per
// thread). All types are little-endian and of fixed width. A context is not thread-safe: it takes one call at
// a time, on any thread. Contexts are independent. TypeScript validates arguments; native code checks only
// what memory safety depends on. Any change of a signature or a layout here raises MMSB_ABI_VERSION.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MMSB_ABI_VERSION 6

typedef enum {
  MMSB_OK = 0,
  MMSB_ERR_ARGUMENT = 1,     // bug of the caller: bad id, range or descriptor
  MMSB_ERR_MEMORY = 2,       // quota or allocator exhausted; nothing changed
  MMSB_ERR_UNSUPPORTED = 3,  // backend, location, op or version not available here
  MMSB_ERR_FRAME = 4,        // a delta could not be decoded; nothing applied
  MMSB_ERR_DEVICE = 5,       // the GPU failed; the context is unusable
  MMSB_ERR_INTERNAL = 6,
  MMSB_ERR_CANCELLED = 7  // mmsb_cancel ended the call; see there
} mmsb_status;

typedef enum { MMSB_BACKEND_CPU = 0, MMSB_BACKEND_CUDA = 1 } mmsb_backend;
typedef enum { MMSB_LOC_AUTO = 0, MMSB_LOC_CPU = 1, MMSB_LOC_GPU = 2, MMSB_LOC_UNIFIED = 3 } mmsb_location;

typedef struct mmsb_ctx mmsb_ctx;

// ---- library ----------------------------------------------------------------------------------------------
uint32_t mmsb_abi_version(void);
// JSON: {"version","compiler","cuda":bool,"cudaArch":[..],"isa":"x86-64-v3"|"x86-64"}. Static storage.
const char* mmsb_build_info(void);
// Text of the last failure of a call on this context, on any thread. Valid until the next call on the
// context.
const char* mmsb_context_error(mmsb_ctx* ctx);
// Text of this thread's last failure. Static per-thread storage, valid until the next call on this thread.
const char* mmsb_last_error(void);
// CRC-32C (Castagnoli) of len bytes, continuing from seed (0 to start). Standard pre/post inversion inside.
uint32_t mmsb_crc32c(const void* data, uint64_t len, uint32_t seed);
// Counts the sound log records (docs/internals/FORMAT.md) that lie completely in bytes, one after another
// from its start. The first must be the record of first_epoch.
uint32_t mmsb_sound_records(const void* bytes, uint64_t len, uint64_t first_epoch, uint32_t record_seed);
// Number of usable CUDA devices; 0 without driver, device or CUDA build.
uint32_t mmsb_device_count(void);
// posix_fallocate on an open file descriptor. Returns 0 or an errno.
int32_t mmsb_file_allocate(int32_t fd, uint64_t offset, uint64_t len);
// JSON: {"ir":{"OPNAME":code,...},"ops":{"NAME":{"code":n,"version":n,"old":[n,...]},...}}: everything this
// library can run. `version` is the newest, `old` has the earlier ones. A test compares it with the tables in
// TypeScript. Static storage.
const char* mmsb_catalogue(void);

// ---- context ----------------------------------------------------------------------------------------------
typedef struct {
  uint32_t backend;      // mmsb_backend
  uint32_t threads;      // worker threads for large steps; 0 = number of cores; 1 = none
  uint64_t quota_bytes;  // limit on the bytes of all pages; 0 = none
} mmsb_options;
int32_t mmsb_open(const mmsb_options* options, mmsb_ctx** out);
void mmsb_close(mmsb_ctx* ctx);
// JSON: {"name","computeCapability","memoryBytes","driver"} or {} on the CPU backend. Copies at most cap
// bytes, NUL-terminated.
int32_t mmsb_device_info(mmsb_ctx* ctx, char* out, uint64_t cap);
typedef struct {
  uint64_t page_count, page_bytes, cpu_bytes, gpu_bytes, unified_bytes, pool_bytes, quota_bytes;
} mmsb_memory;
int32_t mmsb_memory_stats(mmsb_ctx* ctx, mmsb_memory* out);

// ---- pages ------------------------------------------------------------------------------------------------
// One page to create. An array of descriptors is created completely or not at all.
typedef struct {
  uint32_t id;
  uint8_t dtype;      // code, see src/wire/dtype.ts: bool u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 = 0..10
  uint8_t rank;       // 0..8
  uint8_t location;   // mmsb_location
  uint8_t flags;      // 0
  uint32_t shape[8];  // the first `rank` entries are used; fewer than 2^32 elements; sizes may be 0
  uint64_t fill;      // bits of one element, in the low bytes
} mmsb_page_desc;     // 48 bytes
// The memory of a large page is filled by the next mmsb_execute, or when its bytes or digest are asked for.
int32_t mmsb_pages_create(mmsb_ctx* ctx, const mmsb_page_desc* descs, uint32_t count);
// No live step may use the pages. Their shares are removed from the state digest.
int32_t mmsb_pages_destroy(mmsb_ctx* ctx, const uint32_t* ids, uint32_t count);
int32_t mmsb_page_read(mmsb_ctx* ctx, uint32_t id, uint64_t byte_offset, uint64_t byte_len, void* dst);
// Raw write, for loading checkpoints only: tracks no changes, but updates the digest.
int32_t mmsb_page_load(mmsb_ctx* ctx, uint32_t id, uint64_t byte_offset, uint64_t byte_len, const void* src);
// Copies the elements of n ranges {u32 offset, u32 count} to dst, one after another.
int32_t mmsb_page_gather(mmsb_ctx* ctx, uint32_t id, const uint32_t* ranges, uint32_t n, void* dst, uint64_t dst_len);
int32_t mmsb_page_digest(mmsb_ctx* ctx, uint32_t id, uint8_t out[16]);
// The digest before call number `call`, the newest of mmsb_execute and mmsb_undo; 0 for a call to come. Calls
// are numbered from 1, failed ones too. Like mmsb_memory_stats and mmsb_page_location, this may be called
// while mmsb_execute runs on another thread, for pages that exist before that call.
int32_t mmsb_page_digest_before(mmsb_ctx* ctx, uint32_t id, uint64_t call, uint8_t out[16]);
int32_t mmsb_state_digest(mmsb_ctx* ctx, uint8_t out[16]);
// The actual mmsb_location of the page, with MMSB_LOC_AUTO resolved.
int32_t mmsb_page_location(mmsb_ctx* ctx, uint32_t id, uint32_t* out);

// ---- steps: one op bound to pages -------------------------------------------------------------------------
// A descriptor is this head, u32 input_pages[input_count] (padded to 8 bytes), then params[param_bytes]
// (ops.h has the layout for each op).
typedef struct {
  uint32_t op;          // mmsb_op
  uint32_t op_version;  // one that the library has: every released one
  uint32_t out_page;
  uint32_t input_count;
  uint32_t param_bytes;
  uint32_t flags;  // MMSB_STEP_PAST or 0
} mmsb_step_desc;  // 24 bytes
// The flag MMSB_STEP_PAST marks a copy step whose output is the past of its input. Such a step runs only with
// MMSB_STEP_BEFORE. It remembers which elements of its input changed since its last run, and then copies only
// these; its first run copies everything.
#define MMSB_STEP_PAST 1u
int32_t mmsb_step_create(mmsb_ctx* ctx, const void* desc, uint64_t len, uint32_t* step_out);
int32_t mmsb_step_destroy(mmsb_ctx* ctx, uint32_t step);

// ---- one epoch --------------------------------------------------------------------------------------------
// Applies every delta command of the frames (docs/internals/FORMAT.md; other commands are skipped), then runs
// the steps in the given order. A step runs where an input changed in this call, or in full if MMSB_STEP_FULL
// is set. Pages whose bytes end up equal are not reported and trigger nothing (cutoff). All frames are
// checked before the first byte is applied.
//
// If the result fits in out_cap, it is written to out. Else only its header is written; *out_len has the
// bytes needed, and mmsb_result_copy fetches the result until the next mmsb_execute. *out_len is always set
// before byte_len. Layout, little-endian:
//   header, 64 bytes: u32 byte_len, u32 changed_pages, u32 steps_run, u32 flags, u8 state_digest[16],
//                     u64 exec_ns, u64 elements_computed, u64 bytes_moved, u64 reserved
//   per changed page, in ascending page id: u32 page_id, u32 range_count, u8 digest[16],
//                     {u32 offset, u32 count} x range_count: element ranges, ascending, not touching
//   per step run, in order: u32 step, u32 flags (1 output changed, 2 ran wholly), u64 elements_computed
// Changed ranges are exact runs of elements whose bytes differ from before the call. A list of more than 256
// ranges is coarsened: gaps of fewer than 2, 4, 8, ... elements are closed until it fits. This is
// deterministic. byte_len is stored last (release), so that another thread may watch for it. The caller
// zeroes byte_len before the call. On failure, if out_cap >= 64, only a header is written, with byte_len 64
// and flags = 0x80000000 | status. Steps with MMSB_STEP_BEFORE run before the deltas; they must come first
// and be MMSB_STEP_PAST steps.
#define MMSB_STEP_FULL 0x80000000u
#define MMSB_STEP_BEFORE 0x40000000u
int32_t mmsb_execute(mmsb_ctx* ctx, const uint32_t* steps, uint32_t step_count, const void* frames, uint64_t frames_len,
                     void* out, uint64_t out_cap, uint64_t* out_len);
int32_t mmsb_result_copy(mmsb_ctx* ctx, void* out, uint64_t out_cap);
// May be called from any thread while a call runs on the context. on = 1: the running mmsb_execute ends soon,
// and every later one at once, with MMSB_ERR_CANCELLED; on = 0 takes that back. A call that was cancelled has
// changed some of its pages:
// - kept (mmsb_keep), it must be undone (mmsb_undo) before the next call;
// - on the CUDA backend, every step that did run is complete. The caller restores the old state by an
//   mmsb_execute with the old values of the pages that the deltas wrote and the same steps;
// - else the context is unusable.
void mmsb_cancel(mmsb_ctx* ctx, uint32_t on);
// From now on the program's word, instead of mmsb_cancel, says whether calls are cancelled: 0 is no. It is
// for threads that do not have the context. It must stay readable until mmsb_close, or until another word or
// NULL (mmsb_cancel again) takes its place.
void mmsb_cancel_by(mmsb_ctx* ctx, const uint32_t* word);

// ---- going back -------------------------------------------------------------------------------------------
// Between mmsb_keep(1) and mmsb_keep(0), each successful mmsb_execute keeps the bytes it overwrites.
// mmsb_keep(0) drops them all. CPU backend only.
int32_t mmsb_keep(mmsb_ctx* ctx, uint32_t on);
// Undoes the newest kept call: restores the bytes and digests of all pages that still exist, and the state
// that steps derive from their inputs. `steps` must contain at least the live steps that read a page the call
// changed. The caller undoes the creation and destruction of pages and steps itself.
int32_t mmsb_undo(mmsb_ctx* ctx, const uint32_t* steps, uint32_t step_count);
// Copies the bytes that the newest kept call overwrote to out, and drops the call. *out_len has the bytes
// needed; if out_cap is less, nothing else happens. Layout of each span: u32 page, u32 bytes, u64 offset in
// the page, then the old bytes, padded to 8. Where spans overlap, the earlier one is older. Without a kept
// call *out_len is 0.
int32_t mmsb_kept_take(mmsb_ctx* ctx, void* out, uint64_t out_cap, uint64_t* out_len);
// Drops the oldest kept calls until at most max_bytes and max_calls are left. *calls_out has the number left.
int32_t mmsb_kept_trim(mmsb_ctx* ctx, uint64_t max_bytes, uint32_t max_calls, uint32_t* calls_out);

// For microbenchmarks: copies len bytes between two internal buffers n times. *out_ns has the ns per copy.
int32_t mmsb_bench_memcpy(uint64_t len, uint32_t n, uint64_t* out_ns);

#ifdef __cplusplus
}
#endif
