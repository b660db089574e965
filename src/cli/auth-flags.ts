/** Flags that say who may use a server, and how it may be reached. */
import { isLoopback } from '../http/request/origin-guard.js'
import { choiceOf, type Flag, type FlagTable, type ParsedFlags, UsageError } from './flags.js'

export const AUTH_FILE_FLAG: Flag = {
  value: 'FILE',
  help: 'token file: principals, their scopes, and the hashes of their tokens',
  env: 'MMSB_AUTH_FILE',
}

export const AUTH_FLAGS: FlagTable = {
  auth: {
    value: 'HOW',
    help: 'none: everybody may do everything; token: callers send a token of --auth-file',
    env: 'MMSB_AUTH',
    standard: 'none',
  },
  'auth-file': AUTH_FILE_FLAG,
  'tls-cert': {
    value: 'FILE',
    help: 'certificate of the server with its chain, in PEM: it then speaks HTTPS alone',
    env: 'MMSB_TLS_CERT',
  },
  'tls-key': { value: 'FILE', help: 'private key of --tls-cert, in PEM', env: 'MMSB_TLS_KEY' },
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
}

export interface AuthOptions {
  /** The token file; undefined: no authentication. */
  readonly tokenFile: string | undefined
  /** Undefined: plain HTTP. */
  readonly tls: TlsFiles | undefined
  /** Any Host and Origin. */
  readonly isInsecure: boolean
}

/** @throws UsageError, also when the server could be reached by those whom the flags do not keep out */
export function authOf(
  flags: ParsedFlags,
  listens: readonly (readonly [flag: string, host: string])[],
): AuthOptions {
  const { values, switches } = flags
  const given = values.get('auth')
  const isToken = given !== undefined && choiceOf(given, ['none', 'token']) === 'token'
  const tokenFile = values.get('auth-file')?.text
  if (isToken && tokenFile === undefined) throw new UsageError('--auth token needs --auth-file')
  if (!isToken && tokenFile !== undefined) throw new UsageError('--auth-file needs --auth token')
  const tls = tlsOf(flags)
  const isInsecure = switches.has('insecure')
  const allowsAnybody = isToken || isInsecure || switches.has('insecure-no-auth')
  const allowsPlain =
    isInsecure || switches.has('insecure-no-tls') || (!isToken && switches.has('insecure-no-auth'))
  for (const [flag, host] of listens) {
    if (isLoopback(host)) continue
    // The admin listener speaks plain HTTP, and answers no request that has a token.
    const isSafe = allowsPlain || tls !== undefined
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
  return { tokenFile: isToken ? tokenFile : undefined, tls, isInsecure: allowsAnybody }
}

/** @throws UsageError */
function tlsOf({ values }: ParsedFlags): TlsFiles | undefined {
  const cert = values.get('tls-cert')?.text
  const key = values.get('tls-key')?.text
  if (cert === undefined && key === undefined) return undefined
  if (cert === undefined) throw new UsageError('--tls-key needs --tls-cert')
  if (key === undefined) throw new UsageError('--tls-cert needs --tls-key')
  return { cert, key }
}
