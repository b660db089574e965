/**
 * The messages that subscribers receive, independent of the protocol that carries them.
 *
 * Invariants: a message is immutable and shared by all its receivers. A protocol encodes it once per message
 * (`encoded`), not once per subscriber, and encodes each page's part once per epoch, whichever messages
 * contain it. Values are gathered while the bus is at the message's epoch; later, a part can no longer supply
 * values that nobody asked for.
 */

import type { PageChange } from '../engine/types.js'
import type { MmsbError } from '../errors.js'
import { STREAM_LARGE_BYTES, STREAM_LARGE_PAGES } from '../limits.js'
import { totalElements } from '../state/ranges.js'
import { valuesToJsonText, valuesToJsonTexts } from '../state/value.js'
import type { Dtype, TypedArray } from '../wire/dtype.js'
import { DTYPE_INFO } from '../wire/dtype.js'
import type { DataMode, Marker } from '../wire/messages.js'

/** Reads the present values of ranges of a page. */
export type Gather = (pageId: number, ranges: Uint32Array) => TypedArray

const NOTHING: Record<DataMode, string> = { none: '', ranges: '', values: '' }

/** One page's part of a change. */
export class PagePart {
  /** As the subscriber sees it: cut to its window. */
  readonly change: PageChange
  /** The change of the whole page. */
  readonly uncut: PageChange
  readonly #gather: Gather
  #values: TypedArray | undefined
  #json: Record<DataMode, string> = NOTHING
  #jsonTexts: readonly string[] | undefined

  constructor(change: PageChange, gather: Gather, uncut: PageChange = change) {
    this.change = change
    this.#gather = gather
    this.uncut = uncut
  }

  /** Values of ranges inside those of this part. */
  gather(ranges: Uint32Array): TypedArray {
    return this.#gather(this.change.pageId, ranges)
  }

  /** Size of the values in a binary protocol; known without gathering them. */
  get valueBytes(): number {
    return totalElements(this.change.ranges) * DTYPE_INFO[this.change.dtype].sizeBytes
  }

  values(): TypedArray {
    if (this.#values === undefined) {
      const { kind, dtype, pageId, ranges } = this.change
      this.#values =
        kind === 'deleted' ? DTYPE_INFO[dtype].view(new ArrayBuffer(0), 0, 0) : this.#gather(pageId, ranges)
    }
    return this.#values
  }

  json(mode: DataMode): string {
    if (this.#json === NOTHING) this.#json = { ...NOTHING }
    if (this.#json[mode] === '') this.#json[mode] = this.#toJson(mode)
    return this.#json[mode]
  }

  /** The same, a bounded part at a time. */
  *jsonTexts(mode: DataMode): Generator<string> {
    if (mode !== 'values' || this.valueBytes <= STREAM_LARGE_BYTES) {
      yield this.json(mode)
      return
    }
    if (this.#jsonTexts !== undefined) {
      yield* this.#jsonTexts
      return
    }
    const texts: string[] = [`${this.#jsonHead(mode)},"values":`]
    yield texts[0]!
    for (const text of valuesToJsonTexts(this.change.dtype, this.values())) {
      texts.push(text)
      yield text
    }
    texts.push('}')
    yield '}'
    this.#jsonTexts = texts
  }

  #jsonHead(mode: DataMode): string {
    const { page, kind, dtype, shape, ranges } = this.change
    let text = `{"page":"${page}","kind":"${kind}"`
    if (kind === 'created') text += `,"dtype":"${dtype}","shape":${JSON.stringify(shape)}`
    if (mode !== 'none') text += `,"ranges":${rangesToJson(ranges)}`
    return text
  }

  #toJson(mode: DataMode): string {
    const head = this.#jsonHead(mode)
    if (mode !== 'values') return `${head}}`
    return `${head},"values":${valuesToJsonText(this.change.dtype, this.values())}}`
  }
}

function rangesToJson(ranges: Uint32Array): string {
  if (ranges.length === 2) return `[[${ranges[0]},${ranges[1]}]]`
  let text = ''
  for (let i = 0; i < ranges.length; i += 2) text += `${i === 0 ? '' : ','}[${ranges[i]},${ranges[i + 1]}]`
  return `[${text}]`
}

/** A message that remembers how each protocol encoded it. */
abstract class Encodable {
  #encodings: Map<string, unknown> | undefined

  /**
   * The result of `make()`, called once per `key`: the protocol, and the receiver if the bytes depend on it.
   */
  encoded<T>(key: string, make: () => T): T {
    this.#encodings ??= new Map()
    let made = this.#encodings.get(key) as T | undefined
    if (made === undefined) {
      made = make()
      this.#encodings.set(key, made)
    }
    return made
  }

  isEncoded(key: string): boolean {
    return this.#encodings?.has(key) === true
  }

  /** Encoding it takes so long that it is done in slices. */
  abstract readonly isLarge: boolean

