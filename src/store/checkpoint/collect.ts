/**
 * Removes checkpoint files that nobody needs.
 *
 * Invariants: a file goes only when it is no kept checkpoint and no kept checkpoint refers to it; when it cannot be told
 * what one refers to, nothing goes. A step is durable before the next begins, so that a crash between them leaves every
 * checkpoint that is still listed with all its chunks: first what is no checkpoint any more loses its name or is removed,
 * then retired files go.
 */

import { type CheckpointFolder, stemOf } from './folder.js'
import { CHECKPOINT_ENDING, checkpointName, checkpointStem, RETIRED_ENDING } from './format.js'

/** What each checkpoint refers to; files never change, so it is looked at once. */
export type References = Map<number, readonly string[]>

/** Keeps the checkpoints of these epochs and what they refer to. Returns how many files went. */
export async function collectFiles(
  place: CheckpointFolder,
  epochs: readonly number[],
  known: References,
): Promise<number> {
  const needed = new Set<string>()
  for (const epoch of epochs) {
    const stems = known.get(epoch) ?? referredBy(place, epoch)
    known.set(epoch, stems)
    for (const stem of stems) needed.add(stem)
  }
  const kept = new Set(epochs.map(checkpointStem))
  const gone = await retire(place, kept, needed)
  return gone + (await drop(place, needed))
}

function referredBy(place: CheckpointFolder, epoch: number): string[] {
  const db = place.open(checkpointName(epoch))
  try {
    if (Number(db.pragma('user_version', { simple: true })) < 2) return []
    return db.prepare('SELECT name FROM file').pluck().all() as string[]
  } finally {
    db.close()
  }
}

async function retire(
  place: CheckpointFolder,
  kept: ReadonlySet<string>,
  needed: ReadonlySet<string>,
): Promise<number> {
  let gone = 0
  let changed = false
  for (const name of place.list()) {
    const stem = stemOf(name)
    if (!name.endsWith(CHECKPOINT_ENDING) || kept.has(stem)) continue
    changed = true
    if (needed.has(stem)) place.rename(name, stem + RETIRED_ENDING)
    else {
      place.remove(name)
      gone++
    }
  }
  if (changed) await place.syncDir()
  return gone
}

async function drop(place: CheckpointFolder, needed: ReadonlySet<string>): Promise<number> {
  const names = place.list().filter((name) => name.endsWith(RETIRED_ENDING) && !needed.has(stemOf(name)))
  for (const name of names) place.remove(name)
  if (names.length > 0) await place.syncDir()
  return names.length
}
