/** The pages and functions that exist: by name and id, in order, and what they hold beside elements. */
import t from 'tap'
import { FunctionTable, functionBytes } from '../../../src/engine/pages/function-table.js'
import { sourceRecord } from '../../../src/engine/pages/page-records.js'
import { definitionBytes, ownBytes, type PageRecord, Registry } from '../../../src/engine/pages/registry.js'
import { DERIVED_OWN_BYTES, FUNCTION_OWN_BYTES, PAGE_OWN_BYTES } from '../../../src/limits.js'
import { Draw } from '../../lib/draw.js'

const page = (id: number, name: string): PageRecord => sourceRecord(id, name, { dtype: 'u8', shape: [1] })

const derived = (id: number, name: string, bytes: number): PageRecord =>
  ({
    ...page(id, name),
    kind: 'derived',
    derived: { definition: new Uint8Array(bytes) },
  }) as unknown as PageRecord

t.test('pages by name and id, and names in order, whatever comes and goes', async (t) => {
  const registry = new Registry()
  const known = new Map<string, PageRecord>()
  const draw = new Draw(3)
  for (let id = 1; id <= 300; id++) {
    const name = `p${draw.int(0, 40)}`
    const old = known.get(name)
    if (old !== undefined) {
      registry.remove(old)
      known.delete(name)
    } else {
      const record = page(id, name)
      registry.add(record)
      known.set(name, record)
    }
    if (draw.chance(0.4)) t.same(registry.names(), [...known.keys()].sort())
  }
  t.equal(registry.size, known.size)
  t.same([...registry.all()].map(({ id }) => id).sort(), [...known.values()].map(({ id }) => id).sort())
  for (const [name, record] of known) {
    t.equal(registry.byName(name), record)
    t.equal(registry.byId(record.id), record)
    t.equal(registry.require(name), record)
  }
  t.equal(registry.byName('nobody'), undefined)
  t.throws(() => registry.require('nobody'), { code: 'PAGE_NOT_FOUND' })
})

t.test('a list of names stays as it was given', async (t) => {
  const registry = new Registry()
  const [a, b] = [page(1, 'a'), page(2, 'b')]
  registry.add(b)
  const one = registry.names()
  registry.add(a)
  const two = registry.names()
  t.equal(registry.names(), two, 'the same while nothing changes')
  registry.remove(b)
  t.same([one, two, registry.names()], [['b'], ['a', 'b'], ['a']])
})

t.test('a name that passes to another page in one epoch', async (t) => {
  const registry = new Registry()
  const [old, next] = [page(1, 'x'), page(2, 'x')]
  registry.add(old)
  t.same(registry.names(), ['x'])
  registry.add(next)
  registry.remove(old)
  t.equal(registry.byName('x'), next)
  t.equal(registry.byId(1), undefined)
  t.same([registry.names(), registry.size], [['x'], 1])
  t.equal(registry.ownBytes, PAGE_OWN_BYTES + 1)
  registry.remove(next)
  registry.add(page(3, 'x'))
  t.same([registry.names(), registry.size], [['x'], 1], 'gone and back before anybody looked')
})

t.test('what pages hold beside their elements', async (t) => {
  const registry = new Registry()
  const [a, d] = [page(1, 'abc'), derived(2, 'd', 10)]
  t.equal(ownBytes(a), PAGE_OWN_BYTES + 3)
  t.equal(ownBytes(d), PAGE_OWN_BYTES + 1 + DERIVED_OWN_BYTES + 20)
  registry.add(a)
  registry.add(d)
  t.equal(registry.ownBytes, ownBytes(a) + ownBytes(d))
  const other = derived(9, 'x', 25).derived!
  registry.redefine(d, other, 77)
  t.same([d.derived, d.step], [other, 77])
  t.equal(definitionBytes(other), 50)
  t.equal(registry.ownBytes, ownBytes(a) + ownBytes(d))
  registry.remove(a)
  registry.remove(a)
  t.equal(registry.ownBytes, ownBytes(d))
  const copy = new Registry()
  copy.add(page(5, 'gone'))
  copy.names()
  registry.functions = new FunctionTable(4)
  copy.adopt(registry)
  t.same([copy.names(), copy.size, copy.ownBytes], [['d'], 1, ownBytes(d)])
  t.equal(copy.functions, registry.functions)
  t.equal(copy.byId(5), undefined)
})

// ---- functions --------------------------------------------------------------------------------------------

const define = (table: FunctionTable, name: string, expr: string, params = ['x']): FunctionTable =>
  table.after({ name, body: { params, expr }, worldAge: table.worldAge + 1 }, 10 + table.worldAge)

const undefine = (table: FunctionTable, name: string): FunctionTable =>
  table.after({ name, body: undefined, worldAge: table.worldAge + 1 }, 10 + table.worldAge)

t.test('a change makes another table', async (t) => {
  const empty = new FunctionTable()
  const one = define(empty, 'f', 'x + 1')
  const two = define(one, 'a', 'f(x) * 2')
  t.same([empty.size, one.size, two.size], [0, 1, 2])
  t.same([empty.worldAge, two.worldAge], [0, 2])
  t.match(two.get('a'), { name: 'a', params: ['x'], expr: 'f(x) * 2', worldAge: 2, epoch: 11 })
  t.same(
    two.all().map(({ name }) => name),
    ['a', 'f'],
  )
  t.equal(two.lookup('f'), two.require('f'))
  t.equal(empty.get('f'), undefined)
  t.throws(() => empty.require('f'), { code: 'NOT_FOUND' })
  const none = undefine(two, 'f')
  t.same([none.size, none.worldAge, none.get('f')], [1, 3, undefined])
})

t.test('what functions hold', async (t) => {
  t.equal(functionBytes({ params: ['x', 'yy'], expr: 'x + yy' }), FUNCTION_OWN_BYTES + 6 + 3)
  let table = new FunctionTable()
  t.equal(table.bytes, 0)
  table = define(table, 'f', 'x + 1')
  t.equal(table.bytes, FUNCTION_OWN_BYTES + 6)
  table = define(define(table, 'g', 'f(x)'), 'f', 'x + 1000')
  const bytes = 2 * FUNCTION_OWN_BYTES + 5 + 9
  t.equal(table.bytes, bytes)
  t.equal(new FunctionTable(9, new Map(table.all().map((record) => [record.name, record]))).bytes, bytes)
  t.equal(undefine(table, 'f').bytes, FUNCTION_OWN_BYTES + 5)
})

t.test('who calls whom, and what still compiles to the same', async (t) => {
  let table = new FunctionTable()
  for (const [name, expr] of [
    ['f', 'x + 1'],
    ['g', 'f(x) + f(2)'],
    ['h', 'g(x) + f(x)'],
    ['other', 'x'],
  ] as const)
    table = define(table, name, expr)
  t.same(table.directCallersOf('f'), ['g', 'h'])
  t.same(table.directCallersOf('h'), [])
  t.same([...table.callersOf('f')].sort(), ['g', 'h'])
  t.same([...table.callersOf('g')], ['h'])
  t.same([...table.callersOf('other')], [])
  const age = table.worldAge
  t.ok(table.stillHolds(['nobody'], age), 'nothing has changed')
  const later = define(table, 'f', 'x + 2')
  t.notOk(later.stillHolds(['f'], age))
  t.notOk(later.stillHolds(['other', 'h'], age), 'through others')
  t.ok(later.stillHolds(['other'], age))
  t.ok(later.stillHolds([], age))
  t.notOk(later.stillHolds(['nobody'], age))
  t.ok(later.stillHolds(['f'], later.worldAge))
})
