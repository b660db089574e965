/**
 * Random graphs over the op catalogue and random transactions, for property tests of the engine. Everything comes from one
 * seed, so a failure can be run again.
 */

import type { DeltaInput, Derivation } from '../../../src/state/types.js'
import { DTYPE_INFO, DTYPES, type Dtype, type TypedArray } from '../../../src/wire/dtype.js'
import type { Merge } from '../../../src/wire/page.js'

export interface PageSketch {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly derive?: Derivation
  /** The cast that the definition asks for. */
  readonly asked?: Dtype
}

/** mulberry32: small, seeded, good enough to draw tests. */
export function randomSource(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

export class Draw {
  readonly #next: () => number

  constructor(seed: number) {
    this.#next = randomSource(seed)
  }

  /** An integer in [from, to]. */
  int(from: number, to: number): number {
    return from + Math.floor(this.#next() * (to - from + 1))
  }

  chance(probability: number): boolean {
    return this.#next() < probability
  }

  pick<T>(list: readonly T[]): T {
    return list[this.int(0, list.length - 1)] as T
  }

  /** A value of the dtype that JSON and typed arrays can both hold; floats get their odd values now and then. */
  value(dtype: Dtype): number | bigint {
    const { kind, min, max } = DTYPE_INFO[dtype]
    if (kind === 'bool') return this.int(0, 1)
    if (kind === 'float') {
      if (this.chance(0.04)) return this.pick([Number.NaN, Infinity, -Infinity, -0, 0, 1e-40, 3e38])
      const value = (this.#next() - 0.5) * 10 ** this.int(-2, 4)
      return dtype === 'f32' ? Math.fround(value) : value
    }
    const extreme = this.chance(0.05)
    const value = extreme
      ? this.pick([min as bigint, max as bigint])
      : BigInt(this.int(kind === 'signed' ? -100 : 0, 100))
    return dtype === 'u64' || dtype === 'i64' ? value : Number(value)
  }

  values(dtype: Dtype, count: number): TypedArray {
    const out = DTYPE_INFO[dtype].view(new ArrayBuffer(count * DTYPE_INFO[dtype].sizeBytes), 0, count)
    for (let i = 0; i < count; i++) out[i] = this.value(dtype) as never
    return out
  }

  shape(): number[] {
    const rank = this.pick([0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4, 8])
    const sizes = rank > 3 ? [1, 1, 2, 3] : [1, 2, 3, 5, 8, 17, 33, 64]
    return Array.from({ length: rank }, () => this.pick(sizes))
  }
}

const elementsOf = (shape: readonly number[]): number => shape.reduce((product, size) => product * size, 1)

/** Source pages of all dtypes. */
export function drawSources(draw: Draw, count: number): PageSketch[] {
  return Array.from({ length: count }, (_, i) => ({
    name: `s${i}`,
    dtype: draw.pick(DTYPES),
    shape: draw.shape(),
  }))
}

const REDUCE_ANY = ['sum', 'prod', 'min', 'max', 'mean', 'var', 'any', 'all', 'count', 'argmin', 'argmax']
const LEAVES = [
  'a',
  'a',
  'b',
  '1',
  '3',
  '0.5',
  '-7',
  'f64(a)',
  'f32(a)',
  'i32(a)',
  'u8(a)',
  'i64(b)',
  'bool(a)',
]
const FORMS = [
  '{} + {}',
  '{} - {}',
  '{} * {}',
  '{} / {}',
  'i32({}) // {}',
  '{} % 7',
  '-{}',
  'abs({})',
  'sign({})',
  'sqrt(abs({}))',
  'floor({})',
  'round({})',
  'where({} > 3, {}, -{})',
  '{} if {} <= {} else {}',
  'not ({} and {})',
  'clamp({}, 0, 50)',
  'min({}, {})',
  'max({}, {}, 2)',
  'isnan(f64({}))',
  'fma(f64({}), {}, {})',
  'bitand(i32({}), i32({}))',
  'bitxor(u16({}), u16({}))',
  'shl(i32({}), 3)',
  'shr(i64({}), u8({}))',
  'i16({}) ** 2',
  'f64({})',
  'f32({})',
  'i8({})',
]
/** What JavaScript rounds in its own way: these come last, so that their error is the whole error. */
const INEXACT_FORMS = ['exp', 'log', 'log2', 'sin', 'cos', 'tan', 'tanh'].map((name) => `${name}({})`)

const fill = (form: string, part: () => string): string => form.replace(/\{\}/g, part)

function drawExact(draw: Draw, depth: number): string {
  if (depth === 0 || draw.chance(0.2)) return draw.pick(LEAVES)
  return `(${fill(draw.pick(FORMS), () => drawExact(draw, depth - 1))})`
}

/** An expression over `a` and `b`; it need not compile. */
export function drawExpression(draw: Draw): string {
  const inner = drawExact(draw, draw.int(1, 3))
  if (!draw.chance(0.2)) return inner
  const form = draw.chance(0.2) ? `abs({}) ** 1.5` : draw.pick(INEXACT_FORMS)
  return fill(form, () => `${draw.pick(['f32', 'f64'])}(${inner})`)
}

/** A derivation of some existing pages, or undefined when the draw does not fit them. */
export function drawDerivation(draw: Draw, pages: readonly PageSketch[]): Derivation | undefined {
  const x = draw.pick(pages)
  const one = { x: x.name }
  const axis = x.shape.length === 0 ? undefined : draw.int(-x.shape.length, x.shape.length - 1)
  switch (draw.int(0, 16)) {
    case 0:
    case 1:
    case 2: {
      const b = draw.chance(0.4) ? draw.pick(pages) : x
      return { op: 'map', inputs: { a: x.name, b: b.name }, expr: drawExpression(draw) }
    }
    case 3: {
      const derive: Record<string, unknown> = { op: 'reduce', inputs: one, fn: draw.pick(REDUCE_ANY) }
      if (axis !== undefined && draw.chance(0.6)) derive.axes = [axis]
      if (draw.chance(0.3)) derive.keepdims = true
      return derive as Derivation
    }
    case 4: {
      const fitting = pages.filter((page) => page.shape.length > 0 && page.shape.at(-2) === x.shape.at(-1))
      if (fitting.length === 0) return undefined
      const semiring = draw.pick(['plus_times', 'min_plus', 'max_plus', 'or_and'])
      return { op: 'matmul', inputs: { a: x.name, b: draw.pick(fitting).name }, semiring }
    }
    case 5:
      return {
        op: 'quantile',
        inputs: one,
        q: draw.pick([0, 0.05, 0.5, 0.77, 1]),
        ...(axis === undefined ? {} : { axis }),
      }
    case 6:
      if (axis === undefined) return undefined
      return {
        op: 'topk',
        inputs: one,
        k: draw.int(1, x.shape.at(axis) as number),
        axis,
        output: draw.pick(['indices', 'values']),
        largest: draw.chance(0.5),
      }
    case 7:
      return draw.chance(0.4)
        ? { op: 'copy', inputs: one }
        : { op: 'cast', inputs: one, dtype: draw.pick(DTYPES) }
    case 8:
      return {
        op: 'transpose',
        inputs: one,
        ...(draw.chance(0.5) ? {} : { axes: drawOrder(draw, x.shape.length) }),
      }
    case 9:
      return { op: 'reshape', inputs: one, shape: draw.chance(0.5) ? [-1] : [1, ...[...x.shape].reverse()] }
    case 10:
      return drawSlice(draw, x)
    default:
      return axis === undefined ? undefined : drawAlongAxis(draw, x, axis, pages)
  }
}

/** The axes in some order, some of them counted from the end. */
function drawOrder(draw: Draw, rank: number): number[] {
  const left = Array.from({ length: rank }, (_, axis) => axis)
  return Array.from({ length: rank }, () => {
    const [axis = 0] = left.splice(draw.int(0, left.length - 1), 1)
    return draw.chance(0.3) ? axis - rank : axis
  })
}

function drawSlice(draw: Draw, x: PageSketch): Derivation {
  const bound = (size: number): number | null => (draw.chance(0.4) ? null : draw.int(-size - 1, size + 1))
  return {
    op: 'slice',
    inputs: { x: x.name },
    start: x.shape.map(bound),
    stop: x.shape.map(bound),
    step: x.shape.map(() => draw.pick([1, 1, 2, -1, -3])),
  }
}

const isInteger = ({ dtype }: PageSketch): boolean => /^[ui]/.test(dtype)

/** The ops that need an axis. */
function drawAlongAxis(
  draw: Draw,
  x: PageSketch,
  axis: number,
  pages: readonly PageSketch[],
): Derivation | undefined {
  const one = { x: x.name }
  switch (draw.int(0, 7)) {
    case 0:
      return { op: 'scan', inputs: one, fn: draw.pick(['sum', 'prod', 'min', 'max']), axis }
    case 1:
      return {
        op: 'window',
        inputs: one,
        fn: draw.pick(['sum', 'min', 'max', 'mean']),
        size: draw.pick([1, 2, 3, 5, 6, 40]),
        axis,
      }
    case 2:
      return { op: 'sort', inputs: one, axis, descending: draw.chance(0.5) }
    case 3: {
      const small = pages.filter(({ shape }) => shape.length > 0 && elementsOf(shape) <= 64)
      const kernel = small.length === 0 ? undefined : draw.pick(small)
      if (kernel === undefined) return undefined
      const boundary = draw.pick(['zero', 'wrap', 'edge'])
      return { op: 'conv', inputs: { x: x.name, kernel: kernel.name }, boundary }
    }
    case 4: {
      const integers = pages.filter(isInteger)
      if (integers.length === 0) return undefined
      const indices = draw.pick(integers).name
      if (draw.chance(0.5)) return { op: 'gather', inputs: { x: x.name, indices }, axis }
      const values = draw.pick(pages).name
      const merge = draw.pick(['set', 'set', 'add', 'min', 'max', 'and', 'or', 'xor'])
      return { op: 'scatter', inputs: { x: x.name, indices, values }, axis, merge }
    }
    case 5: {
      const alike = pages.filter(({ shape }) => shape.length === x.shape.length)
      return { op: 'concat', inputs: { a: x.name, b: draw.pick(alike).name, c: x.name }, axis }
    }
    case 6:
      return draw.chance(0.5)
        ? { op: 'bincount', inputs: one, length: draw.pick([1, 10, 101]) }
        : { op: 'histogram', inputs: one, bins: draw.pick([1, 7, 50]), range: [-100, 100] }
    default: {
      const fitting = pages.filter(({ shape }) => shape.length === 2 && shape[1] === x.shape.at(-1))
      if (fitting.length === 0) return undefined
      const metric = draw.pick(['dot', 'l2', 'cosine'])
      return { op: 'distance', inputs: { queries: x.name, vectors: draw.pick(fitting).name }, metric }
    }
  }
}

const MERGES_FLOAT: readonly Merge[] = ['set', 'set', 'add', 'min', 'max']
const MERGES_INTEGER: readonly Merge[] = [...MERGES_FLOAT, 'and', 'or', 'xor']

/** A delta that fits the page: dense, sparse or masked. */
export function drawDelta(draw: Draw, page: PageSketch): DeltaInput {
  const elements = elementsOf(page.shape)
  const merge = draw.pick(DTYPE_INFO[page.dtype].kind === 'float' ? MERGES_FLOAT : MERGES_INTEGER)
  const kind = draw.int(0, 2)
  if (kind === 0) {
    const offset = draw.int(0, elements - 1)
    const count = draw.chance(0.1) ? elements - offset : draw.int(1, Math.min(elements - offset, 8))
    return { offset, values: draw.values(page.dtype, count), merge }
  }
  if (kind === 1) {
    const indices = Array.from({ length: draw.int(1, 6) }, () => draw.int(0, elements - 1))
    return { indices, values: draw.values(page.dtype, indices.length), merge }
  }
  const mask = new Uint8Array(Math.ceil(elements / 8))
  let bits = 0
  for (let i = 0; i < elements; i++) {
    if (!draw.chance(0.1)) continue
    mask[i >> 3] = (mask[i >> 3] as number) | (1 << (i & 7))
    bits++
  }
  return { mask, values: draw.values(page.dtype, bits), merge }
}
