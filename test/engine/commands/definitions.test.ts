/**
 * Defining and deleting pages and functions: what is committed and what is answered, also when something
 * changes between compiling and committing. Commits are the test's own.
 */
import t, { type Test } from 'tap'
import { Definitions } from '../../../src/engine/commands/definitions.js'
import { StaleFunctions } from '../../../src/engine/commands/functions.js'
import type { Pending } from '../../../src/engine/commands/pending.js'
import { Batch } from '../../../src/engine/commit/batch.js'
import { PageReader, type PageReaderDeps } from '../../../src/engine/pages/page-reader.js'
import type { CommitResult } from '../../../src/engine/types.js'
import { MmsbError } from '../../../src/errors.js'
import { PAGE_ID_MAX } from '../../../src/limits.js'
import { LimitGuard } from '../../../src/operator-limits.js'
import { emptyState, executed } from '../../lib/engine-state.js'

function bench(t: Test, nextPageId = 1) {
  const state = emptyState(t)
  const given = { hasDevice: false, refusal: undefined as Error | undefined, writesAsked: 0 }
  /** Called before the commits to come, one for each. */
  const before: (() => unknown)[] = []
  const commits: Pending[] = []
  let epoch = 0
  const commit = async (pending: Pending): Promise<CommitResult> => {
    commits.push(pending)
    await before.shift()?.()
    const batch = new Batch(epoch + 1, state)
    if (batch.stage(pending) !== 'staged') throw new Error('not staged')
    executed(state, batch)
    epoch++
    return { epoch, pages: {} }
  }
  const committer = { epoch: 0, staged: undefined, isExecutionOpen: false }
  const hasDevice = (): boolean => given.hasDevice
  const pages = new PageReader({ state, committer, hasDevice: () => false } as unknown as PageReaderDeps)
  const refuseWrites = (): void => {
    given.writesAsked++
    if (given.refusal !== undefined) throw given.refusal
  }
  const deps = { state, pages, limits: new LimitGuard(), commit, refuseWrites, hasDevice }
  return { state, definitions: new Definitions(deps, nextPageId), commits, before, given }
}

const SOURCE = { dtype: 'u8', shape: [2] } as const
const derived = (input: string, expr = 'v + 1') =>
  ({ derive: { op: 'map', inputs: { v: input }, expr } }) as const

t.test('a page is created once, and its name is not another one’s', async (t) => {
  const { definitions, commits } = bench(t, 5)
  t.match(await definitions.create('x', SOURCE), { epoch: 1, created: true, page: { name: 'x', id: 5 } })
  t.match(await definitions.create('y', derived('x')), { epoch: 2, created: true })
  t.equal(definitions.nextPageId, 7)
  t.match(await definitions.create('x', SOURCE), { epoch: 1, created: false, page: { name: 'x' } })
  t.match(await definitions.create('y', derived('x')), { epoch: 2, created: false })
  await t.rejects(definitions.create('x', { ...SOURCE, shape: [3] }), {
    code: 'PAGE_EXISTS',
    message: /^A page "x" with another definition exists: /,
  })
  await t.rejects(definitions.create('y', derived('x', 'v + 2')), { code: 'PAGE_EXISTS' })
  await t.rejects(definitions.create('z', derived('nobody')), { code: 'PAGE_NOT_FOUND' })
  t.equal(commits.length, 2)
  t.equal(definitions.nextPageId, 7, 'ids that no page has are given back')
})

t.test('ids are not given back when others were taken meanwhile', async (t) => {
  const { definitions, before } = bench(t)
  before.push(() => {
    t.equal(definitions.takePageId(), 2)
    throw new MmsbError('LOG_FULL', 'full')
  })
  await t.rejects(definitions.create('x', SOURCE), { code: 'LOG_FULL' })
  t.equal(definitions.nextPageId, 3)
  const last = bench(t, PAGE_ID_MAX).definitions
  t.equal(last.takePageId(), PAGE_ID_MAX)
  t.throws(() => last.takePageId(), { code: 'INTERNAL' })
})

