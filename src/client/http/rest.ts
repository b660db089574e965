/**
 * Calls over HTTP: sends, retries, and turns refusals into MmsbError.
 *
 * Invariants: a call that may have taken effect is retried only if that is harmless (`isRepeatable`: reads,
 * and writes with an idempotency key). A call that the server put off (503 or 429 with Retry-After) is always
 * retried, because it took no effect. All attempts of a call share one deadline, and retries go on until
 * then. An attempt that may be retried is given up when no answer begins in time, or no part of it comes: its
 * connection may be dead.
 */
import { HTTP_BODY_MAX_BYTES } from '../../wire/limits.js'
import { HISTORY_HEADER } from '../../wire/messages.js'
import { isText, objectOf, showValue } from '../arguments.js'
import { closedError, invalidRequest, MmsbError, problemError, protocolError } from '../errors.js'
import {
  ANSWER_SMALL_BYTES,
  CALL_TIMEOUT_MS,
  TIMER_MAX_MS,
  TRY_TIMEOUT_LEAST_MS,
  TRY_TIMEOUT_SHARE,
} from '../limits.js'
import type { CallOptions } from '../types.js'
import { backoffMs, deadline, sleep } from './backoff.js'
import { Credentials, type TokenSource } from './credentials.js'

export interface RestOptions {
  /** Sent with every HTTP request, for example credentials. The WebSocket does not send them. */
  readonly headers?: Readonly<Record<string, string>> | Headers | undefined
  /**
   * The token of a server with authentication, sent with requests and by the WebSocket; or a function that
   * gives one, which is asked again when the server accepts the token no longer.
   */
  readonly token?: TokenSource | undefined
  /** Used instead of the platform's `fetch`. */
  readonly fetch?: typeof fetch | undefined
  /** Bounds all attempts of a call together; default: 30 s, Infinity: no limit. */
  readonly timeoutMs?: number | undefined
  /**
   * Time for an answer to begin before the call is tried again on another connection, where that is harmless;
   * default: a third of `timeoutMs`, at least 2 s.
   */
  readonly tryTimeoutMs?: number | undefined
  /** A call is retried up to this many times; default: as often as `timeoutMs` allows. */
  readonly retries?: number | undefined
}

export interface Call<T> extends CallOptions {
  readonly method: 'GET' | 'PUT' | 'PATCH' | 'POST' | 'DELETE'
  readonly path: string
  readonly query?: Readonly<Record<string, string | number | boolean | undefined>> | undefined
  readonly headers?: Readonly<Record<string, string>>
  /** JSON text, or bytes. */
  readonly body?: string | Uint8Array
  readonly isRepeatable: boolean
  /** It finds out whether the server is back, so it does not wait for that. */
  readonly isProbe?: boolean
  /**
   * Reads the answer. An error other than MmsbError counts as a lost connection. `where` names the call
   * in messages.
   */
  readonly read: (response: Response, where: string) => Promise<T>
}

export interface Rest {
  call<T>(call: Call<T>): Promise<T>
  /** Ends every pending and every later call with CLOSED. */
  close(): void
}

/**
 * `onHistory` gets the history that an answer belongs to. `whenBack` gives a promise while somebody else
 * looks for a server that is away: then calls wait for that instead of trying by themselves.
 */
export function restOf(
  base: string,
  options: RestOptions,
  onHistory: (history: string) => void = () => {},
  whenBack: () => Promise<void> | undefined = () => undefined,
  credentials = new Credentials(options.token),
): Rest {
  const ended = new AbortController()
  const retries = options.retries ?? Infinity
  const sender = { base, send: options.fetch ?? fetch, always: headersOf(options.headers), onHistory }

  /** Sends the call, with another token if the server does not accept the first. */
  async function attempt<T>(call: Call<T>, tryMs: number, signal: AbortSignal): Promise<T> {
    const given = credentials.get()
    // A promise for nothing would delay every call.
    const token = given instanceof Promise ? await given : given
    try {
      return await sendOnce(sender, call, { token, tryMs, signal })
    } catch (error) {
      const isRefused = error instanceof MmsbError && (error.status === 401 || error.extra.login === 'failed')
      if (!isRefused || !credentials.renew(token)) throw error
      return sendOnce(sender, call, { token: await credentials.get(), tryMs, signal })
    }
  }

  async function call<T>(call: Call<T>): Promise<T> {
    checkSize(call.body)
    const timeoutMs = call.timeoutMs ?? options.timeoutMs ?? CALL_TIMEOUT_MS
    const limit = deadline(timeoutMs, [call.signal, ended.signal])
    const tryMs = options.tryTimeoutMs ?? Math.max(TRY_TIMEOUT_LEAST_MS, timeoutMs * TRY_TIMEOUT_SHARE)
    try {
      for (let retry = 0; ; retry++) {
        limit.signal.throwIfAborted()
        try {
          return await attempt(call, call.isRepeatable ? tryMs : Infinity, limit.signal)
        } catch (error) {
          const waitMs = retry < retries ? retryDelayMs(error, retry, call.isRepeatable) : undefined
          if (waitMs === undefined || waitMs >= limit.leftMs()) throw error
          const back = call.isProbe !== true && isAway(error) ? whenBack() : undefined
          if (back !== undefined) await settledBefore(back, limit.leftMs() - waitMs, limit.signal, error)
          await sleep(waitMs, limit.signal)
        }
      }
    } finally {
      limit.end()
    }
  }

  return { call, close: () => ended.abort(closedError()) }
}

