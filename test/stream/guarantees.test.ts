/**
 * The six guarantees of a watch, each checked on the messages of readers under load: steady readers, readers
 * that lose their connection and resume, readers that are slow until they overflow; from the log, from memory
 * and live. MMSB_STREAM_CLIENTS and MMSB_STREAM_SECONDS set their number and the duration.
 */
import t from 'tap'
import { patternSet } from '../../src/state/pattern.js'
import { hubOf } from '../../src/stream/hub.js'
import { listen, type Served, serve } from '../http/helpers.js'
import { randomFrom } from '../lib/draw.js'
import { folder } from '../lib/folder.js'
import { digestOf, Follower, type Habit } from '../support/follower.js'
import { Client, type Message } from './helpers.js'

const CLIENTS = Number(process.env.MMSB_STREAM_CLIENTS ?? 18)
const SECONDS = Number(process.env.MMSB_STREAM_SECONDS ?? 8)
const PATTERNS = [
  ['m*', 'n', 't.*', 'quiet'],
  ['m', 'm.*'],
  ['m.max', 'n', 't.*'],
  ['n', 'fat'],
] as const
const FAT_ELEMENTS = 64 * 1024
/** Pages that are compared whole at every epoch of a mirror. */
const COMPARED = ['m', 'm.rows', 'm.max', 'n']

/** Per epoch, the published changes in message form, and the digests of the compared pages. */
class Record {
  readonly epochs = new Map<number, { readonly page: string; readonly digest: string }[]>()
  readonly digests = new Map<string, string>()

  constructor({ bus }: Served) {
    bus.onCommit(({ epoch, changes }) => {
      const inOrder = [
        ...changes.filter(({ kind }) => kind === 'deleted'),
        ...changes.filter(({ kind }) => kind !== 'deleted'),
      ]
      const told = inOrder.map(({ page, pageId, kind, dtype, shape, ranges }) => {
        const pairs = Array.from({ length: ranges.length / 2 }, (_, i) => [ranges[2 * i], ranges[2 * i + 1]])
        const head = kind === 'created' ? { page, kind, dtype, shape } : { page, kind }
        const values = kind === 'deleted' ? [] : [...(bus.gather(pageId, ranges) as Float32Array)]
        return { page, digest: digestOf({ ...head, ranges: pairs, values }) }
      })
      this.epochs.set(epoch, told)
      for (const page of COMPARED) {
        if (!bus.hasPage(page)) continue
        const { id, elements } = bus.peek(page)
        this.digests.set(
          `${epoch} ${page}`,
          digestOf([...(bus.gather(id, Uint32Array.of(0, elements)) as Float32Array)]),
        )
      }
    })
  }

