/** Medians, percentiles and alternating pairs. Pure but for the measuring functions it is handed. */

export function median(values: readonly number[]): number {
  return percentile(values, 0.5)
}

/** Linear interpolation between order statistics; `q` from 0 to 1. */
export function percentile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  const position = q * (sorted.length - 1)
  const below = Math.floor(position)
  const lower = sorted[below]!
  return lower + ((sorted[below + 1] ?? lower) - lower) * (position - below)
}

export interface Pairs {
  readonly a: number
  readonly b: number
  /** Median of the ratios a/b of each pair: what slows both at the same time drops out. */
  readonly ratio: number
}

/**
 * Measures a and b in turn, `count` times, the order changing each time (ab ba ab ...), so that
 * drift hits both.
 */
export async function alternate(
  count: number,
  a: () => Promise<number>,
  b: () => Promise<number>,
): Promise<Pairs> {
  const as: number[] = []
  const bs: number[] = []
  for (let pair = 0; pair < count; pair++) {
    if (pair % 2 === 0) as.push(await a())
    bs.push(await b())
    if (pair % 2 === 1) as.push(await a())
  }
  return { a: median(as), b: median(bs), ratio: median(as.map((value, pair) => value / bs[pair]!)) }
}

/**
 * A 95 % confidence interval of the median, from order statistics: between the k-th smallest and the k-th
 * largest value lies the median with a probability that follows from the binomial distribution alone. Needs
 * at least 6 values.
 */
export function medianInterval(values: readonly number[]): readonly [low: number, high: number] {
  const count = values.length
  if (count < 6) throw new Error('a 95 % interval of the median takes at least 6 values')
  // Probability that the median lies below the smallest value, then also below the second smallest, ...
  let rank = 0
  let term = 0.5 ** count
  for (let outside = term; outside <= 0.025; ) {
    rank++
    term = (term * (count - rank + 1)) / rank
    outside += term
  }
  const sorted = [...values].sort((a, b) => a - b)
  return [sorted[rank - 1]!, sorted[count - rank]!]
}
