/**
 * Waiting for AbortSignals, of which programs hand one to many calls and subscriptions.
 *
 * Invariant: however many wait for a signal, it has one listener of the client, and none when nobody waits: Node takes the eleventh
 * for a leak, and says so on the console.
 */
interface Waiting {
  readonly runs: Set<() => void>
  readonly listener: () => void
}

const waitingFor = new WeakMap<AbortSignal, Waiting>()

/** Calls `run` when the signal fires; one that has fired already does not. Returns what takes that back. */
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
    // One may take another back.
    for (const run of [...runs]) if (runs.delete(run)) run()
  }
  const waiting = { runs, listener }
  waitingFor.set(signal, waiting)
  signal.addEventListener('abort', listener, { once: true })
  return waiting
}
