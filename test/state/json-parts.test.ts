/** Answers about the past as parts of JSON: the same text as the answer as an object, with binary lists. */
import t from 'tap'
import { Bus } from '../../src/index.js'
import type { JsonParts } from '../../src/state/json-parts.js'
import { valuesToJsonText } from '../../src/state/value.js'

const textOf = ({ parts }: JsonParts): string =>
  parts
    .map((part) =>
      part instanceof Uint8Array ? Buffer.from(part).toString() : valuesToJsonText(part.dtype, part.values),
    )
    .join('')

t.test('parts of JSON hold what the answers as objects hold', async (t) => {
  const bus = await Bus.open({ dataDir: t.testdir(), backend: 'cpu', threads: 1 })
  t.teardown(() => bus.close())
  const elements = 100_000
  await bus.create('x', { dtype: 'f64', shape: [elements], fill: 1.5 })
  await bus.write('x', new Float64Array(elements).fill(0.1))
  await bus.transact({
    ops: [
      { page: 'x', indices: [3, 1, 2], values: [1, Number.NaN, 2] },
      { page: 'x', offset: 5, values: [7], merge: 'add' },
    ],
    intent: { why: 'a "quoted" text', deep: [null, { list: [1, 2], '@list': '@list@' }] },
    source: 'test',
  })
  await bus.create('y', { dtype: 'u64', shape: [2] })
  await bus.write('y', [2n ** 63n, 1n])
  await bus.delete('y')
  const asked = await bus.pastJson({ kind: 'epochs', query: { from: 1 } })
  t.same(JSON.parse(textOf(asked)), await bus.epochs({ from: 1 }))
  const lists = asked.parts.flatMap((part) => (part instanceof Uint8Array ? [] : part))
  t.ok(
    lists.some(({ dtype, values }) => dtype === 'f64' && values.length === elements),
    'the values of a large delta stay binary',
  )
  const epoch = await bus.pastJson({ kind: 'epoch', epoch: 3 })
  t.same(JSON.parse(textOf(epoch)), await bus.epochInfo(3))
  const history = await bus.pastJson({ kind: 'history', name: 'x', query: { limit: 2 } })
  t.same(JSON.parse(textOf(history)), await bus.history('x', { limit: 2 }))
  const gone = await bus.pastJson({ kind: 'history', name: 'y', query: {} })
  t.same(JSON.parse(textOf(gone)), await bus.history('y'))
  const diff = await bus.pastJson({ kind: 'diff', query: { from: 2 } })
  t.same(JSON.parse(textOf(diff)), await bus.diff({ from: 2 }))
  const nothing = await bus.pastJson({ kind: 'epochs', query: { from: bus.epoch + 1 } })
  t.same(JSON.parse(textOf(nothing)), { epochs: [], next: null })
  const newest = await bus.pastJson({ kind: 'history', name: 'x', query: { from: bus.epoch + 1 } })
  t.same(JSON.parse(textOf(newest)), await bus.history('x', { from: bus.epoch + 1 }))
  await t.rejects(bus.pastJson({ kind: 'history', name: 'none', query: {} }), { code: 'PAGE_NOT_FOUND' })
  await t.rejects(bus.pastJson({ kind: 'epoch', epoch: 99 }), { code: 'EPOCH_NOT_FOUND' })
  await t.rejects(bus.pastJson({ kind: 'diff', query: { from: 3, to: 2 } }), { code: 'INVALID_REQUEST' })
})
