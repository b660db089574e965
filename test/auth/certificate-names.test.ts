/** Which names of a certificate count, and whom they name. */
import { X509Certificate } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { TokenAuthenticator } from '../../src/auth/authenticator.js'
import { namesOf } from '../../src/auth/certificate-names.js'
import { NamedCertificates } from '../../src/auth/certificates.js'
import { addToken, readEntries, revokeToken } from '../../src/auth/token-file.js'
import { Authority } from './certificates.js'

t.test('DNS names and URIs count, and nothing that looks like them', async (t) => {
  for (const [text, names] of [
    ['', []],
    ['DNS:Desk.example.com', ['DNS:desk.example.com']],
    ['DNS:a, URI:spiffe://p/Desk, IP Address:127.0.0.1', ['DNS:a', 'URI:spiffe://p/Desk']],
    ['email:a@b, othername:<unsupported>, DNS:k', ['DNS:k']],
    ['URI:"spiffe://p/a\\u002c DNS:root"', ['URI:spiffe://p/a, DNS:root']],
    ['email:"x, DNS:root"', []],
    ['DirName:"CN=x, DNS:root", DNS:k', ['DNS:k']],
    ['DNS:"a\\"b", DNS:c', ['DNS:a"b', 'DNS:c']],
    ['no name at all, DNS:root', []],
  ] as [string, string[]][])
    t.same(namesOf(text), names, text)
  const authority = new Authority(t.testdir(), 'ca')
  const made = (san: string): readonly string[] => {
    const { cert } = authority.certify('leaf', { san })
    return namesOf(new X509Certificate(fs.readFileSync(cert)).subjectAltName ?? '')
  }
  t.same(made('DNS:a.example.com,URI:spiffe://p/desk,IP:127.0.0.1'), [
    'DNS:a.example.com',
    'URI:spiffe://p/desk',
  ])
  const { cert } = authority.certify('root')
  t.equal(new X509Certificate(fs.readFileSync(cert)).subjectAltName, undefined, 'the subject is no such name')
})

t.test('a certificate names one principal of the file, or nobody', async (t) => {
  const dir = t.testdir()
  const file = path.join(dir, 'tokens.json')
  const write = (...principals: object[]): void =>
    fs.writeFileSync(file, JSON.stringify({ principals }), { mode: 0o600 })
  const desk = { id: 'desk', scopes: ['read:a'], certificates: ['spiffe://p/desk', 'Desk.example.com'] }
  const plain = { id: 'plain.example.com', scopes: ['read:b'] }
  write(desk, plain)
  const principals = new TokenAuthenticator(file)
  const certificates = new NamedCertificates(principals)
  const authority = new Authority(dir, 'ca')
  const login = (san: string, days = 2) =>
    certificates.login(new X509Certificate(fs.readFileSync(authority.certify('leaf', { san, days }).cert)))
  for (const [san, id] of [
    ['URI:spiffe://p/desk', 'desk'],
    ['DNS:DESK.example.com', 'desk'],
    ['DNS:desk.example.com,URI:spiffe://p/desk', 'desk'],
    ['IP:127.0.0.1,DNS:other,DNS:plain.example.com', 'plain.example.com'],
  ] as const)
    t.equal(login(san).principal.id, id, san)
  for (const san of [
    'DNS:desk',
    'DNS:example.com',
    'DNS:*.example.com',
    'URI:spiffe://p/Desk',
    'URI:spiffe://p/desk/x',
    'URI:desk.example.com',
    'DNS:spiffe://p/desk',
    'email:desk@example.com',
  ])
    t.throws(() => login(san), { code: 'UNAUTHORIZED', message: 'The client certificate names nobody.' }, san)
  t.throws(() => login('DNS:desk.example.com,DNS:plain.example.com'), { message: /more than one principal/ })

  const [first, second] = [login('URI:spiffe://p/desk'), login('DNS:plain.example.com')]
  const validTo = Date.parse(new X509Certificate(fs.readFileSync(path.join(dir, 'leaf.pem'))).validTo)
  t.equal(second.principal.expiresMs, validTo, 'a login ends with the certificate')
  let changes = 0
  const stop = certificates.onChange(() => changes++)
  write(desk)
  principals.reload()
  t.same([first.isValid(), second.isValid()], [true, false])
  write({ ...desk, expires: new Date(Date.now() + 60_000).toISOString() })
  principals.reload()
  t.equal(first.isValid(), false, 'changed')
  t.ok((login('URI:spiffe://p/desk').principal.expiresMs ?? Infinity) < Date.now() + 61_000)
  write({ ...desk, expires: new Date(Date.now() - 1).toISOString() })
  principals.reload()
  t.throws(() => login('URI:spiffe://p/desk'), { code: 'UNAUTHORIZED' })
  write(desk)
  principals.reload()
  const third = login('URI:spiffe://p/desk')
  certificates.endAll()
  t.equal(third.isValid(), false)
  t.equal(login('URI:spiffe://p/desk').isValid(), true)
  t.equal(changes, 5)
  stop()
  certificates.endAll()
  principals.reload()
  t.equal(changes, 5)
})

t.test('names stand in the file once, and outlive tokens', async (t) => {
  const file = path.join(t.testdir(), 'tokens.json')
  const write = (...principals: object[]): void =>
    fs.writeFileSync(file, JSON.stringify({ principals }), { mode: 0o600 })
  const named = (id: string, certificates: unknown): object => ({ id, scopes: [], certificates })
  for (const [principals, message] of [
    [[named('a', ['x']), named('b', ['X'])], /gives the name of a certificate twice/],
    [[named('a', ['b']), { id: 'b', scopes: [] }], /gives the name of a certificate twice/],
    [[named('a', 'x')], /certificates is not a list of names/],
    [[named('a', [''])], /certificates is not a list of names/],
    [[named('a', ['*.example.com'])], /certificates is not a list of names/],
    [[named('a', ['a b'])], /certificates is not a list of names/],
    [[named('a', [7])], /certificates is not a list of names/],
  ] as [object[], RegExp][]) {
    write(...principals)
    t.throws(() => readEntries(file), { code: 'INVALID_REQUEST', message }, String(message))
  }
  write(named('a', ['x', 'spiffe://x']), { id: 'b', scopes: [] })
  addToken(file, { id: 'a', scopes: ['read:a'] })
  t.match(readEntries(file), [
    { id: 'b' },
    { id: 'a', certificates: ['x', 'spiffe://x'], scopes: ['read:a'] },
  ])
  revokeToken(file, 'a', 'all')
  t.same(readEntries(file)[1], { id: 'a', scopes: ['read:a'], certificates: ['x', 'spiffe://x'] })
  revokeToken(file, 'b', 'all')
  t.equal(readEntries(file).length, 1)
})
