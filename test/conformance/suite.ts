/**
 * The conformance suite: two buses get the same definitions and transactions, and after every epoch they must
 * have the same bytes, changed ranges and digests. With the CPU against CUDA it proves that both backends
 * compute the same bits; with one thread against several, that the number of threads does not matter. It uses
 * no test framework, so that it also runs from a bundle on a machine without one.
 */

import type {
  BusOptions,
  CommitEvent,
  Derivation,
  TransactionInput,
  WhatIfResult,
} from '../../src/engine/types.js'
import { MmsbError } from '../../src/errors.js'
import { Bus } from '../../src/index.js'
import { DTYPE_INFO, DTYPES, type Dtype } from '../../src/wire/dtype.js'
import { Draw, type PageSketch } from '../lib/draw.js'
import { type FloatDtype, placed, placements } from '../lib/odd-numbers.js'
import { drawDelta, drawDerivation, drawSources } from '../property/random.js'
import { OP_RECORDS } from '../reference/records.js'

/** Lengths around every block size that kernels use, and one that fills a device. */
export const LENGTHS = [0, 1, 2, 31, 32, 33, 255, 256, 257, 1023, 1024, 1025, 4097, 65_537]
export const LARGE_LENGTH = 1_000_003
/** Odd numbers are placed in pages up to this length. */
const ODD_LENGTH_MAX = 2_000

export interface Outcome {
  readonly name: string
  /** The differences; empty when both sides agree. */
  readonly problems: readonly string[]
}

interface Pair {
  readonly left: Bus
  readonly right: Bus
  readonly events: { left: CommitEvent[]; right: CommitEvent[] }
}

async function openPair(left: BusOptions, right: BusOptions): Promise<Pair> {
  const pair: Pair = {
    left: await Bus.open(left),
    right: await Bus.open(right),
    events: { left: [], right: [] },
  }
  pair.left.onCommit((event) => pair.events.left.push(event))
  pair.right.onCommit((event) => pair.events.right.push(event))
  return pair
}

async function closePair({ left, right }: Pair): Promise<void> {
  await left.close()
  await right.close()
}

/** Makes the same call on both. Both must succeed, or fail with the same code, which is returned. */
async function both<T>(pair: Pair, call: (bus: Bus) => Promise<T>): Promise<T | MmsbError> {
  const [left, right] = await Promise.allSettled([call(pair.left), call(pair.right)])
  if (left.status === 'fulfilled' && right.status === 'fulfilled') return left.value
  if (left.status === 'rejected' && right.status === 'rejected') {
    const isSame = left.reason instanceof MmsbError && right.reason instanceof MmsbError
    if (isSame && left.reason.code === right.reason.code) return left.reason
  }
  const failed = left.status === 'rejected' ? left.reason : (right as PromiseRejectedResult).reason
  throw new Error(`only one side failed: ${String(failed)}`, { cause: failed })
}

const show = (event: CommitEvent): string =>
  event.changes.map((change) => `${change.page} ${change.kind} [${change.ranges.join(',')}]`).join('; ')

function compare(pair: Pair, where: string, problems: string[]): void {
  const { left, right } = pair
  for (const name of left.pageNames()) {
    const a = left.read(name)
    const b = right.read(name)
    const bytes = (values: typeof a): Buffer =>
      Buffer.from(values.buffer, values.byteOffset, values.byteLength)
    if (bytes(a).equals(bytes(b))) continue
    const at = a.findIndex((value, i) => !Object.is(value, b[i]))
    problems.push(`${where}: page ${name} differs at element ${at}: ${String(a[at])} and ${String(b[at])}`)
  }
  if (left.status().digest !== right.status().digest) problems.push(`${where}: digests differ`)
  const events = [pair.events.left.splice(0), pair.events.right.splice(0)] as const
  const texts = events.map((list) => list.map(show).join('\n'))
  if (texts[0] !== texts[1]) problems.push(`${where}: events differ:\n${texts[0]}\n${texts[1]}`)
}

/** A what-if answers the same on both sides and leaves everything as it was. */
async function compareTrial(
  pair: Pair,
  op: TransactionInput['ops'][number],
  problems: string[],
): Promise<void> {
  const read = ['x', 'total', 'ordered', 'product']
  const ask = (bus: Bus): Promise<WhatIfResult> => bus.whatIf({ ops: [op], read })
  const texts = await Promise.all(
    [pair.left, pair.right].map(async (bus) =>
      Object.entries((await ask(bus)).pages)
        .map(([name, page]) => `${name} v${page.version} [${page.values}]`)
        .join('; '),
    ),
  )
  if (texts[0] !== texts[1]) problems.push(`what if: ${texts[0]} and ${texts[1]}`)
  compare(pair, 'after what-if', problems)
}

/** Zeros of both signs, infinities and NaN in x and grid: one placement of each kind. */
async function compareOdd(pair: Pair, dtype: FloatDtype, length: number, problems: string[]): Promise<void> {
  if (length < 2 || length > ODD_LENGTH_MAX) return
  const kinds = new Map(placements(length).map((place) => [place.odd.map(([, odd]) => odd).join(), place]))
  for (const [i, [kind, placement]] of [...kinds].entries()) {
    // Two zeros are told apart by their order alone, which depends on the direction of a sort.
    const isBoth = kind === '+0,-0' || kind === '-0,+0'
    for (const page of isBoth ? ['x', 'grid'] : [i % 2 === 0 ? 'x' : 'grid']) {
      const values = placed(dtype, page === 'x' ? length : length * 3, placement)
      await both(pair, (bus) => bus.write(page, values))
      compare(pair, `${page} ${JSON.stringify(placement)}`, problems)
    }
  }
}

