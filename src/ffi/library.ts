/**
 * Loads the native library through koffi and checks that it has the ABI version of this code.
 *
 * Invariants: nothing is called before the ABI version matched; a status other than 0 becomes an MmsbError;
 * handles are branded, so that a page id cannot be passed for a context.
 *
 * Null because koffi has it for C null pointers, and its callbacks for no error.
 */
import { endianness } from 'node:os'
import { type ErrorCode, MmsbError } from '../errors.js'
import { koffi } from './koffi.js'
import { findLibrary, unusableLibrary } from './library-file.js'

/** Must equal MMSB_ABI_VERSION in src/kernels/native/abi.h. */
const ABI_VERSION = 6

export type ContextHandle = { readonly __brand: 'mmsb_ctx' }

type Bytes = Uint8Array | Uint32Array | BigUint64Array | Float32Array | Float64Array | ArrayBufferView
type Status = number
type StatusCallback = (error: Error | null, status: Status) => void

export interface NativeFunctions {
  readonly mmsb_build_info: () => string
  readonly mmsb_last_error: () => string
  readonly mmsb_context_error: (ctx: ContextHandle) => string
  readonly mmsb_crc32c: (data: Bytes, length: number, seed: number) => number
  readonly mmsb_sound_records: (
    bytes: Bytes,
    length: number,
    firstEpoch: number,
    recordSeed: number,
  ) => number
  readonly mmsb_device_count: () => number
  readonly mmsb_file_allocate: (fd: number, offset: number, length: number) => number
  readonly mmsb_catalogue: () => string
  readonly mmsb_open: (options: Bytes, out: unknown[]) => Status
  readonly mmsb_close: (ctx: ContextHandle) => void
  readonly mmsb_device_info: (ctx: ContextHandle, out: Bytes, capacity: number) => Status
  readonly mmsb_memory_stats: (ctx: ContextHandle, out: Bytes) => Status
  readonly mmsb_pages_create: (ctx: ContextHandle, descriptors: Bytes, count: number) => Status
  readonly mmsb_pages_destroy: (ctx: ContextHandle, ids: Bytes, count: number) => Status
  readonly mmsb_page_read: (
    ctx: ContextHandle,
    id: number,
    offset: number,
    length: number,
    out: Bytes,
  ) => Status
  readonly mmsb_page_load: (
    ctx: ContextHandle,
    id: number,
    offset: number,
    length: number,
    data: Bytes,
  ) => Status
  readonly mmsb_page_gather: (
    ctx: ContextHandle,
    id: number,
    ranges: Bytes,
    count: number,
    out: Bytes,
    length: number,
  ) => Status
  readonly mmsb_page_digest: (ctx: ContextHandle, id: number, out: Bytes) => Status
  readonly mmsb_page_digest_before: (ctx: ContextHandle, id: number, call: number, out: Bytes) => Status
  readonly mmsb_state_digest: (ctx: ContextHandle, out: Bytes) => Status
  readonly mmsb_page_location: (ctx: ContextHandle, id: number, out: Bytes) => Status
  readonly mmsb_step_create: (ctx: ContextHandle, descriptor: Bytes, length: number, out: Bytes) => Status
  readonly mmsb_step_destroy: (ctx: ContextHandle, step: number) => Status
  readonly mmsb_execute: ((
    ctx: ContextHandle,
    steps: Bytes,
    stepCount: number,
    frames: Bytes,
    framesLength: number,
    out: Bytes,
    outCapacity: number,
    outLength: Bytes,
  ) => Status) & {
    async(
      ctx: ContextHandle,
      steps: Bytes,
      stepCount: number,
      frames: Bytes,
      framesLength: number,
      out: Bytes,
      outCapacity: number,
      outLength: Bytes,
      callback: StatusCallback,
    ): void
  }
  readonly mmsb_cancel: (ctx: ContextHandle, on: number) => void
  readonly mmsb_cancel_by: (ctx: ContextHandle, word: Bytes) => void
  readonly mmsb_result_copy: (ctx: ContextHandle, out: Bytes, capacity: number) => Status
  readonly mmsb_keep: (ctx: ContextHandle, on: number) => Status
  readonly mmsb_undo: (ctx: ContextHandle, steps: Bytes, stepCount: number) => Status
  readonly mmsb_kept_take: (ctx: ContextHandle, out: Bytes, capacity: number, outLength: Bytes) => Status
  readonly mmsb_kept_trim: (ctx: ContextHandle, maxBytes: number, maxCalls: number, out: Bytes) => Status
  readonly mmsb_bench_memcpy: (length: number, count: number, out: Bytes) => Status
}