  /** The epochs after `from` that change one of these pages, and the pages they change. */
  told(pages: readonly string[], from: number): [epoch: number, pages: string][] {
    const { matches } = patternSet(pages)
    return [...this.epochs]
      .filter(([epoch]) => epoch > from)
      .map(([epoch, changes]): [number, string] => [
        epoch,
        changes
          .filter(({ page }) => matches(page))
          .map(({ page, digest }) => `${page} ${digest}`)
          .join(),
      ])
      .filter(([, text]) => text !== '')
  }
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

async function write({ bus }: Served, random: (below: number) => number): Promise<void> {
  const dice = random(16)
  if (dice === 0) await bus.create(`t.${bus.epoch}`, { dtype: 'u8', shape: [2] })
  else if (dice === 1) {
    const name = bus.pageNames().find((page) => page.startsWith('t.'))
    if (name !== undefined) await bus.delete(name)
  } else if (dice < 6) await bus.write('fat', new Uint8Array(FAT_ELEMENTS).fill(100 + random(100)))
  else {
    await bus.transact({
      ops: [
        { page: 'm', indices: [random(1024), random(1024)], values: [random(9), random(9)] },
        { page: 'n', offset: random(250), values: [random(5), random(5), random(5)] },
      ],
    })
  }
}

t.setTimeout((SECONDS + 110) * 1000)
const dataDir = folder(t)
const served = await serve(t, { dataDir, fsync: 'off' })
const { bus } = served
const { port } = await listen(served)
const record = new Record(served)
await bus.create('m', { dtype: 'f32', shape: [32, 32] })
await bus.derive('m.rows', { op: 'reduce', inputs: { x: 'm' }, fn: 'sum', axes: [1] })
await bus.derive('m.max', { op: 'reduce', inputs: { x: 'm.rows' }, fn: 'max' })
await bus.create('n', { dtype: 'i32', shape: [256] })
await bus.create('fat', { dtype: 'u8', shape: [FAT_ELEMENTS] })
await bus.create('quiet', { dtype: 'u8', shape: [1] })

const random = randomFrom(1)
const followers: Follower[] = []
const HABITS: readonly Habit[] = ['flaky', 'steady', 'flaky', 'slow']
/** Epochs at which a mirror was checked, and those at which it differed from the server's page. */
const looks = { count: 0, wrong: [] as string[] }

function look(mirror: { readonly pages: ReadonlyMap<string, unknown[]> }, { epoch, changes }: Message): void {
  for (const { page } of changes ?? []) {
    if (!COMPARED.includes(page)) continue
    looks.count++
    if (digestOf(mirror.pages.get(page) ?? []) !== record.digests.get(`${epoch} ${page}`))
      looks.wrong.push(`${page} at ${epoch}`)
  }
}

function follow(i: number): Follower {
  // Few of many readers want the large page: this one process parses all their messages.
  const pages = i > 16 && i % 16 !== 3 && i % 4 === 3 ? ['n'] : PATTERNS[i % PATTERNS.length]!
  // A mirror starts with a snapshot, or before the first page.
  const from = i % 3 === 1 ? 0 : 'snapshot'
  const habit = HABITS[Math.floor(i / PATTERNS.length) % HABITS.length]!
  const follower = new Follower({ port, pages, from, habit, random: randomFrom(i + 7), onChange: look })
  followers.push(follower)
  return follower
}

/** A reader that receives nothing but progress. */
const quiet = await Client.open(port)
t.teardown(() => {
  for (const follower of followers) follower.stop()
  quiet.socket.terminate()
})
await quiet.ask({ type: 'subscribe', id: 'q', pages: ['quiet'] })
/**
 * How long a reader pauses: less than the server waits for a sign of life, or it would drop the
 * connection silently.
 */
const STALL_MS = 8000

/** Not a test of its own: one that runs alone needs it too. */
async function load(): Promise<void> {
  const untilMs = Date.now() + SECONDS * 1000
  let overflowsBefore: number | undefined
  while (Date.now() < untilMs) {
    if (overflowsBefore === undefined && Date.now() >= untilMs - STALL_MS) {
      overflowsBefore = hubOf(bus).stats().overflows
      // Live at once, so that it falls behind; it reads nothing until the end.
      followers.push(new Follower({ port, pages: ['fat'], from: 'snapshot', habit: 'stalled', random }))
    }
    if (followers.length <= CLIENTS && random(4) === 0) follow(followers.length)
    await write(served, random)
    await sleep(random(12))
  }
  while (followers.length <= CLIENTS) follow(followers.length)
  // More than the queue and the sockets' buffers hold, however slow the machine is.
  for (let i = 0; i < 400 && hubOf(bus).stats().overflows === overflowsBefore; i++) {
    await bus.write('fat', new Uint8Array(FAT_ELEMENTS).fill(100 + (i % 100)))
    await sleep(1)
  }
  for (const follower of followers) follower.behave()
  await bus.transact({
    ops: ['m', 'n', 'fat'].map((page) => ({ page, offset: 0, values: [90] })),
  })
  const last = bus.epoch
  for (let i = 0; i < 1000 && followers.some(({ cursor }) => (cursor ?? 0) < last); i++) await sleep(20)
  t.same(
    followers.filter(({ cursor }) => cursor !== last).map(({ cursor, options }) => [cursor, options]),
    [],
    'everyone has come to the end',
  )
  t.same(
    followers.flatMap(({ faults, mirror }) => [...faults, ...mirror.faults]),
    [],
  )
  const sessions = followers.reduce((sum, follower) => sum + follower.sessions.length, 0)
  const changes = followers.reduce((sum, follower) => sum + follower.changes().length, 0)
  t.comment(`${followers.length} readers, ${sessions} sessions, ${changes} changes, ${last} epochs`)
  t.ok(sessions > followers.length, 'some came back')
  t.ok(
    followers.some(({ overflows }) => overflows > 0),
    'somebody was too slow, and was told where to go on',
  )
}

await load()

t.test('ordered: epochs ascend', async (t) => {
  for (const { sessions } of followers) {
    for (const { from, messages } of sessions) {
      const epochs = messages.filter(({ type }) => type !== 'overflow').map(({ epoch }) => epoch)
      t.ok(epochs.every((epoch, i) => epoch >= (epochs[i - 1] ?? from)))
    }
  }
})

t.test('unique: no epoch comes twice, over all sessions', async (t) => {
  for (const follower of followers) {
    const epochs = follower.changes().map(({ epoch }) => epoch)
    t.equal(new Set(epochs).size, epochs.length)
  }
})

t.test('reliable: every epoch that changed a page asked for comes, as it was published', async (t) => {
  for (const follower of followers) {
    const start = follower.sessions[0]!.from
    const expected = record.told(follower.options.pages, start)
    const got = follower.changes().map(({ epoch, digests }) => [epoch, digests])
    t.equal(got.length, expected.length)
    t.same(
      got.filter(([epoch, text], i) => expected[i]?.[0] !== epoch || expected[i]?.[1] !== text),
      [],
    )
  }
})

t.test('atomic: one epoch is one message, with every page that moved', async (t) => {
  for (const follower of followers) {
    const { matches } = patternSet(follower.options.pages)
    const torn = follower.changes().filter(({ epoch, first, pages }) => {
      const moved = record.epochs.get(epoch)!.filter(({ page }) => matches(page))
      return first !== epoch || pages.join() !== moved.map(({ page }) => page).join()
    })
    t.same(torn, [])
  }
})

t.test('resumable: a session goes on exactly where the one before ended', async (t) => {
  let resumed = 0
  for (const { sessions, options } of followers) {
    for (const [i, { from, messages }] of sessions.entries()) {
      if (i === 0) continue
      resumed++
      const before = sessions[i - 1]!
      const end = before.messages.reduce((at, { epoch }) => Math.max(at, epoch), before.from)
      t.equal(from, end)
      const [next] = record.told(options.pages, from)
      const first = messages.find(({ type }) => type === 'change')
      if (first !== undefined) t.equal(first.epoch, next?.[0])
    }
  }
  t.ok(resumed > 0, `${resumed} resumed`)
})

t.test(
  'bookmarkable: a reader without changes learns the newest epoch, and can resume from it',
  async (t) => {
    const marks = quiet.messages.filter(({ type }) => type === 'progress')
    t.ok(marks.length > 0, `${marks.length} marks`)
    t.ok(marks.every(({ epoch }, i) => epoch! >= (marks[i - 1]?.epoch ?? 0)))
    await bus.patch('quiet', { values: [1] })
    const again = await Client.open(port)
    t.match(await again.ask({ type: 'subscribe', id: 'q', pages: ['quiet'], from: marks.at(-1)!.epoch }), {
      type: 'subscribed',
    })
    const change = await again.next(({ type }) => type === 'change')
    t.same([change.epoch, change.changes?.[0]?.values], [bus.epoch, [1]])
    await quiet.until(() => quiet.changes('q').length === 1)
    t.equal(quiet.changes('q')[0]?.epoch, bus.epoch)
    await again.close()
    await quiet.close()
  },
)

t.test('mirrors equal the server page at every epoch they claim', async (t) => {
  t.ok(looks.count > 0, `${looks.count} looks`)
  t.same(looks.wrong, [])
  // The server's own answers about the past, for some of those epochs.
  const epochs = [...record.digests.keys()].filter((_, i) => i % Math.ceil(record.digests.size / 12) === 0)
  for (const key of epochs) {
    const [epoch, page] = key.split(' ') as [string, string]
    const { body } = await served.call('GET', `/v1/pages/${page}/data?epoch=${epoch}`, undefined, {
      accept: 'application/json',
    })
    t.equal(digestOf(body.values as unknown[]), record.digests.get(key), key)
  }
  for (const { mirror, options } of followers) {
    const { matches } = patternSet(options.pages)
    const pages = Object.fromEntries([...mirror.pages].sort())
    const expected = bus.pageNames().filter((name) => matches(name) && name !== 'quiet')
    t.same(
      Object.keys(pages).filter((name) => name !== 'quiet'),
      expected,
    )
    t.same(
      expected.filter((name) => digestOf(pages[name]!) !== digestOf([...(bus.read(name) as Float32Array)])),
      [],
    )
  }
})
