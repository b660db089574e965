/** The client's encoder and decoders agree with the server's on every input. */
import fc from 'fast-check'
import t from 'tap'
import { encodeFrame } from '../../../src/client/codec/frame.js'
import { transactionText } from '../../../src/client/codec/json.js'
import { decodeBinary, decodeText, type Message } from '../../../src/client/codec/message.js'
import { fromJson } from '../../../src/client/codec/values.js'
import { MmsbError } from '../../../src/client/errors.js'
import type { Delta } from '../../../src/client/types.js'
import { MmsbError as ServerError } from '../../../src/errors.js'
import {
  ackMessage,
  messageBody,
  messageHead,
  refusalMessage,
} from '../../../src/http/stream/binary-messages.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import { encodeValues, valuesToJson } from '../../../src/state/value.js'
import {
  ChangeMessage,
  jsonHead,
  jsonTail,
  PagePart,
  SnapshotMessage,
  type StreamMessage,
} from '../../../src/stream/messages.js'
import { DTYPE_INFO, DTYPES, type Dtype, type TypedArray } from '../../../src/wire/dtype.js'
import type { DataMode } from '../../../src/wire/messages.js'
import { MERGES } from '../../../src/wire/page.js'

// --- frames ---

const dtype = fc.constantFrom(...DTYPES)
/** Its bits are not those of the NaN that pages have. */
const ODD_NAN = new Float64Array(BigUint64Array.of(0xfff8_0000_0001_2345n).buffer)[0]!
/** Mostly valid values, and many kinds of invalid ones. */
const value = fc.oneof(
  { weight: 6, arbitrary: fc.integer({ min: 0, max: 100 }) },
  fc.integer(),
  fc.double(),
  fc.bigInt({ min: -(2n ** 65n), max: 2n ** 65n }),
  fc.boolean(),
  fc.constantFrom(
    'NaN',
    'Infinity',
    '-Infinity',
    '18446744073709551615',
    '-1',
    'x',
    '',
    2 ** 128,
    3.5e38,
    ODD_NAN,
  ),
)
const elements = fc.integer({ min: 0, max: 130 })
const values = fc.oneof(
  fc.array(value, { maxLength: 12 }),
  fc.array(fc.integer({ min: 0, max: 1 }), { maxLength: 12 }),
  fc
    .tuple(dtype, fc.array(fc.integer({ min: 0, max: 2 }), { maxLength: 8 }))
    .map(([dtype, list]) => fromJson(dtype, list)),
)
const delta: fc.Arbitrary<Delta> = fc
  .record(
    {
      values,
      offset: fc.oneof(fc.integer({ min: -1, max: 140 }), fc.constantFrom(0.5, 2 ** 32, 2 ** 32 + 1, 1e300)),
      indices: fc.array(fc.oneof(fc.integer({ min: -1, max: 140 }), fc.constantFrom(0.5, 2 ** 32)), {
        maxLength: 12,
      }),
      mask: fc.oneof(fc.uint8Array({ maxLength: 17 }), fc.base64String(), fc.string({ maxLength: 6 })),
      merge: fc.constantFrom(...MERGES),
    },
    { requiredKeys: ['values'] },
  )
  .map((given) => given as Delta)
/** Valid deltas, so that enough of them are drawn. */
const soundOp = fc.tuple(dtype, fc.integer({ min: 1, max: 130 })).chain(([dtype, elements]) => {
  const list = (length: number): fc.Arbitrary<Delta['values']> =>
    fc
      .array(fc.integer({ min: 0, max: 1 }), { minLength: length, maxLength: length })
      .map((numbers) => (length % 2 === 0 ? numbers : fromJson(dtype, numbers)))
  const merge = fc.constantFrom('set' as const, 'add' as const, 'max' as const)
  const offset = fc.integer({ min: 0, max: elements - 1 })
  const dense = offset.chain((offset) =>
    fc
      .integer({ min: 0, max: elements - offset })
      .chain((count) => fc.record({ offset: fc.constant(offset), values: list(count), merge })),
  )
  const sparse = fc
    .array(offset, { maxLength: 9 })
    .chain((indices) => fc.record({ indices: fc.constant(indices), values: list(indices.length), merge }))
  const masked = fc
    .tuple(fc.array(fc.boolean(), { minLength: elements, maxLength: elements }), fc.boolean())
    .chain(([bits, isRare]) => {
      const mask = new Uint8Array(Math.ceil(elements / 8))
      let set = 0
      for (const [i, bit] of bits.entries()) {
        if (!bit || (isRare && i % 40 !== 0)) continue
        mask[i >> 3]! |= 1 << (i & 7)
        set++
      }
      return fc.record({ mask: fc.constant(mask), values: list(set), merge })
    })
  return fc.oneof(dense, sparse, masked).map((delta) => ({ dtype, elements, delta: delta as Delta }))
})
const anyOp = fc.record({ dtype, elements, delta })
const head = fc.record(
  {
    key: fc.oneof(fc.string({ maxLength: 20 }), fc.constant('k'.repeat(257))),
    source: fc.string({ maxLength: 10, unit: 'grapheme' }),
    intent: fc.jsonValue({ maxDepth: 2 }),
    expect: fc.array(
      fc.record({
        pageId: fc.integer({ min: 0, max: 2 ** 32 - 2 }),
        version: fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }),
      }),
      { maxLength: 3 },
    ),
  },
  { requiredKeys: [] },
)

