/**
 * The pages, and how a batch of records becomes one transaction: it adds to counters and histograms; all
 * else is derived.
 */
import type { Delta, NamedDefinition } from '../../src/client/node.js'
import type { Departure, Flight } from './records.js'

/** A flight that arrives this many minutes late counts as late, as in the official statistics. */
export const LATE_MINUTES = 15
/** Bins of 15 minutes, from one hour early; the last one takes all longer delays. */
export const BINS = 16
/** Arrivals that an airport needs to be ranked. */
export const RANKED_ARRIVALS = 50
export const TOP = 10
export const HOURS = 24

export const binOf = (delay: number): number => Math.min(BINS - 1, Math.max(0, Math.floor((delay + 60) / 15)))

export function pagesFor(airports: number): NamedDefinition[] {
  const counter = (name: string, ...shape: number[]): NamedDefinition => ({ name, dtype: 'u32', shape })
  const map = (name: string, inputs: Record<string, string>, expr: string): NamedDefinition => ({
    name,
    derive: { op: 'map', inputs, expr },
  })
  const top = (name: string, output: 'indices' | 'values'): NamedDefinition => ({
    name,
    derive: { op: 'topk', inputs: { x: 'flights.ranked' }, k: TOP, axis: 0, output },
  })
  return [
    counter('flights.departures', airports),
    counter('flights.arrivals', airports),
    counter('flights.late', airports),
    { name: 'flights.minutes', dtype: 'i64', shape: [airports] },
    counter('flights.histogram', airports, BINS),
    map('flights.rate', { late: 'flights.late', n: 'flights.arrivals' }, 'late / max(n, 1)'),
    map('flights.mean', { minutes: 'flights.minutes', n: 'flights.arrivals' }, 'minutes / max(n, 1)'),
    map(
      'flights.ranked',
      { rate: 'flights.rate', n: 'flights.arrivals' },
      `where(n >= ${RANKED_ARRIVALS}, rate, -1)`,
    ),
    top('flights.top', 'indices'),
    top('flights.top-rate', 'values'),
    {
      name: 'flights.delays',
      derive: { op: 'reduce', inputs: { x: 'flights.histogram' }, fn: 'sum', axes: [0] },
    },
    counter('hours.flights', HOURS),
    counter('hours.late', HOURS),
    counter('hours.histogram', HOURS, BINS),
    map('hours.rate', { late: 'hours.late', n: 'hours.flights' }, 'late / max(n, 1)'),
  ]
}

type Op = Delta & { readonly page: string }

/** Adds 1 at each index. */
const count = (page: string, indices: readonly number[]): Op => ({
  page,
  indices,
  values: new Uint32Array(indices.length).fill(1),
  merge: 'add',
})

/** `numberOf`: the index of each airport in the pages. */
export function flightOps(flights: readonly Flight[], numberOf: ReadonlyMap<string, number>): Op[] {
  const to = flights.map(({ destination }) => numberOf.get(destination)!)
  const isLate = (_: number, i: number): boolean => flights[i]!.delay >= LATE_MINUTES
  return [
    count(
      'flights.departures',
      flights.map(({ origin }) => numberOf.get(origin)!),
    ),
    count('flights.arrivals', to),
    count('flights.late', to.filter(isLate)),
    {
      page: 'flights.minutes',
      indices: to,
      values: BigInt64Array.from(flights, ({ delay }) => BigInt(delay)),
      merge: 'add',
    },
    count(
      'flights.histogram',
      to.map((airport, i) => airport * BINS + binOf(flights[i]!.delay)),
    ),
  ]
}

export function hourOps(departures: readonly Departure[]): Op[] {
  const hours = departures.map(({ time }) => Math.floor(time))
  return [
    count('hours.flights', hours),
    count(
      'hours.late',
      hours.filter((_, i) => departures[i]!.delay >= LATE_MINUTES),
    ),
    count(
      'hours.histogram',
      hours.map((hour, i) => hour * BINS + binOf(departures[i]!.delay)),
    ),
  ]
}
