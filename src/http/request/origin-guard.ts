/**
 * Limits a server without authentication to programs on this machine and its own web pages.
 *
 * A page of another site can make a browser send requests to 127.0.0.1. Two checks stop it. `Host` must name
 * the loopback interface: a page that rebinds its own DNS name to 127.0.0.1 still sends its own name.
 * `Origin`, which browsers send with every request a page could abuse, must be the server itself. A request
 * that says `Sec-Fetch-Site: cross-site` is refused like a foreign Origin, unless a user follows a link to
 * the start page, the dashboard or the documents. Any port is accepted in `Host`, so that tunnels work. An
 * `Origin` must equal `Host`, or be a loopback name with the server's port, or be one of the origins allowed
 * when the server was started. Further names for `Host` may be allowed then too: those of a proxy.
 */
import type { IncomingHttpHeaders } from 'node:http'
import { isIPv4 } from 'node:net'
import { MmsbError } from '../../errors.js'

/** True for 127.0.0.0/8, ::1 and localhost. */
export function isLoopback(host: string): boolean {
  const name = host.toLowerCase().replace(/^\[(.*)\]$/, '$1')
  if (name === 'localhost' || name === '::1') return true
  return isIPv4(name) && name.startsWith('127.')
}

export const NO_ORIGINS: ReadonlySet<string> = new Set()

/** Returns the error that refuses a request, undefined if it is accepted. */
export type Guard = (headers: IncomingHttpHeaders, url?: string) => MmsbError | undefined

/** Accepts every request, as `--insecure` asks for. */
export const openGuard: Guard = () => undefined

const NO_HOSTS: ReadonlySet<string> = new Set()
const LOOPBACK_NAMES = ['localhost', '127.0.0.1', '[::1]'] as const

/** Accepts these names in `Host`, and those of this machine; any `Origin`. Names are lower-case. */
export function hostGuard(allowedHosts: ReadonlySet<string>): Guard {
  const isKnown = hostCheck(new Set([...LOOPBACK_NAMES, ...allowedHosts]))
  return ({ host }) => (isKnown(host) ? undefined : foreign('Host', host ?? 'none'))
}

/** Whether a `Host` names one of these, with any port. */
function hostCheck(hosts: ReadonlySet<string>): (host: string | undefined) => boolean {
  // Clients send few distinct values of Host: the next one nearly always equals the last good one.
  let lastGood: string | undefined
  return (host) => {
    if (host === undefined) return false
    if (host === lastGood) return true
    if (!hosts.has(withoutPort(host.toLowerCase()))) return false
    lastGood = host
    return true
  }
}

/**
 * A guard for a server bound to the loopback host `boundHost`. `port()` is the port it listens on, undefined
 * before listen. Requests from pages of `allowedOrigins` are accepted too, and `allowedHosts`, lower-case, in
 * `Host`.
 */
export function loopbackGuard(
  boundHost: string,
  port: () => number | undefined,
  allowedOrigins: ReadonlySet<string> = NO_ORIGINS,
  allowedHosts: ReadonlySet<string> = NO_HOSTS,
): Guard {
  const hosts = new Set([...LOOPBACK_NAMES, bracketed(boundHost.toLowerCase()), ...allowedHosts])
  const isKnown = hostCheck(hosts)
  return (headers, url = '') => {
    const { host, origin } = headers
    if (host === undefined || !isKnown(host)) return foreign('Host', host ?? 'none')
    if (origin !== undefined && allowedOrigins.has(origin)) return undefined
    if (isCrossSite(headers) && !isVisit(headers, url)) return foreign('Sec-Fetch-Site', 'cross-site')
    if (origin === undefined) return undefined
    return isOwnOrigin(origin, host, hosts, port()) ? undefined : foreign('Origin', origin)
  }
}

/** Browsers say so with every request, those without Origin too. */
const isCrossSite = (headers: IncomingHttpHeaders): boolean => headers['sec-fetch-site'] === 'cross-site'

const VISITED: ReadonlySet<string> = new Set(['/', '/ui/', '/docs'])

/** Whether a user follows a link to a page of the server: the site with the link does not see the answer. */
const isVisit = (headers: IncomingHttpHeaders, url: string): boolean =>
  headers['sec-fetch-mode'] === 'navigate' &&
  headers['sec-fetch-dest'] === 'document' &&
  VISITED.has(url.split('?', 1)[0]!)

const bracketed = (host: string): string => (host.includes(':') && !host.startsWith('[') ? `[${host}]` : host)

const withoutPort = (host: string): string => host.replace(/:\d{1,5}$/, '')

function isOwnOrigin(
  origin: string,
  host: string,
  hosts: ReadonlySet<string>,
  port: number | undefined,
): boolean {
  const authority = /^https?:\/\/([^/]+)$/i.exec(origin)?.[1]?.toLowerCase()
  if (authority === undefined) return false
  if (authority === host.toLowerCase()) return true
  return port !== undefined && authority.endsWith(`:${port}`) && hosts.has(withoutPort(authority))
}

/** The guard of a server that listens on `host`. */
export function guardFor(
  {
    isInsecure,
    host,
    allowedOrigins,
    allowedHosts = NO_HOSTS,
  }: {
    readonly isInsecure: boolean
    readonly host: string
    readonly allowedOrigins: ReadonlySet<string>
    readonly allowedHosts?: ReadonlySet<string> | undefined
  },
  port: () => number | undefined,
): Guard {
  if (!isInsecure) return loopbackGuard(host, port, allowedOrigins, allowedHosts)
  return allowedHosts.size === 0
    ? openGuard
    : hostGuard(new Set([bracketed(host.toLowerCase()), ...allowedHosts]))
}

const foreign = (header: string, value: string): MmsbError =>
  new MmsbError(
    'FORBIDDEN',
    `${header} ${JSON.stringify(value.slice(0, 200))} is not an address of this server`,
  )
