/**
 * What one turn hands in is decided in the order of the calls, although it may share an epoch: an expected
 * version is that of the page at the transaction's place, also where a write before it has not been computed.
 */
import t, { type Test } from 'tap'
import type { BusOptions, CommitResult } from '../../../src/engine/types.js'
import { Bus, MmsbError } from '../../../src/index.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import { Draw } from '../../lib/draw.js'
import { folder } from '../../lib/folder.js'
import { turn } from '../../lib/wait.js'

async function open(t: Test, options: BusOptions = {}): Promise<Bus> {
  const bus = await Bus.open({ backend: 'cpu', threads: 1, ...options })
  t.teardown(() => bus.close())
  await bus.create('a', { dtype: 'i32', shape: [4] })
  await bus.create('other', { dtype: 'i32', shape: [4] })
  await bus.derive('twice', { op: 'map', inputs: { x: 'a' }, expr: 'x * 2' })
  await bus.derive('positive', { op: 'map', inputs: { x: 'twice' }, expr: 'x > 0' })
  await bus.derive('count', { op: 'reduce', inputs: { x: 'positive' }, fn: 'count' })
  return bus
}

const frameOf = (bus: Bus, page: string, value: number, expected: string, version: number): Uint8Array => {
  const { id, dtype, elements } = bus.peek(page)
  const writer = new FrameWriter({ expect: [{ pageId: bus.peek(expected).id, version }] })
  writer.delta(id, dtype, elements, { offset: 0, values: [value] })
  return writer.finish()
}

/** Ways to write 9 to `other` that expect a version of a page. */
const EXPECTING: Readonly<Record<string, (bus: Bus, page: string, version: number) => Promise<unknown>>> = {
  transact: (bus, page, version) =>
    bus.transact({ ops: [{ page: 'other', values: [9] }], expect: [{ page, version }] }),
  'with another page first': (bus, page, version) => {
    const expect = [
      { page: 'other', version: bus.peek('other').version },
      { page, version },
    ]
    return bus.transact({ ops: [{ page: 'other', values: [9] }], expect })
  },
  'without a change': (bus, page, version) => bus.transact({ ops: [], expect: [{ page, version }] }),
  'a frame': (bus, page, version) => bus.submit(frameOf(bus, 'other', 9, page, version)),
  'a frame of a message': (bus, page, version) =>
    new Promise((resolve, reject) => {
      const sender = {
        committed: (_first: number, _count: number, _bytes: number, epoch: number) => resolve({ epoch }),
        failed: (_first: number, _count: number, _bytes: number, error: unknown) => reject(error),
        refused: (_number: number, error: unknown) => reject(error),
      }
      bus.submitAll(sender, 1, frameOf(bus, 'other', 9, page, version))
    }),
}

/** Changes of `twice`, and of what derives from it. */
const CHANGES: Readonly<Record<string, (bus: Bus) => Promise<{ epoch: number }>>> = {
  'a write': (bus) => bus.patch('a', { values: [bus.epoch] }),
  'a frame': (bus) => bus.submit(frameOf(bus, 'a', bus.epoch, 'a', bus.peek('a').version)),
}

