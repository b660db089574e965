/** What belongs to a principal, and what it is told where something does not. */
import { createHash } from 'node:crypto'
import { MmsbError } from '../../errors.js'
import { FRAME_KEY_MAX_BYTES } from '../../wire/frame.js'

/** The idempotency key under which a write of a principal is kept. */
export function ownKey(id: string, key: string): string {
  const own = `${id}/${key}`
  if (Buffer.byteLength(own) <= FRAME_KEY_MAX_BYTES || Buffer.byteLength(key) > FRAME_KEY_MAX_BYTES)
    return own
  return `${id}/sha256:${createHash('sha256').update(key).digest('hex')}`
}

export const noPage = (name: string): MmsbError =>
  new MmsbError('PAGE_NOT_FOUND', `There is no page "${name}".`)

export const missing = (scope: string, where = ''): MmsbError =>
  new MmsbError('FORBIDDEN', `This needs the scope ${scope}${where === '' ? '' : ` ${where}`}.`, { scope })

/** The items that `map` shows, each when it is asked for. */
export function* mapped<T>(items: Iterable<T>, map: (item: T) => T | undefined): Generator<T> {
  for (const item of items) {
    const shown = map(item)
    if (shown !== undefined) yield shown
  }
}
