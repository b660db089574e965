/**
 * `mmsb import`: writes .npy files to source pages of a running server or of a folder that no server has
 * open. An existing page of the same name must have the same dtype and shape. A large file is written in
 * pieces, one epoch each.
 */
import { resolve } from 'node:path'
import { Bus } from '../../index.js'
import type { TypedArray } from '../../wire/dtype.js'
import { type FlagTable, flagsOrHelp, HELP_FLAG, UsageError } from '../flags.js'
import { type NpyFile, withNpy } from '../npy-files.js'
import { print } from '../output.js'
import { Remote, TOKEN_FILE_FLAG, tokenOf } from '../remote.js'

const FLAGS: FlagTable = {
  url: { value: 'URL', help: 'server to write to, such as http://127.0.0.1:7411' },
  'token-file': TOKEN_FILE_FLAG,
  'data-dir': { value: 'DIR', help: 'or a data folder that no server has open' },
  files: { value: 'FILES', help: 'files, separated by commas; NAME.npy becomes page NAME' },
  help: HELP_FLAG,
}

interface Target {
  create(npy: NpyFile): Promise<void>
  write(name: string, offset: number, values: TypedArray): Promise<number>
}

export async function importPages(args: readonly string[]): Promise<void> {
  const flags = flagsOrHelp(args, 'mmsb import (--url URL | --data-dir DIR) --files FILES', FLAGS)
  if (flags === undefined) return
  const { values } = flags
  const url = values.get('url')?.text
  const dir = values.get('data-dir')?.text
  const files = values.get('files')?.text.split(',')
  if ((url === undefined) === (dir === undefined))
    throw new UsageError('give either --url or --data-dir, and not both')
  if (files === undefined) throw new UsageError('--files is missing')
  if (url !== undefined) {
    await importInto(serverTarget(new Remote(url, tokenOf(flags))), files)
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
      print(`${npy.name}: ${npy.dtype}[${npy.shape.join(',')}] in epoch ${epoch}`)
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
