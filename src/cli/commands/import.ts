/**
 * `mmsb import`: .npy files as source pages, into a running server or a folder nobody has open. A page of the name must not
 * be there, or have the same dtype and shape. Large files are written in pieces, each an epoch of its own.
 */
import { resolve } from 'node:path'
import { Bus } from '../../engine/bus.js'
import type { TypedArray } from '../../state/dtype.js'
import { describeFlags, type FlagTable, parseFlags, UsageError } from '../flags.js'
import { type NpyFile, withNpy } from '../npy-files.js'
import { Remote } from '../remote.js'

const FLAGS: FlagTable = {
  url: { value: 'URL', help: 'the server to write to, such as http://127.0.0.1:7411' },
  'data-dir': { value: 'DIR', help: 'or the folder of a server that does not run' },
  files: { value: 'FILES', help: 'the files, separated by commas; NAME.npy becomes page NAME' },
  help: { help: 'this text' },
}

interface Target {
  create(npy: NpyFile): Promise<void>
  write(name: string, offset: number, values: TypedArray): Promise<number>
}

export async function importPages(args: readonly string[]): Promise<void> {
  const { values, switches } = parseFlags(args, FLAGS, process.env)
  if (switches.has('help')) {
    process.stdout.write(
      `usage: mmsb import (--url URL | --data-dir DIR) --files FILES\n\n${describeFlags(FLAGS)}\n`,
    )
    return
  }
  const url = values.get('url')?.text
  const dir = values.get('data-dir')?.text
  const files = values.get('files')?.text.split(',')
  if ((url === undefined) === (dir === undefined)) throw new UsageError('give either --url or --data-dir')
  if (files === undefined) throw new UsageError('--files is missing')
  if (url !== undefined) {
    await importInto(serverTarget(new Remote(url)), files)
    return
  }
  const bus = await Bus.open({ dataDir: resolve(dir as string), backend: 'cpu' })
  try {
    await importInto(busTarget(bus), files)
  } finally {
    await bus.close()
  }
}

async function importInto(target: Target, files: readonly string[]): Promise<void> {
  for (const file of files) {
    await withNpy(file, async (npy) => {
      await target.create(npy)
      let epoch = 0
      await npy.eachPiece(async (offset, values) => {
        epoch = await target.write(npy.name, offset, values)
      })
      process.stdout.write(`${npy.name}: ${npy.dtype}[${npy.shape.join(',')}] in epoch ${epoch}\n`)
    })
  }
}

function busTarget(bus: Bus): Target {
  return {
    create: async ({ name, dtype, shape }) => {
      await bus.create(name, { dtype, shape })
    },
    write: async (name, offset, values) => (await bus.patch(name, { offset, values })).epoch,
  }
}

function serverTarget(remote: Remote): Target {
  const pathOf = (name: string): string => `/v1/pages/${encodeURIComponent(name)}`
  return {
    create: async ({ name, dtype, shape }) => {
      await remote.request('PUT', pathOf(name), { dtype, shape })
    },
    write: async (name, offset, values) => {
      const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
      const response = await remote.request('PATCH', `${pathOf(name)}/data?offset=${offset}`, bytes)
      return ((await response.json()) as { epoch: number }).epoch
    },
  }
}
