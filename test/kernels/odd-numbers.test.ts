/**
 * Zeros of both signs, infinities and NaN of several bits, placed in one lane of a vector loop and in two:
 * every op whose result depends on them gives what the plain reference gives, and the one NaN. In full, and
 * after a change of a few elements.
 */
import t from 'tap'
import { fullStep, NativeContext } from '../../src/ffi/context.js'
import { compileDerivation } from '../../src/kernels/op-catalogue.js'
import { FrameWriter } from '../../src/state/frame/writer.js'
import { elementCount } from '../../src/state/shape.js'
import type { UncheckedDerivation } from '../../src/state/types.js'
import { DTYPE_INFO, DTYPES, type Dtype, type TypedArray } from '../../src/wire/dtype.js'
import {
  bitsOf,
  type FloatDtype,
  ODD_LENGTHS,
  ONE_NAN,
  type Placement,
  placed,
  placements,
} from '../lib/odd-numbers.js'
import { referenceEval, sameElement } from '../reference/evaluate.js'

const COLUMNS = 3
/** Machine code takes over at 4,096 elements. */
const LONG_LENGTH = 4_129

/** Over a and b, of the same length. */
const EXPRESSIONS = [
  'min(a, b)',
  'max(a, b)',
  'a < b',
  'a <= b',
  'a > b',
  'a >= b',
  'a == b',
  'a != b',
  'sign(a)',
  'abs(a)',
  '-a',
  'where(a < b, a, b)',
  'where(a != a, b, a)',
  'where(bool(a), b, a)',
  'clamp(a, -1, 1)',
  'clamp(a, b, 7)',
  'clamp(1, a, b)',
  'a + b',
  'a - b',
  'a * b',
  'a / b',
  'a // b',
  'a % b',
  'isnan(a)',
  'sqrt(a)',
  'floor(a)',
  'ceil(a)',
  'trunc(a)',
  'round(a)',
  'fma(a, b, a)',
  'not a',
  'a and b',
  'a or b',
  'u8(a)',
  'i32(a)',
  'bool(a)',
  'f32(a)',
  'f64(a)',
].map((expr): UncheckedDerivation => ({ op: 'map', inputs: { a: 'x', b: 'y' }, expr }))

const X = { x: 'x' }
const GRID = { x: 'grid' }
const REDUCTIONS = ['sum', 'prod', 'min', 'max', 'mean', 'var', 'any', 'all', 'count', 'argmin', 'argmax']

/** Over x and y [length], grid [length, 3], taps [4], places i32 [length]. */
const OTHERS: readonly UncheckedDerivation[] = [
  { op: 'copy', inputs: X },
  ...DTYPES.map((dtype) => ({ op: 'cast', inputs: X, dtype })),
  ...REDUCTIONS.flatMap((fn) => [
    { op: 'reduce', inputs: X, fn },
    { op: 'reduce', inputs: GRID, fn, axes: [0] },
    { op: 'reduce', inputs: GRID, fn, axes: [1] },
  ]),
  ...['sum', 'prod', 'min', 'max'].flatMap((fn) => [
    { op: 'scan', inputs: X, fn },
    { op: 'scan', inputs: GRID, fn, axis: 0 },
  ]),
  ...['sum', 'min', 'max', 'mean'].flatMap((fn) => [
    { op: 'window', inputs: X, fn, size: 3 },
    { op: 'window', inputs: GRID, fn, size: 33, axis: 0 },
  ]),
  ...[false, true].flatMap((flag) => [
    { op: 'sort', inputs: X, descending: flag },
    { op: 'sort', inputs: GRID, axis: 0, descending: flag },
    ...['indices', 'values'].flatMap((output) => [
      { op: 'topk', inputs: X, k: 5, output, largest: flag },
      { op: 'topk', inputs: GRID, k: 2, axis: 0, output, largest: flag },
    ]),
  ]),
  ...[0, 0.3, 0.5, 1].flatMap((q) => [
    { op: 'quantile', inputs: X, q },
    { op: 'quantile', inputs: GRID, q, axis: 0 },
  ]),
  ...['set', 'add', 'min', 'max'].map((merge) => ({
    op: 'scatter',
    inputs: { x: 'y', indices: 'places', values: 'x' },
    merge,
  })),
  { op: 'gather', inputs: { x: 'x', indices: 'places' } },
  { op: 'histogram', inputs: X, bins: 4, range: [-6, 6] },
  ...['plus_times', 'min_plus', 'max_plus', 'or_and'].map((semiring) => ({
    op: 'matmul',
    inputs: { a: 'x', b: 'grid' },
    semiring,
  })),
  ...['zero', 'wrap', 'edge'].map((boundary) => ({
    op: 'conv',
    inputs: { x: 'x', kernel: 'taps' },
    boundary,
  })),
  ...['dot', 'l2', 'cosine'].map((metric) => ({
    op: 'distance',
    inputs: { queries: 'turned', vectors: 'turned' },
    metric,
  })),
]

