/**
 * `map` at the speed of memory: one expression of 8 operations over 64 MiB, beside memcpy of as many bytes
 * and beside NumPy; and a chain of 8 maps in one native call, beside the same maps in one call each. Each is
 * measured twice: with a result that differs from the old one everywhere, and with one that equals it.
 */
import type { TypedArray } from '../../src/wire/dtype.js'
import { type BenchPages, prepareNative, processorMs } from '../lib/native.js'
import { Numpy } from '../lib/numpy.js'
import { alternate } from '../lib/stats.js'
import type { Context, Result, Skip } from '../lib/types.js'

const BYTES = 64 * 1024 ** 2
const CHAIN = 8
const SHARE_OF_COPY = 0.7
/**
 * 8 operations. The result grows with x, so new contents change all of it; with the lower bound, a
 * twelfth stays.
 */
const expr = (bound: number) => `clamp((x * 1.5 + 4) * x - abs(x) / 3, -9, ${bound}) + 2`
const ALL = expr(9)
const PARTLY = expr(4.1)

/** Two contents that differ everywhere. */
function source(): BenchPages {
  const content = (shift: number): TypedArray =>
    Float32Array.from({ length: BYTES / 4 }, (_, i) => ((i * 37) % 4001) / 2000 - 1 + shift)
  return { x: { dtype: 'f32', shape: [BYTES / 4], contents: [content(0), content(1e-3)] } }
}

export async function maps(context: Context): Promise<(Result | Skip)[]> {
  const pages = source()
  const results: (Result | Skip)[] = []
  const prepare = (text: string) => prepareNative([{ op: 'map', inputs: { x: 'x' }, expr: text }], pages)
  const native = await prepare(ALL)
  const partly = await prepare(PARTLY)
  const count = context.quick ? 1 : 11
  const from = Buffer.alloc(BYTES, 1)
  const to = Buffer.alloc(BYTES, 2)
  const copy = async () => {
    const started = processorMs()
    from.copy(to)
    return processorMs() - started
  }
  await copy()
  for (const [what, map, again] of [
    ['all changes', native, false],
    ['all but a twelfth changes', partly, false],
    ['nothing changes', native, true],
  ] as const) {
    context.say(`map of 8 operations, ${what}`)
    map.time()
    map.time()
    const pairs = await alternate(count, copy, async () => map.time(again))
    results.push({
      name: `map of 8 operations, 64 MiB of f32, one thread, ${what}`,
      unit: 'GB/s',
      mmsb: BYTES / 1e6 / pairs.b,
      baseline: BYTES / 1e6 / pairs.a,
      against: 'memcpy of as many bytes',
      ratio: pairs.ratio,
      budget: { text: `>= ${SHARE_OF_COPY}`, met: pairs.ratio >= SHARE_OF_COPY },
    })
  }
  partly.close()
  results.push(await besideNumpy(context, count, native))
  native.close()
  results.push(...(await chain(context, count, pages)))
  return results
}

async function besideNumpy(
  context: Context,
  count: number,
  native: { time(again?: boolean): number },
): Promise<Result | Skip> {
  const name = 'map of 8 operations, 64 MiB of f32, beside NumPy'
  const numpy = Numpy.start()
  if (numpy === null) return { name, skipped: 'no python3 with numpy here' }
  context.say(name)
  const f = (value: string) => `np.float32(${value})`
  await numpy.prepare(name, {
    make: `x = np.linspace(-1, 1, ${BYTES / 4}, dtype=np.float32); x0 = x.copy(); y = np.empty_like(x); t = np.empty_like(x)`,
    flip: 'np.copyto(x, x0)',
    run: [
      `np.multiply(x, ${f('1.5')}, out=y); np.add(y, ${f('4')}, out=y); np.multiply(y, x, out=y)`,
      `np.abs(x, out=t); np.divide(t, ${f('3')}, out=t); np.subtract(y, t, out=y)`,
      `np.clip(y, ${f('-9')}, ${f('9')}, out=y); np.add(y, ${f('2')}, out=y)`,
    ].join('\n'),
  })
  await numpy.time(name)
  const pairs = await alternate(
    count,
    async () => native.time(),
    () => numpy.time(name),
  )
  numpy.stop()
  return {
    name,
    unit: 'ms',
    mmsb: pairs.a,
    baseline: pairs.b,
    against: 'NumPy, one thread',
    ratio: pairs.ratio,
    budget: { text: '<= 1', met: pairs.ratio <= 1 },
  }
}

async function chain(context: Context, count: number, pages: BenchPages): Promise<Result[]> {
  const derivations = Array.from({ length: CHAIN }, (_, i) => ({
    op: 'map' as const,
    inputs: { x: i === 0 ? 'x' : `y${i - 1}` },
    expr: `x * 0.75 + ${i + 1}`,
  }))
  const fused = await prepareNative(derivations, pages)
  const apart = await prepareNative(derivations, pages, false)
  const results: Result[] = []
  for (const [what, again] of [
    ['all changes', false],
    ['nothing changes', true],
  ] as const) {
    context.say(`chain of ${CHAIN} maps, ${what}`)
    for (const one of [fused, apart]) one.time()
    const pairs = await alternate(
      count,
      async () => fused.time(again),
      async () => apart.time(again),
    )
    results.push({
      name: `chain of ${CHAIN} maps, 64 MiB of f32 each, in one call, ${what}`,
      unit: 'ms',
      mmsb: pairs.a,
      baseline: pairs.b,
      against: 'the same, a call for each',
      ratio: pairs.ratio,
      budget: null,
    })
  }
  fused.close()
  apart.close()
  return results
}
