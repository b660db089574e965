/** A server whose audit trail a test reads, and whose disk it makes fail. */
import { join } from 'node:path'
import type { Test } from 'tap'
import { type AuditFail, Auditor } from '../../../src/audit/auditor.js'
import { AuditJournal } from '../../../src/audit/journal.js'
import { verifyTrail } from '../../../src/audit/verify.js'
import { TokenAuthenticator } from '../../../src/auth/authenticator.js'
import { addToken } from '../../../src/auth/token-file.js'
import { lockDescriptor } from '../../../src/ffi/library.js'
import { entriesOf, trailFolder } from '../../audit/helpers.js'
import { type Served, serve } from '../helpers.js'

export interface Audited extends Served {
  readonly auditor: Auditor
  /** Lines written since the last call, when all are written. */
  written(): Promise<Record<string, unknown>[]>
  as(id: string): Record<string, string>
  /** Makes writing fail, or not any more. */
  fault: { isOn: boolean }
}

export const ALL = ['read:*', 'write:*', 'define:*', 'history:*', 'functions:*', 'admin:*']

export async function audited(
  t: Test,
  {
    fail = 'open' as AuditFail,
    withWrites = false,
    principals = {} as Record<string, readonly string[]>,
  } = {},
): Promise<Audited> {
  const dir = trailFolder(t)
  const fault = { isOn: false }
  const journal = new AuditJournal({
    dir,
    lock: (fd) => {
      if (fault.isOn) throw new Error('the disk has failed')
      return lockDescriptor(fd)
    },
    isDurable: fail === 'closed',
    onNotice: () => {},
  })
  const auditor = new Auditor({ journal, fail, withWrites })
  const file = join(t.testdir(), 'tokens.json')
  const tokens = Object.entries(principals).map(
    ([id, scopes]) => [id, addToken(file, { id, scopes }).token] as const,
  )
  const authenticator = tokens.length === 0 ? undefined : new TokenAuthenticator(file)
  const served = await serve(t, { dataDir: join(dir, '../data'), fsync: 'off' }, { auditor, authenticator })
  t.teardown(() => auditor.close())
  let seen = 0
  return {
    ...served,
    auditor,
    fault,
    as: (id) => ({ authorization: `Bearer ${new Map(tokens).get(id)}`, 'x-request-id': `of-${id}` }),
    written: async () => {
      await auditor.note({ action: 'mark', outcome: 'done' })
      t.same(verifyTrail(dir).problems, [])
      const all = entriesOf(dir)
      const added = all.slice(seen, -1)
      seen = all.length
      return added
    },
  }
}
