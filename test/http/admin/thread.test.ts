/** The admin listener as the main thread has it: what it hears, asks for and reports; and its pulse. */
import { once } from 'node:events'
import { createServer } from 'node:net'
import type { Worker } from 'node:worker_threads'
import t, { type Test } from 'tap'
import { type AdminOptions, startAdmin } from '../../../src/http/admin/listener.js'
import { beat, newPulse, stalledMs } from '../../../src/http/admin/pulse.js'
import type { Health } from '../../../src/http/health.js'
import { ADMIN_BEAT_MS } from '../../../src/limits.js'
import { LimitGuard } from '../../../src/operator-limits.js'
import { sleep, until } from '../../lib/wait.js'

function mainThread() {
  const faults: string[] = []
  const main = {
    health: { state: 'recovering', percent: 1 } as Health,
    metrics: async (): Promise<string> => 'main 1\n',
  }
  const options: AdminOptions = {
    host: '127.0.0.1',
    port: 0,
    isInsecure: false,
    allowedOrigins: new Set(),
    limits: new LimitGuard().values,
    logLevel: 'silent',
    report: () => ({ health: () => main.health, metrics: () => main.metrics() }),
    onFault: ({ message }) => faults.push(message),
  }
  return { main, options, faults }
}

/** The listener, and the thread that it started. */
async function started(t: Test) {
  const all = mainThread()
  const worker = once(process, 'worker') as Promise<[Worker]>
  const admin = await startAdmin(all.options)
  t.teardown(() => admin.close())
  const get = async (path: string): Promise<string> =>
    (await fetch(`http://127.0.0.1:${admin.port}${path}`)).text()
  return { ...all, admin, worker: (await worker)[0], get }
}

t.test('it hears of each change, and asks for metrics', async (t) => {
  const { main, get, faults, admin, worker } = await started(t)
  t.match(JSON.parse(await get('/readyz')), { state: 'recovering', percent: 1 })
  for (const change of [
    { state: 'recovering', percent: 2 },
    { state: 'recovering', percent: 2, reason: 'replaying' },
    { state: 'failed', percent: 2, reason: 'replaying' },
  ] as const) {
    main.health = change
    const reason = 'reason' in change ? /replaying/ : /./
    const hasHeard = async (): Promise<boolean> => {
      const { state, percent, detail } = JSON.parse(await get('/readyz'))
      return state === change.state && reason.test(detail) && (percent ?? 2) === 2
    }
    await until(hasHeard, JSON.stringify(change))
  }
  t.match(await get('/metrics'), /^main 1$/m)
  main.metrics = async () => 'main 2\n'
  t.match(await get('/metrics'), /^main 2$/m, 'as they are now')
  t.same(faults, [])
  main.metrics = () => Promise.reject(new Error('no figures'))
  t.match(await get('/metrics'), /^main 2$/m, 'the last ones')
  t.same(faults, ['no figures'])
  main.metrics = async () => 'main 3\n'
  t.match(await get('/metrics'), /^main 3$/m)

  // A machine that is busy may hold a beat up, but not each of them.
  await sleep(4 * ADMIN_BEAT_MS)
  const held: number[] = []
  while (held.length < 50 && held.at(-1) !== 0) held.push(JSON.parse(await get('/livez')).stalledMs as number)
  t.equal(held.at(-1), 0, 'its event loop runs')

  worker.emit('error', new Error('odd'))
  t.same(faults.splice(1), ['odd'], 'a thread that ends by itself is a fault')
  const closed = admin.close()
  worker.emit('error', new Error('late'))
  await closed
  t.same(faults, ['no figures'], 'and one that was told to end is none')
  await t.rejects(get('/livez'))
})

t.test('metrics are sent when the state changes, before anybody asks', async (t) => {
  const { main, options } = mainThread()
  let reads = 0
  main.metrics = async () => `reads ${++reads}\n`
  const admin = await startAdmin(options)
  t.teardown(() => admin.close())
  t.equal(reads, 1)
  main.health = { state: 'recovering', percent: 50 }
  const get = async (): Promise<string> => (await fetch(`http://127.0.0.1:${admin.port}/startupz`)).text()
  await until(async () => (await get()).includes('"percent":50'), 'the progress')
  t.equal(reads, 1)
  main.health = { state: 'ready', percent: 50 }
  await until(async () => (await get()).includes('ready'), 'the state')
  t.equal(reads, 2)
})

t.test('it says nothing while nothing changes, and answers what was asked before it closes', async (t) => {
  const { main, admin, get, worker } = await started(t)
  const told = t.capture(worker, 'postMessage', worker.postMessage.bind(worker))
  const types = (): string[] => told().map(({ args }) => (args[0] as { type: string }).type)
  await sleep(3 * ADMIN_BEAT_MS)
  t.same(types(), [])
  let isAsked = false
  main.metrics = () => {
    isAsked = true
    return new Promise(() => {})
  }
  const answer = get('/metrics')
  await until(() => isAsked, 'the question')
  const closed = admin.close()
  t.match(await answer, /^main 1$/m)
  await closed
  t.same(types(), ['close'])
})

t.test('where it cannot listen it says why, and leaves no thread behind', async (t) => {
  const other = createServer()
  other.listen(0, '127.0.0.1')
  await once(other, 'listening')
  t.teardown(() => other.close())
  const { port } = other.address() as { port: number }
  const { options, faults } = mainThread()
  const worker = once(process, 'worker') as Promise<[Worker]>
  await t.rejects(startAdmin({ ...options, port }), { code: 'EADDRINUSE', message: /in use/ } as never)
  t.equal((await worker)[0].threadId, -1, 'it has ended')
  t.same(faults, [], 'its caller reports it')
})

t.test('a thread that ends before it listens', async (t) => {
  for (const how of ['error', 'exit'] as const) {
    const { options } = mainThread()
    process.once('worker', (worker: Worker) => {
      if (how === 'exit') void worker.terminate()
      else worker.emit('error', new Error('no memory'))
    })
    const message = how === 'exit' ? /^the thread ended with code \d$/ : 'no memory'
    await t.rejects(startAdmin(options), { message } as never)
  }
})

t.test('a pulse says how long its thread was held, beyond two beats', (t) => {
  let nowNs = 5_000_000_000n
  t.intercept(process.hrtime, 'bigint', { value: () => nowNs })
  const pulse = newPulse()
  t.equal(stalledMs(pulse), 0)
  nowNs += BigInt(2 * ADMIN_BEAT_MS) * 1_000_000n
  t.equal(stalledMs(pulse), 0)
  nowNs += 1_000_000n
  t.equal(stalledMs(pulse), 1)
  nowNs += 3_000_000_000n
  t.equal(stalledMs(pulse), 3_001)
  beat(pulse)
  t.equal(stalledMs(pulse), 0)
  t.end()
})
