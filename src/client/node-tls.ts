/**
 * TLS of a client in Node: which servers it trusts, and the certificate that it shows. The fetch of Node
 * takes no such options, so requests then go through the package that it is made of.
 */
import { X509Certificate } from 'node:crypto'
import { createSecureContext } from 'node:tls'
import { invalidRequest } from './errors.js'
import type { Pem, TlsOptions } from './types.js'

const NAMES = ['ca', 'cert', 'key'] as const
const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g

/** The options about TLS, checked; undefined if there are none. @throws MmsbError INVALID_REQUEST */
export function tlsOf(url: string | URL, options: TlsOptions): TlsOptions | undefined {
  const given = NAMES.filter((name) => options[name] !== undefined)
  const first = given[0]
  if (first === undefined) return undefined
  if (!/^https:/i.test(String(url))) throw invalidRequest(`options.${first}: needs a URL with https://`)
  for (const name of given) {
    const value: unknown = options[name]
    if (typeof value !== 'string' && !(value instanceof Uint8Array))
      throw invalidRequest(`options.${name}: is neither a text nor bytes`)
  }
  const { ca, cert, key } = options
  if (cert === undefined && key !== undefined) throw invalidRequest('options.key: needs `cert`')
  if (cert !== undefined && key === undefined) throw invalidRequest('options.cert: needs `key`')
  if (ca !== undefined) checkCertificates(ca)
  const tls = {
    ...(ca === undefined ? {} : { ca: textOf(ca) }),
    ...(cert === undefined || key === undefined ? {} : { cert: textOf(cert), key: textOf(key) }),
  }
  try {
    createSecureContext(tls)
  } catch (error) {
    throw invalidRequest(
      `options.cert: is not a certificate that fits \`key\`, in PEM: ${(error as Error).message}`,
    )
  }
  return tls
}

/** Node passes over what is no certificate. */
function checkCertificates(ca: Pem): void {
  const blocks = textOf(ca).match(CERTIFICATE) ?? []
  try {
    if (blocks.length > 0) {
      for (const block of blocks) new X509Certificate(block)
      return
    }
  } catch {
    // Told below.
  }
  throw invalidRequest('options.ca: is not a certificate in PEM')
}

type Send = (input: unknown, init: object) => Promise<unknown>

/** Sends requests with these options. */
export function fetchWith(tls: TlsOptions): typeof fetch {
  let loading: Promise<Send> | undefined
  const load = async (): Promise<Send> => {
    const { Agent, fetch: send } = await import('undici')
    const dispatcher = new Agent({ connect: tls as { ca?: string; cert?: string; key?: string } })
    return (input, init) => send(input as string, { ...init, dispatcher })
  }
  const send: Send = async (input, init) => {
    loading ??= load()
    return (await loading)(input, init)
  }
  return send as unknown as typeof fetch
}

const textOf = (pem: Pem): string => (typeof pem === 'string' ? pem : Buffer.from(pem).toString('utf8'))
