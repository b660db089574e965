/** Frames and deltas: the reader returns what the writer was given, and a refused delta leaves no trace. */
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { decodeDeltaForJson, validateDelta } from '../../../src/state/delta.js'
import {
  type CreatePageCommand,
  type DeltaCommand,
  eachCommand,
  type Frame,
  patchPageId,
} from '../../../src/state/frame/frame.js'
import { decodeFrame } from '../../../src/state/frame/reader.js'
import { decodeCreatePage } from '../../../src/state/frame/structural.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import type { DeltaInput } from '../../../src/state/types.js'
import { encodeValues } from '../../../src/state/value.js'
import { DTYPE_INFO, DTYPES, type Dtype } from '../../../src/wire/dtype.js'
import {
  COMMAND_DELTA,
  FRAME_MAX_BYTES,
  FRAME_MAX_COMMANDS,
  PAGE_ID_UNASSIGNED,
} from '../../../src/wire/frame.js'
import { MERGES } from '../../../src/wire/page.js'
import { ROOT } from '../../lib/place.js'
import { refusal } from '../../lib/refusal.js'

const NO_BYTES = new Uint8Array(0)
const page = { id: 9, name: 'p', dtype: 'f32', shape: [4, 3], location: 'auto', kind: 'source' } as const

const deltaFrame = (dtype: Dtype, elements: number, input: DeltaInput): Uint8Array => {
  const writer = new FrameWriter()
  writer.delta(7, dtype, elements, input)
  return writer.finish()
}

const onlyDelta = (bytes: Uint8Array): DeltaCommand => {
  const [command] = decodeFrame(bytes).commands
  if (command?.type !== COMMAND_DELTA) throw new Error('no delta')
  return command
}

/** The writes of a delta, element by element: element and value, in order. */
function writesOf(delta: DeltaCommand): [number, unknown][] {
  const json = decodeDeltaForJson(delta)
  if (json.indices !== undefined) return json.indices.map((index, i) => [index, json.values[i]])
  if (json.mask === undefined) return json.values.map((value, i) => [json.offset! + i, value])
  const bits = Buffer.from(json.mask, 'base64')
  const set = Array.from({ length: delta.count }, (_, i) => i).filter((i) => (bits[i >> 3]! >> (i & 7)) & 1)
  return set.map((element, i) => [element + (json.offset ?? 0), json.values[i]])
}

t.test('the example of docs/internals/FORMAT.md is what the writer makes and the reader reads', async (t) => {
  const text = readFileSync(`${ROOT}docs/internals/FORMAT.md`, 'utf8')
  const block = /### Example\n[\s\S]*?```hex\n([\s\S]*?)```/.exec(text)?.[1] ?? ''
  const hex = block
    .split('\n')
    .flatMap((line) => /^(?:[0-9a-f]{2} +){8}/.exec(`${line} `)?.[0].trim().split(/ +/) ?? [])
  const bytes = Uint8Array.from(hex, (byte) => Number.parseInt(byte, 16))
  const writer = new FrameWriter({ key: 'k-1', source: 'feed', expect: [{ pageId: 7, version: 41 }] })
  writer.createPage({
    id: PAGE_ID_UNASSIGNED,
    name: 'qty',
    dtype: 'i32',
    shape: [5],
    location: 'auto',
    kind: 'source',
    fill: 0n,
    definition: NO_BYTES,
  })
  writer.delta(7, 'f32', 8, { offset: 2, values: [42, 0.5, -1] })
  writer.delta(7, 'f32', 8, { mask: Uint8Array.of(0x81), values: [1, 2], merge: 'add' })
  t.same(writer.finish(), bytes)

  const frame = decodeFrame(bytes)
  t.match(frame, {
    key: 'k-1',
    source: 'feed',
    intent: undefined,
    preconditions: [{ pageId: 7, version: 41 }],
  })
  const [create, dense, masked] = frame.commands as [CreatePageCommand, DeltaCommand, DeltaCommand]
  t.match(create, {
    id: PAGE_ID_UNASSIGNED,
    name: 'qty',
    dtype: 'i32',
    shape: [5],
    location: 'auto',
    kind: 'source',
  })
  t.same(decodeDeltaForJson(dense), { page: 7, offset: 2, values: [42, 0.5, -1], merge: 'set' })
  t.same(decodeDeltaForJson(masked), { page: 7, mask: 'gQ==', values: [1, 2], merge: 'add' })
})

