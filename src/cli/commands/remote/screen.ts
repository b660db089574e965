/**
 * A screen of lines in a terminal, drawn over and over, and the keys that end it.
 *
 * Invariant: however the process ends, short of SIGKILL, the terminal is as it was before: the old text, the
 * cursor, echo and line mode.
 */
import { escaped } from '../../output.js'
import type { ScreenLine } from './top-view.js'

const ENTER = '\x1b[?1049h\x1b[?25l'
const LEAVE = '\x1b[?25h\x1b[?1049l'
const HOME = '\x1b[H'
const TO_END_OF_LINE = '\x1b[K'
const TO_END_OF_SCREEN = '\x1b[J'
const INVERSE = ['\x1b[7m', '\x1b[0m'] as const

const USUAL_ROWS = 24
const USUAL_COLUMNS = 80

const CTRL_C = '\x03'
const CTRL_Z = '\x1a'
/** The exit codes that a shell gives a program that such a signal ended. */
const ENDINGS = { SIGINT: 0, SIGTERM: 143, SIGHUP: 129 } as const

export class Screen {
  readonly #lines: (rows: number) => readonly ScreenLine[]
  readonly #onEnd: () => void
  #isOpen = false

  /** `lines` makes what is shown in so many rows; `onEnd` is called when the user wants to end. */
  constructor(lines: (rows: number) => readonly ScreenLine[], onEnd: () => void) {
    this.#lines = lines
    this.#onEnd = onEnd
  }

  open(): void {
    process.on('exit', this.#leave)
    process.on('SIGCONT', this.#enter)
    for (const signal of Object.keys(ENDINGS)) process.on(signal, this.#onSignal)
    process.stdout.on('resize', this.draw)
    if (process.stdin.isTTY) process.stdin.on('data', this.#onKeys)
    this.#enter()
  }

  close(): void {
    this.#leave()
    process.off('exit', this.#leave)
    process.off('SIGCONT', this.#enter)
    for (const signal of Object.keys(ENDINGS)) process.off(signal, this.#onSignal)
    process.stdout.off('resize', this.draw)
    process.stdin.off('data', this.#onKeys)
    process.stdin.pause()
  }

  readonly draw = (): void => {
    if (!this.#isOpen) return
    // A terminal may not know its size.
    const rows = process.stdout.rows || USUAL_ROWS
    const columns = process.stdout.columns || USUAL_COLUMNS
    const lines = this.#lines(rows).slice(0, rows)
    const text = lines.map((line) => lineText(line, columns)).join('\r\n')
    process.stdout.write(`${HOME}${text}${TO_END_OF_SCREEN}`)
  }

  readonly #enter = (): void => {
    if (this.#isOpen) return
    this.#isOpen = true
    if (process.stdin.isTTY) process.stdin.setRawMode(true)
    process.stdout.write(ENTER)
    this.draw()
  }

  readonly #leave = (): void => {
    if (!this.#isOpen) return
    this.#isOpen = false
    process.stdout.write(LEAVE)
    if (process.stdin.isTTY) process.stdin.setRawMode(false)
  }

  readonly #onSignal = (signal: NodeJS.Signals): void => {
    process.exitCode = ENDINGS[signal as keyof typeof ENDINGS]
    this.#onEnd()
  }

  readonly #onKeys = (keys: Buffer): void => {
    const text = keys.toString('latin1')
    if (text.includes(CTRL_C) || text.includes('q')) this.#onEnd()
    if (!text.includes(CTRL_Z)) return
    // The shell has its own screen until it continues this process.
    this.#leave()
    process.kill(process.pid, 'SIGSTOP')
  }
}

function lineText({ text, isHead = false }: ScreenLine, columns: number): string {
  const fitting = escaped(text).slice(0, columns)
  if (!isHead || process.env.NO_COLOR) return `${fitting}${TO_END_OF_LINE}`
  return `${INVERSE[0]}${fitting.padEnd(columns)}${INVERSE[1]}${TO_END_OF_LINE}`
}
