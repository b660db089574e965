/** Flags that say who may use a server, and how it may be reached. */
import { issuerFault } from '../auth/jwt/issuer-document.js'
import { isLoopback } from '../http/request/origin-guard.js'
import {
  choiceOf,
  type Flag,
  type FlagTable,
  type Given,
  hostsOf,
  networksOf,
  type ParsedFlags,
  UsageError,
} from './flags.js'

export const AUTH_FILE_FLAG: Flag = {
  value: 'FILE',
  help: 'principals, their scopes, the hashes of their tokens, and the names in their certificates',
  env: 'MMSB_AUTH_FILE',
}

export const AUTH_FLAGS: FlagTable = {
  auth: {
    value: 'HOW',
    help: 'none: everybody may do everything; token: callers send a token of --auth-file; jwt: one of --oidc-issuer; mtls: they show a certificate; or several of these, separated by commas',
    env: 'MMSB_AUTH',
    standard: 'none',
  },
  'auth-file': AUTH_FILE_FLAG,
  'oidc-issuer': {
    value: 'URL',
    help: 'issuer of JSON Web Tokens (OpenID Connect, OAuth 2), such as https://login.example.com',
    env: 'MMSB_OIDC_ISSUER',
  },
  'oidc-audience': {
    value: 'NAME',
    help: 'what these tokens must name as their audience: this server',
    env: 'MMSB_OIDC_AUDIENCE',
  },
  'principal-limits': {
    value: 'LIMITS',
    help: 'what each principal may use, for those to whom the token file gives no limits: JSON such as {"pages":1000}, or a file of it',
    env: 'MMSB_PRINCIPAL_LIMITS',
  },
  'public-url': {
    value: 'URL',
    help: 'address at which clients reach this server, such as https://bus.example.com',
    env: 'MMSB_PUBLIC_URL',
    standard: 'the Host of each request',
  },
  'allow-host': {
    value: 'NAMES',
    isList: true,
    help: 'names that clients and proxies may send in Host, separated by commas, such as bus.example.com; health probes need none',
    env: 'MMSB_ALLOW_HOST',
    standard: 'loopback names without --auth, any with it',
  },
  'trust-proxy': {
    value: 'NETWORKS',
    isList: true,
    help: 'addresses of proxies whose X-Forwarded headers are believed, separated by commas, such as 127.0.0.1,10.0.0.0/8',
    env: 'MMSB_TRUST_PROXY',
    standard: 'none',
  },
  'tls-cert': {
    value: 'FILE',
    help: 'certificate of the server with its chain, in PEM: it then speaks HTTPS alone',
    env: 'MMSB_TLS_CERT',
  },
  'tls-key': { value: 'FILE', help: 'private key of --tls-cert, in PEM', env: 'MMSB_TLS_KEY' },
  'tls-client-ca': {
    value: 'FILE',
    help: 'authorities of the certificates of clients, in PEM, for --auth mtls',
    env: 'MMSB_TLS_CLIENT_CA',
  },
  'insecure-no-auth': {
    help: 'without --auth, allow any address, Host and Origin: anyone who reaches the port may do anything',
  },
  'insecure-no-tls': {
    help: 'allow any address without TLS: for a trusted network, or behind a proxy that ends TLS',
  },
  insecure: { help: 'the same as --insecure-no-auth --insecure-no-tls' },
}

export interface TlsFiles {
  readonly cert: string
  readonly key: string
  readonly clientCa?: string | undefined
}

/** An issuer of tokens. */
export interface Oidc {
  readonly issuer: string
  readonly audience: string
}

export interface AuthOptions {
  /** Empty: callers need not say who they are. */
  readonly ways: ReadonlySet<Way>
  /** Undefined: neither its tokens nor certificates count. */
  readonly tokenFile: string | undefined
  /** Undefined: tokens of an issuer do not count. */
  readonly oidc: Oidc | undefined
  /** Limits of principals, as JSON or the name of a file. */
  readonly principalLimits: string | undefined
  /** Without a trailing slash. */
  readonly publicUrl: string | undefined
  /** Undefined: plain HTTP. */
  readonly tls: TlsFiles | undefined
  /** Any Host and Origin. */
  readonly isInsecure: boolean
  /** Lower-case; further names for Host. */
  readonly allowedHosts: ReadonlySet<string>
  /** Addresses and networks. */
  readonly trustedProxies: readonly string[]
}

/** @throws UsageError, also when the server could be reached by those whom the flags do not keep out */
export function authOf(
  flags: ParsedFlags,
  listens: readonly (readonly [flag: string, host: string])[],
): AuthOptions {
  const ways = waysOf(flags)
  const tls = tlsOf(flags, ways)
  const tokenFile = tokenFileOf(flags, ways)
  const oidc = oidcOf(flags, ways)
  const publicUrl = publicUrlOf(flags)
  const principalLimits = flags.values.get('principal-limits')?.text
  if (principalLimits !== undefined && ways.size === 0)
    throw new UsageError('--principal-limits needs --auth')
  const isInsecure = refuseOpenDoors(flags, listens, { asksWho: ways.size > 0, isSecret: tls !== undefined })
  const read = <T>(name: string, parse: (given: Given) => T, otherwise: T): T => {
    const given = flags.values.get(name)
    return given === undefined ? otherwise : parse(given)
  }
  const allowedHosts = read('allow-host', hostsOf, new Set<string>())
  const trustedProxies = read('trust-proxy', networksOf, [])
  return { ways, tokenFile, oidc, principalLimits, publicUrl, tls, isInsecure, allowedHosts, trustedProxies }
}