const SIGNATURES: Readonly<Record<keyof NativeFunctions, string>> = {
  mmsb_build_info: 'const char *mmsb_build_info()',
  mmsb_last_error: 'const char *mmsb_last_error()',
  mmsb_context_error: 'const char *mmsb_context_error(void *ctx)',
  mmsb_crc32c: 'uint32_t mmsb_crc32c(const void *data, uint64_t len, uint32_t seed)',
  mmsb_sound_records:
    'uint32_t mmsb_sound_records(const void *bytes, uint64_t len, uint64_t first_epoch, uint32_t record_seed)',
  mmsb_device_count: 'uint32_t mmsb_device_count()',
  mmsb_file_allocate: 'int32_t mmsb_file_allocate(int32_t fd, uint64_t offset, uint64_t len)',
  mmsb_catalogue: 'const char *mmsb_catalogue()',
  mmsb_open: 'int32_t mmsb_open(const void *options, _Out_ void **out)',
  mmsb_close: 'void mmsb_close(void *ctx)',
  mmsb_device_info: 'int32_t mmsb_device_info(void *ctx, void *out, uint64_t cap)',
  mmsb_memory_stats: 'int32_t mmsb_memory_stats(void *ctx, void *out)',
  mmsb_pages_create: 'int32_t mmsb_pages_create(void *ctx, const void *descs, uint32_t count)',
  mmsb_pages_destroy: 'int32_t mmsb_pages_destroy(void *ctx, const void *ids, uint32_t count)',
  mmsb_page_read: 'int32_t mmsb_page_read(void *ctx, uint32_t id, uint64_t offset, uint64_t len, void *dst)',
  mmsb_page_load:
    'int32_t mmsb_page_load(void *ctx, uint32_t id, uint64_t offset, uint64_t len, const void *src)',
  mmsb_page_gather:
    'int32_t mmsb_page_gather(void *ctx, uint32_t id, const void *ranges, uint32_t n, void *dst, uint64_t dst_len)',
  mmsb_page_digest: 'int32_t mmsb_page_digest(void *ctx, uint32_t id, void *out)',
  mmsb_page_digest_before:
    'int32_t mmsb_page_digest_before(void *ctx, uint32_t id, uint64_t call, void *out)',
  mmsb_state_digest: 'int32_t mmsb_state_digest(void *ctx, void *out)',
  mmsb_page_location: 'int32_t mmsb_page_location(void *ctx, uint32_t id, void *out)',
  mmsb_step_create: 'int32_t mmsb_step_create(void *ctx, const void *desc, uint64_t len, void *out)',
  mmsb_step_destroy: 'int32_t mmsb_step_destroy(void *ctx, uint32_t step)',
  mmsb_execute:
    'int32_t mmsb_execute(void *ctx, const void *steps, uint32_t step_count, const void *frames, uint64_t frames_len, void *out, uint64_t out_cap, void *out_len)',
  mmsb_cancel: 'void mmsb_cancel(void *ctx, uint32_t on)',
  mmsb_cancel_by: 'void mmsb_cancel_by(void *ctx, const void *word)',
  mmsb_result_copy: 'int32_t mmsb_result_copy(void *ctx, void *out, uint64_t cap)',
  mmsb_keep: 'int32_t mmsb_keep(void *ctx, uint32_t on)',
  mmsb_undo: 'int32_t mmsb_undo(void *ctx, const void *steps, uint32_t step_count)',
  mmsb_kept_take: 'int32_t mmsb_kept_take(void *ctx, void *out, uint64_t cap, void *out_len)',
  mmsb_kept_trim:
    'int32_t mmsb_kept_trim(void *ctx, uint64_t max_bytes, uint32_t max_calls, void *calls_out)',
  mmsb_bench_memcpy: 'int32_t mmsb_bench_memcpy(uint64_t len, uint32_t n, void *out_ns)',
}

const STATUS_CODES: Readonly<Record<number, ErrorCode>> = {
  1: 'INTERNAL',
  2: 'OUT_OF_MEMORY',
  3: 'UNSUPPORTED_LOCATION',
  4: 'INVALID_DELTA',
  5: 'BUS_FAILED',
  6: 'INTERNAL',
  7: 'COST_EXCEEDED',
}

/** Loads a library file, such as one that was built for another C library. */
function open(path: string): ReturnType<ReturnType<typeof koffi>['load']> {
  const { load } = koffi()
  try {
    return load(path)
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause)
    throw new MmsbError('INTERNAL', unusableLibrary(path, reason), undefined, { cause })
  }
}

function load(): NativeFunctions {
  const found = findLibrary()
  if ('missing' in found) throw new MmsbError('INTERNAL', found.missing)
  if (endianness() !== 'LE') throw new MmsbError('INTERNAL', 'MMSB runs on little-endian machines only')
  const library = open(found.path)
  const version = (library.func('uint32_t mmsb_abi_version()') as () => number)()
  if (version !== ABI_VERSION) {
    const reason = `it has ABI version ${version}, this code needs ${ABI_VERSION}`
    throw new MmsbError('INTERNAL', unusableLibrary(found.path, reason))
  }
  const functions = Object.entries(SIGNATURES).map(([name, signature]) => [name, library.func(signature)])
  return Object.fromEntries(functions) as NativeFunctions
}

let loaded: NativeFunctions | undefined

