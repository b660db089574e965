/**
 * Each op beside the same in NumPy: one thread against one thread, alternating, by CPU time. A run of MMSB is
 * a full one: it computes, compares each element with the old one, writes what differs and updates the page's
 * digest. NumPy computes into an existing array where it can. Where MMSB is slower, the table says why.
 */

import type { Derivation } from '../../src/state/types.js'
import type { Dtype, TypedArray } from '../../src/wire/dtype.js'
import { type BenchPage, type BenchPages, prepareNative } from '../lib/native.js'
import { Numpy } from '../lib/numpy.js'
import { alternate } from '../lib/stats.js'
import type { Context, Result, Skip } from '../lib/types.js'

interface OpCase {
  readonly name: string
  readonly derive: Derivation
  readonly pages: BenchPages
  /**
   * The input arrays have the names of the pages; `out` and `into` are set where NumPy can write
   * into an array.
   */
  readonly make: string
  readonly run: string
  /** Why MMSB may be slower; shown only where it is. */
  readonly why?: string
}

const ARRAYS = {
  f32: Float32Array,
  f64: Float64Array,
  i32: Int32Array,
  u32: Uint32Array,
  u8: Uint8Array,
} as const
export type BenchDtype = keyof typeof ARRAYS

/** Two contents drawn from [low, high) that differ everywhere. */
export function page(dtype: BenchDtype, shape: readonly number[], low = -1, high = 1): BenchPage {
  const count = shape.reduce((product, size) => product * size, 1)
  const draw = (seed: number): TypedArray => {
    const values = new ARRAYS[dtype](count)
    let state = seed
    for (let i = 0; i < count; i++) {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
      values[i] = low + (state / 2 ** 32) * (high - low)
    }
    return values
  }
  return { dtype: dtype as Dtype, shape, contents: [draw(1), draw(2)] }
}

/** The same draw in NumPy. */
const drawn = (name: string, { dtype, shape }: BenchPage, low = -1, high = 1): string => {
  const type = { f32: 'float32', f64: 'float64', i32: 'int32', u32: 'uint32', u8: 'uint8' }[
    dtype as BenchDtype
  ]
  return `${name} = rng.uniform(${low}, ${high}, (${shape.join(',')},)).astype(np.${type}); ${name}0 = ${name}.copy()\n`
}

const MOVES = 'it compares, writes and hashes what NumPy only writes'
const TREE = 'it keeps the partial of each 1,024 elements, so that a change costs its path'
const M = 1024 * 1024

interface OpFields {
  readonly op: string
  readonly [parameter: string]: unknown
}

/** A case of the op whose input `x` has a dtype and a shape. */
function one(
  name: string,
  derive: OpFields,
  x: readonly [BenchDtype, readonly number[], number?, number?],
  numpy: { make?: string; run: string },
  why?: string,
): OpCase {
  const [dtype, shape, low, high] = x
  const own = page(dtype, shape, low, high)
  return {
    name,
    derive: { ...derive, inputs: { x: 'x' } } as Derivation,
    pages: { x: own },
    make: drawn('x', own, low, high) + (numpy.make ?? ''),
    run: numpy.run,
    ...(why === undefined ? {} : { why }),
  }
}

type Drawn = readonly [BenchDtype, readonly number[], number?, number?]

function many(
  name: string,
  derive: OpFields,
  inputs: Readonly<Record<string, Drawn>>,
  numpy: { make?: string; run: string },
  why?: string,
): OpCase {
  const pages: Record<string, BenchPage> = {}
  let make = ''
  for (const [role, [dtype, shape, low, high]] of Object.entries(inputs)) {
    pages[role] = page(dtype, shape, low, high)
    make += drawn(role, pages[role]!, low, high)
  }
  const roles = Object.fromEntries(Object.keys(inputs).map((role) => [role, role]))
  return {
    name,
    derive: { ...derive, inputs: roles } as Derivation,
    pages,
    make: make + (numpy.make ?? ''),
    run: numpy.run,
    ...(why === undefined ? {} : { why }),
  }
}

const WIDE = [1024, 1024]
const LONG = [M]
const into = (dtype = 'float32', shape = 'x.shape') => ({ make: `out = np.empty(${shape}, np.${dtype})` })

