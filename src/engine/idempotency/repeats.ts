/**
 * A transaction whose idempotency key was used before: a repeat gets the first answer, anything else
 * IDEMPOTENCY_MISMATCH.
 *
 * Whether it is a repeat is decided by what it would do (fingerprint.ts), not by its spelling. A page
 * that was deleted since, or created anew, cannot be compared any more: then the names of the pages must do.
 */
import { MmsbError } from '../../errors.js'
import type { Registry } from '../pages/registry.js'
import type { CommitResult } from '../types.js'
import { fingerprintOf } from './fingerprint.js'
import type { FirstUse } from './keys.js'

const mismatch = (key: string, why: string): MmsbError =>
  new MmsbError('IDEMPOTENCY_MISMATCH', `The key ${JSON.stringify(key)} was used before: ${why}.`)

/**
 * The answer for deltas to the pages `names`, under a key that was used before. `frameOf` makes their frame.
 * @throws MmsbError IDEMPOTENCY_MISMATCH
 */
export function answerToRepeat(
  key: string,
  first: FirstUse,
  names: readonly string[],
  registry: Registry,
  frameOf: () => Uint8Array,
): Promise<CommitResult> {
  const { answer, fingerprint } = first
  if (answer !== undefined) {
    const isSame = names.every((name) => Object.hasOwn(answer.pages, name))
    if (!isSame || Object.keys(answer.pages).length !== new Set(names).size) {
      throw mismatch(key, 'for other pages')
    }
    const isGone = names.some((name) => {
      const page = registry.byName(name)
      return page === undefined || page.createdEpoch > answer.epoch
    })
    if (isGone) return first.result
  }
  if (fingerprint === undefined || fingerprint === fingerprintFrom(key, frameOf)) return first.result
  throw mismatch(key, 'with another content')
}

function fingerprintFrom(key: string, frameOf: () => Uint8Array): string {
  let frame: Uint8Array
  try {
    frame = frameOf()
  } catch (error) {
    // The first one was accepted, so this is another one.
    if (error instanceof MmsbError)
      throw mismatch(key, `this is another request, and wrong: ${error.message}`)
    throw error
  }
  return fingerprintOf(frame)
}

/** The same for a frame as it was sent. @throws MmsbError IDEMPOTENCY_MISMATCH */
export function answerToRepeatedFrame(
  key: string,
  { fingerprint, result }: FirstUse,
  frame: Uint8Array,
): Promise<CommitResult> {
  if (fingerprint === undefined || fingerprint === fingerprintOf(frame)) return result
  throw mismatch(key, 'with another frame')
}
