/**
 * Staging one transaction of many pages without holding the event loop.
 *
 * Invariant: all or nothing. When this throws, the batch has left no trace.
 */
import { Slices } from '../../slices.js'
import type { Pending } from '../commands/pending.js'
import type { Host } from '../host.js'
import type { Batch } from './batch.js'

/**
 * Stages the first transaction of a batch, and makes the plan. Ends with the error of `refusal` as soon as
 * that gives one.
 */
export async function stageInSlices(
  batch: Batch,
  pending: Pending,
  host: Host,
  refusal: () => Error | undefined,
): Promise<void> {
  const slices = new Slices(undefined, () => host.ticksMs())
  await slices.run(batch.staging(pending), refusal)
  try {
    await slices.run(batch.preparing(), refusal)
    const error = refusal()
    if (error !== undefined) throw error
  } catch (error) {
    batch.abandon()
    throw error
  }
}
