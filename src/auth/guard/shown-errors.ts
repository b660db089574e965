/**
 * What an error says to a principal that may not read all pages.
 *
 * Invariant: no name, count, size or cost of a page that it may not read. Errors whose texts speak of pages
 * that the caller did not name are made anew.
 */
import type { Sender } from '../../engine/types.js'
import { MmsbError } from '../../errors.js'
import { PRINCIPAL_LIMITS } from '../limits/principal-limits.js'

/** Whether the caller may read a page. */
export type Reads = (name: string) => boolean

/** `name` is the page that the caller defines or deletes. */
export function shownError(error: MmsbError, reads: Reads, name?: string): MmsbError {
  const { code } = error
  const page = name === undefined ? 'The page' : `Page "${name}"`
  switch (code) {
    case 'PAGE_IN_USE':
      return new MmsbError(code, `${page} is an input of other pages, or is used by them.`)
    case 'GRAPH_CYCLE':
      return new MmsbError(code, 'The definition would close a cycle.')
    case 'COST_EXCEEDED':
      return new MmsbError(code, 'The work is estimated to cost more than the limit.')
    case 'QUOTA_EXCEEDED': {
      // Which limit it is may be known, but not how much of it all pages together use.
      const { limit, max } = error.extra ?? {}
      // One of its own limits.
      if (typeof limit === 'string' && Object.hasOwn(PRINCIPAL_LIMITS, limit)) return error
      return new MmsbError(code, 'All pages together would be more than a limit allows.', { limit, max })
    }
    case 'OUT_OF_MEMORY':
      return new MmsbError(code, 'There is not enough memory for this.')
    case 'PAGE_EXISTS':
      return name !== undefined && reads(name)
        ? error
        : new MmsbError(code, `${page} exists with another definition.`)
    case 'INVALID_EXPRESSION':
    case 'SHAPE_MISMATCH': {
      // A changed function does not fit a page that uses it.
      const user = error.extra?.page
      if (typeof user !== 'string' || reads(user)) return error
      return new MmsbError(
        code,
        'A page that uses the function does not compile with it, or gets another dtype.',
      )
    }
    default:
      return error
  }
}

/** A sender of frames whose errors are those of `shownError`. */
export function shieldedSender(sender: Sender, reads: Reads): Sender {
  const shown = (error: unknown): unknown => (error instanceof MmsbError ? shownError(error, reads) : error)
  return {
    watch: sender.watch,
    committed: (first, count, bytes, epoch) => sender.committed(first, count, bytes, epoch),
    failed: (first, count, bytes, error) => sender.failed(first, count, bytes, shown(error)),
    refused: (number, error) => sender.refused(number, shown(error)),
  }
}
