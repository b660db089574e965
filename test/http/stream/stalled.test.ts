/**
 * Readers of every kind stop reading under load: what is queued for them stays within the bounds of each, the
 * server's memory stays flat, and the delay of the other readers does not grow. MMSB_STALL_SECONDS sets the
 * duration.
 */
import { readFileSync } from 'node:fs'
import { request } from 'node:http'
import { performance } from 'node:perf_hooks'
import t from 'tap'
import {
  STREAM_CATCH_UP_QUEUE_BYTES,
  STREAM_FREE_BYTES,
  STREAM_QUEUE_MAX_BYTES,
  STREAM_RECENT_MAX_BYTES,
} from '../../../src/limits.js'
import { call, serve } from '../../cli/process.js'
import { sleep } from '../../lib/wait.js'
import { Client } from '../../stream/helpers.js'

const SECONDS = Number(process.env.MMSB_STALL_SECONDS ?? 6)
const WRITES_PER_SECOND = 60
/** Bytes of the large page; its JSON is about four times as long. */
const WIDE_BYTES = 16 * 1024
/** A change of it as JSON: three digits and a comma for each element. */
const MESSAGE_BYTES = 4 * WIDE_BYTES + 1024
const MIB = 1024 ** 2
/** What V8 and the allocator hold beyond what is queued and kept: 20 to 40 MiB were seen. */
const SLACK_BYTES = 64 * MIB

t.setTimeout((3 * SECONDS + 90) * 1000)

t.test('memory stays flat and the others receive epochs as fast as before', async (t) => {
  t.setTimeout((3 * SECONDS + 80) * 1000)
  const server = serve(t, ['--data-dir', `${t.testdir()}/data`, '--fsync', 'interval', '--backend', 'cpu'])
  const url = await server.ready()
  const port = Number(new URL(url).port)
  const residentBytes = (): number => {
    const status = readFileSync(`/proc/${server.child.pid}/status`, 'utf8')
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024
  }
  await call(url, 'PUT', '/v1/pages/wide', { dtype: 'u8', shape: [WIDE_BYTES] })
  await call(url, 'PUT', '/v1/pages/count', { dtype: 'u32', shape: [1] })
  const derive = { op: 'map', inputs: { c: 'count' }, expr: 'c + 1' }
  await call(url, 'PUT', '/v1/pages/after', { derive })

  const [writer, reader] = [await Client.open(port, ['mmsb.v1.json']), await Client.open(port)]
  await reader.ask({ type: 'subscribe', id: 'r', pages: ['after'] })
  let count = 0
  /** Writes at a steady rate; returns the milliseconds from each write to its derived change, sorted. */
  const load = async (seconds: number): Promise<number[]> => {
    const latencies: number[] = []
    const startMs = performance.now()
    // At most this many; fewer on a machine that cannot keep the rate.
    for (let i = 0; i < seconds * WRITES_PER_SECOND && performance.now() < startMs + seconds * 1500; i++) {
      await sleep(Math.max(0, startMs + (i * 1000) / WRITES_PER_SECOND - performance.now()))
      const fill = 100 + (count % 100)
      count++
      const sentMs = performance.now()
      const ops = [
        { page: 'count', values: [count] },
        { page: 'wide', values: Array(WIDE_BYTES).fill(fill) },
      ]
      writer.send({ type: 'transaction', id: `t${count}`, ops })
      await reader.until(() => reader.messages.at(-1)?.type === 'change' && toldValue(reader) === count + 1)
      latencies.push(performance.now() - sentMs)
      reader.messages.length = 0
      writer.messages.length = 0
    }
    return latencies.sort((a, b) => a - b)
  }
  const before = await load(SECONDS / 2)
  const baseline = residentBytes()

  const stalled: Client[] = []
  for (const options of [
    { policy: 'lossless' },
    { policy: 'latest' },
    { policy: 'lossless', from: 0 },
    { policy: 'lossless', from: 0, durable: 'stalled' },
  ]) {
    const client = await Client.open(port)
    client.send({ type: 'subscribe', id: 's', pages: ['wide'], ...options })
    client.socket.pause()
    stalled.push(client)
  }
  const events = request(`${url}/v1/events?pages=wide&from=0`)
  events.on('response', (response) => response.pause())
  events.on('error', () => {})
  events.end()
  t.teardown(() => events.destroy())

  /** What is queued for all readers, as the server counts it. */
  const queuedBytes = async (): Promise<number> => {
    const metrics = await (await fetch(`${url}/metrics`)).text()
    return Number(/^mmsb_limit_used\{limit="stream-budget"\} (\d+)$/m.exec(metrics)?.[1] ?? Number.NaN)
  }
  const countBefore = count
  let isOver = false
  let mostQueued = 0
  const watching = (async () => {
    for (; !isOver; await sleep(50)) mostQueued = Math.max(mostQueued, await queuedBytes())
  })()
  // Time for the queues to fill; after that, memory must not grow.
  await load(SECONDS / 2)
  const filled = residentBytes()
  const during = await load(SECONDS)
  const after = residentBytes()
  isOver = true
  await watching
  const mib = (bytes: number): string => `${Math.round(bytes / MIB)} MiB`
  const p = (latencies: readonly number[], share: number): number =>
    latencies[Math.floor((latencies.length - 1) * share)]!
  const ms = (latencies: readonly number[]): string =>
    `p50 ${p(latencies, 0.5).toFixed(2)} ms, p99 ${p(latencies, 0.99).toFixed(2)} ms`
  t.comment(`resident ${mib(baseline)}, with stalled readers ${mib(filled)}, at the end ${mib(after)}`)
  t.comment(`${before.length} writes before: ${ms(before)}; ${during.length} meanwhile: ${ms(during)}`)
  t.comment(`at most ${mib(mostQueued)} were queued`)
  // The live lossless reader, those that catch up, and the one that folds.
  const mayBeQueued =
    STREAM_QUEUE_MAX_BYTES + 3 * STREAM_CATCH_UP_QUEUE_BYTES + STREAM_FREE_BYTES + 5 * MESSAGE_BYTES
  // The system takes some MiB for each; on a slow machine too little is written to fill that.
  const isMuch = (count - countBefore) * MESSAGE_BYTES > STREAM_QUEUE_MAX_BYTES
  if (isMuch) t.ok(mostQueued > STREAM_FREE_BYTES, 'they do not read')
  t.ok(mostQueued <= mayBeQueued, `${mostQueued} bytes were queued, at most ${mayBeQueued} may be`)
  const mayBeHeld = mayBeQueued + STREAM_RECENT_MAX_BYTES + SLACK_BYTES
  t.ok(after - baseline < mayBeHeld, `grew by ${mib(after - baseline)}, at most ${mib(mayBeHeld)}`)
  t.ok(after - filled < SLACK_BYTES, 'and flat')
  t.ok(p(during, 0.5) < 3 * p(before, 0.5) + 10, 'the others receive epochs as fast as before')
  const { subscriptions } = (await call(url, 'GET', '/v1/stats')) as { subscriptions: { overflows: number } }
  t.ok(subscriptions.overflows <= 1, 'only the lossless one that was live was ended')
  for (const client of stalled) client.socket.terminate()
  await Promise.all([writer.close(), reader.close()])
})

const toldValue = (client: Client): unknown => client.messages.at(-1)?.changes?.[0]?.values?.[0]
