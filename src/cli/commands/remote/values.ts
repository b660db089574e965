/**
 * Elements as people write and read them: `1 2.5 nan`, `[1, 2]`, `true`; and a place in a page: an offset, or
 * an index for each axis.
 */
import { encodeValues, valuesToJson } from '../../../state/value.js'
import { DTYPE_INFO, type Dtype, type TypedArray } from '../../../wire/dtype.js'
import { NAME_PATTERN } from '../../../wire/page.js'
import { type Given, integerOf, StartError, UsageError } from '../../flags.js'

/** What may stand between two values, so that JSON and CSV can be read. */
const BETWEEN = /[\s,;[\]"]+/

const NOT_FINITE: Readonly<Record<string, number>> = {
  nan: Number.NaN,
  inf: Number.POSITIVE_INFINITY,
  infinity: Number.POSITIVE_INFINITY,
  '+inf': Number.POSITIVE_INFINITY,
  '-inf': Number.NEGATIVE_INFINITY,
  '-infinity': Number.NEGATIVE_INFINITY,
}

/** @throws UsageError when the text has no values, or one that is no value of the dtype */
export function valuesOf(text: string, dtype: Dtype): TypedArray {
  const tokens = text.split(BETWEEN).filter((token) => token !== '')
  if (tokens.length === 0) throw new UsageError('there are no values')
  const values = tokens.map((token, i) => elementOf(token, dtype, i))
  try {
    const bytes = encodeValues(dtype, values)
    return DTYPE_INFO[dtype].view(bytes.buffer, bytes.byteOffset, values.length)
  } catch (error) {
    throw new UsageError((error as Error).message, { cause: error })
  }
}

function elementOf(token: string, dtype: Dtype, i: number): number | string | boolean {
  const { kind, sizeBytes } = DTYPE_INFO[dtype]
  if (kind === 'bool' && (token === 'true' || token === 'false')) return token === 'true'
  if (kind !== 'bool' && sizeBytes === 8 && /^-?\d+$/.test(token))
    return kind === 'float' ? Number(token) : token
  const value = NOT_FINITE[token.toLowerCase()] ?? Number(token)
  if (Number.isNaN(value) && token.toLowerCase() !== 'nan')
    throw new UsageError(`values[${i}]: ${JSON.stringify(token)} is not a value of ${dtype}`)
  return value
}

/** Elements in a line, with a space between them. */
export const valuesText = (dtype: Dtype, values: TypedArray): string =>
  valuesToJson(dtype, values)
    .map((value) => (Object.is(value, -0) ? '-0' : String(value)))
    .join(' ')

/**
 * The elements from `offset` on in lines: one for each row of the last axis, and an empty line between two
 * tables of the last two axes. Unless it is the first, a piece continues where the one before ended.
 */
export function rowsText(
  dtype: Dtype,
  shape: readonly number[],
  offset: number,
  values: TypedArray,
  isFirst: boolean,
): string {
  const width = shape.at(-1) ?? 1
  const table = width * (shape.at(-2) ?? Number.POSITIVE_INFINITY)
  let text = ''
  for (let at = 0; at < values.length; ) {
    const place = offset + at
    const end = Math.min(values.length, at + width - (place % width))
    const isBegin = isFirst && at === 0
    if (!isBegin && place % width !== 0) text += ' '
    else if (!isBegin && place % table === 0) text += '\n'
    text += valuesText(dtype, values.subarray(at, end))
    if ((offset + end) % width === 0) text += '\n'
    at = end
  }
  return text
}

/** The offset that `--at` gives: a number, or an index for each axis. @throws UsageError, StartError */
export function offsetOf(at: Given | undefined, shape: readonly number[]): number {
  if (at === undefined) return 0
  const parts = at.text
    .split(',')
    .map((text) => integerOf({ text: text.trim(), from: at.from }, 0, Number.MAX_SAFE_INTEGER))
  const elements = shape.reduce((product, extent) => product * extent, 1)
  if (parts.length === 1) {
    if (parts[0]! <= elements) return parts[0]!
    throw new StartError(`${at.from}: the page has ${elements} elements, so ${parts[0]} is past its end`)
  }
  if (parts.length !== shape.length)
    throw new StartError(`${at.from}: an index of this page has ${shape.length} numbers, one for each axis`)
  return parts.reduce((offset, index, axis) => {
    if (index >= shape[axis]!)
      throw new StartError(
        `${at.from}: axis ${axis} has ${shape[axis]} elements, so ${index} is past its end`,
      )
    return offset * shape[axis]! + index
  }, 0)
}

/** `f64[2,3]` */
export const formText = (dtype: Dtype, shape: readonly number[]): string => `${dtype}[${shape.join(',')}]`

const PAGE_NAME = new RegExp(NAME_PATTERN)

/** @throws UsageError when the text cannot be the name of a page */
export function pageNameOf(text: string): string {
  if (PAGE_NAME.test(text)) return text
  throw new UsageError(`${JSON.stringify(text)} is not a page name`)
}
