/** Every frame that counts as plain is one that the full reader accepts, whatever its bytes. */
import fc from 'fast-check'
import t from 'tap'
import { validateDelta } from '../../../src/state/delta.js'
import { eachPageOf, type FrameMemory, frameLengthAt, isPlainFrame } from '../../../src/state/frame/plain.js'
import { decodeFrame } from '../../../src/state/frame/reader.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import { DTYPES, type Dtype } from '../../../src/wire/dtype.js'
import { COMMAND_DELTA, FRAME_HEADER_BYTES } from '../../../src/wire/frame.js'

const ELEMENTS = 6
/** Page 100 + n has the n-th dtype. */
const pageOf = (id: number) => {
  const dtype = DTYPES[id - 100]
  return dtype === undefined ? undefined : { dtype, elements: ELEMENTS }
}
const idOf = (dtype: Dtype): number => 100 + DTYPES.indexOf(dtype)

/** Memory that holds a frame behind `skip` bytes of something else. */
function memoryWith(frame: Uint8Array, skip: number): FrameMemory {
  const bytes = new Uint8Array(skip + frame.length + 64).fill(0xee)
  bytes.set(frame, skip)
  return { bytes, words: new Uint32Array(bytes.buffer) }
}

function isPlain(frame: Uint8Array, skip = 8): boolean {
  const memory = memoryWith(frame, skip)
  const length = frameLengthAt(memory, skip, skip + frame.length)
  return length === frame.length && isPlainFrame(memory, skip, length, pageOf)
}

/**
 * Whether the full reader accepts it, and it has no key, source, intent or preconditions and dense deltas
 * only.
 */
function isCarefullyPlain(bytes: Uint8Array): boolean {
  try {
    const frame = decodeFrame(Uint8Array.from(bytes))
    const { key, source, intent, preconditions, commands } = frame
    const isSilent = key ?? source ?? intent
    if (isSilent !== undefined || preconditions.length > 0 || commands.length === 0) return false
    return commands.every((command) => {
      const page = command.type === COMMAND_DELTA && command.kind === 0 ? pageOf(command.pageId) : undefined
      if (command.type !== COMMAND_DELTA || page === undefined) return false
      validateDelta(command, page)
      return true
    })
  } catch {
    return false
  }
}

const delta = fc.record({
  dtype: fc.constantFrom(...DTYPES),
  offset: fc.nat(ELEMENTS),
  count: fc.nat(ELEMENTS),
})
type Deltas = readonly { readonly dtype: Dtype; readonly offset: number; readonly count: number }[]

function frameOf(deltas: Deltas): Uint8Array {
  const writer = new FrameWriter()
  for (const { dtype, offset, count } of deltas) {
    const values = Array.from({ length: Math.min(count, ELEMENTS - offset) }, (_, i) => i % 2)
    writer.delta(idOf(dtype), dtype, ELEMENTS, { offset, values })
  }
  return Uint8Array.from(writer.finish())
}

t.test('a frame of dense deltas is plain, unless one is of bools', async (t) => {
  fc.assert(
    fc.property(fc.array(delta, { minLength: 1, maxLength: 5 }), (deltas) => {
      const frame = frameOf(deltas)
      const hasBool = deltas.some(({ dtype }) => dtype === 'bool')
      const seen: number[] = []
      eachPageOf(memoryWith(frame, 16), 16, (id) => seen.push(id))
      return isPlain(frame, 16) === !hasBool && `${seen}` === `${deltas.map(({ dtype }) => idOf(dtype))}`
    }),
    { numRuns: 500 },
  )
  t.equal(isPlain(frameOf([])), false, 'nothing in it')
  for (const options of [
    { key: 'k' },
    { source: 's' },
    { intent: 1 },
    { expect: [{ pageId: 109, version: 1 }] },
  ]) {
    const writer = new FrameWriter(options)
    writer.delta(109, 'f32', ELEMENTS, { offset: 0, values: [1] })
    t.equal(isPlain(writer.finish()), false, JSON.stringify(options))
  }
})

t.test('the full reader accepts every plain frame, whatever was done to its bytes', async (t) => {
  let plain = 0
  const words = fc.array(
    fc.tuple(
      fc.nat(40),
      fc.oneof(fc.nat(48), fc.constantFrom(0x80000000, 0xffffffff, 0x10004, 9 << 16), fc.nat()),
    ),
    { minLength: 1, maxLength: 3 },
  )
  fc.assert(
    fc.property(fc.array(delta, { minLength: 1, maxLength: 3 }), words, (deltas, changes) => {
      const frame = frameOf(deltas)
      const view = new Uint32Array(frame.buffer)
      for (const [at, value] of changes) view[at % view.length] = value
      if (!isPlain(frame)) return true
      plain++
      return isCarefullyPlain(frame)
    }),
    { numRuns: 20_000 },
  )
  t.ok(plain > 100, `${plain} of them were plain`)
})

t.test('every bit of a plain frame flipped', async (t) => {
  const frame = frameOf([
    { dtype: 'f32', offset: 1, count: 3 },
    { dtype: 'u8', offset: 0, count: 5 },
  ])
  let wrong = 0
  for (let bit = 0; bit < frame.length * 8; bit++) {
    const turned = Uint8Array.from(frame)
    turned[bit >> 3]! ^= 1 << (bit & 7)
    if (isPlain(turned) !== isCarefullyPlain(turned)) wrong++
  }
  t.equal(wrong, 0, 'plain is what is carefully plain')
})

t.test('no frame where the header is cut, the length is odd, or other bytes are', async (t) => {
  const frame = frameOf([{ dtype: 'f32', offset: 0, count: 2 }])
  const memory = memoryWith(frame, 0)
  t.equal(frameLengthAt(memory, 0, frame.length), frame.length)
  t.equal(frameLengthAt(memory, 0, FRAME_HEADER_BYTES - 1), 0)
  t.equal(frameLengthAt(memory, 8, frame.length), 0)
  for (const length of [0, 24, 36, 0xffffffff]) {
    memory.words[1] = length
    t.equal(frameLengthAt(memory, 0, frame.length), 0, `${length}`)
  }
})
