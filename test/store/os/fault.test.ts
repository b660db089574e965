/**
 * Disks that fail or run full, folders in use or not writable: each gives a clear error and loses nothing.
 */
import { fork } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { textOf } from '../../../src/store/os/errors.js'
import { lockFolder } from '../../../src/store/os/lock.js'
import { moduleUrl, NODE_ARGS } from '../../lib/place.js'
import { turn } from '../../lib/wait.js'
import { SimDisk } from '../../support/simdisk.js'
import { appendAll, epochsIn, epochsTo, noCatalog, openStore, recordOf, scratch } from '../helpers.js'

const DIR = '/sim'

function failing(code: string): Error {
  return Object.assign(new Error(`${code}: i/o error`), { code })
}

for (const fsync of ['always', 'interval', 'off'] as const) {
  t.test(`fsync ${fsync}: a write that fails stops the store for good`, async (t) => {
    const disk = new SimDisk()
    const errors: string[] = []
    const store = await openStore(DIR, {
      disk,
      fsync,
      onNotice: (n) => n.level === 'error' && errors.push(n.message),
    })
    await appendAll(store, 1, 5)
    let calls = 0
    disk.fault = (call) => {
      if (call === 'write' && calls++ === 0) throw failing('EIO')
    }
    await t.rejects(store.append(recordOf(6)), { code: 'BUS_FAILED', message: /EIO/ })
    await t.rejects(store.append(recordOf(6)), { code: 'BUS_FAILED' }, 'and is not tried again')
    t.throws(() => store.completeSync(), { code: 'BUS_FAILED' })
    await t.rejects(Promise.resolve(store.reserve(10)), { code: 'BUS_FAILED' })
    t.equal(calls, 1)
    t.match(store.failure, /EIO/)
    t.equal(errors.length, 1)
    t.same(epochsIn(store), epochsTo(5), 'reading goes on')
    await store.close()
    t.equal(disk.openCount, 0)
    disk.fault = undefined
    const again = await openStore(DIR, { disk, fsync })
    t.equal(again.recovery.newestEpoch, 5)
    await again.close()
  })
}

t.test('a synchronous completion that fails stops the store', async (t) => {
  const disk = new SimDisk()
  const store = await openStore(DIR, { disk })
  await appendAll(store, 1, 3)
  const appended = store.append(recordOf(4))
  disk.fault = (call) => {
    if (call === 'write') throw failing('EIO')
  }
  t.throws(() => store.completeSync(), { code: 'BUS_FAILED' })
  await t.rejects(appended, { code: 'BUS_FAILED' })
  disk.fault = undefined
  await t.rejects(store.append(recordOf(4)), { code: 'BUS_FAILED' })
  await store.close()
})

t.test('a sync that fails under interval stops the store, and is not tried again', async (t) => {
  const disk = new SimDisk()
  const timers: (() => void)[] = []
  const store = await openStore(DIR, {
    disk,
    fsync: 'interval',
    setTimer: (callback) => {
      timers.push(callback)
      return () => {}
    },
  })
  await appendAll(store, 1, 3)
  t.equal(timers.length, 1, 'one timer for many appends')
  t.equal(store.stats().durableEpoch, 0)
  timers.shift()?.()
  await turn()
  t.equal(store.stats().durableEpoch, 3)
  await appendAll(store, 4, 4)
  const told: string[] = []
  store.onFailed(({ message }) => told.push(message))
  let syncs = 0
  disk.fault = (call) => {
    if (call !== 'sync') return
    syncs++
    throw failing('EIO')
  }
  timers.shift()?.()
  await turn()
  t.match(store.failure, /EIO/)
  t.same(told, [store.failure], 'the bus is told, though no append waits')
  await t.rejects(store.append(recordOf(5)), { code: 'BUS_FAILED' })
  await store.close()
  t.equal(syncs, 1)
  t.equal(told.length, 1)
})

