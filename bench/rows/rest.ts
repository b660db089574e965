/** Durable REST PATCH under autocannon, beside the same route on a bare Fastify that does nothing. */
import { join } from 'node:path'
import { pairsOf } from '../lib/pairs.js'
import { createPage, DENSE, JSON_VALUES, patchLoad } from '../lib/patch-load.js'
import { startBaseline } from '../lib/process.js'
import { startServer } from '../lib/tree.js'
import type { Context, Result } from '../lib/types.js'

const BUDGET = 0.85
const CONNECTIONS = [10, 100]

export async function rest(context: Context): Promise<Result[]> {
  const server = await startServer({ dataDir: join(context.dir, 'bus') })
  const baseline = await startBaseline('fastify')
  await createPage(server.url)
  const results: Result[] = []
  for (const connections of CONNECTIONS) {
    for (const body of [DENSE, JSON_VALUES]) {
      const name = `REST PATCH, ${body.name}, ${connections} connections`
      context.say(name)
      const durationS = context.quick ? 2 : 5
      const measure = (url: string) => async () =>
        (await patchLoad(url, body, { connections, durationS })).perSecond
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