type Outcome = { readonly bytes: Uint8Array } | { readonly code: string }

function outcome(run: () => Uint8Array): Outcome {
  try {
    return { bytes: Uint8Array.from(run()) }
  } catch (error) {
    if (error instanceof MmsbError || error instanceof ServerError) return { code: error.code }
    throw error
  }
}

const HISTORY = `${'0a'.repeat(16)}.${'f1'.repeat(8)}`

t.test('a frame is, byte for byte, the one the server would make; or refused with its code', async (t) => {
  let refused = 0
  let made = 0
  fc.assert(
    fc.property(head, fc.array(fc.oneof(soundOp, soundOp, anyOp), { maxLength: 4 }), (head, ops) => {
      const theirs = outcome(() => {
        const writer = new FrameWriter(head)
        for (const [id, { dtype, elements, delta }] of ops.entries()) writer.delta(id, dtype, elements, delta)
        return writer.finish()
      })
      const pages = ops.map(({ dtype, elements, delta }, id) => ({ page: { id, dtype, elements }, delta }))
      const ours = outcome(() => encodeFrame(head, pages))
      if ('code' in ours) refused++
      else made++
      t.same(ours, theirs)
      return true
    }),
    { numRuns: 600 },
  )
  t.ok(refused > 50, `${refused} were refused`)
  t.ok(made > 50, `${made} were made`)
})

t.test('as JSON text a transaction means the same', async (t) => {
  fc.assert(
    fc.property(soundOp, ({ dtype, elements, delta }) => {
      const text = transactionText({ ops: [{ page: 'a', ...delta }], source: 's' }, 'k')
      const parsed = JSON.parse(text) as { ops: (Delta & { page?: string })[]; key: string }
      const { page, ...back } = parsed.ops[0]!
      t.equal(page, 'a')
      t.equal(parsed.key, 'k')
      const frames = [delta, back].map((input) =>
        outcome(() => encodeFrame({}, [{ page: { id: 1, dtype, elements }, delta: input }])),
      )
      t.same(frames[0], frames[1])
    }),
    { numRuns: 100 },
  )
  const text = transactionText({ ops: [{ page: 'a', values: Float64Array.of(-0, Number.NaN, 1e300) }] })
  t.equal(text, '{"ops":[{"page":"a","values":[-0.0,"NaN",1e+300]}]}')
})

// --- messages of the server ---

const shape = fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 3 })
const name = fc.stringMatching(/^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,20}$/)
const bytes = fc.uint8Array({ minLength: 64, maxLength: 64 })
const epoch = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER })

interface PartModel {
  readonly name: string
  readonly kind: 'source' | 'derived' | 'created' | 'deleted'
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly ranges: readonly [number, number][]
  readonly values: TypedArray
}

const part: fc.Arbitrary<PartModel> = fc
  .record({
    name,
    dtype,
    shape,
    bytes,
    kind: fc.constantFrom('source', 'derived', 'created', 'deleted'),
    gaps: fc.array(fc.tuple(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 3 })), {
      maxLength: 2,
    }),
  })
  .map(({ bytes, gaps, ...rest }) => {
    let at = 0
    const ranges = gaps.map(([skip, count]) => {
      at += skip + count
      return [at - count, count] as [number, number]
    })
    const isGone = rest.kind === 'deleted'
    const count = isGone ? 0 : ranges.reduce((sum, [, n]) => sum + n, 0)
    const values = DTYPE_INFO[rest.dtype].view(encodeSome(rest.dtype, bytes, count), 0, count)
    return { ...rest, kind: rest.kind as PartModel['kind'], ranges: isGone ? [] : ranges, values }
  })

