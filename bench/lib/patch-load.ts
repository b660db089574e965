/** A PATCH of one page under autocannon, as many as the server answers. */
import autocannon from 'autocannon'

const PAGE = 'bench.rest'
const ELEMENTS = 4096

export interface Body {
  readonly name: string
  readonly type: string
  readonly body: Buffer | string
}

const VALUES = Array.from({ length: 16 }, (_, i) => i + 0.5)
export const DENSE: Body = {
  name: '64 bytes dense',
  type: 'application/octet-stream',
  body: Buffer.from(new Float32Array(VALUES).buffer),
}
export const JSON_VALUES: Body = {
  name: 'JSON 16 values',
  type: 'application/json',
  body: JSON.stringify({ offset: 64, values: VALUES }),
}

export interface Load {
  readonly connections: number
  readonly durationS: number
  /** Headers of every request, such as Authorization. */
  readonly headers?: Readonly<Record<string, string>>
}

/** Creates the page that is written. It must not be a server with a certificate of its own. */
export async function createPage(url: string, headers: Load['headers'] = {}): Promise<void> {
  const answer = await fetch(`${url}/v1/pages/${PAGE}`, {
    method: 'PUT',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify({ dtype: 'f32', shape: [ELEMENTS] }),
  })
  if (!answer.ok) throw new Error(`the page could not be created: ${await answer.text()}`)
}

/** Requests per second, and how many there were. A refused request is an error. */
export async function patchLoad(
  url: string,
  { type, body }: Body,
  { connections, durationS, headers = {} }: Load,
): Promise<{ perSecond: number; requests: number }> {
  const result = await autocannon({
    url: `${url}/v1/pages/${PAGE}/data${typeof body === 'string' ? '' : '?offset=64'}`,
    method: 'PATCH',
    headers: { 'content-type': type, ...headers },
    body,
    connections,
    duration: durationS,
  })
  const bad = result.non2xx + result.errors + result.timeouts
  if (bad > 0) throw new Error(`${bad} requests failed (${result.non2xx} refused)`)
  return { perSecond: result.requests.average, requests: result.requests.total }
}
