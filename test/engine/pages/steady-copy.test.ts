/** Reads of many bytes: copied in slices while commits go on, and yet of one epoch. */
import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import type { PageRecord } from '../../../src/engine/pages/registry.js'
import { steadyCopy } from '../../../src/engine/pages/steady-copy.js'
import type { NativeContext } from '../../../src/ffi/context.js'
import { Bus } from '../../../src/index.js'
import { READ_SLICE_BYTES } from '../../../src/limits.js'

const ELEMENTS = 2 ** 20

t.test('a large read is of one epoch while every epoch changes the page', async (t) => {
  const bus = await Bus.open({ backend: 'cpu', threads: 1 })
  t.teardown(() => bus.close())
  await bus.create('x', { dtype: 'f64', shape: [ELEMENTS] })
  await bus.derive('y', { op: 'map', inputs: { x: 'x' }, expr: 'x + 1' })
  /** What the whole page held at an epoch, and where the one other element was. */
  const written = new Map<number, { value: number; other: number }>()
  let isDone = false
  let [value, other] = [0, 0]
  const writer = (async () => {
    for (let i = 1; !isDone; i++) {
      const isWhole = i % 8 === 0
      if (isWhole) value = i
      else other = (i * 7919) % ELEMENTS
      const { epoch } = isWhole
        ? await bus.write('x', new Float64Array(ELEMENTS).fill(value))
        : await bus.patch('x', { offset: other, values: [-i] })
      written.set(epoch, { value, other: isWhole ? -1 : -i })
      await turn()
    }
  })()
  for (let round = 0; round < 6; round++) {
    const { epoch, pages } = await bus.readMany(['x', 'y'])
    const [x, y] = [pages.x?.values as Float64Array, pages.y?.values as Float64Array]
    t.equal(x.length, ELEMENTS)
    let torn = 0
    for (let i = 0; i < ELEMENTS; i++) if ((x[i] as number) + 1 !== y[i]) torn++
    t.equal(torn, 0, 'both pages are of one epoch')
    await turn()
    while (!written.has(epoch)) await turn()
    const known = written.get(epoch) as { value: number; other: number }
    const kinds = new Set(x)
    t.ok(kinds.has(known.value) || known.value === 0, `epoch ${epoch} holds what was written last`)
    if (known.other < 0 && known.other !== -1) t.ok(kinds.has(known.other), 'and the newest single element')
    let above = 0
    for (const v of kinds) if (v > 0 && v !== known.value) above++
    t.equal(above, 0, 'and nothing older')
  }
  isDone = true
  await writer
})

t.test('a page that is deleted while it is copied is not found; a signal ends the copy', async (t) => {
  const bus = await Bus.open({ backend: 'cpu', threads: 1 })
  t.teardown(() => bus.close())
  await bus.create('x', { dtype: 'f64', shape: [8 * ELEMENTS], fill: 1 })
  const reading = bus.data('x')
  await Promise.resolve()
  const deleted = bus.delete('x')
  await t.rejects(reading, { code: 'PAGE_NOT_FOUND' })
  await deleted
  await bus.create('x', { dtype: 'f64', shape: [8 * ELEMENTS], fill: 1 })
  const controller = new AbortController()
  const aborted = bus.data('x', { signal: controller.signal })
  await Promise.resolve()
  controller.abort()
  await t.rejects(aborted, { code: 'INVALID_REQUEST' })
  t.equal((await bus.data('x', { offset: 5, count: 2 })).values.length, 2)
})

t.test('the event loop is free while a large page is copied', async (t) => {
  const bus = await Bus.open({ backend: 'cpu', threads: 1 })
  t.teardown(() => bus.close())
  await bus.create('x', { dtype: 'u8', shape: [64 * 2 ** 20], fill: 1 })
  let turns = 0
  let isDone = false
  const count = (): void => {
    turns++
    if (!isDone) setImmediate(count)
  }
  setImmediate(count)
  await bus.data('x')
  isDone = true
  t.ok(turns >= 16, `${turns} turns went by`)
})

t.test('a part of a page is copied a slice at a time, each element once', async (t) => {
  const reads: [offset: number, bytes: number][] = []
  const context = {
    readPage: (_id: number, offset: number, into: Float64Array) => {
      reads.push([offset, into.byteLength])
      into.fill(offset)
    },
  } as unknown as NativeContext
  const commits = {
    lifecycle: { refuseWhenFailed: () => {} },
    idle: async () => {},
    hold: <T>(work: () => Promise<T>) => work(),
    onCommit: () => () => {},
  }
  const slice = READ_SLICE_BYTES
  const page = { id: 1, name: 'x', dtype: 'f64' } as PageRecord
  const targets = [{ page, offset: slice / 8, count: (2.5 * slice) / 8 }]
  const values = await steadyCopy({ context, commits, targets, signal: undefined }, ([copied]) => copied!)
  t.strictSame(reads, [
    [slice, slice],
    [2 * slice, slice],
    [3 * slice, slice / 2],
  ])
  t.same([values[0], values[slice / 8], values.at(-1)], [slice, 2 * slice, 3 * slice])
})
