/** Deltas and transactions as JSON text. JSON.stringify alone would lose -0, NaN and 64-bit integers. */
import type { Delta, Transaction } from './types.js'
import { base64, valuesText } from './values.js'

/** The fields of a delta, without braces. */
function deltaFields({ offset, indices, mask, values, merge }: Delta): string {
  const fields = [`"values":${valuesText(values)}`]
  if (offset !== undefined) fields.push(`"offset":${JSON.stringify(offset)}`)
  if (indices !== undefined) fields.push(`"indices":${JSON.stringify(Array.from(indices))}`)
  if (mask !== undefined)
    fields.push(`"mask":${JSON.stringify(typeof mask === 'string' ? mask : base64(mask))}`)
  if (merge !== undefined) fields.push(`"merge":${JSON.stringify(merge)}`)
  return fields.join(',')
}

export const deltaText = (delta: Delta): string => `{${deltaFields(delta)}}`

export const opsText = (ops: Transaction['ops']): string =>
  `[${ops.map(({ page, ...delta }) => `{"page":${JSON.stringify(page)},${deltaFields(delta)}}`).join(',')}]`

/** The body of POST /v1/transactions; `key` goes into it where there is no header for it. */
export function transactionText({ ops, ...rest }: Transaction, key?: string): string {
  const others = JSON.stringify({ ...rest, key }).slice(1)
  return `{"ops":${opsText(ops)}${others === '}' ? '}' : `,${others}`}`
}