export const CASES: readonly OpCase[] = [
  one('copy f32', { op: 'copy' }, ['f32', LONG], { ...into(), run: 'np.copyto(out, x)' }, MOVES),
  one(
    'cast f64 to i32',
    { op: 'cast', dtype: 'i32' },
    ['f64', LONG, -1e6, 1e6],
    { ...into('int32'), run: "np.copyto(out, x, casting='unsafe')" },
    'it saturates, and gives 0 for NaN; NumPy leaves both to the processor',
  ),
  many(
    'map a * b + c, f32',
    { op: 'map', expr: 'a * b + c' },
    { a: ['f32', LONG], b: ['f32', LONG], c: ['f32', LONG] },
    { make: 'out = np.empty_like(a)', run: 'np.multiply(a, b, out=out); np.add(out, c, out=out)' },
    MOVES,
  ),
  one(
    'map exp, f32',
    { op: 'map', expr: 'exp(x)' },
    ['f32', LONG],
    { ...into(), run: 'np.exp(x, out=out)' },
    'it is rounded correctly (0.5001 ulp); NumPy has 2.5 ulp',
  ),
  one(
    'map sin, f64',
    { op: 'map', expr: 'sin(x)' },
    ['f64', LONG],
    { ...into('float64'), run: 'np.sin(x, out=out)' },
    'one algorithm for CPU and GPU; NumPy has one for this processor',
  ),
  one(
    'map sqrt(abs(x)) > 0.5, f64',
    { op: 'map', expr: 'sqrt(abs(x)) > 0.5' },
    ['f64', WIDE],
    {
      make: 'out = np.empty(x.shape, bool); t = np.empty_like(x)',
      run: 'np.abs(x, out=t); np.sqrt(t, out=t); np.greater(t, 0.5, out=out)',
    },
    'it lists the elements that changed: here a quarter of a million runs',
  ),
  ...(['sum', 'max', 'mean', 'var', 'argmax', 'prod', 'any', 'count'] as const).map((fn) => {
    const plain = { argmax: 'x.argmax()', count: 'np.count_nonzero(x)', var: 'x.var(dtype=np.float64)' }
    const wide = `x.${fn}(dtype=np.float64)`
    const run = (plain as Record<string, string>)[fn] ?? (fn === 'max' || fn === 'any' ? `x.${fn}()` : wide)
    return one(`reduce ${fn}, f32, all`, { op: 'reduce', fn }, ['f32', [4 * M]], { run }, TREE)
  }),
  one(
    'reduce sum, f32, axis 0',
    { op: 'reduce', fn: 'sum', axes: [0] },
    ['f32', [2048, 2048]],
    { run: 'x.sum(axis=0, dtype=np.float64)' },
    'its order has 32 lanes for each column, which pass through the cache',
  ),
  one('reduce sum, f32, axis 1', { op: 'reduce', fn: 'sum', axes: [1] }, ['f32', [2048, 2048]], {
    run: 'x.sum(axis=1, dtype=np.float64)',
  }),
  one(
    'reduce min, i32, axis 0',
    { op: 'reduce', fn: 'min', axes: [0] },
    ['i32', [2048, 2048], -1e6, 1e6],
    { run: 'x.min(axis=0)' },
    'it walks 64 columns at a time, so that few changed columns cost little',
  ),
  one(
    'scan sum, f64',
    { op: 'scan', fn: 'sum' },
    ['f64', LONG],
    { ...into('float64'), run: 'np.cumsum(x, out=out)' },
    MOVES,
  ),
  many(
    'matmul f32, 512',
    { op: 'matmul' },
    { a: ['f32', [512, 512]], b: ['f32', [512, 512]] },
    { make: 'out = np.empty((512, 512), np.float32)', run: 'np.matmul(a, b, out=out)' },
    'AVX2 and one fixed order of accumulation; OpenBLAS has AVX-512 here',
  ),
  many(
    'matmul f64, 512',
    { op: 'matmul' },
    { a: ['f64', [512, 512]], b: ['f64', [512, 512]] },
    { make: 'out = np.empty((512, 512))', run: 'np.matmul(a, b, out=out)' },
    'AVX2 and one fixed order of accumulation; OpenBLAS has AVX-512 here',
  ),
  many(
    'matmul i32, 256',
    { op: 'matmul' },
    { a: ['i32', [256, 256], -100, 100], b: ['i32', [256, 256], -100, 100] },
    { run: 'a @ b' },
  ),
  many(
    'matmul min_plus, f32, 256',
    { op: 'matmul', semiring: 'min_plus' },
    { a: ['f32', [256, 256]], b: ['f32', [256, 256]] },
    {
      make: 'out = np.empty((256, 256), np.float32)',
      run: 'for i in range(256): np.min(a[i, :, None] + b, axis=0, out=out[i])',
    },
  ),
  one('quantile 0.05, f64, axis 0', { op: 'quantile', q: 0.05, axis: 0 }, ['f64', WIDE], {
    run: 'np.quantile(x, 0.05, axis=0)',
  }),
  one('quantile 0.5, f32, all', { op: 'quantile', q: 0.5 }, ['f32', LONG], {
    run: 'np.quantile(x, 0.5)',
  }),
  one('topk 10 of 1024, f32, axis 1', { op: 'topk', k: 10, axis: 1, output: 'indices' }, ['f32', WIDE], {
    run: 'p = np.argpartition(-x, 10, axis=1)[:, :10]; v = np.take_along_axis(x, p, 1); np.take_along_axis(p, np.argsort(-v, axis=1), 1)',
  }),
  one('sort f32', { op: 'sort' }, ['f32', LONG], { run: "np.sort(x, kind='stable')" }),
  one('sort f64, rows of 1024', { op: 'sort', axis: 1 }, ['f64', WIDE], {
    run: "np.sort(x, axis=1, kind='stable')",
  }),
  one('sort i32, columns', { op: 'sort', axis: 0 }, ['i32', WIDE, -1e9, 1e9], {
    run: "np.sort(x, axis=0, kind='stable')",
  }),
  many(
    'conv 1-D, f32, kernel 31',
    { op: 'conv' },
    { x: ['f32', LONG], kernel: ['f32', [31]] },
    { run: "np.correlate(x, kernel, 'same')" },
  ),
  many(
    'conv 2-D, f32, kernel 3 x 3',
    { op: 'conv' },
    { x: ['f32', WIDE], kernel: ['f32', [3, 3]] },
    {
      make: 'out = np.empty_like(x); t = np.empty_like(x)',
      run: 'p = np.pad(x, 1); out[:] = 0\nfor i in range(3):\n  for j in range(3): np.multiply(p[i:i+1024, j:j+1024], kernel[i, j], out=t); np.add(out, t, out=out)',
    },
  ),
  one('window mean 20, f64', { op: 'window', fn: 'mean', size: 20 }, ['f64', LONG], {
    run: 'windows(x, 20).mean(axis=1)',
  }),
  one('window max 20, f32', { op: 'window', fn: 'max', size: 20 }, ['f32', LONG], {
    run: 'windows(x, 20).max(axis=1)',
  }),
  many(
    'gather rows of 64, f32',
    { op: 'gather', axis: 0 },
    { x: ['f32', [16_384, 64]], indices: ['i32', [16_384], 0, 16_384] },
    { make: 'out = np.empty_like(x)', run: "np.take(x, indices, axis=0, out=out, mode='clip')" },
    MOVES,
  ),
  many(
    'gather elements, f32',
    { op: 'gather', axis: 0 },
    { x: ['f32', LONG], indices: ['i32', LONG, 0, M] },
    { make: 'out = np.empty_like(x)', run: "np.take(x, indices, out=out, mode='clip')" },
    MOVES,
  ),
  many(
    'scatter set, f32',
    { op: 'scatter', axis: 0 },
    { x: ['f32', LONG], indices: ['i32', [M / 4], 0, M], values: ['f32', [M / 4]] },
    { make: 'out = np.empty_like(x)', run: 'np.copyto(out, x); out[indices] = values' },
    `${MOVES}, and keeps where each index leads`,
  ),
  many(
    'scatter add, f64',
    { op: 'scatter', axis: 0, merge: 'add' },
    { x: ['f64', LONG], indices: ['i32', [M / 4], 0, M], values: ['f64', [M / 4]] },
    { make: 'out = np.empty_like(x)', run: 'np.copyto(out, x); np.add.at(out, indices, values)' },
    `${MOVES}, and keeps where each index leads`,
  ),
  one('bincount 256, u8', { op: 'bincount', length: 256 }, ['u8', LONG, 0, 256], {
    run: 'np.bincount(x, minlength=256)',
  }),
  one('histogram 50, f64', { op: 'histogram', bins: 50, range: [-1, 1] }, ['f64', LONG], {
    run: 'np.histogram(x, 50, (-1, 1))',
  }),
  one(
    'transpose f32',
    { op: 'transpose' },
    ['f32', [1024, 1024]],
    { make: 'out = np.empty((1024, 1024), np.float32)', run: 'np.copyto(out, x.T)' },
    MOVES,
  ),
  one(
    'reshape f32',
    { op: 'reshape', shape: [-1] },
    ['f32', WIDE],
    { make: 'out = np.empty(1024 * 1024, np.float32)', run: 'np.copyto(out, x.reshape(-1))' },
    MOVES,
  ),
  one(
    'slice every other column, f32',
    { op: 'slice', step: [null, 2] },
    ['f32', WIDE],
    { make: 'out = np.empty((1024, 512), np.float32)', run: 'np.copyto(out, x[:, ::2])' },
    MOVES,
  ),
  many(
    'concat f32',
    { op: 'concat', axis: 1 },
    { a: ['f32', [1024, 512]], b: ['f32', [1024, 512]] },
    { make: 'out = np.empty((1024, 1024), np.float32)', run: 'np.concatenate((a, b), axis=1, out=out)' },
    MOVES,
  ),
  ...(['dot', 'l2', 'cosine'] as const).map((metric) => {
    const run = {
      dot: 'queries @ vectors.T',
      l2: 'd = queries @ vectors.T; np.sqrt(np.maximum((queries * queries).sum(1)[:, None] + (vectors * vectors).sum(1) - 2 * d, 0))',
      cosine:
        '1 - (queries @ vectors.T) / (np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(vectors, axis=1))',
    }[metric]
    return many(
      `distance ${metric}, f32, 64 x 8192 of 128`,
      { op: 'distance', metric },
      { queries: ['f32', [64, 128]], vectors: ['f32', [8192, 128]] },
      { run },
      'each distance is summed by itself, exactly ordered; NumPy multiplies matrices, which loses digits',
    )
  }),
]

