/**
 * One native context: page memory, steps and the execution of epochs. A thin, typed wrapper of the C ABI
 * (src/kernels/native/abi.h): it packs arguments and turns statuses into errors. Knows nothing of names or
 * graphs.
 *
 * Invariants: one call at a time, which the engine ensures; while an asynchronous execution runs, only
 * `waitSync`, `cancel`, `memory`, `pageLocation` and `settledDigest` may be called.
 *
 * Null because koffi has it for a pointer to be filled in.
 */
import { MmsbError } from '../errors.js'
import { type ContextHandle, check, native, statusError } from './library.js'

const DESCRIPTOR_BYTES = 48
const RESULT_HEADER_BYTES = 64
/** Grows with the results; small, because a program may open many buses. */
const RESULT_INITIAL_BYTES = 16 * 1024
const STEP_FULL = 0x8000_0000
const STEP_BEFORE = 0x4000_0000
/** Flag of a step descriptor. */
const STEP_PAST = 1

export const LOCATIONS = ['auto', 'cpu', 'gpu', 'unified'] as const
const LOCATION_CPU = 1

export interface PageDescriptor {
  readonly id: number
  readonly dtypeCode: number
  readonly shape: readonly number[]
  /** Index into LOCATIONS. */
  readonly location: number
  /** Bits of one element. */
  readonly fill: bigint
}

export interface StepDescriptor {
  readonly opCode: number
  readonly opVersion: number
  readonly outPage: number
  readonly inputPages: readonly number[]
  readonly params: Uint8Array
  /** A copy step whose output is the past of its input; it must be run with the mark of `beforeStep`. */
  readonly keepsPast?: boolean
}

export interface MemoryStats {
  readonly pageCount: number
  readonly pageBytes: number
  readonly cpuBytes: number
  readonly gpuBytes: number
  readonly unifiedBytes: number
  readonly poolBytes: number
  readonly quotaBytes: number
}

/** Marks a step that keeps a page's past: it runs before the deltas. Such steps come first. */
export function beforeStep(step: number): number {
  return (step | STEP_BEFORE) >>> 0
}

export function isBeforeStep(step: number): boolean {
  return (step & STEP_BEFORE) !== 0
}

/** The number of a step without its marks. */
export function stepNumber(step: number): number {
  return (step & ~(STEP_BEFORE | STEP_FULL)) >>> 0
}

/** Marks a step that must run completely, whatever changed. */
export function fullStep(step: number): number {
  return (step | STEP_FULL) >>> 0
}

/**
 * The changes of an execution. A view of the context's result buffer, valid until the next execution: copy
 * whatever is needed for longer.
 */
export class ExecuteResult {
  readonly words: Uint32Array
  readonly #bytes: Uint8Array
  readonly changedPages: number
  readonly stepsRun: number

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
    this.words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >>> 2)
    this.changedPages = this.words[1] as number
    this.stepsRun = this.words[2] as number
  }

  /** The state's digest after the execution: 16 bytes, a copy. */
  stateDigest(): Uint8Array {
    return this.#bytes.slice(16, 32)
  }

  get execNs(): number {
    return this.#u64(8)
  }

  get elementsComputed(): number {
    return this.#u64(10)
  }

  get bytesMoved(): number {
    return this.#u64(12)
  }

  #u64(word: number): number {
    return (this.words[word] as number) + (this.words[word + 1] as number) * 2 ** 32
  }

  /**
   * Calls back for each changed page, ascending by id, with its ranges as a view (offset, count, offset,
   * count...).
   */
  eachChange(visit: (pageId: number, ranges: Uint32Array) => void): void {
    let at = RESULT_HEADER_BYTES / 4
    for (let i = 0; i < this.changedPages; i++) {
      const rangeCount = this.words[at + 1] as number
      const start = at + 6
      visit(this.words[at] as number, this.words.subarray(start, start + rangeCount * 2))
      at = start + rangeCount * 2
    }
  }

  /** Ids of the changed pages, without their ranges. */
  eachChangedId(visit: (pageId: number) => void): void {
    let at = RESULT_HEADER_BYTES / 4
    for (let i = 0; i < this.changedPages; i++) {
      visit(this.words[at] as number)
      at += 6 + (this.words[at + 1] as number) * 2
    }
  }

  /**
   * The execution log: which steps ran, whether their page changed, whether they ran completely, how much
   * they computed.
   */
  steps(): { step: number; changed: boolean; full: boolean; elementsComputed: number }[] {
    let at = RESULT_HEADER_BYTES / 4
    for (let i = 0; i < this.changedPages; i++) at += 6 + (this.words[at + 1] as number) * 2
    const list = []
    for (let i = 0; i < this.stepsRun; i++, at += 4) {
      const flags = this.words[at + 1] as number
      list.push({
        step: this.words[at] as number,
        changed: (flags & 1) !== 0,
        full: (flags & 2) !== 0,
        elementsComputed: this.#u64(at + 2),
      })
    }
    return list
  }
}

