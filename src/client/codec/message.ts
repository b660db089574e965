/**
 * Decodes messages of the stream, binary ("WebSocket, binary" in docs/internals/FORMAT.md) or JSON,
 * into one form.
 *
 * Invariants: nothing is read outside a message; a malformed message is PROTOCOL. Values of binary messages
 * are views of the message, which nobody writes to again.
 */
import { align8 } from '../../wire/align.js'
import { DTYPES, type Dtype } from '../../wire/dtype.js'
import {
  ACK_CODE,
  BODY_HEAD_BYTES,
  CHANGE_HEAD_BYTES,
  DATA_MODES,
  HISTORY_BYTES,
  MARKERS,
  type Marker,
  MESSAGE_CODES,
  MESSAGE_HEAD_BYTES,
  PROBLEM_HEAD_BYTES,
  REFUSAL_CODE,
  VERSION_BYTES,
} from '../../wire/messages.js'
import { CHANGE_KINDS, type ChangeKind } from '../../wire/page.js'
import { MmsbError, problemError, protocolError } from '../errors.js'
import type { Change, ChangedPage } from '../types.js'
import { elementsOf, fromJson, sizeOf, viewOf } from './values.js'

export type Message =
  | { readonly type: Marker; readonly id: string; readonly epoch: number; readonly history?: string }
  /** `history`: of a snapshot. Older servers send none. */
  | { readonly type: 'change'; readonly id: string; readonly change: Change; readonly history?: string }
  | { readonly type: 'compacted'; readonly id: string; readonly minEpoch: number }
  | { readonly type: 'overflow'; readonly id: string; readonly resumeFrom: number }
  | { readonly type: 'error'; readonly id: string | undefined; readonly error: MmsbError }
  | { readonly type: 'acked'; readonly id: string; readonly epoch: number }
  | { readonly type: 'ack'; readonly sequence: number; readonly count: number; readonly epoch: number }
  | { readonly type: 'refusal'; readonly sequence: number; readonly error: MmsbError }

const MARKER_OF_CODE: ReadonlyMap<number, Marker> = new Map(
  MARKERS.map((type) => [MESSAGE_CODES[type], type]),
)
const BUS_ID_DIGITS = 32
const VALUES_MODE = DATA_MODES.indexOf('values')
const decoder = new TextDecoder()

/** The messages that one binary WebSocket message holds. @throws MmsbError PROTOCOL */
export function decodeBinary(buffer: ArrayBuffer): Message[] {
  try {
    return decode(buffer)
  } catch (cause) {
    if (cause instanceof MmsbError) throw cause
    throw new MmsbError({ code: 'PROTOCOL', detail: 'a binary message is cut off' }, { cause })
  }
}

function decode(buffer: ArrayBuffer): Message[] {
  const messages: Message[] = []
  for (let at = 0; at < buffer.byteLength; ) {
    const length = new DataView(buffer, at).getUint32(4, true)
    if (length < MESSAGE_HEAD_BYTES || length % 8 !== 0 || length > buffer.byteLength - at) {
      throw protocolError(`a message of ${length} bytes inside one of ${buffer.byteLength}`)
    }
    messages.push(decodeOne(buffer, at, length))
    at += length
  }
  return messages
}

function decodeOne(buffer: ArrayBuffer, start: number, length: number): Message {
  const view = new DataView(buffer, start, length)
  const type = view.getUint16(0, true)
  const second = u64(view, 8)
  if (type === ACK_CODE) return { type: 'ack', sequence: second, epoch: u64(view, 16), count: u64(view, 24) }
  if (type === REFUSAL_CODE)
    return { type: 'refusal', sequence: second, error: problemAt(view, MESSAGE_HEAD_BYTES) }
  const idLength = view.getUint16(2, true)
  const id = textAt(view, MESSAGE_HEAD_BYTES, idLength)
  const body = MESSAGE_HEAD_BYTES + align8(idLength)
  const marker = MARKER_OF_CODE.get(type)
  if (marker !== undefined) return { type: marker, id, epoch: second, ...historyAt(view, body) }
  switch (type) {
    case MESSAGE_CODES.snapshot:
      return snapshotAt(view, body, id, second)
    case MESSAGE_CODES.change: {
      const changes = changesAt(view, body)
      return {
        type: 'change',
        id,
        change: { type: 'change', epoch: second, first: u64(view, body), changes },
      }
    }
    case MESSAGE_CODES.compacted:
      return { type: 'compacted', id, minEpoch: second }
    case MESSAGE_CODES.overflow:
      return { type: 'overflow', id, resumeFrom: second }
    case MESSAGE_CODES.error:
      return { type: 'error', id, error: problemAt(view, body) }
  }
  throw protocolError(`a message of type ${type}`)
}

