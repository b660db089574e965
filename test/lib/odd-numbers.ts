/**
 * Floats with one or two odd ones among plain ones: zeros of both signs, infinities, NaN with several bits.
 * They are placed so that two share a lane of a vector loop (a multiple of its width apart) or lie in two
 * lanes, at the ends and in what is left over after whole vectors.
 */
import { DTYPE_INFO, type TypedArray } from '../../src/wire/dtype.js'

export type FloatDtype = 'f32' | 'f64'

/** Around the width of one vector, of four, of a warp, and of a block of 1,024. */
export const ODD_LENGTHS = [9, 31, 32, 33, 65, 1057]

/** Their bits, as f32 and as f64. */
const ODD = {
  '+0': [0, 0n],
  '-0': [0x8000_0000, 0x8000_0000_0000_0000n],
  '+inf': [0x7f80_0000, 0x7ff0_0000_0000_0000n],
  '-inf': [0xff80_0000, 0xfff0_0000_0000_0000n],
  nan: [0x7fc0_0000, 0x7ff8_0000_0000_0000n],
  'negative nan': [0xffc0_1234, 0xfff8_0000_0000_1234n],
  'signalling nan': [0x7f80_0001, 0x7ff0_0000_0000_0001n],
  subnormal: [0x8000_0001, 0x8000_0000_0000_0001n],
} as const
export type Odd = keyof typeof ODD

/** The bits of the NaN that ops and merges give. */
export const ONE_NAN = { f32: ODD.nan[0], f64: ODD.nan[1] } as const

export interface Placement {
  /** All other elements: 5, -5, 0 or -0; with `isVaried`, near it. */
  readonly background: number
  readonly isVaried?: boolean
  readonly odd: readonly (readonly [place: number, odd: Odd])[]
}

const PAIRS: readonly (readonly [Odd, Odd])[] = [
  ['+0', '-0'],
  ['-0', '+0'],
  ['+inf', '-inf'],
  ['nan', '-inf'],
  ['+inf', 'negative nan'],
]
/** The same lane of every loop, of narrow ones, and neighbours. */
const DISTANCES = [32, 16, 8, 4, 1]

/** All that a test of some length places, in an order of their own. */
export function placements(length: number): Placement[] {
  const last = length - 1
  const list: Placement[] = [
    { background: 0, odd: [] },
    { background: 0, odd: [[last, '-0']] },
    { background: -0, odd: [] },
    { background: -0, odd: [[last, '+0']] },
  ]
  for (const [i, odd] of (Object.keys(ODD) as Odd[]).entries()) {
    for (const place of new Set([0, (i * 11 + 3) % length, last])) {
      list.push({ background: place % 2 === 0 ? 5 : -5, isVaried: i % 2 === 0, odd: [[place, odd]] })
    }
  }
  for (const [i, pair] of PAIRS.entries()) {
    for (const [j, distance] of [...DISTANCES, last].entries()) {
      if (distance > last) continue
      const place = (i * 7 + j * 3) % (length - distance)
      const odd = [
        [place, pair[0]],
        [place + distance, pair[1]],
      ] as const
      for (const background of [5, -5]) list.push({ background, isVaried: j % 2 === 0, odd })
    }
  }
  // Neighbours differ in a few elements, but for one step from each background to the next.
  const rank = ({ background, isVaried }: Placement): number => background * 2 + (isVaried ? 1 : 0)
  return list.sort((a, b) => rank(a) - rank(b))
}

/** The elements of a placement. */
export function placed(
  dtype: FloatDtype,
  length: number,
  { background, isVaried, odd }: Placement,
): TypedArray {
  const { view, sizeBytes } = DTYPE_INFO[dtype]
  const buffer = new ArrayBuffer(length * sizeBytes)
  const values = view(buffer, 0, length)
  for (let i = 0; i < length; i++) values[i] = isVaried ? background * (1 + (i % 7) / 8) : background
  for (const [place, name] of odd) {
    if (dtype === 'f32') new Uint32Array(buffer)[place] = ODD[name][0]
    else new BigUint64Array(buffer)[place] = ODD[name][1]
  }
  return values
}

/** The elements' bits. */
export function bitsOf(dtype: FloatDtype, values: TypedArray): (number | bigint)[] {
  const { buffer, byteOffset, length } = values
  return dtype === 'f32'
    ? [...new Uint32Array(buffer, byteOffset, length)]
    : [...new BigUint64Array(buffer, byteOffset, length)]
}
