/**
 * `mmsb set`: writes values to a source page, from the command line, a file or standard input. More than a
 * request holds is written in pieces, one epoch each.
 */
import { readFileSync } from 'node:fs'
import type { Client } from '../../../client/client.js'
import type { Page, WriteAnswer } from '../../../client/types.js'
import { DTYPE_INFO, DTYPES, type Dtype, isDtype, type TypedArray } from '../../../wire/dtype.js'
import { MERGES } from '../../../wire/page.js'
import {
  type CommandHelp,
  type CommandLine,
  choiceOf,
  type Given,
  HELP_FLAG,
  integerOf,
  JSON_FLAG,
  lineOrHelp,
  StartError,
  UsageError,
} from '../../flags.js'
import { isNpy, type NpyFile, npyFrom, PIECE_BYTES, withNpy } from '../../npy-files.js'
import { counted, result } from '../../output.js'
import { SERVER_FLAGS, withServer } from '../../remote.js'
import { formText, offsetOf, pageNameOf, valuesOf } from './values.js'

export const HELP: CommandHelp = {
  usage: `mmsb set PAGE VALUES|@FILE|- [OPTIONS]

VALUES are separated by commas or spaces. @FILE is a .npy file or text; - reads either from standard input.
Without --at the values are the whole page.`,
  flags: {
    at: { value: 'INDEX', help: 'write a part, from this offset or index for each axis such as 1,0' },
    create: {
      value: 'DTYPE,SHAPE',
      help: 'create the page first where it is absent, such as f64,4,3; auto: as the .npy file is',
    },
    merge: {
      value: 'HOW',
      help: `how to combine with what is there: ${MERGES.join(', ')}`,
      standard: 'set',
      choices: MERGES,
    },
    'if-version': { value: 'N', help: 'write only if the page has this version' },
    json: JSON_FLAG,
    ...SERVER_FLAGS,
    help: HELP_FLAG,
  },
  examples: [
    ['mmsb set prices 1,2.5,nan --create f64,3', 'create a page of three and write it'],
    ['mmsb set prices 9 --at 2', 'write one element'],
    ['mmsb set hits 1 --at 0,3 --merge add', 'count'],
    ['mmsb set prices @prices.npy', 'write a file of NumPy'],
    ['mmsb get a --npy - | mmsb set b - --create auto', 'copy a page'],
  ],
}

/** What is to be written: an array with its form, or text whose values take the page's dtype. */
type Input = { readonly npy: NpyFile } | { readonly text: string }

export async function set(args: readonly string[]): Promise<void> {
  const line = lineOrHelp(args, HELP)
  if (line === undefined) return
  const [name, given, ...more] = line.operands
  if (name === undefined) throw new UsageError('PAGE is missing')
  if (given === undefined) throw new UsageError('VALUES are missing; @FILE reads a file, - standard input')
  pageNameOf(name)
  // `mmsb set a 1 2 3` is what people type.
  const isList = more.length > 0 && !given.startsWith('@') && given !== '-'
  if (more.length > 0 && !isList) throw new UsageError(`unexpected argument ${JSON.stringify(more[0])}`)
  await withInput([given, ...more].join(' '), (input) =>
    withServer(line, async ({ client }) => {
      const page = await openPage(client, name, input, line)
      const { epoch, version, elements } = await write(client, page, input, line)
      const text = `${name}: ${counted(elements, 'element')} in epoch ${epoch}`
      result(line, { page: name, epoch, version, elements }, text)
    }),
  )
}

async function withInput<T>(given: string, work: (input: Input) => Promise<T>): Promise<T> {
  if (given === '-') return work(inputOf('standard input', await standardInput()))
  if (!given.startsWith('@')) return work({ text: given })
  const file = given.slice(1)
  if (file.endsWith('.npy')) return withNpy(file, (npy) => work({ npy }))
  return work(inputOf(file, readFileSync(file)))
}

/** Not by readFileSync, which fails where another program has made the input one that does not wait. */
async function standardInput(): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

function inputOf(name: string, bytes: Buffer): Input {
  if (!isNpy(bytes)) return { text: bytes.toString('utf8') }
  const read = (out: Uint8Array, at: number): number => {
    const part = bytes.subarray(at, at + out.length)
    out.set(part)
    return part.length
  }
  return { npy: npyFrom({ name, size: bytes.length, read }) }
}

