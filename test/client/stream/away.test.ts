/**
 * A server that is away for a while: the client tries again in one loop, whatever hangs on its connection.
 */
import t from 'tap'
import { sleep, until } from '../../lib/wait.js'
import { started } from '../started.js'

const MIRRORS = 100
const AWAY_MS = 3_000
/**
 * Delays double from 50 ms to 2 s, of which a random part is waited, so attempts in 3 s are few. Each is one
 * handshake and one request that finds out why it failed.
 */
const ATTEMPTS_MAX = 40

for (const protocol of ['binary', 'json'] as const) {
  t.test(`${protocol}: 100 mirrors retry as one, and those that begin meanwhile too`, async (t) => {
    const { bus, proxy, client } = await started(t)
    const names = Array.from({ length: MIRRORS }, (_, i) => `p${i}`)
    await bus.createMany(names.map((name) => ({ name, definition: { dtype: 'f32', shape: [4] } })))
    const made = client({ protocol })
    const mirrors = await Promise.all(names.map((name) => made.mirror(name)))
    const before = proxy.accepted
    proxy.isDown = true
    proxy.cut()
    await until(() => mirrors.every(({ isConnected }) => !isConnected), 'the server is away')
    for (const name of names) await bus.patch(name, { values: [7] })
    const begun = names.map((name) => made.mirror(name))
    await sleep(AWAY_MS)
    t.ok(proxy.refused > 2 && proxy.refused <= ATTEMPTS_MAX, `${proxy.refused} attempts while it was away`)
    proxy.isDown = false
    await Promise.all(mirrors.map((mirror) => mirror.until(bus.epoch)))
    mirrors.push(...(await Promise.all(begun)))
    t.ok(mirrors.every(({ values }) => values[0] === 7))
    t.comment(`${proxy.accepted - before} connections afterwards`)
    t.ok(proxy.accepted - before <= 5, 'one connection, and those of requests')
  })
}

t.test('requests wait for the connection that looks for the server, and go on with it', async (t) => {
  const { bus, proxy, client } = await started(t)
  const names = Array.from({ length: MIRRORS }, (_, i) => `p${i}`)
  await bus.createMany(names.map((name) => ({ name, definition: { dtype: 'f32', shape: [4], fill: 7 } })))
  const made = client()
  const mirror = await made.mirror('p0')
  proxy.isDown = true
  proxy.cut()
  await until(() => !mirror.isConnected, 'the server is away')
  const refused = proxy.refused
  const reads = names.map((name) => made.read(name))
  const late = made.read('p1', { timeoutMs: 500 })
  await t.rejects(late, { code: 'NETWORK' })
  await sleep(AWAY_MS)
  const tried = proxy.refused - refused
  t.ok(tried >= MIRRORS && tried <= MIRRORS + ATTEMPTS_MAX, `${tried} attempts while it was away`)
  proxy.isDown = false
  for (const { values } of await Promise.all(reads)) t.equal(values[0], 7)
  await mirror.until(bus.epoch)
  // Nobody looks for the server once the mirror has ended: requests try by themselves.
  proxy.isDown = true
  proxy.cut()
  await until(() => !mirror.isConnected, 'the server is away again')
  const alone = made.read('p2')
  await sleep(50)
  mirror.close()
  await sleep(200)
  proxy.isDown = false
  t.equal((await alone).values[0], 7)
})
