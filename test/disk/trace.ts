/**
 * Reads what traced_io.cpp wrote down, and says which changes a crash could still have lost when they had to
 * be durable: at each mark, before a file gets its name, and before something is removed that may be needed
 * without them.
 *
 * Invariants: only a sync of a folder makes the names in it durable, and only a sync of a file its bytes. Of
 * changes without a sync, any may be lost and any may stay.
 */
import path from 'node:path'

/** One line of the trace. */
export interface Step {
  readonly what: string
  readonly path: string
  readonly to: string
}

export function parseTrace(text: string): Step[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const [what = '', from = '', to = ''] = line.split('\t')
      return { what, path: from, to }
    })
}

/** Drafts get another name; the others may be lost: they can be made again, or decide nothing. */
const LOSABLE = /\.tmp$|\/(lock|catalog)\.db|\/holder\.txt$|\.db-(shm|journal)$/
const isKept = (file: string): boolean => !LOSABLE.test(file)
/** What is removed or moved only when everything before is durable. */
const isDecisive = (file: string): boolean => /\.seg$|\/(log|history\.json|cut\.json)$/.test(file)
const isAside = (dir: string): boolean => /^cut-\d+$/.test(path.basename(dir))
const isCheckpoint = (file: string): boolean => /\/checkpoints\/\d+\.db$/.test(file)
/** A file of chunks that no checkpoint has as its own any more. */
const isRetired = (file: string): boolean => file.endsWith('.old')

class Tracker {
  readonly lost: string[] = []
  /** Files with bytes that no sync covered. */
  readonly #dirty = new Set<string>()
  /** Names that changed since the last sync of their folder, and how. */
  readonly #changed = new Map<string, string>()
  /** Where files went whose old names may still be there. */
  readonly #movedTo = new Map<string, string>()
  readonly #names = new Set<string>()

  take({ what, path: file, to }: Step): void {
    if (what === 'write') this.#dirty.add(file)
    else if (what === 'sync') this.#dirty.delete(file)
    else if (what === 'syncdir') this.#syncFolder(file)
    else if (what === 'create' || what === 'mkdir') this.#appears(file, what)
    else if (what === 'unlink' || what === 'rmdir') this.#goes(file, what)
    else if (what === 'rename') this.#moves(file, to)
    else if (what === 'mark') this.#mark(file)
    else throw new Error(`a line of the trace begins with ${what}`)
  }

  #syncFolder(dir: string): void {
    for (const name of [...this.#changed.keys()]) {
      if (path.dirname(name) !== dir) continue
      this.#changed.delete(name)
      const to = this.#movedTo.get(name)
      this.#movedTo.delete(name)
      if (to !== undefined && isKept(to) && this.#changed.has(to) && path.dirname(to) !== dir)
        this.lost.push(`${to}, before its old name is gone`)
    }
  }

  #appears(file: string, how: string): void {
    const dir = path.dirname(file)
    if (this.#changed.has(dir)) this.lost.push(`${dir} (${this.#changed.get(dir)}), before ${file} is in it`)
    if (how === 'mkdir' && isAside(file)) this.#wants(`before ${file} is made`, () => true)
    this.#names.add(file)
    this.#changed.set(file, how)
  }

  #disappears(file: string, how: string): void {
    this.#names.delete(file)
    this.#changed.set(file, how)
  }

  #goes(file: string, what: string): void {
    if (isDecisive(file) || what === 'rmdir') this.#wants(`before ${file} is removed`, () => true)
    this.#wantsNewer(file)
    if (isRetired(file)) this.#wants(`before ${file} is removed`, (other) => !isRetired(other))
    for (const name of this.#changed.keys()) if (path.dirname(name) === file) this.#changed.delete(name)
    this.#disappears(file, 'removed')
    this.#dirty.delete(file)
    // SQLite has copied it into the database before.
    if (file.endsWith('-wal')) this.#changed.delete(file)
  }

  #moves(from: string, to: string): void {
    if (isKept(to) && this.#dirty.has(from)) this.lost.push(`the bytes of ${to} before it gets its name`)
    // Moving a segment aside, or a whole log to its place, is a step of its own.
    if (isDecisive(from)) this.#wants(`before ${from} is moved`, () => true)
    this.#wantsNewer(from)
    this.#disappears(from, 'moved away')
    this.#movedTo.set(from, to)
    // A draft that is a folder is removed as a whole.
    if (path.dirname(from).endsWith('.tmp')) this.#changed.delete(from)
    this.#appears(to, 'renamed')
    const moved = (file: string): string =>
      file === from || file.startsWith(`${from}/`) ? to + file.slice(from.length) : file
    for (const file of [...this.#dirty]) if (this.#dirty.delete(file)) this.#dirty.add(moved(file))
    for (const name of [...this.#names]) if (this.#names.delete(name)) this.#names.add(moved(name))
    for (const [name, how] of [...this.#changed]) {
      if (!name.startsWith(`${from}/`)) continue
      this.#changed.delete(name)
      this.#changed.set(moved(name), how)
    }
  }

  /** Before a checkpoint goes, the one that was made last has its name. */
  #wantsNewer(file: string): void {
    if (!isCheckpoint(file)) return
    const isNew = (other: string): boolean => isCheckpoint(other) && this.#changed.get(other) === 'renamed'
    this.#wants(`before ${file} goes`, isNew)
  }

  #mark(text: string): void {
    if (text === 'killed') {
      // The next process cannot know which of the last changes were synced. Folders with something
      // in them were.
      const folders = new Set([...this.#names].map((name) => path.dirname(name)))
      for (const name of this.#names)
        if (!folders.has(name)) this.#changed.set(name, 'left by a process that was killed')
    } else {
      this.#wants(`at "${text}"`, () => true)
    }
  }

  #wants(when: string, isWanted: (file: string) => boolean): void {
    for (const file of this.#dirty)
      if (isKept(file) && isWanted(file)) this.lost.push(`the bytes of ${file}, ${when}`)
    for (const [name, how] of this.#changed)
      if (isKept(name) && isWanted(name)) this.lost.push(`${name} (${how}), ${when}`)
  }

  /** Whether a sync of the folder would make a name durable that must be. */
  needs(dir: string): boolean {
    return [...this.#changed.keys()].some((name) => path.dirname(name) === dir && isKept(name))
  }
}

/** The changes that a crash could have lost, each with the moment. */
export function lostChanges(steps: readonly Step[]): string[] {
  const tracker = new Tracker()
  for (const step of steps) tracker.take(step)
  return [...new Set(tracker.lost)]
}

/** Indices of the syncs of folders that make a name durable which must be. */
export function neededFolderSyncs(steps: readonly Step[]): number[] {
  const tracker = new Tracker()
  return steps.flatMap((step, i) => {
    const isNeeded = step.what === 'syncdir' && tracker.needs(step.path)
    tracker.take(step)
    return isNeeded ? [i] : []
  })
}
