/**
 * Random graphs over the op catalogue and random transactions, for property tests of the engine. Everything comes from one
 * seed, so a failure can be run again.
 */

import { DTYPE_INFO, DTYPES, type Dtype, type TypedArray } from '../../src/state/dtype.js'
import type { DeltaInput, Derivation, Merge } from '../../src/state/types.js'

export interface PageSketch {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly derive?: Derivation
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
    const rank = this.pick([0, 1, 1, 2, 2, 2, 3])
    return Array.from({ length: rank }, () => this.pick([1, 2, 3, 5, 8, 17, 33, 64]))
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
const EXPRESSIONS_ONE = [
  'a+1',
  '-a',
  'a*a',
  'abs(a)',
  'sign(a)',
  'f64(a)/3',
  'i32(a) % 7',
  'f32(a) * 0.5',
  'where(a > 3, a, -a)',
  'sqrt(abs(f64(a)))',
  'exp(f32(a) / 100)',
  'clamp(a, 0, 50)',
  'i16(a) // 3',
  'isnan(f64(a))',
  'tanh(f64(a)) + 1',
  'u8(a)',
]
const EXPRESSIONS_TWO = [
  'f64(a)+f64(b)',
  'f32(a)*f32(b)',
  'min(f64(a), f64(b))',
  'i64(a) - i64(b)',
  'f64(a) < f64(b)',
  'i32(a) & i32(b)',
]

/** A derivation of some existing pages, or undefined when the draw does not fit them. */
export function drawDerivation(draw: Draw, pages: readonly PageSketch[]): Derivation | undefined {
  const x = draw.pick(pages)
  const one = { x: x.name }
  const axis = x.shape.length === 0 ? undefined : draw.int(-x.shape.length, x.shape.length - 1)
  switch (draw.int(0, 7)) {
    case 0:
    case 1:
      return { op: 'map', inputs: { a: x.name }, expr: draw.pick(EXPRESSIONS_ONE) }
    case 2: {
      const b = draw.pick(pages)
      const expr = draw.pick(EXPRESSIONS_TWO).replace('i32(a) & i32(b)', 'bitand(i32(a), i32(b))')
      return { op: 'map', inputs: { a: x.name, b: b.name }, expr }
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
    default:
      return { op: draw.pick(['copy', 'cast']), inputs: one }
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
