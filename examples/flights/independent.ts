/**
 * The same figures from the records alone, one loop each, in plain TypeScript. Shares only constants
 * with the model.
 */
import { BINS, HOURS, LATE_MINUTES, RANKED_ARRIVALS, TOP } from './model.js'
import type { Departure, Flight } from './records.js'

/** Flat values of each page. */
export function independentPages(
  flights: readonly Flight[],
  departures: readonly Departure[],
  airports: readonly string[],
): Map<string, number[]> {
  const zeros = (length: number): number[] => new Array<number>(length).fill(0)
  const at = new Map(airports.map((name, i) => [name, i]))
  const left = zeros(airports.length)
  const arrived = zeros(airports.length)
  const late = zeros(airports.length)
  const minutes = zeros(airports.length)
  const histogram = zeros(airports.length * BINS)
  const delays = zeros(BINS)
  for (const { origin, destination, delay } of flights) {
    const to = at.get(destination)!
    left[at.get(origin)!]! += 1
    arrived[to]! += 1
    if (delay >= LATE_MINUTES) late[to]! += 1
    minutes[to]! += delay
    histogram[to * BINS + bin(delay)]! += 1
    delays[bin(delay)]! += 1
  }
  const hourly = zeros(HOURS)
  const hourlyLate = zeros(HOURS)
  const hourlyHistogram = zeros(HOURS * BINS)
  for (const { time, delay } of departures) {
    hourly[Math.trunc(time)]! += 1
    if (delay >= LATE_MINUTES) hourlyLate[Math.trunc(time)]! += 1
    hourlyHistogram[Math.trunc(time) * BINS + bin(delay)]! += 1
  }
  const share = (part: readonly number[], whole: readonly number[]): number[] =>
    part.map((n, i) => (whole[i] === 0 ? n : n / whole[i]!))
  const rate = share(late, arrived)
  const ranked = rate.map((value, i) => (arrived[i]! >= RANKED_ARRIVALS ? value : -1))
  const top = ranked
    .map((_, i) => i)
    .sort((a, b) => ranked[b]! - ranked[a]! || a - b)
    .slice(0, TOP)
  return new Map([
    ['flights.departures', left],
    ['flights.arrivals', arrived],
    ['flights.late', late],
    ['flights.minutes', minutes],
    ['flights.histogram', histogram],
    ['flights.rate', rate],
    ['flights.mean', share(minutes, arrived)],
    ['flights.ranked', ranked],
    ['flights.top', top],
    ['flights.top-rate', top.map((i) => ranked[i]!)],
    ['flights.delays', delays],
    ['hours.flights', hourly],
    ['hours.late', hourlyLate],
    ['hours.histogram', hourlyHistogram],
    ['hours.rate', share(hourlyLate, hourly)],
  ])
}

function bin(delay: number): number {
  for (let i = 1; i < BINS; i++) if (delay < -60 + 15 * i) return i - 1
  return BINS - 1
}
