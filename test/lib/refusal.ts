/** How a call refuses its arguments: `CODE message`, or `accepted` when it does not refuse them. */
import { MmsbError } from '../../src/errors.js'

/** Throws any error that is not one of the table: it is a fault of the code under test. */
export function refusal(run: () => unknown): string {
  try {
    run()
  } catch (error) {
    if (error instanceof MmsbError) return `${error.code} ${error.message}`
    throw error
  }
  return 'accepted'
}
