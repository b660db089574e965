/**
 * Functions that users define: one epoch for a change and all that uses it, refusals, restart,
 * checkpoint, replay.
 */

import t, { type Test } from 'tap'
import { Bus } from '../../../src/index.js'
import { folder } from '../../lib/folder.js'

async function open(t: Test, dataDir?: string, threads = 1): Promise<Bus> {
  const where = dataDir === undefined ? {} : { dataDir }
  const bus = await Bus.open({ ...where, backend: 'cpu', threads, fsync: 'off' })
  t.teardown(() => bus.close())
  return bus
}

const ran = (bus: Bus): string[] => bus.executionLog().steps.map((step) => step.page)
const fails = (t: Test, work: Promise<unknown>, code: string, detail: RegExp): Promise<unknown> =>
  t.rejects(work, { code, message: detail })

/** Pages f -> direct, g(f) -> through, nothing -> apart. */
async function example(bus: Bus): Promise<void> {
  await bus.create('x', { dtype: 'f64', shape: [4] })
  await bus.write('x', [1, 2, 3, 4])
  await bus.defineFunction('f', { params: ['a', 'k'], expr: 'a * k' })
  await bus.defineFunction('g', { params: ['a'], expr: 'f(a, 10) + 1' })
  await bus.derive('direct', { op: 'map', inputs: { x: 'x' }, expr: 'f(x, 2)' })
  await bus.derive('through', { op: 'map', inputs: { x: 'x' }, expr: 'g(x)' })
  await bus.derive('after', { op: 'reduce', inputs: { x: 'through' }, fn: 'sum' })
  await bus.derive('apart', { op: 'map', inputs: { x: 'x' }, expr: 'x * 3' })
}

t.test('a redefinition recomputes exactly the pages that use it, in one epoch', async (t) => {
  const bus = await open(t)
  await example(bus)
  t.same([...bus.read('direct')], [2, 4, 6, 8])
  t.same([...bus.read('through')], [11, 21, 31, 41])
  // The plan of this write is kept. It must not be the plan of the one behind the redefinition.
  await bus.patch('x', { offset: 3, values: [4] })
  const before = bus.epoch
  const answer = await bus.defineFunction('f', { params: ['a', 'k'], expr: 'a + k' })
  t.same(answer, { epoch: before + 1, worldAge: 3 })
  t.same(bus.executionLog().steps, [
    { page: 'direct', changed: true, full: true, elementsComputed: 4 },
    { page: 'through', changed: true, full: true, elementsComputed: 4 },
    { page: 'after', changed: true, full: false, elementsComputed: 1 },
  ])
  t.same([...bus.read('direct')], [3, 4, 5, 6])
  t.same([...bus.read('through')], [12, 13, 14, 15])
  t.same([...bus.read('after')], [54])
  t.same([bus.page('direct').version, bus.page('apart').version], [before + 1, 8])
  await bus.patch('x', { offset: 3, values: [100] })
  t.same(ran(bus), ['direct', 'through', 'apart', 'after'], 'they go on with the new program')
  t.same([...bus.read('through')], [12, 13, 14, 111])
})

t.test('the same bytes after a redefinition move no version and start nothing', async (t) => {
  const bus = await open(t)
  await example(bus)
  const { version } = bus.page('direct')
  await bus.defineFunction('f', { params: ['b', 'c'], expr: 'c * b' })
  t.same(ran(bus), ['direct', 'through'])
  t.equal(bus.page('direct').version, version)
})

t.test('the same definition again is no change', async (t) => {
  const bus = await open(t)
  const first = await bus.defineFunction('f', { params: ['a'], expr: 'a + 1' })
  t.same(first, { epoch: 1, worldAge: 1 })
  t.same(await bus.defineFunction('f', { params: ['a'], expr: 'a + 1' }), first)
  t.equal(bus.epoch, 1)
  t.same(bus.function('f'), { name: 'f', params: ['a'], expr: 'a + 1', worldAge: 1, epoch: 1, pages: [] })
})

t.test('a function has the types of each call', async (t) => {
  const bus = await open(t)
  await bus.create('i', { dtype: 'i16', shape: [2], fill: 7 })
  await bus.create('f', { dtype: 'f32', shape: [2], fill: 7 })
  await bus.defineFunction('half', { params: ['a'], expr: 'a * 2 - a' })
  for (const [name, dtype] of [
    ['i', 'i16'],
    ['f', 'f32'],
  ] as const) {
    const { page } = await bus.derive(`half_${name}`, { op: 'map', inputs: { a: name }, expr: 'half(a)' })
    t.equal(page.dtype, dtype)
    t.same([...bus.read(`half_${name}`)], [7, 7])
  }
})

