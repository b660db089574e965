/**
 * SIGKILL under load: the real server is killed at random moments while several clients write, and restarted
 * on the same folder. Tests that it is durable (every acknowledged write is there) and consistent (no write
 * is there by halves).
 *
 * Each writer has one write in flight, so after a kill the state of a writer is known up to that write, which
 * has either happened or not. After a repeat with the same idempotency key it must have happened exactly
 * once.
 *
 * MMSB_CRASH_ROUNDS sets the number of kills (default 10). MMSB_CRASH_SEED repeats a schedule: the writes of
 * each writer, the times of checkpoints and the delay of the kill. The exact moment depends on the machine.
 */
import { randomInt } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { killServers, type Server, startServer } from '../../examples/server.js'

const ROUNDS = Number(process.env.MMSB_CRASH_ROUNDS ?? 10)
const SEED = Number(process.env.MMSB_CRASH_SEED ?? randomInt(2 ** 31))
const WRITERS = 8
const BLOCK = 600
const KILL_AFTER_MS = [20, 600] as const
const CHECKPOINT_CHANCE = 0.4
const TIMEOUT_MS = (30 + ROUNDS * 10) * 1000

const PAGES: readonly (readonly [name: string, definition: object])[] = [
  ['kill.count', { dtype: 'u32', shape: [WRITERS] }],
  ['kill.block', { dtype: 'f64', shape: [WRITERS, BLOCK] }],
  ['kill.left', { dtype: 'i64', shape: [WRITERS] }],
  ['kill.right', { dtype: 'i64', shape: [WRITERS] }],
  ['kill.total', { derive: { op: 'reduce', inputs: { x: 'kill.count' }, fn: 'sum' } }],
  ['kill.skew', { derive: { op: 'map', inputs: { a: 'kill.left', b: 'kill.right' }, expr: 'a - b' } }],
  ['kill.rows', { derive: { op: 'reduce', inputs: { x: 'kill.block' }, fn: 'mean', axes: [1] } }],
  [
    'kill.scaled',
    { derive: { op: 'map', inputs: { x: 'kill.block', m: 'kill.total' }, expr: 'x * 0.5 + m' } },
  ],
]
const SOURCES = PAGES.slice(0, 4).map(([name]) => name)

/** The writes of a writer so far, or with the one in flight. */
interface Tally {
  readonly count: number
  readonly block: number
  readonly pair: number
}

interface Write {
  readonly key: string
  readonly after: Tally
  readonly method: 'PATCH' | 'POST'
  readonly path: string
  readonly type: string
  readonly body: string | Uint8Array
}

interface Writer {
  readonly id: number
  readonly random: () => number
  serial: number
  acked: Tally
  inFlight: Write | undefined
}

interface Answer {
  readonly epoch: number
}