/** What all calls of a client have in common. */
interface Sender {
  readonly base: string
  readonly send: typeof fetch
  readonly always: Readonly<Record<string, string>>
  readonly onHistory: (history: string) => void
}

/** Sends a call once. @throws MmsbError NETWORK when no answer begins within `tryMs`, or none arrives */
async function sendOnce<T>(
  { base, send, always, onHistory }: Sender,
  call: Call<T>,
  { token, tryMs, signal }: { token: string | undefined; tryMs: number; signal: AbortSignal },
): Promise<T> {
  const { method, headers, body } = call
  const where = `${method} ${base}${call.path}`
  const type = typeof body === 'string' ? 'application/json' : 'application/octet-stream'
  const limit = deadline(tryMs, [signal])
  let response: Response
  try {
    response = await send(urlOf(base, call), {
      method,
      headers: {
        accept: 'application/json',
        ...(body === undefined ? {} : { 'content-type': type }),
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        ...always,
        ...headers,
      },
      ...(body === undefined ? {} : { body: body as NonNullable<RequestInit['body']> }),
      signal: limit.signal,
    })
    response = watched(response, () => limit.restart())
    const history = response.headers.get(HISTORY_HEADER)
    if (history) onHistory(history)
    if (response.ok) return await call.read(response, where)
    throw await refusalOf(response, where)
  } catch (cause) {
    if (signal.aborted) throw signal.reason
    if (cause instanceof MmsbError && cause !== limit.signal.reason) throw cause
    const why = limit.signal.aborted ? `none within ${tryMs} ms` : reasonOf(cause)
    throw new MmsbError({ code: 'NETWORK', detail: `${where}: no answer: ${why}` }, { cause })
  } finally {
    limit.end()
  }
}

const isAway = (error: unknown): boolean => error instanceof MmsbError && error.code === 'NETWORK'

/** Resolves with the promise. Throws `error` when no time is left. */
async function settledBefore(
  promise: Promise<void>,
  leftMs: number,
  ended: AbortSignal,
  error: unknown,
): Promise<void> {
  const settled = new AbortController()
  const { signal, end } = deadline(Infinity, [ended, settled.signal])
  const late = sleep(Math.min(leftMs, TIMER_MAX_MS), signal).then(() => {
    throw error
  })
  try {
    await Promise.race([promise, late])
  } finally {
    // The timer ends, and nobody listens to it any more.
    late.catch(() => {})
    settled.abort()
    end()
  }
}

/** The answer, whose body calls back with each part that comes. */
function watched(response: Response, onPart: () => void): Response {
  onPart()
  const { body, headers, status } = response
  // A small one comes as a whole.
  if (body === null || Number(headers.get('content-length') ?? Infinity) <= ANSWER_SMALL_BYTES)
    return response
  const parts = new TransformStream<Uint8Array, Uint8Array>({
    transform: (part, out) => {
      onPart()
      out.enqueue(part)
    },
  })
  return new Response(body.pipeThrough(parts), { headers, status })
}

function urlOf(base: string, { path, query = {} }: Call<unknown>): string {
  const parameters = new URLSearchParams()
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined) parameters.set(name, String(value))
  }
  return parameters.size === 0 ? base + path : `${base}${path}?${parameters}`
}

