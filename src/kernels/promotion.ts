/**
 * The one rule by which dtypes combine (API.md, "Expression"): used by expressions and by ops of several inputs.
 * Within a kind the wider; signed with unsigned the smallest signed type that holds both; an integer with a float the
 * float's; bool gives way to anything. Associative but for u64 with a signed type, which has no common type.
 */
import { DTYPE_INFO, DTYPES, type Dtype } from '../wire/dtype.js'

/** The common dtype of two operands; undefined for u64 with a signed integer. */
export function promoteDtypes(a: Dtype, b: Dtype): Dtype | undefined {
  const left = DTYPE_INFO[a]
  const right = DTYPE_INFO[b]
  if (a === b || right.kind === 'bool') return a
  if (left.kind === 'bool') return b
  if (left.kind === right.kind) return left.sizeBytes > right.sizeBytes ? a : b
  if (left.kind === 'float') return a
  if (right.kind === 'float') return b
  const [signed, unsigned] = left.kind === 'signed' ? [left, right] : [right, left]
  if (signed.sizeBytes > unsigned.sizeBytes) return signed.name
  return DTYPES.find(
    (name) => DTYPE_INFO[name].kind === 'signed' && DTYPE_INFO[name].sizeBytes > unsigned.sizeBytes,
  )
}
