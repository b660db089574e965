/**
 * Latency from a durable write to the derived event at each of 1, 100 or 1,000 subscribers, at a steady rate
 * in an open loop. Baselines: a bare `ws` server that fdatasyncs the same message and broadcasts as many
 * bytes, and a Redis stream (append-only file, always synced) with as many readers. Then the events per
 * second that reach 1,000 sockets.
 */
import { join } from 'node:path'
import { redisStreamSide, type Side, webSocketSide } from '../lib/listeners.js'
import { fanOut, type Latency, openLoop } from '../lib/open-loop.js'
import { pairsOf } from '../lib/pairs.js'
import { type Baseline, startBaseline, startRedis } from '../lib/process.js'
import { median } from '../lib/stats.js'
import { startServer } from '../lib/tree.js'
import type { Context, Result, Skip } from '../lib/types.js'

const WRITES_PER_S = 80
const COUNTS = [1, 100, 1000]
const FAN_OUT_SOCKETS = 1000
const BUDGET = 1.3
const P99_BUDGET_MS = 10
const FAN_OUT_BUDGET = 0.9
const ELEMENTS = 16
const WARM_UP_WRITES = 40
const COMPARED_WRITES = 80

export async function latency(context: Context): Promise<(Result | Skip)[]> {
  const server = await startServer({ dataDir: join(context.dir, 'bus') })
  const put = async (name: string, body: object) => {
    const headers = { 'content-type': 'application/json' }
    const response = await fetch(`${server.url}/v1/pages/${name}`, {
      method: 'PUT',
      headers,
      body: JSON.stringify(body),
    })
    if (!response.ok) throw new Error(await response.text())
  }
  await put('bench.in', { dtype: 'f64', shape: [ELEMENTS] })
  await put('bench.out', { derive: { op: 'map', inputs: { x: 'bench.in' }, expr: 'x * 2' } })
  const port = Number(new URL(server.url).port)
  const eventBytes = await eventSize(port)
  const bare = await startBaseline('ws', join(context.dir, 'bare.log'), 'broadcast', String(eventBytes))
  const redis = await startRedis(context.dir)
  const results: (Result | Skip)[] = []
  for (const count of COUNTS) results.push(...(await compare(context, count, port, bare, redis, eventBytes)))
  results.push(await fanOutRow(context, port, bare, eventBytes))
  await redis?.stop()
  await bare.stop()
  await server.stop()
  return results
}

const write = (serial: number) =>
  JSON.stringify({
    type: 'transaction',
    id: 'w',
    ops: [{ page: 'bench.in', values: Array.from({ length: ELEMENTS }, (_, i) => serial + i) }],
  })

/** Listeners to the derived page, whose first element is twice the serial number. */
const ours = (port: number, listeners: number, onEvent = (_text: string): void => {}) =>
  webSocketSide({
    port,
    listeners,
    listenerPath: '/v1/stream',
    hello: '{"type":"subscribe","id":"s","pages":["bench.out"],"from":"now","data":"values"}',
    write,
    serialOf: (text) => {
      if (text.includes('"error"') || text.includes('"overflow"')) throw new Error(text)
      const at = text.indexOf('"values":[')
      if (at >= 0) onEvent(text)
      return at < 0 ? undefined : Number.parseFloat(text.slice(at + 10, at + 40)) / 2
    },
  })

/** Listeners to the bare server, whose events end with the serial number of the newest write in them. */
const theirs = (port: number, listeners: number) =>
  webSocketSide({
    port,
    listeners,
    listenerPath: '/events',
    hello: undefined,
    write,
    serialOf: (text) => Number(/"serial":(\d+)/.exec(text.slice(-40))![1]),
  })

/** Bytes of one change message, so that the baselines send as many. */
async function eventSize(port: number): Promise<number> {
  let size = 0
  const side = await ours(port, 1, (text) => {
    size = text.length
  })
  await openLoop(side, WRITES_PER_S, 1)
  side.close()
  return size
}

