/**
 * Nothing that one caller asks for holds the event loop: for each case, the longest time that the main thread
 * of a real server computes without giving way.
 *
 * That time is measured inside the server, by a timer that reads the processor time of its own thread. So it
 * does not depend on what else the machine does, as the time of an answer would.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { cpSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import WebSocket from 'ws'
import { Bus } from '../../src/index.js'
import { BINARY_PROTOCOL, JSON_PROTOCOL, MESSAGE_CODES } from '../../src/wire/messages.js'
import { ENTRY } from '../cli/process.js'
import { plainEnvironment } from '../lib/environment.js'

/**
 * In ms of processor time: what an answer of /livez waits for, at most. On an idle machine 150 are
 * not reached; a machine that shares its caches and cores with other work needs up to twice the time
 * for the same.
 */
const HELD_MAX_MS = 400

/** Loaded into the server: the longest processor time between two turns, since it was last asked for. */
const METER = `
import { openSync, readSync } from 'node:fs'
import { isMainThread } from 'node:worker_threads'
if (isMainThread) {
  const file = openSync('/proc/thread-self/schedstat')
  const text = Buffer.alloc(64)
  const usedMs = () => Number(text.latin1Slice(0, readSync(file, text, 0, 64, 0)).split(' ')[0]) / 1e6
  let lastMs = usedMs()
  let worstMs = 0
  const note = () => {
    const nowMs = usedMs()
    worstMs = Math.max(worstMs, nowMs - lastMs)
    lastMs = nowMs
  }
  setInterval(note, 2).unref()
  process.on('message', () => {
    note()
    process.send(worstMs)
    worstMs = 0
  })
  process.channel.unref()
}`

class MeteredServer {
  readonly child: ChildProcess
  #stdout = ''
  #stderr = ''

  constructor(t: Test, dataDir: string) {
    this.child = fork(ENTRY, ['serve', '--port', '0', '--fsync', 'off', '--data-dir', dataDir], {
      env: plainEnvironment(),
      execArgv: ['--import', `data:text/javascript,${encodeURIComponent(METER)}`],
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    })
    this.child.stdout!.on('data', (chunk) => {
      this.#stdout += chunk
    })
    this.child.stderr!.on('data', (chunk) => {
      this.#stderr += chunk
    })
    const exited = once(this.child, 'exit')
    t.teardown(async () => {
      // What still writes would be in the way of the folder's removal.
      this.child.kill('SIGKILL')
      await exited
    })
  }

