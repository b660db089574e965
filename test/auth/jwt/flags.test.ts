/** Flags of a server that takes the tokens of an issuer. */
import t from 'tap'
import { AUTH_FLAGS, type AuthOptions, authOf } from '../../../src/cli/auth-flags.js'
import { parseFlags } from '../../../src/cli/flags.js'

const judge = (...args: string[]): AuthOptions => authOf(parseFlags(args, AUTH_FLAGS, {}), [])
const ISSUER = ['--oidc-issuer', 'https://login.example.com/a']
const AUDIENCE = ['--oidc-audience', 'https://bus.example.com']

t.test('an issuer needs its flags, and its flags need it', async (t) => {
  const oidc = { issuer: 'https://login.example.com/a', audience: 'https://bus.example.com' }
  t.match(judge('--auth', 'jwt', ...ISSUER, ...AUDIENCE), { oidc, tokenFile: undefined, isInsecure: true })
  for (const ways of ['token,jwt', 'jwt, token'])
    t.match(judge('--auth', ways, '--auth-file', 'f', ...ISSUER, ...AUDIENCE), { oidc, tokenFile: 'f' })
  for (const [args, message] of [
    [['--auth', 'jwt', ...AUDIENCE], /--auth jwt needs --oidc-issuer/],
    [['--auth', 'jwt', ...ISSUER], /--auth jwt needs --oidc-audience/],
    [['--auth', 'jwt', '--auth-file', 'f', ...ISSUER, ...AUDIENCE], /--auth-file needs --auth token/],
    [['--auth', 'token,jwt', ...ISSUER, ...AUDIENCE], /--auth token needs --auth-file/],
    [ISSUER, /--oidc-issuer needs --auth jwt/],
    [AUDIENCE, /--oidc-audience needs --auth jwt/],
    [['--auth', 'none,jwt', ...ISSUER, ...AUDIENCE], /none cannot stand beside another one/],
    [['--auth', 'jwt,', ...ISSUER, ...AUDIENCE], /--auth: "" is not one of none, token, jwt/],
    [['--auth', 'jwt', '--oidc-issuer', 'http://a.example.com', ...AUDIENCE], /does not begin with https/],
  ] as const)
    t.throws(() => judge(...args), { message })
})

t.test('the public address is one of a server', async (t) => {
  const given = (url: string): unknown => judge('--public-url', url).publicUrl
  t.equal(given('https://bus.example.com'), 'https://bus.example.com')
  t.equal(given('https://bus.example.com:8443/mmsb/'), 'https://bus.example.com:8443/mmsb')
  t.equal(given('http://127.0.0.1:7411'), 'http://127.0.0.1:7411')
  for (const url of ['bus.example.com', 'ftp://a', 'https://a?b', 'https://a#b', 'https://u:p@a'])
    t.throws(() => given(url), { message: /--public-url: ".*" is not a URL such as/ }, url)
})