/** Elements that JSON keeps: small integers. */
function encodeSome(dtype: Dtype, bytes: Uint8Array, count: number): ArrayBuffer {
  const numbers = [...bytes.subarray(0, count)].map((byte) => (dtype === 'bool' ? byte % 2 : byte % 128))
  return Uint8Array.from(encodeValues(dtype, numbers)).buffer
}

const change = fc.record({
  first: epoch,
  epoch,
  parts: fc.uniqueArray(part, { maxLength: 3, selector: ({ name }) => name }),
  mode: fc.constantFrom<DataMode>('none', 'ranges', 'values'),
})

function serverChange({
  first,
  epoch,
  parts,
  mode,
}: typeof change extends fc.Arbitrary<infer T> ? T : never) {
  const made = parts.map(({ name, kind, dtype, shape, ranges, values }, pageId) => {
    const change = { page: name, pageId, kind, dtype, shape, ranges: Uint32Array.from(ranges.flat()) }
    return new PagePart(change, () => values)
  })
  return new ChangeMessage(first, epoch, made, mode)
}

function wire(id: string, message: StreamMessage): ArrayBuffer {
  const body = messageBody(message)
  return Uint8Array.from(Buffer.concat([messageHead(id, message, body.length), body])).buffer
}

t.test('changes come out as they went in, in binary and in text', async (t) => {
  await fc.assert(
    fc.asyncProperty(fc.string({ minLength: 1, maxLength: 9 }), change, async (id, model) => {
      const { first, epoch, parts, mode } = model
      const expected = {
        type: 'change',
        id,
        change: {
          type: 'change',
          epoch,
          first,
          changes: parts.map(({ name, kind, dtype, shape, ranges, values }) => ({
            page: name,
            kind,
            dtype,
            shape,
            ranges: mode === 'none' ? [] : ranges,
            ...(mode === 'values' ? { values } : {}),
          })),
        },
      }
      const message = serverChange(model)
      t.same(decodeBinary(wire(id, message)), [expected])
      const text = jsonHead('change', id) + jsonTail(message)
      const decoded = await decodeText(text, (page) => parts.find(({ name }) => name === page)!)
      // JSON does not carry dtype and shape of a deleted page.
      const isGone = (parts: readonly { kind: string }[]): boolean => parts.some((p) => p.kind === 'deleted')
      if (!isGone(parts)) t.same(decoded, expected)
      else t.match(decoded, { type: 'change', id, change: { epoch, first } })
    }),
    { numRuns: 150 },
  )
})

t.test('snapshots, markers, answers and refusals', async (t) => {
  const values = Float32Array.of(1, -0, Number.NaN)
  const pages = [
    { name: 'a', id: 1, kind: 'source' as const, dtype: 'f32' as const, shape: [3], version: 5, values },
    {
      name: 'b',
      id: 2,
      kind: 'derived' as const,
      dtype: 'u8' as const,
      shape: [],
      version: 6,
      values: Uint8Array.of(7),
    },
  ]
  const snapshot = decodeBinary(wire('s1', new SnapshotMessage(9, HISTORY, pages)))[0] as Message & {
    type: 'change'
  }
  t.match(snapshot, {
    type: 'change',
    id: 's1',
    history: HISTORY,
    change: { type: 'snapshot', epoch: 9, first: 9 },
  })
  t.same(decodeBinary(wire('x', { type: 'subscribed', epoch: 7, history: HISTORY })), [
    { type: 'subscribed', id: 'x', epoch: 7, history: HISTORY },
  ])
  t.same(
    snapshot.change.changes,
    pages.map(({ name, kind, dtype, shape, values }) => ({
      page: name,
      kind,
      dtype,
      shape,
      ranges: [[0, values.length]],
      values,
    })),
  )
  for (const type of ['progress', 'unsubscribed', 'committed'] as const) {
    t.same(decodeBinary(wire('x', { type, epoch: 2 ** 40 })), [{ type, id: 'x', epoch: 2 ** 40 }])
  }
  t.same(decodeBinary(wire('x', { type: 'compacted', minEpoch: 4 })), [
    { type: 'compacted', id: 'x', minEpoch: 4 },
  ])
  t.same(decodeBinary(wire('x', { type: 'overflow', resumeFrom: 4 })), [
    { type: 'overflow', id: 'x', resumeFrom: 4 },
  ])
  const error = new ServerError('EPOCH_COMPACTED', 'gone', { minEpoch: 3 })
  const problem = { code: 'EPOCH_COMPACTED', detail: 'gone', status: 410, minEpoch: 3, hint: error.hint }
  t.match(decodeBinary(wire('x', { type: 'error', error })), [{ type: 'error', id: 'x', error: problem }])
  t.match(decodeBinary(Uint8Array.from(refusalMessage(7, error)).buffer), [
    { type: 'refusal', sequence: 7, error: problem },
  ])
  t.same(
    decodeBinary(
      Uint8Array.from(
        ackMessage(
          [
            { first: 3, count: 2 },
            { first: 6, count: 1 },
          ],
          7,
        ),
      ).buffer,
    ),
    [
      { type: 'ack', sequence: 3, count: 2, epoch: 7 },
      { type: 'ack', sequence: 6, count: 1, epoch: 7 },
    ],
  )
})

