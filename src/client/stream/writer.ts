/**
 * Transactions over the WebSocket: many in flight at a time, each with its own promise.
 *
 * Invariants: transactions are sent in the order of the calls. After a lost connection each is sent again,
 * with the same idempotency key, until it is answered, so it takes effect once. On another history that key
 * is not known, so a transaction is only sent there if the program chose its key; others reject with
 * HISTORY_CHANGED, and may have taken effect on the old history. At most WRITER_IN_FLIGHT_MAX are
 * unanswered at a time; the others wait here. A transaction that cannot be encoded rejects its own promise
 * and disturbs no other.
 */

import type { TypedArray } from '../../wire/dtype.js'
import { STREAM_MESSAGE_MAX_BYTES } from '../../wire/limits.js'
import {
  type Checks,
  checkDelta,
  checkFields,
  checkKey,
  checkName,
  checkTransaction,
  isText,
} from '../arguments.js'
import { encodeFrame, type FramePage } from '../codec/frame.js'
import { transactionText } from '../codec/json.js'
import type { Message } from '../codec/message.js'
import { writeValues } from '../codec/values.js'
import { closedError, invalidRequest, MmsbError } from '../errors.js'
import { WRITER_IN_FLIGHT_MAX, WRITER_MESSAGE_BYTES } from '../limits.js'
import type { Delta, Transaction } from '../types.js'
import type { Connection, ConnectionUser } from './connection.js'

/** Sends transactions over the WebSocket without waiting for their answers. */
export interface Writer {
  /** Resolves when the transaction is durable. Transactions are decided in the order of the calls. */
  transact(transaction: Transaction, options?: { readonly key?: string }): Promise<{ readonly epoch: number }>
  /** Sends one delta; resolves to its epoch once it is durable. */
  patch(page: string, delta: Delta): Promise<{ readonly epoch: number }>
  /** Number of transactions without an answer. */
  readonly pending: number
  /** Takes no more transactions; resolves when all are answered. */
  close(): Promise<void>
}

export interface WriterDeps {
  readonly connection: Connection
  /** What a frame needs to know about a page; from memory if it is known. */
  readonly pageOf: (name: string) => FramePage | Promise<FramePage>
  /** The page is unknown or has changed: asks the server next time. */
  readonly forgetPage: (name: string) => void
  /** Asks the server for its history, which the connection then knows. */
  readonly askHistory: () => Promise<unknown>
  readonly newKey: () => string
  readonly onEnd: () => void
}

type Pages = ReadonlyMap<string, FramePage>

const OPTIONS: Checks = { key: isText }

interface Entry {
  readonly transaction: Transaction
  readonly key: string
  /** The program chose the key, so it expects the transaction to be repeated wherever needed. */
  readonly hasOwnKey: boolean
  /** How often the history had changed when the transaction was handed in, or was last encoded. */
  changesBefore: number
  /** The frame, or the JSON text without type and id. */
  data: Uint8Array<ArrayBuffer> | string
  readonly resolve: (answer: { readonly epoch: number }) => void
  readonly reject: (error: unknown) => void
}

export class StreamWriter implements Writer, ConnectionUser {
  readonly isListening = false
  readonly #deps: WriterDeps
  /** Encoded, not sent. */
  #waiting: Entry[] = []
  /** Sent, not answered, in the order of sending: by frame number on this connection or, with JSON, by id. */
  readonly #inFlight = new Map<number | string, Entry>()
  /** Ends when the transactions that wait for their pages are encoded; undefined if none waits. */
  #encoding: Promise<void> | undefined
  #encodingCount = 0
  #isFlushing = false
  /** Undefined until the server has been asked for its history. */
  #askedHistory: 'waiting' | 'done' | undefined
  /** How often the history of the server has changed, and the error of the last time. */
  #historyChanges = 0
  #historyError: MmsbError | undefined
  #isClosing = false
  #onIdle: (() => void)[] = []
  #failure: { readonly error: unknown } | undefined

  constructor(deps: WriterDeps) {
    this.#deps = deps
    deps.connection.attach(this)
  }

  get pending(): number {
    return this.#waiting.length + this.#inFlight.size + this.#encodingCount
  }

  /** Sends one delta; resolves to its epoch once it is durable. */
  async patch(page: string, delta: Delta): Promise<{ readonly epoch: number }> {
    checkName(page, 'page')
    checkDelta(delta)
    return this.#submit({ ops: [{ page, ...delta }] }, undefined)
  }

  async transact(
    transaction: Transaction,
    options: { readonly key?: string } = {},
  ): Promise<{ readonly epoch: number }> {
    checkTransaction(transaction)
    checkFields('options', options, OPTIONS)
    checkKey(options.key)
    return this.#submit(transaction, options.key)
  }

