/**
 * Durable small writes over WebSocket, pipelined: JSON transactions and binary frames, beside a bare
 * `ws` server that fdatasyncs each batch, and beside Redis `appendfsync always` with pipelined SETRANGE
 * of the same bytes.
 */
import { join } from 'node:path'
import { encodeFrame } from '../lib/frame.js'
import { pairsOf } from '../lib/pairs.js'
import {
  type Load,
  type Protocol,
  pipelinedWrites,
  redisProtocol,
  webSocketProtocol,
} from '../lib/pipeline.js'
import { type Baseline, startBaseline, startRedis } from '../lib/process.js'
import { startServer } from '../lib/tree.js'
import type { Context, Result, Skip } from '../lib/types.js'

const PAGE = 'bench.ws'
const ELEMENTS = 4096
const VALUES = Array.from({ length: 4 }, (_, i) => i + 0.5)
const VALUE_BYTES = 16
const REDIS_BUDGET = 1.5
/** Deltas that a client batches at this rate. */
const TOGETHER = 64
/** And one that keeps the connection full. */
const MANY = 1024
const CONNECTIONS = 10
/** Deltas in flight per connection, and commands for Redis. */
const DEPTH = 256
/** With many deltas per message, several messages must be in flight too; Redis gets a pipeline as deep. */
const depthOf = ({ deltas }: Write): number => Math.max(DEPTH, deltas * 4)

interface Write {
  readonly name: string
  readonly isJson: boolean
  /** Deltas in one transaction: committed and answered together. */
  readonly deltas: number
  /** Transactions in one message, each answered on its own. */
  readonly transactions: number
}

const WRITES: readonly Write[] = [
  { name: 'JSON, a delta of 16 bytes a message', isJson: true, deltas: 1, transactions: 1 },
  { name: 'binary, a delta of 16 bytes a message', isJson: false, deltas: 1, transactions: 1 },
  {
    name: `binary, ${TOGETHER} transactions of a delta a message`,
    isJson: false,
    deltas: 1,
    transactions: TOGETHER,
  },
  { name: `binary, ${TOGETHER} deltas a transaction`, isJson: false, deltas: TOGETHER, transactions: 1 },
  { name: `binary, ${MANY} deltas a transaction`, isJson: false, deltas: MANY, transactions: 1 },
]

export async function websocket(context: Context): Promise<(Result | Skip)[]> {
  const server = await startServer({ dataDir: join(context.dir, 'bus') })
  const page = await fetch(`${server.url}/v1/pages/${PAGE}`, {
    method: 'PUT',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ dtype: 'f32', shape: [ELEMENTS] }),
  })
  if (!page.ok) throw new Error(await page.text())
  const { id } = (await (await fetch(`${server.url}/v1/pages/${PAGE}`)).json()) as { id: number }
  const port = Number(new URL(server.url).port)
  const bare = await startBaseline('ws', join(context.dir, 'bare.log'), 'ack')
  const redis = await startRedis(context.dir)

  const results: (Result | Skip)[] = []
  for (const write of WRITES) {
    const ours = streamProtocol(write, port, id)
    const name = `WebSocket ${write.name}, ${CONNECTIONS} x ${depthOf(write)} deltas in flight`
    const refused = await refusal(ours)
    if (refused !== null) {
      results.push({ name, skipped: `the server does not take them: ${refused}` })
      continue
    }
    const same = streamProtocol(write, bare.port, id)
    results.push(await compare(context, name, write, ours, same, 'bare ws, fdatasync per batch', null))
    results.push(await againstRedis(context, name, write, ours, redis))
  }
  await redis?.stop()
  await bare.stop()
  await server.stop()
  return results
}

function streamProtocol({ isJson, deltas, transactions }: Write, port: number, pageId: number): Protocol {
  const offset = (index: number, i: number) => ((index * deltas + i) * VALUES.length) % ELEMENTS
  const json = (index: number) => {
    const ops = Array.from({ length: deltas }, (_, i) => ({
      page: PAGE,
      offset: offset(index, i),
      values: VALUES,
    }))
    return JSON.stringify({ type: 'transaction', id: 't', ops })
  }
  const values = new Float32Array(VALUES)
  const frame = (index: number) =>
    encodeFrame(Array.from({ length: deltas }, (_, i) => ({ pageId, offset: offset(index, i), values })))
  return webSocketProtocol({
    port,
    subprotocol: isJson ? 'mmsb.v1.json' : 'mmsb.v1.bin',
    message: (index, count) => (isJson ? json(index) : Buffer.concat(Array(count).fill(frame(index)))),
    writesPerMessage: transactions,
    acknowledged,
  })
}

const ACK_BYTES = 32

/** A binary ack holds its count; the bare server and JSON answer each write with a text. */
function acknowledged(payload: Buffer): number {
  if (payload[0] !== 1) return payload.includes('"ack"') ? 1 : 0
  let count = 0
  for (let at = 0; at < payload.length; at += ACK_BYTES) count += payload.readUInt32LE(at + 24)
  return count
}

/** Why the server refuses a single write; null when it accepts it. */
async function refusal(protocol: Protocol): Promise<string | null> {
  try {
    await pipelinedWrites(protocol, { connections: 1, depth: 1, durationMs: 1 })
    return null
  } catch (error) {
    return (error as Error).message
  }
}

async function againstRedis(
  context: Context,
  name: string,
  write: Write,
  ours: Protocol,
  redis: Baseline | null,
): Promise<Result | Skip> {
  if (redis === null) return { name: `${name}, beside Redis`, skipped: 'redis-server is not installed' }
  const value = 'x'.repeat(VALUE_BYTES)
  const theirs = redisProtocol(redis.port, (index) => ['SETRANGE', PAGE, String(index * VALUE_BYTES), value])
  return compare(context, name, write, ours, theirs, 'Redis, appendfsync always, SETRANGE', REDIS_BUDGET)
}

async function compare(
  context: Context,
  name: string,
  write: Write,
  ours: Protocol,
  theirs: Protocol,
  against: string,
  budget: number | null,
): Promise<Result> {
  context.say(`${name}, beside ${against}`)
  const durationMs = context.quick ? 1000 : 4000
  const isRedis = budget !== null
  const { deltas } = write
  const depth = depthOf(write)
  const load = (depth: number): Load => ({ connections: CONNECTIONS, depth, durationMs })
  const pairs = await pairsOf(
    context,
    { name, better: 'higher' },
    5,
    async () => deltas * (await pipelinedWrites(ours, load(depth / deltas))),
    async () =>
      isRedis
        ? pipelinedWrites(theirs, load(depth))
        : deltas * (await pipelinedWrites(theirs, load(depth / deltas))),
  )
  return {
    name,
    unit: 'deltas/s',
    mmsb: pairs.a,
    baseline: pairs.b,
    against,
    ratio: pairs.ratio,
    budget: budget === null ? null : { text: `>= ${budget} x`, met: pairs.ratio >= budget },
  }
}
