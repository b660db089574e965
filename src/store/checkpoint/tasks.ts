/**
 * The work of the checkpoint's thread: writes files, checks them and removes those that are no longer needed.
 * Answers requests in order; writes one file at a time.
 */
import { textOf } from '../os/errors.js'
import { type CheckpointBase, openBase } from './base.js'
import { collectFiles, type References } from './collect.js'
import { openCheckpointFile } from './file-reader.js'
import { type CheckpointMeta, CheckpointWriter, type PagePiece } from './file-writer.js'
import type { CheckpointFolder } from './folder.js'
import { checkpointName } from './format.js'

export type CheckpointRequest =
  /**
   * Begins a file. Answers with the epoch of the base, or why it cannot be used; then every page must be
   * given.
   */
  | { readonly type: 'begin'; readonly base: number | undefined; readonly busId: string }
  /** Answers with the bytes, so that the buffer can be used again. */
  | { readonly type: 'piece'; readonly pages: readonly PagePiece[]; readonly bytes: Uint8Array }
  /** Answers with the size of the file. */
  | { readonly type: 'end'; readonly epoch: number; readonly meta: CheckpointMeta }
  /** Removes the file being written. */
  | { readonly type: 'abandon' }
  /** Answers with what is wrong with a checkpoint, or undefined. */
  | { readonly type: 'verify'; readonly epoch: number; readonly busId: string }
  /** Keeps the checkpoints of these epochs. Answers with how many files were removed. */
  | { readonly type: 'collect'; readonly epochs: readonly number[] }

export class CheckpointTasks {
  readonly #folder: CheckpointFolder
  readonly #references: References = new Map()
  #writer: CheckpointWriter | undefined

  constructor(folder: CheckpointFolder) {
    this.#folder = folder
  }

  async handle(request: CheckpointRequest): Promise<unknown> {
    try {
      return await this.#answer(request)
    } catch (error) {
      this.#writer?.abandon()
      this.#writer = undefined
      throw error
    }
  }

  #answer(request: CheckpointRequest): unknown {
    switch (request.type) {
      case 'begin':
        return this.#begin(request.base, request.busId)
      case 'piece':
        if (this.#writer === undefined) throw new Error('no checkpoint is being written')
        this.#writer.piece(request.pages, request.bytes)
        return request.bytes
      case 'end':
        return this.#end(request.epoch, request.meta)
      case 'abandon':
        throw new Error('the checkpoint was given up')
      case 'verify': {
        const opened = openCheckpointFile(this.#folder, request.epoch, request.busId)
        if (typeof opened === 'string') return opened
        opened.close()
        return undefined
      }
      case 'collect':
        return collectFiles(this.#folder, request.epochs, this.#references)
    }
  }

  async #end(epoch: number, meta: CheckpointMeta): Promise<number | undefined> {
    const bytes = await this.#writer?.end(checkpointName(epoch), meta)
    // From now on there is nothing to abandon.
    this.#writer = undefined
    return bytes
  }

  #begin(epoch: number | undefined, busId: string): number | string | undefined {
    let base: CheckpointBase | undefined
    let why: string | undefined
    try {
      if (epoch !== undefined) base = openBase(this.#folder, epoch, busId)
    } catch (error) {
      why = textOf(error)
    }
    try {
      this.#writer = new CheckpointWriter(this.#folder, base)
    } catch (error) {
      base?.close()
      throw error
    }
    return base?.epoch ?? why
  }
}
