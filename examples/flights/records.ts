/**
 * The flights: real records of US domestic flights of 2001 (vega-datasets, from the Bureau of Transportation
 * Statistics).
 *
 * flights-20k.json has 20,000 flights of three months with their airports; flights-200k.json has 200,000
 * without airports, with the hour of departure. Delays are minutes at arrival; negative: early. Invariant: a
 * malformed record throws.
 */
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

const DATA = join(dirname(createRequire(import.meta.url).resolve('vega-datasets')), '..', 'data')

export interface Flight {
  /** `YYYY/MM/DD hh:mm`, local. */
  readonly date: string
  readonly delay: number
  readonly origin: string
  readonly destination: string
}

export interface Departure {
  /** Hours of the day, 0 to 24. */
  readonly time: number
  readonly delay: number
}

/** By date. */
export function readFlights(count: number): Flight[] {
  const flights = parse('flights-20k.json').slice(0, count) as Partial<Flight>[]
  for (const { date, delay, origin, destination } of flights) {
    const isSound = /^2001\/\d\d\/\d\d \d\d:\d\d$/.test(date ?? '') && Number.isInteger(delay)
    if (!isSound || !isAirport(origin) || !isAirport(destination)) throw new Error('unexpected flight')
  }
  return flights as Flight[]
}

export function readDepartures(count: number): Departure[] {
  const departures = parse('flights-200k.json').slice(0, count) as Partial<Departure>[]
  for (const { time, delay } of departures) {
    if (!(time! >= 0 && time! < 24 && Number.isInteger(delay))) throw new Error('unexpected departure')
  }
  return departures as Departure[]
}

const parse = (name: string): object[] => JSON.parse(readFileSync(join(DATA, name), 'utf8')) as object[]

const isAirport = (code: string | undefined): boolean => /^[A-Z]{3}$/.test(code ?? '')

/** Every airport in the records, by name; pages have one element for each. */
export const airportsOf = (flights: readonly Flight[]): string[] =>
  [...new Set(flights.flatMap(({ origin, destination }) => [origin, destination]))].sort()
