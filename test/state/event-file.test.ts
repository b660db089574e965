/** Files of change events: entries come out as they went in, and any other bytes are refused. */
import t from 'tap'
import {
  changeBytes,
  decodeEpochEvent,
  decodeEventHeader,
  EVENT_FILE_HEADER_BYTES,
  type EventChange,
  encodeEpochEvent,
  encodeEventHeader,
  epochEventBytes,
} from '../../src/state/event-file.js'
import { refusal } from '../lib/refusal.js'

const EVENT = {
  epoch: 2 ** 40 + 1,
  timestampMs: 1_700_000_000_001,
  changes: [
    {
      page: 'qty',
      kind: 'source',
      dtype: 'i32',
      shape: [5, 1, 2],
      ranges: Uint32Array.of(1, 2, 7, 1),
      values: Int32Array.of(42, -1, 7),
    },
    {
      page: 'gone.page',
      kind: 'deleted',
      dtype: 'u8',
      shape: [],
      ranges: new Uint32Array(0),
      values: new Uint8Array(0),
    },
    {
      page: 'b',
      kind: 'derived',
      dtype: 'f64',
      shape: [8],
      ranges: Uint32Array.of(0, 1),
      values: Float64Array.of(0.5),
    },
    {
      page: 'aligned8',
      kind: 'created',
      dtype: 'bool',
      shape: [3, 4],
      ranges: Uint32Array.of(0, 12),
      values: new Uint8Array(12).fill(1),
    },
  ] satisfies EventChange[],
}

t.test('an entry comes out as it went in, wherever its bytes lie', async (t) => {
  const bytes = encodeEpochEvent(EVENT)
  t.equal(epochEventBytes(bytes), bytes.length)
  t.equal(epochEventBytes(bytes.subarray(0, 8)), bytes.length)
  for (const shift of [0, 1, 4]) {
    const room = new Uint8Array(bytes.length + shift + 3).fill(0xee)
    room.set(bytes, shift)
    const event = decodeEpochEvent(room.subarray(shift, shift + bytes.length), true)
    t.same(event, EVENT)
    room.fill(0)
    t.same(event.changes[0]!.values, EVENT.changes[0]!.values, 'a copy')
  }
  const sizes = EVENT.changes.map(changeBytes)
  t.same(sizes, [16 + 16 + 8 + 16 + 16, 16 + 16, 16 + 8 + 8 + 8 + 8, 16 + 8 + 8 + 8 + 16])
  t.equal(bytes.length, 24 + 8 + sizes.reduce((sum, size) => sum + size))
  const empty = { epoch: 1, timestampMs: 2, changes: [] }
  t.same(decodeEpochEvent(encodeEpochEvent(empty), true), empty)
})

/** Without its checksum, as version 1 has entries. */
function plain(bytes: Uint8Array): Buffer {
  const entry = Buffer.from(bytes.subarray(0, bytes.length - 8))
  entry.writeUInt32LE(entry.length, 0)
  return entry
}

t.test('entries of version 1 have no checksum', async (t) => {
  const entry = plain(encodeEpochEvent(EVENT))
  t.same(decodeEpochEvent(entry, false), EVENT)
  t.match(
    refusal(() => decodeEpochEvent(entry, true)),
    /^INVALID_REQUEST not a file of change events: the checksum of an entry/,
  )
  const bare = plain(encodeEpochEvent({ epoch: 1, timestampMs: 2, changes: [] }))
  t.equal(bare.length, 24)
  t.same(decodeEpochEvent(bare, false).changes, [])
  t.match(
    refusal(() => decodeEpochEvent(bare, true)),
    /checksum/,
  )
})

t.test('an entry with any byte changed is refused', async (t) => {
  const bytes = encodeEpochEvent(EVENT)
  for (let at = 0; at < bytes.length; at++) {
    const turned = Uint8Array.from(bytes)
    turned[at]! ^= 1
    t.match(
      refusal(() => decodeEpochEvent(turned, true)),
      /^INVALID_REQUEST not a file of change events/,
    )
  }
})

t.test('an entry that is not sound is refused with the reason', async (t) => {
  const cases: [string, (entry: Buffer) => Buffer | undefined, RegExp][] = [
    ['no bytes', () => Buffer.alloc(0), /an entry of 0 bytes/],
    ['7 bytes', (entry) => entry.subarray(0, 7), /an entry of 0 bytes/],
    ['a length below the head', (entry) => void entry.writeUInt32LE(16, 0), /an entry of 16 bytes/],
    ['an odd length', (entry) => void entry.writeUInt32LE(28, 0), /an entry of 28 bytes/],
    ['a cut', (entry) => entry.subarray(0, entry.length - 8), /an entry is cut off/],
    ['too many changes', (entry) => void entry.writeUInt32LE(5, 4), /change 4 is cut off/],
    ['too few changes', (entry) => void entry.writeUInt32LE(3, 4), /bytes follow the changes/],
    ['a short change', (entry) => void entry.writeUInt32LE(8, 24), /change 0 is cut off/],
    ['an odd change', (entry) => void entry.writeUInt32LE(44, 24), /change 0 is cut off/],
    ['a long change', (entry) => void entry.writeUInt32LE(2 ** 31, 24), /change 0 is cut off/],
    ['no such kind', (entry) => void entry.writeUInt8(4, 28), /change 0 is not sound/],
    ['no such dtype', (entry) => void entry.writeUInt8(11, 29), /change 0 is not sound/],
    ['too many ranges', (entry) => void entry.writeUInt32LE(99, 36), /change 0 is not sound/],
    ['fewer ranges', (entry) => void entry.writeUInt32LE(1, 36), /the values of change 0 do not fit/],
    [
      'a longer range',
      (entry) => void entry.writeUInt32LE(9, 24 + 16 + 16 + 8 + 4),
      /the values of change 0/,
    ],
  ]
  for (const [what, change, why] of cases) {
    const entry = plain(encodeEpochEvent(EVENT))
    const changed = change(entry) ?? entry
    t.match(
      refusal(() => decodeEpochEvent(changed, false)),
      why,
      what,
    )
  }
})

t.test('a header names its epochs, and its checksum is checked', async (t) => {
  const header = encodeEventHeader(3, 2 ** 40)
  t.equal(header.length, EVENT_FILE_HEADER_BYTES)
  t.same(decodeEventHeader(header), { from: 3, to: 2 ** 40, hasSums: true })
  t.same(decodeEventHeader(Buffer.concat([Buffer.alloc(3), header, Buffer.alloc(9)]).subarray(3)), {
    from: 3,
    to: 2 ** 40,
    hasSums: true,
  })
  for (let at = 0; at < header.length; at++) {
    const turned = Uint8Array.from(header)
    turned[at]! ^= 8
    t.match(
      refusal(() => decodeEventHeader(turned)),
      /^INVALID_REQUEST not a file of change events: /,
      `byte ${at}`,
    )
  }
  t.match(
    refusal(() => decodeEventHeader(header.subarray(0, 31))),
    /no such header/,
  )
  const old = Buffer.from(header)
  old.writeUInt16LE(1, 4)
  old.writeUInt32LE(0, 28)
  t.same(decodeEventHeader(old), { from: 3, to: 2 ** 40, hasSums: false })
  for (const version of [0, 3]) {
    old.writeUInt16LE(version, 4)
    t.match(
      refusal(() => decodeEventHeader(old)),
      new RegExp(`version ${version} is not known`),
    )
  }
})
