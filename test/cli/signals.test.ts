/** Signals and restarts of the real server. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import t from 'tap'
import { plainEnvironment } from '../lib/environment.js'
import { until } from '../lib/wait.js'
import { Client } from '../stream/helpers.js'
import { call, ENTRY, serve } from './process.js'

/** Sends SIGTERM to its own process in the moment in which the server says where it listens. */
const AT_ONCE = `
  import fs from 'node:fs'
  const { writeSync } = fs
  fs.writeSync = (...args) => {
    const written = writeSync(...args)
    if (String(args[1]).includes('Server listening at')) process.kill(process.pid, 'SIGTERM')
    return written
  }`

t.test('SIGTERM in the moment in which the server begins to listen', async (t) => {
  const options = ['--import', `data:text/javascript,${encodeURIComponent(AT_ONCE)}`]
  const server = spawn(
    process.execPath,
    [...options, ENTRY, 'serve', '--port', '0', '--data-dir', t.testdir()],
    { stdio: 'ignore', env: plainEnvironment() },
  )
  t.same(await once(server, 'exit'), [0, null])
})

t.test(
  'SIGTERM: requests in flight are answered, WebSockets are closed with 1001, nothing is lost',
  async (t) => {
    const dataDir = t.testdir()
    const server = serve(t, ['--data-dir', dataDir])
    const url = await server.ready()
    await call(url, 'PUT', '/v1/pages/a', { dtype: 'i32', shape: [4] })
    const client = await Client.open(Number(new URL(url).port))
    await client.ask({ type: 'subscribe', id: 's', pages: ['*'] })
    const closed = once(client.socket, 'close')
    const count = 200
    for (let i = 0; i < count; i++) {
      client.send({ type: 'transaction', id: `t${i}`, ops: [{ page: 'a', values: [1], merge: 'add' }] })
    }
    const writes = Array.from({ length: 20 }, () =>
      call(url, 'PATCH', '/v1/pages/a/data', { offset: 1, values: [1], merge: 'add' }).catch(() => null),
    )
    await client.next((m) => m.type === 'ack')
    const code = server.end('SIGTERM')
    t.equal((await closed)[0], 1001)
    t.equal(await code, 0)
    const acked = client.messages.filter((m) => m.type === 'ack').length
    const answered = (await Promise.all(writes)).filter(
      (answer) => answer !== null && 'epoch' in answer,
    ).length
    const again = serve(t, ['--data-dir', dataDir])
    const restarted = await again.ready()
    const { pages } = (await call(restarted, 'GET', '/v1/read?pages=a')) as {
      pages: { a: { values: number[] } }
    }
    t.ok(pages.a.values[0]! >= acked, `${acked} acknowledged, ${pages.a.values[0]} there`)
    t.ok(pages.a.values[1]! >= answered)
    t.equal(await again.end(), 0)
  },
)

t.test('a second signal ends the server at once', async (t) => {
  const server = serve(t, ['--data-dir', t.testdir()])
  const url = await server.ready()
  const client = await Client.open(Number(new URL(url).port))
  client.socket.pause()
  server.child.kill('SIGTERM')
  await until(() => server.stderr.includes('"stopping"'), 'the first signal')
  t.equal(await server.end('SIGINT'), 130)
  client.socket.terminate()
})

t.test('SIGKILL and restart: the same epoch, digest and bytes', async (t) => {
  const dataDir = t.testdir()
  let before: unknown
  for (let round = 0; round < 3; round++) {
    const server = serve(t, ['--data-dir', dataDir])
    const url = await server.ready()
    const status = async () => {
      const { epoch, digest, pages } = await call(url, 'GET', '/v1/status')
      return { epoch, digest, pages, data: await call(url, 'GET', '/v1/read?pages=a,b') }
    }
    if (round === 0) {
      await call(url, 'PUT', '/v1/pages/a', { dtype: 'f64', shape: [8] })
      await call(url, 'PUT', '/v1/pages/b', { derive: { op: 'map', inputs: { x: 'a' }, expr: 'sqrt(x)' } })
    } else {
      t.same(await status(), before, `round ${round}`)
    }
    for (let i = 0; i < 20; i++)
      await call(url, 'PATCH', '/v1/pages/a/data', { offset: i % 8, values: [round + i / 7] })
    if (round === 1) t.match(await call(url, 'POST', '/v1/checkpoints'), { epoch: Number })
    before = await status()
    t.equal(await server.end('SIGKILL'), 'SIGKILL')
  }
})
