/**
 * Flights: 220,000 real flight records replayed into counters and histograms on a real server, watched
 * through the client.
 *
 * Every batch of records is one transaction over the WebSocket; the delay rates and the ten worst
 * airports change in the same epoch. There are three kinds of watchers: a live mirror that must be
 * consistent at every epoch, lossless subscriptions that rebuild pages from changes alone, and one that
 * takes the latest state five times a second. In the middle the server is killed with SIGKILL and started
 * again; writers and watchers continue by themselves. At the end everything is compared with an
 * independent count of the records.
 *
 *   npx tsx examples/flights/demo.ts [--flights N] [--departures N] [--batch N]
 *
 * Exit code 0: everything agreed. 1: something differed or failed.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
// In your own program: from 'mmsb/client'.
import {
  type Client,
  connect,
  type MirrorSet,
  type Transaction,
  type TypedArray,
} from '../../src/client/node.js'
import { runDemo, type Server, startServer } from '../server.js'
import { independentPages } from './independent.js'
import { flightOps, hourOps, pagesFor } from './model.js'
import { airportsOf, readDepartures, readFlights } from './records.js'

/** Transactions that may be unanswered at a time. */
const WINDOW = 64
const WATCHERS = 3

const say = (text = ''): void => {
  process.stdout.write(`${text}\n`)
}

/** Batches of both kinds of records, interleaved so that both end at the same time. */
interface Batch {
  readonly ops: Transaction['ops']
  readonly flights: number
  readonly until: string | undefined
}

interface Watch {
  /** The pages of the lossless subscriptions, rebuilt from changes alone. */
  readonly sums: Map<string, Float64Array>[]
  /** Epochs that a watcher saw inconsistent or out of order. */
  wrong: number
  epochs: number
  latest: number
}

function count(text: string | undefined, most: number): number {
  const value = Number(text ?? most)
  if (Number.isInteger(value) && value > 0 && value <= most) return value
  throw new Error(`${text} is not an integer from 1 to ${most}`)
}

async function main(): Promise<boolean> {
  const { values } = parseArgs({
    options: { flights: { type: 'string' }, departures: { type: 'string' }, batch: { type: 'string' } },
  })
  const flights = readFlights(count(values.flights, 20_000))
  const departures = readDepartures(count(values.departures, 200_000))
  const airports = airportsOf(flights)
  const dataDir = mkdtempSync(join(tmpdir(), 'mmsb-flights-'))
  process.once('exit', () => rmSync(dataDir, { recursive: true, force: true }))
  let server = await startServer({ dataDir })
  say(
    `records   ${flights.length} flights of ${airports.length} airports, ${departures.length} departures by hour`,
  )
  say(`server    ${server.url}  pid ${server.pid}, ready in ${server.startMs.toFixed(0)} ms`)
  const bus = connect(server.url, { retries: 20 })
  const { epoch } = await bus.createMany(pagesFor(airports.length))
  const mirror = await bus.mirrorAll(['flights.*', 'hours.*'])
  const watch: Watch = { sums: [], wrong: 0, epochs: 0, latest: 0 }
  // From the epoch before the pages were created, so that their first contents arrive as changes.
  watchAll(bus, mirror, epoch - 1, watch)
  say(`pages     ${mirror.pages.size} made in epoch ${epoch}; ${WATCHERS + 2} watchers\n`)

  const batches = batchesOf(flights, departures, airports, count(values.batch ?? '100', 10_000))
  const startedMs = performance.now()
  const last = await replay(bus, mirror, batches, airports, async () => {
    server = await crash(server, dataDir)
  })
  const seconds = (performance.now() - startedMs) / 1000
  await mirror.until(last)
  const rate = ((flights.length + departures.length) / seconds).toFixed(0)
  say(
    `\nreplayed  ${batches.length} transactions, ${rate} records/s, the kill included; epoch ${mirror.epoch}`,
  )
  const isEqual = await verdict(bus, mirror, watch, independentPages(flights, departures, airports))
  await bus.close()
  await server.stop()
  return isEqual
}

function batchesOf(
  flights: ReturnType<typeof readFlights>,
  departures: ReturnType<typeof readDepartures>,
  airports: readonly string[],
  size: number,
): Batch[] {
  const numberOf = new Map(airports.map((name, i) => [name, i]))
  const steps = Math.ceil((flights.length + departures.length) / size)
  const part = <T>(records: readonly T[], step: number): readonly T[] =>
    records.slice(
      Math.floor((records.length * step) / steps),
      Math.floor((records.length * (step + 1)) / steps),
    )
  return Array.from({ length: steps }, (_, step) => {
    const some = part(flights, step)
    return {
      ops: [...flightOps(some, numberOf), ...hourOps(part(departures, step))],
      flights: some.length,
      until: some.at(-1)?.date,
    }
  })
}

/** Sends every batch, a window at a time. Half way through calls `interrupt`, while writes are unanswered. */
async function replay(
  bus: Client,
  mirror: MirrorSet,
  batches: readonly Batch[],
  airports: readonly string[],
  interrupt: () => Promise<void>,
): Promise<number> {
  const writer = bus.writer()
  const answers: Promise<{ readonly epoch: number }>[] = []
  let date = ''
  let sent = 0
  const shown = Math.max(1, Math.floor(batches.length / 12))
  for (const [i, batch] of batches.entries()) {
    answers.push(writer.transact({ ops: batch.ops, source: 'replay' }))
    sent += batch.flights
    date = batch.until ?? date
    if (i === Math.floor(batches.length / 2)) {
      await mirror.until((await answers[Math.max(0, i - WINDOW)]!).epoch)
      say(`kill -9   with ${writer.pending} transactions unanswered`)
      await interrupt()
    }
    if (i >= WINDOW) await answers[i - WINDOW]
    if ((i + 1) % shown === 0) {
      await mirror.until((await answers.at(-1)!).epoch)
      say(progress(mirror, airports, date, sent))
    }
  }
  const all = await Promise.all(answers)
  await writer.close()
  return Math.max(...all.map(({ epoch }) => epoch))
}

