/** Each byte of a frame means something, and each part of it is looked at: quickly, without fuzzing. */
import t from 'tap'
import { decodeDeltaForJson, validateDelta } from '../../../src/state/delta.js'
import { decodeFrame } from '../../../src/state/frame/reader.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import type { DeltaInput } from '../../../src/state/types.js'
import { DTYPES } from '../../../src/wire/dtype.js'
import { COMMAND_DELTA } from '../../../src/wire/frame.js'
import { refusal } from '../../lib/refusal.js'

/** A frame of all commands, whose names, definitions, indices and values need padding. */
function sample(): Uint8Array {
  const page = { id: 9, name: 'p', dtype: 'f32', shape: [3, 1, 2], location: 'auto', kind: 'source' } as const
  const writer = new FrameWriter({
    key: 'key',
    source: 's',
    intent: { a: 1 },
    expect: [{ pageId: 1, version: 2 }],
  })
  writer.createPage({ ...page, fill: 1n, definition: new Uint8Array(0) })
  writer.createPage({ ...page, kind: 'derived', fill: 0n, definition: Uint8Array.of(1, 2, 3) })
  writer.deletePage(3)
  writer.defineFunction('f', Uint8Array.of(1))
  writer.redefinePage(7, Uint8Array.of(1, 2))
  writer.delta(1, 'bool', 40, { offset: 3, values: [1, 0, 1] })
  writer.delta(1, 'f32', 40, { indices: [3, 1, 2], values: [1, 2, 3] })
  writer.delta(1, 'u8', 9, { mask: Uint8Array.of(0b0101_0101, 1), values: [1, 2, 3, 4, 5] })
  writer.delta(1, 'i16', 400, { mask: new Uint8Array(50).fill(255, 10, 12), values: new Array(16).fill(1) })
  return writer.finish().slice()
}

/** All that a frame says, to compare. */
function meaning(bytes: Uint8Array): string {
  const { key, source, intent, preconditions, commands } = decodeFrame(bytes)
  const told = commands.map((command) => {
    if (command.type !== COMMAND_DELTA) return command
    const { kind, encoding, dtypeCode, count } = command
    validateDelta(command, { dtype: DTYPES[dtypeCode]!, elements: 400 })
    return [kind, encoding, dtypeCode, count, decodeDeltaForJson(command)]
  })
  const asText = (_: string, value: unknown): unknown => (typeof value === 'bigint' ? `${value}` : value)
  return JSON.stringify([key, source, intent, preconditions, told], asText)
}

t.test('every byte of a frame means something: padding is 0, and no field is ignored', async (t) => {
  const bytes = sample()
  const said = meaning(bytes)
  for (let at = 0; at < bytes.length; at++) {
    for (const flip of [1, 0x80]) {
      const turned = Uint8Array.from(bytes)
      turned[at]! ^= flip
      let told = 'refused'
      const text = refusal(() => {
        told = meaning(turned)
      })
      t.ok(text !== 'accepted' || told !== said, `byte ${at} with ${flip} turned: ${told.slice(0, 20)}`)
    }
  }
})

t.test('a command of a header alone is looked at; less than that is the end', async (t) => {
  const frame = (extra: number[]): Uint8Array => {
    const bytes = Buffer.concat([new FrameWriter().finish(), Buffer.from(extra)])
    bytes.writeUInt32LE(bytes.length, 4)
    bytes.writeUInt32LE(1, 12)
    return bytes
  }
  t.match(
    refusal(() => decodeFrame(frame([9, 0, 0, 0, 8, 0, 0, 0]))),
    /command 0: there is no command type 9/,
  )
  t.match(
    refusal(() => decodeFrame(frame([]))),
    /command 0 of 1: the frame ends at byte 32/,
  )
})

t.test('a mask of several runs is the bits that it was made of', async (t) => {
  const mask = new Uint8Array(100)
  mask.fill(255, 10, 12)
  mask.fill(255, 40, 41)
  mask[60] = 0b0001_1000
  const writer = new FrameWriter()
  writer.delta(1, 'u8', 800, { mask, values: new Array(26).fill(1) })
  const [delta] = decodeFrame(writer.finish()).commands
  t.match(delta, { type: COMMAND_DELTA, kind: 2, encoding: 1 })
  if (delta?.type === COMMAND_DELTA)
    t.equal(decodeDeltaForJson(delta).mask, Buffer.from(mask).toString('base64'))
})

t.test(
  'indices and values whose memory was given away are refused, also where none are needed',
  async (t) => {
    const gone = new Uint32Array(4)
    structuredClone(gone.buffer, { transfer: [gone.buffer] })
    const write = (input: DeltaInput): void => new FrameWriter({}).delta(1, 'f32', 40, input)
    t.throws(() => write({ indices: gone, values: [] }), {
      code: 'INVALID_DELTA',
      message: /^indices.*detached/,
    })
    t.throws(() => write({ indices: [], values: gone }), {
      code: 'INVALID_DELTA',
      message: /^values.*detached/,
    })
    t.doesNotThrow(() => write({ indices: [], values: [] }))
  },
)
