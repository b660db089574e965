/**
 * Deltas, transactions and definitions as JSON text. JSON.stringify alone would lose -0, NaN and
 * 64-bit integers.
 */
import { jsonOf, objectOf, showValue } from '../arguments.js'
import { invalidRequest } from '../errors.js'
import type { Delta, Transaction } from '../types.js'
import { base64, valuesText, valueText } from './values.js'

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

/**
 * The body of POST /v1/transactions. It includes the key where no header carries it.
 * @throws MmsbError INVALID_DELTA, INVALID_REQUEST
 */
export function transactionText({ ops, intent, ...rest }: Transaction, key?: string): string {
  const fields = [`"ops":${opsText(ops)}`]
  if (intent !== undefined) fields.push(`"intent":${jsonOf('intent', intent)}`)
  const others = jsonOf('transaction', { ...rest, key }).slice(1, -1)
  if (others !== '') fields.push(others)
  return `{${fields.join(',')}}`
}

/** The body that creates a page. @throws MmsbError INVALID_REQUEST */
export function definitionText(definition: unknown, what = 'definition'): string {
  const { fill, ...rest } = objectOf(what, definition)
  const fields = jsonOf(what, rest).slice(1, -1)
  if (fill === undefined) return `{${fields}}`
  const text = valueText(fill)
  if (text === undefined) {
    throw invalidRequest(`${what}.fill: ${showValue(fill)} is not a number, bigint, string or boolean`)
  }
  return `{${fields === '' ? '' : `${fields},`}"fill":${text}}`
}
