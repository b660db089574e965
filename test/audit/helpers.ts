/** An audit trail of a test, and what stands in it. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { filesIn } from '../../src/audit/files.js'
import { AuditJournal } from '../../src/audit/journal.js'
import { type Anchors, verifyTrail } from '../../src/audit/verify.js'
import { lockDescriptor } from '../../src/ffi/library.js'
import { folder } from '../lib/folder.js'

export interface Written {
  readonly dir: string
  readonly journal: AuditJournal
  readonly notices: string[]
  /** The time of the next entry. */
  clock: { nowMs: number }
}

export const NOON = Date.UTC(2026, 10, 30, 12)

export function trailFolder(t: Test): string {
  const dir = join(folder(t), 'audit')
  mkdirSync(dir)
  return dir
}

export function journalIn(t: Test, dir: string, isDurable = true): Written {
  const notices: string[] = []
  const clock = { nowMs: NOON }
  const journal = new AuditJournal({
    dir,
    lock: lockDescriptor,
    isDurable,
    nowMs: () => clock.nowMs,
    onNotice: (level, message) => notices.push(`${level}: ${message}`),
  })
  t.teardown(() => journal.close())
  return { dir, journal, notices, clock }
}

/** A trail with a line for each of these actions, by default all in one file. */
export async function trailOf(t: Test, actions: readonly string[], atMs = NOON): Promise<string> {
  const dir = trailFolder(t)
  const { journal, clock } = journalIn(t, dir)
  clock.nowMs = atMs
  for (const action of actions) await journal.append({ action, outcome: 'done' })
  await journal.close()
  return dir
}

/** All lines of a trail, in their order. */
export const linesOf = (dir: string): string[] =>
  filesIn(dir).flatMap((file) => readFileSync(join(dir, file), 'utf8').split('\n').slice(0, -1))

/** The same, parsed. */
export const entriesOf = (dir: string): Record<string, unknown>[] =>
  linesOf(dir).map((line) => JSON.parse(line) as Record<string, unknown>)

/** Changes the lines of the only file of a trail. */
export function tamper(dir: string, change: (lines: string[]) => readonly string[]): void {
  const file = join(dir, filesIn(dir)[0] as string)
  const lines = readFileSync(file, 'utf8').split('\n').slice(0, -1)
  writeFileSync(
    file,
    change(lines)
      .map((line) => `${line}\n`)
      .join(''),
  )
}

/** Asserts that a trail was not changed, torn by no crash, and has so many lines. */
export function isSound(t: Test, dir: string, lines: number, anchors?: Anchors): void {
  const report = verifyTrail(dir, anchors)
  t.same([report.problems, report.notes, report.lines], [[], [], lines], 'the trail is sound')
}