function progress(mirror: MirrorSet, airports: readonly string[], date: string, sent: number): string {
  const top = mirror.pages.get('flights.top')!.values as Uint32Array
  const rates = mirror.pages.get('flights.top-rate')!.values as Float64Array
  const leaders = [...top.subarray(0, 4)].flatMap((airport, i) =>
    rates[i]! < 0 ? [] : [`${airports[airport]} ${(rates[i]! * 100).toFixed(1)} %`],
  )
  const worst = leaders.length === 0 ? 'nobody ranked yet' : `most often late: ${leaders.join(', ')}`
  return `${date}  ${String(sent).padStart(6)} flights  epoch ${String(mirror.epoch).padStart(5)}  ${worst}`
}

async function crash(server: Server, dataDir: string): Promise<Server> {
  const { port } = new URL(server.url)
  await server.kill()
  const again = await startServer({ dataDir, args: ['--port', port] })
  say(
    `restart   pid ${again.pid} in ${again.startMs.toFixed(0)} ms; writers and watchers continue by themselves`,
  )
  return again
}

/** Starts the watchers, which end with the client. */
function watchAll(bus: Client, mirror: MirrorSet, from: number, watch: Watch): void {
  mirror.onChange(() => {
    watch.epochs++
    if (!isWhole(mirror)) watch.wrong++
  })
  for (let i = 0; i < WATCHERS; i++) {
    const pages = new Map<string, Float64Array>()
    watch.sums.push(pages)
    void follow(bus, from, pages, watch)
  }
  void glance(bus, watch)
}

/** Whether all pages of counters count the same flights, as they must within one epoch. */
function isWhole({ pages }: MirrorSet): boolean {
  const total = (name: string): number => sum(pages.get(name)!.values)
  const flights = total('flights.arrivals')
  return (
    total('flights.departures') === flights &&
    total('flights.histogram') === flights &&
    total('flights.delays') === flights &&
    total('hours.histogram') === total('hours.flights')
  )
}

function sum(values: TypedArray): number {
  let total = 0
  for (const value of values) total += Number(value)
  return total
}

/** Rebuilds pages from changes alone. */
async function follow(
  bus: Client,
  from: number,
  pages: Map<string, Float64Array>,
  watch: Watch,
): Promise<void> {
  let last = from
  for await (const { epoch, changes } of bus.subscribe({ pages: ['flights.*', 'hours.*'], from })) {
    if (epoch <= last) watch.wrong++
    last = epoch
    for (const { page, shape, ranges, values } of changes) {
      const size = shape.reduce((product, n) => product * n, 1)
      const target = pages.get(page) ?? new Float64Array(size)
      pages.set(page, target)
      let at = 0
      for (const [offset, count] of ranges) {
        for (let i = 0; i < count; i++) target[offset + i] = Number(values![at++])
      }
    }
  }
}

async function glance(bus: Client, watch: Watch): Promise<void> {
  for await (const _ of bus.subscribe({ pages: ['flights.top*'], policy: 'latest', maxRate: 5 }))
    watch.latest++
}

/**
 * Compares with the independent count: the mirror, a fresh read, and the pages rebuilt by the
 * lossless watchers.
 */
async function verdict(
  bus: Client,
  mirror: MirrorSet,
  watch: Watch,
  expected: ReadonlyMap<string, readonly number[]>,
): Promise<boolean> {
  let compared = 0
  let differ = 0
  const compare = (name: string, values: ArrayLike<number | bigint> | undefined): void => {
    const truth = expected.get(name)!
    for (let i = 0; i < truth.length; i++) {
      compared++
      if (Number(values?.[i]) === truth[i]) continue
      if (differ++ < 10) say(`differs   ${name}[${i}]: ${values?.[i]}, expected ${truth[i]}`)
    }
  }
  await settled(watch, mirror)
  const { pages } = await bus.readMany([...expected.keys()])
  for (const name of expected.keys()) {
    compare(name, mirror.pages.get(name)?.values)
    compare(name, pages[name]?.values)
    for (const sums of watch.sums)
      compare(name, sums.get(name) ?? new Float64Array(expected.get(name)!.length))
  }
  say(`watched   ${watch.epochs} epochs by the mirror, ${watch.wrong} not whole; ${watch.latest} glances`)
  say(`checked   ${compared} comparisons, ${differ} differ`)
  const isEqual = differ === 0 && watch.wrong === 0 && watch.epochs > 0
  say(isEqual ? 'equal' : 'NOT EQUAL')
  return isEqual
}

/** Waits until the lossless watchers have the last epoch too. */
async function settled(watch: Watch, mirror: MirrorSet): Promise<void> {
  const deadlineMs = performance.now() + 20_000
  const flights = sum(mirror.pages.get('hours.flights')!.values)
  const isBehind = (pages: Map<string, Float64Array>): boolean => {
    const values = pages.get('hours.flights')
    return values === undefined || sum(values) !== flights
  }
  while (watch.sums.some(isBehind) && performance.now() < deadlineMs) {
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

await runDemo(main)
