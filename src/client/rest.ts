/**
 * Calls over HTTP: one function that sends, repeats what may be repeated, and turns refusals into MmsbError.
 *
 * Invariants: a call that may have happened is repeated only if repeating it is harmless (`isRepeatable`: reads, and writes with an
 * idempotency key); one the server put off (503 with Retry-After) always, for it did not happen; all repeats of a call share
 * one deadline.
 */
import { closedError, MmsbError, problemError } from './errors.js'
import { CALL_RETRIES, CALL_TIMEOUT_MS } from './limits.js'
import type { CallOptions } from './types.js'
import { backoffMs, deadline, sleep } from './wait.js'

export interface RestOptions {
  readonly headers?: Readonly<Record<string, string>> | undefined
  readonly fetch?: typeof fetch | undefined
  readonly timeoutMs?: number | undefined
  readonly retries?: number | undefined
}

export interface Call<T> extends CallOptions {
  readonly method: 'GET' | 'PUT' | 'PATCH' | 'POST' | 'DELETE'
  readonly path: string
  readonly query?: Readonly<Record<string, string | number | boolean | undefined>>
  readonly headers?: Readonly<Record<string, string>>
  /** JSON text, or bytes. */
  readonly body?: string | Uint8Array
  readonly isRepeatable: boolean
  readonly read: (response: Response) => Promise<T>
}

export interface Rest {
  call<T>(call: Call<T>): Promise<T>
  /** Ends every call under way with CLOSED; later ones too. */
  close(): void
}

export function restOf(base: string, options: RestOptions): Rest {
  const ended = new AbortController()
  const retries = options.retries ?? CALL_RETRIES
  const send = options.fetch ?? fetch

  async function attempt<T>(call: Call<T>, signal: AbortSignal): Promise<T> {
    const { method, headers, body } = call
    const type = typeof body === 'string' ? 'application/json' : 'application/octet-stream'
    let response: Response
    try {
      response = await send(urlOf(base, call), {
        method,
        headers: {
          accept: 'application/json',
          ...(body === undefined ? {} : { 'content-type': type }),
          ...options.headers,
          ...headers,
        },
        ...(body === undefined ? {} : { body: body as NonNullable<RequestInit['body']> }),
        signal,
      })
      if (response.ok) return await call.read(response)
    } catch (cause) {
      if (signal.aborted) throw signal.reason
      if (cause instanceof MmsbError) throw cause
      throw new MmsbError({ code: 'NETWORK', detail: `${method} ${call.path}: no answer` }, { cause })
    }
    throw await refusalOf(response, call)
  }

  async function call<T>(call: Call<T>): Promise<T> {
    const limit = deadline(call.timeoutMs ?? options.timeoutMs ?? CALL_TIMEOUT_MS, [
      call.signal,
      ended.signal,
    ])
    try {
      for (let repeats = 0; ; repeats++) {
        limit.signal.throwIfAborted()
        try {
          return await attempt(call, limit.signal)
        } catch (error) {
          const waitMs = repeats < retries ? repeatAfterMs(error, repeats, call.isRepeatable) : undefined
          if (waitMs === undefined || waitMs >= limit.leftMs()) throw error
          await sleep(waitMs, limit.signal)
        }
      }
    } finally {
      limit.end()
    }
  }

  return { call, close: () => ended.abort(closedError()) }
}

function urlOf(base: string, { path, query = {} }: Call<unknown>): string {
  const parameters = new URLSearchParams()
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined) parameters.set(name, String(value))
  }
  return parameters.size === 0 ? base + path : `${base}${path}?${parameters}`
}

/** How long to wait before a repeat; undefined when there is to be none. */
function repeatAfterMs(error: unknown, repeats: number, isRepeatable: boolean): number | undefined {
  if (!(error instanceof MmsbError)) return undefined
  const { retryAfterMs } = error.extra
  if (typeof retryAfterMs === 'number') return retryAfterMs + backoffMs(repeats)
  return error.code === 'NETWORK' && isRepeatable ? backoffMs(repeats) : undefined
}

async function refusalOf(response: Response, { method, path }: Call<unknown>): Promise<MmsbError> {
  const { status } = response
  const text = await response.text().catch(() => '')
  let fields: Record<string, unknown> = {}
  try {
    const parsed: unknown = JSON.parse(text)
    if (typeof parsed === 'object' && parsed !== null) fields = parsed as Record<string, unknown>
  } catch {
    // Something between here and the server answered; the status is all there is to tell.
  }
  if (typeof fields.code !== 'string') {
    return new MmsbError({ code: 'PROTOCOL', detail: `${method} ${path}: status ${status}`, status })
  }
  const seconds = status === 503 ? Number(response.headers.get('retry-after') ?? Number.NaN) : Number.NaN
  return problemError(seconds >= 0 ? { ...fields, retryAfterMs: seconds * 1000 } : fields, status)
}

/** For answers in JSON. */
export const readJson = <T>(response: Response): Promise<T> => response.json() as Promise<T>
