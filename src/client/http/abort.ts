/**
 * Listening to AbortSignals that a program shares among many calls and subscriptions.
 *
 * Invariant: the client adds one listener to a signal, however many wait for it, and removes it when nobody
 * does. Node reports a leak on the console from the eleventh listener on.
 */
interface Waiting {
  readonly runs: Set<() => void>
  readonly listener: () => void
}

const waitingFor = new WeakMap<AbortSignal, Waiting>()

/**
 * Calls `run` when the signal fires; a signal that has fired already never does. Returns a function that
 * undoes this.
 */
export function onAbort(signal: AbortSignal | undefined, run: () => void): () => void {
  if (signal === undefined || signal.aborted) return () => {}
  const waiting = waitingFor.get(signal) ?? listenTo(signal)
  waiting.runs.add(run)
  return () => {
    waiting.runs.delete(run)
    if (waiting.runs.size > 0 || waitingFor.get(signal) !== waiting) return
    waitingFor.delete(signal)
    signal.removeEventListener('abort', waiting.listener)
  }
}

function listenTo(signal: AbortSignal): Waiting {
  const runs = new Set<() => void>()
  const listener = (): void => {
    waitingFor.delete(signal)
    // One callback may undo another.
    for (const run of [...runs]) if (runs.delete(run)) run()
  }
  const waiting = { runs, listener }
  waitingFor.set(signal, waiting)
  signal.addEventListener('abort', listener, { once: true })
  return waiting
}
