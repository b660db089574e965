/**
 * The server that a command talks to. Everything goes through `mmsb/client`; an error of the client becomes
 * one line, which names the server without its credentials.
 *
 * A call is not repeated: whoever stands at the terminal wants to know at once that the server is away.
 */
import { Agent, fetch as fetchByUndici } from 'undici'
import { readPrivate, readPublic } from '../auth/private-file.js'
import type { Client } from '../client/client.js'
import { connect, MmsbError } from '../client/node.js'
import { HTTP_DEFAULT_PORT } from '../limits.js'
import { durationOf, type Flag, type FlagTable, type ParsedFlags, StartError, UsageError } from './flags.js'

const TOKEN_FILE_FLAG: Flag = {
  value: 'FILE',
  help: 'file that holds the token for the server of --url',
  env: 'MMSB_TOKEN_FILE',
}

/** How a command reaches a server whose flag is `--url`. */
export const ACCESS_FLAGS: FlagTable = {
  'token-file': TOKEN_FILE_FLAG,
  ca: {
    value: 'FILE',
    help: 'authorities that certify the server, in PEM',
    env: 'MMSB_CA',
    standard: 'those of Node',
  },
  cert: { value: 'FILE', help: 'certificate to show the server, in PEM', env: 'MMSB_CERT' },
  key: { value: 'FILE', help: 'private key of --cert, in PEM', env: 'MMSB_KEY' },
}

const STANDARD_TIMEOUT_MS = 30_000

const DEFAULT_URL = `http://127.0.0.1:${HTTP_DEFAULT_PORT}`

/** The flags of commands that always talk to a server. */
export const SERVER_FLAGS: FlagTable = {
  url: { value: 'URL', help: 'address of the server', env: 'MMSB_URL', standard: DEFAULT_URL },
  ...ACCESS_FLAGS,
  timeout: { value: 'TIME', help: 'how long to wait for an answer, such as 5s', standard: '30s' },
}

export interface Server {
  readonly client: Client
  /** The address without credentials, so that it may be printed. */
  readonly url: string
}

/** What stands before the host is hidden even where the text is no URL. */
const withoutCredentials = (url: string): string => url.replace(/\/\/[^/@]*@/, '//***@')

/**
 * Calls `work` with the server that the flags name, and closes the connection afterwards. `standardTimeoutMs`
 * counts without `--timeout`. @throws StartError when the server cannot be reached or refuses; UsageError
 * when the client refused what was asked for
 */
export async function withServer<T>(
  flags: ParsedFlags,
  work: (server: Server) => Promise<T>,
  standardTimeoutMs = STANDARD_TIMEOUT_MS,
): Promise<T> {
  const { url, headers } = addressOf(flags.values.get('url')?.text ?? DEFAULT_URL)
  const token = tokenOf(flags)
  const timeout = flags.values.get('timeout')
  const tls = tlsOf(flags, url)
  const agent = new Agent({ headersTimeout: 0, bodyTimeout: 0, connect: tls })
  try {
    const client = connect(url, {
      headers,
      ...tls,
      ...(token === undefined ? {} : { token }),
      timeoutMs: timeout === undefined ? standardTimeoutMs : durationOf(timeout),
      tryTimeoutMs: Number.POSITIVE_INFINITY,
      retries: 0,
      fetch: patientFetch(agent),
    })
    try {
      return await work({ client, url })
    } finally {
      await client.close()
    }
  } catch (error) {
    throw error instanceof MmsbError ? explained(error, url) : error
  } finally {
    void agent.destroy()
  }
}

/** A checkpoint may take longer than the five minutes after which the fetch of Node gives up. */
const patientFetch = (dispatcher: Agent): typeof fetch =>
  ((input: string, init: object) => fetchByUndici(input, { ...init, dispatcher })) as unknown as typeof fetch

