/** What the engine keeps in a checkpoint beside the bytes: pages as they were, answers, functions. */
import t from 'tap'
import {
  checkpointSource,
  parseCheckpointExtra,
  tableOfCheckpoint,
} from '../../../src/engine/checkpoints/contents.js'
import { FunctionTable } from '../../../src/engine/pages/function-table.js'
import type { DerivedRecord } from '../../../src/engine/pages/registry.js'
import { decodeFrame } from '../../../src/state/frame/reader.js'
import { stateWith } from '../../lib/engine-state.js'

const PAGES = {
  x: { dtype: 'i32', shape: [2] },
  old: { derive: { op: 'map', inputs: { x: { prev: 'x' } }, expr: 'x' } },
  sum: { derive: { op: 'reduce', inputs: { x: 'x' }, fn: 'sum' } },
} as const

t.test('the state at rest, whatever becomes of it later', async (t) => {
  const state = await stateWith(t, PAGES)
  const { registry } = state
  const answers = Array.from(
    { length: 2_001 },
    (_, i) => [`k${i}`, { epoch: i, pages: { x: i } }, 'f'] as const,
  )
  const digest = state.context.stateDigest()
  const hooks = { read: () => {} } as never
  const source = checkpointSource({ state, epoch: 5, timestampMs: 6, digest, nextPageId: 7, answers }, hooks)
  t.strictSame(source.header, { epoch: 5, timestampMs: 6, digest, nextPageId: 7, extra: '' })
  const ids = source.pages.map(({ id }) => id)
  t.strictSame(
    ids,
    ids.toSorted((a, b) => a - b),
  )
  t.equal(ids.length, 4, 'and the past of one')
  const [x, old, sum] = ['x', 'old', 'sum'].map((name) => registry.require(name))
  const past = source.pages.find(({ id }) => registry.byId(id) === undefined)!
  t.strictSame([past.version, past.createdEpoch, past.bytes, past.meta.length], [5, 1, 8, 0])
  t.equal(past.id, old!.derived!.inputs[0]!.id)
  const pageOf = (id: number) => source.pages.find((page) => page.id === id)!
  t.match(pageOf(x!.id), { version: 1, createdEpoch: 1, bytes: 8 })
  const before = Uint8Array.from(pageOf(sum!.id).meta)
  t.match(decodeFrame(before).commands, [{ id: sum!.id, name: 'sum' }])
  // It changes while the checkpoint is written.
  x!.version = 9
  registry.redefine(sum!, { ...sum!.derived, definition: new Uint8Array(8) } as DerivedRecord, 99)
  registry.functions = new FunctionTable().after(
    { name: 'f', body: { params: [], expr: '1' }, worldAge: 1 },
    8,
  )
  t.equal(pageOf(x!.id).version, 1)
  t.strictSame(Uint8Array.from(pageOf(sum!.id).meta), before)
  const extra = await source.lateExtra!()
  t.strictSame(JSON.parse(extra), { format: 1, answers }, 'functions as they were')
  t.strictSame(parseCheckpointExtra(extra).answers, answers)
})

t.test('functions come back', async (t) => {
  const state = await stateWith(t, PAGES)
  const table = new FunctionTable(3).after(
    { name: 'f', body: { params: ['a'], expr: 'a + 1' }, worldAge: 4 },
    8,
  )
  state.registry.functions = table
  const common = { state, epoch: 5, timestampMs: 6, digest: new Uint8Array(16), nextPageId: 7, answers: [] }
  const extra = parseCheckpointExtra(await checkpointSource(common, {} as never).lateExtra!())
  const again = tableOfCheckpoint(extra)
  t.equal(again.worldAge, 4)
  t.strictSame(again.all(), table.all())
  const none = tableOfCheckpoint({ format: 1, answers: [] })
  t.strictSame([none.worldAge, none.size], [0, 0])
})

const ANSWER = '["k",{"epoch":1,"pages":{}}]'

t.test('texts that no version writes are refused', async (t) => {
  for (const text of [
    `{"format":1,"answers":[${ANSWER}]}`,
    '{"format":1,"answers":[]}',
    '{"format":1,"answers":[],"worldAge":3,"functions":[{}]}',
  ])
    t.equal(parseCheckpointExtra(text).format, 1, text)
  for (const text of [
    '',
    'null',
    '1',
    '{"format":2,"answers":[]}',
    '{"format":1}',
    '{"format":1,"answers":{}}',
    '{"format":1,"answers":[1]}',
    `{"format":1,"answers":[${ANSWER},["k"]]}`,
    '{"format":1,"answers":[[1,{"pages":{}}]]}',
    '{"format":1,"answers":[["k",null]]}',
    '{"format":1,"answers":[["k",{"pages":1}]]}',
    '{"format":1,"answers":[["k",{"pages":null}]]}',
    '{"format":1,"answers":[],"worldAge":1.5}',
    '{"format":1,"answers":[],"functions":[1]}',
    '{"format":1,"answers":[],"functions":{}}',
    '{"format":1,"answers":[],"functions":[null]}',
  ])
    t.throws(() => parseCheckpointExtra(text), { code: 'INTERNAL' }, text)
})
