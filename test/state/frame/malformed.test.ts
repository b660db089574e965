/**
 * Untrusted bytes: a frame that is cut, flipped or made up is refused with a typed error and never read out
 * of bounds.
 */
import fc from 'fast-check'
import t from 'tap'
import { decodeDeltaForJson, validateDelta } from '../../../src/state/delta.js'
import { decodeFrame, splitFrames } from '../../../src/state/frame/reader.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import { DTYPES } from '../../../src/wire/dtype.js'
import { COMMAND_CREATE_PAGE, COMMAND_DELTA } from '../../../src/wire/frame.js'
import { refusal } from '../../lib/refusal.js'

const NO_BYTES = new Uint8Array(0)
const page = { id: 9, name: 'p', dtype: 'f32', shape: [4, 3], location: 'auto', kind: 'source' } as const

const TYPED_REFUSAL = /^(INVALID_REQUEST|INVALID_DELTA|PAYLOAD_TOO_LARGE) /

/** Decodes a frame and reads all of it, as the engine would. */
function useFrame(bytes: Uint8Array): void {
  const frame = decodeFrame(bytes)
  for (const command of frame.commands) {
    if (command.type === COMMAND_DELTA) {
      validateDelta(command, { dtype: DTYPES[command.dtypeCode]!, elements: 400 })
      decodeDeltaForJson(command)
    } else if (command.type === COMMAND_CREATE_PAGE) {
      if (command.definition.length > bytes.length) throw new Error('a definition outside the frame')
    }
  }
}

const sample = (): Uint8Array => {
  const writer = new FrameWriter({
    key: 'key',
    source: 's',
    intent: { a: 1 },
    expect: [{ pageId: 1, version: 2 }],
  })
  writer.createPage({ ...page, shape: [3, 1, 2], fill: 1n, definition: NO_BYTES })
  writer.createPage({ ...page, kind: 'derived', fill: 0n, definition: Uint8Array.of(1, 2, 3) })
  writer.deletePage(3)
  writer.defineFunction('f', Uint8Array.of(1))
  writer.delta(1, 'bool', 40, { offset: 3, values: [1, 0, 1] })
  writer.delta(1, 'f32', 40, { indices: [3, 1, 2], values: [1, 2, 3] })
  writer.delta(1, 'u8', 9, { mask: Uint8Array.of(0b0101_0101, 1), values: [1, 2, 3, 4, 5] })
  writer.delta(1, 'i16', 400, { mask: new Uint8Array(50).fill(255, 10, 12), values: new Array(16).fill(1) })
  return writer.finish().slice()
}

t.test('a frame cut anywhere, or longer than it says, is refused', async (t) => {
  const bytes = sample()
  useFrame(bytes)
  for (let length = 0; length < bytes.length; length++) {
    t.match(
      refusal(() => useFrame(bytes.slice(0, length))),
      TYPED_REFUSAL,
    )
    const patched = bytes.slice(0, length - (length % 8))
    if (patched.length >= 32) {
      new DataView(patched.buffer).setUint32(4, patched.length, true)
      t.match(
        refusal(() => useFrame(patched)),
        TYPED_REFUSAL,
        `cut at ${patched.length}, length corrected`,
      )
    }
  }
  const longer = new Uint8Array(bytes.length + 8)
  longer.set(bytes)
  t.match(
    refusal(() => useFrame(longer)),
    TYPED_REFUSAL,
  )
  new DataView(longer.buffer).setUint32(4, longer.length, true)
  t.match(
    refusal(() => useFrame(longer)),
    /8 bytes follow the last command/,
  )
})

t.test('a frame with any bit flipped is refused or is another frame', async (t) => {
  const bytes = sample()
  let refused = 0
  for (let at = 0; at < bytes.length; at++) {
    for (let bit = 0; bit < 8; bit++) {
      const copy = bytes.slice()
      copy[at]! ^= 1 << bit
      const text = refusal(() => useFrame(copy))
      if (text !== 'accepted') {
        refused++
        if (!TYPED_REFUSAL.test(text)) t.fail(text)
      }
    }
  }
  t.ok(refused > bytes.length * 3, `${refused} of ${bytes.length * 8} flips refused`)
})

t.test('any bytes, and any change of a valid frame, end in a typed error or a frame', async () => {
  const bytes = sample()
  const mutated = fc
    .array(fc.tuple(fc.nat(bytes.length / 4 - 1), fc.oneof(fc.nat(64), fc.integer())), {
      minLength: 1,
      maxLength: 4,
    })
    .map((edits) => {
      const copy = bytes.slice()
      const view = new DataView(copy.buffer)
      for (const [word, value] of edits) view.setInt32(word * 4, value, true)
      return copy
    })
  const headed = fc.uint8Array({ maxLength: 200 }).map((tail) => {
    const copy = new Uint8Array(32 + tail.length)
    copy.set(bytes.subarray(0, 16))
    copy.set(tail, 16)
    new DataView(copy.buffer).setUint32(4, copy.length, true)
    return copy
  })
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array({ maxLength: 300 }), mutated, headed), (any) => {
      const text = refusal(() => useFrame(any))
      return text === 'accepted' || TYPED_REFUSAL.test(text)
    }),
    { numRuns: 20_000 },
  )
})

