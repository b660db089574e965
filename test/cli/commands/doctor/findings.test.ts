/**
 * What the checks of `mmsb doctor` make of what they read: numbers and texts of Linux, and answers
 * of a server.
 */
import { statSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { holderOf, mountOf, roomFinding } from '../../../../src/cli/commands/doctor/folder.js'
import {
  backlogFindings,
  limitFindings,
  memoryFinding,
  nodeFinding,
} from '../../../../src/cli/commands/doctor/machine.js'
import {
  checkpointFindings,
  statsFindings,
  statusFindings,
} from '../../../../src/cli/commands/doctor/server.js'
import type { Stats, Status } from '../../../../src/client/types.js'
import { VERSION } from '../../../../src/engine/version.js'

t.test('versions of Node', async (t) => {
  for (const [version, level] of [
    ['20.19.0', 'ok'],
    ['20.18.9', 'failed'],
    ['18.20.0', 'failed'],
    ['22.0.0', 'ok'],
  ] as const)
    t.equal(nodeFinding(version).level, level, version)
})

t.test('memory: of the machine, or of the control group', async (t) => {
  const GIB = 1024 ** 3
  t.match(memoryFinding(8 * GIB, 16 * GIB, 0), { level: 'ok', detail: '16.0 GiB, pages may take 8.0 GiB' })
  t.match(memoryFinding(8 * GIB, 16 * GIB, 4 * GIB), {
    level: 'warning',
    detail: /^4\.0 GiB allowed by the control group/,
  })
  t.match(memoryFinding(8 * GIB, 4 * GIB, 2 ** 63), { level: 'warning', detail: /^4\.0 GiB, / })
})

t.test('limits of the process, as Linux writes them', async (t) => {
  const text = (files: string, size: string): string =>
    `Limit                     Soft Limit           Hard Limit           Units\nMax file size             ${size}            unlimited            bytes\nMax open files            ${files}                20000                files\n`
  t.match(limitFindings(text('20000', 'unlimited')), [{ name: 'open files', level: 'ok' }])
  t.match(limitFindings(text('unlimited', 'unlimited')), [{ name: 'open files', level: 'ok' }])
  t.match(limitFindings(text('1024', '1024')), [
    { name: 'open files', level: 'warning', detail: /at most 1024/ },
    { name: 'file size', level: 'failed', detail: /at most 1\.0 KiB/ },
  ])
  t.same(limitFindings(''), [])
  t.same([backlogFindings('4096\n'), backlogFindings('')], [[], []])
  t.match(backlogFindings('128\n'), [{ level: 'warning', detail: /lets 128 clients wait/ }])
})

t.test('room on the disk', async (t) => {
  const MIB = 1024 ** 2
  t.equal(roomFinding(1000 * MIB, 2000 * MIB, '').level, 'ok')
  t.equal(roomFinding(200 * MIB, 10_000 * MIB, '').level, 'warning')
  t.equal(roomFinding(100 * MIB, 200 * MIB, '').level, 'failed')
})

t.test('the file system of a path', async (t) => {
  const mounts = `22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:25 / /mnt rw - tmpfs tmpfs rw
31 30 0:26 / /mnt/nas ro,nosuid shared:1 master:2 - nfs4 host:/x rw
32 22 0:27 / /a\\040b rw - overlay overlay ro
33 22 0:28 / /mnt rw - xfs /dev/vdb rw
`
  t.same(mountOf('/home/x', mounts), { point: '/', type: 'ext4', isReadOnly: false })
  t.same(mountOf('/mntx', mounts)?.type, 'ext4')
  t.same(mountOf('/mnt/nas/data', mounts), { point: '/mnt/nas', type: 'nfs4', isReadOnly: true })
  t.same(mountOf('/a b/c', mounts), { point: '/a b', type: 'overlay', isReadOnly: true })
  t.same(mountOf('/mnt/data', mounts)?.type, 'xfs', 'the later mount on the same point')
  t.equal(mountOf('/x', ''), undefined)
})

t.test('who has a folder open', async (t) => {
  const dir = t.testdir({ 'holder.txt': '' })
  const { ino, dev } = statSync(dir)
  const place = `${(dev >> 8).toString(16).padStart(2, '0')}:${(dev & 0xff).toString(16).padStart(2, '0')}:${ino}`
  t.equal(holderOf(dir, `1: FLOCK  ADVISORY  WRITE 77 ${place} 0 EOF\n`), 'process 77')
  t.equal(holderOf(dir, `1: FLOCK  ADVISORY  READ 77 ${place} 0 EOF\n`), undefined, 'a reader')
  t.equal(holderOf(dir, `1: FLOCK  ADVISORY  WRITE 77 ${place}0 0 EOF\n`), undefined, 'another file')
  t.equal(holderOf(dir, ''), undefined)
  t.ok(join(dir, 'holder.txt'))
})

const STATUS: Status = {
  version: VERSION,
  history: 'h',
  epoch: 1,
  backend: 'cpu',
  pages: 0,
  fsync: 'always',
  readOnly: false,
  uptimeMs: 5,
  minEpoch: 0,
  state: 'ready',
}

t.test('the status of a server', async (t) => {
  const levels = (changes: Partial<Status>): Record<string, string> =>
    Object.fromEntries(statusFindings({ ...STATUS, ...changes }).map(({ name, level }) => [name, level]))
  t.same(levels({}), { state: 'ok', version: 'ok', fsync: 'ok', backend: 'ok' })
  t.match(levels({ state: 'failed', reason: 'EIO' }), { state: 'failed' })
  t.match(levels({ state: 'stopping' }), { state: 'warning' })
  t.match(levels({ version: '0.0.1' }), { version: 'warning' })
  t.match(levels({ fsync: 'interval' }), { fsync: 'warning' })
  t.same(Object.keys(levels({ fsync: 'off', readOnly: true })), ['state', 'version', 'backend'])
  t.match(levels({ deviceLoss: { epoch: 3, reason: 'gone' } }), { gpu: 'warning' })
})

t.test('the statistics of a server', async (t) => {
  const us = { count: 1, p50: 100, p99: 200, max: 300 }
  const log = {
    appendUs: us,
    bytes: 1,
    segments: 1,
    minEpoch: 1,
    newestEpoch: 1,
    durableEpoch: 1,
    failure: null,
  }
  const subscriptions = {
    connections: 0,
    subscriptions: 0,
    delivered: 0,
    conflated: 0,
    overflows: 0,
    durable: [],
  }
  const base: Stats = {
    epoch: 9,
    pages: { count: 0, source: 0, derived: 0, bytes: 1, quotaBytes: 100 },
    graph: { nodes: 0, edges: 0 },
    queue: { transactions: 0, bytes: 0 },
    log,
    subscriptions,
  }
  const levels = (changes: Partial<Stats>): string[] =>
    statsFindings({ ...base, ...changes }).map(({ name, level }) => `${name} ${level}`)
  t.same(levels({}), ['memory ok', 'log ok', 'queue ok', 'readers ok'])
  t.same(levels({ pages: { ...base.pages, bytes: 95 } })[0], 'memory warning')
  t.same(levels({ log: { ...log, failure: 'EIO' } })[1], 'log failed')
  t.same(levels({ log: { ...log, appendUs: { ...us, p99: 51_000 } } })[1], 'log warning')
  t.same(levels({ queue: { transactions: 5000, bytes: 1 } })[2], 'queue warning')
  const reader = { name: 'r', epoch: 1, lag: 20_000, connected: false, held: true }
  t.same(levels({ subscriptions: { ...subscriptions, durable: [reader] } })[3], 'reader warning')
  t.same(levels({ subscriptions: { ...subscriptions, durable: [{ ...reader, lag: 5 }] } })[3], 'readers ok')
  t.same(
    levels({ subscriptions: { ...subscriptions, durable: [{ ...reader, lag: 5, held: false }] } })[3],
    'reader warning',
  )
  t.same(levels({ subscriptions: { ...subscriptions, overflows: 2 } })[3], 'readers note')
  const { epoch, graph } = base
  t.same(
    statsFindings({ epoch, pages: { count: 1, source: 1, derived: 0, bytes: 1 }, graph }).map(
      ({ name }) => name,
    ),
    ['rights'],
  )
  const checkpoint = { epoch: 9, pages: 1, bytes: 1, newBytes: 1, ms: 1 }
  const level = (at: number, list: readonly (typeof checkpoint)[] | undefined): string | undefined =>
    checkpointFindings({ ...base, epoch: at }, list)[0]?.level
  t.same([level(9, undefined), level(9, []), level(9, [checkpoint])], [undefined, 'note', 'ok'])
  t.same([level(250_000, [checkpoint]), level(250_000, [])], ['warning', 'warning'])
})
