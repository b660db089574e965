/** copy, cast. */
import { DTYPES, type Dtype } from '../../../src/wire/dtype.js'
import type { Draw } from '../../lib/draw.js'
import { castTensor } from '../tensor.js'
import { drawPage, drawShape, ONE_INPUT, pickAxis, tamePage, tameShape } from './drawing.js'
import type { OpRecord, OpRecords, TestPage } from './record.js'

const drawX = (draw: Draw): { x: TestPage } => ({
  x: drawPage(draw, draw.pick(DTYPES), drawShape(draw, 0, 3)),
})

const copy: OpRecord = {
  compute: ({ x }) => x!,
  overPages: (draw, pages) => ({ op: 'copy', inputs: pickAxis(draw, pages).inputs }),
  withPages: (draw) => ({ derive: { op: 'copy', inputs: ONE_INPUT }, pages: drawX(draw) }),
  numpy: (draw, dtype) => [
    {
      derive: { op: 'copy', inputs: ONE_INPUT },
      pages: { x: tamePage(draw, dtype, tameShape(draw, 0, 4), true) },
    },
  ],
  results: [[{ op: 'copy', inputs: { x: 'cube' } }, 'i16', [2, 4, 3], []]],
  refusals: [
    [{ op: 'copy' }, /^INVALID_REQUEST inputs must be an object/],
    [{ op: 'copy', inputs: ['prices'] }, /^INVALID_REQUEST inputs must be an object/],
    [{ op: 'copy', inputs: { x: 7 } }, /^INVALID_REQUEST input x must be the name of a page/],
    [{ op: 'copy', inputs: { x: 'nowhere' } }, /^PAGE_NOT_FOUND/],
    [{ op: 'copy', inputs: { x: 'qty', y: 'qty' } }, /^INVALID_REQUEST copy has no input 'y'; it takes x/],
    [
      { op: 'copy', inputs: { x: 'prices' }, axis: 1 },
      /^INVALID_REQUEST copy has no parameter 'axis'; its parameters: none/,
    ],
  ],
  long: [{ op: 'copy', inputs: ONE_INPUT }],
  conformance: () => [['copied', { op: 'copy', inputs: ONE_INPUT }]],
}

const cast: OpRecord = {
  compute: ({ x }, { dtype }) => castTensor(x!, dtype as Dtype),
  overPages: (draw, pages) => ({
    op: 'cast',
    inputs: pickAxis(draw, pages).inputs,
    dtype: draw.pick(DTYPES),
  }),
  withPages: (draw) => ({
    derive: { op: 'cast', inputs: ONE_INPUT, dtype: draw.pick(DTYPES) },
    pages: drawX(draw),
  }),
  runs: 225,
  numpy: (draw, dtype) =>
    DTYPES.map((to) => ({
      derive: { op: 'cast', inputs: ONE_INPUT, dtype: to },
      pages: { x: tamePage(draw, dtype, tameShape(draw, 0, 3), true) },
    })),
  results: [[{ op: 'cast', inputs: { x: 'cube' }, dtype: 'f32' }, 'f32', [2, 4, 3], []]],
  refusals: [
    [{ op: 'cast', inputs: { x: 'prices' } }, /^INVALID_REQUEST cast needs dtype/],
    [{ op: 'cast', inputs: { x: 'prices' }, dtype: 'float' }, /^INVALID_REQUEST dtype is "float"/],
  ],
  long: DTYPES.map((dtype) => ({ op: 'cast', inputs: ONE_INPUT, dtype })),
  conformance: () =>
    DTYPES.map((dtype) => [`as.${dtype}`, { op: 'cast', inputs: ONE_INPUT, dtype }] as const),
}

export const copyRecords: OpRecords = { copy, cast }