t.test(
  'a full disk is told before anything is written, and writing goes on when there is room',
  async (t) => {
    const segmentBytes = 8192
    // Two segments and the small files.
    const disk = new SimDisk({ roomBytes: 2 * segmentBytes + 2048 })
    const store = await openStore(DIR, { disk, segmentBytes })
    let epoch = 0
    const fill = async (): Promise<unknown> => {
      for (;;) {
        const record = recordOf(epoch + 1)
        try {
          await store.reserve(record.frames.length)
        } catch (error) {
          return error
        }
        await store.append(record)
        epoch++
      }
    }
    t.match(await fill(), { code: 'LOG_FULL', status: 507 })
    t.equal(store.stats().segments, 2)
    const full = epoch
    t.match(await fill(), { code: 'LOG_FULL' }, 'again, as long as there is none')
    await t.rejects(store.append(recordOf(epoch + 1, 5000)), { code: 'LOG_FULL' })
    t.equal(store.failure, undefined)
    t.equal(store.newestEpoch, full)
    t.same(
      disk.files.filter((file) => file.endsWith('.tmp')),
      [],
    )
    disk.roomBytes = segmentBytes
    t.match(await fill(), { code: 'LOG_FULL' })
    t.ok(epoch > full, 'it went on')
    t.same(epochsIn(store), epochsTo(epoch))
    await store.close()
    const again = await openStore(DIR, { disk, segmentBytes })
    t.equal(again.recovery.newestEpoch, epoch)
    await t.rejects(
      Promise.resolve(again.reserve(4000)),
      { code: 'LOG_FULL' },
      'opened with a full disk, it can be read',
    )
    await again.close()
  },
)

for (const fsync of ['always', 'interval'] as const) {
  t.test(
    `fsync ${fsync}: records that a failed sync left in memory only are on disk after recovery`,
    async (t) => {
      const disk = new SimDisk()
      const timers: (() => void)[] = []
      const store = await openStore(DIR, {
        disk,
        fsync,
        setTimer: (callback) => {
          timers.push(callback)
          return () => {}
        },
      })
      await appendAll(store, 1, 5)
      disk.fault = (call) => {
        if (call === 'sync') throw failing('EIO')
      }
      await store.append(recordOf(6)).catch(() => {})
      for (const timer of timers) timer()
      await turn()
      t.match(store.failure, /EIO/)
      await store.close()
      disk.fault = undefined
      t.equal(
        (await openStore(DIR, { disk: disk.crash('drop'), fsync })).newestEpoch,
        fsync === 'always' ? 5 : 0,
      )
      const again = await openStore(DIR, { disk, fsync })
      t.equal(again.recovery.newestEpoch, 6, 'the system still shows it')
      const after = await openStore(DIR, { disk: disk.crash('drop'), fsync })
      t.equal(after.recovery.newestEpoch, 6, 'and it is durable, for it has been shown')
      await after.close()
      await again.close()
    },
  )
}

t.test('errors at every step of a rotation leave a log that opens', async (t) => {
  for (const call of ['open', 'allocate', 'sync', 'write', 'syncDir'] as const) {
    for (let nth = 0; nth < 3; nth++) {
      const disk = new SimDisk()
      const store = await openStore(DIR, { disk, segmentBytes: 8192 })
      let seen = 0
      disk.fault = (what, file) => {
        if (what === call && (file.includes('next.tmp') || what === 'syncDir') && seen++ === nth)
          throw failing('EIO')
      }
      let acknowledged = 0
      try {
        for (; acknowledged < 60; acknowledged++) await appendAll(store, acknowledged + 1, acknowledged + 1)
      } catch (error) {
        t.match(error, { code: 'BUS_FAILED' }, `${call} ${nth}`)
      }
      disk.fault = undefined
      await store.close()
      t.equal(disk.openCount, 0, `${call} ${nth}: files closed`)
      const again = await openStore(DIR, { disk, segmentBytes: 8192 })
      // A write whose sync failed is not acknowledged, but it may be there.
      const { newestEpoch } = again.recovery
      t.ok(newestEpoch === acknowledged || newestEpoch === acknowledged + 1, `${call} ${nth}: ${newestEpoch}`)
      t.same(epochsIn(again), epochsTo(newestEpoch))
      await again.close()
    }
  }
})

t.test('a second store in the folder is kept out, with the name of the holder', async (t) => {
  const dir = scratch()
  const store = await openStore(dir)
  await t.rejects(openStore(dir), {
    code: 'FOLDER_LOCKED',
    message: new RegExp(`in use by process ${process.pid} `),
  })
  await appendAll(store, 1, 3)
  await store.close()
  const again = await openStore(dir)
  t.equal(again.recovery.newestEpoch, 3)
  await again.close()
})

