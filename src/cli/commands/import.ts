/**
 * `mmsb import`: writes .npy files to source pages of a running server or of a folder that no server has
 * open. An existing page of the same name must have the same dtype and shape. A large file is written in
 * pieces, one epoch each.
 */
import { resolve } from 'node:path'
import type { Client } from '../../client/client.js'
import { Bus } from '../../index.js'
import type { TypedArray } from '../../wire/dtype.js'
import {
  type CommandHelp,
  type FlagTable,
  flagsOrHelp,
  HELP_FLAG,
  JSON_FLAG,
  type ParsedFlags,
  UsageError,
} from '../flags.js'
import { type NpyFile, withNpy } from '../npy-files.js'
import { result } from '../output.js'
import { ACCESS_FLAGS, withServer } from '../remote.js'

const FLAGS: FlagTable = {
  url: { value: 'URL', help: 'server to write to, such as http://127.0.0.1:7411' },
  ...ACCESS_FLAGS,
  'data-dir': { value: 'DIR', help: 'or a data folder that no server has open' },
  files: { value: 'FILES', help: 'files, separated by commas; NAME.npy becomes page NAME' },
  json: JSON_FLAG,
  help: HELP_FLAG,
}

export const HELP: CommandHelp = {
  usage: 'mmsb import (--url URL | --data-dir DIR) --files FILES',
  flags: FLAGS,
  examples: [
    ['mmsb import --url http://127.0.0.1:7411 --files prices.npy,qty.npy', 'write pages prices and qty'],
    ['mmsb import --data-dir ./data --files prices.npy', 'write into a folder that no server has open'],
  ],
}

interface Target {
  create(npy: NpyFile): Promise<void>
  write(name: string, offset: number, values: TypedArray): Promise<number>
}

export async function importPages(args: readonly string[]): Promise<void> {
  const flags = flagsOrHelp(args, HELP)
  if (flags === undefined) return
  const { values } = flags
  const url = values.get('url')?.text
  const dir = values.get('data-dir')?.text
  const files = values.get('files')?.text.split(',')
  if ((url === undefined) === (dir === undefined))
    throw new UsageError('give either --url or --data-dir, and not both')
  if (files === undefined) throw new UsageError('--files is missing')
  if (url !== undefined) {
    await withServer(
      flags,
      ({ client }) => importInto(flags, targetOf(client), files),
      Number.POSITIVE_INFINITY,
    )
    return
  }
  const bus = await Bus.open({ dataDir: resolve(dir as string), backend: 'cpu' })
  try {
    await importInto(flags, targetOf(bus), files)
  } finally {
    await bus.close()
  }
}

async function importInto(flags: ParsedFlags, target: Target, files: readonly string[]): Promise<void> {
  for (const file of files) {
    await withNpy(file, async (npy) => {
      await target.create(npy)
      let epoch = 0
      await npy.eachPiece(async (offset, values) => {
        epoch = await target.write(npy.name, offset, values)
      })
      const { name, dtype, shape } = npy
      result(
        flags,
        { page: name, dtype, shape, epoch },
        `${name}: ${dtype}[${shape.join(',')}] in epoch ${epoch}`,
      )
    })
  }
}

function targetOf(bus: Bus | Client): Target {
  return {
    create: async ({ name, dtype, shape }) => {
      await bus.create(name, { dtype, shape })
    },
    write: async (name, offset, values) => (await bus.patch(name, { offset, values })).epoch,
  }
}