  /** Takes what it is encoded from, which is the bus as it is now. */
  abstract gather(): void
}

/** One epoch, or several conflated, as the subscribers of one view see it. */
export class ChangeMessage extends Encodable {
  readonly type = 'change'
  readonly epoch: number
  readonly first: number
  readonly parts: readonly PagePart[]
  readonly mode: DataMode
  #valueBytes: number | undefined

  constructor(first: number, epoch: number, parts: readonly PagePart[], mode: DataMode) {
    super()
    this.first = first
    this.epoch = epoch
    this.parts = parts
    this.mode = mode
  }

  /** Every subscriber asks for it. */
  get valueBytes(): number {
    this.#valueBytes ??=
      this.mode === 'values' ? this.parts.reduce((sum, part) => sum + part.valueBytes, 0) : 0
    return this.#valueBytes
  }

  get isLarge(): boolean {
    return this.valueBytes > STREAM_LARGE_BYTES || this.parts.length > STREAM_LARGE_PAGES
  }

  gather(): void {
    if (this.mode === 'values') for (const part of this.parts) part.values()
  }
}

export interface SnapshotPage {
  readonly name: string
  readonly id: number
  readonly kind: 'source' | 'derived'
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly version: number
  readonly values: TypedArray
}

/** All matching pages, whole, as of one epoch. */
export class SnapshotMessage extends Encodable {
  readonly type = 'snapshot'
  readonly epoch: number
  /** The history that the epoch belongs to. */
  readonly history: string
  readonly pages: readonly SnapshotPage[]
  readonly valueBytes: number

  constructor(epoch: number, history: string, pages: readonly SnapshotPage[]) {
    super()
    this.epoch = epoch
    this.history = history
    this.pages = pages
    this.valueBytes = pages.reduce((sum, { values }) => sum + values.byteLength, 0)
  }

  get isLarge(): boolean {
    return this.valueBytes > STREAM_LARGE_BYTES || this.pages.length > STREAM_LARGE_PAGES
  }

  gather(): void {}
}

/** The messages that carry pages. */
export type DataMessage = ChangeMessage | SnapshotMessage

export type StreamMessage =
  | ChangeMessage
  | SnapshotMessage
  | { readonly type: 'subscribed'; readonly epoch: number; readonly history: string }
  | { readonly type: Exclude<Marker, 'subscribed'>; readonly epoch: number }
  | { readonly type: 'compacted'; readonly minEpoch: number }
  | { readonly type: 'overflow'; readonly resumeFrom: number }
  | { readonly type: 'error'; readonly error: MmsbError }

/** The JSON of a message, first half: type and id. The second half is the same for every receiver. */
export function jsonHead(type: string, id: string | undefined): string {
  return id === undefined ? `{"type":"${type}"` : `{"type":"${type}","id":${JSON.stringify(id)}`
}

export function jsonTail(message: StreamMessage): string {
  switch (message.type) {
    case 'change': {
      const parts = message.parts.map((part) => part.json(message.mode)).join(',')
      return `,"epoch":${message.epoch},"first":${message.first},"changes":[${parts}]}`
    }
    case 'snapshot':
      return `,"epoch":${message.epoch},"history":"${message.history}","pages":{${message.pages.map(snapshotPageJson).join(',')}}}`
    case 'subscribed':
      return `,"epoch":${message.epoch},"history":"${message.history}"}`
    case 'compacted':
      return `,"minEpoch":${message.minEpoch}}`
    case 'overflow':
      return `,"resumeFrom":${message.resumeFrom}}`
    case 'error': {
      const { code, message: detail, hint, extra } = message.error
      return `,${JSON.stringify({ code, detail, hint, ...extra }).slice(1)}`
    }
    default:
      return `,"epoch":${message.epoch}}`
  }
}

/** The same for a message with pages, a bounded part at a time. */
export function* jsonTailTexts(message: DataMessage): Generator<string> {
  if (message.type === 'change') {
    yield `,"epoch":${message.epoch},"first":${message.first},"changes":[`
    for (const [i, part] of message.parts.entries()) {
      if (i > 0) yield ','
      yield* part.jsonTexts(message.mode)
    }
    yield ']}'
    return
  }
  yield `,"epoch":${message.epoch},"history":"${message.history}","pages":{`
  for (const [i, page] of message.pages.entries()) {
    yield `${i > 0 ? ',' : ''}${snapshotPageHead(page)}`
    yield* valuesToJsonTexts(page.dtype, page.values)
    yield '}'
  }
  yield '}}'
}

const snapshotPageHead = ({ name, dtype, shape, version }: SnapshotPage): string =>
  `"${name}":{"dtype":"${dtype}","shape":${JSON.stringify(shape)},"version":${version},"values":`

const snapshotPageJson = (page: SnapshotPage): string =>
  `${snapshotPageHead(page)}${valuesToJsonText(page.dtype, page.values)}}`
