/**
 * Every function that a client hands out is in a table here: each is called against a real server and its
 * answer compared, and each is called again and the client closed at once: no promise stays open.
 *
 * A new function without a line here fails twice: the types ask for it, and so does the comparison with the
 * functions that the objects have.
 */
import t, { type Test } from 'tap'
import { Client } from '../../src/client/client.js'
import type { Mirror, MirrorSet, Subscription, Writer } from '../../src/client/node.js'
import { MmsbError } from '../../src/client/node.js'
import { StreamWriter } from '../../src/client/stream/writer.js'
import type { Bus } from '../../src/index.js'
import { sleep, turn } from '../lib/wait.js'
import { code, makePages, SIZE, started } from './started.js'

/** The names of the functions of an object. */
type Functions<T> = {
  [Name in keyof T]-?: [Extract<T[Name], (...args: never[]) => unknown>] extends [never] ? never : Name
}[keyof T]

/** One call of each function of T, and what its answer must look like. */
type Table<T, Context> = Readonly<
  Record<Functions<T>, readonly [call: (context: Context) => unknown, answer: unknown]>
>

const functionsOf = (object: object): string[] => {
  const names = new Set<string>()
  for (let at = object; at !== Object.prototype; at = Object.getPrototypeOf(at) as object) {
    for (const name of Reflect.ownKeys(at)) {
      const { value } = Object.getOwnPropertyDescriptor(at, name) as PropertyDescriptor
      if (typeof value === 'function' && name !== 'constructor') names.add(String(name))
    }
  }
  return [...names].sort()
}

const namesIn = (table: object): string[] => Reflect.ownKeys(table).map(String).sort()

// ---- the tables -------------------------------------------------------------------------------------------

const OPS = [{ page: 'src', values: [5] }]

/** In the order in which they are called. Epochs 1 to 4 make the pages, epoch 5 writes 7 to `src[1]`. */
const CLIENT: Table<Client, Client> = {
  create: [
    (c) => c.create('made', { dtype: 'u8', shape: [2], fill: 3 }),
    { name: 'made', kind: 'source', dtype: 'u8', shape: [2], version: 6 },
  ],
  derive: [
    (c) => c.derive('thrice', { op: 'map', inputs: { s: 'src' }, expr: 's * 3' }, { dtype: 'f64' }),
    { name: 'thrice', kind: 'derived', dtype: 'f64', inputs: ['src'] },
  ],
  createMany: [
    (c) =>
      c.createMany([
        { name: 'one', dtype: 'u8', shape: [1] },
        { name: 'two', derive: { op: 'map', inputs: { x: 'one' }, expr: 'x + 1' } },
      ]),
    { epoch: 8, pages: [{ name: 'one' }, { name: 'two', kind: 'derived' }] },
  ],
  page: [(c) => c.page('twice'), { name: 'twice', inputs: ['src'], version: 5 }],
  pages: [(c) => c.pages({ prefix: 't', limit: 1 }), { pages: [{ name: 'thrice' }], next: String }],
  delete: [(c) => c.delete('one', { cascade: true }), { epoch: 9 }],
  read: [
    (c) => c.read('src', { offset: 1, count: 2, epoch: 5 }),
    { name: 'src', epoch: 5, version: 5, shape: [SIZE], values: Int32Array.of(7, 0) },
  ],
  readMany: [
    (c) => c.readMany(['wide', 'twice'], { epoch: 4 }),
    { epoch: 4, pages: { wide: { version: 2, values: BigUint64Array.of(0n, 0n) }, twice: { version: 3 } } },
  ],
  patch: [(c) => c.patch('src', { offset: 2, values: [1] }), { epoch: 10, version: 10, page: 'src' }],
  write: [(c) => c.write('wide', [1n, 2n]), { epoch: 11, version: 11, page: 'wide' }],
  transact: [(c) => c.transact({ ops: OPS, source: 'table' }), { epoch: 12, pages: { src: 12 } }],
  whatIf: [
    (c) => c.whatIf({ ops: [{ page: 'src', values: [100] }], read: ['sum'] }),
    { epoch: 13, pages: { sum: { values: BigInt64Array.of(108n) } } },
  ],
  epoch: [
    (c) => c.epoch(12),
    { epoch: 12, transactions: [{ source: 'table' }], changed: ['src', 'sum', 'thrice', 'twice'] },
  ],
  epochs: [(c) => c.epochs({ source: 'table' }), { epochs: [{ epoch: 12 }], next: null }],
  history: [(c) => c.history('wide'), { name: 'wide', versions: [{ epoch: 2 }, { epoch: 11 }] }],
  diff: [
    (c) => c.diff({ from: 9, to: 10, pages: ['src'] }),
    { from: 9, to: 10, pages: { src: { ranges: [[2, 1]] } } },
  ],
  verify: [(c) => c.verify({ to: 5 }), { ok: true, from: 0, to: 5, divergence: null }],
  checkpoint: [(c) => c.checkpoint(), { epoch: 12, pages: 6 }],
  checkpoints: [(c) => c.checkpoints(), { checkpoints: [{ epoch: 12 }] }],
  defineFunction: [
    (c) => c.defineFunction('half', { params: ['x'], expr: 'x / 2' }),
    { epoch: 13, worldAge: 1 },
  ],
  function: [(c) => c.function('half'), { name: 'half', params: ['x'], expr: 'x / 2', pages: [] }],
  functions: [(c) => c.functions(), { worldAge: 1, functions: [{ name: 'half' }] }],
  deleteFunction: [(c) => c.deleteFunction('half'), { epoch: 14, worldAge: 2 }],
  graph: [(c) => c.graph(), { nodes: [{ name: 'made' }], edges: [{ from: 'src', to: String }] }],
  status: [(c) => c.status(), { epoch: 14, pages: 6, backend: 'cpu' }],
  stats: [(c) => c.stats(), { epoch: 14 }],
  durables: [(c) => c.durables(), { subscriptions: [{ name: 'known', epoch: 5 }] }],
  deleteDurable: [(c) => c.deleteDurable('known'), { name: 'known' }],
  subscribe: [
    async (c) => {
      const subscription = c.subscribe({ pages: ['src'], from: 9 })
      const { value } = await subscription.next()
      subscription.close()
      return value as unknown
    },
    { epoch: 10, changes: [{ page: 'src', ranges: [[2, 1]] }] },
  ],
  mirror: [(c) => c.mirror('made'), { name: 'made', values: Uint8Array.of(3, 3) }],
  mirrorAll: [(c) => c.mirrorAll(['m*']).then(({ pages }) => [...pages.keys()]), ['made']],
  writer: [(c) => c.writer().patch('made', { values: [9] }), { epoch: 15 }],
  close: [(c) => c.close(), undefined],
}