/**
 * The native functions; the library is loaded at the first call. Throws INTERNAL when it is missing or has
 * another version.
 */
export function native(): NativeFunctions {
  loaded ??= load()
  return loaded
}

const STATUS_DEVICE = 5
const STATUS_CANCELLED = 7

/** The device failed; its context can no longer be used. */
export class DeviceLost extends MmsbError {}

/** The execution was ended by `NativeContext.cancel`, or by the word given as `cancelledBy`. */
export class ExecutionCancelled extends MmsbError {}

/** Turns a status into an error. `text` is the library's message. */
export function statusError(status: Status, text: string): MmsbError {
  if (status === STATUS_DEVICE) return new DeviceLost('BUS_FAILED', text)
  if (status === STATUS_CANCELLED) return new ExecutionCancelled('COST_EXCEEDED', text)
  return new MmsbError(STATUS_CODES[status] ?? 'INTERNAL', text || `native status ${status}`)
}

/** Throws unless `status` is 0. Only for synchronous calls. */
export function check(status: Status): void {
  if (status !== 0) throw statusError(status, native().mmsb_last_error())
}

/**
 * CRC-32C (Castagnoli, RFC 3720) of `bytes`, continuing from `seed`. `soundRecords` returns how many
 * undamaged log records follow one another from the start of `bytes`, beginning with that of `firstEpoch`.
 */
export const crc32c = Object.assign(
  (bytes: Uint8Array, seed = 0): number => native().mmsb_crc32c(bytes, bytes.byteLength, seed),
  {
    soundRecords: (bytes: Uint8Array, firstEpoch: number, recordSeed: number): number =>
      native().mmsb_sound_records(bytes, bytes.byteLength, firstEpoch, recordSeed),
  },
)

/** Reserves room in an open file (posix_fallocate). Returns 0 or an errno. */
export function allocateFile(fd: number, offset: number, length: number): number {
  return native().mmsb_file_allocate(fd, offset, length)
}

const LOCK_SHARED = 1
const LOCK_EXCLUSIVE = 2
const LOCK_NOW = 4
let flock: ((fd: number, operation: number) => number) | undefined

/**
 * Locks an open file or folder until its descriptor is closed (flock), `shared` with others that ask for that
 * too. Returns 0 or an errno; does not wait.
 */
export function lockDescriptor(fd: number, shared = false): number {
  flock ??= koffi().load(null).func('int flock(int fd, int operation)') as NonNullable<typeof flock>
  return flock(fd, (shared ? LOCK_SHARED : LOCK_EXCLUSIVE) | LOCK_NOW) === 0 ? 0 : koffi().errno()
}

let dup: ((fd: number, command: number, least: number) => number) | undefined
const DUPLICATE_CLOSED_ON_EXEC = 1030

/**
 * Another descriptor of the same open file or socket (fcntl F_DUPFD_CLOEXEC). Returns -1 if there is no room.
 */
export function duplicateDescriptor(fd: number): number {
  dup ??= koffi().load(null).func('int fcntl(int fd, int command, int least)') as NonNullable<typeof dup>
  return dup(fd, DUPLICATE_CLOSED_ON_EXEC, 0)
}

/** Parameters of mallopt, and what a server sets them to. */
const MALLOC_SETTINGS: readonly (readonly [parameter: number, value: number])[] = [
  // M_MMAP_THRESHOLD: a larger buffer is given back to the system when it is freed. Left alone, the threshold
  // rises with the buffers that are freed, and large ones stay in the heap.
  [-3, 4 * 1024 ** 2],
  // M_TRIM_THRESHOLD
  [-1, 16 * 1024 ** 2],
  // M_ARENA_MAX: each arena keeps what its threads freed.
  [-8, 4],
]

/**
 * Lets the C library's allocator give memory back soon. For a process of our own, not for a library in one.
 */
export function releaseMemorySoon(): void {
  let mallopt: (parameter: number, value: number) => number
  try {
    mallopt = koffi().load(null).func('int mallopt(int parameter, int value)') as typeof mallopt
  } catch {
    // Only the C library of GNU has it; others give memory back anyway.
    return
  }
  for (const [parameter, value] of MALLOC_SETTINGS) mallopt(parameter, value)
}

/** Number of usable CUDA devices: 0 without a driver, a device or a CUDA build. */
export function deviceCount(): number {
  return native().mmsb_device_count()
}

export interface BuildInfo {
  readonly version: string
  readonly compiler: string
  readonly cuda: boolean
  readonly cudaArch: readonly (string | number)[]
  readonly isa: string
}

export function buildInfo(): BuildInfo {
  return JSON.parse(native().mmsb_build_info()) as BuildInfo
}

export interface NativeCatalogue {
  readonly ir: Readonly<Record<string, number>>
  readonly ops: Readonly<Record<string, { readonly code: number; readonly version: number }>>
}

/** The IR opcodes and ops that this library can run. */
export function nativeCatalogue(): NativeCatalogue {
  return JSON.parse(native().mmsb_catalogue()) as NativeCatalogue
}
