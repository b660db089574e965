/** scan, window, sort: work along one axis and keep the shape. */
import { WINDOW_MAX_SIZE } from '../../limits.js'
import { elementCount, normalizeAxis } from '../../state/shape.js'
import { DTYPE_INFO, type Dtype } from '../../wire/dtype.js'
import { REDUCE_FUNCTIONS, SCAN_FUNCTIONS, WINDOW_FUNCTIONS } from '../../wire/ops.js'
import {
  checkBlockAxis,
  defineOp,
  type Fields,
  flagOfWord,
  invalidRequest,
  nameOfWord,
  type OpInput,
  readBoolean,
  readChoice,
  readInteger,
  readWords,
  wordBlock,
} from './op.js'

/** Elements that the native code computes at once. */
const WINDOW_BLOCK = 2048

type LaneFunction = (typeof SCAN_FUNCTIONS)[number] | (typeof WINDOW_FUNCTIONS)[number]

/** The dtype of the reduction of the same name. */
function laneDtype(fn: LaneFunction, dtype: Dtype): Dtype {
  const { kind } = DTYPE_INFO[dtype]
  if (fn === 'min' || fn === 'max' || kind === 'float') return dtype
  return fn === 'mean' ? 'f64' : kind === 'signed' ? 'i64' : 'u64'
}

/** Without `axis`: the last one. */
const readAxis = (fields: Fields, x: OpInput): number =>
  normalizeAxis(fields.axis === undefined ? -1 : fields.axis, x)

const wordOf = (fn: LaneFunction): number => REDUCE_FUNCTIONS.indexOf(fn)

function functionOf<T extends LaneFunction>(word: number, functions: readonly T[]): T {
  const name = nameOfWord(REDUCE_FUNCTIONS, word, 'function')
  const found = functions.find((fn) => fn === name)
  if (found === undefined) throw invalidRequest(`the parameter block has function ${word}`)
  return found
}

interface ScanParams {
  readonly fn: (typeof SCAN_FUNCTIONS)[number]
  readonly axis: number
}

const scanOp = defineOp<'scan', ScanParams>({
  name: 'scan',
  code: 8,
  version: 1,
  roles: ['x'],
  parameters: { axis: 'optional', fn: 'required' },
  dirtyRule: 'after',
  example: { op: 'scan', inputs: { x: 'P' }, fn: 'sum', axis: 0 },
  read: (fields, [x]) => ({ fn: readChoice(fields, 'fn', SCAN_FUNCTIONS), axis: readAxis(fields, x!) }),
  infer: ({ fn, axis }, [x]) => {
    checkBlockAxis(axis, x!)
    return { dtype: laneDtype(fn, x!.dtype), shape: x!.shape }
  },
  show: ({ fn, axis }) => ({ axis, fn }),
  encode: ({ fn, axis }) => wordBlock(wordOf(fn), axis),
  decode: (block) => {
    const [fn, axis] = readWords(block, 2)
    return { fn: functionOf(fn!, SCAN_FUNCTIONS), axis: axis! }
  },
  // Across lanes, each element is on another line of the cache.
  costPerElementNs: ({ axis }, [x]) => (axis === x!.shape.length - 1 ? 4 : 8),
})

interface WindowParams {
  readonly fn: (typeof WINDOW_FUNCTIONS)[number]
  readonly size: number
  readonly axis: number
}

const windowOp = defineOp<'window', WindowParams>({
  name: 'window',
  code: 10,
  version: 1,
  roles: ['x'],
  parameters: { axis: 'optional', fn: 'required', size: 'required' },
  dirtyRule: 'near',
  example: { op: 'window', inputs: { x: 'P' }, fn: 'mean', size: 5, axis: 0 },
  read: (fields, [x]) => ({
    fn: readChoice(fields, 'fn', WINDOW_FUNCTIONS),
    size: readInteger(fields, 'size', 1, WINDOW_MAX_SIZE),
    axis: readAxis(fields, x!),
  }),
  infer: ({ fn, axis }, [x]) => {
    checkBlockAxis(axis, x!)
    return { dtype: laneDtype(fn, x!.dtype), shape: x!.shape }
  },
  show: ({ fn, size, axis }) => ({ axis, fn, size }),
  encode: ({ fn, size, axis }) => wordBlock(wordOf(fn), size, axis, 0),
  decode: (block) => {
    const [fn, size, axis, reserved] = readWords(block, 4)
    if (size! < 1 || size! > WINDOW_MAX_SIZE || reserved !== 0) {
      throw invalidRequest('the parameter block of window is malformed')
    }
    return { fn: functionOf(fn!, WINDOW_FUNCTIONS), size: size!, axis: axis! }
  },
  // The output is computed in blocks of rows, and each block reads a window's length before its first row.
  costPerElementNs: ({ size, axis }, [x]) => {
    const inner = elementCount(x!.shape.slice(axis + 1))
    const rows = Math.min(Math.max(1, Math.floor(WINDOW_BLOCK / Math.max(1, inner))), x!.shape[axis]!)
    const reach = Math.min(size, x!.shape[axis]!)
    return 3 + 0.25 * (1 + reach / Math.max(1, rows)) * (1 + Math.log2(size))
  },
})

interface SortParams {
  readonly axis: number
  readonly descending: boolean
}

const sortOp = defineOp<'sort', SortParams>({
  name: 'sort',
  code: 11,
  version: 1,
  roles: ['x'],
  parameters: { axis: 'optional', descending: 'optional' },
  dirtyRule: 'rows',
  example: { op: 'sort', inputs: { x: 'P' }, axis: 0, descending: false },
  read: (fields, [x]) => ({
    axis: readAxis(fields, x!),
    descending: readBoolean(fields, 'descending', false),
  }),
  infer: ({ axis }, [x]) => {
    checkBlockAxis(axis, x!)
    return { dtype: x!.dtype, shape: x!.shape }
  },
  show: ({ axis, descending }) => ({ axis, descending }),
  encode: ({ axis, descending }) => wordBlock(axis, descending ? 1 : 0),
  decode: (block) => {
    const [axis, descending] = readWords(block, 2)
    return { axis: axis!, descending: flagOfWord(descending!, 'descending') }
  },
  costPerElementNs: () => 16,
})

export const LANE_OPS = { scan: scanOp, window: windowOp, sort: sortOp }
