/** Durable REST PATCH under autocannon, beside the same route on a bare Fastify that does nothing. */
import { join } from 'node:path'
import autocannon from 'autocannon'
import { pairsOf } from '../lib/pairs.js'
import { startBaseline } from '../lib/process.js'
import { startServer } from '../lib/tree.js'
import type { Context, Result } from '../lib/types.js'

const PAGE = 'bench.rest'
const ELEMENTS = 4096
const BUDGET = 0.85
const CONNECTIONS = [10, 100]

interface Body {
  readonly name: string
  readonly type: string
  readonly body: Buffer | string
}

const VALUES = Array.from({ length: 16 }, (_, i) => i + 0.5)
const BODIES: readonly Body[] = [
  {
    name: '64 bytes dense',
    type: 'application/octet-stream',
    body: Buffer.from(new Float32Array(VALUES).buffer),
  },
  { name: 'JSON 16 values', type: 'application/json', body: JSON.stringify({ offset: 64, values: VALUES }) },
]

export async function rest(context: Context): Promise<Result[]> {
  const server = await startServer({ dataDir: join(context.dir, 'bus') })
  const baseline = await startBaseline('fastify')
  await fetch(`${server.url}/v1/pages/${PAGE}`, {
    method: 'PUT',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ dtype: 'f32', shape: [ELEMENTS] }),
  })
  const results: Result[] = []
  for (const connections of CONNECTIONS) {
    for (const body of BODIES) {
      const name = `REST PATCH, ${body.name}, ${connections} connections`
      context.say(name)
      const durationS = context.quick ? 2 : 5
      const measure = (url: string) => () => load(url, body, connections, durationS)
      const [ours, theirs] = [measure(server.url), measure(`http://127.0.0.1:${baseline.port}`)]
      await ours()
      await theirs()
      const pairs = await pairsOf(context, { name, better: 'higher' }, 5, ours, theirs)
      results.push({
        name,
        unit: 'requests/s',
        mmsb: pairs.a,
        baseline: pairs.b,
        against: 'bare Fastify, nothing done',
        ratio: pairs.ratio,
        budget: { text: `>= ${BUDGET * 100} %`, met: pairs.ratio >= BUDGET },
      })
    }
  }
  await server.stop()
  await baseline.stop()
  return results
}

/** Requests per second; throws when a request is refused. */
async function load(
  url: string,
  { type, body }: Body,
  connections: number,
  durationS: number,
): Promise<number> {
  const result = await autocannon({
    url: `${url}/v1/pages/${PAGE}/data${typeof body === 'string' ? '' : '?offset=64'}`,
    method: 'PATCH',
    headers: { 'content-type': type },
    body,
    connections,
    duration: durationS,
  })
  const bad = result.non2xx + result.errors + result.timeouts
  if (bad > 0) throw new Error(`${bad} requests failed (${result.non2xx} refused)`)
  return result.requests.average
}
