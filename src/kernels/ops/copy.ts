/** copy and cast: each element by itself. */
import { isDtype } from '../../wire/dtype.js'
import { defineOp, invalidRequest, moveNs, readDtype, readWords } from './op.js'

const NO_BLOCK = new Uint8Array(0)

const copyOp = defineOp<'copy', undefined>({
  name: 'copy',
  code: 1,
  version: 1,
  roles: ['x'],
  parameters: {},
  dirtyRule: 'elementwise',
  example: { op: 'copy', inputs: { x: 'P' } },
  read: () => undefined,
  infer: (_, [x]) => ({ dtype: x!.dtype, shape: x!.shape }),
  show: () => ({}),
  encode: () => NO_BLOCK,
  decode: (block) => {
    readWords(block, 0)
    return undefined
  },
  costPerElementNs: (_, __, { dtype }) => moveNs(dtype),
})

const castOp = defineOp({
  name: 'cast',
  code: 2,
  version: 1,
  roles: ['x'],
  parameters: { dtype: 'required' },
  dirtyRule: 'elementwise',
  example: { op: 'cast', inputs: { x: 'P' }, dtype: 'u8' },
  givesDtype: true,
  read: (fields, _, asked) => {
    const dtype = readDtype(fields, 'dtype')
    if (asked !== undefined && asked !== dtype) {
      throw invalidRequest(`the cast is to ${dtype} but the page asks for ${asked}; give one of the two`)
    }
    return { dtype }
  },
  infer: ({ dtype }, [x]) => ({ dtype, shape: x!.shape }),
  show: ({ dtype }) => ({ dtype }),
  encode: () => NO_BLOCK,
  decode: (block, { dtype }) => {
    readWords(block, 0)
    if (!isDtype(dtype)) throw invalidRequest('the logged cast has no dtype')
    return { dtype }
  },
  costPerElementNs: () => 2.2,
})

export const COPY_OPS = { copy: copyOp, cast: castOp }
