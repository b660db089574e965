/**
 * What commands print: one line at a time, and progress of long work.
 *
 * Invariant: control characters of names, paths and texts of a server are printed as escapes, so that they
 * cannot steer a terminal or forge a line.
 */
import { performance } from 'node:perf_hooks'

const PROGRESS_INTERVAL_MS = 1_000

/** C0, DEL, C1, and the marks that turn the direction of text. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
const CONTROL = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g

/** A text with its control characters as `\x1b` or `\u202e`. */
export function escaped(text: string): string {
  return text.replace(CONTROL, (character) => {
    const code = character.charCodeAt(0)
    return code < 256 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u${code.toString(16)}`
  })
}

/** Prints a line of the result to standard output. */
export function print(line: string): void {
  process.stdout.write(`${escaped(line)}\n`)
}

/** Prints a line about the work itself to standard error. */
export function report(line: string): void {
  process.stderr.write(`mmsb: ${escaped(line)}\n`)
}

/** Reports how far copying files is, at most once a second: for each file its bytes so far. */
export function copyProgress(): (bytes: number, file: string) => void {
  const say = progress()
  let [before, last, current] = [0, 0, '']
  return (bytes, file) => {
    if (file !== current) [before, current] = [before + last, file]
    last = bytes
    say(() => `copied ${((before + last) / 1024 ** 2).toFixed(0)} MiB, now ${file}`)
  }
}

/** A function that reports how far long work is, at most once a second. */
export function progress(): (line: () => string) => void {
  let saidMs = performance.now()
  return (line) => {
    const nowMs = performance.now()
    if (nowMs - saidMs < PROGRESS_INTERVAL_MS) return
    saidMs = nowMs
    report(line())
  }
}
