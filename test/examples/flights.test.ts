/**
 * The flights example: its independent figures are right, and the demo matches them, also across a SIGKILL.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import t from 'tap'
import { independentPages } from '../../examples/flights/independent.js'
import { BINS, binOf, flightOps } from '../../examples/flights/model.js'
import { airportsOf, readDepartures, readFlights } from '../../examples/flights/records.js'
import { programArgs } from '../lib/place.js'

const DEMO = programArgs('examples/flights/demo.ts')

t.test('the records are what they are said to be', async (t) => {
  const flights = readFlights(20_000)
  t.equal(flights.length, 20_000)
  t.equal(readDepartures(200_000).length, 200_000)
  t.match(flights[0], { date: '2001/01/01 00:47', delay: 66, origin: 'DTW', destination: 'LAS' })
  t.ok(flights.every(({ date }, i) => i === 0 || date >= flights[i - 1]!.date))
  t.ok(airportsOf(flights).length > 200)
})

t.test('bins and independent figures, by hand', async (t) => {
  t.same([-61, -60, -46, -45, 0, 14, 15, 164, 165, 999].map(binOf), [0, 0, 0, 1, 4, 4, 5, 14, 15, 15])
  const flights = [
    { date: '2001/01/01 00:00', delay: 15, origin: 'AAA', destination: 'BBB' },
    { date: '2001/01/01 00:01', delay: -5, origin: 'BBB', destination: 'AAA' },
    { date: '2001/01/01 00:02', delay: 14, origin: 'AAA', destination: 'BBB' },
  ]
  const pages = independentPages(flights, [{ time: 23.98, delay: 200 }], ['AAA', 'BBB'])
  t.same(pages.get('flights.departures'), [2, 1])
  t.same(pages.get('flights.late'), [0, 1])
  t.same(pages.get('flights.rate'), [0, 0.5])
  t.same(pages.get('flights.mean'), [-5, 14.5])
  t.same(pages.get('flights.ranked'), [-1, -1], 'too few to be ranked')
  t.equal(pages.get('flights.histogram')![BINS + 5], 1)
  t.equal(pages.get('hours.histogram')![23 * BINS + 15], 1)
  const ops = flightOps(
    flights,
    new Map([
      ['AAA', 0],
      ['BBB', 1],
    ]),
  )
  t.same(ops[1]!.indices, [1, 0, 1])
})

t.test('the demo agrees with the independent count and survives the kill', { timeout: 90_000 }, async (t) => {
  const args = [...DEMO, '--flights', '3000', '--departures', '9000', '--batch', '60']
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  child.stdout.on('data', (chunk) => {
    output += chunk
  })
  child.stderr.on('data', (chunk) => {
    output += chunk
  })
  const [code] = await once(child, 'close')
  t.equal(code, 0, output)
  t.match(output, /\nequal\n$/)
  t.match(output, /kill -9 .*unanswered/)
  t.match(output, /restart /)
  t.match(output, /most often late: [A-Z]{3} \d/)
  t.match(output, / 0 not whole/)
  t.match(output, /\d{4,} comparisons, 0 differ/)
})