function u64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32
}

const textAt = (view: DataView, at: number, length: number): string => {
  if (at + length > view.byteLength) throw protocolError('a text goes past the end of its message')
  return decoder.decode(new Uint8Array(view.buffer, view.byteOffset + at, length))
}

/** u16 status, u16 0, u32 jsonLength, JSON; in a refusal the JSON begins at the next 8 bytes as well. */
function problemAt(view: DataView, at: number): MmsbError {
  const text = textAt(view, at + PROBLEM_HEAD_BYTES, view.getUint32(at + 4, true))
  return problemError(JSON.parse(text) as Record<string, unknown>, view.getUint16(at, true))
}

function changesAt(view: DataView, body: number): ChangedPage[] {
  const mode = view.getUint32(body + 12, true)
  const changes: ChangedPage[] = []
  let at = body + BODY_HEAD_BYTES
  for (let left = view.getUint32(body + 8, true); left > 0; left--) {
    changes.push(changeAt(view, at, mode))
    at += sizeAt(view, at)
  }
  return changes
}

function snapshotAt(view: DataView, body: number, id: string, epoch: number): Message {
  const changes: ChangedPage[] = []
  let at = body + BODY_HEAD_BYTES
  for (let left = view.getUint32(body + 8, true); left > 0; left--) {
    changes.push(changeAt(view, at + VERSION_BYTES, VALUES_MODE))
    at += VERSION_BYTES + sizeAt(view, at + VERSION_BYTES)
  }
  const change = { type: 'snapshot' as const, epoch, first: epoch, changes }
  return { type: 'change', id, change, ...historyAt(view, at) }
}

/** The history at the end of a message. Older servers send none. */
function historyAt(view: DataView, at: number): { readonly history?: string } {
  if (view.byteLength - at < HISTORY_BYTES) return {}
  let hex = ''
  for (let i = at; i < at + HISTORY_BYTES; i++) hex += view.getUint8(i).toString(16).padStart(2, '0')
  return { history: `${hex.slice(0, BUS_ID_DIGITS)}.${hex.slice(BUS_ID_DIGITS)}` }
}

function sizeAt(view: DataView, at: number): number {
  const size = view.getUint32(at, true)
  if (size < CHANGE_HEAD_BYTES || size % 8 !== 0) throw protocolError(`a change of ${size} bytes`)
  return size
}

/** `mode`: position in DATA_MODES. */
function changeAt(view: DataView, at: number, mode: number): ChangedPage {
  const kind = CHANGE_KINDS[view.getUint8(at + 4)]
  const dtype = DTYPES[view.getUint8(at + 5)]
  if (kind === undefined || dtype === undefined) throw protocolError('a change has an unknown kind or dtype')
  const rank = view.getUint8(at + 6)
  const nameLength = view.getUint16(at + 8, true)
  const rangeCount = view.getUint32(at + 12, true)
  const shape = Array.from({ length: rank }, (_, axis) =>
    view.getUint32(at + CHANGE_HEAD_BYTES + axis * 4, true),
  )
  const nameAt = at + CHANGE_HEAD_BYTES + align8(rank * 4)
  const page = textAt(view, nameAt, nameLength)
  const rangesAt = nameAt + align8(nameLength)
  const ranges: [number, number][] = []
  let elements = 0
  for (let i = 0; i < rangeCount; i++) {
    const count = view.getUint32(rangesAt + i * 8 + 4, true)
    ranges.push([view.getUint32(rangesAt + i * 8, true), count])
    elements += count
  }
  if (mode < VALUES_MODE) return { page, kind, dtype, shape, ranges }
  const valuesAt = rangesAt + rangeCount * 8
  if (valuesAt + elements * sizeOf(dtype) > view.byteLength)
    throw protocolError('values go past the end of their message')
  return {
    page,
    kind,
    dtype,
    shape,
    ranges,
    values: viewOf(dtype, view.buffer, view.byteOffset + valuesAt, elements),
  }
}