const WAYS = ['none', 'token', 'jwt', 'mtls'] as const
/** How callers may say who they are. */
export type Way = Exclude<(typeof WAYS)[number], 'none'>

/** @throws UsageError */
function waysOf({ values }: ParsedFlags): ReadonlySet<Way> {
  const given = values.get('auth')
  if (given === undefined) return new Set()
  const { from } = given
  const ways = given.text.split(',').map((part) => choiceOf({ from, text: part.trim() }, WAYS))
  if (!ways.includes('none')) return new Set(ways as Way[])
  if (ways.length > 1) throw new UsageError(`${from}: none cannot stand beside another one`)
  return new Set()
}

/** @throws UsageError */
function tokenFileOf({ values }: ParsedFlags, ways: ReadonlySet<Way>): string | undefined {
  const file = values.get('auth-file')?.text
  const [user] = (['token', 'mtls'] as const).filter((way) => ways.has(way))
  if (user !== undefined && file === undefined) throw new UsageError(`--auth ${user} needs --auth-file`)
  if (user === undefined && file !== undefined)
    throw new UsageError('--auth-file needs --auth token or --auth mtls')
  return file
}

/** @throws UsageError */
function oidcOf({ values }: ParsedFlags, ways: ReadonlySet<Way>): Oidc | undefined {
  const issuer = values.get('oidc-issuer')
  const audience = values.get('oidc-audience')?.text
  if (!ways.has('jwt')) {
    if (issuer !== undefined) throw new UsageError('--oidc-issuer needs --auth jwt')
    if (audience !== undefined) throw new UsageError('--oidc-audience needs --auth jwt')
    return undefined
  }
  if (issuer === undefined) throw new UsageError('--auth jwt needs --oidc-issuer')
  if (audience === undefined) throw new UsageError('--auth jwt needs --oidc-audience')
  const fault = issuerFault(issuer.text)
  if (fault !== undefined) throw new UsageError(`${issuer.from}: ${JSON.stringify(issuer.text)} ${fault}`)
  return { issuer: issuer.text, audience }
}

/** @throws UsageError */
function publicUrlOf({ values }: ParsedFlags): string | undefined {
  const given = values.get('public-url')
  if (given === undefined) return undefined
  const { text, from } = given
  const url = URL.canParse(text) ? new URL(text) : undefined
  // What else a URL may have cannot stand before a path.
  if (url !== undefined && /^https?:$/.test(url.protocol) && url.href === `${url.origin}${url.pathname}`)
    return url.href.replace(/\/+$/, '')
  throw new UsageError(`${from}: ${JSON.stringify(text)} is not a URL such as https://bus.example.com`)
}

/**
 * Refuses addresses that other machines can reach unless callers say who they are and nobody can listen, or
 * the flags allow that. Answers whether any Host and Origin may be used.
 * @throws UsageError
 */
function refuseOpenDoors(
  { switches }: ParsedFlags,
  listens: readonly (readonly [flag: string, host: string])[],
  { asksWho, isSecret }: { asksWho: boolean; isSecret: boolean },
): boolean {
  const isInsecure = switches.has('insecure')
  const allowsAnybody = asksWho || isInsecure || switches.has('insecure-no-auth')
  const allowsPlain =
    isInsecure || switches.has('insecure-no-tls') || (!asksWho && switches.has('insecure-no-auth'))
  for (const [flag, host] of listens) {
    if (isLoopback(host)) continue
    // The admin listener speaks plain HTTP, and answers no request that has a token.
    const isSafe = allowsPlain || isSecret
    const reachable = `${flag}: ${host} can be reached from other machines, and`
    if (!allowsAnybody) {
      throw new UsageError(
        `${reachable} this server has no authentication; use 127.0.0.1, --auth token, or --insecure if you trust the network`,
      )
    }
    if (!isSafe) {
      throw new UsageError(
        `${reachable} this server has no TLS, so tokens could be read on the way; use 127.0.0.1, --tls-cert and --tls-key, or --insecure-no-tls behind a proxy that ends TLS`,
      )
    }
  }
  return allowsAnybody
}

/** @throws UsageError */
function tlsOf({ values }: ParsedFlags, ways: ReadonlySet<Way>): TlsFiles | undefined {
  const cert = values.get('tls-cert')?.text
  const key = values.get('tls-key')?.text
  const clientCa = values.get('tls-client-ca')?.text
  if (clientCa !== undefined && !ways.has('mtls')) throw new UsageError('--tls-client-ca needs --auth mtls')
  if (clientCa === undefined && ways.has('mtls')) throw new UsageError('--auth mtls needs --tls-client-ca')
  if (cert === undefined && key !== undefined) throw new UsageError('--tls-key needs --tls-cert')
  if (cert === undefined && clientCa !== undefined) throw new UsageError('--tls-client-ca needs --tls-cert')
  if (cert === undefined) return undefined
  if (key === undefined) throw new UsageError('--tls-cert needs --tls-key')
  return { cert, key, ...(clientCa === undefined ? {} : { clientCa }) }
}
