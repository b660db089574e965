/**
 * Deltas made by hand: which layouts are sound, with each field one off; what does not fit a page; and how
 * each kind is shown.
 */
import t from 'tap'
import {
  checkDeltaLayout,
  type DeltaFields,
  decodeDeltaForJson,
  deltaValues,
  isDenseLayout,
  validateDelta,
  writeRuns,
} from '../../src/state/delta.js'
import { DTYPES, type Dtype } from '../../src/wire/dtype.js'
import { MERGES } from '../../src/wire/page.js'
import { refusal } from '../lib/refusal.js'

/** Where the delta begins, in bytes: something else stands before it and behind it. */
const AT = 16
const DENSE = 0
const SPARSE = 1
const MASKED = 2
const codeOf = (dtype: Dtype): number => DTYPES.indexOf(dtype)

interface Made {
  readonly kind: number
  readonly merge?: number
  readonly dtypeCode?: number
  readonly encoding?: number
  readonly offset?: number
  readonly count: number
  readonly valueCount?: number
  readonly payload: readonly number[]
  readonly payloadLength?: number
}

/** A delta of u8 values where nothing else is said. */
function made(given: Made) {
  const { kind, merge = 0, dtypeCode = codeOf('u8'), encoding = 0, offset = 0, count, payload } = given
  const { valueCount = count, payloadLength = payload.length } = given
  const byteLength = 32 + Math.ceil(payload.length / 8) * 8
  const bytes = new Uint8Array(AT + byteLength + 16)
  const words = new Uint32Array(bytes.buffer)
  const word = AT / 4
  words.fill(0xffff_ffff, 0, word)
  words.fill(0xffff_ffff, (AT + byteLength) / 4)
  words.set(
    [4, byteLength, 7, kind | (merge << 8) | (dtypeCode << 16) | (encoding << 24), offset, count],
    word,
  )
  words.set([valueCount, payloadLength], word + 6)
  bytes.set(payload, AT + 32)
  const delta: DeltaFields = {
    ...{ frame: { bytes, words }, index: 3, pageId: 7, kind, merge, dtypeCode, encoding },
    ...{ elementOffset: offset, count, valueCount, payloadOffset: AT + 32, payloadLength },
  }
  return { bytes, words, byteLength, delta }
}

const layout = (given: Made, changes: (bytes: Uint8Array, words: Uint32Array) => void = () => {}): string => {
  const { bytes, words, byteLength } = made(given)
  changes(bytes, words)
  return refusal(() => checkDeltaLayout(bytes, words, AT, byteLength, 3))
}

const u32 = (...values: number[]): number[] => [...new Uint8Array(Uint32Array.from(values).buffer)]

const DENSE_3: Made = { kind: DENSE, offset: 5, count: 3, payload: [1, 2, 3] }
const SPARSE_3: Made = {
  kind: SPARSE,
  encoding: 4,
  count: 3,
  payload: [...u32(4, 0, 9), 0, 0, 0, 0, 1, 2, 3],
}
const RAW: Made = {
  ...{ kind: MASKED, offset: 2, count: 11, valueCount: 3 },
  payload: [0b1000_0001, 0b100, 0, 0, 0, 0, 0, 0, 1, 2, 3],
}
/** Skips one, sets two; skips three, sets one. */
const RUNS: Made = {
  ...{ kind: MASKED, encoding: 1, offset: 2, count: 7, valueCount: 3 },
  payload: [...u32(2, 0, 1, 2, 3, 1), 1, 2, 3],
}
const SOUND = { DENSE_3, SPARSE_3, RAW, RUNS }

t.test('sound layouts are accepted', async (t) => {
  for (const [what, given] of Object.entries(SOUND)) t.equal(layout(given), 'accepted', what)
  t.equal(layout({ kind: DENSE, count: 0, payload: [] }), 'accepted')
  t.equal(layout({ kind: SPARSE, encoding: 4, count: 0, payload: [] }), 'accepted')
  t.equal(layout({ kind: DENSE, count: 8, payload: [1, 2, 3, 4, 5, 6, 7, 8] }), 'accepted')
  t.equal(layout({ ...RUNS, count: 9, valueCount: 0, payload: u32(0, 0) }), 'accepted')
  for (const [dtypeCode, dtype] of DTYPES.entries()) {
    for (const [merge, name] of MERGES.entries()) {
      const given = { kind: DENSE, merge, dtypeCode, count: 0, payload: [] }
      const isRefused = dtype.startsWith('f') && ['and', 'or', 'xor'].includes(name)
      const why = `INVALID_DELTA command 3: merge ${name} is not defined for ${dtype}`
      t.equal(layout(given), isRefused ? why : 'accepted', `${name} ${dtype}`)
      t.equal(layout({ ...SPARSE_3, ...given, kind: SPARSE }) === 'accepted', !isRefused)
    }
  }
})

