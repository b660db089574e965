/**
 * Functions of the embedding program that the bus calls: notices, listeners, `lowestNeeded` of holdHistory.
 *
 * Invariant: what such a function throws never reaches the engine. It is reported as a notice; without a
 * listener for notices, or when that one throws, as a warning of the process.
 */
import type { BusOptions } from './types.js'

export type Notify = NonNullable<BusOptions['onNotice']>

/** Calls functions of the program. */
export interface Callbacks {
  readonly notify: Notify
  /** The same function, which returns `otherwise` when it throws. `what` names it in the notice. */
  guard<A extends unknown[], R>(what: string, call: (...args: A) => R, otherwise: R): (...args: A) => R
}

export function callbacksOf(onNotice: Notify | undefined): Callbacks {
  const notify: Notify = (notice) => {
    try {
      onNotice?.(notice)
    } catch (error) {
      process.emitWarning(`onNotice has thrown: ${textOf(error)}`, 'MmsbWarning')
    }
  }
  const report = (what: string, error: unknown): void => {
    const message = `${what} has thrown: ${textOf(error)}`
    if (onNotice === undefined) process.emitWarning(message, 'MmsbWarning')
    else notify({ level: 'error', message })
  }
  return {
    notify,
    guard:
      (what, call, otherwise) =>
      (...args) => {
        try {
          return call(...args)
        } catch (error) {
          report(what, error)
          return otherwise
        }
      },
  }
}

const textOf = (error: unknown): string =>
  error instanceof Error ? (error.stack ?? error.message) : String(error)
