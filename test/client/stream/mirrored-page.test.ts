/** The pages of a mirror are the server's at every epoch that it was told of, whatever is changed and how. */
import t from 'tap'
import { decodeText } from '../../../src/client/codec/message.js'
import { applyChange, applySnapshot, type MirroredPage } from '../../../src/client/stream/mirrored-page.js'
import { jsonHead, jsonTail } from '../../../src/stream/messages.js'
import { create, remove, set, setup } from '../../stream/fakes.js'

/** A mirror of all pages of a bus that commits step by step. Messages arrive on `flush`. */
function mirrored() {
  const { bus, connect } = setup()
  const { sink, connection } = connect()
  const texts: string[] = []
  sink.send = (id, message) => {
    texts.push(jsonHead(message.type, id) + jsonTail(message))
  }
  const pages = new Map<string, MirroredPage>()
  const formOf = (page: string) => ({ dtype: 'u32' as const, shape: pages.get(page)?.shape ?? [] })
  const flush = async (): Promise<void> => {
    for (const text of texts.splice(0)) {
      const message = await decodeText(text, formOf)
      if (message.type !== 'change') continue
      const { type, changes } = message.change
      if (type === 'snapshot') applySnapshot(pages, changes)
      else for (const change of changes) applyChange(pages, change)
    }
  }
  connection.subscribe('m', { pages: ['*'], from: 'snapshot' })
  const shown = () => Object.fromEntries([...pages].sort().map(([name, { values }]) => [name, [...values]]))
  const truth = () => Object.fromEntries(bus.pageNames().map((name) => [name, bus.values(name)]))
  return { bus, pages, flush, shown, truth }
}

t.test('a mirror equals the page at every epoch, however many ranges a change has', async (t) => {
  const { bus, flush, shown, truth } = mirrored()
  await flush()
  t.same(shown(), truth(), 'the snapshot')
  const steps = [
    [set('a', [0, 1])],
    [set('a', [1, 2], [3, 4], [6, 7])],
    [set('b', [7, 1], [0, 2]), set('a', [7, 9])],
    [create('c', 3)],
    [set('c', [0, 5], [2, 6])],
    [remove('b'), set('c', [1, 1])],
    [create('b', 2), set('a', [2, 1], [4, 1], [5, 8])],
    [set('b', [1, 3])],
  ]
  for (const step of steps) {
    bus.commit(...step)
    await flush()
    t.same(shown(), truth(), `epoch ${bus.epoch}`)
  }
})

t.test('a page that is made anew in one epoch, and one that the mirror does not have', async (t) => {
  const { bus, pages, flush, shown, truth } = mirrored()
  await flush()
  const gone = bus.delete('a')
  bus.commit(create('a', 3), () => gone)
  await flush()
  t.same(shown(), truth())
  const stranger = { ...pages.get('a')!, page: 'c', kind: 'source', ranges: [[0, 1]] } as const
  t.throws(() => applyChange(pages, stranger), { code: 'PROTOCOL' })
})

t.test('a snapshot takes the place of everything, in the arrays that still fit', async (t) => {
  const { pages, flush } = mirrored()
  await flush()
  const { values } = pages.get('a')!
  const whole = { kind: 'source', dtype: 'u32', ranges: [[0, 8]] } as const
  applySnapshot(pages, [{ ...whole, page: 'a', shape: [8], values: Uint32Array.of(1, 2, 3, 4, 5, 6, 7, 8) }])
  t.same([...pages.keys()], ['a'], 'b is gone')
  t.equal(pages.get('a')?.values, values)
  t.same([...values], [1, 2, 3, 4, 5, 6, 7, 8])
  applySnapshot(pages, [{ ...whole, page: 'a', shape: [2, 4], values: new Uint32Array(8) }])
  t.not(pages.get('a')?.values, values, 'another shape, another array')
})
