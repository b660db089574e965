/**
 * How dtypes combine (docs/guide/OPS.md, "Types"), in expressions and in ops of several inputs. Of one kind,
 * the wider wins; signed and unsigned give the smallest signed dtype that holds both; an integer and a float
 * give the float's; bool takes the dtype of anything else. Associative, except that u64 and a signed dtype
 * have no common dtype.
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
