/**
 * `mmsb export`: writes pages to .npy files, all as of one epoch, from a running server or from a folder that
 * no server has open. Prints one line per file.
 *
 * Null because the JSON of the server's lists has it.
 */
import { mkdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Client } from '../../client/client.js'
import { OfflineFolder } from '../../engine/history/offline-folder.js'
import type { Dtype } from '../../wire/dtype.js'
import { NAME_PATTERN } from '../../wire/page.js'
import {
  type CommandHelp,
  epochOf,
  type FlagTable,
  flagsOrHelp,
  HELP_FLAG,
  JSON_FLAG,
  StartError,
  UsageError,
} from '../flags.js'
import { writeNpy } from '../npy-files.js'
import { result } from '../output.js'
import { ACCESS_FLAGS, withServer } from '../remote.js'

const FLAGS: FlagTable = {
  url: { value: 'URL', help: 'server to read from, such as http://127.0.0.1:7411' },
  ...ACCESS_FLAGS,
  'data-dir': { value: 'DIR', help: 'or a data folder that no server has open' },
  out: { value: 'DIR', help: 'folder to write the files to', standard: '.' },
  epoch: { value: 'EPOCH', help: 'epoch to read', standard: 'the newest' },
  pages: { value: 'NAMES', help: 'pages to export, separated by commas', standard: 'all' },
  json: JSON_FLAG,
  help: HELP_FLAG,
}

export const HELP: CommandHelp = {
  usage: 'mmsb export (--url URL | --data-dir DIR) [OPTIONS]',
  flags: FLAGS,
  examples: [
    ['mmsb export --url http://127.0.0.1:7411 --out ./pages', 'every page of a server'],
    ['mmsb export --data-dir ./data --epoch 100 --pages a,b', 'two pages of a folder, as of epoch 100'],
  ],
}

/** Pages per request while the names are read. */
const LIST_PART = 1_000

const PAGE_NAME = new RegExp(NAME_PATTERN)

export async function exportPages(args: readonly string[]): Promise<void> {
  const flags = flagsOrHelp(args, HELP)
  if (flags === undefined) return
  const { values } = flags
  const url = values.get('url')?.text
  const dir = values.get('data-dir')?.text
  if ((url === undefined) === (dir === undefined))
    throw new UsageError('give either --url or --data-dir, and not both')
  const epoch = epochOf(flags, 'epoch', 0)
  const names = values.get('pages')?.text.split(',')
  const folder = resolve(values.get('out')?.text ?? '.')
  mkdirSync(folder, { recursive: true })
  const out: Printing = {
    dir: folder,
    say: (page, file, dtype, shape, epoch) =>
      result(
        flags,
        { page, file, dtype, shape, epoch },
        `${file}: ${dtype}[${shape.join(',')}] as of epoch ${epoch}`,
      ),
  }
  if (dir !== undefined) await fromFolder(resolve(dir), out, epoch, names)
  else
    await withServer(flags, ({ client }) => fromServer(client, out, epoch, names), Number.POSITIVE_INFINITY)
}

interface Printing {
  /** Folder of the files. */
  readonly dir: string
  say(page: string, file: string, dtype: Dtype, shape: readonly number[], epoch: number): void
}

async function fromFolder(
  dir: string,
  out: Printing,
  epoch: number | undefined,
  names: readonly string[] | undefined,
): Promise<void> {
  const folder = new OfflineFolder(dir, epoch)
  try {
    const pages = names === undefined ? folder.pages() : names.map((name) => folder.page(name))
    for (const { name, dtype, shape } of pages) {
      const file = join(out.dir, `${name}.npy`)
      await writeNpy(file, dtype, shape, async (offset, count) => folder.read(name, offset, count))
      out.say(name, file, dtype, shape, folder.epoch)
    }
  } finally {
    folder.close()
  }
}

async function fromServer(
  client: Client,
  out: Printing,
  wanted: number | undefined,
  given: readonly string[] | undefined,
): Promise<void> {
  const status = await client.status()
  const epoch = wanted ?? status.epoch
  const names = given ?? (await namesAt(client, epoch, status.minEpoch))
  for (const name of names) {
    if (!PAGE_NAME.test(name))
      throw new StartError(`the server sent ${JSON.stringify(name)}, which is no page name`)
    const { dtype, shape } = await client.read(name, { epoch, count: 0 })
    const file = join(out.dir, `${name}.npy`)
    await writeNpy(
      file,
      dtype,
      shape,
      async (offset, count) => (await client.read(name, { epoch, offset, count })).values,
    )
    out.say(name, file, dtype, shape, epoch)
  }
}

/**
 * Names of the pages of an epoch. Where the empty state can still be read, they are what differs from it,
 * which includes pages deleted since; else they are today's pages that existed then.
 */
async function namesAt(client: Client, epoch: number, minEpoch: number): Promise<string[]> {
  if (minEpoch === 0) return Object.keys((await client.diff({ from: 0, to: epoch })).pages)
  const names: string[] = []
  for (let cursor: string | null = ''; cursor !== null; ) {
    const list: Awaited<ReturnType<Client['pages']>> = await client.pages({
      limit: LIST_PART,
      ...(cursor === '' ? {} : { cursor }),
    })
    for (const { name, createdEpoch } of list.pages) if (createdEpoch <= epoch) names.push(name)
    cursor = list.next
  }
  return names
}
