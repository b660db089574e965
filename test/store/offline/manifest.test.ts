/** backup.json: what it must say, and how each fault of it is told. */
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { isBackupPath, readManifest, requirePlain } from '../../../src/store/offline/manifest.js'
import { folder } from '../../lib/folder.js'
import { refusal } from '../../lib/refusal.js'

const SEGMENT = 'log/00000000000000000001.seg'
const CHECKPOINT = 'checkpoints/00000000000000000003.db'
const HASH = '0123456789abcdef'.repeat(4)
const SOUND = {
  format: 2,
  busId: '0123456789abcdef'.repeat(2),
  epoch: 3,
  checkpoints: [3],
  bytes: 9,
  files: [
    { path: CHECKPOINT, bytes: 4, sha256: HASH },
    { path: SEGMENT, bytes: 5, sha256: HASH },
  ],
}
const [first, second] = SOUND.files
const withFile = (changes: object): object => ({ ...SOUND, files: [first, { ...second, ...changes }] })

const FAULTS: Record<string, readonly unknown[]> = {
  'is a backup in a format that this release does not know': [
    ...[null, 7, 'text', [], {}, { ...SOUND, format: 3 }, { ...SOUND, format: '2' }, { ...SOUND, format: 0 }],
  ],
  'it names no bus': [
    ...[
      undefined,
      7,
      '',
      'x'.repeat(32),
      SOUND.busId.slice(1),
      `${SOUND.busId}0`,
      SOUND.busId.toUpperCase(),
    ].map((busId) => ({ ...SOUND, busId })),
  ],
  'its epoch or its size is no number': [
    ...[undefined, -1, 1.5, '3', 2 ** 53].flatMap((value) => [
      { ...SOUND, epoch: value },
      { ...SOUND, bytes: value },
    ]),
  ],
  'it lists no files': [undefined, {}, 'files', 2].map((files) => ({ ...SOUND, files })),
  'is no file of a backup': [
    { ...SOUND, files: [null] },
    ...[undefined, 7, '', `../${SEGMENT}`, `${SEGMENT}/..`].map((name) => withFile({ path: name })),
  ],
  [`it lists ${CHECKPOINT} twice`]: [withFile({ path: CHECKPOINT })],
  [`the size or the hash of ${SEGMENT} is missing`]: [
    ...[undefined, -1, 1.5, '5'].map((bytes) => withFile({ bytes })),
    ...[undefined, 7, HASH.slice(1), `${HASH}0`, HASH.toUpperCase()].map((sha256) => withFile({ sha256 })),
  ],
  'its files have 10 bytes, not 9': [withFile({ bytes: 6 })],
  'its files have 4 bytes, not 9': [withFile({ bytes: 0 })],
  'its files have 9 bytes, not 10': [{ ...SOUND, bytes: 10 }],
}

t.test('each fault is told', async (t) => {
  const dir = folder(t)
  const file = path.join(dir, 'backup.json')
  for (const [why, contents] of Object.entries(FAULTS)) {
    for (const content of contents) {
      fs.writeFileSync(file, JSON.stringify(content))
      const said = refusal(() => readManifest(dir))
      t.ok(said.startsWith('BUS_FAILED ') && said.includes(why), `${JSON.stringify(content)}: ${said}`)
      t.ok(said.includes(dir))
    }
  }
})

t.test('a sound one is given as it is', async (t) => {
  const dir = folder(t)
  const file = path.join(dir, 'backup.json')
  const { files: _, ...format1 } = { ...SOUND, format: 1 }
  const empty = { ...SOUND, epoch: 0, bytes: 0, files: [] }
  for (const info of [SOUND, empty, format1, { ...format1, files: 7 }]) {
    fs.writeFileSync(file, JSON.stringify(info))
    t.same(readManifest(dir), info)
  }
})

t.test('without a plain file of JSON the folder is no complete backup', async (t) => {
  const dir = folder(t)
  const file = path.join(dir, 'backup.json')
  const incomplete = { code: 'BUS_FAILED', message: /is not a complete backup: / }
  t.throws(() => readManifest(dir), incomplete)
  fs.writeFileSync(file, '{"format":2')
  t.throws(() => readManifest(dir), incomplete)
  fs.writeFileSync(`${file}.real`, JSON.stringify(SOUND))
  fs.rmSync(file)
  fs.symlinkSync(`${file}.real`, file)
  t.throws(() => readManifest(dir), { ...incomplete, message: /is not a plain file/ })
})

t.test('names of segments and checkpoint files belong to a backup, and no others', async (t) => {
  const retired = CHECKPOINT.replace('.db', '.old')
  for (const name of [SEGMENT, CHECKPOINT, retired]) t.equal(isBackupPath(name), true, name)
  for (const name of [
    ...[SEGMENT, CHECKPOINT].flatMap((name) => [
      `/${name}`,
      `./${name}`,
      `${name}x`,
      `${name}/x`,
      `${name}\n`,
    ]),
    ...['backup.json', 'log/1.seg', 'log/00000000000000000001.db', 'checkpoints/00000000000000000001.seg'],
    ...['log/000000000000000000001.seg', 'log/0000000000000000000a.seg', '../log/00000000000000000001.seg'],
  ])
    t.equal(isBackupPath(name), false, JSON.stringify(name))
})

t.test('a plain file has a size; a link or a folder has none', async (t) => {
  const dir = folder(t)
  const file = path.join(dir, 'file')
  fs.writeFileSync(file, '12345')
  fs.symlinkSync(file, `${file}.link`)
  t.equal(requirePlain(file), 5)
  for (const other of [`${file}.link`, dir])
    t.throws(() => requirePlain(other), { code: 'BUS_FAILED', message: `${other} is not a plain file` })
})
