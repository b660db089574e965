/** What the records of ops share to draw shapes, axes and pages. */

import { elementCount } from '../../../src/state/shape.js'
import { DTYPE_INFO, DTYPES, type Dtype } from '../../../src/wire/dtype.js'
import type { Draw, PageSketch } from '../../lib/draw.js'
import type { TestPage } from './record.js'

/** The only input of most ops. */
export const ONE_INPUT = { x: 'x' }

export const isFloat = (dtype: Dtype): boolean => DTYPE_INFO[dtype].kind === 'float'
export const isInteger = (dtype: Dtype): boolean => ['signed', 'unsigned'].includes(DTYPE_INFO[dtype].kind)
export const INTEGERS = DTYPES.filter(isInteger)

/** The axis counted from the start or from the end. */
export const eitherWay = (draw: Draw, axis: number, rank: number): number =>
  draw.chance(0.5) ? axis : axis - rank

/** The axes in some order, each counted from the start or from the end. */
export function drawOrder(draw: Draw, rank: number): number[] {
  const left = Array.from({ length: rank }, (_, axis) => axis)
  return Array.from({ length: rank }, () => {
    const [axis = 0] = left.splice(draw.int(0, left.length - 1), 1)
    return eitherWay(draw, axis, rank)
  })
}

// ---- random graphs ----------------------------------------------------------------------------------------

/** A page, and one of its axes where it has any. */
export function pickAxis(
  draw: Draw,
  pages: readonly PageSketch[],
): { page: PageSketch; inputs: { x: string }; axis: number | undefined } {
  const page = draw.pick(pages)
  const rank = page.shape.length
  return { page, inputs: { x: page.name }, axis: rank === 0 ? undefined : draw.int(-rank, rank - 1) }
}

// ---- pages with odd values --------------------------------------------------------------------------------

const ODD_FLOATS = [Number.NaN, Infinity, -Infinity, 0, -0, 1e-40, -3e38, 1e300]

/** A page; few distinct values, so that ties occur; now and then odd ones. */
export function drawPage(draw: Draw, dtype: Dtype, shape: readonly number[]): TestPage {
  const info = DTYPE_INFO[dtype]
  const count = elementCount(shape)
  const values = info.view(new ArrayBuffer(count * info.sizeBytes), 0, count)
  const odd = draw.int(0, 2) === 0 ? draw.int(4, 63) : 0
  // One draw seeds the whole page: thousands of draws would be slow, and shrinking them pointless.
  let state = draw.int(0, 2 ** 31 - 1)
  const random = (below: number): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
  for (let i = 0; i < count; i++) {
    const isOdd = odd > 0 && random(odd) === 0
    if (info.kind === 'float') values[i] = isOdd ? ODD_FLOATS[random(8)]! : (random(2000) - 1000) / 7
    else if (info.kind === 'bool') values[i] = random(2)
    else {
      const value = isOdd
        ? random(2)
          ? info.max!
          : info.min!
        : BigInt(random(60) - (info.kind === 'signed' ? 30 : 0))
      values[i] = (info.sizeBytes === 8 ? value : Number(value)) as never
    }
  }
  return { dtype, shape, values }
}

const SIZES = [0, 1, 2, 3, 5, 8, 31, 32, 33, 64, 70]

export function drawShape(draw: Draw, least: number, most: number): number[] {
  const shape = Array.from({ length: draw.int(least, most) }, () => draw.pick(SIZES))
  while (elementCount(shape) > 20_000) shape[draw.int(0, shape.length - 1)] = draw.int(1, 3)
  return shape
}

/** Small enough for a reference that walks a lane for each element. */
export function drawSmallShape(draw: Draw, least: number, most: number): number[] {
  const shape = drawShape(draw, least, most)
  while (elementCount(shape) > 1500) shape[draw.int(0, shape.length - 1)] = draw.int(1, 3)
  return shape
}

// ---- pages for NumPy --------------------------------------------------------------------------------------

/** Small numbers with many ties; floats with fractions, and NaN where the op treats it as NumPy does. */
export function tamePage(draw: Draw, dtype: Dtype, shape: readonly number[], nans = false): TestPage {
  const { view, sizeBytes, kind } = DTYPE_INFO[dtype]
  const count = elementCount(shape)
  const values = view(new ArrayBuffer(count * sizeBytes), 0, count)
  for (let i = 0; i < count; i++) {
    if (kind === 'float') {
      values[i] = nans && draw.chance(0.03) ? Number.NaN : draw.int(-400, 400) / 8 + draw.int(0, 1) / 3
    } else {
      const value = kind === 'bool' ? draw.int(0, 1) : draw.int(kind === 'signed' ? -60 : 0, 60)
      values[i] = (sizeBytes === 8 ? BigInt(value) : value) as never
    }
  }
  return { dtype, shape, values }
}

export function tameShape(draw: Draw, least: number, most: number): number[] {
  const shape = Array.from({ length: draw.int(least, most) }, () => draw.pick([0, 1, 2, 3, 5, 8, 17, 33]))
  while (elementCount(shape) > 4000) shape[draw.int(0, shape.length - 1)] = draw.int(1, 3)
  return shape
}

/** An axis of a random shape, with elements on it: `axis` as it is named, `own` counted from 0. */
export function tameAxis(draw: Draw, most = 3): { shape: number[]; axis: number; own: number } {
  const shape = tameShape(draw, 1, most)
  const own = draw.int(0, shape.length - 1)
  if (shape[own] === 0) shape[own] = 4
  return { shape, own, axis: eitherWay(draw, own, shape.length) }
}
