/** Reading pages as they are now: parts of them, several together, lists, and descriptions. */
import t, { type Test } from 'tap'
import { PageReader, type PageReaderDeps } from '../../../src/engine/pages/page-reader.js'
import { MmsbError } from '../../../src/errors.js'
import { READ_SLICE_BYTES } from '../../../src/limits.js'
import type { PageDefinition } from '../../../src/state/types.js'
import { stateWith } from '../../lib/engine-state.js'

const EPOCH = 9

async function bench(t: Test, pages: Readonly<Record<string, PageDefinition>>) {
  const state = await stateWith(t, pages)
  for (const page of state.registry.all()) {
    if (page.bytes === 0) continue
    const bytes = Uint8Array.from({ length: page.bytes }, (_, i) => i % 100)
    state.context.loadPage(page.id, 0, bytes)
  }
  const committer = { epoch: EPOCH, staged: undefined, isExecutionOpen: false }
  let hasDevice = false
  const deps = { state, committer, hasDevice: () => hasDevice }
  const reader = new PageReader(deps as unknown as PageReaderDeps)
  const giveDevice = (): void => {
    hasDevice = true
  }
  return { state, committer, reader, giveDevice }
}

const PAGES = {
  x: { dtype: 'u8', shape: [2, 3] },
  none: { dtype: 'f64', shape: [0] },
  wide: { dtype: 'i32', shape: [4] },
  y: { derive: { op: 'map', inputs: { v: 'x' }, expr: 'v' } },
} as const

const codeOf = (run: () => unknown): string => {
  try {
    run()
    return 'fine'
  } catch (error) {
    if (error instanceof MmsbError) return error.code
    throw error
  }
}

t.test('a page, and parts of it', async (t) => {
  const { state, reader } = await bench(t, PAGES)
  for (const [range, wanted] of [
    [{}, [0, 1, 2, 3, 4, 5]],
    [{ offset: 2 }, [2, 3, 4, 5]],
    [{ count: 2 }, [0, 1]],
    [{ offset: 3, count: 2 }, [3, 4]],
    [{ offset: 5, count: 1 }, [5]],
    [{ offset: 6 }, []],
    [{ offset: 4, count: 0 }, []],
  ] as const) {
    t.same([...reader.values('x', range)], wanted)
    const { values, ...rest } = reader.data('x', range)
    t.same([...values], wanted)
    t.strictSame(rest, { name: 'x', dtype: 'u8', shape: [2, 3], version: 1, epoch: EPOCH })
  }
  const second = Int32Array.of(0x07060504)
  t.strictSame(reader.values('wide', { offset: 1, count: 1 }), second, 'an offset is one of elements')
  t.strictSame(reader.values('none', {}), new Float64Array(0))
  const copy = reader.values('x', {})
  copy.fill(9 as never)
  t.equal(reader.values('x', {})[0], 0, 'a copy')
  for (const range of [
    { offset: 7 },
    { offset: -1 },
    { count: 7 },
    { count: -1 },
    { offset: 5, count: 2 },
    { offset: 1.5 },
    { offset: 0, count: 0.5 },
    { offset: Number.NaN },
  ])
    t.equal(
      codeOf(() => reader.values('x', range)),
      'RANGE_NOT_SATISFIABLE',
      JSON.stringify(range),
    )
  t.equal(
    codeOf(() => reader.values('z', {})),
    'PAGE_NOT_FOUND',
  )
  t.equal(
    codeOf(() => reader.data('z', {})),
    'PAGE_NOT_FOUND',
  )
  const { id } = state.registry.require('x')
  t.strictSame(reader.gather(id, Uint32Array.of(1, 2, 5, 1)), Uint8Array.of(1, 2, 5))
  t.strictSame(reader.gather(id, new Uint32Array(0)), new Uint8Array(0))
  const wide = state.registry.require('wide').id
  t.strictSame(reader.gather(wide, Uint32Array.of(0, 1, 3, 1)), Int32Array.of(0x03020100, 0x0f0e0d0c))
  t.equal(
    codeOf(() => reader.gather(9_999_999, Uint32Array.of(0, 1))),
    'PAGE_NOT_FOUND',
  )
})

t.test('parts of several pages, in the order of the question', async (t) => {
  const { reader, state } = await bench(t, PAGES)
  const { epoch, pages } = await reader.dataOfMany([
    { name: 'wide', offset: 3 },
    { name: 'x', count: 2 },
  ])
  t.equal(epoch, EPOCH)
  t.strictSame(pages, [
    { name: 'wide', dtype: 'i32', shape: [4], version: 1, epoch: EPOCH, values: Int32Array.of(0x0f0e0d0c) },
    { name: 'x', dtype: 'u8', shape: [2, 3], version: 1, epoch: EPOCH, values: Uint8Array.of(0, 1) },
  ])
  t.strictSame(await reader.dataOfMany([]), { epoch: EPOCH, pages: [] })
  let reads = 0
  state.context.readPage = () => {
    reads++
  }
  await t.rejects(reader.dataOfMany([{ name: 'x' }, { name: 'z' }]), { code: 'PAGE_NOT_FOUND' })
  await t.rejects(reader.dataOfMany([{ name: 'x' }, { name: 'x', offset: 7 }]), {
    code: 'RANGE_NOT_SATISFIABLE',
  })
  t.equal(reads, 0, 'before anything is read')
})

