/**
 * A client that knows one history and comes to another: after a restore, a repair, a cut and a crash that
 * lost epochs, the same epoch has other bytes, and every door says so.
 */
import { once } from 'node:events'
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { crc32c } from '../../src/ffi/library.js'
import { Bus } from '../../src/index.js'
import { inspectLog } from '../../src/store/log/log.js'
import { backupFolder } from '../../src/store/offline/backup.js'
import { checkFolder } from '../../src/store/offline/check.js'
import { cutFolder, planCut } from '../../src/store/offline/cut.js'
import { repairLog } from '../../src/store/offline/repair.js'
import { restoreFolder } from '../../src/store/offline/restore.js'
import { realDisk } from '../../src/store/os/disk.js'
import { serve as serveProcess } from '../cli/process.js'
import { folder } from '../lib/folder.js'
import { decodeMessages } from '../stream/binary.js'
import { Client } from '../stream/helpers.js'
import { isProblem, listen, type Method, serve } from './helpers.js'

const OTHER = `${'0'.repeat(32)}.${'1'.repeat(16)}`
const EPOCHS = 5
/** The newest epoch that both histories share. */
const SHARED = 4

t.test('every route judges the history that a request names', async (t) => {
  const { bus, call } = await serve(t, { dataDir: folder(t) })
  await bus.create('a', { dtype: 'u8', shape: [1] })
  const { paths } = (await call('GET', '/openapi.json')).body as {
    paths: Record<string, Record<string, { parameters?: { name: string; in: string }[] }>>
  }
  const named: string[] = []
  for (const [route, methods] of Object.entries(paths)) {
    const url = route.replace('{name}', 'a').replace('{epoch}', '1')
    for (const [method, { parameters = [] }] of Object.entries(methods)) {
      const verb = method.toUpperCase() as Method
      const header = await call(verb, `${url}${NEEDED[url] ?? ''}`, BODIES[`${verb} ${url}`], {
        'mmsb-history': OTHER,
      })
      isProblem(t, header, 'HISTORY_CHANGED', `${verb} ${route}, header`)
      t.equal(header.body.history, bus.historyId)
      if (!parameters.some(({ name, in: place }) => name === 'history' && place === 'query')) continue
      named.push(`${verb} ${route}`)
      const mark = NEEDED[url] === undefined ? '?' : '&'
      const query = (history: string): string => `${url}${NEEDED[url] ?? ''}${mark}history=${history}`
      const refused = await call(verb, query(OTHER))
      isProblem(t, refused, 'HISTORY_CHANGED', `${verb} ${route}, query`)
      t.equal(refused.body.history, bus.historyId)
      // Server-sent events do not end, and a WebSocket wants an upgrade.
      if (route === '/v1/events' || route === '/v1/stream') continue
      const present = await call(verb, query(bus.historyId))
      t.ok(present.status < 300, `${verb} ${route}: ${JSON.stringify(present.body)}`)
      t.equal(present.headers['mmsb-history'], bus.historyId)
    }
  }
  t.same(named.sort(), [
    'GET /v1/diff',
    'GET /v1/epochs',
    'GET /v1/epochs/{epoch}',
    'GET /v1/events',
    'GET /v1/pages/{name}/data',
    'GET /v1/pages/{name}/history',
    'GET /v1/read',
    'GET /v1/stream',
  ])
})

/** What routes need in their query, and in their body. */
const NEEDED: Readonly<Record<string, string>> = {
  '/v1/diff': '?from=0',
  '/v1/events': '?pages=a',
  '/v1/read': '?pages=a',
}
const BODIES: Readonly<Record<string, unknown>> = {
  'PUT /v1/pages/a': { dtype: 'u8', shape: [1] },
  'POST /v1/pages': { pages: [{ name: 'b', dtype: 'u8', shape: [1] }] },
  'PATCH /v1/pages/a/data': { values: [1] },
  'PUT /v1/pages/a/data': { values: [1] },
  'POST /v1/transactions': { ops: [{ page: 'a', values: [1] }] },
  'POST /v1/whatif': { ops: [], read: ['a'] },
  'PUT /v1/functions/a': { params: ['x'], expr: 'x' },
}

/** What a client remembers. */
interface Remembered {
  readonly history: string
  readonly etag: string
}

/** Writes epochs, the last of which the new history will not have; a durable reader has seen all of them. */
async function writeFirst(bus: Bus): Promise<void> {
  await bus.create('a', { dtype: 'u8', shape: [1] })
  while (bus.epoch < EPOCHS) await bus.patch('a', { values: [bus.epoch] })
  await bus.cursors?.define('reader', ['a'], EPOCHS)
}

