/**
 * Executions on trial: deltas are applied and propagated in the live context, looked at, and taken back. The cost is that
 * of the cone, not of the state.
 *
 * Invariants: the caller has the context to itself from the start to the end; afterwards every byte, digest and kept
 * partial result is as before, and the result of the newest epoch can still be read. Nothing is logged and no version
 * moves. When something cannot be taken back, TrialLost is thrown and the context must not be used any more.
 */
import type { ExecuteResult, NativeContext } from '../ffi/context.js'
import type { Plan } from '../graph/graph.js'

/** The context is no longer that of the newest epoch. */
export class TrialLost extends Error {}

export interface Trial<T> {
  readonly context: NativeContext
  readonly plan: Plan
  readonly frames: Uint8Array
  /** Looks at the state as it would be. */
  readonly collect: (result: ExecuteResult) => T
}

/** Runs a trial on this thread. */
export function runTrial<T>(trial: Trial<T>): T {
  const { context, plan, frames } = trial
  return within(context, () => lookAndTakeBack(trial, () => context.execute(plan.steps, frames)))
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
  const finish = (take: () => ExecuteResult): void => {
    if (outcome !== undefined) return
    try {
      outcome = { value: lookAndTakeBack(trial, take) }
    } catch (error) {
      outcome = { error }
    }
    end(context)
    onEnd()
  }
  begin(context)
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

function lookAndTakeBack<T>(trial: Trial<T>, take: () => ExecuteResult): T {
  const result = take()
  try {
    return trial.collect(result)
  } finally {
    takeBack(trial)
  }
}

function takeBack({ context, plan }: Pick<Trial<unknown>, 'context' | 'plan'>): void {
  try {
    context.undo(plan.steps)
  } catch (error) {
    throw new TrialLost(`a trial could not be taken back: ${(error as Error).message}`, { cause: error })
  }
}

function within<T>(context: NativeContext, work: () => T): T {
  begin(context)
  try {
    return work()
  } finally {
    end(context)
  }
}

function begin(context: NativeContext): void {
  context.keep(true)
  context.swapResult()
}

function end(context: NativeContext): void {
  context.swapResult()
  context.keep(false)
}