const EMPTY_RESULT = new ExecuteResult(new Uint8Array(RESULT_HEADER_BYTES))

export class NativeContext {
  #ctx: ContextHandle
  readonly #fn = native()
  #out = new Uint8Array(RESULT_INITIAL_BYTES)
  #dryRunOut: Uint8Array<ArrayBuffer> | undefined
  readonly #outLength = new BigUint64Array(1)
  readonly #word = new Uint32Array(1)
  readonly #keptLength = new BigUint64Array(1)
  #keptOut = new Uint8Array(0)
  /** `takeKept` is in use: executions must keep what they overwrite. */
  #isWatched = false
  #closed = false
  /** Number of executions and undos so far, as the native side counts them. */
  #calls = 0
  /** Number of asynchronous executions so far. */
  #running = 0
  /** The newest of them whose result waitSync has returned. */
  #taken = 0

  #hostMemoryOnly: boolean
  #backend: 'cpu' | 'cuda'
  /** Contexts of lost devices, replaced by `adopt`; closed with this one. */
  readonly #lost: ContextHandle[] = []

  /** Kept so that the native side can read it. */
  readonly #cancelledBy: Int32Array | undefined

  /**
   * `hostMemoryOnly`: all pages go to host memory, whatever their location, so that a state made with a
   * device can be used without. `cancelledBy`: one shared word; executions end with ExecutionCancelled while
   * it is not 0, and `cancel` has no effect. Throws UNSUPPORTED_LOCATION when the backend is not available
   * here.
   */
  constructor(options: {
    backend: 'cpu' | 'cuda'
    threads: number
    quotaBytes: number
    hostMemoryOnly?: boolean
    cancelledBy?: Int32Array | undefined
  }) {
    this.#hostMemoryOnly = options.hostMemoryOnly === true
    this.#backend = options.backend
    const packed = new DataView(new ArrayBuffer(16))
    packed.setUint32(0, options.backend === 'cuda' ? 1 : 0, true)
    packed.setUint32(4, options.threads, true)
    packed.setBigUint64(8, BigInt(options.quotaBytes), true)
    const out: unknown[] = [null]
    check(this.#fn.mmsb_open(packed, out))
    this.#ctx = out[0] as ContextHandle
    this.#cancelledBy = options.cancelledBy
    if (this.#cancelledBy !== undefined) this.#fn.mmsb_cancel_by(this.#ctx, this.#cancelledBy)
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    for (const ctx of [this.#ctx, ...this.#lost]) this.#fn.mmsb_close(ctx)
  }

  /** Replaces its pages and steps with those of `other`, which must not be used any more. */
  adopt(other: NativeContext): void {
    this.#lost.push(this.#ctx)
    this.#ctx = other.#ctx
    this.#calls = other.#calls
    this.#hostMemoryOnly = other.#hostMemoryOnly
    this.#backend = other.#backend
    this.#isWatched = false
    other.#closed = true
  }

  deviceInfo(): Record<string, unknown> {
    const text = new Uint8Array(1024)
    check(this.#fn.mmsb_device_info(this.#ctx, text, text.byteLength))
    return JSON.parse(Buffer.from(text.subarray(0, text.indexOf(0))).toString('utf8')) as Record<
      string,
      unknown
    >
  }

  memory(): MemoryStats {
    const words = new BigUint64Array(7)
    check(this.#fn.mmsb_memory_stats(this.#ctx, words))
    const [pageCount, pageBytes, cpuBytes, gpuBytes, unifiedBytes, poolBytes, quotaBytes] = Array.from(
      words,
      Number,
    )
    return { pageCount, pageBytes, cpuBytes, gpuBytes, unifiedBytes, poolBytes, quotaBytes } as MemoryStats
  }

  /** Creates all of them or none. Throws OUT_OF_MEMORY, UNSUPPORTED_LOCATION. */
  createPages(pages: readonly PageDescriptor[]): void {
    const packed = new DataView(new ArrayBuffer(DESCRIPTOR_BYTES * pages.length))
    let at = 0
    for (const page of pages) {
      packed.setUint32(at, page.id, true)
      packed.setUint8(at + 4, page.dtypeCode)
      packed.setUint8(at + 5, page.shape.length)
      packed.setUint8(at + 6, this.#hostMemoryOnly ? LOCATION_CPU : page.location)
      for (let axis = 0; axis < page.shape.length; axis++) {
        packed.setUint32(at + 8 + axis * 4, page.shape[axis] as number, true)
      }
      packed.setBigUint64(at + 40, page.fill, true)
      at += DESCRIPTOR_BYTES
    }
    check(this.#fn.mmsb_pages_create(this.#ctx, packed, pages.length))
  }

  destroyPages(ids: Uint32Array): void {
    check(this.#fn.mmsb_pages_destroy(this.#ctx, ids, ids.length))
  }

  /** Copies `out.byteLength` bytes from `byteOffset` of the page. */
  readPage(id: number, byteOffset: number, out: ArrayBufferView): void {
    check(this.#fn.mmsb_page_read(this.#ctx, id, byteOffset, out.byteLength, out))
  }

  /** Raw write of bytes from a checkpoint: no change tracking. */
  loadPage(id: number, byteOffset: number, bytes: Uint8Array): void {
    check(this.#fn.mmsb_page_load(this.#ctx, id, byteOffset, bytes.byteLength, bytes))
  }

  /** Packs the elements of ranges (offset, count, ...) into `out`. */
  gather(id: number, ranges: Uint32Array, out: ArrayBufferView): void {
    check(this.#fn.mmsb_page_gather(this.#ctx, id, ranges, ranges.length >>> 1, out, out.byteLength))
  }

  pageDigest(id: number): Uint8Array {
    const out = new Uint8Array(16)
    check(this.#fn.mmsb_page_digest(this.#ctx, id, out))
    return out
  }

  /**
   * The digest as it was before the newest execution or undo, if that is not to be seen yet (`isOpen`); else
   * as it is. Like `memory` and `pageLocation`, it may be called while an asynchronous execution runs.
   */
  settledDigest(id: number, isOpen: boolean): Uint8Array {
    const out = new Uint8Array(16)
    check(this.#fn.mmsb_page_digest_before(this.#ctx, id, isOpen ? this.#calls : 0, out))
    return out
  }

  stateDigest(): Uint8Array {
    const out = new Uint8Array(16)
    check(this.#fn.mmsb_state_digest(this.#ctx, out))
    return out
  }

  pageLocation(id: number): 'cpu' | 'gpu' | 'unified' {
    check(this.#fn.mmsb_page_location(this.#ctx, id, this.#word))
    return LOCATIONS[this.#word[0] as number] as 'cpu' | 'gpu' | 'unified'
  }

  createStep(step: StepDescriptor): number {
    const inputBytes = (step.inputPages.length * 4 + 7) & ~7
    const bytes = new Uint8Array(24 + inputBytes + step.params.byteLength)
    const view = new DataView(bytes.buffer)
    view.setUint32(0, step.opCode, true)
    view.setUint32(4, step.opVersion, true)
    view.setUint32(8, step.outPage, true)
    view.setUint32(12, step.inputPages.length, true)
    view.setUint32(16, step.params.byteLength, true)
    view.setUint32(20, step.keepsPast === true ? STEP_PAST : 0, true)
    for (const [i, id] of step.inputPages.entries()) view.setUint32(24 + i * 4, id, true)
    bytes.set(step.params, 24 + inputBytes)
    check(this.#fn.mmsb_step_create(this.#ctx, bytes, bytes.byteLength, this.#word))
    return this.#word[0] as number
  }

  destroyStep(step: number): void {
    check(this.#fn.mmsb_step_destroy(this.#ctx, step))
  }

  // ---- going back -----------------------------------------------------------------------------------------

  /** Whether the backend supports `keep` and `watchOverwrites`. */
  get keepsOverwritten(): boolean {
    return this.#backend === 'cpu'
  }

  /**
   * From now on each execution keeps what it overwrites, so that `undo` can restore it; `false` forgets
   * everything kept. Throws UNSUPPORTED_LOCATION on a backend other than cpu.
   */
  keep(on: boolean): void {
    if (!on && this.#isWatched) return
    check(this.#fn.mmsb_keep(this.#ctx, on ? 1 : 0))
  }

  /**
   * From now on, until `false`, each execution keeps what it overwrites for `takeKept`. Dry runs in between
   * may be kept and undone as usual. Throws UNSUPPORTED_LOCATION on a backend other than cpu.
   */
  watchOverwrites(on: boolean): void {
    check(this.#fn.mmsb_keep(this.#ctx, on ? 1 : 0))
    this.#isWatched = on
  }

  /**
   * Returns what the newest kept execution overwrote (src/kernels/native/abi.h) and forgets it. Valid until
   * the next call.
   */
  takeKept(): Uint8Array {
    check(this.#fn.mmsb_kept_take(this.#ctx, this.#keptOut, this.#keptOut.byteLength, this.#keptLength))
    const length = Number(this.#keptLength[0])
    if (length > this.#keptOut.byteLength) {
      this.#keptOut = new Uint8Array(2 ** Math.ceil(Math.log2(length)))
      return this.takeKept()
    }
    return this.#keptOut.subarray(0, length)
  }

  /**
   * Undoes the newest kept execution: bytes, digests and the partial results of steps are as before it.
   * `steps` must include all that read a page it changed.
   */
  undo(steps: Uint32Array): void {
    this.#calls++
    check(this.#fn.mmsb_undo(this.#ctx, steps, steps.length))
  }

  /** Forgets the oldest kept executions beyond these bounds; returns how many are left. */
  trimKept(maxBytes: number, maxCalls: number): number {
    check(this.#fn.mmsb_kept_trim(this.#ctx, maxBytes, maxCalls, this.#word))
    return this.#word[0] as number
  }

  /**
   * Exchanges the result buffer for another one, and back at the next call: a dry run must not overwrite the
   * result of the newest epoch.
   */
  swapResult(): void {
    const out = this.#out
    this.#out = this.#dryRunOut ?? new Uint8Array(RESULT_INITIAL_BYTES)
    this.#dryRunOut = out
  }

  /** Applies the frames' deltas and runs the steps, on this thread. */
  execute(steps: Uint32Array, frames: Uint8Array): ExecuteResult {
    this.#calls++
    const status = this.#fn.mmsb_execute(
      this.#ctx,
      steps,
      steps.length,
      frames,
      frames.byteLength,
      this.#out,
      this.#out.byteLength,
      this.#outLength,
    )
    check(status)
    return this.#result()
  }

  /**
   * The same on a worker thread. Until it settles, only waitSync and cancel may be called; after a waitSync
   * the promise resolves to an empty result.
   */
  executeAsync(steps: Uint32Array, frames: Uint8Array): Promise<ExecuteResult> {
    Atomics.store(this.#outWords(), 0, 0)
    this.#calls++
    const run = ++this.#running
    // koffi keeps only the callback of an asynchronous call alive; its scope keeps what the other thread
    // reads and writes.
    return new Promise((resolve, reject) => {
      this.#fn.mmsb_execute.async(
        this.#ctx,
        steps,
        steps.length,
        frames,
        frames.byteLength,
        this.#out,
        this.#out.byteLength,
        this.#outLength,
        (error, status) => {
          if (error !== null) reject(new MmsbError('INTERNAL', error.message, undefined, { cause: error }))
          else if (status !== 0) reject(statusError(status, this.#fn.mmsb_context_error(this.#ctx)))
          else if (this.#taken === run) resolve(EMPTY_RESULT)
          else resolve(this.#result())
        },
      )
    })
  }

  /**
   * Ends the execution that runs on another thread soon, and every later one at once, with
   * ExecutionCancelled, until `false` is given. It has then changed some of its pages: on the CPU it must be
   * undone, and if it was not kept, the context is unusable; on a device the caller writes the old values
   * back and executes the same steps.
   */
  cancel(on: boolean): void {
    this.#fn.mmsb_cancel(this.#ctx, on ? 1 : 0)
  }

  /** Blocks this thread until the execution started by executeAsync has ended; its promise settles later. */
  waitSync(): ExecuteResult {
    const words = this.#outWords()
    const sleeper = new Int32Array(new SharedArrayBuffer(4))
    while (Atomics.load(words, 0) === 0) Atomics.wait(sleeper, 0, 0, 0.05)
    this.#taken = this.#running
    const flags = words[3] as number
    if (flags & 0x8000_0000) throw statusError(flags & 0xff, this.#fn.mmsb_context_error(this.#ctx))
    return this.#result()
  }

  #outWords(): Uint32Array {
    return new Uint32Array(this.#out.buffer, 0, RESULT_HEADER_BYTES / 4)
  }

  #result(): ExecuteResult {
    const length = Number(this.#outLength[0])
    if (length > this.#out.byteLength) {
      this.#out = new Uint8Array(2 ** Math.ceil(Math.log2(length)))
      check(this.#fn.mmsb_result_copy(this.#ctx, this.#out, this.#out.byteLength))
    }
    return new ExecuteResult(this.#out.subarray(0, length))
  }
}
