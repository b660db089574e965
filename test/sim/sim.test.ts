/**
 * The whole engine in a simulated world, under many seeds (test/sim/run.ts). Canaries check that a disk that
 * breaks its promises is noticed.
 *
 * MMSB_SIM_SEEDS sets the number of seeds (default 60), MMSB_SIM_SEED the first one; a failure prints its
 * seed.
 */
import t from 'tap'
import type { Draw } from '../lib/draw.js'
import type { Sabotage } from '../support/simdisk.js'
import { simulate } from './run.js'
import { simulateAll } from './seeds.js'

const SEEDS = Number(process.env.MMSB_SIM_SEEDS ?? 60)
const FIRST = Number(process.env.MMSB_SIM_SEED ?? 1)

t.test(`${SEEDS} seeds`, { timeout: 3_600_000 }, async (t) => {
  const sum = await simulateAll(FIRST, SEEDS)
  for (const failure of sum.failures) t.fail(failure)
  const { failures: _, ...counts } = sum
  t.comment(JSON.stringify(counts))
  t.ok(
    Object.values(counts).every((count) => count >= SEEDS / 4),
    'things of every kind happened',
  )
})

t.test('the same seed gives the same run', async (t) => {
  for (const seed of [3, 5]) t.same((await simulate(seed)).trace, (await simulate(seed)).trace)
})

const CANARIES: Record<string, (draw: Draw) => Sabotage> = {
  'syncs that do nothing': (draw) => ({ sync: () => draw.chance(0.5) }),
  'syncs of folders that do nothing': () => ({ sync: (file) => !file.endsWith('log') }),
  'writes that are dropped': (draw) => ({
    write: (bytes, file) => (file.endsWith('.seg') && draw.chance(0.05) ? undefined : bytes),
  }),
  'a bit that flips': (draw) => ({
    write(bytes) {
      if (draw.chance(0.05)) bytes[draw.int(0, bytes.length - 1)] = draw.int(0, 255)
      return bytes
    },
  }),
}

for (const [name, sabotage] of Object.entries(CANARIES)) {
  t.test(`canary: ${name}`, async (t) => {
    let caught: unknown
    let seed = FIRST
    for (; caught === undefined && seed < FIRST + 60; seed++) {
      await simulate(seed, sabotage).catch((error: unknown) => {
        caught = error
      })
    }
    t.ok(caught instanceof Error, `noticed at seed ${seed - 1}: ${String(caught).split('\n')[0]}`)
  })
}