const REFUSED: Record<string, [Made, string]> = {
  'no such kind': [{ ...DENSE_3, kind: 3 }, 'there is no delta kind 3'],
  'no such kind, encoded': [{ ...DENSE_3, kind: 3, encoding: 1 }, 'there is no delta kind 3'],
  'a dense delta that is encoded': [{ ...DENSE_3, encoding: 1 }, 'there is no encoding 1 for kind 0'],
  'a sparse delta that is encoded': [{ ...SPARSE_3, encoding: 1 }, 'there is no encoding 1 for kind 1'],
  'a mask of another encoding': [{ ...RUNS, encoding: 2 }, 'there is no encoding 2 for kind 2'],
  'no such dtype': [{ ...DENSE_3, dtypeCode: DTYPES.length }, `there is no dtype code ${DTYPES.length}`],
  'no such merge': [{ ...DENSE_3, merge: MERGES.length }, `there is no merge code ${MERGES.length}`],
  'a payload longer than the command': [
    { ...DENSE_3, payloadLength: 9 },
    'a payload of 9 bytes does not make a command of 40',
  ],
  'a payload shorter than the command': [
    { ...DENSE_3, payloadLength: 0 },
    'a payload of 0 bytes does not make a command of 40',
  ],
  'more values than elements': [{ ...DENSE_3, valueCount: 4 }, '4 values for 3 elements'],
  'fewer values than elements': [{ ...SPARSE_3, valueCount: 2 }, '2 values for 3 elements'],
  'values that are too many': [{ ...DENSE_3, count: 4 }, '4 values do not fit a payload of 3 bytes'],
  'values that are too few': [{ ...DENSE_3, count: 2 }, '2 values do not fit a payload of 3 bytes'],
  'larger values': [{ ...DENSE_3, dtypeCode: codeOf('i16') }, '3 values do not fit a payload of 3 bytes'],
  'a sparse delta with an offset': [{ ...SPARSE_3, offset: 1 }, 'a sparse delta has offset 0'],
  'a sparse delta with an index less': [
    { ...SPARSE_3, count: 2 },
    '2 values do not fit a payload of 19 bytes',
  ],
  'a mask with a value less': [{ ...RAW, valueCount: 2 }, '2 values do not fit a payload of 11 bytes'],
  'runs without their count': [{ ...RUNS, payload: [1, 0, 0, 0] }, 'a run-length mask needs 8 bytes'],
  'runs with a reserved field': [
    { ...RUNS, payload: [...u32(2, 1, 1, 2, 3, 1), 1, 2, 3] },
    'the reserved field of its mask is not 0',
  ],
  'a run less': [
    { ...RUNS, payload: [...u32(1, 0, 1, 2, 3, 1), 1, 2, 3] },
    '3 values do not fit a payload of 27 bytes',
  ],
}

t.test('a field that is off is refused, and said', async (t) => {
  for (const [what, [given, why]] of Object.entries(REFUSED))
    t.equal(layout(given), `INVALID_DELTA command 3: ${why}`, what)
  const { bytes, words } = made({ kind: DENSE, count: 0, payload: [] })
  const short = refusal(() => checkDeltaLayout(bytes, words, AT, 24, 3))
  t.equal(short, 'INVALID_DELTA command 3: a delta needs 32 bytes')
})

t.test('padding is zero, whichever byte of it', async (t) => {
  const dirty = 'INVALID_DELTA command 3: its padding is not 0'
  for (const [what, given, padding] of [
    ['behind dense values', DENSE_3, [3, 4, 5, 6, 7]],
    ['behind indices', SPARSE_3, [12, 13, 14, 15]],
    ['behind sparse values', SPARSE_3, [19, 20, 21, 22, 23]],
    ['behind a mask', RAW, [2, 3, 4, 5, 6, 7]],
    ['behind the values of a mask', RAW, [11, 12, 13, 14, 15]],
    ['behind the values of runs', RUNS, [27, 28, 29, 30, 31]],
  ] as const) {
    for (const at of padding) {
      const said = layout(given, (bytes) => {
        bytes[AT + 32 + at] = 1
      })
      t.equal(said, dirty, `${what}: byte ${at}`)
    }
  }
})

t.test('the quick test of a dense layout takes dense ones alone', async (t) => {
  const isDense = (given: Made): boolean => {
    const { bytes, words, byteLength } = made(given)
    return isDenseLayout(bytes, words, AT, byteLength)
  }
  t.equal(isDense(DENSE_3), true)
  t.equal(isDense({ kind: DENSE, count: 8, payload: [1, 2, 3, 4, 5, 6, 7, 8] }), true)
  t.equal(isDense({ kind: DENSE, count: 0, payload: [] }), true)
  for (const given of [SPARSE_3, RAW, RUNS]) t.equal(isDense(given), false)
  for (const [what, [given]] of Object.entries(REFUSED)) t.equal(isDense(given), false, what)
  const { bytes, words } = made({ kind: DENSE, count: 0, payload: [] })
  t.equal(isDenseLayout(bytes, words, AT, 24), false)
})

const fits = (given: Made, dtype: Dtype, elements: number): string =>
  refusal(() => validateDelta(made(given).delta, { dtype, elements }))

