/**
 * Removes checkpoint files that are no longer needed.
 *
 * Invariants: a file is removed only when it is no kept checkpoint and no kept checkpoint refers to it. If
 * the references of one cannot be read, nothing is removed. Each step is durable before the next begins, so a
 * crash in between leaves every listed checkpoint with all its chunks: first, files that are no longer
 * checkpoints are renamed or removed, then retired files are removed.
 */
import { type CheckpointFolder, stemOf } from './folder.js'
import { CHECKPOINT_ENDING, checkpointName, checkpointStem, RETIRED_ENDING } from './format.js'

/** The files each checkpoint refers to. Files never change, so each is read once. */
export type References = Map<number, readonly string[]>

/** Keeps the checkpoints of these epochs and the files they refer to. Returns how many files were removed. */
export async function collectFiles(
  folder: CheckpointFolder,
  epochs: readonly number[],
  known: References,
): Promise<number> {
  const needed = new Set<string>()
  for (const epoch of epochs) {
    const stems = known.get(epoch) ?? referredBy(folder, epoch)
    known.set(epoch, stems)
    for (const stem of stems) needed.add(stem)
  }
  const kept = new Set(epochs.map(checkpointStem))
  const removed = await retire(folder, kept, needed)
  return removed + (await removeRetired(folder, needed))
}

function referredBy(folder: CheckpointFolder, epoch: number): string[] {
  const db = folder.open(checkpointName(epoch))
  try {
    if (Number(db.pragma('user_version', { simple: true })) < 2) return []
    return db.prepare('SELECT name FROM file').pluck().all() as string[]
  } finally {
    db.close()
  }
}

/**
 * Removes files that are no longer checkpoints; those that others refer to get the name of a retired file.
 */
async function retire(
  folder: CheckpointFolder,
  kept: ReadonlySet<string>,
  needed: ReadonlySet<string>,
): Promise<number> {
  let removed = 0
  let changed = false
  for (const name of folder.list()) {
    const stem = stemOf(name)
    if (!name.endsWith(CHECKPOINT_ENDING) || kept.has(stem)) continue
    changed = true
    if (needed.has(stem)) folder.rename(name, stem + RETIRED_ENDING)
    else {
      folder.remove(name)
      removed++
    }
  }
  if (changed) await folder.syncDir()
  return removed
}

/** Removes retired files that no checkpoint refers to. */
async function removeRetired(folder: CheckpointFolder, needed: ReadonlySet<string>): Promise<number> {
  const names = folder.list().filter((name) => name.endsWith(RETIRED_ENDING) && !needed.has(stemOf(name)))
  for (const name of names) folder.remove(name)
  if (names.length > 0) await folder.syncDir()
  return names.length
}
