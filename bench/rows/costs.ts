/**
 * The estimates by which a bus refuses work (src/kernels/op-catalogue.ts) beside measured times: each op of
 * the table beside NumPy, and further sizes and dtypes. One thread, a full run. The budget is a factor of 4
 * either way.
 */

import { elementCount } from '../../src/state/shape.js'
import type { Derivation } from '../../src/state/types.js'
import { type BenchPages, prepareNative } from '../lib/native.js'
import { median } from '../lib/stats.js'
import type { Context, Result } from '../lib/types.js'
import { type BenchDtype, CASES, page } from './ops.js'

interface CostCase {
  readonly name: string
  readonly derive: Derivation
  readonly pages: BenchPages
}

type Drawn = readonly [BenchDtype, readonly number[], number?, number?]

const K = 1024
const FACTOR = 4

function costCase(
  derive: { readonly op: string; readonly [parameter: string]: unknown },
  inputs: Readonly<Record<string, Drawn>>,
): CostCase {
  const drawn = Object.entries(inputs).map(([role, draw]) => [role, page(...draw)] as const)
  const shapes = Object.values(inputs).map(([dtype, shape]) => `${dtype} ${shape.join('x')}`)
  const { op, ...parameters } = derive
  const given = Object.values(parameters).map((value) => ` ${String(value)}`)
  return {
    name: `${op}${given.join('')}, ${shapes.join(', ')}`,
    derive: { ...derive, inputs: Object.fromEntries(drawn.map(([role]) => [role, role])) } as Derivation,
    pages: Object.fromEntries(drawn),
  }
}

