/**
 * Reads binary messages field by field as docs/internals/FORMAT.md describes them, without the server's code.
 */

export interface BinaryChange {
  readonly page: string
  readonly kind: string
  readonly dtype: string
  readonly shape: number[]
  readonly ranges: [number, number][]
  /** A view of the message, not a copy. */
  readonly values: ArrayLike<number | bigint>
  /** In snapshots. */
  readonly version?: number
}

export interface BinaryMessage {
  readonly type: string
  /** Of `subscribed` and of snapshots. */
  readonly history?: string
  readonly id?: string
  readonly sequence?: number
  readonly count?: number
  readonly epoch?: number
  readonly minEpoch?: number
  readonly resumeFrom?: number
  readonly first?: number
  readonly data?: string
  readonly changes?: BinaryChange[]
  readonly status?: number
  readonly code?: string
  readonly detail?: string
}

const TYPES = [
  '',
  'ack',
  'refusal',
  'subscribed',
  'snapshot',
  'change',
  'progress',
  'compacted',
  'overflow',
  'unsubscribed',
  'error',
  'committed',
]
const DTYPES = ['bool', 'u8', 'i8', 'u16', 'i16', 'u32', 'i32', 'u64', 'i64', 'f32', 'f64']
const ARRAYS = [
  Uint8Array,
  Uint8Array,
  Int8Array,
  Uint16Array,
  Int16Array,
  Uint32Array,
  Int32Array,
  BigUint64Array,
  BigInt64Array,
  Float32Array,
  Float64Array,
]
const KINDS = ['source', 'derived', 'created', 'deleted']
const DATA = ['none', 'ranges', 'values']

const padded = (bytes: number) => Math.ceil(bytes / 8) * 8

/** The messages in one WebSocket message: several acks, or one of any other type. */
export function decodeMessages(message: Uint8Array): BinaryMessage[] {
  // At the start of its own buffer, as in a browser.
  const bytes = Uint8Array.from(message)
  const out: BinaryMessage[] = []
  for (let at = 0; at < bytes.length; ) {
    const length = new DataView(bytes.buffer).getUint32(at + 4, true)
    if (length < 16 || length % 8 !== 0 || at + length > bytes.length)
      throw new Error(`a length of ${length}`)
    out.push(decodeMessage(bytes.slice(at, at + length)))
    at += length
  }
  return out
}

function decodeMessage(bytes: Uint8Array): BinaryMessage {
  const view = new DataView(bytes.buffer)
  const u16 = (at: number) => view.getUint16(at, true)
  const u32 = (at: number) => view.getUint32(at, true)
  const u64 = (at: number) => Number(view.getBigUint64(at, true))
  const text = (at: number, length: number) => new TextDecoder().decode(bytes.subarray(at, at + length))
  const problem = (at: number) => ({
    status: u16(at),
    ...(JSON.parse(text(at + 8, u32(at + 4))) as { code: string; detail: string }),
  })
  const type = TYPES[u16(0)]!
  if (type === 'ack') return { type, sequence: u64(8), epoch: u64(16), count: u64(24) }
  if (type === 'refusal') return { type, sequence: u64(8), ...problem(16) }
  const id = text(16, u16(2))
  const body = 16 + padded(u16(2))
  if (type === 'error') return { type, id, ...problem(body) }
  if (type === 'compacted') return { type, id, minEpoch: u64(8) }
  if (type === 'overflow') return { type, id, resumeFrom: u64(8) }
  const head = { type, id, epoch: u64(8) }
  const historyAt = (at: number) => {
    const hex = Buffer.from(bytes.subarray(at)).toString('hex')
    return { history: `${hex.slice(0, 32)}.${hex.slice(32)}` }
  }
  if (type === 'subscribed') return { ...head, ...historyAt(body) }
  if (type !== 'change' && type !== 'snapshot') return head
  const changes: BinaryChange[] = []
  let at = body + 16
  for (let i = 0; i < u32(body + 8); i++) {
    const version = type === 'snapshot' ? { version: u64(at) } : {}
    if (type === 'snapshot') at += 8
    changes.push({ ...decodeChange(bytes, at), ...version })
    at += u32(at)
  }
  const history = type === 'snapshot' ? historyAt(at) : {}
  if (type === 'snapshot') at += 24
  if (at !== bytes.length) throw new Error(`${bytes.length - at} bytes after the last change`)
  return { ...head, first: u64(body), data: DATA[u32(body + 12)]!, changes, ...history }
}

function decodeChange(bytes: Uint8Array, start: number): BinaryChange {
  const view = new DataView(bytes.buffer)
  const [kind, dtype, rank] = bytes.subarray(start + 4)
  const nameLength = view.getUint16(start + 8, true)
  const rangeCount = view.getUint32(start + 12, true)
  const nameAt = start + 16 + padded(rank! * 4)
  const rangesAt = nameAt + padded(nameLength)
  const valuesAt = rangesAt + rangeCount * 8
  const end = start + view.getUint32(start, true)
  const shape = Array.from({ length: rank! }, (_, i) => view.getUint32(start + 16 + i * 4, true))
  const ranges = Array.from({ length: rangeCount }, (_, i): [number, number] => [
    view.getUint32(rangesAt + i * 8, true),
    view.getUint32(rangesAt + i * 8 + 4, true),
  ])
  const elements = valuesAt === end ? 0 : ranges.reduce((sum, [, count]) => sum + count, 0)
  // Throws if values are not aligned to their size, or go past the end of the message.
  const values = new ARRAYS[dtype!]!(bytes.buffer as ArrayBuffer, valuesAt, elements)
  if (valuesAt + padded(values.byteLength) !== end) throw new Error('values do not fit the change')
  const page = new TextDecoder().decode(bytes.subarray(nameAt, nameAt + nameLength))
  return { page, kind: KINDS[kind!]!, dtype: DTYPES[dtype!]!, shape, ranges, values }
}
