/** What a scope allows. */
import t from 'tap'
import { Scopes, scopesOfClaim, VERBS } from '../../src/auth/scopes.js'

t.test('a scope allows its verb on the pages of its pattern, and nothing else', async (t) => {
  const scopes = new Scopes(['read:risk.*', 'read:pub', 'write:risk.eu.*', 'admin:*'])
  const allowed = (verb: (typeof VERBS)[number]): string[] =>
    ['risk.a', 'risk.eu.a', 'pub', 'pub2', 'x.risk.a', 'risk'].filter((name) => scopes.allows(verb, name))
  t.same(allowed('read'), ['risk.a', 'risk.eu.a', 'pub'])
  t.same(allowed('write'), ['risk.eu.a'])
  t.same(allowed('define'), [])
  t.same(
    VERBS.filter((verb) => scopes.allowsAny(verb)),
    ['read', 'write', 'admin'],
  )
  t.same(
    VERBS.filter((verb) => scopes.allowsAll(verb)),
    ['admin'],
  )
  t.equal(scopes.pagesOf('history'), undefined)
  t.same(new Scopes(['read:b', 'read:a', 'read:b']).texts, ['read:a', 'read:b'])
})

t.test('what is no scope is refused with its text', async (t) => {
  for (const [text, detail] of [
    ['read', /"read" is not VERB:PATTERN/],
    ['read:', /is not VERB:PATTERN/],
    ['reed:*', /is not VERB:PATTERN/],
    ['constructor:*', /is not VERB:PATTERN/],
    ['READ:*', /is not VERB:PATTERN/],
    ['admin:risk.*', /is not admin:\*/],
    ['metrics:a', /is not metrics:\*/],
    ['functions:f', /is not functions:\*/],
    ['read:a b', /has a pattern that no page name can match/],
    [`read:${'x'.repeat(300)}`, /has a pattern that no page name can match/],
  ] as const)
    t.throws(() => new Scopes([text]), { code: 'INVALID_REQUEST', message: detail }, text)
})

t.test('a claim may have words that are no scopes, but no broken scope', async (t) => {
  t.same(scopesOfClaim('openid read:a profile write:b.* email').texts, ['read:a', 'write:b.*'])
  t.same(scopesOfClaim('openid read write').texts, [], 'a verb alone allows nothing')
  t.throws(() => scopesOfClaim('admin:x'), { code: 'INVALID_REQUEST' })
})
