/**
 * The cost of a hop, and proof that cost follows what changed: in process, log off.
 *
 * A chain of 1,000 maps on 1 KiB pages beside one memcpy of the same bytes; a 64-byte delta through 10 maps
 * on a large page beside the same on a small one.
 */
import type { Bus } from '../../src/index.js'
import { pairsOf } from '../lib/pairs.js'
import { median } from '../lib/stats.js'
import { loadLibrary } from '../lib/tree.js'
import type { Context, Result } from '../lib/types.js'

const HOPS = 1000
const PAGE_BYTES = 1024
const HOP_BUDGET_NS = 300
const LARGE_BYTES = 256 * 1024 ** 2
const SMALL_BYTES = 64 * 1024
const SIZE_BUDGET = 2
const MAPS = 10

export async function propagation(context: Context): Promise<Result[]> {
  return [await chain(context), await sizes(context)]
}

/** A source page `c0` of f64 and `hops` maps behind it. */
async function buildChain(bytes: number, hops: number): Promise<Bus> {
  const { Bus } = await loadLibrary()
  const bus = await Bus.open({})
  await bus.create('c0', { dtype: 'f64', shape: [bytes / 8] })
  for (let hop = 1; hop <= hops; hop++) {
    await bus.derive(`c${hop}`, { op: 'map', inputs: { x: `c${hop - 1}` }, expr: 'x + 1' })
  }
  return bus
}

async function chain(context: Context): Promise<Result> {
  context.say(`chain of ${HOPS} maps, ${PAGE_BYTES} byte pages`)
  const bus = await buildChain(PAGE_BYTES, HOPS)
  const repeats = context.quick ? 50 : 500
  const values = new Float64Array(PAGE_BYTES / 8)
  let serial = 0
  const hop = async () => {
    const started = performance.now()
    for (let i = 0; i < repeats; i++) {
      values.fill(++serial)
      await bus.patch('c0', { values })
    }
    return ((performance.now() - started) * 1e6) / repeats / HOPS
  }
  const [from, to] = [Buffer.alloc(PAGE_BYTES * HOPS, 1), Buffer.alloc(PAGE_BYTES * HOPS, 2)]
  const copy = async () => {
    const started = performance.now()
    for (let i = 0; i < repeats; i++) from.copy(to)
    return ((performance.now() - started) * 1e6) / repeats / HOPS
  }
  await hop()
  const name = `propagation, chain of ${HOPS} maps on 1 KiB pages`
  const pairs = await pairsOf(context, { name, better: 'lower' }, 9, hop, copy)
  const last = bus.read(`c${HOPS}`)[0]
  if (last !== serial + HOPS) throw new Error(`the chain ends in ${last}, not ${serial + HOPS}`)
  await bus.close()
  const beyond = pairs.a - pairs.b
  return {
    name,
    unit: 'ns/hop',
    mmsb: pairs.a,
    baseline: pairs.b,
    against: 'memcpy of the same bytes',
    ratio: pairs.ratio,
    budget: { text: `< ${HOP_BUDGET_NS} ns beyond the bytes`, met: beyond < HOP_BUDGET_NS },
    details: { nsBeyondBytes: beyond },
  }
}

async function sizes(context: Context): Promise<Result> {
  const largeBytes = context.quick ? LARGE_BYTES / 16 : LARGE_BYTES
  context.say(`64-byte delta through ${MAPS} maps, ${largeBytes / 1024 ** 2} MiB page`)
  const large = await buildChain(largeBytes, MAPS)
  const small = await buildChain(SMALL_BYTES, MAPS)
  const repeats = context.quick ? 200 : 2000
  const values = new Float64Array(8)
  let serial = 0
  const delta = (bus: Bus, bytes: number) => async () => {
    const times: number[] = []
    for (let i = 0; i < repeats; i++) {
      values.fill(++serial)
      const offset = ((i * 7919) % (bytes / 64)) * 8
      const started = performance.now()
      await bus.patch('c0', { offset, values })
      times.push((performance.now() - started) * 1000)
    }
    return median(times)
  }
  const name = `64-byte delta through ${MAPS} maps, ${largeBytes / 1024 ** 2} MiB page`
  const [ofLarge, ofSmall] = [delta(large, largeBytes), delta(small, SMALL_BYTES)]
  const pairs = await pairsOf(context, { name, better: 'lower' }, 9, ofLarge, ofSmall)
  await large.close()
  await small.close()
  return {
    name,
    unit: 'us',
    mmsb: pairs.a,
    baseline: pairs.b,
    against: 'the same on a 64 KiB page',
    ratio: pairs.ratio,
    budget: { text: `< ${SIZE_BUDGET} x`, met: pairs.ratio < SIZE_BUDGET },
  }
}
