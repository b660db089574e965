/** Graph, status, statistics, checkpoints, health, metrics. */
import t from 'tap'
import { isProblem, SOURCE, serve } from '../helpers.js'

t.test('the graph: JSON, dot, mermaid', async (t) => {
  const { call } = await serve(t)
  t.same((await call('GET', '/v1/graph')).body, { nodes: [], edges: [] })
  await call('PUT', '/v1/pages/a', SOURCE)
  await call('PUT', '/v1/pages/b.x:1-2', { derive: { op: 'map', inputs: { p: 'a' }, expr: 'p*2' } })
  const json = await call('GET', '/v1/graph')
  t.same(json.body, {
    nodes: [
      { name: 'a', kind: 'source', level: 0 },
      { name: 'b.x:1-2', kind: 'derived', level: 1, op: 'map' },
    ],
    edges: [{ from: 'a', to: 'b.x:1-2', input: 'p' }],
  })
  t.same((await call('GET', '/v1/graph?format=json')).body, json.body)
  const dot = await call('GET', '/v1/graph?format=dot')
  t.match(dot.headers['content-type'], 'text/vnd.graphviz')
  t.match(String(dot.raw), /^digraph mmsb \{[\s\S]*"a" -> "b\.x:1-2" \[label="p"\];\n\}\n$/)
  const mermaid = await call('GET', '/v1/graph?format=mermaid')
  t.equal(String(mermaid.raw), 'flowchart LR\n  n0["a"]\n  n1("b.x:1-2<br/>map")\n  n0 -->|"p"| n1\n')
  isProblem(t, await call('GET', '/v1/graph?format=xml'), 'INVALID_REQUEST')
})

t.test('status', async (t) => {
  const { call, bus } = await serve(t)
  const { status, body } = await call('GET', '/v1/status')
  t.equal(status, 200)
  t.same(Object.keys(body).sort(), [
    'backend',
    'digest',
    'epoch',
    'fsync',
    'history',
    'minEpoch',
    'pages',
    'readOnly',
    'state',
    'uptimeMs',
    'version',
  ])
  t.match(body, {
    version: /^\d+\.\d+\.\d+/,
    history: bus.historyId,
    epoch: 0,
    state: 'ready',
    backend: 'cpu',
    pages: 0,
    fsync: 'always',
    minEpoch: 0,
  })
  await call('PUT', '/v1/pages/a', SOURCE)
  t.match((await call('GET', '/v1/status')).body, { epoch: 1, pages: 1, digest: bus.status().digest })
})

const DURATIONS = { count: Number, p50: Number, p99: Number, max: Number }

t.test('statistics', async (t) => {
  const { call } = await serve(t)
  await call('PUT', '/v1/pages/a', SOURCE)
  await call('PUT', '/v1/pages/b', { derive: { op: 'copy', inputs: { x: 'a' } } })
  await call('PATCH', '/v1/pages/a/data', { values: [1] })
  await call('PATCH', '/v1/pages/a/data', { indices: [1], values: [1] })
  const { body } = await call('GET', '/v1/stats')
  t.match(body, {
    epoch: 4,
    pages: { count: 2, source: 1, derived: 1, bytes: 32, byLocation: { cpu: { count: 2, bytes: 32 } } },
    deltas: { dense: 1, sparse: 1, masked: 0 },
    graph: { nodes: 2, edges: 1, depth: 1 },
    timings: { commit: DURATIONS, append: DURATIONS, execute: DURATIONS, publish: DURATIONS },
    queue: { transactions: 0, bytes: 0 },
    subscriptions: { connections: 0, subscriptions: 0 },
  })
  for (const stage of Object.values(body.timings as object)) {
    const { count, ...us } = stage as { count: number }
    t.same(Object.keys(us), ['p50', 'p99', 'max'])
  }
  t.equal(body.log, null, 'this bus lives in memory')
})

t.test('checkpoints of a bus with a data folder', async (t) => {
  const { call } = await serve(t, { dataDir: t.testdir() })
  await call('PUT', '/v1/pages/a', SOURCE)
  t.same((await call('GET', '/v1/checkpoints')).body, { checkpoints: [] })
  const made = await call('POST', '/v1/checkpoints')
  t.equal(made.status, 201)
  t.match(made.body, { epoch: 1, pages: 1, bytes: 16, newBytes: 0, ms: Number }, 'zeros take no room')
  t.same((await call('GET', '/v1/checkpoints')).body, { checkpoints: [made.body] })
  await call('PATCH', '/v1/pages/a/data', { values: [1] })
  t.match((await call('POST', '/v1/checkpoints')).body, { epoch: 2, bytes: 16, newBytes: 16 }, 'no overhead')
  const { log } = (await call('GET', '/v1/stats')).body as { log: { appendUs: Record<string, number> } }
  t.match(log, { bytes: Number, segments: Number, appendUs: DURATIONS })
  const { p50, p99, max } = log.appendUs
  t.ok(0 < p50! && p50! <= p99! && p99! <= max! && max! < 60e6, 'microseconds')
  isProblem(t, await call('POST', '/v1/checkpoints?now=1'), 'INVALID_REQUEST')
})

t.test('checkpoints of a bus without one', async (t) => {
  const { call } = await serve(t)
  isProblem(t, await call('POST', '/v1/checkpoints'), 'INVALID_REQUEST')
  t.same((await call('GET', '/v1/checkpoints')).body, { checkpoints: [] })
})

t.test('alive and ready', async (t) => {
  const { call, bus } = await serve(t)
  t.same((await call('GET', '/livez')).body, { alive: true })
  t.same((await call('GET', '/readyz')).body, { ready: true, epoch: 0, readOnly: false })
  await bus.close()
  const down = await call('GET', '/readyz')
  isProblem(t, down, 'BUS_FAILED')
  t.equal(down.body.detail, 'the server is not ready', 'the reason is not for everybody')
  t.equal((await call('GET', '/livez')).status, 200, 'the process answers still')
  t.match(String((await call('GET', '/metrics')).raw), /^mmsb_up 0$/m)
  isProblem(t, await call('GET', '/v1/pages'), 'BUS_FAILED')
})

t.test('metrics', async (t) => {
  const { call } = await serve(t)
  await call('PUT', '/v1/pages/a', SOURCE)
  await call('PATCH', '/v1/pages/a/data', { values: [1] })
  for (let scrape = 0; scrape < 2; scrape++) {
    const { status, headers, raw } = await call('GET', '/metrics')
    t.equal(status, 200)
    t.match(headers['content-type'], /^text\/plain; version=0\.0\.4/)
    const text = String(raw)
    for (const line of [
      'mmsb_up 1',
      'mmsb_epoch 2',
      'mmsb_pages{kind="source"} 1',
      'mmsb_deltas_total{kind="dense"} 1',
      'mmsb_page_bytes{location="cpu"} 16',
    ]) {
      t.ok(text.split('\n').includes(line), `${line}, scrape ${scrape}`)
    }
    t.match(text, /^process_cpu_seconds_total /m)
  }
})
