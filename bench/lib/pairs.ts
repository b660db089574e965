/**
 * One figure of ours beside its baseline; or, when two builds are compared, beside the same figure of the
 * other build.
 */
import { alternate, type Pairs } from './stats.js'
import type { Context, Figure } from './types.js'

const NOT_MEASURED: Pairs = { a: Number.NaN, b: Number.NaN, ratio: Number.NaN }

/** `count` alternating pairs, one where the run is quick. */
export async function pairsOf(
  context: Context,
  figure: Figure,
  count: number,
  ours: () => Promise<number>,
  baseline: () => Promise<number>,
): Promise<Pairs> {
  if (context.compared === undefined) return alternate(context.quick ? 1 : count, ours, baseline)
  await context.compared(figure, ours)
  return NOT_MEASURED
}
