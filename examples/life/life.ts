/**
 * Conway's Life as two derived pages: `neighbours` counts the live neighbours of each cell in the epoch
 * before, and `life` applies the rule to them. An empty transaction is a generation. Checked against a plain
 * Life in TypeScript after every generation.
 *
 *   npx tsx examples/life/life.ts [size] [generations]
 *
 * The world is a torus. The page `seed` sets the first live cells: it is written once and then cleared.
 */
import { fileURLToPath } from 'node:url'
import { Bus } from '../../src/index.js'

export interface LifeRun {
  readonly generations: number
  readonly population: number
  readonly msPerGeneration: number
  /** Whether every generation equalled that of the plain Life. */
  readonly equal: boolean
}

/** A random start from a seed: about a third of the cells live. */
export function firstCells(size: number, seed: number): Uint8Array {
  let state = seed >>> 0 || 1
  return Uint8Array.from({ length: size * size }, () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) % 3 === 0 ? 1 : 0
  })
}

/** The next generation, cell by cell. */
export function plainLife(cells: Uint8Array, size: number): Uint8Array {
  const next = new Uint8Array(cells.length)
  for (let row = 0; row < size; row++) {
    const above = ((row + size - 1) % size) * size
    const below = ((row + 1) % size) * size
    const own = row * size
    for (let column = 0; column < size; column++) {
      const left = (column + size - 1) % size
      const right = (column + 1) % size
      let count = 0
      for (const line of [above, own, below]) {
        count += cells[line + left]! + cells[line + column]! + cells[line + right]!
      }
      const alive = cells[own + column]!
      count -= alive
      next[own + column] = count === 3 || (count === 2 && alive === 1) ? 1 : 0
    }
  }
  return next
}

/** Creates the pages and puts the first generation into `life`. */
export async function startLife(bus: Bus, size: number, cells: Uint8Array): Promise<void> {
  const shape = [size, size]
  const neighbours = {
    op: 'conv' as const,
    inputs: { x: { prev: 'life' }, kernel: 'around' },
    boundary: 'wrap' as const,
  }
  const rule = {
    op: 'map' as const,
    inputs: { seed: 'seed', n: 'neighbours', self: 'life' },
    expr: 'seed or n == 3 or (n == 2 and prev(self))',
  }
  await bus.createMany([
    { name: 'around', definition: { dtype: 'u8', shape: [3, 3] } },
    { name: 'seed', definition: { dtype: 'u8', shape } },
    { name: 'neighbours', definition: { derive: neighbours } },
    { name: 'life', definition: { derive: rule, dtype: 'u8', shape } },
  ])
  const around = [1, 1, 1, 1, 0, 1, 1, 1, 1]
  await bus.transact({
    ops: [
      { page: 'around', values: around },
      { page: 'seed', values: cells },
    ],
  })
}

/** Runs generations on the bus and in plain TypeScript. */
export async function runLife(bus: Bus, size: number, generations: number): Promise<LifeRun> {
  let cells = firstCells(size, 1970)
  await startLife(bus, size, cells)
  let equal = true
  let busyMs = 0
  for (let generation = 0; generation < generations; generation++) {
    const startedMs = performance.now()
    // Clearing the seed makes the first generation; every epoch is one.
    const ops = generation === 0 ? [{ page: 'seed', values: new Uint8Array(size * size) }] : []
    await bus.transact({ ops })
    busyMs += performance.now() - startedMs
    cells = plainLife(cells, size)
    equal &&= Buffer.compare(bus.read('life') as Uint8Array, cells) === 0
  }
  const population = cells.reduce((sum, cell) => sum + cell, 0)
  return { generations, population, msPerGeneration: busyMs / generations, equal }
}

async function main(size = 1024, generations = 100): Promise<void> {
  const bus = await Bus.open()
  try {
    const run = await runLife(bus, size, generations)
    console.log(`Life on ${size} x ${size}, ${run.generations} generations`)
    console.log(`population ${run.population}, ${run.msPerGeneration.toFixed(1)} ms a generation`)
    console.log(`state digest ${bus.status().digest}`)
    console.log(run.equal ? 'every generation equals the plain Life' : 'DIFFERS from the plain Life')
    if (!run.equal) process.exitCode = 1
  } finally {
    await bus.close()
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [size, generations] = process.argv.slice(2).map(Number)
  await main(size, generations)
}
