/**
 * The network of flights between US airports, from the npm package vega-datasets (airports.csv and
 * flights-airport.csv).
 *
 * Invariants: the airports are those with a flight, ordered by code. The minutes of a leg are an integer, so
 * that their sums are exact in f32 in any order.
 */
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

export interface Network {
  /** IATA codes. */
  readonly airports: readonly string[]
  /** Minutes from airport i to j, at i * size + j: 0 to itself, Infinity without a flight. */
  readonly minutes: Float32Array
}

const EARTH_KM = 6371
const CRUISE_KM_PER_HOUR = 800
/** Minutes at the gate and until the next flight. */
const STOP_MINUTES = 60

function lines(file: string): string[][] {
  const entry = createRequire(import.meta.url).resolve('vega-datasets')
  const csv = readFileSync(join(dirname(entry), '..', 'data', file), 'utf8')
  const rows = csv.trim().split('\n').slice(1)
  return rows.map((row) => row.trim().split(','))
}

type Place = readonly [latitude: number, longitude: number]

/** Distance along a great circle (haversine). */
function kilometres([lat1, lon1]: Place, [lat2, lon2]: Place): number {
  const radians = Math.PI / 180
  const [dLat, dLon] = [(lat2 - lat1) * radians, (lon2 - lon1) * radians]
  const a =
    Math.sin(dLat / 2) ** 2 + Math.cos(lat1 * radians) * Math.cos(lat2 * radians) * Math.sin(dLon / 2) ** 2
  return 2 * EARTH_KM * Math.asin(Math.sqrt(a))
}

/** `most`: keeps this many airports, those with the most flights. */
export function readNetwork(most = Number.POSITIVE_INFINITY): Network {
  // Names of airports may contain commas; codes and coordinates do not.
  const places = new Map<string, Place>(
    lines('airports.csv').map((cells) => [cells[0]!, [Number(cells.at(-2)), Number(cells.at(-1))]]),
  )
  const flights = lines('flights-airport.csv').filter(([from, to]) => places.has(from!) && places.has(to!))
  const counts = new Map<string, number>()
  for (const [from, to, count] of flights) {
    for (const airport of [from!, to!]) counts.set(airport, (counts.get(airport) ?? 0) + Number(count))
  }
  const busiest = [...counts].sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1)).slice(0, most)
  const airports = busiest.map(([airport]) => airport).sort()
  const place = new Map(airports.map((airport, i) => [airport, i]))
  const size = airports.length
  const minutes = new Float32Array(size * size).fill(Number.POSITIVE_INFINITY)
  for (let i = 0; i < size; i++) minutes[i * size + i] = 0
  for (const [from, to] of flights) {
    const [i, j] = [place.get(from!), place.get(to!)]
    if (i === undefined || j === undefined || i === j) continue
    const km = kilometres(places.get(from!)!, places.get(to!)!)
    minutes[i * size + j] = Math.round((km / CRUISE_KM_PER_HOUR) * 60) + STOP_MINUTES
  }
  return { airports, minutes }
}
