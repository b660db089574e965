/**
 * What the checkpoint's thread does: writes files, checks them, removes those that nobody needs. One request, one answer,
 * in order; one file under way at a time.
 */

import { textOf } from '../os/errors.js'
import { type CheckpointBase, openBase } from './base.js'
import { collectFiles, type References } from './collect.js'
import { openCheckpointFile } from './file-reader.js'
import { type CheckpointMeta, CheckpointWriter, type PagePiece } from './file-writer.js'
import type { CheckpointFolder } from './folder.js'
import { checkpointName } from './format.js'

export type CheckpointRequest =
  /** Begins a file. Answers with the epoch of the base, or why it cannot be used (then every page is to be given). */
  | { readonly type: 'begin'; readonly base: number | null; readonly busId: string }
  /** Answers with the bytes, so that the buffer can be used again. */
  | { readonly type: 'piece'; readonly pages: readonly PagePiece[]; readonly bytes: Uint8Array }
  /** Answers with the size of the file. */
  | { readonly type: 'end'; readonly epoch: number; readonly meta: CheckpointMeta }
  /** Leaves nothing of the file under way. */
  | { readonly type: 'abandon' }
  /** Answers with what is wrong with a checkpoint, or null. */
  | { readonly type: 'verify'; readonly epoch: number; readonly busId: string }
  /** Answers with how many files went. */
  | { readonly type: 'collect'; readonly epochs: readonly number[] }

export class CheckpointTasks {
  private writer: CheckpointWriter | null = null
  private readonly references: References = new Map()

  constructor(private readonly place: CheckpointFolder) {}

  async handle(request: CheckpointRequest): Promise<unknown> {
    try {
      return await this.answer(request)
    } catch (error) {
      this.writer?.abandon()
      this.writer = null
      throw error
    }
  }

  private answer(request: CheckpointRequest): unknown {
    switch (request.type) {
      case 'begin':
        return this.begin(request.base, request.busId)
      case 'piece':
        if (this.writer === null) throw new Error('no checkpoint is under way')
        this.writer.piece(request.pages, request.bytes)
        return request.bytes
      case 'end':
        return this.writer?.end(checkpointName(request.epoch), request.meta)
      case 'abandon':
        throw new Error('the checkpoint was given up')
      case 'verify': {
        const opened = openCheckpointFile(this.place, request.epoch, request.busId)
        if (typeof opened === 'string') return opened
        opened.close()
        return null
      }
      case 'collect':
        return collectFiles(this.place, request.epochs, this.references)
    }
  }

  private begin(epoch: number | null, busId: string): number | string | null {
    let base: CheckpointBase | null = null
    let why: string | null = null
    try {
      if (epoch !== null) base = openBase(this.place, epoch, busId)
    } catch (error) {
      why = textOf(error)
    }
    try {
      this.writer = new CheckpointWriter(this.place, base)
    } catch (error) {
      base?.close()
      throw error
    }
    return base?.epoch ?? why
  }
}