interface Reading {
  readonly bus: Bus
  readonly client: Client
  readonly subscription: Subscription
}

const DONE = { done: true, value: undefined }

/** An iterator may have `throw`; this one has not. */
const SUBSCRIPTION: Table<Omit<Subscription, 'throw'>, Reading> = {
  next: [({ subscription }) => subscription.next(), { done: false, value: { epoch: 5 } }],
  commit: [({ subscription }) => subscription.commit(5), undefined],
  [Symbol.asyncIterator]: [({ subscription }) => subscription[Symbol.asyncIterator]() === subscription, true],
  return: [({ subscription }) => subscription.return?.(), DONE],
  close: [
    ({ subscription }) => {
      subscription.close()
      return subscription.next()
    },
    DONE,
  ],
}

interface Mirroring<T> {
  readonly bus: Bus
  readonly mirror: T
}

/** Writes, and returns what the listener was called with. */
async function heard(
  bus: Bus,
  listen: (listener: (value: unknown) => void) => () => void,
): Promise<unknown[]> {
  const got: unknown[] = []
  const stop = listen((value) => got.push(value))
  await bus.patch('src', { values: [1], merge: 'add' })
  for (let i = 0; i < 500 && got.length === 0; i++) await sleep(10)
  stop()
  await bus.patch('src', { values: [1], merge: 'add' })
  await sleep(50)
  return got
}

const mirrorTable = <T extends Mirror | MirrorSet>(): Table<Mirror & MirrorSet, Mirroring<T>> =>
  ({
    onChange: [
      ({ bus, mirror }: Mirroring<T>) => heard(bus, (listener) => mirror.onChange(listener)),
      (got: unknown[]) => got.length === 1,
    ],
    // What it hears is in stream/history.test.ts.
    onHistoryChange: [({ mirror }: Mirroring<T>) => typeof mirror.onHistoryChange(() => {}), 'function'],
    until: [({ bus, mirror }: Mirroring<T>) => mirror.until(bus.epoch), undefined],
    close: [
      ({ mirror }: Mirroring<T>) => {
        mirror.close()
        return mirror.until(1e9).catch(({ code }: MmsbError) => code)
      },
      'CLOSED',
    ],
  }) as unknown as Table<Mirror & MirrorSet, Mirroring<T>>

