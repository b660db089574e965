/**
 * The syncs that the store makes on the real disk, above all those of folders, which make names durable: a
 * process does everything that a store does (durable-steps.ts) while traced_io.cpp writes down what reaches
 * the disk.
 */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { folder } from '../lib/folder.js'
import { programArgs } from '../lib/place.js'
import { builtLibrary } from './preload.js'
import { lostChanges, neededFolderSyncs, parseTrace, type Step } from './trace.js'

const LIBRARY = builtLibrary('traced_io')

/** What the process does to the disk. */
function traced(dir: string, file: string): Step[] {
  execFileSync(process.execPath, [...programArgs('test/disk/durable-steps.ts'), dir], {
    env: {
      PATH: process.env.PATH,
      LD_PRELOAD: LIBRARY,
      TRACE_FILE: file,
      TRACE_DIR: dir,
      UV_USE_IO_URING: '0',
    },
  })
  return parseTrace(readFileSync(file, 'utf8'))
}

t.test('whatever a step promises is durable when it ends', async (t) => {
  const dir = folder(t)
  const steps = traced(dir, join(folder(t), 'trace'))
  const say = (text: string): string => text.replaceAll(dir, '')
  t.same(lostChanges(steps).map(say), [])
  const removed = (ending: string): boolean =>
    steps.some(({ what, path }) => what === 'unlink' && path.endsWith(ending))
  for (const ending of ['.seg', '.db', '.old']) t.ok(removed(ending), `files ${ending} were removed`)

  const syncs = neededFolderSyncs(steps)
  // SQLite syncs the folder for its journals, the first of which holds nothing yet.
  const isOwn = (i: number): boolean => steps[i - 1]?.path.endsWith('.db-journal') !== true
  const isMissed = (i: number): boolean => lostChanges(steps.filter((_, at) => at !== i)).length > 0
  const unnoticed = syncs.filter((i) => isOwn(i) && !isMissed(i))
  t.same(
    unnoticed.map((i) => `${say(steps[i]?.path as string)} after ${say(steps[i - 1]?.path as string)}`),
    [],
    `each of ${syncs.length} syncs of a folder is missed when it is left out`,
  )
  const folders = new Set(syncs.map((i) => say(steps[i]?.path as string)))
  for (const wanted of ['', '/above', '/above/data', '/above/data/log', '/above/data/checkpoints'])
    t.ok(folders.has(wanted), `the names in ${wanted} are synced`)
  const files = steps.flatMap(({ what }, i) => (what === 'sync' ? [i] : []))
  const missed = new Set(
    files.filter(isMissed).map((i) => say(steps[i]?.path as string).replaceAll(/\d{20}/g, 'N')),
  )
  t.comment(`syncs that are missed when they are left out: ${[...missed].join(' ')}`)
  for (const wanted of [
    'history.tmp',
    'cut.tmp',
    'checkpoints/next.tmp',
    'cut-1/N.seg',
    'cut-2/N.seg',
    'log/N.seg',
  ])
    t.ok(missed.has(`/above/data/${wanted}`), `the bytes of ${wanted}`)
})
