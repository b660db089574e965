import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { MmsbError } from '../../../src/errors.js'
import { FRAME_MAX_BYTES, FRAME_MAX_COMMANDS, PAGE_ID_UNASSIGNED } from '../../../src/limits.js'
import { decodeDeltaForJson, validateDelta } from '../../../src/state/delta.js'
import { DTYPE_INFO, DTYPES, type Dtype } from '../../../src/state/dtype.js'
import {
  COMMAND_CREATE_PAGE,
  COMMAND_DELTA,
  type CreatePageCommand,
  type DeltaCommand,
  decodeCreatePage,
  decodeFrame,
  eachCommand,
  type Frame,
  patchPageId,
  splitFrames,
} from '../../../src/state/frame/reader.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import { type DeltaInput, MERGES } from '../../../src/state/types.js'
import { encodeValues } from '../../../src/state/value.js'

const refusal = (run: () => unknown): string => {
  try {
    run()
  } catch (error) {
    if (error instanceof MmsbError) return `${error.code} ${error.message}`
    throw error
  }
  return 'accepted'
}

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

/** What an element-by-element reading of a delta writes: element and value, in order. */
function writesOf(delta: DeltaCommand): [number, unknown][] {
  const json = decodeDeltaForJson(delta)
  if (json.indices !== undefined) return json.indices.map((index, i) => [index, json.values[i]])
  if (json.mask === undefined) return json.values.map((value, i) => [json.offset! + i, value])
  const bits = Buffer.from(json.mask, 'base64')
  const set = Array.from({ length: delta.count }, (_, i) => i).filter((i) => (bits[i >> 3]! >> (i & 7)) & 1)
  return set.map((element, i) => [element + (json.offset ?? 0), json.values[i]])
}

t.test('the example of docs/internals/FORMAT.md is what the writer makes and the reader reads', async (t) => {
  const text = readFileSync(new URL('../../../docs/internals/FORMAT.md', import.meta.url), 'utf8')
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

t.test('key, source, intent and preconditions come back', async (t) => {
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

t.test('structural commands come back', async (t) => {
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

t.test('one create-page command stands alone, as in a checkpoint', async (t) => {
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

t.test('the bus puts its own id into a create', async (t) => {
  const writer = new FrameWriter()
  writer.createPage({ ...page, id: PAGE_ID_UNASSIGNED, fill: 0n, definition: NO_BYTES })
  const frame = decodeFrame(writer.finish())
  const [create] = frame.commands as [CreatePageCommand]
  patchPageId(frame, create, 31)
  t.equal(create.id, 31)
  t.match(decodeFrame(frame.bytes).commands[0], { id: 31 })
})

// ---- deltas -----------------------------------------------------------------------------------------------------------

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

t.test('what is no delta at all is INVALID_REQUEST and leaves the frame as it was', async (t) => {
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

/** A page and a delta of any kind that fits it, with the writes it stands for. */
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
    // Runs of random length, so that both codings of a mask occur.
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

t.test('a delta that fits comes back as the same writes and passes validation', async (t) => {
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
      // Its JSON is the same delta again.
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

t.test('a cursor sees what the command objects say', async (t) => {
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

// ---- bytes from anybody -----------------------------------------------------------------------------------------------

const TYPED_REFUSAL = /^(INVALID_REQUEST|INVALID_DELTA|PAYLOAD_TOO_LARGE) /

/** Decodes and looks at everything, as the engine would. */
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

t.test('what a frame says is wrong with it', async (t) => {
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
    /precondition 0: no version is as large as 2\^53/,
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

t.test('a frame at any address is read, without touching its surroundings', async (t) => {
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

t.test('frames one after another are split by their lengths', async (t) => {
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