const WRITER: Table<Writer, Writer> = {
  transact: [(w) => w.transact({ ops: OPS }), { epoch: 6 }],
  patch: [(w) => w.patch('src', { values: [6] }), { epoch: 7 }],
  close: [(w) => w.close(), undefined],
}

/** What the connection calls, not the program. */
const OF_THE_CONNECTION = ['down', 'fail', 'historyChanged', 'receive', 'up']

// ---- each is called and answers ---------------------------------------------------------------------------

async function withPages(t: Test, protocol: 'binary' | 'json') {
  const all = await started(t)
  await makePages(all.bus)
  await all.bus.patch('src', { offset: 1, values: [7] })
  return { ...all, mine: all.client({ protocol }) }
}

async function answers<T, Context>(
  t: Test,
  table: Table<T, Context>,
  context: Context,
  left: readonly string[] = [],
) {
  for (const name of Reflect.ownKeys(table) as Functions<T>[]) {
    if (left.includes(String(name))) continue
    const [call, wanted] = table[name]
    const answer = await call(context)
    if (typeof wanted === 'function') t.ok((wanted as (answer: unknown) => boolean)(answer), String(name))
    else if (wanted === undefined) t.equal(answer, undefined, String(name))
    else t.match(answer, wanted, String(name))
  }
}

t.test('every function of a client is in the tables', async (t) => {
  const { mine } = await withPages(t, 'binary')
  t.same(functionsOf(Client.prototype), namesIn(CLIENT))
  t.same(functionsOf(mine), namesIn(CLIENT), 'none is hidden in the object itself')
  t.same(functionsOf(mine.subscribe({ pages: ['src'] })), namesIn(SUBSCRIPTION))
  t.same(functionsOf(await mine.mirror('src')), namesIn(mirrorTable()))
  t.same(functionsOf(await mine.mirrorAll(['src'])), namesIn(mirrorTable()))
  t.same(functionsOf(StreamWriter.prototype), [...namesIn(WRITER), ...OF_THE_CONNECTION].sort())
})

for (const protocol of ['binary', 'json'] as const) {
  t.test(`${protocol}: every function answers what it should`, async (t) => {
    const { bus, mine, client } = await withPages(t, protocol)
    const known = client().subscribe({ pages: ['src'], durable: 'known', from: 4 })
    await known.next()
    await known.commit(5)
    known.close()
    await answers(t, CLIENT, mine)

    const reader = client({ protocol })
    const durable = { pages: ['src'], durable: 'table', from: 4 } as const
    const context = { bus, client: reader, subscription: reader.subscribe(durable) }
    await answers(t, SUBSCRIPTION, context, ['close'])
    const closing = { ...context, subscription: reader.subscribe({ pages: ['src'], from: 4 }) }
    await answers(t, SUBSCRIPTION, closing, ['next', 'commit', 'return'])
    await answers(t, mirrorTable<Mirror>(), { bus, mirror: await reader.mirror('src') })
    await answers(t, mirrorTable<MirrorSet>(), { bus, mirror: await reader.mirrorAll(['s*']) })
    const { epoch } = bus
    const writer = reader.writer()
    t.match(await WRITER.transact[0](writer), { epoch: epoch + 1 })
    t.match(await WRITER.patch[0](writer), { epoch: epoch + 2 })
    t.equal(await WRITER.close[0](writer), undefined)
  })
}

// ---- and settles when the client is closed ----------------------------------------------------------------

const OPEN_MS = 20_000

/** How a promise ended: with a code, an answer, or not. */
async function ending(promise: unknown): Promise<string> {
  const settled = Promise.resolve(promise).then(
    (answer) => (answer === undefined ? 'done' : 'an answer'),
    (error: unknown) => (error instanceof MmsbError ? error.code : `not an MmsbError: ${String(error)}`),
  )
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<string>((resolve) => {
    timer = setTimeout(() => resolve('still open'), OPEN_MS)
  })
  const how = await Promise.race([settled, late])
  clearTimeout(timer)
  return how
}