t.test('a delta fits its page to the last element', async (t) => {
  const past = (first: number, end: number, elements: number): string =>
    `INVALID_DELTA command 3: elements ${first} to ${end} are past the end: the page has ${elements}`
  t.equal(fits(DENSE_3, 'u8', 8), 'accepted')
  t.equal(fits(DENSE_3, 'u8', 7), past(5, 8, 7))
  t.equal(fits(RAW, 'u8', 13), 'accepted')
  t.equal(fits(RAW, 'u8', 12), past(2, 13, 12))
  t.equal(fits(RUNS, 'u8', 9), 'accepted')
  t.equal(fits(RUNS, 'u8', 8), past(2, 9, 8))
  t.equal(fits(SPARSE_3, 'u8', 10), 'accepted')
  const index = 'INVALID_DELTA command 3: indices[2]: 9 is past the end: the page has 9'
  t.equal(fits(SPARSE_3, 'u8', 9), index)
  t.equal(fits(DENSE_3, 'i8', 8), 'INVALID_DELTA command 3: values are u8, the page is i8')
})

t.test('a mask covers its elements and has a bit for each value', async (t) => {
  const refused = (why: string): string => `INVALID_DELTA command 3: ${why}`
  const bits = (low: number, high: number, count = 11): Made => ({
    ...RAW,
    count,
    payload: [low, high, ...RAW.payload.slice(2)],
  })
  t.equal(fits(bits(0b11, 0b1), 'u8', 13), 'accepted')
  t.equal(fits(bits(0b1, 0b1), 'u8', 13), refused('3 values for a mask with 2 bits set'))
  t.equal(fits(bits(0b11, 0b11), 'u8', 13), refused('3 values for a mask with 4 bits set'))
  t.equal(fits(bits(0b11, 0b1000), 'u8', 13), refused('its mask goes past the 11 elements it covers'))
  t.equal(fits(bits(0b11, 0b1000, 12), 'u8', 14), 'accepted')
  t.equal(fits(bits(0b11, 0b1000_0000, 16), 'u8', 18), 'accepted')
  t.equal(fits({ ...RUNS, count: 6 }, 'u8', 9), refused('its mask goes past the 6 elements it covers'))
  t.equal(fits({ ...RUNS, count: 8 }, 'u8', 10), 'accepted', 'it may end before')
  const one = { ...RUNS, payload: [...u32(2, 0, 1, 1, 3, 1), 1, 2, 3] }
  t.equal(fits(one, 'u8', 9), refused('3 values for a mask with 2 bits set'))
})

t.test('values of bool are 0 or 1', async (t) => {
  const dtypeCode = codeOf('bool')
  const of = (given: Made, ...values: number[]): string =>
    fits({ ...given, dtypeCode, payload: [...given.payload.slice(0, -3), ...values] }, 'bool', 20)
  for (const given of [DENSE_3, SPARSE_3, RAW, RUNS]) {
    t.equal(of(given, 1, 0, 1), 'accepted')
    for (const [i, values] of [
      [2, 0, 1],
      [0, 2, 1],
      [0, 1, 255],
    ].entries()) {
      const why = `values[${i}]: ${values[i]} must be 0 or 1 (dtype bool)`
      t.equal(of(given, ...values), `INVALID_DELTA command 3: ${why}`)
    }
  }
  t.equal(fits(DENSE_3, 'u8', 20), 'accepted', 'of other dtypes anything')
})

t.test('as JSON: a mask over the whole page stays one, over a part it becomes indices', async (t) => {
  const shown = { page: 7, merge: MERGES[0], values: [1, 2, 3] }
  const json = (given: Made, elements?: number) => decodeDeltaForJson(made(given).delta, elements)
  t.same(json(DENSE_3), { ...shown, offset: 5 })
  t.same(json({ ...SPARSE_3, merge: 1 }), { ...shown, merge: MERGES[1], indices: [4, 0, 9] })
  t.same(json(RAW, 13), { ...shown, indices: [2, 9, 12] })
  t.same(json(RUNS, 9), { ...shown, indices: [3, 4, 8] })
  const whole = { ...RAW, offset: 0 }
  const mask = Buffer.of(0b1000_0001, 0b100).toString('base64')
  t.same(json(whole, 11), { ...shown, mask })
  t.same(json(whole), { ...shown, mask })
  t.same(json(whole, 12), { ...shown, indices: [0, 7, 10] })
  t.same(json({ ...RUNS, offset: 0 }, 7), { ...shown, mask: Buffer.of(0b100_0110).toString('base64') })
  const wide = { ...DENSE_3, dtypeCode: codeOf('i16'), payload: [1, 0, 2, 0, 255, 255] }
  t.same(deltaValues(made(wide).delta), Int16Array.of(1, 2, -1))
})

t.test('a bitset as runs', async (t) => {
  const words = new Uint32Array(9).fill(77)
  writeRuns(Uint8Array.of(0b1000_0110, 0b1), 2, words, 1)
  t.same([...words], [77, 2, 0, 1, 2, 4, 2, 77, 77])
  writeRuns(Uint8Array.of(0), 0, words, 1)
  t.same([...words.subarray(0, 4)], [77, 0, 0, 1])
})