  #submit(transaction: Transaction, given: string | undefined): Promise<{ readonly epoch: number }> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined) throw this.#failure.error
      if (this.#isClosing) throw closedError('writer')
      const key = given ?? this.#deps.newKey()
      const fresh = { changesBefore: this.#historyChanges, data: '' }
      this.#take({ transaction, key, hasOwnKey: given !== undefined, ...fresh, resolve, reject })
    })
  }

  /** Encodes at once if all pages are known and no earlier transaction waits; else in order. */
  #take(entry: Entry): void {
    const pages = this.#pagesOf(entry.transaction)
    if (this.#encoding === undefined && !(pages instanceof Promise)) {
      const data = this.#encodedAtOnce(entry, pages)
      if (data !== undefined) {
        entry.data = data
        this.#add(entry)
        return
      }
    }
    // Its failure is reported in order, below.
    if (pages instanceof Promise) pages.catch(() => {})
    this.#encodingCount++
    const before = this.#encoding ?? Promise.resolve()
    const mine = before
      .then(async () => {
        entry.data = await this.#encodedAnew(entry, await pages)
        this.#add(entry)
      })
      .catch((error: unknown) => entry.reject(error))
      .then(() => {
        this.#encodingCount--
        if (this.#encoding === mine) this.#encoding = undefined
        this.#checkIdle()
      })
    this.#encoding = mine
  }

  /** The encoded transaction; undefined if it does not fit its pages as they are known. */
  #encodedAtOnce(entry: Entry, pages: Pages): Entry['data'] | undefined {
    try {
      return this.#encode(entry, pages)
    } catch (error) {
      if (isMisfit(error)) return undefined
      throw error
    }
  }

  /**
   * A known page may be an older one of the same name: asks the server once more before refusing a
   * transaction.
   */
  async #encodedAnew(entry: Entry, pages: Pages): Promise<Entry['data']> {
    try {
      return this.#encode(entry, pages)
    } catch (error) {
      if (!isMisfit(error) || pages.size === 0) throw error
      this.#forgetPages(entry.transaction)
      return this.#encode(entry, await this.#pagesOf(entry.transaction))
    }
  }

  #pagesOf({ ops, expect = [] }: Transaction): Pages | Promise<Pages> {
    const pages = new Map<string, FramePage>()
    // JSON carries lists only, so the client checks that typed arrays have the dtype of their page.
    const isJson = this.#deps.connection.protocol === 'json'
    const needed = isJson ? ops.filter(({ values }) => ArrayBuffer.isView(values)) : [...ops, ...expect]
    const asked: Promise<unknown>[] = []
    for (const { page: name } of needed) {
      const page = this.#deps.pageOf(name)
      if (page instanceof Promise) asked.push(page.then((answer) => pages.set(name, answer)))
      else pages.set(name, page)
    }
    return asked.length === 0 ? pages : Promise.all(asked).then(() => pages)
  }

  #encode({ transaction, key }: Entry, pages: Pages): Entry['data'] {
    const isJson = this.#deps.connection.protocol === 'json'
    if (isJson) checkArrays(transaction, pages)
    const data = asMmsbError(() =>
      isJson ? transactionText(transaction, key) : frameOf(transaction, key, pages),
    )
    if (data.length <= STREAM_MESSAGE_MAX_BYTES) return data
    throw new MmsbError({
      code: 'PAYLOAD_TOO_LARGE',
      detail: `a transaction over the stream has at most ${STREAM_MESSAGE_MAX_BYTES} bytes; this has ${data.length}`,
      hint: 'Send it over HTTP, or in parts.',
    })
  }

  #add(entry: Entry): void {
    if (this.#failure !== undefined) throw this.#failure.error
    if (entry.changesBefore !== this.#historyChanges) {
      this.#onOtherHistory(entry)
      return
    }
    this.#waiting.push(entry)
    this.#flushSoon()
  }

  /** Flushes once per turn, so that transactions of one turn leave together. */
  #flushSoon(): void {
    if (this.#isFlushing) return
    this.#isFlushing = true
    queueMicrotask(() => {
      this.#isFlushing = false
      this.#flush()
    })
  }

  /**
   * The history must be known before the first transaction leaves: otherwise nobody would notice that it is
   * sent again on another one. A server that cannot be asked, or names none, is written to all the same.
   */
  #mayFlush(): boolean {
    const { connection, askHistory } = this.#deps
    if (!connection.isUp || this.#waiting.length === 0) return false
    if (connection.history !== undefined || this.#askedHistory === 'done') return true
    if (this.#askedHistory === undefined) {
      this.#askedHistory = 'waiting'
      askHistory()
        .catch(() => {})
        .then(() => {
          this.#askedHistory = 'done'
          this.#flushSoon()
        })
    }
    return false
  }

  #flush(): void {
    if (!this.#mayFlush()) return
    const { connection } = this.#deps
    let frames: Uint8Array<ArrayBuffer>[] = []
    let owners: Entry[] = []
    let bytes = 0
    const send = (): void => {
      if (frames.length === 0) return
      let number = connection.sendFrames(this, joined(frames, bytes), frames.length)
      for (const entry of owners) this.#inFlight.set(number++, entry)
      frames = []
      owners = []
      bytes = 0
    }
    const due = this.#waiting.splice(0, WRITER_IN_FLIGHT_MAX - this.#inFlight.size)
    for (const entry of due) {
      if (typeof entry.data === 'string') {
        const id = connection.idFor(this, 't')
        this.#inFlight.set(id, entry)
        connection.send(`{"type":"transaction","id":"${id}",${entry.data.slice(1)}`)
        continue
      }
      if (bytes + entry.data.length > WRITER_MESSAGE_BYTES) send()
      frames.push(entry.data)
      owners.push(entry)
      bytes += entry.data.length
    }
    send()
  }

  up(): void {
    this.#flush()
  }

  down(): void {
    for (const id of this.#inFlight.keys()) if (typeof id === 'string') this.#deps.connection.forget(id)
    this.#waiting = [...this.#inFlight.values(), ...this.#waiting]
    this.#inFlight.clear()
  }

  /** The frames at hand name pages of the old history: those that are sent again are encoded anew. */
  historyChanged(error: MmsbError): void {
    this.#historyError = error
    this.#historyChanges++
    const entries = this.#waiting
    this.#waiting = []
    for (const entry of entries) this.#onOtherHistory(entry)
    this.#checkIdle()
  }

  #onOtherHistory(entry: Entry): void {
    if (entry.hasOwnKey) {
      entry.changesBefore = this.#historyChanges
      this.#take(entry)
    } else {
      entry.reject(this.#historyError)
    }
  }

  fail(error: unknown): void {
    this.#failure ??= { error }
    const entries = [...this.#inFlight.values(), ...this.#waiting]
    this.#inFlight.clear()
    this.#waiting = []
    for (const { reject } of entries) reject(error)
    this.#end()
  }

  receive(message: Message): void {
    if (message.type === 'ack') {
      for (let i = 0; i < message.count; i++)
        this.#settle(message.sequence + i)?.resolve({ epoch: message.epoch })
    } else if (message.type === 'refusal') {
      this.#refuse(message.sequence, message.error)
    } else if (message.type === 'acked') {
      this.#settle(message.id)?.resolve({ epoch: message.epoch })
    } else if (message.type === 'error' && message.id !== undefined) {
      this.#refuse(message.id, message.error)
    }
    this.#flushSoon()
    this.#checkIdle()
  }

  #refuse(id: number | string, error: MmsbError): void {
    const entry = this.#settle(id)
    if (entry === undefined) return
    // The page may have been replaced by another of the same name: the next transaction asks the server.
    this.#forgetPages(entry.transaction)
    entry.reject(error)
  }

  #forgetPages({ ops, expect = [] }: Transaction): void {
    for (const { page } of [...ops, ...expect]) this.#deps.forgetPage(page)
  }

  #settle(id: number | string): Entry | undefined {
    const entry = this.#inFlight.get(id)
    this.#inFlight.delete(id)
    if (typeof id === 'string') this.#deps.connection.forget(id)
    return entry
  }

  close(): Promise<void> {
    this.#isClosing = true
    return new Promise((resolve) => {
      this.#onIdle.push(resolve)
      this.#checkIdle()
    })
  }

  #checkIdle(): void {
    if (this.#isClosing && this.pending === 0) this.#end()
  }

  #end(): void {
    this.#deps.connection.detach(this)
    this.#deps.onEnd()
    for (const resolve of this.#onIdle.splice(0)) resolve()
  }
}