/** Serves a new folder, then closes it. */
async function first(t: Test, dataDir: string): Promise<Remembered> {
  const { bus, server, call } = await serve(t, { dataDir })
  await writeFirst(bus)
  const { headers } = await call('GET', '/v1/pages/a/data')
  await server.close()
  await bus.close()
  return { history: bus.historyId, etag: String(headers.etag) }
}

/** The same epoch number has other bytes on the server at `port` now: every door must say so. */
async function isTold(
  t: Test,
  port: number,
  { history, etag }: Remembered,
  hasCursor: boolean,
): Promise<void> {
  const url = `http://127.0.0.1:${port}`
  const ask = async (
    method: string,
    path: string,
    headers: Record<string, string> = {},
    values?: number[],
  ) => {
    const json = {
      body: JSON.stringify({ values }),
      headers: { 'content-type': 'application/json', ...headers },
    }
    const answer = await fetch(`${url}${path}`, { method, ...(values === undefined ? { headers } : json) })
    const body = answer.status === 304 ? {} : ((await answer.json()) as Record<string, unknown>)
    return { status: answer.status, tag: answer.headers.get('etag'), body }
  }
  const status = (await ask('GET', '/v1/status')).body
  const present = status.history as string
  t.not(present, history)
  t.equal(status.epoch, SHARED)
  t.match((await ask('PATCH', '/v1/pages/a/data', { 'if-match': etag }, [99])).body, {
    status: 412,
    code: 'PRECONDITION_FAILED',
  })
  t.equal((await ask('PATCH', '/v1/pages/a/data', { 'if-match': `"v${SHARED}"` }, [100])).status, 200)
  t.match(
    (await ask('PATCH', '/v1/pages/a/data', { 'if-match': etag }, [99])).status,
    412,
    'the same version',
  )
  const json = { accept: 'application/json' }
  const read = await ask('GET', '/v1/pages/a/data', { ...json, 'if-none-match': etag })
  t.match([read.status, read.body.version, read.body.values], [200, EPOCHS, [100]])
  const bare = await ask('GET', '/v1/pages/a/data', { ...json, 'if-none-match': `"v${EPOCHS}"` })
  t.equal(bare.status, 200, 'a version alone names no history')
  t.equal((await ask('GET', '/v1/pages/a/data', { ...json, 'if-none-match': read.tag! })).status, 304)
  const changed = { status: 409, code: 'HISTORY_CHANGED', history: present }
  for (const path of [
    `/v1/pages/a/data?epoch=${EPOCHS}&history=${history}`,
    `/v1/read?pages=a&epoch=${EPOCHS}&history=${history}`,
    `/v1/epochs/${EPOCHS}?history=${history}`,
    `/v1/epochs?from=${EPOCHS}&history=${history}`,
    `/v1/events?pages=a&from=${EPOCHS}&history=${history}`,
  ]) {
    t.match((await ask('GET', path)).body, changed, path)
  }
  // A browser resumes under the address it was given, and says the last epoch it saw.
  const seen = { 'last-event-id': String(EPOCHS) }
  t.match((await ask('GET', `/v1/events?pages=a&history=${history}`, seen)).body, changed, 'events resume')
  const again = { 'mmsb-history': history }
  t.match(
    (await ask('PATCH', '/v1/pages/a/data', again, [7])).body,
    changed,
    'a write that names its history',
  )

  for (const protocol of ['mmsb.v1.json', 'mmsb.v1.bin']) {
    const refused = new WebSocket(`ws://127.0.0.1:${port}/v1/stream?history=${history}`, protocol)
    const [, response] = await once(refused, 'unexpected-response')
    t.equal(response.statusCode, 409, `${protocol}: the handshake`)
    t.equal(response.headers['mmsb-history'], present)
    refused.on('error', () => {}).terminate()
    const client = await Client.open(port, [protocol])
    t.teardown(() => client.socket.terminate())
    const answerTo = async (message: Record<string, unknown>): Promise<Record<string, unknown>> => {
      const id = `${client.binary.length + client.messages.length}`
      const answers = (): unknown[] => [...client.messages, ...client.binary.flatMap(decodeMessages)]
      const isAnswer = (answer: unknown): boolean => (answer as { id: string }).id === id
      client.send({ type: 'subscribe', id, pages: ['a'], ...message })
      await client.until(() => answers().some(isAnswer), `answer to ${id}`)
      return answers().find(isAnswer) as Record<string, unknown>
    }
    const told = { type: 'error', code: 'HISTORY_CHANGED' }
    t.match(await answerTo({ from: EPOCHS, history }), told, `${protocol}: an epoch to resume from`)
    t.match(await answerTo({ from: 'snapshot', history: present }), { type: 'subscribed', history: present })
    if (!hasCursor || protocol !== 'mmsb.v1.json') continue
    t.match(await answerTo({ durable: 'reader' }), told, 'a cursor of the other history')
    t.match(await answerTo({ durable: 'reader', history }), told)
    const anew = await answerTo({ durable: 'reader', history: present, from: 'snapshot' })
    t.match(
      anew,
      { type: 'subscribed', history: present },
      'the reader starts over when it names the new one',
    )
    await client.next(({ type, id }) => type === 'snapshot' && id === anew.id)
  }
}

