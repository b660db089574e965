/**
 * A bus that is closed while it has work: every promise it has given settles. Writes that it took are
 * finished, and everything else gets its answer or is refused with BUS_FAILED.
 *
 * A new method of the bus without a line in the tables fails the comparison of names.
 */
import t, { type Test } from 'tap'
import { EngineBus } from '../../../src/engine/bus.js'
import type { BusOptions, Sender } from '../../../src/engine/types.js'
import { Bus, MmsbError } from '../../../src/index.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import { folder } from '../../lib/folder.js'
import { sleep, turn } from '../../lib/wait.js'

type Call = (bus: Bus) => Promise<unknown>

const OPS = [{ page: 'a', values: [5] }]

/** A frame that writes 9 to the first element of `a`. */
function frame(bus: Bus): Uint8Array {
  const writer = new FrameWriter({})
  const { id, dtype, elements } = bus.peek('a')
  writer.delta(id, dtype, elements, { offset: 0, values: [9] })
  return writer.finish()
}

/** Queued before the close, so finished by it. */
const WRITES: Readonly<Record<string, Call>> = {
  create: (bus) => bus.create('c', { dtype: 'u8', shape: [2] }),
  derive: (bus) => bus.derive('d', { op: 'map', inputs: { x: 'a' }, expr: 'x * 3' }),
  createMany: (bus) => bus.createMany([{ name: 'e', definition: { dtype: 'u8', shape: [2] } }]),
  delete: (bus) => bus.delete('spare'),
  defineFunction: (bus) => bus.defineFunction('f', { params: ['x'], expr: 'x * 2' }),
  deleteFunction: (bus) => bus.deleteFunction('g'),
  migrate: (bus) => bus.migrate(),
  patch: (bus) => bus.patch('a', { offset: 1, values: [7] }),
  write: (bus) => bus.write('a', [1, 2, 3, 4]),
  writeOnce: (bus) => bus.writeOnce('a', 'key', () => ({ delta: { offset: 2, values: [8] } })),
  transact: (bus) => bus.transact({ ops: OPS }),
  submit: (bus) => bus.submit(frame(bus)),
  submitAll: (bus) =>
    new Promise((resolve, reject) => {
      const sender: Sender = {
        committed: resolve,
        failed: (_f, _c, _b, error) => reject(error),
        refused: (_n, error) => reject(error),
      }
      bus.submitAll(sender, 1, frame(bus))
    }),
}

/** Answered, or refused because the bus is closed. */
const READS: Readonly<Record<string, Call>> = {
  data: (bus) => bus.data('a'),
  readAt: (bus) => bus.readAt('a', 2),
  readMany: (bus) => bus.readMany(['a', 'b']),
  peekAt: (bus) => bus.peekAt('a', 2),
  whatIf: (bus) => bus.whatIf({ ops: OPS, read: ['b'] }),
  epochInfo: (bus) => bus.epochInfo(2),
  epochs: (bus) => bus.epochs(),
  history: (bus) => bus.history('a'),
  diff: (bus) => bus.diff({ from: 2 }),
  pastJson: (bus) => bus.pastJson({ kind: 'epoch', epoch: 2 }),
  pastChanges: (bus) => bus.pastChanges({ after: 1, to: 2, pages: ['*'], values: true }),
  verify: (bus) => bus.verify(),
  checkpoint: (bus) => bus.checkpoint(),
}

/** Promises of what the bus hands out. */
const PARTS: Readonly<Record<string, Call>> = {
  'define of a cursor': async (bus) => bus.cursors?.define('new', ['a'], 1),
  'commit of a cursor': async (bus) => bus.cursors?.commit('known', 2),
  'remove of a cursor': async (bus) => bus.cursors?.remove('spare'),
  'next of a subscription': (bus) => bus.subscribe({ pages: ['none'] }).next(),
  'next after an epoch': (bus) => bus.subscribe({ pages: ['*'], from: 2 }).next(),
  'next of a snapshot': (bus) => bus.subscribe({ pages: ['*'], from: 'snapshot' }).next(),
  'a second next': (bus) => {
    const changes = bus.subscribe({ pages: ['none'] })
    void changes.next()
    return changes.next()
  },
  'commit of a subscription': async (bus) => {
    const changes = bus.subscribe({ pages: ['*'], durable: 'reader', from: 2 })
    const { value } = await changes.next()
    if (value !== undefined) await changes.commit(value.epoch)
  },
}

