/**
 * Random graphs over the op catalogue and random transactions, for property tests of the engine. Everything
 * comes from one seed, so a failure can be run again.
 */

import type { DeltaInput, Derivation } from '../../src/state/types.js'
import { DTYPE_INFO, DTYPES } from '../../src/wire/dtype.js'
import type { Merge } from '../../src/wire/page.js'
import type { Draw, PageSketch } from '../lib/draw.js'
import { OP_RECORDS } from '../reference/records.js'

const elementsOf = (shape: readonly number[]): number => shape.reduce((product, size) => product * size, 1)

/** Source pages of all dtypes. */
export function drawSources(draw: Draw, count: number): PageSketch[] {
  return Array.from({ length: count }, (_, i) => ({
    name: `s${i}`,
    dtype: draw.pick(DTYPES),
    shape: draw.shape(),
  }))
}

/** Every op, as often as its weight says. */
const WEIGHTED = OP_RECORDS.flatMap(
  ([, record]) => new Array(record.weight ?? 1).fill(record) as (typeof record)[],
)

/** A derivation of some existing pages, or undefined when the draw does not fit them. */
export function drawDerivation(draw: Draw, pages: readonly PageSketch[]): Derivation | undefined {
  return draw.pick(WEIGHTED).overPages(draw, pages) as Derivation | undefined
}

const MERGES_FLOAT: readonly Merge[] = ['set', 'set', 'add', 'min', 'max']
const MERGES_INTEGER: readonly Merge[] = [...MERGES_FLOAT, 'and', 'or', 'xor']

/** A delta that fits the page: dense, sparse or masked. */
export function drawDelta(draw: Draw, page: PageSketch): DeltaInput {
  const elements = elementsOf(page.shape)
  const merge = draw.pick(DTYPE_INFO[page.dtype].kind === 'float' ? MERGES_FLOAT : MERGES_INTEGER)
  const kind = draw.int(0, 2)
  if (kind === 0) {
    const offset = draw.int(0, elements - 1)
    const count = draw.chance(0.1) ? elements - offset : draw.int(1, Math.min(elements - offset, 8))
    return { offset, values: draw.values(page.dtype, count), merge }
  }
  if (kind === 1) {
    const indices = Array.from({ length: draw.int(1, 6) }, () => draw.int(0, elements - 1))
    return { indices, values: draw.values(page.dtype, indices.length), merge }
  }
  const mask = new Uint8Array(Math.ceil(elements / 8))
  let bits = 0
  for (let i = 0; i < elements; i++) {
    if (!draw.chance(0.1)) continue
    mask[i >> 3] = (mask[i >> 3] as number) | (1 << (i & 7))
    bits++
  }
  return { mask, values: draw.values(page.dtype, bits), merge }
}