t.test('key, source, intent and preconditions are read as written', async (t) => {
  const intent = { why: 'rebalance', ü: [1, null] }
  const expect = [
    { pageId: 0, version: 0 },
    { pageId: 3, version: Number.MAX_SAFE_INTEGER },
  ]
  const frame = decodeFrame(new FrameWriter({ key: 'ключ', source: 'x', intent, expect }).finish())
  t.same([frame.key, frame.source, frame.intent, frame.preconditions], ['ключ', 'x', intent, expect])
  t.equal(frame.commandCount, 0)
  t.same(decodeFrame(new FrameWriter({ intent: null }).finish()).intent, null)
  t.equal(decodeFrame(new FrameWriter().finish()).intent, undefined)
  t.match(
    refusal(() => new FrameWriter({ key: 'k'.repeat(257) })),
    /^PAYLOAD_TOO_LARGE key has 257 bytes/,
  )
  t.match(
    refusal(() => new FrameWriter({ intent: 'x'.repeat(16_384) })),
    /^PAYLOAD_TOO_LARGE intent/,
  )
  t.match(
    refusal(() => new FrameWriter({ intent: 1n })),
    /^INVALID_REQUEST intent/,
  )
})

t.test('structural commands are read as written', async (t) => {
  const definition = Uint8Array.from({ length: 13 }, (_, i) => i + 1)
  const writer = new FrameWriter()
  for (const shape of [[], [2], [2, 3], [1, 2, 3, 4, 5, 6, 7, 8], [0, 2 ** 32 - 1]]) {
    writer.createPage({ ...page, dtype: 'u8', shape, fill: 7n, definition: NO_BYTES })
  }
  writer.createPage({ ...page, kind: 'derived', location: 'unified', fill: 0n, definition })
  writer.deletePage(12)
  writer.defineFunction('sigmoid', definition)
  writer.defineFunction('sigmoid')
  const { commands } = decodeFrame(writer.finish())
  t.same(
    commands.slice(0, 5).map((command) => (command as CreatePageCommand).shape.length),
    [0, 1, 2, 8, 2],
  )
  t.match(commands[4], { type: 1, id: 9, name: 'p', dtype: 'u8', fill: 7n, shape: [0, 2 ** 32 - 1] })
  t.match(commands[5], { kind: 'derived', location: 'unified', fill: 0n, definition })
  t.match(commands[6], { type: 2, pageId: 12 })
  t.match(commands[7], { type: 3, name: 'sigmoid', definition })
  t.match(commands[8], { type: 3, name: 'sigmoid', definition: NO_BYTES })
})

t.test('one create-page command can be read by itself, as in a checkpoint', async (t) => {
  const writer = new FrameWriter()
  writer.createPage({ ...page, fill: 0x3f80_0000n, definition: NO_BYTES })
  const frame = decodeFrame(writer.finish())
  const [{ offset, byteLength }] = frame.commands as [CreatePageCommand]
  const command = frame.bytes.slice(offset, offset + byteLength)
  t.match(decodeCreatePage(command), { ...page, fill: 0x3f80_0000n })
  for (let cut = 0; cut < command.length; cut++) {
    t.match(
      refusal(() => decodeCreatePage(command.slice(0, cut))),
      /^INVALID_REQUEST/,
    )
  }
})

t.test('the bus puts its own id into a create-page command', async (t) => {
  const writer = new FrameWriter()
  writer.createPage({ ...page, id: PAGE_ID_UNASSIGNED, fill: 0n, definition: NO_BYTES })
  const frame = decodeFrame(writer.finish())
  const [create] = frame.commands as [CreatePageCommand]
  patchPageId(frame, create, 31)
  t.equal(create.id, 31)
  t.match(decodeFrame(frame.bytes).commands[0], { id: 31 })
})

type Refused = [Dtype, number, Record<string, unknown>, RegExp]

