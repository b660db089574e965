/**
 * Transactions over the WebSocket: many under way at a time, each answered by its own promise.
 *
 * Invariants: transactions are sent in the order they were handed in; each is sent again after a lost connection until it is
 * answered, under the idempotency key it had before, so it happens once; at most WRITER_IN_FLIGHT_MAX are unanswered at a
 * time, the rest waits here. One that cannot be sent as it was handed in is refused by itself, the others go on.
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
import type { Link, LinkUser } from './connection.js'

/** Sends transactions over the WebSocket without waiting for their answers. */
export interface Writer {
  /** Resolves when the transaction is durable. Those handed in earlier are decided earlier. */
  transact(transaction: Transaction, options?: { readonly key?: string }): Promise<{ readonly epoch: number }>
  /** Sends one delta; resolves to its epoch once it is durable. */
  patch(page: string, delta: Delta): Promise<{ readonly epoch: number }>
  /** Transactions without an answer yet. */
  readonly pending: number
  /** Resolves when all are answered; then the writer has ended. */
  close(): Promise<void>
}

export interface WriterRooms {
  readonly link: Link
  /** What a frame needs to know of a page; from memory where it can. */
  readonly pageOf: (name: string) => FramePage | Promise<FramePage>
  /** The page was not there, or not as it was known: ask again. */
  readonly forgetPage: (name: string) => void
  readonly newKey: () => string
  readonly onEnd: () => void
}

type Pages = ReadonlyMap<string, FramePage>

const OPTIONS: Checks = { key: isText }

interface Entry {
  readonly transaction: Transaction
  readonly key: string
  /** A frame, or JSON without type and id. */
  data: Uint8Array<ArrayBuffer> | string
  readonly resolve: (answer: { readonly epoch: number }) => void
  readonly reject: (error: unknown) => void
}

export class StreamWriter implements Writer, LinkUser {
  readonly isListening = false
  readonly #rooms: WriterRooms
  /** Encoded and not sent. */
  #waiting: Entry[] = []
  /** Sent and not answered, in the order of sending; by number on this connection, or by id where text is spoken. */
  readonly #inFlight = new Map<number | string, Entry>()
  /** Transactions that wait for what is known of their pages. */
  #encoding: Promise<void> | undefined
  #encodingCount = 0
  #isFlushing = false
  #isClosing = false
  #onIdle: (() => void)[] = []
  #failure: { readonly error: unknown } | undefined

  constructor(rooms: WriterRooms) {
    this.#rooms = rooms
    rooms.link.attach(this)
  }

  get pending(): number {
    return this.#waiting.length + this.#inFlight.size + this.#encodingCount
  }

  /** Sends one delta; resolves to its epoch once it is durable. */
  async patch(page: string, delta: Delta): Promise<{ readonly epoch: number }> {
    checkName(page, 'page')
    checkDelta(delta)
    return this.#submit({ ops: [{ page, ...delta }] }, this.#rooms.newKey())
  }

  async transact(
    transaction: Transaction,
    options: { readonly key?: string } = {},
  ): Promise<{ readonly epoch: number }> {
    checkTransaction(transaction)
    checkFields('options', options, OPTIONS)
    checkKey(options.key)
    return this.#submit(transaction, options.key ?? this.#rooms.newKey())
  }

  #submit(transaction: Transaction, key: string): Promise<{ readonly epoch: number }> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined) throw this.#failure.error
      if (this.#isClosing) throw closedError('writer')
      this.#take({ transaction, key, data: '', resolve, reject })
    })
  }

  /** Encodes at once if all pages are known and nobody is before it; else in its turn. */
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
    // If it fails, that is told in its turn, below.
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

  /** Undefined if it does not fit what is known of its pages. */
  #encodedAtOnce(entry: Entry, pages: Pages): Entry['data'] | undefined {
    try {
      return this.#encode(entry, pages)
    } catch (error) {
      if (isMisfit(error)) return undefined
      throw error
    }
  }

  /** What is known of a page may be of an older one of its name: it is asked for once more before a transaction is refused. */
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
    // Text has lists alone; which dtype an array has to be is for the client to say.
    const isText = this.#rooms.link.protocol === 'json'
    const needed = isText ? ops.filter(({ values }) => ArrayBuffer.isView(values)) : [...ops, ...expect]
    const asked: Promise<unknown>[] = []
    for (const { page: name } of needed) {
      const page = this.#rooms.pageOf(name)
      if (page instanceof Promise) asked.push(page.then((answer) => pages.set(name, answer)))
      else pages.set(name, page)
    }
    return asked.length === 0 ? pages : Promise.all(asked).then(() => pages)
  }

  #encode({ transaction, key }: Entry, pages: Pages): Entry['data'] {
    const isText = this.#rooms.link.protocol === 'json'
    if (isText) checkArrays(transaction, pages)
    const data = asMmsbError(() =>
      isText ? transactionText(transaction, key) : frameOf(transaction, key, pages),
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
    this.#waiting.push(entry)
    this.#flushSoon()
  }

  /** Once per turn, so that what is handed in together goes out together. */
  #flushSoon(): void {
    if (this.#isFlushing) return
    this.#isFlushing = true
    queueMicrotask(() => {
      this.#isFlushing = false
      this.#flush()
    })
  }

  #flush(): void {
    const { link } = this.#rooms
    if (!link.isUp) return
    let frames: Uint8Array<ArrayBuffer>[] = []
    let owners: Entry[] = []
    let bytes = 0
    const send = (): void => {
      if (frames.length === 0) return
      let number = link.sendFrames(this, joined(frames, bytes), frames.length)
      for (const entry of owners) this.#inFlight.set(number++, entry)
      frames = []
      owners = []
      bytes = 0
    }
    const due = this.#waiting.splice(0, WRITER_IN_FLIGHT_MAX - this.#inFlight.size)
    for (const entry of due) {
      if (typeof entry.data === 'string') {
        const id = link.idFor(this, 't')
        this.#inFlight.set(id, entry)
        link.send(`{"type":"transaction","id":"${id}",${entry.data.slice(1)}`)
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
    for (const id of this.#inFlight.keys()) if (typeof id === 'string') this.#rooms.link.forget(id)
    this.#waiting = [...this.#inFlight.values(), ...this.#waiting]
    this.#inFlight.clear()
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
    // A page may have been replaced by another of its name; then the next transaction asks.
    this.#forgetPages(entry.transaction)
    entry.reject(error)
  }

  #forgetPages({ ops, expect = [] }: Transaction): void {
    for (const { page } of [...ops, ...expect]) this.#rooms.forgetPage(page)
  }

  #settle(id: number | string): Entry | undefined {
    const entry = this.#inFlight.get(id)
    this.#inFlight.delete(id)
    if (typeof id === 'string') this.#rooms.link.forget(id)
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
    this.#rooms.link.detach(this)
    this.#rooms.onEnd()
    for (const resolve of this.#onIdle.splice(0)) resolve()
  }
}

const isMisfit = (error: unknown): boolean => error instanceof MmsbError && error.code === 'INVALID_DELTA'

/** What a program hands in may throw whatever it likes when it is looked at. */
function asMmsbError<T>(run: () => T): T {
  try {
    return run()
  } catch (error) {
    if (error instanceof MmsbError) throw error
    throw invalidRequest(`transaction: cannot be sent: ${String(error)}`)
  }
}

/** Typed arrays are those of their pages' dtypes. @throws MmsbError INVALID_DELTA */
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
