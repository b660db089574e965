/** Random draws for tests. Everything comes from one seed, so a failure can be run again. */

import type { Derivation } from '../../src/state/types.js'
import { DTYPE_INFO, type Dtype, type TypedArray } from '../../src/wire/dtype.js'

/** A page of a random graph, as far as definitions over it need to know it. */
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

  /** `source`: a seed, or numbers from 0 up to 1. */
  constructor(source: number | (() => number)) {
    this.#next = typeof source === 'number' ? randomSource(source) : source
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

  /**
   * A value of the dtype that JSON and typed arrays can both hold; floats get their odd values now and then.
   */
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

/** Draws whole numbers below a bound, the same ones for the same seed. */
export function randomFrom(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff
    return (state >> 8) % below
  }
}