/** Everything a client can be waiting for, each with a name. */
function waitingFor(c: Client, isOpen: Opened): [string, Promise<string>][] {
  const calls: [string, Promise<string>][] = []
  const add = (name: string, call: () => unknown): void => {
    let promise: unknown
    try {
      promise = call()
    } catch (error) {
      promise = Promise.reject(error)
    }
    calls.push([name, ending(promise)])
  }
  for (const name of Reflect.ownKeys(CLIENT) as Functions<Client>[])
    if (name !== 'close') add(name, () => CLIENT[name][0](c))
  add('next', () => isOpen.subscription.next())
  add('another next', () => isOpen.subscription.next())
  add('commit', () => isOpen.subscription.commit(5))
  add('until', () => isOpen.mirror.until(1e9))
  add('until of a set', () => isOpen.set.until(1e9))
  add('transact', () => isOpen.writer.transact({ ops: OPS }))
  add('patch of an unknown page', () => isOpen.writer.patch('thrice', { values: [6] }))
  add('close of the writer', () => isOpen.writer.close())
  return calls
}

interface Opened {
  readonly subscription: Subscription
  readonly mirror: Mirror
  readonly set: MirrorSet
  readonly writer: Writer
}

async function opened(c: Client, name: string): Promise<Opened> {
  const subscription = c.subscribe({ pages: ['src'], durable: name, from: 4 })
  await subscription.next()
  return {
    subscription,
    mirror: await c.mirror('src'),
    set: await c.mirrorAll(['*']),
    writer: c.writer(),
  }
}

/** How each ends that cannot be answered any more. */
const CLOSED_AS: Readonly<Record<string, string>> = {
  next: 'an answer',
  'another next': 'an answer',
  subscribe: 'done',
  'close of the writer': 'done',
}

/** A repeat of these might do something twice, so without an answer they fail at once. */
const NOT_REPEATED = [
  'createMany',
  'delete',
  'checkpoint',
  'defineFunction',
  'deleteFunction',
  'deleteDurable',
]

for (const protocol of ['binary', 'json'] as const) {
  t.test(`${protocol}: whatever a client waits for ends when it is closed`, async (t) => {
    const { bus, mine, client, proxy } = await withPages(t, protocol)
    await mine.status()
    const moments = { at_once: async () => {}, next_turn: turn, some_turns: () => sleep(3) }
    for (const [moment, wait] of Object.entries(moments)) {
      const c = client({ protocol })
      const calls = waitingFor(c, await opened(c, moment))
      await wait()
      t.equal(await c.close(), undefined)
      for (const [name, end] of calls) t.not(await end, 'still open', `${moment}: ${name}`)
    }

    // The server answers nothing: each is ended by the close itself.
    const c = client({ protocol })
    const open = await opened(c, 'frozen')
    proxy.freeze()
    const calls = waitingFor(c, open)
    await sleep(50)
    await c.close()
    for (const [name, end] of calls) t.equal(await end, CLOSED_AS[name] ?? 'CLOSED', `frozen: ${name}`)
    proxy.thaw()

    // The server is away, and somebody looks for it: requests wait for that.
    const away = client({ protocol })
    const there = await opened(away, 'away')
    proxy.isDown = true
    proxy.cut()
    const waiting = waitingFor(away, there)
    await sleep(300)
    await away.close()
    for (const [name, end] of waiting) {
      const wanted = NOT_REPEATED.includes(name) ? 'NETWORK' : (CLOSED_AS[name] ?? 'CLOSED')
      t.equal(await end, wanted, `away: ${name}`)
    }
    proxy.isDown = false

    // Nothing begins after the close.
    const later = waitingFor(away, there)
    for (const [name, end] of later) {
      const isRead = name.endsWith('next') || name === 'close of the writer'
      t.equal(await end, isRead ? CLOSED_AS[name] : 'CLOSED', `afterwards: ${name}`)
    }
    await away.close()
    t.ok(bus.epoch >= 5)
  })
}

t.test('a second close, and one in the middle of the first, end too', async (t) => {
  const { mine } = await withPages(t, 'binary')
  const next = mine.subscribe({ pages: ['src'] }).next()
  await Promise.all([mine.close(), mine.close()])
  await mine.close()
  t.same(await next, DONE)
  await t.rejects(mine.status(), code('CLOSED'))
})
