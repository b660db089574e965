/**
 * What an issuer says of itself: where its keys are (OpenID Connect Discovery, RFC 8414).
 *
 * Invariants: a document that names another issuer is refused; keys come by HTTPS, or from this machine;
 * nothing is read beyond a limit of bytes and of time, and no redirection is followed.
 */
import { ISSUER_DOCUMENT_MAX_BYTES, ISSUER_TIMEOUT_MS } from '../../limits.js'

const LOOPBACK: ReadonlySet<string> = new Set(['localhost', '127.0.0.1', '[::1]'])

/** Why a URL cannot be that of an issuer; undefined if it can. */
export function issuerFault(text: string): string | undefined {
  if (!URL.canParse(text)) return 'is not a URL such as https://login.example.com'
  const { search, hash, username, password } = new URL(text)
  if (!isTrustworthy(text)) return 'does not begin with https://'
  if (search !== '' || hash !== '') return 'has a query or a fragment'
  if (username !== '' || password !== '') return 'has a user or a password'
  return undefined
}

/** Whether nobody on the way can change what comes from there. */
function isTrustworthy(url: string): boolean {
  const { protocol, hostname } = new URL(url)
  return protocol === 'https:' || (protocol === 'http:' && LOOPBACK.has(hostname))
}

/** Where the document of an issuer may be: OpenID Connect Discovery, RFC 8414. */
function documentPlaces(issuer: string): readonly string[] {
  const { origin, pathname } = new URL(issuer)
  const path = pathname.replace(/\/+$/, '')
  return [
    `${origin}${path}/.well-known/openid-configuration`,
    `${origin}/.well-known/oauth-authorization-server${path}`,
  ]
}

/** The key set of an issuer, not checked. @throws Error that says what is wrong */
export async function readKeys(issuer: string): Promise<unknown> {
  const signal = AbortSignal.timeout(ISSUER_TIMEOUT_MS)
  return readJson(await keysPlace(issuer, signal), signal)
}

async function keysPlace(issuer: string, signal: AbortSignal): Promise<string> {
  let failure: unknown
  for (const place of documentPlaces(issuer)) {
    try {
      return keysPlaceIn(await readJson(place, signal), issuer, place)
    } catch (error) {
      failure ??= error
    }
  }
  throw failure
}

function keysPlaceIn(document: unknown, issuer: string, place: string): string {
  const { issuer: named, jwks_uri: keys } = Object(document) as Record<string, unknown>
  // Else one issuer could pass for another one.
  if (named !== issuer) throw new Error(`${place} is of issuer ${JSON.stringify(named)}, not of ${issuer}`)
  if (typeof keys !== 'string' || !URL.canParse(keys)) throw new Error(`${place} has no jwks_uri`)
  if (!isTrustworthy(keys)) throw new Error(`${place} has a jwks_uri that does not begin with https://`)
  return keys
}

/** The JSON at a URL. @throws Error that says what is wrong */
async function readJson(url: string, signal: AbortSignal): Promise<unknown> {
  try {
    const response = await fetch(url, { redirect: 'manual', signal, headers: { accept: 'application/json' } })
    if (response.status !== 200) {
      await response.body?.cancel()
      throw new Error(`status ${response.status}`)
    }
    return JSON.parse(await textOf(response)) as unknown
  } catch (error) {
    const { message, cause } = error as Error
    throw new Error(`${url}: ${cause instanceof Error ? cause.message : message}`, { cause: error })
  }
}

async function textOf({ body }: Response): Promise<string> {
  const parts: Uint8Array[] = []
  let bytes = 0
  for await (const part of body ?? []) {
    bytes += part.length
    // Leaving the loop ends the answer.
    if (bytes > ISSUER_DOCUMENT_MAX_BYTES) throw new Error(`more than ${ISSUER_DOCUMENT_MAX_BYTES} bytes`)
    parts.push(part)
  }
  return Buffer.concat(parts).toString('utf8')
}