/** @throws UsageError when `text` is not a URL of a server */
function addressOf(text: string): { url: string; headers: Readonly<Record<string, string>> } {
  if (!URL.canParse(text))
    throw new UsageError(`--url: ${JSON.stringify(withoutCredentials(text))} is not a URL`)
  const parsed = new URL(text)
  const { username, password } = parsed
  const credentials = `${decoded(username)}:${decoded(password)}`
  const isNamed = credentials !== ':'
  parsed.username = ''
  parsed.password = ''
  return {
    url: parsed.href.replace(/\/+$/, ''),
    headers: isNamed ? { authorization: `Basic ${Buffer.from(credentials).toString('base64')}` } : {},
  }
}

/** @throws UsageError */
function decoded(part: string): string {
  try {
    return decodeURIComponent(part)
  } catch {
    throw new UsageError('--url: write % in a user or password as %25')
  }
}

/**
 * The token that the flags name; undefined if there is none. The file is read again when the server no longer
 * accepts the token, which may have been replaced since. @throws StartError
 */
function tokenOf({ values }: ParsedFlags): (() => string) | undefined {
  const file = values.get('token-file')?.text
  if (file === undefined) return undefined
  const read = (): string => {
    try {
      return readPrivate(file).trim()
    } catch (error) {
      throw new StartError((error as Error).message, { cause: error })
    }
  }
  let first: string | undefined = read()
  return () => {
    const token = first ?? read()
    first = undefined
    return token
  }
}

/** What to do, where the advice of the server is for those who write requests. */
const ADVICE: Readonly<Record<string, string>> = {
  UNAUTHORIZED: 'Give a token with --token-file.',
  PAGE_NOT_FOUND: '',
  EPOCH_NOT_FOUND: '`mmsb status` shows the newest epoch.',
  EPOCH_COMPACTED: '`mmsb status` shows the oldest epoch that can be read.',
  INVALID_REQUEST: '',
  INVALID_DELTA: '',
  PRECONDITION_FAILED: 'Read the page again, and decide anew.',
}

/** The files that the flags name. The client checks them. @throws StartError, UsageError */
function tlsOf({ values }: ParsedFlags, url: string): { ca?: string; cert?: string; key?: string } {
  // An environment for one server may stay set while another one is asked in plain HTTP.
  const [ca, cert, key] = (['ca', 'cert', 'key'] as const).map((name) => {
    const given = values.get(name)
    return given?.from === `--${name}` || url.startsWith('https:') ? given?.text : undefined
  })
  if (cert === undefined && key !== undefined) throw new UsageError('--key needs --cert')
  if (cert !== undefined && key === undefined) throw new UsageError('--cert needs --key')
  try {
    return {
      ...(ca === undefined ? {} : { ca: readPublic(ca) }),
      ...(cert === undefined || key === undefined ? {} : { cert: readPublic(cert), key: readPrivate(key) }),
    }
  } catch (error) {
    throw new StartError((error as Error).message, { cause: error })
  }
}

/** An error of the client, in words for the terminal. */
export function explained({ code, status, detail, hint, cause }: MmsbError, url: string): Error {
  // The token file could not be read again.
  if (cause instanceof StartError) return cause
  if (status === 0) {
    if (code === 'INVALID_REQUEST' || code === 'INVALID_DELTA') return new UsageError(detail)
    if (code === 'NETWORK') {
      const why = detail.replace(/^.*?: no answer: /, '')
      return new StartError(`cannot reach ${url}: ${why}; is the server running there?`)
    }
    if (code === 'TIMEOUT') return new StartError(`${url} has not answered in time; --timeout sets the time`)
    if (code === 'PROTOCOL') return new StartError(`${url} does not answer as an mmsb server does: ${detail}`)
  }
  const advice = ADVICE[code] ?? hint
  const sentence = /[.!?]$/.test(detail) ? detail : `${detail}.`
  return new StartError(advice === '' ? `${code}: ${detail}` : `${code}: ${sentence} ${advice}`)
}