interface Page {
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly values: TypedArray
}

/** The values of all pages for one placement. */
function pagesOf(dtype: FloatDtype, length: number, placement: Placement): Record<string, Page> {
  const { view, sizeBytes } = DTYPE_INFO[dtype]
  const make = (count: number): TypedArray => view(new ArrayBuffer(count * sizeBytes), 0, count)
  const x = placed(dtype, length, placement)
  // As integers, so that the bits of NaN are kept.
  const words = ({ buffer }: TypedArray) =>
    (dtype === 'f32' ? new Uint32Array(buffer) : new BigUint64Array(buffer)) as Uint32Array
  const bits = words(x)
  const [y, grid, turned] = [make(length), make(length * COLUMNS), make(length * COLUMNS)]
  for (let i = 0; i < length; i++) {
    words(y)[(i + 1) % length] = bits[i]!
    for (let c = 0; c < COLUMNS; c++) {
      words(grid)[i * COLUMNS + c] = bits[(i + c * 5) % length]!
      words(turned)[c * length + i] = bits[(i + c * 5) % length]!
    }
  }
  const taps = make(4)
  taps.set([1, 0, -2, 0.5] as never)
  const places = Int32Array.from({ length }, (_, i) => (i * 5) % length)
  return {
    x: { dtype, shape: [length], values: x },
    y: { dtype, shape: [length], values: y },
    grid: { dtype, shape: [length, COLUMNS], values: grid },
    turned: { dtype, shape: [COLUMNS, length], values: turned },
    taps: { dtype, shape: [4], values: taps },
    places: { dtype: 'i32', shape: [length], values: places },
  }
}

interface Step {
  readonly derive: UncheckedDerivation
  readonly number: number
  readonly outId: number
  readonly out: Page
}

/** Of a long page, the reference computes the elements around the odd ones, and some others. */
function placesOf(length: number, { odd }: Placement): number[] {
  const near = odd.flatMap(([place]) => [place - 1, place, place + 1])
  const some = Array.from({ length: 20 }, (_, i) => i * 211)
  return [...new Set([...near, ...some, length - 1])].filter((place) => place >= 0 && place < length)
}

/** These elements of a page. */
function pick({ dtype, values }: Page, places: readonly number[]): Page {
  const picked = DTYPE_INFO[dtype].view(
    new ArrayBuffer(places.length * values.BYTES_PER_ELEMENT),
    0,
    places.length,
  )
  for (const [i, place] of places.entries()) picked[i] = values[place]! as never
  return { dtype, shape: [places.length], values: picked }
}

/** All steps over pages of one dtype and length. */
class Bench {
  readonly #context = new NativeContext({ backend: 'cpu', threads: 1, quotaBytes: 0 })
  readonly #names: readonly string[]
  readonly #steps: Step[]

