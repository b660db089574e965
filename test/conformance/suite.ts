/**
 * The conformance suite: two buses, the same definitions and transactions, and after every epoch the same bytes, the same
 * changed ranges and the same digests. Run with the CPU beside CUDA it proves that both backends compute the same bits;
 * run with one thread beside several it proves that threads do not matter. Uses no test framework, so that it also runs
 * from a bundle on a machine that has none.
 */
import { Bus } from '../../src/engine/bus.js'
import type { WhatIfResult } from '../../src/engine/commit/what-if.js'
import type { BusOptions, CommitEvent, TransactionInput } from '../../src/engine/types.js'
import { MmsbError } from '../../src/errors.js'
import type { Derivation } from '../../src/state/types.js'
import { DTYPE_INFO, DTYPES, type Dtype } from '../../src/wire/dtype.js'
import { Draw, drawDelta, drawDerivation, drawSources, type PageSketch } from '../engine/property/random.js'

/** Lengths around every block size that kernels use, and one that fills a device. */
export const LENGTHS = [0, 1, 2, 31, 32, 33, 255, 256, 257, 1023, 1024, 1025, 4097, 65_537]
export const LARGE_LENGTH = 1_000_003

export interface Outcome {
  readonly name: string
  /** Empty when both sides agree. */
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

/** The same call on both; both succeed, or both fail with the same code, which is returned. */
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

/** What would be is the same on both sides, and afterwards everything is as it was. */
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

/** Op by op: every dtype and length, a full compute and then small changes. */
export async function* opCases(
  left: BusOptions,
  right: BusOptions,
  lengths: readonly number[],
): AsyncGenerator<Outcome> {
  for (const dtype of DTYPES) {
    for (const length of lengths) yield await opCase(left, right, dtype, length)
  }
}

function derivationsOver(dtype: Dtype, length: number): [string, Derivation][] {
  const isFloat = DTYPE_INFO[dtype].kind === 'float'
  const x = { x: 'x' }
  const list: [string, Derivation][] = [
    ['copied', { op: 'copy', inputs: x }],
    [
      'mapped',
      { op: 'map', inputs: { a: 'x', b: 'x' }, expr: isFloat ? 'exp(a / 1000) * b - 1' : 'a * b - a // 3' },
    ],
    ['maths', { op: 'map', inputs: { a: 'x' }, expr: 'sin(f64(a)) + log(abs(f64(a)) + 1) * tanh(f32(a))' }],
    ['total', { op: 'reduce', inputs: x, fn: 'sum' }],
    ['rows', { op: 'reduce', inputs: { x: 'grid' }, fn: 'mean', axes: [1] }],
    ['columns', { op: 'reduce', inputs: { x: 'grid' }, fn: 'var', axes: [0] }],
    ['product', { op: 'matmul', inputs: { a: 'grid', b: 'weights' } }],
    ['running', { op: 'scan', inputs: x, fn: 'sum', axis: 0 }],
    ['peaks', { op: 'scan', inputs: { x: 'grid' }, fn: 'max', axis: 0 }],
    ['smooth', { op: 'window', inputs: x, fn: 'mean', size: 5 }],
    ['lows', { op: 'window', inputs: { x: 'grid' }, fn: 'min', size: 33, axis: 0 }],
    ['ordered', { op: 'sort', inputs: x, descending: true }],
    ['sorted', { op: 'sort', inputs: { x: 'grid' }, axis: 0 }],
    ['blurred', { op: 'conv', inputs: { x: 'grid', kernel: 'weights' }, boundary: 'edge' }],
    ['filtered', { op: 'conv', inputs: { x: 'x', kernel: 'taps' }, boundary: 'wrap' }],
    ['turned', { op: 'transpose', inputs: { x: 'grid' } }],
    ['flat', { op: 'reshape', inputs: { x: 'grid' }, shape: [-1] }],
    ['backward', { op: 'slice', inputs: { x: 'grid' }, start: [null, 0], stop: [null, 2], step: [-2, 1] }],
    ['both', { op: 'concat', inputs: { a: 'x', b: 'flat' } }],
    ['picked', { op: 'gather', inputs: { x: 'grid', indices: 'places' }, axis: 0 }],
    ['placed', { op: 'scatter', inputs: { x: 'x', indices: 'places', values: 'x' }, merge: 'add' }],
    ['spread', { op: 'histogram', inputs: x, bins: 7, range: [-50, 50] }],
    ['few', { op: 'slice', inputs: { x: 'grid' }, stop: [4] }],
    ['far', { op: 'distance', inputs: { queries: 'grid', vectors: 'few' }, metric: 'cosine' }],
    ['near', { op: 'distance', inputs: { queries: 'few', vectors: 'grid' }, metric: 'l2' }],
    ['along', { op: 'distance', inputs: { queries: 'few', vectors: 'grid' }, metric: 'dot' }],
    ['paths', { op: 'matmul', inputs: { a: 'grid', b: 'weights' }, semiring: 'min_plus' }],
    ['sums', { op: 'window', inputs: x, fn: 'sum', size: 300 }],
    ['highs', { op: 'window', inputs: { x: 'grid' }, fn: 'max', size: 100, axis: 0 }],
    ['growth', { op: 'scan', inputs: { x: 'grid' }, fn: 'prod', axis: 1 }],
    ['least', { op: 'scan', inputs: x, fn: 'min', axis: 0 }],
    ['chosen', { op: 'gather', inputs: { x: 'x', indices: 'places' }, axis: 0 }],
    ['rowsSet', { op: 'scatter', inputs: { x: 'grid', indices: 'places', values: 'grid' }, merge: 'set' }],
    ['tally', { op: 'bincount', inputs: { x: 'places' }, length: 50 }],
  ]
  if (length > 0) {
    list.push(
      ['highest', { op: 'reduce', inputs: x, fn: 'argmax' }],
      ['median', { op: 'quantile', inputs: x, q: 0.5 }],
      ['low', { op: 'quantile', inputs: { x: 'grid' }, q: 0.05, axis: 0 }],
      ['top', { op: 'topk', inputs: x, k: Math.min(length, 7), axis: 0, output: 'indices', largest: true }],
      [
        'best',
        {
          op: 'topk',
          inputs: { x: 'grid' },
          k: Math.min(length, 40),
          axis: 0,
          output: 'values',
          largest: true,
        },
      ],
      ['bottom', { op: 'topk', inputs: { x: 'grid' }, k: 2, axis: 1, output: 'values', largest: false }],
    )
  }
  return list
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
    for (const [name, derive] of derivationsOver(dtype, length))
      await both(pair, (bus) => bus.derive(name, derive))
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
  } finally {
    await closePair(pair)
  }
  return { name: `${dtype}, ${length} elements`, problems }
}

/** One page over many chunks: all of it changes, some of most chunks, ends of runs, and nothing. */
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