t.test('a delta that does not fit is INVALID_DELTA and leaves the frame as it was', async (t) => {
  const nine = Uint8Array.of(0b11, 1)
  const cases: Refused[] = [
    ['f32', 4, { offset: 3, values: [1, 2] }, /elements 3 to 5 are past the end: the page has 4/],
    ['f32', 4, { offset: 5, values: [] }, /past the end/],
    ['f32', 4, { offset: -1, values: [1] }, /offset: -1 is before the start: the page has 4 elements/],
    ['f32', 4, { offset: 2 ** 32, values: [1] }, /4294967296 to 4294967297 are past the end: the page has 4/],
    ['f32', 4, { offset: 2 ** 32, values: [] }, /past the end/],
    ['f32', 4, { offset: 2 ** 53 - 1, values: [1] }, /past the end: the page has 4/],
    ['f32', 4, { offset: 1e300, values: [1] }, /past the end: the page has 4/],
    ['f32', 4, { offset: 0, indices: [0], values: [1] }, /offset cannot be given together with indices/],
    ['f32', 4, { offset: 0, mask: 'AQ==', values: [1] }, /offset cannot be given together with mask/],
    ['f32', 4, { indices: [0], mask: 'AQ==', values: [1] }, /indices and mask/],
    ['f32', 4, { indices: [0, 1], values: [1] }, /2 indices but 1 values/],
    ['f32', 4, { indices: [0, 4], values: [1, 2] }, /indices\[1\]: 4 is past the end/],
    ['f32', 4, { indices: [-1], values: [1] }, /indices\[0\]: -1 is before the start: the page has 4/],
    [
      'f32',
      4,
      { indices: [2 ** 32], values: [1] },
      /indices\[0\]: 4294967296 is past the end: the page has 4/,
    ],
    ['f32', 4, { indices: [1e300], values: [1] }, /indices\[0\]: 1e\+300 is past the end: the page has 4/],
    ['f32', 9, { mask: 'AQ==', values: [1] }, /mask has 1 bytes; 9 elements need 2/],
    ['f32', 4, { mask: 'EA==', values: [1] }, /bits set past the 4 elements/],
    ['f32', 4, { mask: 'AQ', values: [1] }, /mask is not base64/],
    ['f32', 4, { mask: '!!!!', values: [1] }, /mask is not base64/],
    ['f32', 9, { mask: nine, values: [1, 2] }, /3 bits set but there are 2 values/],
    ['f64', 4, { values: [1], merge: 'xor' }, /merge xor is not defined for f64/],
    ['u8', 4, { values: [1, 2, 300] }, /values\[2\]: 300 is out of range/],
  ]
  for (const refused of cases) leavesNoTrace(t, /^INVALID_DELTA /, refused)
})

t.test('anything but a delta is INVALID_REQUEST and leaves the frame as it was', async (t) => {
  const cases: Refused[] = [
    ['f32', 4, { values: 5 }, /values must be an array/],
    ['f32', 4, {}, /values must be an array/],
    ['f32', 4, { values: { length: 1 } }, /values must be an array/],
    ['f32', 4, { offset: 0.5, values: [1] }, /offset must be an integer, not 0.5/],
    ['f32', 4, { offset: '1', values: [1] }, /offset must be an integer, not "1"/],
    ['f32', 4, { offset: null, values: [1] }, /offset must be an integer, not null/],
    ['f32', 4, { offset: Number.NaN, values: [1] }, /offset must be an integer, not NaN/],
    ['f32', 4, { indices: [0.5], values: [1] }, /indices\[0\] must be an integer, not 0.5/],
    ['f32', 4, { indices: ['0'], values: [1] }, /indices\[0\] must be an integer, not "0"/],
    ['f32', 4, { indices: 'abc', values: [1] }, /indices must be an array/],
    ['f32', 4, { mask: 7, values: [1] }, /mask must be base64 text or bytes/],
    ['f32', 4, { values: [1], merge: 'plus' }, /merge must be one of set, add.* not "plus"/],
    ['f32', 4, { values: [1], merge: null }, /merge must be one of/],
  ]
  for (const refused of cases) leavesNoTrace(t, /^INVALID_REQUEST /, refused)
})

function leavesNoTrace(t: Test, code: RegExp, [dtype, elements, input, message]: Refused): void {
  const writer = new FrameWriter()
  writer.delta(1, 'u8', 4, { values: [1] })
  const text = refusal(() => writer.delta(1, dtype, elements, input as unknown as DeltaInput))
  t.match(text, code)
  t.match(text, message)
  writer.delta(1, 'u8', 4, { values: [2] })
  const { commands } = decodeFrame(writer.finish())
  t.same(
    commands.map((c) => decodeDeltaForJson(c as DeltaCommand).values),
    [[1], [2]],
  )
}

t.test('more than a frame holds is PAYLOAD_TOO_LARGE before it is encoded', async (t) => {
  const large = new Float64Array(FRAME_MAX_BYTES / 8)
  t.match(
    refusal(() => deltaFrame('f64', large.length, { values: large })),
    /^PAYLOAD_TOO_LARGE/,
  )
  const fits = deltaFrame('f64', large.length, { values: large.subarray(8) })
  t.equal(fits.length, FRAME_MAX_BYTES)
  t.equal(decodeFrame(fits).commandCount, 1)
  const crowded = new FrameWriter().finish().slice()
  new DataView(crowded.buffer).setUint32(12, FRAME_MAX_COMMANDS + 1, true)
  t.match(
    refusal(() => decodeFrame(crowded)),
    /^PAYLOAD_TOO_LARGE frame: 1000001 commands/,
  )
})

