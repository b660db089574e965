/**
 * A data folder some of whose epochs are void: cheap epochs, and costly ones that were cancelled at once.
 */
import type { BusOptions } from '../../src/engine/types.js'
import { Bus, MmsbError } from '../../src/index.js'
import type { TypedArray } from '../../src/wire/dtype.js'

/** Side of x. A conv of it with itself takes some 30 ms, and is cancelled after 1 ms. */
const SIDE = 90
const ELEMENTS = SIDE * SIDE
const CONV = { op: 'conv' as const, inputs: { x: 'x', kernel: 'x' }, boundary: 'wrap' as const }

export interface EpochState {
  readonly digest: string
  readonly isVoid: boolean
  /** The values of every page, by name. */
  readonly pages: Readonly<Record<string, TypedArray>>
}

export interface VoidFolder {
  /** What the folder held after each epoch; the index is the epoch, from 0 on. */
  readonly states: readonly EpochState[]
  readonly newest: number
}

const OPTIONS = { backend: 'cpu', threads: 1, fsync: 'off', segmentBytes: 16 * 1024 } as const

export const openVoids = (dataDir: string, options: BusOptions = {}): Promise<Bus> =>
  Bus.open({ dataDir, ...OPTIONS, ...options })

/** The options under which whatever is computed from x is cancelled. */
export const CANCELS_AT_ONCE: BusOptions = { limits: { maxCommitTimeMs: 1 } }

/** Resolves with whether the epoch of the commit is void. */
export async function isCancelled(commit: Promise<unknown>): Promise<boolean> {
  try {
    await commit
    return false
  } catch (error) {
    if (error instanceof MmsbError && error.code === 'COST_EXCEEDED') return true
    throw error
  }
}

export const stateOf = (bus: Bus, isVoid: boolean): EpochState => ({
  digest: bus.status().digest,
  isVoid,
  pages: Object.fromEntries(bus.pageNames().map((name) => [name, bus.read(name)])),
})

/** Pages of every kind: sources, the costly one, one that keeps state, and one that reads the past. */
export async function createPages(
  bus: Pick<Bus, 'create' | 'derive'>,
  note: (isVoid: boolean) => void,
): Promise<void> {
  const make = async (work: Promise<unknown>): Promise<void> => {
    await work
    note(false)
  }
  await make(bus.create('a', { dtype: 'i32', shape: [800] }))
  await make(bus.create('x', { dtype: 'f64', shape: [SIDE, SIDE], fill: 1 }))
  await make(bus.derive('sum', { op: 'reduce', inputs: { x: 'a' }, fn: 'sum' }))
  await make(
    bus.derive('step', { op: 'map', inputs: { now: 'sum', old: { prev: 'sum' } }, expr: 'now - old' }),
  )
  await make(bus.derive('total', { op: 'reduce', inputs: { x: 'x' }, fn: 'sum' }))
  await make(bus.derive('y', CONV))
}

/** One round of a bus with CANCELS_AT_ONCE: each kind of cancelled epoch, between others. */
export async function voidRound(bus: Bus, round: number, note: (isVoid: boolean) => void): Promise<void> {
  const write = async (count: number): Promise<void> => {
    const values = Array.from({ length: count }, (_, i) => round * 1_000 + i)
    await bus.patch('a', { offset: round % 50, values })
    note(false)
  }
  await write(40)
  note(await isCancelled(bus.patch('x', { offset: round, values: [round + 2], merge: 'add' })))
  note(await isCancelled(bus.write('x', new Float64Array(ELEMENTS).fill(round + 5))))
  await write(700)
  note(await isCancelled(bus.derive(`z${round}`, CONV)))
  const both = [
    { page: 'a', offset: 0, values: [-round] },
    { page: 'x', offset: 1, values: [-round] },
  ]
  note(await isCancelled(bus.transact({ ops: both, source: 'both' })))
  await write(3)
}

/** Fills the folder. Throws when too few of its epochs became void to test anything. */
export async function fillWithVoids(dataDir: string, rounds: number): Promise<VoidFolder> {
  const states: EpochState[] = []
  const noting = (bus: Bus) => (isVoid: boolean) => states.push(stateOf(bus, isVoid))
  let bus = await openVoids(dataDir)
  noting(bus)(false)
  await createPages(bus, noting(bus))
  await bus.close()
  bus = await openVoids(dataDir, CANCELS_AT_ONCE)
  for (let round = 1; round <= rounds; round++) await voidRound(bus, round, noting(bus))
  const newest = bus.epoch
  await bus.close()
  const voids = states.filter(({ isVoid }) => isVoid).length
  if (states.length !== newest + 1 || voids < rounds)
    throw new Error(`${states.length} states, ${voids} of them void, of ${newest} epochs`)
  return { states, newest }
}
