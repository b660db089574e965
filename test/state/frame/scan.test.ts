/** What a scan of our own frames says of them, and that it never reads past them. */
import t from 'tap'
import { pickDeltas } from '../../../src/state/frame/pick.js'
import { scanFrames } from '../../../src/state/frame/scan.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import { COMMAND_DELTA, FRAME_HEADER_BYTES } from '../../../src/wire/frame.js'
import { refusal } from '../../lib/refusal.js'

const frameOf = (write: (writer: FrameWriter) => void, key?: string): Buffer => {
  const writer = new FrameWriter({ key })
  write(writer)
  return Buffer.from(writer.finish())
}
const delta = frameOf((writer) => writer.delta(1, 'u8', 40, { values: [1, 2, 3] }))
const deltas = frameOf((writer) => {
  for (let i = 0; i < 3; i++) writer.delta(i, 'u8', 40, { values: [i] })
})
const deletion = frameOf((writer) => writer.deletePage(1))
const keyed = frameOf((writer) => writer.delta(1, 'u8', 40, { values: [1] }), 'k')

/** A frame with commands of these lengths, the first field of each a type. */
function made(commands: readonly [type: number, length: number][]): Buffer {
  const bytes = Buffer.alloc(FRAME_HEADER_BYTES + commands.reduce((sum, [, length]) => sum + length, 0))
  frameOf(() => {}).copy(bytes)
  bytes.writeUInt32LE(bytes.length, 4)
  bytes.writeUInt32LE(commands.length, 12)
  let at = FRAME_HEADER_BYTES
  for (const [type, length] of commands) {
    bytes.writeUInt16LE(type, at)
    bytes.writeUInt32LE(length, at + 4)
    at += length
  }
  return bytes
}

t.test('whether all commands are deltas, and whether a frame has a key', async (t) => {
  const cases: [Buffer[], onlyDeltas: boolean, keyed: boolean][] = [
    [[], true, false],
    [[frameOf(() => {})], true, false],
    [[delta], true, false],
    [[delta, deltas], true, false],
    [[keyed, delta], true, true],
    [[delta, keyed], true, true],
    [[deletion, delta], false, false],
    [[delta, deletion, keyed], false, true],
  ]
  for (const [frames, onlyDeltas, isKeyed] of cases)
    t.same(scanFrames(Buffer.concat(frames)), { onlyDeltas, keyed: isKeyed })
})

t.test('a command may be as short as its header, and no shorter', async (t) => {
  t.same(scanFrames(made([[COMMAND_DELTA, 8]])), { onlyDeltas: true, keyed: false })
  t.same(
    scanFrames(
      made([
        [COMMAND_DELTA, 8],
        [2, 16],
      ]),
    ),
    { onlyDeltas: false, keyed: false },
  )
  const short = made([[COMMAND_DELTA, 8]])
  for (const length of [0, 7, 9, 16, 2 ** 32 - 8]) {
    short.writeUInt32LE(length, FRAME_HEADER_BYTES + 4)
    t.match(
      refusal(() => scanFrames(short)),
      /^INVALID_REQUEST .*the one at byte 0 does not end where it should/,
      `${length} bytes`,
    )
  }
})

t.test('bytes that end inside a frame, or frames of the wrong length, are refused', async (t) => {
  for (const bytes of [delta, deltas, Buffer.concat([delta, deletion])]) {
    for (let length = 1; length < bytes.length; length++) {
      if (length === delta.length && bytes.length > length && bytes !== deltas) continue
      t.match(
        refusal(() => scanFrames(bytes.subarray(0, length))),
        /^INVALID_REQUEST/,
        `${length} of ${bytes.length} bytes`,
      )
    }
  }
  for (const by of [-8, 8]) {
    const wrong = Buffer.from(deltas)
    wrong.writeUInt32LE(deltas.length + by, 4)
    t.match(
      refusal(() => scanFrames(Buffer.concat([wrong, Buffer.alloc(8)]))),
      /^INVALID_REQUEST/,
    )
  }
  for (const count of [2, 4]) {
    const wrong = Buffer.from(deltas)
    wrong.writeUInt32LE(count, 12)
    t.match(
      refusal(() => scanFrames(Buffer.concat([wrong, deltas]))),
      /^INVALID_REQUEST/,
      `${count} commands`,
    )
  }
  t.match(
    refusal(() => scanFrames(Buffer.concat([delta, Buffer.alloc(FRAME_HEADER_BYTES)]))),
    new RegExp(`the one at byte ${delta.length} does not end`),
  )
})

t.test('deltas are picked from whole frames alone', async (t) => {
  t.same(
    pickDeltas(deltas, () => false),
    new Uint8Array(0),
  )
  for (const length of [1, 8, FRAME_HEADER_BYTES - 1]) {
    t.throws(
      () => pickDeltas(delta.subarray(0, length), () => true),
      { code: 'INVALID_REQUEST' },
      `${length} bytes`,
    )
    const cut = Buffer.concat([delta, delta.subarray(0, length)])
    t.throws(() => pickDeltas(cut, () => true), { code: 'INVALID_REQUEST' }, `and ${length} bytes more`)
  }
})
