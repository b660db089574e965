/** The routes, flags and bytes in the documentation match the code. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import {
  STREAM_BYTES_IN_FLIGHT_MAX,
  STREAM_QUEUE_MAX_BYTES,
  STREAM_TRANSACTIONS_IN_FLIGHT_MAX,
} from '../../../src/limits.js'
import { OPERATOR_LIMITS } from '../../../src/operator-limits.js'
import { STREAM_MESSAGE_MAX_BYTES } from '../../../src/wire/limits.js'
import { Process } from '../../cli/process.js'
import { documentPaths } from '../../docs/markdown.js'
import { ROOT } from '../../lib/place.js'
import { Client } from '../../stream/helpers.js'
import { listen, serve } from '../helpers.js'

const SUBSCRIPTIONS_MAX = OPERATOR_LIMITS.maxSubscriptionsPerConnection.standard

const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8')
const DOCUMENTS = ['README.md', ...documentPaths()]

t.test('every route a document names is there', async (t) => {
  const { call } = await serve(t)
  const { paths } = (await call('GET', '/openapi.json')).body as {
    paths: Record<string, Record<string, object>>
  }
  // A document may write a page or function name in place of a route's parameter.
  const routes = Object.entries(paths).map(([path, methods]) => ({
    methods,
    pattern: new RegExp(`^${path.replace(/\{\w+\}/g, '(\\{\\w+\\}|\\w+)')}$`),
  }))
  let count = 0
  for (const document of DOCUMENTS) {
    for (const [text, method, path] of read(document).matchAll(
      /\b(GET|PUT|POST|PATCH|DELETE) (\/v1\/[\w/{}]+)/g,
    )) {
      const found = routes.some(
        ({ pattern, methods }) => pattern.test(path!) && method!.toLowerCase() in methods,
      )
      t.ok(found, `${document}: ${text}`)
      count++
    }
  }
  t.ok(count > 0)
})

t.test('every flag of `mmsb serve` a document names is there', async (t) => {
  const help = new Process(['serve', '--help'])
  t.equal(await help.exited, 0)
  for (const document of DOCUMENTS) {
    for (const [, flags] of read(document).matchAll(/mmsb(?:\.js)? serve ([^`\n]*)/g)) {
      for (const [flag] of flags!.matchAll(/--[a-z-]+/g))
        t.ok(help.stdout.includes(`  ${flag}`), `${document}: ${flag}`)
    }
  }
})

t.test('docs/guide/STREAM.md: its example is taken, its limits are those of the code', async (t) => {
  const text = read('docs/guide/STREAM.md')
  const served = await serve(t)
  const { port } = await listen(served)
  await served.bus.create('map', { dtype: 'f32', shape: [2048, 2048] })
  const client = await Client.open(port)
  t.teardown(() => client.socket.terminate())
  client.send(/```json\n(.*)\n```/.exec(text)![1]!)
  const snapshot = await client.next(({ type }) => type === 'snapshot')
  t.same(snapshot.pages!.map!.shape, [256, 256])
  const mib = (bytes: number) => `${bytes / 1024 ** 2} MiB`
  for (const said of [
    `${STREAM_TRANSACTIONS_IN_FLIGHT_MAX.toLocaleString('en')} transactions or ${mib(STREAM_BYTES_IN_FLIGHT_MAX)} of a writer are not committed`,
    `${mib(STREAM_QUEUE_MAX_BYTES)} of answers wait for a client`,
    `when ${mib(STREAM_QUEUE_MAX_BYTES)} are queued for it`,
    `a connection with ${SUBSCRIPTIONS_MAX.toLocaleString('en')} subscriptions`,
    `larger than ${mib(STREAM_MESSAGE_MAX_BYTES)} |`,
  ])
    t.ok(text.includes(said), said)
})
