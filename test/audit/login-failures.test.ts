/** Failed logins: every one is counted, and the lines are few. */
import t from 'tap'
import type { AuditEntry } from '../../src/audit/line.js'
import { LoginFailures } from '../../src/audit/login-failures.js'
import {
  AUDIT_LOGIN_ADDRESSES_MAX,
  AUDIT_LOGINS_MAX,
  AUDIT_LOGINS_MS,
  AUDIT_LOGINS_OF_ADDRESS,
} from '../../src/limits.js'

const sumOf = (entries: readonly AuditEntry[]): number =>
  entries.reduce((sum, { count = 1 }) => sum + count, 0)

t.test('an address gets some lines, then a count', async (t) => {
  const entries: AuditEntry[] = []
  const logins = new LoginFailures((entry) => entries.push(entry))
  for (let i = 0; i < 1000; i++) logins.add({ ip: '10.0.0.1', requestId: `r${i}` })
  t.equal(entries.length, AUDIT_LOGINS_OF_ADDRESS)
  t.match(entries[0], {
    action: 'login',
    outcome: 'refused',
    ip: '10.0.0.1',
    requestId: 'r0',
    code: 'UNAUTHORIZED',
  })
  logins.flush()
  t.equal(entries.length, AUDIT_LOGINS_OF_ADDRESS + 1)
  t.match(entries.at(-1), { ip: '10.0.0.1', count: 1000 - AUDIT_LOGINS_OF_ADDRESS })
  logins.add({ ip: '10.0.0.1' })
  t.equal(entries.length, AUDIT_LOGINS_OF_ADDRESS + 2, 'another minute begins')
  logins.flush()
  t.equal(sumOf(entries), 1001)
  t.equal(logins.total, 1001)
})

t.test('many addresses get no more lines than the bounds allow', async (t) => {
  const entries: AuditEntry[] = []
  const logins = new LoginFailures((entry) => entries.push(entry))
  for (let round = 0; round < 10; round++)
    for (let i = 0; i < 1000; i++) logins.add({ ip: `10.0.${i >> 8}.${i & 255}` })
  logins.flush()
  t.ok(entries.length <= AUDIT_LOGINS_MAX + AUDIT_LOGIN_ADDRESSES_MAX + 1, `${entries.length} lines`)
  t.equal(sumOf(entries), 10_000, 'and every failure is counted')
  t.equal(entries.at(-1)?.ip, undefined)
  t.equal(entries.at(-1)?.count, 10 * (1000 - AUDIT_LOGIN_ADDRESSES_MAX))
})

t.test('the counts are written after a while, by a timer that keeps no process alive', async (t) => {
  const { setTimeout: real } = globalThis
  t.teardown(() => {
    globalThis.setTimeout = real
  })
  let run = (): void => {}
  let isHeld = true
  globalThis.setTimeout = ((callback: () => void, ms: number) => {
    t.equal(ms, AUDIT_LOGINS_MS)
    run = callback
    return { unref: () => (isHeld = false), ref: () => {} }
  }) as unknown as typeof setTimeout
  const entries: AuditEntry[] = []
  const logins = new LoginFailures((entry) => entries.push(entry))
  for (let i = 0; i < AUDIT_LOGINS_OF_ADDRESS + 2; i++) logins.add({ ip: '::1' })
  t.notOk(isHeld)
  run()
  t.match(entries.at(-1), { ip: '::1', count: 2 })
})
