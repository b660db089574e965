/** A server with principals, over a bus with pages of two owners. */
import path from 'node:path'
import type { Test } from 'tap'
import { TokenAuthenticator } from '../../src/auth/authenticator.js'
import { LimitBook } from '../../src/auth/limits/limit-book.js'
import type { PrincipalLimits } from '../../src/auth/limits/principal-limits.js'
import { addToken } from '../../src/auth/token-file.js'
import type { BusOptions } from '../../src/index.js'
import { type Served, serve } from '../http/helpers.js'

export interface Guarded extends Served {
  /** The headers of a principal. */
  as(id: string): Record<string, string>
  readonly tokens: Readonly<Record<string, string>>
  readonly authenticator: TokenAuthenticator
  readonly limits: LimitBook
  readonly file: string
}

/** Serves a bus with a data folder to these principals. */
export async function serveTo(
  t: Test,
  principals: Readonly<Record<string, readonly string[]>>,
  options: BusOptions = {},
  limitsOf: Readonly<Record<string, PrincipalLimits>> = {},
): Promise<Guarded> {
  const dir = t.testdir()
  const file = path.join(dir, 'tokens.json')
  const tokens = Object.fromEntries(
    Object.entries(principals).map(([id, scopes]) => [
      id,
      addToken(file, { id, scopes, limits: limitsOf[id] ?? {} }).token,
    ]),
  )
  const authenticator = new TokenAuthenticator(file)
  const limits = new LimitBook({ defaults: {}, own: authenticator.limits })
  const served = await serve(
    t,
    { dataDir: path.join(dir, 'data'), fsync: 'off', ...options },
    { authenticator, principalLimits: limits },
  )
  return {
    ...served,
    tokens,
    authenticator,
    limits,
    file,
    as: (id) => ({ authorization: `Bearer ${tokens[id]}` }),
  }
}

/** Creates a page of one element, with a token; answers the status. */
export async function createPage(url: string, token: string, name: string): Promise<number> {
  const answer = await fetch(`${url}/v1/pages/${name}`, {
    method: 'PUT',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    body: JSON.stringify({ dtype: 'f64', shape: [1] }),
  })
  await answer.arrayBuffer()
  return answer.status
}
