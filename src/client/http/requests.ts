/**
 * The requests of the client: JSON in and out, and writes with an idempotency key. Checks the options
 * of every call.
 */
import { CALL, checkFields, checkHeaderKey, WRITE } from '../arguments.js'
import type { CallOptions, WriteOptions } from '../types.js'
import { type Call, type Rest, readJson } from './rest.js'

export class Requests {
  readonly #rest: Rest

  constructor(rest: Rest) {
    this.#rest = rest
  }

  get<T>(path: string, options: CallOptions, query: Call<T>['query'] = {}): Promise<T> {
    return this.json('GET', path, options, { query, isRepeatable: true })
  }

  json<T>(
    method: Call<T>['method'],
    path: string,
    options: CallOptions,
    { isRepeatable = false, ...more }: Pick<Partial<Call<T>>, 'body' | 'query' | 'isRepeatable'> = {},
  ): Promise<T> {
    checkFields('options', options, CALL)
    return this.#rest.call<T>({ ...options, ...more, method, path, isRepeatable, read: readJson })
  }

  write<T>(
    method: Call<T>['method'],
    path: string,
    body: string | Uint8Array,
    options: WriteOptions,
    more: Pick<Call<T>, 'query' | 'headers'>,
  ): Promise<T> {
    checkFields('options', options, WRITE)
    checkHeaderKey(options.key)
    const { key = newKey(), expectVersion, ...rest } = options
    const headers = {
      'idempotency-key': key,
      ...(expectVersion === undefined ? {} : { 'if-match': `"v${expectVersion}"` }),
      ...more.headers,
    }
    return this.#rest.call<T>({
      ...rest,
      ...more,
      headers,
      method,
      path,
      body,
      isRepeatable: true,
      read: readJson,
    })
  }
}

/** 128 random bits. Not randomUUID, which browsers have on secure origins only. */
export function newKey(): string {
  let key = ''
  for (const word of crypto.getRandomValues(new Uint32Array(4))) key += word.toString(36).padStart(7, '0')
  return key
}
