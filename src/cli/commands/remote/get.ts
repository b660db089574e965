/**
 * `mmsb get`: prints the elements of a page, or writes them to a .npy file. A large page is read in pieces,
 * all as of one epoch.
 */
import { resolve } from 'node:path'
import type { Client } from '../../../client/client.js'
import { encodeNpyHeader } from '../../../state/npy.js'
import { valuesToJsonText } from '../../../state/value.js'
import { DTYPE_INFO, type Dtype, type TypedArray } from '../../../wire/dtype.js'
import {
  type CommandHelp,
  type CommandLine,
  epochOf,
  HELP_FLAG,
  integerOf,
  JSON_FLAG,
  lineOrHelp,
  operandOf,
  StartError,
  UsageError,
} from '../../flags.js'
import { PIECE_BYTES, writeNpy } from '../../npy-files.js'
import { reader, result } from '../../output.js'
import { SERVER_FLAGS, withServer } from '../../remote.js'
import { formText, offsetOf, pageNameOf, rowsText } from './values.js'

export const HELP: CommandHelp = {
  usage: 'mmsb get PAGE [OPTIONS]',
  flags: {
    at: {
      value: 'INDEX',
      help: 'first element: its offset, or an index for each axis such as 1,0',
      standard: '0',
    },
    count: { value: 'N', help: 'number of elements', standard: 'to the end' },
    epoch: { value: 'EPOCH', help: 'epoch to read', standard: 'the newest' },
    npy: { value: 'FILE', help: 'write a .npy file instead of printing; - is standard output' },
    json: JSON_FLAG,
    ...SERVER_FLAGS,
    help: HELP_FLAG,
  },
  examples: [
    ['mmsb get prices', 'print a page, one row per line'],
    ['mmsb get prices --at 2,0 --count 4 --epoch 100', 'four elements, as they were'],
    ['mmsb get prices --json | jq .values[0]', 'one element, by a program'],
    ['mmsb get prices --npy prices.npy', 'for numpy.load'],
  ],
}

export async function get(args: readonly string[]): Promise<void> {
  const line = lineOrHelp(args, HELP)
  if (line === undefined) return
  const name = pageNameOf(operandOf(line, 'PAGE'))
  const epoch = epochOf(line, 'epoch', 0)
  const count = line.values.get('count')
  const most = count === undefined ? Number.POSITIVE_INFINITY : integerOf(count, 0, Number.MAX_SAFE_INTEGER)
  const npy = line.values.get('npy')?.text
  if (npy === '-' && line.switches.has('json'))
    throw new UsageError('--npy - and --json both write to standard output')
  if (npy === '-' && process.stdout.isTTY)
    throw new UsageError('--npy - writes bytes, which a terminal cannot show; name a file')
  await withServer(line, async ({ client }) => {
    const part = await openPart(client, name, line, epoch, most)
    if (npy === undefined) await printPart(part, line)
    else await writePart(part, npy, line)
  })
}

/** The elements that were asked for. */
interface Part {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly epoch: number
  readonly version: number
  readonly offset: number
  readonly count: number
  readonly isWhole: boolean
  /** `offset` counts from the beginning of the part. */
  read(offset: number, count: number): Promise<TypedArray>
}

async function openPart(
  client: Client,
  name: string,
  { values }: CommandLine,
  epoch: number | undefined,
  most: number,
): Promise<Part> {
  const at = epoch === undefined ? {} : { epoch }
  const head = await client.read(name, { ...at, count: 0 })
  const offset = offsetOf(values.get('at'), head.shape)
  const elements = head.shape.reduce((product, extent) => product * extent, 1)
  const count = Math.min(most, elements - offset)
  if (most !== Number.POSITIVE_INFINITY && count < most)
    throw new StartError(
      `--count: page "${name}" has ${elements - offset} elements from there on, not ${most}`,
    )
  const part = { name, offset, count, isWhole: count === elements }
  if (count * DTYPE_INFO[head.dtype].sizeBytes > PIECE_BYTES) {
    const read: Part['read'] = async (from, many) =>
      (await client.read(name, { epoch: head.epoch, offset: offset + from, count: many })).values
    return { ...head, ...part, read }
  }
  // In one piece, so it may be of the newest epoch, which need not be kept for it.
  const data = await client.read(name, { ...at, offset, count })
  return { ...data, ...part, read: async (from, many) => data.values.subarray(from, from + many) }
}

async function eachPiece(part: Part, visit: (offset: number, values: TypedArray) => void): Promise<void> {
  const piece = PIECE_BYTES / DTYPE_INFO[part.dtype].sizeBytes / 4
  for (let at = 0; at < part.count && !reader.isGone; at += piece)
    visit(at, await part.read(at, Math.min(piece, part.count - at)))
}

async function printPart(part: Part, { switches }: CommandLine): Promise<void> {
  const { name, dtype, shape, epoch, version, offset, isWhole } = part
  if (switches.has('json')) {
    const head = { name, dtype, shape, epoch, version, ...(isWhole ? {} : { offset }) }
    process.stdout.write(`${JSON.stringify(head).slice(0, -1)},"values":[`)
    await eachPiece(part, (at, values) => {
      process.stdout.write(`${at === 0 ? '' : ','}${valuesToJsonText(dtype, values).slice(1, -1)}`)
    })
    process.stdout.write(']}\n')
    return
  }
  let isInLine = false
  await eachPiece(part, (at, values) => {
    const text = rowsText(dtype, shape, offset + at, values, at === 0)
    process.stdout.write(text)
    isInLine = !text.endsWith('\n')
  })
  if (isInLine) process.stdout.write('\n')
}

async function writePart(part: Part, npy: string, line: CommandLine): Promise<void> {
  const { name, dtype, epoch, version, count, isWhole } = part
  const shape = isWhole ? part.shape : [count]
  if (npy === '-') {
    process.stdout.write(encodeNpyHeader(dtype, shape))
    await eachPiece(part, (_, { buffer, byteOffset, byteLength }) => {
      process.stdout.write(new Uint8Array(buffer, byteOffset, byteLength))
    })
    return
  }
  const file = resolve(npy)
  await writeNpy(file, dtype, shape, part.read)
  const text = `${file}: ${formText(dtype, shape)} as of epoch ${epoch}`
  result(line, { name, file, dtype, shape, epoch, version }, text)
}