/** What the table beside NumPy does not have: other dtypes, functions and sizes. */
const MORE: readonly CostCase[] = [
  costCase({ op: 'copy' }, { x: ['f64', [K * K]] }),
  ...(
    ['exp(x)', 'log(abs(x))', 'pow(abs(x), 0.3)', 'tanh(x)', 'x % 0.3', 'where(x > 0, x, -x)'] as const
  ).map((expr) => costCase({ op: 'map', expr }, { x: ['f64', [K * K]] })),
  costCase({ op: 'map', expr: 'a + b' }, { a: ['i32', [K, K], -9, 9], b: ['f64', [K]] }),
  costCase({ op: 'conv', boundary: 'wrap' }, { x: ['f64', [70, 70]], kernel: ['f64', [70, 70]] }),
  costCase({ op: 'conv' }, { x: ['f64', [64 * K]], kernel: ['f64', [500]] }),
  costCase({ op: 'conv' }, { x: ['i32', [K, 128], -9, 9], kernel: ['i32', [9, 9], -9, 9] }),
  costCase({ op: 'conv', boundary: 'edge' }, { x: ['u8', [K, 128], 0, 9], kernel: ['u8', [5, 5], 0, 9] }),
  costCase({ op: 'matmul' }, { a: ['f64', [K, 64]], b: ['f64', [64, 256]] }),
  costCase({ op: 'matmul' }, { a: ['f32', [8, 4 * K]], b: ['f32', [4 * K, 8]] }),
  costCase({ op: 'matmul' }, { a: ['f64', [K, K]], b: ['f64', [K]] }),
  costCase(
    { op: 'matmul', semiring: 'or_and' },
    { a: ['u8', [256, 256], 0, 2], b: ['u8', [256, 256], 0, 2] },
  ),
  costCase(
    { op: 'matmul', semiring: 'max_plus' },
    { a: ['i32', [256, 256], -9, 9], b: ['i32', [256, 256], -9, 9] },
  ),
  costCase({ op: 'matmul' }, { a: ['f64', [K]], b: ['f64', [K, K]] }),
  costCase({ op: 'matmul' }, { a: ['f32', [512, 512]], b: ['f32', [512, 16]] }),
  costCase({ op: 'window', fn: 'max', size: 65_536 }, { x: ['f64', [128 * K]] }),
  costCase({ op: 'cast', dtype: 'f32' }, { x: ['i32', [K * K], -9, 9] }),
  costCase({ op: 'quantile', q: 0.5, axis: 1 }, { x: ['f64', [16 * K, 16]] }),
  costCase({ op: 'topk', k: 1, axis: 0, output: 'values' }, { x: ['f64', [K * K]] }),
  costCase({ op: 'topk', k: 4096, axis: 0, output: 'values' }, { x: ['f32', [64 * K]] }),
  costCase({ op: 'scan', fn: 'prod', axis: 0 }, { x: ['f32', [K, K]] }),
  costCase({ op: 'scan', fn: 'max' }, { x: ['i32', [K, K], -9, 9] }),
  costCase({ op: 'window', fn: 'sum', size: 1000 }, { x: ['f64', [K * K]] }),
  costCase({ op: 'window', fn: 'min', size: 1000, axis: 0 }, { x: ['f32', [K, K]] }),
  costCase({ op: 'sort' }, { x: ['u8', [K * K], 0, 255] }),
  costCase({ op: 'sort', axis: 1 }, { x: ['f32', [64 * K, 16]] }),
  costCase({ op: 'gather', axis: 1 }, { x: ['f64', [K, K]], indices: ['i32', [K], 0, K] }),
  costCase(
    { op: 'scatter', axis: 0, merge: 'max' },
    {
      x: ['i32', [16], -9, 9],
      indices: ['i32', [K * K], 0, 16],
      values: ['i32', [K * K], -9, 9],
    },
  ),
  costCase({ op: 'bincount', length: K * K }, { x: ['i32', [K * K], 0, K * K] }),
  costCase({ op: 'histogram', bins: 100_000, range: [-1, 1] }, { x: ['f32', [K * K]] }),
  costCase({ op: 'flip' }, { x: ['f32', [K, K]] }),
  costCase({ op: 'transpose' }, { x: ['f64', [K, K]] }),
  costCase({ op: 'slice', step: [2] }, { x: ['f64', [K, K]] }),
  costCase({ op: 'reduce', fn: 'sum' }, { x: ['f64', [64 * K, 16]] }),
  costCase({ op: 'reduce', fn: 'argmin', axes: [1] }, { x: ['f64', [64 * K, 16]] }),
  costCase({ op: 'reduce', fn: 'var', axes: [0] }, { x: ['f64', [K, K]] }),
  costCase({ op: 'distance', metric: 'l2' }, { queries: ['f64', [4]], vectors: ['f64', [64 * K, 4]] }),
  costCase({ op: 'distance', metric: 'cosine' }, { queries: ['f64', [16, K]], vectors: ['f64', [256, K]] }),
]

async function estimateMs({ derive, pages }: CostCase): Promise<number> {
  const path = new URL('../../dist/kernels/op-catalogue.js', import.meta.url).href
  const { compileDerivation } = (await import(path)) as typeof import('../../src/kernels/op-catalogue.js')
  const { costPerElementNs, shape } = compileDerivation(derive, (name) => ({ id: 1, ...pages[name]! }), {
    dtype: undefined,
  })
  return (costPerElementNs * elementCount(shape)) / 1e6
}

async function costRow(context: Context, one: CostCase): Promise<Result> {
  context.say(one.name)
  const estimate = await estimateMs(one)
  const native = await prepareNative([one.derive], one.pages)
  native.time()
  const measured = median(Array.from({ length: context.quick ? 3 : 11 }, () => native.time()))
  native.close()
  const ratio = measured / estimate
  return {
    name: `cost ${one.name}`,
    unit: 'ms',
    mmsb: measured,
    baseline: estimate,
    against: 'the estimate',
    ratio,
    budget: { text: `within ${FACTOR} x`, met: ratio <= FACTOR && ratio >= 1 / FACTOR },
  }
}

export async function costs(context: Context): Promise<Result[]> {
  const only = process.env.MMSB_BENCH_OP
  const results: Result[] = []
  for (const one of [...CASES, ...MORE]) {
    if (only === undefined || one.name.includes(only)) results.push(await costRow(context, one))
  }
  return results
}
