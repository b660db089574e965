/**
 * Who may speak to a server without authentication: programs on this machine, and no web page but the server's own.
 *
 * A page of another site can make a browser send requests to 127.0.0.1. Two checks stop it: `Host` must be a name of the
 * loopback interface (a page that rebinds its own DNS name to 127.0.0.1 still sends its own name), and `Origin`, which
 * browsers always send with what a page could abuse, must be the server's own. The port in `Host` is free, so
 * that tunnels work; an `Origin` must be that very `Host`, or a loopback name with the port the server is bound to, or one
 * that whoever started the server has named.
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

export type Guard = (headers: IncomingHttpHeaders) => MmsbError | null

/** Lets everything through: what `--insecure` asks for. */
export const openGuard: Guard = () => null

/**
 * A guard for a server bound to the loopback host `boundHost`; `port()` is the port it got, undefined before listen; the pages
 * of `allowedOrigins` may speak to it too.
 */
export function loopbackGuard(
  boundHost: string,
  port: () => number | undefined,
  allowedOrigins: ReadonlySet<string> = NO_ORIGINS,
): Guard {
  const hosts = new Set(['localhost', '127.0.0.1', '[::1]', bracketed(boundHost.toLowerCase())])
  // Clients send few distinct values of Host, so the last good one is nearly always the next one too.
  let lastGoodHost = ''
  return ({ host, origin }) => {
    if (host === undefined) return foreign('Host', 'none')
    if (host !== lastGoodHost) {
      if (!hosts.has(withoutPort(host.toLowerCase()))) return foreign('Host', host)
      lastGoodHost = host
    }
    if (origin === undefined || allowedOrigins.has(origin)) return null
    return isOwnOrigin(origin, host, hosts, port()) ? null : foreign('Origin', origin)
  }
}

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

const foreign = (header: string, value: string): MmsbError =>
  new MmsbError(
    'FORBIDDEN',
    `${header} ${JSON.stringify(value.slice(0, 200))} is not an address of this server`,
  )
