/** The audit trail of a server: its flags, and how it is opened. */
import path from 'node:path'
import type { Logger } from 'pino'
import { AUDIT_FAILS, type AuditFail, Auditor } from '../../audit/auditor.js'
import { AuditJournal } from '../../audit/journal.js'
import { lockDescriptor } from '../../ffi/library.js'
import { choiceOf, type FlagTable, type ParsedFlags, StartError } from '../flags.js'

export const AUDIT_FLAGS: FlagTable = {
  'audit-fail': {
    value: 'HOW',
    help: 'if the audit trail cannot be written: open goes on without it, closed refuses what it must hold',
    env: 'MMSB_AUDIT_FAIL',
    standard: 'open',
  },
  'audit-writes': { help: 'the audit trail holds writes of pages too' },
}

export interface AuditOptions {
  readonly fail: AuditFail
  readonly withWrites: boolean
}

/** @throws UsageError */
export function auditOf({ values, switches }: ParsedFlags): AuditOptions {
  const fail = values.get('audit-fail')
  return {
    fail: fail === undefined ? 'open' : choiceOf(fail, AUDIT_FAILS),
    withWrites: switches.has('audit-writes'),
  }
}

/** The audit folder of a data folder. */
export const auditDirOf = (dataDir: string): string => path.join(dataDir, 'audit')

/** Opens the trail of a data folder, which this process has open. @throws StartError if it cannot be used */
export function openAuditor(dataDir: string, { fail, withWrites }: AuditOptions, logger: Logger): Auditor {
  const dir = auditDirOf(dataDir)
  const journal = new AuditJournal({
    dir,
    lock: lockDescriptor,
    isDurable: fail === 'closed',
    onNotice: (level, message, details) => logger[level]({ audit: dir, ...details }, message),
  })
  try {
    journal.open()
  } catch (error) {
    const { message } = error as Error
    if (fail === 'closed')
      throw new StartError(`the audit trail cannot be used: ${message}`, { cause: error })
    logger.error({ audit: dir }, `the audit trail cannot be used: ${message}`)
  }
  return new Auditor({ journal, fail, withWrites })
}