t.test('a message cut at any byte, or with any byte changed, is PROTOCOL or a message', async (t) => {
  const parts = [
    new PagePart(
      { page: 'qty', pageId: 1, kind: 'source', dtype: 'i32', shape: [5], ranges: Uint32Array.of(1, 2) },
      () => Int32Array.of(42, -1),
    ),
  ]
  const whole = new Uint8Array(wire('s', new ChangeMessage(7, 7, parts, 'values')))
  const ends = (bytes: Uint8Array): string => {
    try {
      decodeBinary(Uint8Array.from(bytes).buffer)
      return 'decoded'
    } catch (error) {
      return (error as MmsbError).code
    }
  }
  for (let length = 1; length < whole.length; length++) {
    t.equal(ends(whole.subarray(0, length)), 'PROTOCOL', `cut at ${length}`)
  }
  const seen = new Set<string>()
  for (let at = 0; at < whole.length; at++) {
    for (const flip of [1, 0x80, 0xff]) {
      const bytes = Uint8Array.from(whole)
      bytes[at]! ^= flip
      seen.add(ends(bytes))
    }
  }
  t.same([...seen].sort(), ['PROTOCOL', 'decoded'])
})

t.test('a message that claims bytes of the next one, or an odd length, is PROTOCOL', async (t) => {
  const change = { page: 'qty', pageId: 1, kind: 'source', dtype: 'i32', shape: [5_000] } as const
  const parts = [new PagePart({ ...change, ranges: Uint32Array.of(1_234, 2) }, () => Int32Array.of(42, -1))]
  const one = Buffer.from(wire('s', new ChangeMessage(7, 7, parts, 'values')))
  const two = (first: Buffer): ArrayBuffer => Uint8Array.from(Buffer.concat([first, one])).buffer
  t.equal(decodeBinary(two(one)).length, 2)
  const greedy = Buffer.from(one)
  const countAt = greedy.indexOf(Buffer.from(Uint32Array.of(1_234, 2).buffer)) + 4
  greedy.writeUInt32LE(3, countAt)
  t.throws(() => decodeBinary(two(greedy)), { code: 'PROTOCOL', detail: /values go past the end/ } as never)
  const marker = Buffer.from(wire('x', { type: 'progress', epoch: 3 }))
  for (const extra of [1, 4, 7]) {
    const odd = Buffer.concat([marker, Buffer.alloc(extra)])
    odd.writeUInt32LE(odd.length, 4)
    const detail = new RegExp(`^a message of ${odd.length} bytes inside one of ${odd.length}`)
    t.throws(() => decodeBinary(Uint8Array.from(odd).buffer), { code: 'PROTOCOL', detail } as never)
  }
})

t.test('values of JSON answers get their array', async (t) => {
  for (const dtype of DTYPES) {
    const array = DTYPE_INFO[dtype].view(encodeSome(dtype, Uint8Array.of(1, 2, 3, 4), 4), 0, 4)
    t.same(fromJson(dtype, JSON.parse(JSON.stringify(valuesToJson(dtype, array)))), array, dtype)
  }
  t.same(
    fromJson('f32', ['NaN', '-Infinity', 1.5]),
    Float32Array.of(Number.NaN, Number.NEGATIVE_INFINITY, 1.5),
  )
  t.same(fromJson('u64', ['18446744073709551615']), BigUint64Array.of(2n ** 64n - 1n))
})
