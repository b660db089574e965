/** What a call answers when it refuses its arguments: `CODE message`, or `accepted` when it does not. */
import { MmsbError } from '../../src/errors.js'

/** Any other error is thrown again: it would be a fault of the code under test. */
export function refusal(run: () => unknown): string {
  try {
    run()
  } catch (error) {
    if (error instanceof MmsbError) return `${error.code} ${error.message}`
    throw error
  }
  return 'accepted'
}
