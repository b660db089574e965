/**
 * JSON in parts: answers about the past, which the replay thread makes and the thread that serves requests
 * passes on. Long lists of values stay binary, several times smaller than their text, which is made as the
 * client reads.
 *
 * Invariant: the text is that of the same answer as an object.
 */
import type { Dtype, TypedArray } from '../wire/dtype.js'

/** Text in UTF-8, or a list of values. */
export type JsonPart = Uint8Array | ValueList

export interface ValueList {
  readonly dtype: Dtype
  readonly values: TypedArray
}

/** An answer as JSON. */
export interface JsonParts {
  readonly parts: readonly JsonPart[]
}

/** A list of values inside an object that becomes parts. It owns its values. */
export class BinaryList implements ValueList {
  readonly dtype: Dtype
  readonly values: TypedArray

  constructor(dtype: Dtype, values: TypedArray) {
    this.dtype = dtype
    this.values = values
  }
}

const encoder = new TextEncoder()

/** The JSON of a value that may contain lists. */
export function jsonParts(value: unknown): JsonParts {
  // A text marks the places of the lists. If the value contains it too, another one does.
  for (let mark = '@list'; ; mark += '@') {
    const lists: JsonPart[] = []
    const text = JSON.stringify(value, (_key, item: unknown) => {
      // JSON.stringify would write 0.
      if (Object.is(item, -0)) lists.push(encoder.encode('-0.0'))
      else if (!(item instanceof BinaryList)) return item
      else lists.push({ dtype: item.dtype, values: item.values })
      return mark
    })
    const pieces = text.split(`"${mark}"`)
    if (pieces.length === lists.length + 1) return joinParts(pieces, lists)
  }
}

function joinParts(pieces: readonly string[], lists: readonly JsonPart[]): JsonParts {
  const parts: JsonPart[] = []
  for (const [i, piece] of pieces.entries()) {
    if (i > 0) parts.push(lists[i - 1] as JsonPart)
    parts.push(encoder.encode(piece))
  }
  return { parts }
}
