/**
 * Damaged files of every kind through check, open, restore and import: typed errors only, and nothing that a
 * checksum covers is accepted changed. Forged ones, whose checksums are right, get further: they end in an
 * error of the table or in a bus that works, and `log check` finds values that are not those of the digests.
 * MMSB_FUZZ_MUTANTS sets how many, MMSB_FUZZ_SEED where to begin.
 */
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { events, eventsIn } from '../../src/cli/commands/events.js'
import { StartError } from '../../src/cli/flags.js'
import { withNpy, writeNpy } from '../../src/cli/npy-files.js'
import { frameProblem, replayFolder } from '../../src/engine/history/check-replay.js'
import { MmsbError } from '../../src/errors.js'
import { crc32c } from '../../src/ffi/library.js'
import { Bus } from '../../src/index.js'
import { backupFolder } from '../../src/store/offline/backup.js'
import { checkFolder } from '../../src/store/offline/check.js'
import { restoreFolder } from '../../src/store/offline/restore.js'
import { realDisk } from '../../src/store/os/disk.js'
import { Draw } from '../lib/draw.js'
import { folder } from '../lib/folder.js'
import { forgeCatalog, forgeCheckpoint, forgeEvents, forgeManifest, forgeNpy, forgeSegment } from './forge.js'
import { mutate } from './mutate.js'

const MUTANTS = Number(process.env.MMSB_FUZZ_MUTANTS ?? 60)
const SEED = Number(process.env.MMSB_FUZZ_SEED ?? 1)
const access = { disk: realDisk(), crc32c }

interface Sample {
  readonly dir: string
  /** The digest of the state at each epoch. */
  readonly digests: ReadonlyMap<number, string>
}

const open = (dataDir: string): Promise<Bus> =>
  Bus.open({ dataDir, backend: 'cpu', threads: 1, fsync: 'off', segmentBytes: 64 * 1024 })

async function sample(t: Test): Promise<Sample> {
  const dir = folder(t)
  const dataDir = path.join(dir, 'data')
  const digests = new Map<number, string>()
  const bus = await open(dataDir)
  await bus.create('a', { dtype: 'f64', shape: [1_000] })
  digests.set(bus.epoch, bus.status().digest)
  await bus.derive('b', { op: 'map', inputs: { a: 'a' }, expr: 'a * 3' })
  while (bus.epoch < 24) {
    digests.set(bus.epoch, bus.status().digest)
    if (bus.epoch === 10) await bus.checkpoint()
    await bus.write(
      'a',
      Float64Array.from({ length: 1_000 }, (_, i) => bus.epoch * 1_000 + i),
    )
  }
  digests.set(bus.epoch, bus.status().digest)
  await bus.close()
  await backupFolder(access, dataDir, path.join(dir, 'backup'))
  await events(['export', path.join(dir, 'events'), '--data-dir', dataDir])
  await writeNpy(path.join(dir, 'page.npy'), 'f64', [10], async () => new Float64Array(10).fill(7))
  return { dir, digests }
}

/** Runs; gives the error of the table, or undefined. Throws any other error. */
async function refusal(run: () => unknown): Promise<Error | undefined> {
  try {
    await run()
    return undefined
  } catch (error) {
    if (error instanceof MmsbError || error instanceof StartError) return error
    throw error
  }
}

const pickFile = (draw: Draw, dir: string): string => path.join(dir, draw.pick(fs.readdirSync(dir).sort()))

function damage(draw: Draw, file: string): void {
  fs.writeFileSync(file, mutate(draw, fs.readFileSync(file)))
}

/** A changed folder opens with a state that was there, or not at all. */
async function openDamaged(draw: Draw, { dir, digests }: Sample, part: string): Promise<string | undefined> {
  const copy = path.join(dir, 'mutant')
  fs.cpSync(path.join(dir, 'data'), copy, { recursive: true })
  try {
    damage(draw, part === '' ? path.join(copy, 'catalog.db') : pickFile(draw, path.join(copy, part)))
    await refusal(() => checkFolder({ ...access, dir: copy, frameProblem }))
    let digest = ''
    let epoch = 0
    const error = await refusal(async () => {
      const bus = await open(copy)
      epoch = bus.epoch
      digest = bus.status().digest
      await bus.close()
    })
    if (error !== undefined || epoch === 0) return undefined
    return digests.get(epoch) === digest ? undefined : `epoch ${epoch} has another digest`
  } finally {
    fs.rmSync(copy, { recursive: true, force: true })
  }
}

async function restoreDamaged(draw: Draw, { dir }: Sample): Promise<string | undefined> {
  const copy = path.join(dir, 'mutant')
  fs.cpSync(path.join(dir, 'backup'), copy, { recursive: true })
  try {
    damage(draw, pickFile(draw, path.join(copy, draw.pick(['log', 'checkpoints']))))
    const error = await refusal(() => restoreFolder(access, copy, path.join(dir, 'restored')))
    return error === undefined ? 'a changed backup was restored' : undefined
  } finally {
    for (const name of ['mutant', 'restored'])
      fs.rmSync(path.join(dir, name), { recursive: true, force: true })
  }
}

async function replayDamaged(draw: Draw, { dir }: Sample): Promise<string | undefined> {
  const copy = path.join(dir, 'mutant')
  fs.copyFileSync(path.join(dir, 'events'), copy)
  damage(draw, copy)
  const error = await refusal(() => [...eventsIn(copy)])
  fs.rmSync(copy)
  return error === undefined ? 'a changed file of events was read' : undefined
}