t.test('a change that one page cannot follow is refused whole', async (t) => {
  const bus = await open(t)
  await example(bus)
  await bus.create('n', { dtype: 'i32', shape: [2], fill: 5 })
  await bus.derive('whole', { op: 'map', inputs: { n: 'n' }, expr: 'f(n, 3)' })
  await bus.derive('asked', { op: 'map', inputs: { n: 'n' }, expr: 'f(n, 3)' }, { dtype: 'i32' })
  const before = { status: bus.status(), functions: bus.functions() }
  await fails(
    t,
    bus.defineFunction('f', { params: ['a', 'k'], expr: 'a / k' }),
    'SHAPE_MISMATCH',
    /"whole" is i32/,
  )
  await fails(
    t,
    bus.defineFunction('f', { params: ['a', 'k'], expr: 'bitand(a, k)' }),
    'INVALID_EXPRESSION',
    /page "direct": column 1: in f, column 1: bitand/,
  )
  await fails(
    t,
    bus.defineFunction('f', { params: ['a'], expr: 'a' }),
    'INVALID_EXPRESSION',
    /page "direct": column 1: f takes 1 argument, not 2/,
  )
  const { uptimeMs: _, ...same } = before.status
  t.match(bus.status(), same)
  t.same(bus.functions(), before.functions)
  await bus.delete('whole')
  await bus.defineFunction('f', { params: ['a', 'k'], expr: 'a / k' })
  t.equal(bus.page('asked').dtype, 'i32', 'where a dtype was asked for, the result is cast')
  t.same([...bus.read('asked')], [1, 1])
})

