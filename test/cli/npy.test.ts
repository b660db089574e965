/**
 * Pages of every dtype to .npy files and back: from a folder and from a server, as of the newest and of
 * a past epoch.
 */
import { readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { exportPages } from '../../src/cli/commands/export.js'
import { importPages } from '../../src/cli/commands/import.js'
import { writeNpy } from '../../src/cli/npy-files.js'
import { Bus } from '../../src/index.js'
import { decodeNpyHeader, encodeNpyHeader } from '../../src/state/npy.js'
import { DTYPES } from '../../src/wire/dtype.js'
import { listen, serve } from '../http/helpers.js'
import { bytesOf } from '../lib/bytes.js'
import { Draw } from '../lib/draw.js'
import { folder } from '../lib/folder.js'

const elementsOf = (file: string): Buffer => {
  const bytes = readFileSync(file)
  return bytes.subarray(decodeNpyHeader(bytes).dataOffset)
}

async function fill(bus: Bus): Promise<void> {
  const draw = new Draw(5)
  for (const dtype of DTYPES) {
    await bus.create(`page.${dtype}`, { dtype, shape: [3, 7] })
    await bus.write(`page.${dtype}`, draw.values(dtype, 21))
  }
  await bus.derive('sum', { op: 'reduce', inputs: { x: 'page.f64' }, fn: 'sum' })
}

t.test('from a server to files and into another folder: the same bytes', async (t) => {
  const out = folder(t)
  const served = await serve(t, { dataDir: folder(t), fsync: 'off' })
  await fill(served.bus)
  const { epoch } = served.bus
  await served.bus.patch('page.f64', { offset: 0, values: [1234] })
  const { url } = await listen(served)
  await exportPages(['--url', url, '--out', out, '--epoch', String(epoch)])
  t.same(readdirSync(out).sort(), [...DTYPES.map((dtype) => `page.${dtype}.npy`), 'sum.npy'].sort())
  for (const dtype of DTYPES) {
    const name = `page.${dtype}`
    const file = join(out, `${name}.npy`)
    const { dtype: found, shape } = decodeNpyHeader(readFileSync(file))
    t.same([found, shape], [dtype, [3, 7]])
    t.same(elementsOf(file), bytesOf(await served.bus.readAt(name, epoch)), name)
  }

  const dataDir = folder(t)
  const files = DTYPES.map((dtype) => join(out, `page.${dtype}.npy`))
  await importPages(['--data-dir', dataDir, '--files', files.join()])
  const bus = await Bus.open({ dataDir, backend: 'cpu' })
  for (const dtype of DTYPES) {
    t.same(bytesOf(bus.read(`page.${dtype}`)), elementsOf(join(out, `page.${dtype}.npy`)), dtype)
    t.same(bus.page(`page.${dtype}`).shape, [3, 7])
  }
  await bus.patch('page.u8', { values: [9] })
  const before = bus.epoch - 1
  await bus.close()

  const again = folder(t)
  await exportPages(['--data-dir', dataDir, '--out', again, '--pages', 'page.u8', '--epoch', String(before)])
  t.same(readdirSync(again), ['page.u8.npy'])
  t.same(readFileSync(join(again, 'page.u8.npy')), readFileSync(join(out, 'page.u8.npy')))
  await exportPages(['--data-dir', dataDir, '--out', again])
  t.equal(elementsOf(join(again, 'page.u8.npy'))[0], 9)

  await importPages(['--url', url, '--files', join(again, 'page.u8.npy')])
  t.equal(served.bus.read('page.u8')[0], 9)
})

t.test('invalid files and arguments are refused', async (t) => {
  const dir = folder(t)
  const file = join(dir, 'x.npy')
  writeFileSync(file, 'no npy')
  const dataDir = join(dir, 'data')
  await t.rejects(
    importPages(['--data-dir', dataDir, '--files', file]),
    /x\.npy: not a \.npy file for a page/,
  )
  await t.rejects(importPages(['--data-dir', dataDir, '--files', join(dir, 'y.npy')]), {
    message: /y\.npy: no such file/,
  })
  await t.rejects(importPages(['--files', file]), /--url or --data-dir/)
  await t.rejects(importPages(['--data-dir', dataDir]), /--files/)
  await t.rejects(exportPages(['--out', dir]), /--url or --data-dir/)
  await t.rejects(exportPages(['--url', 'nowhere', '--out', dir]), /not a URL/)
  await t.rejects(exportPages(['--data-dir', join(dir, 'none'), '--out', dir]), { code: 'BUS_FAILED' })
  await t.rejects(exportPages(['--data-dir', dataDir, '--pages', 'z', '--out', dir]), {
    code: 'PAGE_NOT_FOUND',
  })
  await t.rejects(exportPages(['--data-dir', dataDir, '--epoch', '7', '--out', dir]), {
    code: 'EPOCH_NOT_FOUND',
  })
})

t.test('big-endian elements and Fortran order are imported', async (t) => {
  const dir = folder(t)
  const header = (descr: string, order: string): Buffer => {
    const head = Buffer.from(encodeNpyHeader('i16', [2, 3])).toString('latin1')
    return Buffer.from(head.replace('<i2', descr).replace('False,', `${order},`.padEnd(6)), 'latin1')
  }
  const big = Buffer.alloc(12)
  for (let i = 0; i < 6; i++) big.writeInt16BE(i - 3, i * 2)
  writeFileSync(join(dir, 'big.npy'), Buffer.concat([header('>i2', 'False'), big]))
  // [[0, 1, 2], [3, 4, 5]] with its first axis varying fastest.
  const columns = Buffer.from(Int16Array.of(0, 3, 1, 4, 2, 5).buffer)
  writeFileSync(join(dir, 'columns.npy'), Buffer.concat([header('<i2', 'True'), columns]))
  const dataDir = join(dir, 'data')
  const files = [join(dir, 'big.npy'), join(dir, 'columns.npy')].join()
  await importPages(['--data-dir', dataDir, '--files', files])
  const bus = await Bus.open({ dataDir, backend: 'cpu', threads: 1 })
  t.teardown(() => bus.close())
  t.same(bus.read('big'), Int16Array.of(-3, -2, -1, 0, 1, 2))
  t.same(bus.read('columns'), Int16Array.of(0, 1, 2, 3, 4, 5))
})

t.test('an export that fails leaves the older file; a link in its place is replaced', async (t) => {
  const dir = folder(t)
  const file = join(dir, 'a.npy')
  writeFileSync(file, 'older')
  const failing = writeNpy(file, 'u8', [4], async () => {
    throw new Error('cut off')
  })
  await t.rejects(failing, /cut off/)
  t.equal(readFileSync(file, 'utf8'), 'older')
  t.same(readdirSync(dir), ['a.npy'])
  const other = join(dir, 'other')
  writeFileSync(other, 'not yours')
  rmSync(file)
  symlinkSync(other, file)
  await writeNpy(file, 'u8', [2], async () => Uint8Array.of(1, 2))
  t.equal(readFileSync(other, 'utf8'), 'not yours')
  t.same(elementsOf(file), Buffer.of(1, 2))
})

t.test('a server that sends a path for a name is refused, and credentials are not shown', async (t) => {
  const dir = folder(t)
  const asked: (string | undefined)[] = []
  const server = createServer(({ url, headers }, response) => {
    asked.push(headers.authorization)
    const isStatus = url === '/v1/status'
    response.setHeader('content-type', 'application/json')
    response.end(
      JSON.stringify(isStatus ? { epoch: 1, minEpoch: 0 } : { pages: { '../../evil\x1b[2J': {} } }),
    )
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const url = `http://me:secret@127.0.0.1:${port}`
  await t.rejects(exportPages(['--url', url, '--out', dir]), /which is no page name/)
  t.same(readdirSync(dir), [])
  t.equal(asked[0], `Basic ${Buffer.from('me:secret').toString('base64')}`)
  await new Promise((resolve) => server.close(resolve))
  const gone = await exportPages(['--url', url, '--out', dir]).catch((error: Error) => error.message)
  t.match(gone, /cannot reach http:\/\/127\.0\.0\.1/)
  t.notMatch(gone, /secret/)
})