/** Each op over every dtype and length: a full compute, then small changes. */
export async function* opCases(
  left: BusOptions,
  right: BusOptions,
  lengths: readonly number[],
): AsyncGenerator<Outcome> {
  for (const dtype of DTYPES) {
    for (const length of lengths) yield await opCase(left, right, dtype, length)
  }
}

async function opCase(left: BusOptions, right: BusOptions, dtype: Dtype, length: number): Promise<Outcome> {
  const draw = new Draw(length * 16 + DTYPE_INFO[dtype].code)
  const pair = await openPair(left, right)
  const problems: string[] = []
  try {
    const columns = 3
    const pages: PageSketch[] = [
      { name: 'x', dtype, shape: [length] },
      { name: 'grid', dtype, shape: [length, columns] },
      { name: 'weights', dtype, shape: [columns, 5] },
      { name: 'taps', dtype, shape: [4] },
      { name: 'places', dtype: 'i32', shape: [length] },
    ]
    for (const { name, dtype, shape } of pages) await both(pair, (bus) => bus.create(name, { dtype, shape }))
    for (const [, record] of OP_RECORDS) {
      for (const [name, derive] of record.conformance(dtype, length))
        await both(pair, (bus) => bus.derive(name, derive as Derivation))
    }
    compare(pair, 'zeros', problems)
    for (const { name, dtype, shape } of pages) {
      const values = draw.values(
        dtype,
        shape.reduce((product, size) => product * size, 1),
      )
      await both(pair, (bus) => bus.write(name, values))
    }
    compare(pair, 'filled', problems)
    for (let i = 0; i < 6 && length > 0; i++) {
      const page = draw.pick(pages)
      const delta = drawDelta(draw, page)
      if (i === 0) await compareTrial(pair, { page: page.name, ...delta }, problems)
      await both(pair, (bus) => bus.patch(page.name, delta))
      compare(pair, `change ${i}`, problems)
    }
    if (dtype === 'f32' || dtype === 'f64') await compareOdd(pair, dtype, length, problems)
  } finally {
    await closePair(pair)
  }
  return { name: `${dtype}, ${length} elements`, problems }
}

/** One page over many chunks. Changes: all of it, a part of most chunks, the ends of runs, nothing. */
export async function chunksCase(left: BusOptions, right: BusOptions): Promise<Outcome> {
  const elements = 200_003
  const pair = await openPair(left, right)
  const problems: string[] = []
  try {
    await both(pair, (bus) => bus.create('x', { dtype: 'f32', shape: [elements] }))
    await both(pair, (bus) => bus.derive('y', { op: 'map', inputs: { x: 'x' }, expr: 'x * 2' }))
    const every = (step: number): number[] =>
      Array.from({ length: Math.ceil(elements / step) }, (_, i) => i * step)
    const fill = (value: number): Float32Array => new Float32Array(elements).fill(value)
    const deltas = [
      { offset: 0, values: fill(1) },
      { indices: every(1_500), values: every(1_500).map((i) => i + 1) },
      { offset: 0, values: fill(1) },
      { offset: 1_000, values: fill(3).subarray(0, 150_001) },
      { offset: 1_000, values: fill(3).subarray(0, 150_001) },
    ]
    for (const [i, delta] of deltas.entries()) {
      await both(pair, (bus) => bus.patch('x', delta))
      compare(pair, `change ${i}`, problems)
    }
  } finally {
    await closePair(pair)
  }
  return { name: 'a page over many chunks', problems }
}

/** Random graphs and transactions, as in the engine's property test. */
export async function graphCase(left: BusOptions, right: BusOptions, seed: number): Promise<Outcome> {
  const draw = new Draw(seed)
  const pair = await openPair(left, right)
  const problems: string[] = []
  try {
    const pages: PageSketch[] = drawSources(draw, draw.int(1, 4))
    const sources = [...pages]
    for (const { name, dtype, shape } of sources)
      await both(pair, (bus) => bus.create(name, { dtype, shape }))
    for (let i = 0; i < 15; i++) {
      const derive = drawDerivation(draw, pages)
      if (derive === undefined) continue
      const made = await both(pair, (bus) => bus.derive(`d${i}`, derive))
      if (!(made instanceof MmsbError))
        pages.push({ name: `d${i}`, dtype: made.page.dtype, shape: made.page.shape, derive })
    }
    for (let epoch = 0; epoch < 8; epoch++) {
      const ops = Array.from({ length: draw.int(1, 4) }, () => {
        const page = draw.pick(sources)
        return { page: page.name, ...drawDelta(draw, page) }
      })
      await both(pair, (bus) => bus.transact({ ops }))
      compare(pair, `epoch ${epoch}`, problems)
      if (problems.length > 0) break
    }
  } finally {
    await closePair(pair)
  }
  return { name: `random graph ${seed}`, problems }
}
