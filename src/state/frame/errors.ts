/** The errors of a frame that cannot be decoded. */
import { MmsbError } from '../../errors.js'

export const malformed = (detail: string, cause?: unknown): MmsbError =>
  new MmsbError('INVALID_REQUEST', `frame: ${detail}`, undefined, cause === undefined ? undefined : { cause })

export const tooLarge = (detail: string): MmsbError => new MmsbError('PAYLOAD_TOO_LARGE', `frame: ${detail}`)