t.test('a frame takes so many commands and no more', async (t) => {
  const writer = new FrameWriter()
  for (let i = 0; i < FRAME_MAX_COMMANDS; i++) writer.deletePage(i)
  t.match(
    refusal(() => writer.deletePage(1)),
    /^PAYLOAD_TOO_LARGE a transaction has at most 1000000 commands/,
  )
})

t.test('a command that was refused half-way leaves nothing where the next one is written', async (t) => {
  const name = 'abc'
  const page = { id: 9, name, dtype: 'f32', shape: [3], location: 'auto', kind: 'source', fill: 0n } as const
  const commands: Record<string, (writer: FrameWriter) => void> = {
    'create a page': (writer) => writer.createPage({ ...page, definition: Uint8Array.of(1) }),
    'delete a page': (writer) => writer.deletePage(7),
    'define a function': (writer) => writer.defineFunction('f', Uint8Array.of(1, 2, 3)),
    'dense values': (writer) => writer.delta(1, 'u8', 40, { values: [1, 2, 3] }),
    'sparse values': (writer) => writer.delta(1, 'u8', 40, { indices: [5], values: [1] }),
    'a mask': (writer) => writer.delta(1, 'u8', 9, { mask: Uint8Array.of(1, 1), values: [1, 2] }),
  }
  for (const [what, command] of Object.entries(commands)) {
    const clean = new FrameWriter()
    command(clean)
    const writer = new FrameWriter()
    const values = [...new Array(20).fill(-1.1), 'x'] as number[]
    t.match(
      refusal(() => writer.delta(1, 'f64', 40, { values })),
      /^INVALID/,
    )
    command(writer)
    t.same(writer.finish(), clean.finish(), what)
  }
})

/** A page and a delta of any kind that fits it, with the writes it makes. */
const anyDelta = fc
  .record({
    dtype: fc.constantFrom(...DTYPES),
    elements: fc.nat(150),
    kind: fc.constantFrom('dense', 'sparse', 'mask'),
    seed: fc.infiniteStream(fc.nat()),
    merge: fc.constantFrom(...MERGES),
  })
  .map(({ dtype, elements, kind, seed, merge }) => {
    const random = (below: number): number => seed.next().value! % below
    const isFloat = DTYPE_INFO[dtype].kind === 'float'
    const value = (): number => (dtype === 'bool' ? random(2) : isFloat ? random(1000) / 8 - 60 : random(100))
    const offset = random(elements + 1)
    const count = random(elements - offset + 1)
    // Runs of random length, so that both encodings of a mask occur.
    const set: number[] = []
    for (let i = 0; i < elements; ) {
      const run = 1 + random(random(2) === 0 ? 3 : 60)
      if (random(2) === 0) for (let k = i; k < Math.min(elements, i + run); k++) set.push(k)
      i += run
    }
    const indices = Array.from({ length: elements === 0 ? 0 : count }, () => random(elements))
    const mask = new Uint8Array(Math.ceil(elements / 8))
    for (const element of set) mask[element >> 3]! |= 1 << (element & 7)
    const places =
      kind === 'dense'
        ? Array.from({ length: count }, (_, i) => offset + i)
        : kind === 'sparse'
          ? indices
          : set
    const values = places.map(value)
    const where = kind === 'dense' ? { offset } : kind === 'sparse' ? { indices } : { mask }
    const bitwise = merge === 'and' || merge === 'or' || merge === 'xor'
    const input: DeltaInput = { ...where, values, merge: isFloat && bitwise ? 'add' : merge }
    return { dtype, elements, input, places, values }
  })