async function importDamaged(draw: Draw, { dir }: Sample): Promise<undefined> {
  const copy = path.join(dir, 'mutant')
  fs.copyFileSync(path.join(dir, 'page.npy'), copy)
  damage(draw, copy)
  await refusal(() => withNpy(copy, (npy) => npy.eachPiece(async () => {})))
  fs.rmSync(copy)
}

/** Checks and opens a forged folder, and uses what opens. */
async function useForged(copy: string): Promise<readonly string[]> {
  let problems: readonly string[] = []
  await refusal(() => {
    const report = checkFolder({ ...access, dir: copy, frameProblem, replay: replayFolder(copy, () => {}) })
    problems = report.problems
  })
  await refusal(async () => {
    const bus = await open(copy)
    try {
      await bus.write('a', new Float64Array(1_000).fill(0.5))
      await bus.read('b')
      await bus.checkpoint()
    } finally {
      await bus.close()
    }
  })
  return problems
}

async function forged(
  { dir }: Sample,
  edit: (copy: string) => boolean | undefined,
): Promise<string | undefined> {
  const copy = path.join(dir, 'mutant')
  fs.cpSync(path.join(dir, 'data'), copy, { recursive: true })
  try {
    const mustDiverge = edit(copy) ?? false
    const problems = await useForged(copy)
    return mustDiverge && problems.length === 0 ? 'other values than those of the digests passed' : undefined
  } finally {
    fs.rmSync(copy, { recursive: true, force: true })
  }
}

const forgedLog = (draw: Draw, from: Sample): Promise<string | undefined> =>
  forged(from, (copy) => {
    const file = pickFile(draw, path.join(copy, 'log'))
    const made = forgeSegment(draw, new Uint8Array(fs.readFileSync(file)))
    if (made === undefined) return false
    fs.writeFileSync(file, made.bytes)
    // Without the checkpoint of a later epoch the start replays the forged one too.
    if (draw.chance(0.5)) fs.rmSync(path.join(copy, 'checkpoints'), { recursive: true })
    return made.mustDiverge
  })

const forgedCheckpoint = (draw: Draw, from: Sample): Promise<string | undefined> =>
  forged(from, (copy) => {
    forgeCheckpoint(draw, pickFile(draw, path.join(copy, 'checkpoints')))
    return false
  })

const forgedCatalog = (draw: Draw, from: Sample): Promise<string | undefined> =>
  forged(from, (copy) => {
    forgeCatalog(draw, path.join(copy, 'catalog.db'))
    return false
  })

async function forgedManifest(draw: Draw, { dir }: Sample): Promise<string | undefined> {
  const copy = path.join(dir, 'mutant')
  const to = path.join(dir, 'restored')
  fs.cpSync(path.join(dir, 'backup'), copy, { recursive: true })
  const file = path.join(copy, 'backup.json')
  const before = fs.readFileSync(file)
  const isForged = draw.chance(0.7)
  fs.writeFileSync(file, isForged ? forgeManifest(draw, before.toString()) : mutate(draw, before))
  try {
    const known = fs.readdirSync(dir)
    const error = await refusal(() => restoreFolder(access, copy, to))
    const written = fs.readdirSync(dir).filter((name) => name !== 'restored' && !known.includes(name))
    if (written.length > 0) return `wrote ${written.join()}`
    if (error !== undefined) return undefined
    await refusal(async () => (await open(to)).close())
    return undefined
  } finally {
    for (const name of [copy, to]) fs.rmSync(name, { recursive: true, force: true })
  }
}

async function forgedEvents(draw: Draw, { dir }: Sample): Promise<undefined> {
  const copy = path.join(dir, 'mutant')
  fs.writeFileSync(copy, forgeEvents(draw, fs.readFileSync(path.join(dir, 'events'))))
  await refusal(() => [...eventsIn(copy)])
  fs.rmSync(copy)
}

async function forgedNpy(draw: Draw, { dir }: Sample): Promise<undefined> {
  const copy = path.join(dir, 'mutant')
  fs.writeFileSync(copy, forgeNpy(draw, fs.readFileSync(path.join(dir, 'page.npy'))))
  await refusal(() => withNpy(copy, (npy) => npy.eachPiece(async () => {})))
  fs.rmSync(copy)
}

const TARGETS: readonly ((draw: Draw, sample: Sample) => Promise<string | undefined>)[] = [
  (draw, from) => openDamaged(draw, from, 'log'),
  (draw, from) => openDamaged(draw, from, 'checkpoints'),
  (draw, from) => openDamaged(draw, from, ''),
  restoreDamaged,
  replayDamaged,
  importDamaged,
  forgedLog,
  forgedLog,
  forgedCheckpoint,
  forgedCatalog,
  forgedManifest,
  forgedEvents,
  forgedNpy,
]

t.test('damaged files', { timeout: 3_600_000 }, async (t) => {
  const from = await sample(t)
  for (let seed = SEED; seed < SEED + MUTANTS; seed++) {
    const target = TARGETS[seed % TARGETS.length] as (typeof TARGETS)[number]
    const fault = await target(new Draw(seed), from).catch((error: unknown) => String((error as Error).stack))
    if (fault !== undefined) t.fail(`mutant ${seed}: ${fault}`)
  }
  t.pass(`${MUTANTS} mutants`)
})
