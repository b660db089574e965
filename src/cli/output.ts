/**
 * What commands print: one line at a time, and progress of long work.
 *
 * Invariant: control characters of names, paths and texts of a server are printed as escapes, so that they
 * cannot steer a terminal or forge a line.
 */
import { performance } from 'node:perf_hooks'
import type { ParsedFlags } from './flags.js'

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

/** Prints a value as JSON on one line. */
export function printJson(value: unknown): void {
  printJsonText(JSON.stringify(value))
}

/** Prints JSON text. Control characters can stand only in its strings, where an escape means the same. */
export function printJsonText(text: string): void {
  const safe = text.replace(
    CONTROL,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
  process.stdout.write(`${safe}\n`)
}

/** Prints a result: as JSON with `--json`, else as a line. */
export function result({ switches }: Pick<ParsedFlags, 'switches'>, value: object, line: string): void {
  if (switches.has('json')) printJson(value)
  else print(line)
}

/** Columns of equal width. Columns named in `right` are set to the right. */
export function columns(rows: readonly (readonly string[])[], right: readonly number[] = []): string[] {
  const widths: number[] = []
  for (const row of rows)
    for (const [i, { length }] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, length)
  return rows.map((row) =>
    row
      .map((cell, i) => (right.includes(i) ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)))
      .join('  ')
      .trimEnd(),
  )
}

/** `1 page`, `2 pages`. */
export const counted = (count: number, noun: string): string => `${count} ${noun}${count === 1 ? '' : 's'}`

const SIZES = ['B', 'KiB', 'MiB', 'GiB', 'TiB'] as const

/** Bytes for people: `96 B`, `1.5 GiB`. */
export function sizeText(bytes: number): string {
  const power = Math.min(SIZES.length - 1, Math.max(0, Math.floor(Math.log2(Math.max(1, bytes)) / 10)))
  const value = bytes / 1024 ** power
  return `${power === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${SIZES[power]}`
}

/** Milliseconds for people: `0.25 ms`, `12.5 s`, `3 h 20 min`. */
export function timeText(ms: number): string {
  if (ms < 1) return `${ms.toFixed(3)} ms`
  if (ms < 1000) return `${ms.toPrecision(3)} ms`
  const seconds = Math.floor(ms / 1000)
  if (seconds < 60) return `${(ms / 1000).toFixed(1)} s`
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`
  return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3600)} h`
}

/** Whoever reads standard output: gone when the other end of the pipe was closed, as `| head -1` does. */
export const reader = {
  isGone: false,
  /** Called when the reader goes away. */
  onGone: (): void => {},
}

/** From now on a closed pipe is no error: what is printed is dropped. */
export function allowClosedPipe(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error
    if (reader.isGone) return
    reader.isGone = true
    reader.onGone()
  })
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
