/**
 * `mmsb export`: writes pages to .npy files, all as of one epoch, from a running server or from a folder that
 * no server has open. Prints one line per file.
 *
 * Null because the JSON of the server's lists has it.
 */
import { mkdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { OfflineFolder } from '../../engine/history/offline-folder.js'
import { DTYPE_INFO, type Dtype } from '../../wire/dtype.js'
import { NAME_PATTERN } from '../../wire/page.js'
import { epochOf, type FlagTable, flagsOrHelp, HELP_FLAG, StartError, UsageError } from '../flags.js'
import { writeNpy } from '../npy-files.js'
import { print } from '../output.js'
import { Remote, TOKEN_FILE_FLAG, tokenOf } from '../remote.js'

const FLAGS: FlagTable = {
  url: { value: 'URL', help: 'server to read from, such as http://127.0.0.1:7411' },
  'token-file': TOKEN_FILE_FLAG,
  'data-dir': { value: 'DIR', help: 'or a data folder that no server has open' },
  out: { value: 'DIR', help: 'folder to write the files to', standard: '.' },
  epoch: { value: 'EPOCH', help: 'epoch to read', standard: 'the newest' },
  pages: { value: 'NAMES', help: 'pages to export, separated by commas', standard: 'all' },
  help: HELP_FLAG,
}

const PAGE_NAME = new RegExp(NAME_PATTERN)

export async function exportPages(args: readonly string[]): Promise<void> {
  const flags = flagsOrHelp(args, 'mmsb export (--url URL | --data-dir DIR) [OPTIONS]', FLAGS)
  if (flags === undefined) return
  const { values } = flags
  const url = values.get('url')?.text
  const dir = values.get('data-dir')?.text
  if ((url === undefined) === (dir === undefined))
    throw new UsageError('give either --url or --data-dir, and not both')
  const epoch = epochOf(flags, 'epoch', 0)
  const names = values.get('pages')?.text.split(',')
  const out = resolve(values.get('out')?.text ?? '.')
  mkdirSync(out, { recursive: true })
  if (dir !== undefined) await fromFolder(resolve(dir), out, epoch, names)
  else await fromServer(new Remote(url as string, tokenOf(flags)), out, epoch, names)
}

function printFile(file: string, dtype: Dtype, shape: readonly number[], epoch: number): void {
  print(`${file}: ${dtype}[${shape.join(',')}] as of epoch ${epoch}`)
}

async function fromFolder(
  dir: string,
  out: string,
  epoch: number | undefined,
  names: readonly string[] | undefined,
): Promise<void> {
  const folder = new OfflineFolder(dir, epoch)
  try {
    const pages = names === undefined ? folder.pages() : names.map((name) => folder.page(name))
    for (const { name, dtype, shape } of pages) {
      const file = join(out, `${name}.npy`)
      await writeNpy(file, dtype, shape, async (offset, count) => folder.read(name, offset, count))
      printFile(file, dtype, shape, folder.epoch)
    }
  } finally {
    folder.close()
  }
}

async function fromServer(
  remote: Remote,
  out: string,
  wanted: number | undefined,
  given: readonly string[] | undefined,
): Promise<void> {
  const status = await remote.json<{ epoch: number; minEpoch: number }>('/v1/status')
  const epoch = wanted ?? status.epoch
  const names = given ?? (await namesAt(remote, epoch, status.minEpoch))
  for (const name of names) {
    if (!PAGE_NAME.test(name))
      throw new StartError(`the server sent ${JSON.stringify(name)}, which is no page name`)
    const path = `/v1/pages/${encodeURIComponent(name)}/data?epoch=${epoch}`
    const { dtype, shape } = await remote.json<{ dtype: Dtype; shape: number[] }>(`${path}&offset=0&count=0`)
    const file = join(out, `${name}.npy`)
    await writeNpy(file, dtype, shape, async (offset, count) => {
      const response = await remote.request('GET', `${path}&offset=${offset}&count=${count}`)
      return DTYPE_INFO[dtype].view(await response.arrayBuffer(), 0, count)
    })
    printFile(file, dtype, shape, epoch)
  }
}

/**
 * Names of the pages of an epoch. Where the empty state can still be read, they are what differs from it,
 * which includes pages deleted since; else they are today's pages that existed then.
 */
async function namesAt(remote: Remote, epoch: number, minEpoch: number): Promise<string[]> {
  if (minEpoch === 0) {
    const { pages } = await remote.json<{ pages: Record<string, unknown> }>(`/v1/diff?from=0&to=${epoch}`)
    return Object.keys(pages)
  }
  const names: string[] = []
  for (let cursor: string | null = ''; cursor !== null; ) {
    const after: string = cursor === '' ? '' : `&cursor=${encodeURIComponent(cursor)}`
    const list = await remote.json<{ pages: { name: string; createdEpoch: number }[]; next: string | null }>(
      `/v1/pages?limit=1000${after}`,
    )
    for (const { name, createdEpoch } of list.pages) if (createdEpoch <= epoch) names.push(name)
    cursor = list.next
  }
  return names
}
