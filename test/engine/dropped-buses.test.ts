/** Buses that are closed, or dropped without closing, give back memory, threads, descriptors and the lock. */
import { execFileSync } from 'node:child_process'
import t from 'tap'
import { moduleUrl, NODE_ARGS, ROOT } from '../lib/place.js'

const INDEX = moduleUrl('src/index.ts')

/** Runs a module in a process of its own, where `gc()` is there, and returns the JSON that it prints. */
function outcome(body: string): unknown {
  const source = `
    import { readdirSync } from 'node:fs'
    import { Bus } from ${JSON.stringify(INDEX)}
    const turn = () => new Promise((resolve) => setTimeout(resolve, 20))
    const held = () => ({
      rss: process.memoryUsage().rss,
      threads: readdirSync('/proc/self/task').length,
      descriptors: readdirSync('/proc/self/fd').length,
    })
    ${body}`
  const args = ['--expose-gc', ...NODE_ARGS, '--input-type=module', '--eval', source]
  return JSON.parse(execFileSync(process.execPath, args, { encoding: 'utf8', cwd: ROOT }))
}

t.test('1,000 buses that were opened and closed leave less than 100 MB', { timeout: 100_000 }, async (t) => {
  const [before, after, some, last] = outcome(`
    const one = async () => {
      const bus = await Bus.open({ backend: 'cpu', threads: 2 })
      await bus.create('a', { dtype: 'f64', shape: [1000] })
      await bus.derive('b', { op: 'map', inputs: { x: 'a' }, expr: 'x*2' })
      await bus.patch('a', { values: [1] })
      await bus.close()
    }
    // What the process needs once: code, caches, pools.
    for (let i = 0; i < 50; i++) await one()
    const before = held()
    for (let i = 0; i < 1000; i++) await one()
    const after = held()
    const refused = () => Bus.open({ threads: 2, dataDir: '/dev/null/data' }).catch(() => {})
    // Memory is in pieces at first, whatever is given back.
    for (let i = 0; i < 1000; i++) await refused()
    const some = held()
    for (let i = 0; i < 3000; i++) await refused()
    console.log(JSON.stringify([before, after, some, held()]))`) as {
    rss: number
    threads: number
    descriptors: number
  }[]
  t.ok(after!.rss - before!.rss < 100e6, `${Math.round((after!.rss - before!.rss) / 1e6)} MB`)
  // One that keeps its native memory keeps 40 kB.
  const refusedBytes = last!.rss - some!.rss
  t.ok(refusedBytes < 70e6, `3,000 that were refused leave ${Math.round(refusedBytes / 1e6)} MB`)
  t.equal(after!.descriptors, before!.descriptors)
  t.equal(after!.threads, before!.threads)
})

t.test('a bus on disk that was dropped is closed, and its folder can be opened again', async (t) => {
  const result = outcome(`
    const dataDir = ${JSON.stringify(t.testdir())}
    const notices = []
    const drop = async () => {
      const bus = await Bus.open({ dataDir, onNotice: ({ message }) => notices.push(message) })
      await bus.create('a', { dtype: 'f64', shape: [8] })
    }
    // The first one opens what the process needs once.
    const first = await Bus.open({ dataDir })
    await first.close()
    const before = held()
    await drop()
    const open = held()
    for (let i = 0; i < 300 && held().descriptors > before.descriptors; i++) { gc(); await turn() }
    const after = held()
    const again = await Bus.open({ dataDir })
    const epoch = again.epoch
    await again.close()
    console.log(JSON.stringify({ before, open, after, epoch, notices }))`) as {
    before: { threads: number; descriptors: number }
    open: { threads: number; descriptors: number }
    after: { threads: number; descriptors: number }
    epoch: number
    notices: string[]
  }
  t.ok(result.open.threads > result.before.threads, 'a bus on disk has threads')
  t.equal(result.after.descriptors, result.before.descriptors)
  t.equal(result.after.threads, result.before.threads)
  t.equal(result.epoch, 1)
  t.match(result.notices.join(), /dropped without close/)
})