/** mulberry32: a small generator whose whole state is one number. */
function seeded(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

function nextWrite(writer: Writer): Write {
  writer.serial += 1
  const key = `${SEED}-${writer.id}-${writer.serial}`
  const { count, block, pair } = writer.acked
  const choice = writer.random()
  const json = 'application/json'
  if (choice < 0.4) {
    const body = JSON.stringify({ indices: [writer.id], values: [1], merge: 'add' })
    const after = { count: count + 1, block, pair }
    return { key, after, method: 'PATCH', path: '/v1/pages/kill.count/data', type: json, body }
  }
  if (choice < 0.7) {
    const body = new Uint8Array(new Float64Array(BLOCK).fill(block + 1).buffer)
    const path = `/v1/pages/kill.block/data?offset=${writer.id * BLOCK}`
    const after = { count, block: block + 1, pair }
    return { key, after, method: 'PATCH', path, type: 'application/octet-stream', body }
  }
  const amount = 1 + Math.floor(writer.random() * 1000)
  const op = (page: string) => ({ page, indices: [writer.id], values: [amount], merge: 'add' })
  const body = JSON.stringify({ ops: [op('kill.left'), op('kill.right')], source: `writer ${writer.id}` })
  const after = { count, block, pair: pair + amount }
  return { key, after, method: 'POST', path: '/v1/transactions', type: json, body }
}

/**
 * Sends a write. Returns its epoch; undefined when the connection broke before an answer. Throws on a
 * refusal.
 */
async function send(server: Server, write: Write): Promise<number | undefined> {
  let status: number
  let text: string
  try {
    const response = await fetch(`${server.url}${write.path}`, {
      method: write.method,
      headers: { 'content-type': write.type, 'idempotency-key': write.key },
      body: write.body,
    })
    status = response.status
    text = await response.text()
  } catch {
    return undefined
  }
  if (status !== 200) throw new Error(`${write.method} ${write.path}: ${status} ${text}`)
  return (JSON.parse(text) as Answer).epoch
}

/** Writes until the connection breaks. Returns the newest acknowledged epoch. */
async function writeUntilKilled(server: Server, writer: Writer): Promise<number> {
  let epoch = 0
  for (;;) {
    writer.inFlight = nextWrite(writer)
    const answer = await send(server, writer.inFlight)
    if (answer === undefined) return epoch
    epoch = answer
    writer.acked = writer.inFlight.after
    writer.inFlight = undefined
  }
}

async function json<T>(server: Server, path: string, method = 'GET', body?: object): Promise<T> {
  const content = body === undefined ? {} : { headers: { 'content-type': 'application/json' } }
  const response = await fetch(`${server.url}${path}`, {
    method,
    ...content,
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
  const text = await response.text()
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`)
  return JSON.parse(text) as T
}

async function define(server: Server): Promise<void> {
  for (const [name, definition] of PAGES) await json(server, `/v1/pages/${name}`, 'PUT', definition)
}

/** Reads each writer's parts of the pages. Throws when a part is torn or a pair is unequal. */
async function tallies(server: Server): Promise<Tally[]> {
  type Read = { pages: Record<string, { values: readonly (number | string)[] }> }
  const { pages } = await json<Read>(server, `/v1/read?pages=${SOURCES.join(',')}`)
  const values = (page: string) => pages[page]!.values.map(Number)
  const [count, block, left, right] = SOURCES.map((name) => values(name)) as [
    number[],
    number[],
    number[],
    number[],
  ]
  return Array.from({ length: WRITERS }, (_, id) => {
    const row = block.slice(id * BLOCK, (id + 1) * BLOCK)
    if (row.some((value) => value !== row[0])) throw new Error(`the block of writer ${id} is torn`)
    if (left[id] !== right[id]) throw new Error(`writer ${id}: left ${left[id]}, right ${right[id]}`)
    return { count: count[id]!, block: row[0]!, pair: left[id]! }
  })
}

const same = (a: Tally, b: Tally) => a.count === b.count && a.block === b.block && a.pair === b.pair

/**
 * Checks that every writer is at its last acknowledged write or one further, and after a repeat exactly one
 * further.
 */
async function checkWriters(t: Test, server: Server, writers: readonly Writer[]): Promise<void> {
  const found = await tallies(server)
  for (const writer of writers) {
    const isThere = same(found[writer.id]!, writer.acked)
    const isOneFurther = writer.inFlight !== undefined && same(found[writer.id]!, writer.inFlight.after)
    t.ok(isThere || isOneFurther, `writer ${writer.id} lost nothing`, { writer, found: found[writer.id] })
  }
  for (const writer of writers) {
    if (writer.inFlight === undefined) continue
    await send(server, writer.inFlight)
    writer.acked = writer.inFlight.after
    writer.inFlight = undefined
  }
  const repeated = await tallies(server)
  for (const writer of writers) {
    t.same(repeated[writer.id], writer.acked, `writer ${writer.id}: the repeat happened exactly once`)
  }
}

/**
 * Writes the source pages into a server that never crashed and recomputes the rest. The digests must be
 * equal.
 */
async function checkDigest(t: Test, server: Server, fresh: Server): Promise<void> {
  for (const name of SOURCES) {
    const bytes = await (await fetch(`${server.url}/v1/pages/${name}/data`)).arrayBuffer()
    const headers = { 'content-type': 'application/octet-stream' }
    const put = await fetch(`${fresh.url}/v1/pages/${name}/data`, { method: 'PUT', headers, body: bytes })
    t.equal(put.status, 200)
  }
  type Status = { digest: string }
  const [here, there] = await Promise.all([server, fresh].map((s) => json<Status>(s, '/v1/status')))
  t.equal(here!.digest, there!.digest, 'the digest is that of a full recompute')
}

t.setTimeout(TIMEOUT_MS)

t.test(`${ROUNDS} kills under load`, { timeout: TIMEOUT_MS }, async (t) => {
  t.comment(`MMSB_CRASH_SEED=${SEED}`)
  // A failed round must not leave a server that keeps this process alive.
  t.teardown(killServers)
  const random = seeded(SEED)
  const dataDir = t.testdir()
  const freshDir = `${dataDir}/fresh`
  const fresh = await startServer({ dataDir: freshDir, args: ['--fsync', 'off'] })
  await define(fresh)
  let server = await startServer({ dataDir: `${dataDir}/bus` })
  await define(server)
  const writers: Writer[] = Array.from({ length: WRITERS }, (_, id) => ({
    id,
    random: seeded(SEED + 1 + id),
    serial: 0,
    acked: { count: 0, block: 0, pair: 0 },
    inFlight: undefined,
  }))

  for (let round = 1; round <= ROUNDS; round++) {
    const [least, most] = KILL_AFTER_MS
    const killAfterMs = least + random() * (most - least)
    const checkpointAfterMs = random() < CHECKPOINT_CHANCE ? random() * killAfterMs : undefined
    const running = server
    const work = Promise.all(writers.map((writer) => writeUntilKilled(running, writer)))
    if (checkpointAfterMs !== undefined) {
      const ask = () => fetch(`${running.url}/v1/checkpoints`, { method: 'POST' }).catch(() => {})
      setTimeout(ask, checkpointAfterMs)
    }
    await Promise.race([sleep(killAfterMs), work])
    await running.kill()
    const acknowledged = Math.max(...(await work))

    server = await startServer({ dataDir: `${dataDir}/bus` })
    const { epoch } = await json<Answer>(server, '/v1/status')
    t.ok(epoch >= acknowledged, `round ${round}: epoch ${epoch} is not behind acknowledged ${acknowledged}`)
    await checkWriters(t, server, writers)
    await checkDigest(t, server, fresh)
  }

  const written = writers.reduce((sum, { serial }) => sum + serial, 0)
  t.comment(`${written} writes, ${ROUNDS} kills`)
  t.ok(written > ROUNDS * WRITERS, 'there was load')
  await server.stop()
  await fresh.stop()
})
