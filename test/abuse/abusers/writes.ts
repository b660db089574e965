/** Writes that are allowed, in numbers that are not polite. */
import type { Abuser, Field } from '../field.js'

/** A key of its own for each write, as long as a key may be. */
async function keys(field: Field): Promise<void> {
  const key = `${field.draw.int(0, 2 ** 31)}-`.padEnd(200, 'k')
  await field.json('PATCH', '/v1/pages/used/data', { offset: 0, values: [1] }, { 'idempotency-key': key })
}

/** One key for many different writes. */
async function sameKey(field: Field): Promise<void> {
  const write = { offset: field.draw.int(0, 15), values: [field.draw.int(0, 1e6)] }
  await field.json('PATCH', '/v1/pages/used/data', write, { 'idempotency-key': 'one key for all' })
}

/** Pages of 128 MiB, which leave no room for a second one. */
async function hugePages(field: Field): Promise<void> {
  const name = `huge.${field.draw.int(0, 2)}`
  await field.json('PUT', `/v1/pages/${name}`, { dtype: 'f64', shape: [16 * 1024 ** 2], fill: 1.5 })
  await field.send('DELETE', `/v1/pages/${name}`)
}

/** Functions without end. */
async function functions(field: Field): Promise<void> {
  const name = `fn_${field.draw.int(0, 5_000)}`
  const expr = `x${' + x * 2'.repeat(field.draw.int(1, 400))}`
  await field.json('PUT', `/v1/functions/${name}`, { params: ['x'], expr })
}

export const WRITES: readonly Abuser[] = [
  {
    name: 'keys',
    does: 'writes with a new idempotency key of 200 bytes each time',
    expects: ['200'],
    lanes: 4,
    act: keys,
  },
  {
    name: 'same-key',
    does: 'sends different writes under one key',
    expects: ['IDEMPOTENCY_MISMATCH'],
    lanes: 2,
    act: sameKey,
  },
  {
    name: 'huge-pages',
    does: 'creates filled pages of 128 MiB and deletes them',
    expects: ['OUT_OF_MEMORY'],
    lanes: 3,
    act: hugePages,
  },
  { name: 'functions', does: 'defines thousands of functions', expects: ['200'], lanes: 2, act: functions },
]
