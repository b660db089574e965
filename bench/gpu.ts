/**
 * Kernels over large pages on a GPU, beside the device's own copy: one JSON line per row on standard output,
 * as bench/main.ts writes them. Run from the offline bundle: `gpu.js [bytes of a page]`, with the copy's GB/s
 * in MMSB_COPY_GBPS (scripts/gpu-copy.cu) and CuPy's figures, if any, as JSON in MMSB_CUPY
 * (scripts/gpu-cupy.py).
 *
 * A row counts the bytes that its op must read and write. MMSB also reads the old bytes to compare them, and
 * hashes what changed; that work is not counted.
 */
import { performance } from 'node:perf_hooks'
import { deviceCount } from '../src/ffi/library.js'
import { Bus } from '../src/index.js'
import type { Derivation } from '../src/state/types.js'
import { machineFacts } from './lib/machine.js'
import type { Result } from './lib/types.js'

const BUDGET = 0.85
const ROUNDS = 9

const pageBytes = Number(process.argv[2] ?? 2 ** 30)
const elements = Math.floor(pageBytes / 4)
const copyGbps = Number(process.env.MMSB_COPY_GBPS ?? 0)
const cupy = JSON.parse(process.env.MMSB_CUPY ?? '{}') as Record<string, number>

interface Row {
  readonly name: string
  /** How many pages of `pageBytes` are read and written. */
  readonly passes: number
  readonly derive: Readonly<Record<string, Derivation>>
  /** What each round changes: the factor, or one element of the page. */
  readonly change: 'factor' | 'element'
}

const scaled: Derivation = { op: 'map', inputs: { a: 'x', k: 'factor' }, expr: 'a * k' }
const chain = 'sqrt(abs(a * k + 1)) - min(a, k) * 0.5 + max(a - k, 0) / 3'
const ROWS: readonly Row[] = [
  { name: 'map, one operation', passes: 2, change: 'factor', derive: { y: scaled } },
  {
    name: 'map, eight operations',
    passes: 2,
    change: 'factor',
    derive: { y: { op: 'map', inputs: { a: 'x', k: 'factor' }, expr: chain } },
  },
  {
    name: 'map and copy',
    passes: 4,
    change: 'factor',
    derive: { y: scaled, z: { op: 'copy', inputs: { x: 'y' } } },
  },
  {
    name: 'compare: nothing changes',
    passes: 2,
    change: 'factor',
    derive: { y: { op: 'map', inputs: { a: 'x', k: 'factor' }, expr: 'a + min(abs(k), 0)' } },
  },
  {
    name: 'reduce, sum of all',
    passes: 1,
    change: 'element',
    derive: { y: { op: 'reduce', inputs: { x: 'x' }, fn: 'sum' } },
  },
]

async function measure({ name, passes, derive, change }: Row): Promise<Result> {
  const bus = await Bus.open({ backend: 'cuda', memoryLimitBytes: 16 * pageBytes })
  try {
    await bus.create('x', { dtype: 'f32', shape: [elements], fill: 1.5 })
    await bus.create('factor', { dtype: 'f32', shape: [1], fill: 1 })
    for (const [page, definition] of Object.entries(derive)) await bus.derive(page, definition)
    const seconds: number[] = []
    for (let round = 0; round < ROUNDS; round++) {
      const startedMs = performance.now()
      await bus.patch(change === 'factor' ? 'factor' : 'x', { offset: 0, values: [2 + round] })
      seconds.push((performance.now() - startedMs) / 1e3)
    }
    const median = seconds.sort((a, b) => a - b)[ROUNDS >> 1] as number
    const gbps = (passes * pageBytes) / median / 1e9
    const ratio = copyGbps > 0 ? gbps / copyGbps : null
    const device = JSON.stringify(bus.status().device)
    return {
      name: `GPU: ${name}, ${(pageBytes / 2 ** 20).toFixed(0)} MiB of f32`,
      unit: 'GB/s',
      mmsb: gbps,
      baseline: copyGbps,
      against: 'a copy on the device',
      ratio,
      budget: ratio === null ? null : { text: `at least ${BUDGET} of it`, met: ratio >= BUDGET },
      details: { ms: median * 1e3, ...(cupy[name] === undefined ? {} : { cupyGbps: cupy[name] }), device },
    }
  } finally {
    await bus.close()
  }
}

if (deviceCount() === 0) {
  console.error('no CUDA device')
  process.exitCode = 1
} else {
  const machine = machineFacts('.')
  for (const row of ROWS) {
    const result = await measure(row)
    console.log(
      JSON.stringify({ date: new Date().toISOString(), row: 'gpu', quick: false, ...result, machine }),
    )
  }
}