for (const kind of ['in memory', 'with a folder'] as const) {
  const optionsOf = (t: Test): BusOptions =>
    kind === 'in memory' ? {} : { dataDir: folder(t), fsync: 'off' }

  t.test(`${kind}: a derived page that a transaction before it in the turn changes`, async (t) => {
    const bus = await open(t, optionsOf(t))
    for (const [changing, change] of Object.entries(CHANGES)) {
      for (const [expecting, expect] of Object.entries(EXPECTING)) {
        const what = `${changing}, then ${expecting}`
        const { version } = bus.peek('twice')
        const [changed, refused] = await Promise.allSettled([change(bus), expect(bus, 'twice', version)])
        const { epoch } = (changed as PromiseFulfilledResult<{ epoch: number }>).value
        t.match(refused, { status: 'rejected' }, what)
        const { reason } = refused as PromiseRejectedResult
        t.match(reason, { code: 'PRECONDITION_FAILED' }, what)
        if (reason instanceof MmsbError && 'extra' in reason)
          t.match(reason.extra, { page: 'twice', expected: version, actual: epoch }, what)
        t.equal(bus.peek('twice').version, epoch, what)
        // The version that the change is going to make is right.
        const before = bus.epoch
        const both = await Promise.all([change(bus), expect(bus, 'twice', before + 1)])
        t.match(both, [{ epoch: before + 1 }, { epoch: before + 2 }], what)
      }
    }
  })

  t.test(`${kind}: a transaction before the change is not refused by it`, async (t) => {
    const bus = await open(t, optionsOf(t))
    for (const change of Object.values(CHANGES)) {
      for (const [expecting, expect] of Object.entries(EXPECTING)) {
        const { version } = bus.peek('twice')
        const [first, second] = await Promise.all([expect(bus, 'twice', version), change(bus)])
        t.ok((first as CommitResult).epoch <= second.epoch, expecting)
      }
    }
  })

  t.test(`${kind}: a write that does not reach the page leaves its version as it was`, async (t) => {
    const bus = await open(t, optionsOf(t))
    await bus.patch('a', { values: [1, 1, 1, 1] })
    const { version } = bus.peek('count')
    const expecting = () => bus.transact({ ops: [], expect: [{ page: 'count', version }] })
    const [changed, fine] = await Promise.all([bus.patch('a', { values: [2] }), expecting()])
    t.ok(changed.epoch < fine.epoch, 'the change is an epoch before')
    const [, refused] = await Promise.allSettled([bus.patch('a', { values: [-2] }), expecting()])
    t.match(refused, { status: 'rejected', reason: { code: 'PRECONDITION_FAILED' } }, 'one that reaches it')
  })

  t.test(`${kind}: a page that is deleted, or made, before it in the turn`, async (t) => {
    const bus = await open(t, optionsOf(t))
    const { version } = bus.peek('count')
    const results = await Promise.allSettled([
      bus.delete('count'),
      bus.transact({ ops: [], expect: [{ page: 'count', version }] }),
      bus.patch('a', { values: [3] }),
    ])
    t.match(
      results.map(({ status }) => status),
      ['fulfilled', 'rejected', 'fulfilled'],
    )
    t.match(results[1], { reason: { code: 'PAGE_NOT_FOUND' } })
    const [made] = await Promise.all([
      bus.derive('count', { op: 'reduce', inputs: { x: 'positive' }, fn: 'count' }),
      bus.patch('a', { values: [4] }),
    ])
    t.equal(bus.peek('count').version, made.epoch)
    t.not(made.epoch, version, 'another page of the name has another version')
  })

  t.test(`${kind}: an expected version of a source page that the turn wrote`, async (t) => {
    const bus = await open(t, optionsOf(t))
    const { version } = bus.peek('a')
    const results = await Promise.allSettled([
      bus.patch('other', { values: [1] }),
      bus.patch('a', { values: [5] }, { expectVersion: version }),
      bus.patch('a', { values: [6] }, { expectVersion: version }),
      bus.transact({ ops: [{ page: 'a', values: [7] }], expect: [{ page: 'other', version: 2 }] }),
      bus.patch('a', { offset: 1, values: [8] }),
    ])
    t.same(
      results.map(({ status }) => status),
      ['fulfilled', 'fulfilled', 'rejected', 'rejected', 'fulfilled'],
    )
    t.same([...bus.read('a')], [5, 8, 0, 0])
  })
}

t.test('compare and set on a derived page loses no update, whoever takes part', async (t) => {
  for (const expected of ['total', 'n'] as const) {
    const bus = await Bus.open({ backend: 'cpu', threads: 1 })
    t.teardown(() => bus.close())
    await bus.create('n', { dtype: 'i64', shape: [2] })
    await bus.derive('total', { op: 'reduce', inputs: { x: 'n' }, fn: 'sum' })
    const draw = new Draw(5)
    let [won, lost] = [0, 0]
    const write = async (): Promise<void> => {
      const { version } = bus.peek(expected)
      const [total] = bus.read('total') as BigInt64Array
      const at = draw.int(0, 1)
      const other = (bus.read('n') as BigInt64Array)[1 - at] as bigint
      if (draw.chance(0.3)) await turn()
      const ops = [{ page: 'n', offset: at, values: [(total as bigint) + 1n - other] }]
      const result = await bus
        .transact({ ops, expect: [{ page: expected, version }] })
        .catch((error: unknown) => error)
      if (result instanceof MmsbError) {
        t.equal(result.code, 'PRECONDITION_FAILED')
        lost++
      } else won++
    }
    for (let round = 0; round < 40; round++) await Promise.all(Array.from({ length: 6 }, write))
    t.equal((bus.read('total') as BigInt64Array)[0], BigInt(won), expected)
    t.ok(won >= 40 && lost > 40, `${won} won, ${lost} lost`)
  }
})