const isMisfit = (error: unknown): boolean => error instanceof MmsbError && error.code === 'INVALID_DELTA'

/** Values handed in by a program may throw anything when they are read. */
function asMmsbError<T>(run: () => T): T {
  try {
    return run()
  } catch (error) {
    if (error instanceof MmsbError) throw error
    throw invalidRequest(`transaction: cannot be sent: ${String(error)}`)
  }
}

/** Checks that typed arrays have the dtype of their page. @throws MmsbError INVALID_DELTA */
function checkArrays({ ops }: Transaction, pages: Pages): void {
  for (const { page, values } of ops) {
    const known = ArrayBuffer.isView(values) ? pages.get(page) : undefined
    if (known !== undefined)
      writeValues(known.dtype, (values as TypedArray).subarray(0, 0), new ArrayBuffer(0), 0)
  }
}

function frameOf(transaction: Transaction, key: string, pages: Pages): Uint8Array<ArrayBuffer> {
  const { ops, expect, source, intent } = transaction
  const preconditions = expect?.map(({ page, version }) => ({ pageId: pages.get(page)!.id, version }))
  return encodeFrame(
    { key, source, intent, expect: preconditions },
    ops.map(({ page, ...delta }) => ({ page: pages.get(page)!, delta })),
  )
}

function joined(frames: readonly Uint8Array<ArrayBuffer>[], bytes: number): Uint8Array<ArrayBuffer> {
  if (frames.length === 1) return frames[0]!
  const message = new Uint8Array(bytes)
  let at = 0
  for (const frame of frames) {
    message.set(frame, at)
    at += frame.length
  }
  return message
}