  constructor(pages: Readonly<Record<string, Page>>, derivations: readonly UncheckedDerivation[]) {
    this.#names = Object.keys(pages)
    this.#create(1, Object.values(pages))
    const input = (name: string) => ({ id: this.#names.indexOf(name) + 1, ...pages[name]! })
    this.#steps = derivations.map((derive, i) => {
      const compiled = compileDerivation(derive, input, {})
      const outId = this.#names.length + 1 + i
      const { view, sizeBytes } = DTYPE_INFO[compiled.dtype]
      const count = elementCount(compiled.shape)
      const out = { ...compiled, values: view(new ArrayBuffer(count * sizeBytes), 0, count) }
      this.#create(outId, [out])
      const number = this.#context.createStep({
        opCode: compiled.opCode,
        opVersion: compiled.opVersion,
        outPage: outId,
        inputPages: compiled.inputs.map(({ id }) => id),
        params: compiled.params,
      })
      return { derive, number, outId, out }
    })
    this.#context.execute(
      Uint32Array.from(this.#steps, ({ number }) => fullStep(number)),
      new Uint8Array(0),
    )
  }

  #create(firstId: number, pages: readonly Page[]): void {
    const described = pages.map(({ dtype, shape }, i) => ({
      id: firstId + i,
      dtypeCode: DTYPE_INFO[dtype].code,
      shape,
      location: 1,
      fill: 0n,
    }))
    this.#context.createPages(described)
  }

  /**
   * Writes these pages, computes what that changes, then everything; what differs from the reference. With
   * `places` only these elements are compared.
   */
  problems(pages: Readonly<Record<string, Page>>, places?: readonly number[]): string[] {
    const writer = new FrameWriter({})
    for (const [i, name] of this.#names.entries()) {
      const { dtype, values } = pages[name]!
      writer.delta(i + 1, dtype, values.length, { offset: 0, values })
    }
    const wanted = this.#steps.map(({ derive }) => wantedOf(derive, pages, places))
    const compare = (): string[] =>
      this.#steps.flatMap(({ derive, outId, out }, i) => {
        if (out.values.length > 0) this.#context.readPage(outId, 0, out.values)
        return difference(derive, places === undefined ? out : pick(out, places), wanted[i]!)
      })
    const steps = Uint32Array.from(this.#steps, ({ number }) => number)
    this.#context.execute(steps, writer.finish())
    const inPart = compare().map((text) => `in part: ${text}`)
    this.#context.execute(steps.map(fullStep), new Uint8Array(0))
    return [...inPart, ...compare()]
  }

  close(): void {
    this.#context.close()
  }
}

/** What the reference gives. */
function wantedOf(
  derive: UncheckedDerivation,
  pages: Readonly<Record<string, Page>>,
  places: readonly number[] | undefined,
): readonly (number | bigint)[] {
  const inputs = Object.entries(derive.inputs as Record<string, string>).map(([role, name]) => {
    return [role, places === undefined ? pages[name]! : pick(pages[name]!, places)] as const
  })
  return referenceEval(derive, Object.fromEntries(inputs)).values
}

function difference(
  derive: UncheckedDerivation,
  { dtype, values }: Page,
  wanted: readonly (number | bigint)[],
): string[] {
  const at = wanted.findIndex((value, i) => !sameElement(values[i]!, value))
  if (at >= 0) return [`${JSON.stringify(derive)}: element ${at} is ${values[at]}, should be ${wanted[at]}`]
  if (dtype !== 'f32' && dtype !== 'f64') return []
  const odd = bitsOf(dtype, values).find((bits, i) => Number.isNaN(values[i]) && bits !== ONE_NAN[dtype])
  return odd === undefined ? [] : [`${JSON.stringify(derive)}: a NaN has the bits ${odd.toString(16)}`]
}

for (const dtype of ['f32', 'f64'] as const) {
  for (const length of [...ODD_LENGTHS, LONG_LENGTH]) {
    t.test(`${dtype}, ${length} elements`, async (t) => {
      const isLong = length === LONG_LENGTH
      // The placements of each length have other places, so no kind is left out everywhere.
      const every = length > 100 && !isLong ? 23 : 2
      const list = placements(length).filter((_, i) => (i + length) % every === 0)
      const derivations = isLong ? EXPRESSIONS : [...EXPRESSIONS, ...OTHERS]
      const bench = new Bench(pagesOf(dtype, length, list[0]!), derivations)
      t.teardown(() => bench.close())
      for (const placement of list) {
        const places = isLong ? placesOf(length, placement) : undefined
        const problems = bench.problems(pagesOf(dtype, length, placement), places)
        t.same(problems.slice(0, 5), [], JSON.stringify(placement))
      }
    })
  }
}