t.test('bad definitions', async (t) => {
  const bus = await open(t)
  await bus.defineFunction('f', { params: ['a'], expr: 'a + 1' })
  await bus.defineFunction('g', { params: ['a'], expr: 'f(a)' })
  const refused: [string, string[], string, string, RegExp][] = [
    ['sqrt', ['a'], 'a', 'INVALID_EXPRESSION', /function name 'sqrt' is a function/],
    ['f32', ['a'], 'a', 'INVALID_EXPRESSION', /'f32' is a function/],
    ['prev', ['a'], 'a', 'INVALID_EXPRESSION', /'prev' is a keyword/],
    ['and', ['a'], 'a', 'INVALID_EXPRESSION', /'and' is a keyword/],
    ['pi', ['a'], 'a', 'INVALID_EXPRESSION', /'pi' is a constant/],
    ['a.b', ['a'], 'a', 'INVALID_REQUEST', /must be a letter/],
    ['h', ['a', 'a'], 'a', 'INVALID_REQUEST', /twice/],
    ['h', ['exp'], 'exp', 'INVALID_EXPRESSION', /parameter name 'exp'/],
    ['h', ['a'], 'h(a)', 'INVALID_EXPRESSION', /column 1: h -> h: functions cannot call themselves/],
    ['f', ['a'], 'g(a)', 'INVALID_EXPRESSION', /column 1: in g, column 1: f -> g -> f/],
    ['h', ['a'], 'a + ', 'INVALID_EXPRESSION', /column 5/],
    ['h', ['a'], '', 'INVALID_EXPRESSION', /empty/],
    ['h', ['a'], 'a + b', 'INVALID_EXPRESSION', /column 5: unknown name 'b'; the parameters are a/],
    ['h', ['a'], '1 + nope(a)', 'INVALID_EXPRESSION', /column 5: unknown function 'nope'/],
    ['h', ['a'], 'f(a, a)', 'INVALID_EXPRESSION', /f takes 1 argument, not 2/],
    ['h', ['a'], 'a(1)', 'INVALID_EXPRESSION', /'a' is a parameter, not a function/],
    ['h', ['a'], 'f + 1', 'INVALID_EXPRESSION', /'f' is a function; write f\(/],
    ['h', ['a'], 'prev(a)', 'INVALID_EXPRESSION', /prev takes an input of the page/],
  ]
  for (const [name, params, expr, code, detail] of refused) {
    await fails(t, bus.defineFunction(name, { params, expr }), code, detail)
  }
  t.equal(bus.epoch, 2)
  await bus.create('x', { dtype: 'f32', shape: [1] })
  const derive = (expr: string): Promise<unknown> => bus.derive('y', { op: 'map', inputs: { x: 'x' }, expr })
  await fails(t, derive('1 + nope(x)'), 'INVALID_EXPRESSION', /column 5: unknown function 'nope'/)
  await fails(t, derive('f(x, 1)'), 'INVALID_EXPRESSION', /column 1: f takes 1 argument, not 2/)
})

t.test('functions that double each other end in an error, not in a long wait', async (t) => {
  const bus = await open(t)
  await bus.defineFunction('f0', { params: ['a'], expr: 'a + 1' })
  let refused: unknown
  for (let i = 1; i < 40 && refused === undefined; i++) {
    const expr = `f${i - 1}(a) * f${i - 1}(a)`
    await bus.defineFunction(`f${i}`, { params: ['a'], expr }).catch((error: unknown) => {
      refused = error
    })
  }
  t.match(refused, { code: 'INVALID_EXPRESSION', message: /words together/ })
})

t.test('deletion: refused while used by pages or functions', async (t) => {
  const bus = await open(t)
  await example(bus)
  await fails(t, bus.deleteFunction('f'), 'PAGE_IN_USE', /function "g", page "direct"/)
  await fails(t, bus.deleteFunction('g'), 'PAGE_IN_USE', /page "through"/)
  await fails(t, bus.deleteFunction('h'), 'NOT_FOUND', /no function "h"/)
  await bus.delete('through', { cascade: true })
  t.match(await bus.deleteFunction('g'), { worldAge: 3 })
  await bus.delete('direct')
  t.match(await bus.deleteFunction('f'), { worldAge: 4 })
  t.same(bus.functions(), { worldAge: 4, functions: [] })
})

t.test('changes and creations that race end as if one came after the other', async (t) => {
  const bus = await open(t)
  await bus.create('x', { dtype: 'f64', shape: [1], fill: 1 })
  await bus.defineFunction('f', { params: ['a'], expr: 'a' })
  const work: Promise<unknown>[] = []
  for (let i = 0; i < 20; i++) {
    work.push(bus.derive(`y${i}`, { op: 'map', inputs: { x: 'x' }, expr: 'f(x)' }))
    work.push(bus.defineFunction('f', { params: ['a'], expr: `a + ${i}` }))
    work.push(bus.patch('x', { values: [i] }))
  }
  await Promise.all(work)
  await bus.defineFunction('f', { params: ['a'], expr: 'a + 1000' })
  for (let i = 0; i < 20; i++) t.same([...bus.read(`y${i}`)], [1019], `y${i}`)
})

t.test('restart, replay and checkpoint keep functions, and pages run what ran', async (t) => {
  for (const withCheckpoint of [false, true]) {
    const dir = folder(t)
    const first = await open(t, dir)
    await example(first)
    await first.defineFunction('f', { params: ['a', 'k'], expr: 'a - k' })
    await first.derive('late', { op: 'map', inputs: { x: 'x' }, expr: 'g(x) * f(x, 1)' }, { dtype: 'f32' })
    if (withCheckpoint) await first.checkpoint()
    await first.defineFunction('unused', { params: [], expr: 'pi' })
    await first.defineFunction('g', { params: ['a'], expr: 'f(a, 1) * 2' })
    await first.deleteFunction('unused')
    await first.patch('x', { values: [9] })
    const before = { ...state(first), past: await first.readAt('through', 8) }
    await first.close()
    for (const threads of [1, 3]) {
      const again = await open(t, dir, threads)
      t.same({ ...state(again), past: await again.readAt('through', 8) }, before)
      t.match(await again.verify(), { ok: true })
      await again.close()
    }
    const last = await open(t, dir)
    await last.defineFunction('f', { params: ['a', 'k'], expr: 'a * k' })
    t.same(ran(last), ['direct', 'through', 'late', 'after'])
    t.same([...last.read('through')], [18, 4, 6, 8])
    t.match(await last.verify(), { ok: true })
    await last.close()
  }
})

function state(bus: Bus): object {
  const { epoch, digest } = bus.status()
  const values = bus.pageNames().map((name) => [name, [...bus.read(name)]])
  return { epoch, digest, values, pages: bus.pages(), graph: bus.graph(), functions: bus.functions() }
}