const access = { disk: realDisk(), crc32c }
const segment = (dir: string): string => path.join(dir, 'log', fs.readdirSync(path.join(dir, 'log'))[0]!)

/** Where the record of the newest epoch begins. */
function newestRecord(dir: string): number {
  let at = 0
  inspectLog({ ...access, logDir: path.join(dir, 'log') }, (_segment, { offset }) => {
    at = offset
  })
  return at
}

t.test('after a restore', async (t) => {
  const [dataDir, backup, restored] = [
    folder(t),
    path.join(folder(t), 'backup'),
    path.join(folder(t), 'data'),
  ]
  const writer = await Bus.open({ dataDir, backend: 'cpu', threads: 1 })
  await writer.create('a', { dtype: 'u8', shape: [1] })
  while (writer.epoch < SHARED) await writer.patch('a', { values: [writer.epoch] })
  await backupFolder(access, dataDir, backup)
  await writer.close()
  const { bus, server, call } = await serve(t, { dataDir })
  await bus.patch('a', { values: [EPOCHS] })
  const etag = String((await call('GET', '/v1/pages/a/data')).headers.etag)
  await server.close()
  await bus.close()
  await restoreFolder(access, backup, restored)
  const { port } = await listen(await serve(t, { dataDir: restored }))
  await isTold(t, port, { history: bus.historyId, etag }, false)
})

t.test('after a repair', async (t) => {
  const dataDir = folder(t)
  const known = await first(t, dataDir)
  const fd = fs.openSync(segment(dataDir), 'r+')
  fs.writeSync(fd, Buffer.from('damage'), 0, 6, newestRecord(dataDir) + 20)
  fs.closeSync(fd)
  const report = checkFolder({ ...access, dir: dataDir })
  t.ok(report.repair)
  await repairLog({ ...access, dir: dataDir }, report)
  const { port } = await listen(await serve(t, { dataDir }))
  await isTold(t, port, known, true)
})

t.test('after a cut', async (t) => {
  const dataDir = folder(t)
  const known = await first(t, dataDir)
  const place = { ...access, dir: dataDir }
  await cutFolder(place, planCut(place, SHARED))
  const { port } = await listen(await serve(t, { dataDir }))
  await isTold(t, port, known, true)
})

t.test('after a crash that lost an epoch under --fsync off', async (t) => {
  const dataDir = folder(t)
  const flags = [
    '--data-dir',
    dataDir,
    '--backend',
    'cpu',
    '--threads',
    '1',
    '--log-level',
    'silent',
    '--fsync',
    'off',
  ]
  const crashing = serveProcess(t, flags)
  const url = await crashing.ready()
  const send = (method: string, at: string, body: unknown): Promise<Response> =>
    fetch(`${url}${at}`, {
      method,
      body: JSON.stringify(body),
      headers: { 'content-type': 'application/json' },
    })
  await send('PUT', '/v1/pages/a', { dtype: 'u8', shape: [1] })
  for (let i = 1; i < EPOCHS; i++) await send('PATCH', '/v1/pages/a/data', { values: [i] })
  const client = await Client.open(Number(new URL(url).port))
  await client.ask({ type: 'subscribe', id: 's', pages: ['a'], durable: 'reader' })
  const { history } = (await (await fetch(`${url}/v1/status`)).json()) as { history: string }
  const etag = (await fetch(`${url}/v1/pages/a/data`)).headers.get('etag')!
  await crashing.end('SIGKILL')
  client.socket.terminate()
  // The machine had not written the newest record yet.
  const at = newestRecord(dataDir)
  const fd = fs.openSync(segment(dataDir), 'r+')
  fs.writeSync(fd, Buffer.alloc(fs.fstatSync(fd).size - at), 0, undefined, at)
  fs.closeSync(fd)
  const restarted = serveProcess(t, flags)
  await isTold(t, Number(new URL(await restarted.ready()).port), { history, etag }, true)
})
