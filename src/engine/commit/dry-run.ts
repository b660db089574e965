/**
 * Executions on trial: deltas are applied and propagated in the live context, looked at, and taken back. The cost is that
 * of the cone, not of the state.
 *
 * Invariants: the caller has the context to itself from the start to the end; afterwards every byte, digest and kept
 * partial result is as before, and the result of the newest epoch can still be read. Nothing is logged and no version
 * moves. When something cannot be taken back, TrialLost is thrown and the context must not be used any more.
 */
import { MmsbError } from '../../errors.js'
import { type ExecuteResult, isBeforeStep, type NativeContext } from '../../ffi/context.js'
import type { Plan } from '../../graph/graph.js'
import { FrameWriter } from '../../state/frame/writer.js'
import { DTYPE_INFO } from '../../wire/dtype.js'
import type { PageRecord } from '../pages/registry.js'

/** The context is no longer that of the newest epoch. */
export class TrialLost extends Error {}

export interface Trial<T> {
  readonly context: NativeContext
  readonly plan: Plan
  readonly frames: Uint8Array
  /** The source pages that the frames write. */
  readonly roots: readonly PageRecord[]
  /** Looks at the state as it would be. */
  readonly collect: (result: ExecuteResult) => T
}

/** Runs a trial on this thread. */
export function runTrial<T>(trial: Trial<T>): T {
  const { context, plan, frames } = trial
  return within(trial, (back) => lookAndTakeBack(trial, back, () => context.execute(plan.steps, frames)))
}

/** A trial whose execution runs on another thread. */
export interface RunningTrial<T> {
  readonly done: Promise<T>
  /** Ends the trial on this thread, now: it waits for the execution, looks, and takes everything back. */
  settle(): void
}

/** Starts a trial on another thread; `onEnd` is called when the context is free again. */
export function startTrial<T>(trial: Trial<T>, onEnd: () => void): RunningTrial<T> {
  const { context, plan, frames } = trial
  let outcome: { value: T } | { error: unknown } | undefined
  const back = begin(trial)
  const finish = (take: () => ExecuteResult): void => {
    if (outcome !== undefined) return
    try {
      outcome = { value: lookAndTakeBack(trial, back, take) }
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

function lookAndTakeBack<T>(trial: Trial<T>, back: Back, take: () => ExecuteResult): T {
  const result = take()
  try {
    return trial.collect(result)
  } finally {
    takeBack(back)
  }
}

function takeBack(back: Back): void {
  try {
    back()
  } catch (error) {
    throw new TrialLost(`a trial could not be taken back: ${(error as Error).message}`, { cause: error })
  }
}

function within<T>(trial: Trial<unknown>, work: (back: Back) => T): T {
  const back = begin(trial)
  try {
    return work(back)
  } finally {
    end(trial.context)
  }
}

/** Takes the trial's execution back. */
type Back = () => void

function begin({ context, plan, roots }: Trial<unknown>): Back {
  let back: Back
  if (context.keepsOverwritten) {
    context.keep(true)
    back = () => context.undo(plan.steps)
  } else {
    back = rewrite(context, plan, roots)
  }
  context.swapResult()
  return back
}

/**
 * On a device nothing is kept of what is overwritten: the sources are written as they were, and what follows from them is
 * computed again, to the same bits. What a page held before cannot be told so.
 */
function rewrite(context: NativeContext, plan: Plan, roots: readonly PageRecord[]): Back {
  if (plan.steps.some((step) => isBeforeStep(step)))
    throw new MmsbError('UNSUPPORTED_LOCATION', 'Where pages read the past, what-if needs the CPU backend.')
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
