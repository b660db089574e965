/**
 * Wrong arguments of every public method of the library: each gets an MmsbError, each promise settles, and
 * nothing changes.
 *
 * Null because programs without types pass it.
 */
import t from 'tap'
import { EngineBus } from '../../src/engine/bus.js'
import { Bus, MmsbError } from '../../src/index.js'

type Loose = Record<string, (...args: unknown[]) => unknown>

const detached = new Float64Array(4)
structuredClone(detached.buffer, { transfer: [detached.buffer] })
const cycle: Record<string, unknown> = {}
cycle.self = cycle

const WRONG: readonly unknown[] = [
  undefined,
  null,
  0,
  1.5,
  -1,
  Number.NaN,
  'x',
  '',
  true,
  [],
  [null],
  {},
  () => 1,
  Symbol('s'),
  10n,
  new Date(0),
  new Map(),
  detached,
  cycle,
  { bogus: 1 },
  { offset: '1' },
  { epoch: '1' },
  { signal: 1 },
  { limit: 'x' },
  { from: 'x' },
  { pages: 1 },
  { pages: [1] },
  { values: detached },
  { values: [1], offset: '1' },
  { values: [Symbol('v')] },
  { values: [1], indices: detached },
  { values: [], mask: detached },
  { values: [1], merge: 'x' },
  { ops: 1 },
  { ops: [{ page: 'a', values: detached }] },
  { ops: [{ page: 'a', values: [1], bogus: 1 }] },
  { ops: [{ page: 'a', values: [1] }], read: null },
]

/** Lists of arguments in which one is wrong. */
const calls = (wrong: unknown): unknown[][] => [
  [wrong],
  ['a', wrong],
  ['a', 0, wrong],
  [wrong, wrong],
  ['a', wrong, {}],
  ['a', { values: [1] }, wrong],
]

const METHODS = [EngineBus.prototype, Bus.prototype]
  .flatMap((face) => Object.getOwnPropertyNames(face))
  .filter((name) => name !== 'constructor' && name !== 'close')
  .filter((name) => typeof Object.getOwnPropertyDescriptor(Bus.prototype, name)?.value === 'function')

async function settled(what: string, run: () => unknown): Promise<unknown> {
  const late = new Promise((_, reject) => {
    setTimeout(() => reject(new Error(`${what} does not settle`)), 10_000).unref()
  })
  return Promise.race([(async () => run())(), late])
}

t.test('a wrong argument is an MmsbError, whatever the method', async (t) => {
  t.ok(METHODS.length > 35)
  for (const method of new Set(METHODS)) {
    const bus = await Bus.open({ backend: 'cpu', threads: 1 })
    await bus.create('a', { dtype: 'f64', shape: [4] })
    await bus.derive('b', { op: 'map', inputs: { x: 'a' }, expr: 'x*2' })
    const raw: string[] = []
    for (const wrong of WRONG) {
      for (const args of calls(wrong)) {
        const { epoch, digest } = bus.status()
        try {
          const made = await settled(method, () => (bus as unknown as Loose)[method]!(...args))
          if (typeof made === 'function') made()
          if (method === 'subscribe') await (made as AsyncDisposable)[Symbol.asyncDispose]()
        } catch (error) {
          if (!(error instanceof MmsbError) || error.code === 'INTERNAL') raw.push(String(error))
          else if (bus.status().epoch !== epoch || bus.status().digest !== digest)
            raw.push('it changed something')
        }
      }
    }
    t.same([...new Set(raw)], [], method)
    await bus.close()
  }
})

t.test('unknown options and options of the wrong type are refused', async (t) => {
  const bus = await Bus.open({ backend: 'cpu', threads: 1 })
  t.teardown(() => bus.close())
  await bus.create('a', { dtype: 'f64', shape: [4] })
  const loose = bus as unknown as Loose
  for (const [method, ...args] of [
    ['read', 'a', { ofset: 1 }],
    ['read', 'a', { offset: '1' }],
    ['read', 'a', null],
    ['data', 'a', { epcoh: 1 }],
    ['readMany'],
    ['readMany', 'a'],
    ['readMany', ['a'], { epoch: '1' }],
    ['page', 'a', { epoch: 1 }],
    ['pages', { limit: '5' }],
    ['pages', { prefixes: 'a' }],
    ['delete', 'a', { cascade: 'yes' }],
    ['delete', 'a', { cascades: true }],
    ['patch', 'a', { values: [1], at: 3 }],
    ['patch', 'a', { values: [1] }, { idempotencyKey: 'k' }],
    ['write', 'a', [1, 2, 3, 4], { expect: 1 }],
    ['transact', { ops: [{ page: 'a', values: [1] }], keys: 'k' }],
    ['transact', { ops: [{ page: 'a', value: [1], values: [1] }] }],
    ['whatIf', { ops: [], read: ['a'], at: 3 }],
    ['diff'],
    ['verify', { form: 1 }],
    ['onCommit', null],
    ['onCommit', () => {}, 5],
    ['onFailure', {}],
    ['holdHistory'],
    ['subscribe', { pages: ['a'], signal: {} }],
    ['status', { full: true }],
  ] as const) {
    const error = await settled(method, () => loose[method]!(...args)).catch((error) => error)
    t.match(error, { code: 'INVALID_REQUEST' }, `${method} ${JSON.stringify(args)}`)
  }
  t.equal(bus.epoch, 1)
  await bus.patch('a', { values: [7] })
})

t.test('methods that return a promise reject it', async (t) => {
  const bus = await Bus.open({ backend: 'cpu', threads: 1 })
  const loose = bus as unknown as Loose
  for (const method of ['transact', 'submit', 'patch', 'whatIf', 'data', 'delete']) {
    await t.rejects(loose[method]!(null) as Promise<unknown>, { code: 'INVALID_REQUEST' }, method)
  }
  await bus.close()
  for (const [method, ...args] of [
    ['transact', { ops: [] }],
    ['patch', 'a', { values: [1] }],
    ['checkpoint'],
  ] as const) {
    await t.rejects(loose[method]!(...args) as Promise<unknown>, MmsbError, `${method} of a closed bus`)
  }
  t.throws(() => bus.read('a'), { code: 'BUS_FAILED' })
  t.throws(() => bus.subscribe({ pages: ['*'] }), { code: 'BUS_FAILED' })
})
