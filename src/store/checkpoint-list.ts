/**
 * The checkpoints of an open store: writes new ones, keeps the list of the usable ones, removes old ones.
 *
 * Invariants: jobs run one at a time. The list only names durable checkpoints. The thread starts with the
 * first job and ends at close, or when a job fails.
 */
import { bytesOf, writeCheckpoint } from './checkpoint/feed-pages.js'
import type { CheckpointThread } from './checkpoint/thread.js'
import { textOf } from './os/errors.js'
import { thinned } from './retention.js'
import type { Catalog, CheckpointInfo, CheckpointSource, Notice } from './types.js'

export interface CheckpointListOptions {
  readonly busId: string
  readonly catalog: Catalog
  readonly startThread: () => CheckpointThread
  /** Checkpoints kept at most. */
  readonly keptMax: number
  /** Bytes of pages that are read at once. */
  readonly pieceBytes: number
  readonly notify: (level: Notice['level'], message: string) => void
}

export class CheckpointList {
  readonly #options: CheckpointListOptions
  /** Oldest first. */
  #infos: readonly CheckpointInfo[]
  /** Epochs of checkpoints that this process has read back completely. */
  readonly #verified = new Set<number>()
  /** Settles when the jobs begun so far are done. */
  #jobs: Promise<unknown> = Promise.resolve()
  #thread: CheckpointThread | undefined

  constructor(
    options: CheckpointListOptions,
    infos: readonly CheckpointInfo[],
    verified: number | undefined,
  ) {
    this.#options = options
    this.#infos = [...infos].sort((a, b) => a.epoch - b.epoch)
    if (verified !== undefined) this.#verified.add(verified)
  }

  /** The usable checkpoints, oldest first. */
  all(): CheckpointInfo[] {
    return [...this.#infos]
  }

  epochs(): number[] {
    return this.#infos.map(({ epoch }) => epoch)
  }

  /** Runs a job after those before it. */
  inTurn<T>(job: () => Promise<T>): Promise<T> {
    const done = this.#jobs.then(job)
    this.#jobs = done.catch(() => {})
    return done
  }

  /**
   * Writes a checkpoint, enters it in the catalog and thins out the older ones. A checkpoint of the same
   * epoch is not written again. Throws LOG_FULL, INTERNAL.
   */
  async write(source: CheckpointSource, syncLog: () => Promise<void>): Promise<CheckpointInfo> {
    const { epoch } = source.header
    const known = this.#infos.find((info) => info.epoch === epoch)
    if (known !== undefined) {
      source.onRead?.()
      return { ...known, pages: source.pages.length, bytes: bytesOf(source.pages), newBytes: 0, ms: 0 }
    }
    const { busId, catalog, keptMax, pieceBytes, notify } = this.#options
    return this.#withThread(async (thread) => {
      const info = await writeCheckpoint({
        thread,
        busId,
        base: this.#infos.at(-1)?.epoch,
        source,
        pieceBytes,
        syncLog,
        onNotice: (message) => notify('warn', message),
      })
      this.#infos = [...this.#infos, info]
      await catalog.addCheckpoint(info).catch((error: unknown) => {
        notify('warn', `the catalog could not list checkpoint ${epoch}: ${textOf(error)}`)
      })
      await this.#keep(thread, thinned(this.epochs(), keptMax))
      return info
    })
  }

  /**
   * Removes the checkpoints before the anchor that `anchorNow` chooses (src/store/retention.ts), once the
   * anchor and the two newest checkpoints are verified. Returns the anchor; undefined: nothing may be
   * removed.
   */
  async removeBefore(anchorNow: () => number | undefined): Promise<number | undefined> {
    if (anchorNow() === undefined) return undefined
    return this.#withThread(async (thread) => {
      const anchor = await this.#verifiedAnchor(thread, anchorNow)
      if (anchor === undefined) return undefined
      await this.#keep(
        thread,
        this.epochs().filter((epoch) => epoch >= anchor),
      )
      return anchor
    })
  }

  /**
   * Reads the anchor and the two newest checkpoints back. A damaged one leaves the list, and the anchor is
   * chosen again.
   */
  async #verifiedAnchor(
    thread: CheckpointThread,
    anchorNow: () => number | undefined,
  ): Promise<number | undefined> {
    const { busId, notify } = this.#options
    for (;;) {
      const anchor = anchorNow()
      if (anchor === undefined) return undefined
      const unread = [anchor, ...this.epochs().slice(-2)].find((epoch) => !this.#verified.has(epoch))
      if (unread === undefined) return anchor
      const why = await thread.ask({ type: 'verify', epoch: unread, busId })
      if (why === undefined) this.#verified.add(unread)
      else {
        notify('error', `checkpoint ${unread} is not sound and is not counted: ${String(why)}`)
        this.#infos = this.#infos.filter(({ epoch }) => epoch !== unread)
      }
    }
  }

  /**
   * Drops the other checkpoints from the list and the catalog, and removes the files that are then unused.
   */
  async #keep(thread: CheckpointThread, epochs: readonly number[]): Promise<void> {
    const { catalog, notify } = this.#options
    const kept = new Set(epochs)
    try {
      for (const { epoch } of this.#infos) {
        if (!kept.has(epoch)) await catalog.removeCheckpoint(epoch).catch(() => {})
      }
      this.#infos = this.#infos.filter(({ epoch }) => kept.has(epoch))
      await thread.ask({ type: 'collect', epochs })
    } catch (error) {
      notify('warn', `old checkpoints could not be removed: ${textOf(error)}`)
    }
  }

  async #withThread<T>(job: (thread: CheckpointThread) => Promise<T>): Promise<T> {
    this.#thread ??= this.#options.startThread()
    try {
      return await job(this.#thread)
    } catch (error) {
      await this.#endThread()
      throw error
    }
  }

  async #endThread(): Promise<void> {
    const thread = this.#thread
    this.#thread = undefined
    await thread?.end()
  }

  /** Waits for the jobs begun so far and ends the thread. */
  async close(): Promise<void> {
    await this.#jobs
    await this.#endThread()
  }
}