async function opRow(context: Context, numpy: Numpy, blas: string, one: OpCase): Promise<Result> {
  const { name, derive, pages, make, run, why } = one
  context.say(`${name}, beside NumPy`)
  const flip = Object.keys(pages)
    .map((role) => `np.copyto(${role}, ${role}0)`)
    .join('; ')
  await numpy.prepare(name, { make, run, flip })
  const native = await prepareNative([derive], pages)
  const mine = async () => native.time()
  const theirs = () => numpy.time(name)
  await mine()
  await theirs()
  const pairs = await alternate(context.quick ? 1 : 11, mine, theirs)
  native.close()
  const met = pairs.ratio <= 1
  return {
    name: `op ${name}`,
    unit: 'ms',
    mmsb: pairs.a,
    baseline: pairs.b,
    against: derive.op === 'matmul' || derive.op === 'distance' ? `NumPy, ${blas}` : 'NumPy',
    ratio: pairs.ratio,
    budget: { text: '<= 1', met },
    ...(met || why === undefined ? {} : { details: { why } }),
  }
}

export async function ops(context: Context): Promise<(Result | Skip)[]> {
  const numpy = Numpy.start()
  if (numpy === null) return [{ name: 'ops beside NumPy', skipped: 'no python3 with numpy here' }]
  const { blas } = await numpy.info()
  const only = process.env.MMSB_BENCH_OP
  const results: Result[] = []
  for (const one of CASES) {
    if (only === undefined || one.name.includes(only)) results.push(await opRow(context, numpy, blas, one))
  }
  numpy.stop()
  return results
}