t.test('a page of the name that came first', async (t) => {
  const { definitions, before, commits } = bench(t)
  before.push(() => definitions.create('x', SOURCE))
  t.match(await definitions.create('x', SOURCE), { epoch: 1, created: false })
  t.equal(commits.length, 2)
  before.push(() => definitions.create('y', SOURCE))
  await t.rejects(definitions.create('y', { ...SOURCE, dtype: 'i8' }), {
    code: 'PAGE_EXISTS',
    message: /another definition/,
  })
  before.push(() => {
    throw new MmsbError('PAGE_EXISTS', 'but it does not')
  })
  await t.rejects(definitions.create('z', SOURCE), { message: 'but it does not' })
})

t.test('several pages are created together, or none', async (t) => {
  const { definitions, commits, state } = bench(t)
  const made = await definitions.createMany([
    { name: 'b', definition: SOURCE },
    { name: 'a', definition: derived('b') },
  ])
  t.match(made, { epoch: 1, pages: [{ name: 'b' }, { name: 'a' }] })
  t.strictSame(Object.keys(made), ['epoch', 'pages'])
  await t.rejects(
    definitions.createMany([
      { name: 'c', definition: SOURCE },
      { name: 'd', definition: { ...SOURCE, location: 'gpu' } },
    ]),
    { code: 'UNSUPPORTED_LOCATION' },
  )
  t.equal(commits.length, 1)
  t.same([...state.registry.names()], ['a', 'b'])
  t.equal(definitions.nextPageId, 3)
})

t.test('memory of a device, where there is one', async (t) => {
  const { definitions, given, commits } = bench(t)
  for (const location of ['gpu', 'unified'] as const) {
    await t.rejects(definitions.create('x', { ...SOURCE, location }), {
      code: 'UNSUPPORTED_LOCATION',
      message: `Page "x" asks for location "${location}", but the backend is cpu.`,
    })
  }
  t.equal(commits.length, 0)
  for (const location of ['auto', 'cpu'] as const) await definitions.create(location, { ...SOURCE, location })
  given.hasDevice = true
  for (const location of ['gpu', 'unified', 'cpu', 'auto'] as const)
    definitions.refuseWithoutDevice({ name: 'x', location } as never)
})

t.test('a definition that would close a cycle', async (t) => {
  const { definitions } = bench(t)
  await definitions.create('x', SOURCE)
  await definitions.create('y', derived('x'))
  await definitions.create('z', derived('y'))
  await t.rejects(definitions.create('x', derived('z')), {
    code: 'GRAPH_CYCLE',
    message: 'The definition would close a cycle: x -> y -> z -> x.',
    extra: { path: ['x', 'y', 'z', 'x'] },
  })
  await t.rejects(definitions.create('x', derived('x')), { code: 'GRAPH_CYCLE' })
  const past = { derive: { op: 'map', inputs: { v: { prev: 'z' } }, expr: 'v + 1' } } as const
  await t.rejects(definitions.create('x', past), { code: 'PAGE_EXISTS' }, 'the past of a page closes none')
})

t.test('a page is deleted alone, or with those that derive from it', async (t) => {
  const { definitions, before, commits, state, given } = bench(t)
  await definitions.create('x', SOURCE)
  await definitions.create('y', derived('x'))
  await t.rejects(definitions.delete('x', false), { code: 'PAGE_IN_USE' })
  t.equal(commits.length, 3, 'asked once')
  before.push(() => definitions.create('z', derived('y')))
  t.match(await definitions.delete('x', true), { epoch: 4 })
  t.equal(commits.length, 6, 'again, with the one that was made meanwhile')
  t.equal(state.registry.size, 0)
  await t.rejects(definitions.delete('x', true), { code: 'PAGE_NOT_FOUND' })
  await definitions.create('x', SOURCE)
  before.push(() => {
    throw new MmsbError('LOG_FULL', 'full')
  })
  await t.rejects(definitions.delete('x', true), { code: 'LOG_FULL' })
  given.refusal = new MmsbError('BUS_FAILED', 'no more')
  const count = commits.length
  await t.rejects(definitions.delete('x', true), { code: 'BUS_FAILED' })
  await t.rejects(definitions.create('v', SOURCE), { code: 'BUS_FAILED' })
  t.equal(commits.length, count)
})