t.test('much is read a slice at a time', async (t) => {
  const count = READ_SLICE_BYTES / 8
  const { reader, committer } = await bench(t, { large: { dtype: 'f64', shape: [count + 1] } })
  let listens = 0
  Object.assign(committer, {
    lifecycle: { refuseWhenFailed() {} },
    idle: async () => {},
    hold: (work: () => Promise<unknown>) => work(),
    onCommit: () => {
      listens++
      return () => {}
    },
  })
  const once = await reader.dataOfMany([{ name: 'large', count }])
  t.equal(once.pages[0]!.values.length, count)
  t.equal(listens, 0, 'a slice is read at once')
  const { epoch, pages } = await reader.dataOfMany([{ name: 'large' }])
  t.ok(listens > 0, 'commits go on while more is read')
  t.equal(epoch, EPOCH)
  t.equal(pages[0]!.values.length, count + 1)
  t.equal(
    Buffer.compare(Buffer.from(pages[0]!.values.buffer), Buffer.from(reader.values('large', {}).buffer)),
    0,
  )
  const reason = new Error('gone')
  const ended = await reader
    .dataOfMany([{ name: 'large' }], AbortSignal.abort(reason))
    .catch((error) => error)
  t.ok(ended instanceof Error, 'it ends when nobody wants it any more')
})

t.test('a list of names: prefix, cursor, limit', async (t) => {
  const names = ['a', 'b', 'b1', 'b2', 'b3', 'c', 'd']
  const { reader } = await bench(
    t,
    Object.fromEntries(names.map((name) => [name, { dtype: 'u8', shape: [1] }] as const)),
  )
  const list = (query: Parameters<PageReader['list']>[0]): string => {
    const { pages, next } = reader.list(query)
    return `${pages.map(({ name }) => name).join(' ')} > ${next ?? '.'}`
  }
  t.equal(list({}), 'a b b1 b2 b3 c d > .')
  t.equal(list({ limit: 7 }), 'a b b1 b2 b3 c d > .')
  t.equal(list({ limit: 6 }), 'a b b1 b2 b3 c > c')
  t.equal(list({ limit: 3, cursor: 'b' }), 'b1 b2 b3 > b3')
  t.equal(list({ cursor: 'c' }), 'd > .')
  t.equal(list({ cursor: 'd' }), ' > .')
  t.equal(list({ cursor: 'b4' }), 'c d > .', 'one that is gone')
  t.equal(list({ prefix: 'b' }), 'b b1 b2 b3 > .')
  t.equal(list({ prefix: 'b', limit: 4 }), 'b b1 b2 b3 > .', 'others follow, but not of the prefix')
  t.equal(list({ prefix: 'b', limit: 3 }), 'b b1 b2 > b2')
  t.equal(list({ prefix: 'b', limit: 3, cursor: 'b2' }), 'b3 > .')
  t.equal(list({ prefix: 'b', cursor: 'b' }), 'b1 b2 b3 > .', 'a cursor that is the prefix')
  t.equal(list({ prefix: 'b', limit: 2, cursor: 'a' }), 'b b1 > b1', 'a cursor before the prefix')
  t.equal(list({ prefix: 'bb' }), ' > .')
  t.equal(list({ prefix: 'z' }), ' > .')
})

t.test('descriptions, of the moment at which they begin', async (t) => {
  const count = 300
  const pages = Object.fromEntries(
    Array.from({ length: count }, (_, i) => [`p${i}`, { dtype: 'u8', shape: [2] }] as const),
  )
  const { reader, state, committer, giveDevice } = await bench(t, pages)
  const list = [...state.registry.all()]
  const before = list.map((page) => reader.info(page))
  t.match(before[0], { name: 'p0', version: 1, location: 'cpu', digest: /^[0-9a-f]{32}$/ })
  const describing = reader.describing(list)
  t.notOk(describing.next().done)
  const last = list.at(-1)!
  state.context.loadPage(last.id, 0, Uint8Array.of(9, 9))
  last.version = 8
  let pauses = 1
  let step = describing.next()
  for (; step.done !== true; step = describing.next()) pauses++
  t.equal(pauses, Math.floor(count / 128))
  t.strictSame(step.value, before)
  t.not(reader.info(last).digest, before.at(-1)!.digest)
  t.equal(reader.info(last).version, 8)
  const asked: unknown[] = []
  state.context.settledDigest = (id, isOpen) => {
    asked.push([id, isOpen])
    return new Uint8Array(16)
  }
  committer.isExecutionOpen = true
  reader.info(last)
  t.strictSame(asked, [[last.id, true]], 'while an epoch executes, the one before')
  state.context.pageLocation = () => 'gpu'
  t.equal(reader.locationOf(last), 'cpu', 'without a device there is one place')
  giveDevice()
  t.equal(reader.locationOf(last), 'gpu')
  t.same([...reader.graph().nodes].map(({ name }) => name).slice(0, 3), ['p0', 'p1', 'p10'], 'sorted by name')
})