t.test('a delta that fits is read as the same writes and passes validation', async (t) => {
  const encodings = new Set<string>()
  fc.assert(
    fc.property(anyDelta, ({ dtype, elements, input, places, values }) => {
      const command = onlyDelta(deltaFrame(dtype, elements, input))
      encodings.add(`${command.kind} ${command.encoding}`)
      validateDelta(command, { dtype, elements })
      t.equal(MERGES[command.merge], input.merge)
      const writes = writesOf(command)
      t.same(
        writes.map(([element]) => element),
        places,
      )
      t.same(encodeValues(dtype, writes.map(([, value]) => value) as number[]), encodeValues(dtype, values))
      // Its JSON gives the same delta again.
      const { page: _, ...json } = decodeDeltaForJson(command)
      t.same(deltaFrame(dtype, elements, json), deltaFrame(dtype, elements, input))
    }),
    { numRuns: 500 },
  )
  t.same([...encodings].sort(), ['0 0', '1 4', '2 0', '2 1'], 'every kind and coding was seen')
})

t.test('a binary delta is checked against its page', async (t) => {
  const check = (
    bytes: Uint8Array,
    dtype: Dtype,
    elements: number,
    poke?: (frame: Frame, at: number) => void,
  ) => {
    const copy = bytes.slice()
    const before = onlyDelta(copy)
    poke?.(before.frame, before.payloadOffset)
    return refusal(() => validateDelta(onlyDelta(copy), { dtype, elements }))
  }
  const dense = deltaFrame('bool', 8, { offset: 2, values: [1, 0, 1] })
  t.equal(check(dense, 'bool', 8), 'accepted')
  t.match(check(dense, 'u8', 8), /^INVALID_DELTA command 0: values are bool, the page is u8/)
  t.match(
    check(dense, 'bool', 4),
    /^INVALID_DELTA command 0: elements 2 to 5 are past the end: the page has 4/,
  )
  t.match(
    check(dense, 'bool', 8, (frame, at) => frame.bytes.set([2], at + 1)),
    /values\[1\]: 2 must be 0 or 1/,
  )

  const sparse = deltaFrame('u16', 9, { indices: [8, 0, 8], values: [1, 2, 3] })
  t.equal(check(sparse, 'u16', 9), 'accepted')
  t.match(
    check(sparse, 'u16', 8),
    /^INVALID_DELTA command 0: indices\[0\]: 8 is past the end: the page has 8/,
  )

  const raw = deltaFrame('u8', 9, { mask: Uint8Array.of(0b0101_0101, 1), values: [1, 2, 3, 4, 5] })
  t.equal(onlyDelta(raw).encoding, 0)
  t.equal(check(raw, 'u8', 9), 'accepted')
  t.match(check(raw, 'u8', 8), /elements 0 to 9 are past the end/)
  t.match(
    check(raw, 'u8', 9, (frame, at) => frame.bytes.set([3], at)),
    /5 values for a mask with 3 bits set/,
  )
  t.match(
    check(raw, 'u8', 9, (frame, at) => frame.bytes.set([2], at + 1)),
    /its mask goes past the 9 elements/,
  )

  const runs = deltaFrame('u8', 400, {
    mask: new Uint8Array(50).fill(255, 10, 30),
    values: new Array(160).fill(1),
  })
  t.equal(onlyDelta(runs).encoding, 1)
  t.equal(check(runs, 'u8', 400), 'accepted')
  const runWords = (skip: number, take: number) => (frame: Frame, at: number) =>
    frame.words.set([skip, take], at / 4 + 2)
  t.match(check(runs, 'u8', 400, runWords(241, 160)), /its mask goes past the 400 elements/)
  t.match(check(runs, 'u8', 400, runWords(0xffff_ffff, 160)), /its mask goes past/)
  t.match(check(runs, 'u8', 400, runWords(80, 159)), /160 values for a mask with 159 bits set/)
})

t.test('a cursor has the fields of the command objects', async (t) => {
  const writer = new FrameWriter()
  writer.deletePage(4)
  writer.delta(7, 'f32', 9, { offset: 1, values: [1, 2], merge: 'max' })
  writer.delta(8, 'i64', 9, { indices: [3], values: ['5'] })
  const frame = decodeFrame(writer.finish())
  const seen: unknown[] = []
  eachCommand(frame, (at) => {
    const { type, index, offset, byteLength, pageId } = at
    const {
      kind,
      merge,
      dtypeCode,
      encoding,
      elementOffset,
      count,
      valueCount,
      payloadOffset,
      payloadLength,
    } = at
    const head = { type, index, offset, byteLength, pageId }
    seen.push(
      type === COMMAND_DELTA
        ? {
            ...head,
            frame,
            kind,
            merge,
            dtypeCode,
            encoding,
            elementOffset,
            count,
            valueCount,
            payloadOffset,
            payloadLength,
          }
        : head,
    )
  })
  t.same(seen, frame.commands)
  t.equal(frame.commands, frame.commands, 'made once')
})