/** These give no promise. */
const OTHERS = [
  'between',
  'cancelCommit',
  'checkpoints',
  'executionLog',
  'function',
  'functionList',
  'functions',
  'gather',
  'graph',
  'graphLists',
  'hasPage',
  'holdHistory',
  'onCommit',
  'onFailure',
  'page',
  'pageNames',
  'pages',
  'peek',
  // With an epoch it is readAt.
  'read',
  'refuseWrite',
  'stageHistograms',
  'stats',
  'status',
  'subscribe',
  'withDependents',
]

const functionsOf = (prototype: object): string[] =>
  Object.entries(Object.getOwnPropertyDescriptors(prototype))
    .filter(([name, { value }]) => typeof value === 'function' && name !== 'constructor')
    .map(([name]) => name)

t.test('every method of the bus is in the tables', async (t) => {
  const methods = [...new Set([...functionsOf(EngineBus.prototype), ...functionsOf(Bus.prototype)])]
  const known = [...Object.keys(WRITES), ...Object.keys(READS), ...OTHERS, 'close']
  t.same(methods.sort(), known.sort())
})

async function open(t: Test, options: BusOptions = {}): Promise<Bus> {
  const bus = await Bus.open({ backend: 'cpu', threads: 1, ...options })
  t.teardown(() => bus.close())
  await bus.create('a', { dtype: 'i32', shape: [4] })
  await bus.derive('b', { op: 'map', inputs: { x: 'a' }, expr: 'x + 1' })
  await bus.create('spare', { dtype: 'u8', shape: [1] })
  await bus.defineFunction('g', { params: ['x'], expr: 'x' })
  await bus.cursors?.define('known', ['a'], 1)
  await bus.cursors?.define('spare', ['a'], 1)
  return bus
}

const OPEN_MS = 20_000

/** How a promise ended: with an answer, a code, or not at all. */
async function ending(call: () => Promise<unknown>): Promise<string> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<string>((resolve) => {
    timer = setTimeout(() => resolve('still open'), OPEN_MS)
  })
  const settled = (async () => call())().then(
    () => 'answered',
    (error: unknown) => (error instanceof MmsbError ? error.code : `not an MmsbError: ${String(error)}`),
  )
  const how = await Promise.race([settled, late])
  clearTimeout(timer)
  return how
}

/**
 * A repeat under a known key gets its answer from a closed bus too. Without a folder there is no past, and
 * the empty answers about it need no bus.
 */
const ANSWERED_LATER = new Set(['writeOnce', 'epochs', 'history', 'pastChanges'])

/** Past epochs and checkpoints need a folder. */
const NEEDS_FOLDER = new Set(['EPOCH_COMPACTED', 'INVALID_REQUEST'])

/** Prepared in turns of their own: the close may come before they are queued. */
const QUEUED_LATER = new Set(['createMany', 'defineFunction', 'deleteFunction'])

const isFair = (name: string, how: string, isDurable: boolean): boolean => {
  if (Object.hasOwn(WRITES, name) && !QUEUED_LATER.has(name)) return how === 'answered'
  return how === 'answered' || how === 'BUS_FAILED' || (!isDurable && NEEDS_FOLDER.has(how))
}

/** What was unfair: each call is started, then the bus closed after `wait`. */
async function unfair(
  bus: Bus,
  calls: Readonly<Record<string, Call>>,
  wait: () => Promise<unknown>,
): Promise<string[]> {
  const isDurable = bus.cursors !== undefined
  const ends = Object.entries(calls).map(([name, call]) => [name, ending(() => call(bus))] as const)
  await wait()
  const closed = ending(() => bus.close())
  const problems: string[] = []
  for (const [name, end] of ends) {
    const how = await end
    if (!isFair(name, how, isDurable)) problems.push(`${name}: ${how}`)
  }
  const how = await closed
  return how === 'answered' ? problems : [...problems, `close: ${how}`]
}

const MOMENTS: Readonly<Record<string, () => Promise<unknown>>> = {
  'at once': async () => {},
  'in the next turn': turn,
  'after some turns': () => sleep(3),
}