t.test('functions: defined once, changed with their pages, deleted when nobody uses them', async (t) => {
  const { definitions, commits, state } = bench(t)
  const body = { params: ['v'], expr: 'v + 1' }
  t.strictSame(await definitions.defineFunction('f', body), { epoch: 1, worldAge: 1 })
  t.strictSame(await definitions.defineFunction('f', { ...body }), { epoch: 1, worldAge: 1 })
  t.equal(commits.length, 1, 'the same again changes nothing')
  await definitions.create('x', SOURCE)
  await definitions.create('y', derived('x', 'f(v)'))
  t.strictSame(await definitions.defineFunction('f', { params: ['w'], expr: 'w + 1' }), {
    epoch: 4,
    worldAge: 2,
  })
  t.equal(commits.at(-1)!.redefines?.length, 1)
  await t.rejects(definitions.defineFunction('f', { params: ['w'], expr: 'w +' }), {
    code: 'INVALID_EXPRESSION',
  })
  t.match(definitions.function('f'), { params: ['w'], expr: 'w + 1', worldAge: 2, pages: ['y'] })
  t.match([...definitions.functions().functions], [{ name: 'f', pages: ['y'] }])
  t.equal(definitions.functions().worldAge, 2)
  await t.rejects(definitions.deleteFunction('g'), { code: 'NOT_FOUND' })
  await t.rejects(definitions.deleteFunction('f'), { code: 'PAGE_IN_USE' })
  await definitions.delete('y', false)
  t.strictSame(await definitions.deleteFunction('f'), { epoch: 6, worldAge: 3 })
  t.equal(state.registry.functions.size, 0)
  t.throws(() => definitions.function('f'), { code: 'NOT_FOUND' })
})

t.test('what was compiled against other functions is compiled again', async (t) => {
  const { definitions, before, commits, given } = bench(t)
  await definitions.create('x', SOURCE)
  await definitions.defineFunction('f', { params: ['v'], expr: 'v + 1' })
  before.push(() => definitions.defineFunction('f', { params: ['v'], expr: 'v + 2' }))
  given.writesAsked = 0
  t.match(await definitions.create('y', derived('x', 'f(v)')), { epoch: 4, created: true })
  t.equal(given.writesAsked, 3, 'each time it is asked whether writes are taken')
  t.equal(commits.length, 5)
  t.equal(definitions.nextPageId, 3, 'with the id of the first time')
  before.push(() => {
    given.refusal = new MmsbError('BUS_FAILED', 'no more')
    throw new StaleFunctions()
  })
  await t.rejects(definitions.create('z', SOURCE), { code: 'BUS_FAILED' })
})

t.test('pages of an earlier version of their op are moved', async (t) => {
  const { definitions, commits, state } = bench(t)
  await definitions.create('x', { dtype: 'f64', shape: [4] })
  await definitions.create('m', derived('x'))
  await definitions.create('s', { derive: { op: 'reduce', inputs: { x: 'x' }, fn: 'sum' } })
  t.strictSame(await definitions.migrate(), { epoch: undefined, pages: [] })
  t.equal(commits.length, 3)
  const page = state.registry.require('s')
  const { opVersion } = page.derived!
  page.derived = { ...page.derived!, opVersion: opVersion - 1 }
  t.strictSame(await definitions.migrate(), {
    epoch: 4,
    pages: [{ page: 's', op: 'reduce', from: opVersion - 1, to: opVersion }],
  })
  t.equal(page.derived.opVersion, opVersion)
  t.strictSame(await definitions.migrate(), { epoch: undefined, pages: [] })
})
