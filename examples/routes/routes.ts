/**
 * Shortest paths over the network of US flights as derived pages: `matmul` in the semiring min_plus relaxes
 * all pairs at once, and each step doubles the number of legs. A storm closes an airport: one write changes
 * every path in the same epoch. Checked against the algorithm of Floyd and Warshall in plain TypeScript.
 *
 *   npx tsx examples/routes/routes.ts [airport]
 */
import { fileURLToPath } from 'node:url'
import { Bus } from '../../src/index.js'
import { type Network, readNetwork } from './network.js'

/** Paths of at most 2, 4, 8, 16 legs. */
const DOUBLINGS = 4
const LONGEST = `paths${2 ** DOUBLINGS}`

/**
 * Creates the pages: the source `legs`, and derived ones. `settled`: whether the last doubling found
 * nothing shorter.
 */
export async function createRoutes(bus: Bus, { airports, minutes }: Network): Promise<void> {
  const shape = [airports.length, airports.length]
  await bus.create('legs', { dtype: 'f32', shape, fill: 'Infinity' })
  let before = 'legs'
  for (let doubling = 1; doubling <= DOUBLINGS; doubling++) {
    const paths = `paths${2 ** doubling}`
    await bus.derive(paths, { op: 'matmul', inputs: { a: before, b: before }, semiring: 'min_plus' })
    if (doubling === DOUBLINGS) {
      await bus.derive('same', { op: 'map', inputs: { a: before, b: paths }, expr: 'a == b' })
      await bus.derive('settled', { op: 'reduce', inputs: { x: 'same' }, fn: 'all' })
    }
    before = paths
  }
  await bus.derive('reached', { op: 'map', inputs: { m: LONGEST }, expr: 'm < inf' })
  await bus.derive('pairs', { op: 'reduce', inputs: { x: 'reached' }, fn: 'count' })
  await bus.write('legs', minutes)
}

/** Minutes of the shortest path between each pair of airports. */
export const shortest = (bus: Bus): Float32Array => bus.read(LONGEST) as Float32Array

/** Removes all flights from and to an airport, in one transaction. */
export async function close(bus: Bus, { airports }: Network, airport: string): Promise<number> {
  const size = airports.length
  const place = airports.indexOf(airport)
  if (place < 0) throw new Error(`no flights from ${airport}`)
  const others = airports.map((_, i) => i).filter((i) => i !== place)
  const indices = [...others.map((i) => place * size + i), ...others.map((i) => i * size + place)]
  const values = new Float32Array(indices.length).fill(Number.POSITIVE_INFINITY)
  return (await bus.patch('legs', { indices, values })).epoch
}

/** The same paths by the algorithm of Floyd (1962) and Warshall. */
export function plainShortest(legs: Float32Array, size: number): Float32Array {
  const best = legs.slice()
  for (let via = 0; via < size; via++) {
    for (let from = 0; from < size; from++) {
      const first = best[from * size + via]!
      for (let to = 0; to < size; to++) {
        const length = first + best[via * size + to]!
        if (length < best[from * size + to]!) best[from * size + to] = length
      }
    }
  }
  return best
}

const hours = (minutes: number): string =>
  minutes === Number.POSITIVE_INFINITY
    ? 'no way'
    : `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, '0')}`

async function main(closed = 'ATL'): Promise<void> {
  const network = readNetwork()
  const { airports } = network
  const size = airports.length
  const bus = await Bus.open()
  try {
    await createRoutes(bus, network)
    const before = shortest(bus)
    const connected = bus.read('pairs')[0]
    const startedMs = performance.now()
    const epoch = await close(bus, network, closed)
    const tookMs = performance.now() - startedMs
    const after = shortest(bus)
    const longer = after.reduce((count, minutes, pair) => count + (minutes > before[pair]! ? 1 : 0), 0)
    console.log(`${size} airports, ${connected} of ${size * size} pairs connected`)
    console.log(`epoch ${epoch}: ${closed} closes; ${longer} pairs take longer (${tookMs.toFixed(0)} ms)`)
    for (const [from, to] of [
      ['CHS', 'SEA'],
      ['BGR', 'MIA'],
      ['ABY', 'LAX'],
    ] as const) {
      const pair = airports.indexOf(from) * size + airports.indexOf(to)
      if (pair >= 0) console.log(`  ${from} to ${to}  ${hours(before[pair]!)} -> ${hours(after[pair]!)}`)
    }
    const plain = plainShortest(bus.read('legs') as Float32Array, size)
    const equal = bus.read('settled')[0] === 1 && plain.every((minutes, pair) => minutes === after[pair])
    console.log(equal ? 'every path equals the plain computation' : 'DIFFERS from the plain computation')
    if (!equal) process.exitCode = 1
  } finally {
    await bus.close()
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main(process.argv[2])