t.test('one call, and the bus is closed at once', async (t) => {
  for (const [name, call] of Object.entries({ ...WRITES, ...READS, ...PARTS }))
    t.same(await unfair(await open(t), { [name]: call }, async () => {}), [], name)
})

for (const kind of ['in memory', 'with a folder'] as const) {
  const optionsOf = (t: Test): BusOptions =>
    kind === 'in memory' ? {} : { dataDir: folder(t), fsync: 'off' }

  for (const [moment, wait] of Object.entries(MOMENTS)) {
    t.test(`${kind}: all calls, and the bus is closed ${moment}`, async (t) => {
      const bus = await open(t, optionsOf(t))
      t.same(await unfair(bus, { ...READS, ...WRITES, ...PARTS }, wait), [])
      const later: string[] = []
      for (const [name, call] of Object.entries({ ...WRITES, ...READS })) {
        const how = await ending(() => call(bus))
        const isRight = how === 'BUS_FAILED' || (bus.cursors === undefined && NEEDS_FOLDER.has(how))
        if (!isRight && !ANSWERED_LATER.has(name)) later.push(`${name}: ${how}`)
      }
      t.same(later, [], 'afterwards everything is refused')
    })
  }
}

/** A page whose change takes a while to compute, on another thread. */
async function slow(bus: Bus): Promise<void> {
  await bus.create('m', { dtype: 'f64', shape: [300, 300], fill: 1 })
  await bus.derive('mm', { op: 'matmul', inputs: { a: 'm', b: 'm' } })
}

for (const kind of ['in memory', 'with a folder'] as const) {
  const optionsOf = (t: Test): BusOptions =>
    kind === 'in memory' ? {} : { dataDir: folder(t), fsync: 'off' }

  t.test(`${kind}: while an epoch is computed on another thread`, async (t) => {
    const bus = await open(t, optionsOf(t))
    await slow(bus)
    const first = bus.patch('m', { values: [2] })
    await turn()
    t.same(await unfair(bus, { ...READS, ...WRITES, ...PARTS }, turn), [])
    t.match(await first, { page: 'm' })
  })

  t.test(`${kind}: while a large what-if has the pages to itself`, async (t) => {
    const bus = await open(t, optionsOf(t))
    await slow(bus)
    const trial = ending(() => bus.whatIf({ ops: [{ page: 'm', values: [2] }], read: ['mm'] }))
    await turn()
    await turn()
    t.same(await unfair(bus, { ...READS, ...WRITES, ...PARTS }, async () => {}), [])
    t.match(await trial, /^(answered|BUS_FAILED)$/)
  })

  t.test(`${kind}: within no time, what is queued is refused and what runs is cancelled`, async (t) => {
    const bus = await open(t, optionsOf(t))
    await slow(bus)
    const ends = [ending(() => bus.patch('m', { values: [2] }))]
    await turn()
    for (const call of Object.values({ ...READS, ...WRITES, ...PARTS })) ends.push(ending(() => call(bus)))
    const closed = [ending(() => bus.close({ graceMs: 0 })), ending(() => bus.close())]
    const hows = await Promise.all([...ends, ...closed])
    t.notOk(hows.includes('still open'), hows.join(' '))
    t.notOk(
      hows.some((how) => how.startsWith('not')),
      hows.join(' '),
    )
    t.same(hows.slice(-2), ['answered', 'answered'])
  })
}

t.test('while a checkpoint is written', async (t) => {
  const bus = await open(t, { dataDir: folder(t), fsync: 'off' })
  await bus.create('large', { dtype: 'f64', shape: [2 ** 20], fill: 1 })
  const written = ending(() => bus.checkpoint())
  await turn()
  t.same(await unfair(bus, { ...READS, ...WRITES, ...PARTS }, turn), [])
  t.match(await written, /^(answered|BUS_FAILED)$/)
})

t.test('several closes at once', async (t) => {
  const bus = await open(t, { dataDir: folder(t), fsync: 'off' })
  const ends = Object.entries({ ...READS, ...WRITES, ...PARTS }).map(
    ([name, call]) => [name, ending(() => call(bus))] as const,
  )
  const closes = [bus.close(), bus.close(), bus.close({ graceMs: 1 }), bus.close()].map((close) =>
    ending(() => close),
  )
  t.same(
    await Promise.all(closes),
    closes.map(() => 'answered'),
  )
  for (const [name, end] of ends) t.not(await end, 'still open', name)
})