t.test('each fault has its own message', async (t) => {
  const poke = (change: (view: DataView, bytes: Uint8Array) => void): string => {
    const bytes = sample()
    change(new DataView(bytes.buffer), bytes)
    return refusal(() => useFrame(bytes))
  }
  const at = (index: number): number => decodeFrame(sample()).commands[index]!.offset
  t.match(
    poke((v) => v.setUint32(0, 1, true)),
    /^INVALID_REQUEST frame: does not begin with MSF1/,
  )
  t.match(
    poke((v) => v.setUint16(8, 2, true)),
    /version 2; this server reads version 1/,
  )
  t.match(
    poke((v) => v.setUint16(10, 1, true)),
    /reserved fields of the header/,
  )
  t.match(
    poke((v) => v.setUint16(20, 300, true)),
    /^PAYLOAD_TOO_LARGE frame: 300 bytes of key/,
  )
  t.match(
    poke((v) => v.setUint32(16, 65_537, true)),
    /^PAYLOAD_TOO_LARGE frame: 65537 preconditions/,
  )
  t.match(
    poke((v) => v.setUint32(16, 60_000, true)),
    /preconditions, key, source and intent need/,
  )
  t.match(
    poke((v) => v.setUint32(32 + 12, 2 ** 21, true)),
    /precondition 0: a version is below 2\^53/,
  )
  t.match(
    poke((_, b) => b.set([0xff], 48)),
    /key is not UTF-8/,
  )
  t.match(
    poke((_, b) => b.set([0x2c], 64)),
    /intent is not JSON/,
  )
  t.match(
    poke((v) => v.setUint16(at(0), 9, true)),
    /command 0: there is no command type 9/,
  )
  t.match(
    poke((v) => v.setUint32(at(0) + 4, 4, true)),
    /command 0: length 4/,
  )
  t.match(
    poke((_, b) => b.set([11], at(0) + 12)),
    /command 0: there is no dtype code 11/,
  )
  t.match(
    poke((_, b) => b.set([9], at(0) + 13)),
    /command 0: rank 9; at most 8/,
  )
  t.match(
    poke((_, b) => b.set([4], at(0) + 14)),
    /command 0: there is no location code 4/,
  )
  t.match(
    poke((_, b) => b.set([1], at(0) + 20)),
    /command 0: its fill is wider than f32/,
  )
  t.match(
    poke((v) => v.setUint32(at(0) + 32, 0xffff_ffff, true)),
    /has 8589934590 elements/,
  )
  t.match(
    poke((_, b) => b.set([0x20], at(0) + 48)),
    /command 0: its name does not match/,
  )
  t.match(
    poke((v) => v.setUint32(at(1) + 28, 2 ** 21, true)),
    /^PAYLOAD_TOO_LARGE frame: a definition of 2097152/,
  )
  t.match(
    poke((_, b) => b.set([1], at(1) + 16)),
    /command 1: a derived page has no fill/,
  )
  t.match(
    poke((_, b) => b.set([3], at(4) + 12)),
    /^INVALID_DELTA command 4: there is no delta kind 3/,
  )
  t.match(
    poke((_, b) => b.set([7], at(4) + 13)),
    /^INVALID_DELTA command 4: there is no merge code 7/,
  )
  t.match(
    poke((_, b) => b.set([5], at(5) + 13)),
    /^INVALID_DELTA command 5: merge or is not defined for f32/,
  )
  t.match(
    poke((_, b) => b.set([8], at(5) + 15)),
    /^INVALID_DELTA command 5: there is no encoding 8 for kind 1/,
  )
  t.match(
    poke((v) => v.setUint32(at(5) + 16, 1, true)),
    /^INVALID_DELTA command 5: a sparse delta has offset 0/,
  )
  t.match(
    poke((v) => v.setUint32(at(4) + 24, 4, true)),
    /^INVALID_DELTA command 4: 4 values for 3 elements/,
  )
  t.match(
    poke((_, b) => b.set([1], at(4) + 32 + 5)),
    /^INVALID_DELTA command 4: its padding is not 0/,
  )
  t.match(
    poke((_, b) => b.set([1], at(6) + 32 + 4)),
    /^INVALID_DELTA command 6: its padding is not 0/,
  )
  t.match(
    poke((v) => v.setUint32(at(7) + 32, 2 ** 31, true)),
    /^INVALID_DELTA command 7: 16 values do not fit/,
  )
  t.match(
    poke((v) => v.setUint32(at(7) + 36, 1, true)),
    /^INVALID_DELTA command 7: the reserved field of its mask/,
  )
})

t.test('a frame at any address is read without touching the bytes around it', async (t) => {
  const bytes = sample()
  for (let shift = 0; shift < 8; shift++) {
    const room = new Uint8Array(bytes.length + 16).fill(0xee)
    room.set(bytes, shift)
    const frame = decodeFrame(room.subarray(shift, shift + bytes.length))
    t.equal(frame.bytes.byteOffset % 8, 0)
    t.same(
      frame.commands.map(({ type }) => type),
      [1, 1, 2, 3, 4, 4, 4, 4],
    )
  }
  const node = Buffer.concat([Buffer.from([0]), bytes])
  t.equal(decodeFrame(node.subarray(1)).commandCount, 8)
})

t.test('consecutive frames are split by their lengths', async (t) => {
  const a = sample()
  const b = new FrameWriter().finish()
  t.same(
    splitFrames(Buffer.concat([a, b, a])).map(({ length }) => length),
    [a.length, 32, a.length],
  )
  t.same(splitFrames(NO_BYTES), [])
  for (const cut of [1, 31, 33, a.length - 8]) {
    t.match(
      refusal(() => splitFrames(Buffer.concat([a.subarray(0, cut)]))),
      /^INVALID_REQUEST frame: no whole frame/,
    )
  }
})
