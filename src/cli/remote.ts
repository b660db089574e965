/** Requests of a command to a running server. A problem document becomes an error of one line. */
import { readPrivate } from '../auth/private-file.js'
import { type Flag, type ParsedFlags, StartError, UsageError } from './flags.js'

export const TOKEN_FILE_FLAG: Flag = {
  value: 'FILE',
  help: 'file that holds the token for the server of --url',
  env: 'MMSB_TOKEN_FILE',
}

/** The token that the flags name; undefined if there is none. @throws StartError */
export function tokenOf({ values }: ParsedFlags): string | undefined {
  const file = values.get('token-file')?.text
  if (file === undefined) return undefined
  try {
    return readPrivate(file).trim()
  } catch (error) {
    throw new StartError((error as Error).message, { cause: error })
  }
}

/** What stands before the host is hidden even where the text is no URL. */
const withoutCredentials = (url: string): string => url.replace(/\/\/[^/@]*@/, '//***@')

export class Remote {
  /** Without credentials, so that it may be printed. */
  readonly #base: string
  readonly #headers: Readonly<Record<string, string>>

  /** @throws UsageError when `url` is not a URL */
  constructor(url: string, token?: string) {
    if (!URL.canParse(url))
      throw new UsageError(`--url: ${JSON.stringify(withoutCredentials(url))} is not a URL`)
    const parsed = new URL(url)
    const { username, password } = parsed
    const credentials = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`
    if (token !== undefined) this.#headers = { authorization: `Bearer ${token}` }
    else if (credentials === ':') this.#headers = {}
    else this.#headers = { authorization: `Basic ${Buffer.from(credentials).toString('base64')}` }
    parsed.username = ''
    parsed.password = ''
    this.#base = parsed.href.replace(/\/+$/, '')
  }

  /** @throws StartError when the server cannot be reached or refuses */
  async request(
    method: string,
    path: string,
    body?: Uint8Array | object,
    accept?: string,
  ): Promise<Response> {
    const isRaw = body instanceof Uint8Array
    const type = isRaw ? 'application/octet-stream' : 'application/json'
    let response: Response
    try {
      response = await fetch(this.#base + path, {
        method,
        headers: {
          ...this.#headers,
          ...(body === undefined ? {} : { 'content-type': type }),
          ...(accept === undefined ? {} : { accept }),
        },
        ...(body === undefined ? {} : { body: isRaw ? new Uint8Array(body) : JSON.stringify(body) }),
      })
    } catch (error) {
      const cause = (error as Error).cause
      throw new StartError(
        `cannot reach ${this.#base}: ${cause instanceof Error ? cause.message : String(error)}`,
      )
    }
    if (response.ok) return response
    const problem = (await response.json().catch(() => ({}))) as { code?: string; detail?: string }
    throw new StartError(
      `${method} ${path}: ${problem.code ?? response.status} ${problem.detail ?? ''}`.trim(),
    )
  }

  async json<T>(path: string): Promise<T> {
    return (await (await this.request('GET', path, undefined, 'application/json')).json()) as T
  }
}
