/**
 * What one WebSocket leaves in the audit trail: frames that create or delete pages, and on request everything
 * that writes.
 *
 * Invariants: a frame has a line under the number by which it was answered. Where actions wait for their
 * lines, a message waits before any of its frames is queued, and answers wait for the lines of what they
 * answer. Frames of one answer share a line.
 */
import type { Action, Auditor } from '../../audit/auditor.js'
import type { Outcome } from '../../audit/line.js'
import type { FrameWatch } from '../../engine/types.js'
import { MmsbError } from '../../errors.js'
import { alignedCopyOf } from '../../state/bytes.js'
import { eachCommand } from '../../state/frame/frame.js'
import { decodeFrame } from '../../state/frame/reader.js'
import {
  COMMAND_CREATE_PAGE,
  COMMAND_DELETE_PAGE,
  COMMAND_DELTA,
  FRAME_HEADER_BYTES,
  FRAME_MAGIC,
} from '../../wire/frame.js'

type Who = Pick<Action, 'requestId' | 'principal' | 'ip'>

/** How something ended. */
interface End {
  readonly epoch?: number
  readonly error?: unknown
}

export class SessionAudit {
  readonly watch: FrameWatch
  readonly #auditor: Auditor
  readonly #who: Who
  /** The pages of frames that are not answered yet. */
  readonly #pages = new Map<number, Set<string>>()

  constructor(auditor: Auditor, who: Who) {
    this.#auditor = auditor
    this.#who = who
    this.watch = {
      withWrites: auditor.withWrites,
      saw: (number, page) => {
        const pages = this.#pages.get(number)
        if (pages === undefined) this.#pages.set(number, new Set([page]))
        else pages.add(page)
      },
    }
  }

  /** Whether a message of frames must be in the trail before it is taken. */
  mustBegin(message: Uint8Array): boolean {
    const { isClosed, withWrites } = this.#auditor
    return isClosed && (withWrites || framesIn(message).some(definesPages))
  }

  /** @throws MmsbError AUDIT_FAILED */
  beginFrames(): Promise<void> {
    return this.#auditor.begin({ ...this.#who, action: FRAMES })
  }

  /** Frames were answered. What is returned is undefined if nobody has to wait. */
  framesEnded(first: number, count: number, end: End): Promise<void> | undefined {
    if (this.#pages.size === 0) return undefined
    const pages = new Set<string>()
    let frames = 0
    for (let number = first; number < first + count; number++) {
      const own = this.#pages.get(number)
      if (own === undefined) continue
      this.#pages.delete(number)
      frames++
      for (const page of own) pages.add(page)
    }
    if (frames === 0) return undefined
    return this.#note({ ...this.#who, action: FRAMES, pages: [...pages] }, end, frames)
  }

  /** Whether transactions must be in the trail before they are taken. */
  get mustBeginTransactions(): boolean {
    return this.#auditor.isClosed && this.#auditor.withWrites
  }

  /** @throws MmsbError AUDIT_FAILED */
  beginTransaction(ops: readonly { readonly page: string }[]): Promise<void> {
    return this.#auditor.begin(this.#transaction(ops))
  }

  transactionEnded(ops: readonly { readonly page: string }[], end: End): Promise<void> | undefined {
    return this.#auditor.withWrites ? this.#note(this.#transaction(ops), end) : undefined
  }

  #transaction(ops: readonly { readonly page: string }[]): Action {
    return { ...this.#who, action: 'commitTransaction', pages: [...new Set(ops.map(({ page }) => page))] }
  }

  #note(action: Action, { epoch, error }: End, count = 1): Promise<void> | undefined {
    const written = this.#auditor.note({
      ...{ ...action, epoch, outcome: outcomeOf(error) },
      code: error === undefined ? undefined : error instanceof MmsbError ? error.code : 'INTERNAL',
      count: count === 1 ? undefined : count,
    })
    return this.#auditor.isClosed ? written : undefined
  }
}

const FRAMES = 'commitFrame'

function outcomeOf(error: unknown): Outcome {
  if (error === undefined) return 'done'
  return error instanceof MmsbError && error.status < 500 ? 'refused' : 'failed'
}

/** The frames of a message; bytes that are not a frame count as one, the last. */
export function framesIn(message: Uint8Array): Uint8Array[] {
  const view = new DataView(message.buffer, message.byteOffset, message.byteLength)
  const frames: Uint8Array[] = []
  for (let at = 0; at < message.length; ) {
    const isFrame = message.length - at >= FRAME_HEADER_BYTES && view.getUint32(at, true) === FRAME_MAGIC
    const length = isFrame ? view.getUint32(at + 4, true) : 0
    const end = length < FRAME_HEADER_BYTES || length % 8 !== 0 ? message.length : at + length
    frames.push(message.subarray(at, end))
    at = end
  }
  return frames
}

/** Whether a frame creates or deletes pages. */
function definesPages(frame: Uint8Array): boolean {
  if (isBareDelta(frame)) return false
  try {
    let defines = false
    eachCommand(decodeFrame(alignedCopyOf(frame)), ({ type }) => {
      defines ||= type === COMMAND_CREATE_PAGE || type === COMMAND_DELETE_PAGE
    })
    return defines
  } catch {
    return false
  }
}

/**
 * Recognizes nearly every frame of those who write often, without decoding it: one delta and nothing else.
 */
function isBareDelta(frame: Uint8Array): boolean {
  if (frame.length < FRAME_HEADER_BYTES + 8) return true
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength)
  const hasBareHeader = [16, 20, 24, 28].every((at) => view.getUint32(at, true) === 0)
  return hasBareHeader && view.getUint32(12, true) === 1 && view.getUint32(32, true) === COMMAND_DELTA
}