  /** It listens, perhaps before it is ready. */
  async listening(): Promise<void> {
    while (!this.#stderr.includes('Server listening at')) await once(this.child.stderr!, 'data')
  }

  async ready(): Promise<string> {
    const line = /^mmsb listening on (\S+)$/m
    while (!line.test(this.#stdout)) await once(this.child.stdout!, 'data')
    return line.exec(this.#stdout)![1]!
  }

  /** The longest hold since the last call, in ms. */
  async worstMs(): Promise<number> {
    this.child.send('worst')
    const [worst] = (await once(this.child, 'message')) as [number]
    return worst
  }
}

/** Runs `work` and checks that the server was never held for long meanwhile. */
async function neverHeld(
  t: Test,
  server: MeteredServer,
  what: string,
  work: () => Promise<unknown>,
): Promise<void> {
  await server.worstMs()
  await work()
  const worst = await server.worstMs()
  t.ok(worst < HELD_MAX_MS, `${what}: ${Math.round(worst)} ms`)
}

async function started(t: Test): Promise<{ server: MeteredServer; url: string }> {
  const server = new MeteredServer(t, join(t.testdir(), 'data'))
  return { server, url: await server.ready() }
}

async function send(method: string, url: string, body?: unknown): Promise<string> {
  const isBytes = Buffer.isBuffer(body)
  const type = isBytes ? 'application/octet-stream' : 'application/json'
  const sent = { headers: { 'content-type': type }, body: isBytes ? body : JSON.stringify(body) }
  const response = await fetch(url, { method, ...(body === undefined ? {} : (sent as RequestInit)) })
  const text = await response.text()
  if (!response.ok) throw new Error(`${response.status} ${text.slice(0, 300)}`)
  return text
}

const many = (count: number, prefix: string, definition: (i: number) => object): object => ({
  pages: Array.from({ length: count }, (_, i) => ({ name: `${prefix}${i}`, ...definition(i) })),
})
const SMALL = { dtype: 'f32', shape: [4] }
const called = (i: number): object => ({
  derive: { op: 'map', inputs: { x: `s${i}` }, expr: `scale(x) + ${i}` },
})

t.test('many pages: created, derived, redefined, listed', async (t) => {
  const { server, url } = await started(t)
  const held = (what: string, work: () => Promise<unknown>): Promise<void> => neverHeld(t, server, what, work)
  await held('create 3,000', () =>
    send(
      'POST',
      `${url}/v1/pages`,
      many(3_000, 's', () => SMALL),
    ),
  )
  const functions = ['scale', ...Array.from({ length: 31 }, (_, i) => `f${i}`)]
  for (const name of functions)
    await send('PUT', `${url}/v1/functions/${name}`, { params: ['x'], expr: 'x * 2' })
  await held('derive 3,000', () => send('POST', `${url}/v1/pages`, many(3_000, 'd', called)))
  await held('redefine a function that 3,000 use', () =>
    send('PUT', `${url}/v1/functions/scale`, { params: ['x'], expr: 'x * 3' }),
  )
  const calling = (i: number): object => ({
    derive: { op: 'map', inputs: { x: 's0' }, expr: `f${i % 31}(x) + ${i}` },
  })
  await held('derive 25,000', () => send('POST', `${url}/v1/pages`, many(25_000, 'e', calling)))
  await held('create 14,000', () =>
    send(
      'POST',
      `${url}/v1/pages`,
      many(14_000, 't', () => SMALL),
    ),
  )
  await held('functions', () => send('GET', `${url}/v1/functions`))
  await held('one function', () => send('GET', `${url}/v1/functions/f0`))
  await held('pages', () => send('GET', `${url}/v1/pages`))
  await held('graph', () => send('GET', `${url}/v1/graph`))
  await held('graph as text', () => send('GET', `${url}/v1/graph?format=dot`))
  await held('statistics', () => send('GET', `${url}/v1/stats`))
  await held('metrics', () => send('GET', `${url}/metrics`))
  await held('checkpoint', () => send('POST', `${url}/v1/checkpoints`))
  await held('delete 25,000', () => send('DELETE', `${url}/v1/pages/s0?cascade=true`))
})

t.test('many functions that call each other', async (t) => {
  const { server, url } = await started(t)
  const held = (what: string, work: () => Promise<unknown>): Promise<void> => neverHeld(t, server, what, work)
  await send(
    'POST',
    `${url}/v1/pages`,
    many(1_000, 's', () => SMALL),
  )
  const expr = 'x * 1.5 + x * 2.5 + x * 3.5 + x * 4.5'
  for (let i = 0; i < 1_500; i++) {
    const calls = i === 0 ? '' : ` + fn${i < 8 ? i - 1 : i % 8}(x)`
    await send('PUT', `${url}/v1/functions/fn${i}`, { params: ['x'], expr: expr + calls })
  }
  const user = (i: number): object => ({
    derive: { op: 'map', inputs: { x: `s${i}` }, expr: `fn${i}(x)` },
  })
  await send('POST', `${url}/v1/pages`, many(1_000, 'd', user))
  let list = ''
  await held('functions', async () => {
    list = await send('GET', `${url}/v1/functions`)
  })
  const { functions } = JSON.parse(list) as { functions: { name: string; pages: string[] }[] }
  t.equal(functions.length, 1_500)
  t.equal(functions.find(({ name }) => name === 'fn7')?.pages.length, 125)
  t.equal(functions.find(({ name }) => name === 'fn0')?.pages.length, 1_000)
  t.same(functions.find(({ name }) => name === 'fn999')?.pages, ['d999'])
  await held('function', () => send('GET', `${url}/v1/functions/fn0`))
  await held('redefine one that hundreds call', () =>
    send('PUT', `${url}/v1/functions/fn7`, { params: ['x'], expr: `${expr} + fn6(x)` }),
  )
})

const ELEMENTS = 2_000_000

/** A subscriber of a page, from its snapshot on. */
class Reader {
  readonly #socket: WebSocket
  readonly types: string[] = []

  constructor(url: string, protocol: string, pages: readonly string[]) {
    this.#socket = new WebSocket(`${url.replace('http', 'ws')}/v1/stream`, protocol)
    this.#socket.on('open', () =>
      this.#socket.send(JSON.stringify({ type: 'subscribe', id: 's', pages, from: 'snapshot' })),
    )
    this.#socket.on('message', (data: Buffer, isBinary) => {
      const type = isBinary
        ? NAMES.get(data.readUInt16LE(0))
        : /"type":"(\w+)"/.exec(data.toString('latin1', 0, 40))?.[1]
      if (type !== undefined && type !== 'progress') this.types.push(type)
      this.#socket.emit('seen')
    })
  }

  /** Resolves once so many messages have come. */
  async seen(count: number): Promise<readonly string[]> {
    while (this.types.length < count) await once(this.#socket, 'seen')
    return this.types
  }

  end(): void {
    this.#socket.terminate()
  }
}

const NAMES = new Map<number, string>(Object.entries(MESSAGE_CODES).map(([name, code]) => [code, name]))

t.test('large pages: snapshots and changes for subscribers, JSON, server-sent events', async (t) => {
  const { server, url } = await started(t)
  const held = (what: string, work: () => Promise<unknown>): Promise<void> => neverHeld(t, server, what, work)
  await send('PUT', `${url}/v1/pages/big`, { dtype: 'f32', shape: [ELEMENTS] })
  const values = Float32Array.from({ length: ELEMENTS }, (_, i) => Math.sin(i))
  const write = (): Promise<string> => {
    // Every element changes.
    for (let i = 0; i < ELEMENTS; i++) values[i]! += 1
    return send('PUT', `${url}/v1/pages/big/data`, Buffer.from(values.buffer))
  }
  await held('write', write)
  await held('read as JSON', () => send('GET', `${url}/v1/pages/big/data`))
  for (const protocol of [JSON_PROTOCOL, BINARY_PROTOCOL]) {
    const readers = ['other', 'none', 'more'].map((name) => new Reader(url, protocol, ['big', name]))
    await held(`snapshots, ${protocol}`, () => Promise.all(readers.map((reader) => reader.seen(2))))
    await held(`change, ${protocol}`, async () => {
      await write()
      await Promise.all(readers.map((reader) => reader.seen(3)))
    })
    for (const reader of readers) {
      t.same(reader.types, ['subscribed', 'snapshot', 'change'])
      reader.end()
    }
  }
  await held('server-sent snapshot', async () => {
    const end = new AbortController()
    const { body } = await fetch(`${url}/v1/events?pages=big&from=snapshot`, { signal: end.signal })
    let bytes = 0
    for await (const chunk of body as unknown as AsyncIterable<Uint8Array>) {
      bytes += chunk.length
      if (bytes > 4 * ELEMENTS) break
    }
    end.abort()
  })
})

t.test(
  'recovery: many pages in one record, in a checkpoint, one chunk for a whole page, long steps',
  async (t) => {
    const folder = t.testdir()
    const open = (name: string): Promise<Bus> =>
      Bus.open({ dataDir: join(folder, name), backend: 'cpu', fsync: 'off', checkpoints: { everyEpochs: 0 } })
    const define = ({ pages }: { pages?: unknown }): { name: string; definition: never }[] =>
      (pages as { name: string }[]).map(({ name, ...definition }) => ({
        name,
        definition: definition as never,
      }))
    const bus = await open('log')
    await bus.defineFunction('scale', { params: ['x'], expr: 'x * 2' })
    await bus.createMany(define(many(8_000, 's', () => SMALL)))
    await bus.createMany(define(many(8_000, 'd', called)))
    await bus.create('x', { dtype: 'f64', shape: [100, 100], fill: 1 })
    await bus.derive('y', { op: 'conv', inputs: { x: 'x', kernel: 'x' }, boundary: 'wrap' })
    for (let i = 1; i <= 3; i++) await bus.patch('x', { offset: i, values: [i] })
    await bus.close()
    cpSync(join(folder, 'log'), join(folder, 'checkpoint'), { recursive: true })
    const more = await open('checkpoint')
    await more.create('same', { dtype: 'f32', shape: [16 * 1024 ** 2], fill: 1 })
    await more.checkpoint()
    await more.close()
    for (const name of ['log', 'checkpoint']) {
      const server = new MeteredServer(t, join(folder, name))
      await server.listening()
      await neverHeld(t, server, name, () => server.ready())
      server.child.kill('SIGTERM')
      const [code] = (await once(server.child, 'exit')) as [number]
      t.equal(code, 0)
    }
  },
)
