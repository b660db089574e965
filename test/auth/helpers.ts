/** A server with principals, over a bus with pages of two owners. */
import path from 'node:path'
import type { Test } from 'tap'
import { TokenAuthenticator } from '../../src/auth/authenticator.js'
import { addToken } from '../../src/auth/token-file.js'
import type { BusOptions } from '../../src/index.js'
import { type Served, serve } from '../http/helpers.js'

export interface Guarded extends Served {
  /** The headers of a principal. */
  as(id: string): Record<string, string>
  readonly tokens: Readonly<Record<string, string>>
  readonly authenticator: TokenAuthenticator
  readonly file: string
}

/** Serves a bus with a data folder to these principals. */
export async function serveTo(
  t: Test,
  principals: Readonly<Record<string, readonly string[]>>,
  options: BusOptions = {},
): Promise<Guarded> {
  const dir = t.testdir()
  const file = path.join(dir, 'tokens.json')
  const tokens = Object.fromEntries(
    Object.entries(principals).map(([id, scopes]) => [id, addToken(file, { id, scopes }).token]),
  )
  const authenticator = new TokenAuthenticator(file)
  const served = await serve(
    t,
    { dataDir: path.join(dir, 'data'), fsync: 'off', ...options },
    { authenticator },
  )
  return {
    ...served,
    tokens,
    authenticator,
    file,
    as: (id) => ({ authorization: `Bearer ${tokens[id]}` }),
  }
}