async function compare(
  context: Context,
  count: number,
  port: number,
  bare: Baseline,
  redis: Baseline | null,
  eventBytes: number,
): Promise<(Result | Skip)[]> {
  const name = `durable write -> derived event, ${count} subscribers, ${WRITES_PER_S} writes/s, open loop`
  context.say(name)
  if (context.compared !== undefined) {
    const side = await ours(port, count)
    await context.compared({ name, better: 'lower' }, async () => {
      const { p50 } = await openLoop(side, WRITES_PER_S, COMPARED_WRITES)
      return p50
    })
    side.close()
    return []
  }
  const sides: Side[] = [await ours(port, count), await theirs(bare.port, count)]
  if (redis !== null) sides.push(await redisStreamSide(redis.port, count, eventBytes))
  const runs: Latency[][] = sides.map(() => [])
  for (const side of sides) await openLoop(side, WRITES_PER_S, WARM_UP_WRITES)
  const writes = context.quick ? 80 : 240
  for (let round = 0; round < (context.quick ? 1 : 5); round++) {
    const order = [...sides.keys()]
    for (const side of round % 2 === 0 ? order : order.reverse())
      runs[side]!.push(await openLoop(sides[side]!, WRITES_PER_S, writes))
  }
  for (const side of sides) side.close()
  const bareResult = resultOf(name, runs[0]!, runs[1]!, 'bare ws, fdatasync, broadcast', eventBytes, BUDGET)
  if (redis === null)
    return [bareResult, { name: `${name}, Redis`, skipped: 'redis-server is not installed' }]
  return [bareResult, resultOf(name, runs[0]!, runs[2]!, 'Redis Streams, AOF always', eventBytes, 1)]
}

function resultOf(
  name: string,
  mine: readonly Latency[],
  other: readonly Latency[],
  against: string,
  eventBytes: number,
  budget: number,
): Result {
  const of = (runs: readonly Latency[], which: keyof Latency) => median(runs.map((run) => run[which]))
  const ratio = median(mine.map((run, round) => run.p50 / other[round]!.p50))
  const isMet = ratio <= budget && of(mine, 'p99') <= P99_BUDGET_MS
  return {
    name,
    unit: 'ms p50',
    mmsb: of(mine, 'p50'),
    baseline: of(other, 'p50'),
    against,
    ratio,
    budget: { text: `<= ${budget} x, p99 <= ${P99_BUDGET_MS} ms`, met: isMet },
    details: {
      'p99 mmsb': of(mine, 'p99'),
      'p99 baseline': of(other, 'p99'),
      'max mmsb': of(mine, 'max'),
      'max baseline': of(other, 'max'),
      eventBytes,
    },
  }
}

async function fanOutRow(
  context: Context,
  port: number,
  bare: Baseline,
  eventBytes: number,
): Promise<Result> {
  const name = `fan-out of ${eventBytes} bytes to ${FAN_OUT_SOCKETS} sockets`
  context.say(name)
  const [mine, other] = [await ours(port, FAN_OUT_SOCKETS), await theirs(bare.port, FAN_OUT_SOCKETS)]
  const durationMs = context.quick ? 1500 : 4000
  await fanOut(mine, 1000)
  await fanOut(other, 1000)
  const pairs = await pairsOf(
    context,
    { name, better: 'higher' },
    5,
    () => fanOut(mine, durationMs),
    () => fanOut(other, durationMs),
  )
  mine.close()
  other.close()
  return {
    name,
    unit: 'events/s',
    mmsb: pairs.a,
    baseline: pairs.b,
    against: 'bare ws, fdatasync, broadcast',
    ratio: pairs.ratio,
    budget: { text: `>= ${FAN_OUT_BUDGET * 100} %`, met: pairs.ratio >= FAN_OUT_BUDGET },
  }
}
