/**
 * Stopping the server process on SIGTERM and SIGINT, in every state that it can be in.
 *
 * Invariants: the process ends within STOP_GRACE_MS of the first signal, and with 0 unless closing failed.
 * What has not ended by then is cut off, which is as safe as a crash. A second signal ends the process at
 * once.
 */
import type { Logger } from 'pino'
import { exitNow } from '../ffi/exit.js'
import { STOP_GRACE_MS, STOP_REQUESTS_MS } from '../limits.js'

const SECOND_SIGNAL_EXIT_CODE = 130

/** What is to be stopped, in its present state. */
export interface Stoppable {
  /** Answers the requests under way, then stops listening. */
  closeServer(): Promise<void>
  /** Cuts off the requests that are still under way. */
  cutOff(): void
  /** Closes the bus. What still runs after `graceMs` is cancelled. */
  closeBus(graceMs: number): Promise<void>
}

/** Stops what `present` returns at the first signal. */
export function stopOnSignal(present: () => Stoppable, logger: Logger): void {
  let isStopping = false
  const onSignal = (signal: NodeJS.Signals): void => {
    if (isStopping) exitNow(SECOND_SIGNAL_EXIT_CODE)
    isStopping = true
    logger.info({ signal }, 'stopping')
    setTimeout(() => {
      logger.warn(`not all work has ended within ${STOP_GRACE_MS} ms; it is cut off`)
      exitNow(0)
    }, STOP_GRACE_MS)
    stop(present()).then(
      () => {
        logger.info('stopped')
        exitNow(0)
      },
      (error: unknown) => {
        logger.fatal({ err: error }, 'shutdown failed')
        exitNow(1)
      },
    )
  }
  process.on('SIGTERM', onSignal)
  process.on('SIGINT', onSignal)
}

async function stop(present: Stoppable): Promise<void> {
  const endMs = performance.now() + STOP_REQUESTS_MS
  const cutOff = setTimeout(() => present.cutOff(), STOP_REQUESTS_MS)
  await present.closeServer()
  clearTimeout(cutOff)
  await present.closeBus(Math.max(0, Math.ceil(endMs - performance.now())))
}
