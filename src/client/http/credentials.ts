/**
 * The token that a client sends. A function is asked for one when the first is needed, and again when the
 * server accepts it no longer; in between the answer is kept.
 */
import { invalidRequest, MmsbError } from '../errors.js'

export type TokenSource = string | (() => string | Promise<string>)

export class Credentials {
  readonly #source: TokenSource | undefined
  #token: string | undefined
  #asking: Promise<string> | undefined

  constructor(source: TokenSource | undefined) {
    this.#source = source
    if (typeof source === 'string') this.#token = source
  }

  /** The token, undefined if there is none; a promise while the function is asked. */
  get(): string | undefined | Promise<string> {
    if (this.#token !== undefined || this.#source === undefined) return this.#token
    this.#asking ??= this.#ask().finally(() => {
      this.#asking = undefined
    })
    return this.#asking
  }

  /** The server did not accept this token. False if there is no other one to be had. */
  renew(refused: string | undefined): boolean {
    if (typeof this.#source !== 'function') return false
    // Another request may have got a new one already.
    if (this.#token === refused) this.#token = undefined
    return true
  }

  async #ask(): Promise<string> {
    let token: unknown
    try {
      token = await (this.#source as () => string | Promise<string>)()
    } catch (cause) {
      throw new MmsbError({ code: 'UNAUTHORIZED', detail: 'the function `token` failed' }, { cause })
    }
    if (typeof token !== 'string' || !/^[!-~]+$/.test(token))
      throw invalidRequest('options.token: the function gave no token')
    this.#token = token
    return token
  }
}
