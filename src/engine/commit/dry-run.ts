/**
 * Dry runs: deltas are applied and propagated in the live context, the result is read, and everything is
 * undone. The cost is that of the pages derived from the written ones, not of the whole state.
 *
 * Invariants: the caller has the context to itself from start to end. Afterwards every byte, digest and kept
 * partial result is as before, and the result of the newest epoch can still be read. Nothing is logged and no
 * version moves. If the run cannot be undone, DryRunLost is thrown and the context must not be used any more.
 */
import { MmsbError } from '../../errors.js'
import { type ExecuteResult, isBeforeStep, type NativeContext } from '../../ffi/context.js'
import type { Plan } from '../../graph/graph.js'
import { FrameWriter } from '../../state/frame/writer.js'
import { DTYPE_INFO } from '../../wire/dtype.js'
import type { PageRecord } from '../pages/registry.js'

/** The dry run could not be undone: the context no longer holds the newest epoch. */
export class DryRunLost extends Error {}

export interface DryRun<T> {
  readonly context: NativeContext
  readonly plan: Plan
  readonly frames: Uint8Array
  /** The source pages that the frames write. */
  readonly roots: readonly PageRecord[]
  /** Reads the state as it would be. */
  readonly collect: (result: ExecuteResult) => T
}

/** Does a dry run on this thread. */
export function runDry<T>(dryRun: DryRun<T>): T {
  const { context, plan, frames } = dryRun
  const undo = begin(dryRun)
  try {
    return collectAndUndo(dryRun, undo, () => context.execute(plan.steps, frames))
  } finally {
    end(context)
  }
}

/** A dry run whose execution is on another thread. */
export interface StartedDryRun<T> {
  readonly done: Promise<T>
  /** Ends it now, on this thread: waits for the execution, collects, and undoes everything. */
  settle(): void
}

/** Starts a dry run on another thread; `onEnd` is called when the context is free again. */
export function startDry<T>(dryRun: DryRun<T>, onEnd: () => void): StartedDryRun<T> {
  const { context, plan, frames } = dryRun
  let outcome: { value: T } | { error: unknown } | undefined
  const undo = begin(dryRun)
  const finish = (take: () => ExecuteResult): void => {
    if (outcome !== undefined) return
    try {
      outcome = { value: collectAndUndo(dryRun, undo, take) }
    } catch (error) {
      outcome = { error }
    }
    end(context)
    onEnd()
  }
  const execution = context.executeAsync(plan.steps, frames).then(
    (result) => finish(() => result),
    (error: unknown) =>
      finish(() => {
        throw error
      }),
  )
  const done = execution.then(() => {
    if (outcome !== undefined && 'value' in outcome) return outcome.value
    throw outcome?.error
  })
  return { done, settle: () => finish(() => context.waitSync()) }
}

function collectAndUndo<T>(dryRun: DryRun<T>, undo: Undo, execute: () => ExecuteResult): T {
  const result = execute()
  try {
    return dryRun.collect(result)
  } finally {
    undoOrLose(undo)
  }
}

function undoOrLose(undo: Undo): void {
  try {
    undo()
  } catch (error) {
    throw new DryRunLost(`a dry run could not be undone: ${(error as Error).message}`, { cause: error })
  }
}

/** Undoes the execution of the dry run. */
type Undo = () => void

function begin({ context, plan, roots }: DryRun<unknown>): Undo {
  let undo: Undo
  if (context.keepsOverwritten) {
    context.keep(true)
    undo = () => context.undo(plan.steps)
  } else {
    undo = undoByRewriting(context, plan, roots)
  }
  context.swapResult()
  return undo
}

/**
 * A device does not keep what it overwrites. There, the sources are written back and everything derived from
 * them is computed again, to the same bits. The past of a page cannot be restored this way.
 */
function undoByRewriting(context: NativeContext, plan: Plan, roots: readonly PageRecord[]): Undo {
  if (plan.steps.some((step) => isBeforeStep(step)))
    throw new MmsbError('UNSUPPORTED_LOCATION', 'What-if needs the CPU backend when pages read the past.')
  const writer = new FrameWriter({})
  for (const { id, dtype, elements, bytes } of roots) {
    const values = DTYPE_INFO[dtype].view(new ArrayBuffer(bytes), 0, elements)
    if (bytes === 0) continue
    context.readPage(id, 0, values)
    writer.delta(id, dtype, elements, { offset: 0, values })
  }
  const frames = writer.finish()
  return () => context.execute(plan.steps, frames)
}

function end(context: NativeContext): void {
  context.swapResult()
  if (context.keepsOverwritten) context.keep(false)
}