/** The delay before a retry; undefined if the call must not be retried. */
function retryDelayMs(error: unknown, retry: number, isRepeatable: boolean): number | undefined {
  if (!(error instanceof MmsbError)) return undefined
  const { retryAfterMs } = error.extra
  if (typeof retryAfterMs === 'number') return retryAfterMs + backoffMs(retry)
  return error.code === 'NETWORK' && isRepeatable ? backoffMs(retry) : undefined
}

async function refusalOf(response: Response, where: string): Promise<MmsbError> {
  const { status } = response
  const text = await response.text().catch(() => '')
  let fields: Record<string, unknown> = {}
  try {
    const parsed: unknown = JSON.parse(text)
    if (typeof parsed === 'object' && parsed !== null) fields = parsed as Record<string, unknown>
  } catch {
    // A proxy answered, not the server: only the status is known.
  }
  if (typeof fields.code !== 'string') {
    return new MmsbError({ code: 'PROTOCOL', detail: `${where}: status ${status}`, status })
  }
  // The same token would fail again.
  const isPutOff = status === 503 || (status === 429 && fields.login !== 'failed')
  const seconds = isPutOff ? Number(response.headers.get('retry-after') ?? Number.NaN) : Number.NaN
  return problemError(seconds >= 0 ? { ...fields, retryAfterMs: seconds * 1000 } : fields, status)
}

/** Reads a JSON answer. Every one is an object. */
export async function readJson<T>(response: Response, where: string): Promise<T> {
  const text = await response.text()
  try {
    const answer: unknown = JSON.parse(text)
    if (typeof answer === 'object' && answer !== null) return answer as T
  } catch {
    // Reported below.
  }
  throw protocolError(`${where}: the answer is not JSON of this server: ${showValue(text)}`)
}

/** The address of a server, without a trailing slash. @throws MmsbError INVALID_REQUEST */
export function baseOf(url: unknown): string {
  let parsed: URL
  try {
    parsed = new URL(url as string | URL)
  } catch {
    throw invalidRequest(`url: ${showValue(url)} is not a URL such as http://127.0.0.1:7411`)
  }
  const { protocol, username, password, search, hash, href } = parsed
  const isHttp = protocol === 'http:' || protocol === 'https:'
  if (!isHttp) throw invalidRequest(`url: ${showValue(href)} does not begin with http:// or https://`)
  if (username !== '' || password !== '') {
    throw invalidRequest('url: must not contain a user and password; send them with the option `headers`')
  }
  if (search !== '' || hash !== '') throw invalidRequest(`url: must not contain ${showValue(search + hash)}`)
  return href.replace(/[?#]*$/, '').replace(/\/+$/, '')
}

/** The headers by lower-case name. @throws MmsbError INVALID_REQUEST */
function headersOf(given: unknown): Readonly<Record<string, string>> {
  if (given === undefined) return {}
  if (!(given instanceof Headers)) {
    for (const [name, value] of Object.entries(objectOf('options.headers', given))) {
      const fault = isText(value)
      if (fault !== undefined) throw invalidRequest(`options.headers.${name}: ${showValue(value)} ${fault}`)
    }
  }
  try {
    return Object.fromEntries(new Headers(given as Record<string, string>))
  } catch (error) {
    throw invalidRequest(`options.headers: ${error instanceof Error ? error.message : String(error)}`)
  }
}

/**
 * The server refuses larger bodies, or even cuts the connection while they are sent. @throws MmsbError
 * PAYLOAD_TOO_LARGE
 */
function checkSize(body: string | Uint8Array | undefined): void {
  if (body === undefined || body.length * 3 <= HTTP_BODY_MAX_BYTES) return
  const bytes = typeof body === 'string' ? new TextEncoder().encode(body).length : body.length
  if (bytes <= HTTP_BODY_MAX_BYTES) return
  throw new MmsbError({
    code: 'PAYLOAD_TOO_LARGE',
    detail: `a body has at most ${HTTP_BODY_MAX_BYTES} bytes; this has ${bytes}`,
    hint: 'Refused by the client; nothing was sent. Write it in parts; typed arrays take fewer bytes than lists.',
  })
}

/** Why fetch failed: its cause says so, its own message is always the same. */
function reasonOf(failure: unknown): string {
  const cause = failure instanceof Error && failure.cause instanceof Error ? failure.cause : failure
  if (!(cause instanceof Error)) return String(cause)
  const { code } = cause as { readonly code?: unknown }
  if (typeof code !== 'string' || cause.message.includes(code)) return cause.message
  return cause.message === '' ? code : `${code}: ${cause.message}`
}