t.test('another process is kept out too, and the lock of a killed one is free', async (t) => {
  const dir = scratch()
  const holder = path.join(dir, 'holder.mjs')
  const lock = moduleUrl('src/store/os/lock.ts')
  fs.writeFileSync(
    holder,
    `const { lockFolder } = await import(${JSON.stringify(lock)})\nlockFolder(${JSON.stringify(dir)})\nprocess.send('held')\nsetInterval(() => {}, 1000)\n`,
  )
  const child = fork(holder, {
    execArgv: [...NODE_ARGS],
    env: { PATH: process.env.PATH },
  })
  await new Promise((resolve, reject) => {
    child.once('message', resolve)
    child.once('exit', reject)
  })
  t.throws(() => lockFolder(dir), { code: 'FOLDER_LOCKED', message: new RegExp(`process ${child.pid} `) })
  const gone = new Promise((resolve) => child.once('exit', resolve))
  child.kill('SIGKILL')
  await gone
  lockFolder(dir).release()
})

t.test('a folder that cannot be made or written is a clear error', async (t) => {
  const dir = scratch()
  fs.writeFileSync(path.join(dir, 'file'), '')
  await t.rejects(openStore(path.join(dir, 'file', 'data'), { catalog: noCatalog() }), {
    code: 'BUS_FAILED',
    message: /cannot be used/,
  })
  fs.mkdirSync(path.join(dir, 'log.is.a.file'))
  fs.writeFileSync(path.join(dir, 'log.is.a.file', 'log'), '')
  await t.rejects(openStore(path.join(dir, 'log.is.a.file')), { code: 'BUS_FAILED' })
})

t.test('misuse is refused and harms nothing', async (t) => {
  const disk = new SimDisk()
  const store = await openStore(DIR, { disk })
  await t.rejects(store.append(recordOf(2)), /after 0/)
  const first = store.append(recordOf(1))
  await t.rejects(store.append(recordOf(2)), /in flight/)
  await first
  store.completeSync()
  await store.close()
  await t.rejects(store.append(recordOf(2)), { code: 'BUS_FAILED' })
  await store.close()
})

t.test('a completed append need not have settled before the next one', async (t) => {
  const disk = new SimDisk({ lateWrites: true })
  const store = await openStore(DIR, { disk, segmentBytes: 8192 })
  const appends: Promise<void>[] = []
  for (let epoch = 1; epoch <= 12; epoch++) {
    appends.push(store.append(recordOf(epoch)))
    store.completeSync()
    t.equal(store.newestEpoch, epoch)
  }
  await Promise.all(appends)
  await appendAll(store, 13, 40)
  t.same(epochsIn(store), epochsTo(40))
  t.same(disk.spoilt, [], 'a buffer is used again only when its write has come back')
  await store.close()
})

t.test('a catalog that cannot be opened or written costs the index, not the bus', async (t) => {
  const broken = async (): Promise<never> => {
    throw Object.assign(new Error('database or disk is full'), { code: 'SQLITE_FULL' })
  }
  for (const parts of [
    { open: broken, begin: broken },
    { begin: broken },
    { addBlocks: broken, blockOf: broken },
  ]) {
    const disk = new SimDisk()
    const notices: string[] = []
    const options = {
      disk,
      catalog: { ...noCatalog(), ...parts },
      onNotice: (notice: { message: string }) => notices.push(notice.message),
    }
    const store = await openStore(DIR, options)
    await appendAll(store, 1, 900)
    t.same(epochsIn(store), epochsTo(900))
    t.equal((await store.read(450)).epoch, 450)
    await store.close()
    t.ok(notices.some((text) => /index/.test(text)))
    const again = await openStore(DIR, { disk })
    t.equal(again.newestEpoch, 900)
    await again.close()
  }
})

t.test('a synchronous completion needs room reserved before', async (t) => {
  const store = await openStore(DIR, { disk: new SimDisk(), segmentBytes: 8192 })
  const appended = store.append(recordOf(1, 9000))
  t.throws(() => store.completeSync(), /no room was reserved/)
  await appended
  store.completeSync()
  await store.close()
})

t.test('what was thrown is told, whatever it is', async (t) => {
  t.equal(textOf(new RangeError('too far')), 'too far')
  t.strictSame(['text', undefined, null, 5, { message: 'no error' }].map(textOf), [
    'text',
    'undefined',
    'null',
    '5',
    '[object Object]',
  ])
})