async function openPage(client: Client, name: string, input: Input, { values }: CommandLine): Promise<Page> {
  const create = values.get('create')
  const page =
    create === undefined ? await client.page(name) : await client.create(name, formOf(create, input))
  if (page.kind === 'derived')
    throw new StartError(`page "${name}" is derived; set the pages that it is made of`)
  return page
}

/** @throws UsageError */
function formOf(create: Given, input: Input): { dtype: Dtype; shape: number[] } {
  if (create.text === 'auto') {
    if ('npy' in input) return { dtype: input.npy.dtype, shape: [...input.npy.shape] }
    throw new UsageError(`${create.from}: auto is for .npy files; give a dtype and a shape such as f64,4,3`)
  }
  const [dtype, ...extents] = create.text.split(/[,x]/).map((part) => part.trim())
  if (!isDtype(dtype))
    throw new UsageError(`${create.from}: ${JSON.stringify(dtype)} is not one of ${DTYPES.join(', ')}`)
  const shape = extents.map((text) => integerOf({ text, from: create.from }, 0, Number.MAX_SAFE_INTEGER))
  return { dtype, shape }
}

async function write(
  client: Client,
  page: Page,
  input: Input,
  line: CommandLine,
): Promise<WriteAnswer & { elements: number }> {
  const { name, dtype, shape } = page
  const at = line.values.get('at')
  const start = offsetOf(at, shape)
  const room = shape.reduce((product, extent) => product * extent, 1)
  const values = 'text' in input ? valuesOf(input.text, dtype) : undefined
  const elements = values?.length ?? (input as { npy: NpyFile }).npy.elements
  if ('npy' in input) checkForm(page, input.npy, at !== undefined)
  if (at === undefined && elements !== room)
    throw new StartError(
      `page "${name}" is ${formText(dtype, shape)}, ${counted(room, 'element')}, and you gave ${elements}; --at writes a part`,
    )
  if (start + elements > room)
    throw new StartError(
      `--at: page "${name}" has room for ${room - start} from there on, and you gave ${elements}`,
    )
  const options = optionsOf(line, elements * DTYPE_INFO[dtype].sizeBytes > PIECE_BYTES)
  let answer: WriteAnswer | undefined
  const writePiece = async (offset: number, piece: TypedArray): Promise<void> => {
    const { merge, ...rest } = options
    const delta = { offset: start + offset, values: piece, ...(merge === undefined ? {} : { merge }) }
    answer = await client.patch(name, delta, rest)
  }
  if (values !== undefined) {
    const count = PIECE_BYTES / DTYPE_INFO[dtype].sizeBytes
    for (let offset = 0; offset < elements; offset += count)
      await writePiece(offset, values.subarray(offset, offset + count))
  } else await (input as { npy: NpyFile }).npy.eachPiece(writePiece)
  // Of an empty page nothing was written.
  return { page: name, epoch: page.createdEpoch, version: page.version, ...answer, elements }
}

/** @throws StartError */
function checkForm({ name, dtype, shape }: Page, npy: NpyFile, isPart: boolean): void {
  const isSame =
    npy.shape.length === shape.length && npy.shape.every((extent, axis) => extent === shape[axis])
  if (npy.dtype === dtype && (isPart || isSame)) return
  throw new StartError(
    `page "${name}" is ${formText(dtype, shape)}, and the file holds ${formText(npy.dtype, npy.shape)}; convert it first`,
  )
}

/** @throws UsageError */
function optionsOf(
  { values }: CommandLine,
  isLarge: boolean,
): { merge?: (typeof MERGES)[number]; expectVersion?: number } {
  const merge = values.get('merge')
  const version = values.get('if-version')
  if (version !== undefined && isLarge)
    throw new UsageError('--if-version: these values need more than one epoch; write them in parts')
  return {
    ...(merge === undefined ? {} : { merge: choiceOf(merge, MERGES) }),
    ...(version === undefined ? {} : { expectVersion: integerOf(version, 0, Number.MAX_SAFE_INTEGER) }),
  }
}
