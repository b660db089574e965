/** The principals that are counted: one usage for each id, bounded, whatever tokens and names they have. */
import t from 'tap'
import { LimitBook } from '../../../src/auth/limits/limit-book.js'
import { PrincipalUsages } from '../../../src/auth/limits/usages.js'
import type { Principal } from '../../../src/auth/principals.js'
import { Scopes } from '../../../src/auth/scopes.js'
import type { Work } from '../../../src/engine/call-types.js'
import { PageTallies } from '../../../src/engine/pages/page-tallies.js'
import { Registry } from '../../../src/engine/pages/registry.js'
import { PRINCIPAL_PATTERNS_MAX, PRINCIPAL_USAGES_KEPT } from '../../../src/limits.js'

const principal = (id: string, ...defines: string[]): Principal => ({
  id,
  scopes: new Scopes(defines.map((pattern) => `define:${pattern}`)),
})

interface World {
  readonly usages: PrincipalUsages
  readonly book: LimitBook
  create(name: string): void
  pass(ms: number): void
}

function world(defaults: object): World {
  let nowMs = 0
  let id = 0
  const registry = new Registry()
  const book = new LimitBook({ defaults })
  return {
    book,
    usages: new PrincipalUsages(book, new PageTallies(registry), () => nowMs),
    create: (name) => registry.add({ id: ++id, name, bytes: 8 } as Parameters<Registry['add']>[0]),
    pass: (ms) => {
      nowMs += ms
    },
  }
}

const work = (creates: number): Work => ({
  bytes: 1,
  creates: Array.from({ length: creates }, () => ({ bytes: 8 })),
  functions: undefined,
  costNs: () => 0,
})

t.test('tokens of one principal share what they use, and the names that they may define', async (t) => {
  const { usages, create } = world({ pages: 2 })
  const [a, b] = [usages.of(principal('x', 'a.*')), usages.of(principal('x', 'b.*'))]
  t.equal(a, b)
  t.not(usages.of(principal('y', 'a.*')), a)
  create('a.1')
  const admit = (creates: number): unknown => a.admission?.admit(work(creates))
  t.throws(() => admit(2), { code: 'QUOTA_EXCEEDED' })
  const release = admit(1) as () => void
  t.throws(() => admit(1), { code: 'QUOTA_EXCEEDED' }, 'one that is under way counts')
  release()
  create('b.1')
  t.throws(() => admit(1), { code: 'QUOTA_EXCEEDED' }, 'names of both tokens count')
  create('c.1')
  t.same(usages.refusals().find(([name]) => name === 'pages')?.[1], 3)
})

t.test('with very many names all pages count', async (t) => {
  const { usages, create } = world({ pages: 1 })
  create('other')
  for (let i = 0; i < PRINCIPAL_PATTERNS_MAX; i++) usages.of(principal('x', `a.${i}`))
  const { admission } = usages.of(principal('x'))
  const release = admission?.admit(work(1))
  release?.()
  usages.of(principal('x', 'one-more'))
  t.throws(() => admission?.admit(work(1)), { code: 'QUOTA_EXCEEDED' })
})

t.test('a principal that holds and owes nothing is forgotten when there are many', async (t) => {
  const { usages, pass } = world({ writeBytesPerSecond: 1_000 })
  const [idle, owing, holding] = ['idle', 'owing', 'holding'].map((id) => usages.of(principal(id)))
  owing?.admission?.admit({ ...work(0), bytes: 5_000 })
  holding?.hold('connections', 1)
  for (let i = 3; i < PRINCIPAL_USAGES_KEPT; i++) usages.of(principal(`p${i}`))
  t.equal(usages.size, PRINCIPAL_USAGES_KEPT)
  t.notOk(idle?.isEnded)
  usages.of(principal('new'))
  t.ok(idle?.isEnded)
  t.equal(usages.size, 3)
  t.equal(usages.of(principal('owing')), owing)
  t.equal(usages.of(principal('holding')), holding)
  t.throws(() => owing?.admission?.admit(work(0)), { code: 'RATE_LIMITED' })
  pass(5_000)
  t.notOk(owing?.isEnded)
  t.equal(owing?.isIdle, true, 'it has paid')
})
