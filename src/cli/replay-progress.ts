/** Says from time to time how far a replay has come. */
const INTERVAL_MS = 1_000

/** `what` is the work in one word, as in "verifying epoch 3 of 9". */
export function progressTo(
  out: NodeJS.WritableStream,
  what: string,
): (epoch: number, newestEpoch: number) => void {
  let saidMs = performance.now()
  return (epoch, newest) => {
    const nowMs = performance.now()
    if (nowMs - saidMs < INTERVAL_MS) return
    saidMs = nowMs
    out.write(`mmsb: ${what} epoch ${epoch} of ${newest}\n`)
  }
}