/** dtype and shape of a page. */
export interface PageForm {
  readonly dtype: Dtype
  readonly shape: readonly number[]
}

interface JsonChange {
  readonly page: string
  readonly kind: ChangeKind
  readonly dtype?: Dtype
  readonly shape?: readonly number[]
  readonly ranges?: readonly (readonly [number, number])[]
  readonly values?: readonly unknown[]
}

interface JsonMessage {
  readonly type: string
  readonly id?: string
  readonly epoch: number
  readonly history?: string
  readonly first: number
  readonly minEpoch: number
  readonly resumeFrom: number
  readonly changes: readonly JsonChange[]
  readonly pages: Readonly<
    Record<string, { dtype: Dtype; shape: readonly number[]; values: readonly unknown[] }>
  >
}

/** Finds the dtype and shape of a page as of an epoch; `id` is the subscription that received the change. */
export type FormOf = (page: string, epoch: number, id: string) => PageForm | Promise<PageForm>

/**
 * Decodes a text message. JSON changes do not name the dtype of every page; `formOf` supplies those that
 * are missing.
 * @throws MmsbError PROTOCOL, or what `formOf` throws
 */
export async function decodeText(text: string, formOf: FormOf): Promise<Message> {
  const message = JSON.parse(text) as JsonMessage
  const { type, id = '', epoch } = message
  switch (type) {
    case 'subscribed':
    case 'progress':
    case 'unsubscribed':
    case 'committed':
      return { type, id, epoch, ...historyOf(message) }
    case 'ack':
      return { type: 'acked', id, epoch }
    case 'error':
      return {
        type,
        id: message.id,
        error: problemError(message as unknown as Record<string, unknown>),
      }
    case 'compacted':
      return { type, id, minEpoch: message.minEpoch }
    case 'overflow':
      return { type, id, resumeFrom: message.resumeFrom }
    case 'snapshot': {
      const changes = Object.entries(message.pages).map(([page, { dtype, shape, values }]) => ({
        page,
        kind: 'source' as const,
        dtype,
        shape,
        ranges: [[0, elementsOf(shape)] as const],
        values: fromJson(dtype, values),
      }))
      return {
        type: 'change',
        id,
        change: { type: 'snapshot', epoch, first: epoch, changes },
        ...historyOf(message),
      }
    }
    case 'change': {
      const changes: ChangedPage[] = []
      for (const change of message.changes) changes.push(await typed(change, epoch, id, formOf))
      return { type: 'change', id, change: { type: 'change', epoch, first: message.first, changes } }
    }
  }
  throw protocolError(`a message of type ${String(type).slice(0, 40)}`)
}

const historyOf = ({ history }: JsonMessage): { readonly history?: string } =>
  history === undefined ? {} : { history }

async function typed(change: JsonChange, epoch: number, id: string, formOf: FormOf): Promise<ChangedPage> {
  const { page, kind, ranges = [], values } = change
  const isStated = change.dtype !== undefined && change.shape !== undefined
  const form = isStated
    ? { dtype: change.dtype, shape: change.shape }
    : kind === 'deleted'
      ? { dtype: 'u8' as const, shape: [0] }
      : await formOf(page, epoch, id)
  const head = { page, kind, dtype: form.dtype, shape: form.shape, ranges }
  return values === undefined ? head : { ...head, values: fromJson(form.dtype, values) }
}
