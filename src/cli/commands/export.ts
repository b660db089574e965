/**
 * `mmsb export`: pages as .npy files, all as of one epoch, from a running server or from a folder nobody has open. Standard
 * output has one line a file.
 */
import { mkdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { ReadFolder } from '../../engine/history/offline-folder.js'
import { DTYPE_INFO, type Dtype } from '../../state/dtype.js'
import { describeFlags, type FlagTable, integerOf, parseFlags, UsageError } from '../flags.js'
import { writeNpy } from '../npy-files.js'
import { Remote } from '../remote.js'

const FLAGS: FlagTable = {
  url: { value: 'URL', help: 'the server to ask, such as http://127.0.0.1:7411' },
  'data-dir': { value: 'DIR', help: 'or the folder of a server that does not run' },
  out: { value: 'DIR', help: 'where the files go', standard: '.' },
  epoch: { value: 'EPOCH', help: 'as of this epoch', standard: 'the newest' },
  pages: { value: 'NAMES', help: 'these pages, separated by commas', standard: 'all' },
  help: { help: 'this text' },
}

export async function exportPages(args: readonly string[]): Promise<void> {
  const { values, switches } = parseFlags(args, FLAGS, process.env)
  if (switches.has('help')) {
    process.stdout.write(
      `usage: mmsb export (--url URL | --data-dir DIR) [OPTIONS]\n\n${describeFlags(FLAGS)}\n`,
    )
    return
  }
  const url = values.get('url')?.text
  const dir = values.get('data-dir')?.text
  if ((url === undefined) === (dir === undefined)) throw new UsageError('give either --url or --data-dir')
  const given = values.get('epoch')
  const epoch = given === undefined ? undefined : integerOf(given, 0, Number.MAX_SAFE_INTEGER)
  const names = values.get('pages')?.text.split(',')
  const out = resolve(values.get('out')?.text ?? '.')
  mkdirSync(out, { recursive: true })
  if (dir !== undefined) await fromFolder(resolve(dir), out, epoch, names)
  else await fromServer(new Remote(url as string), out, epoch, names)
}

function say(file: string, dtype: Dtype, shape: readonly number[], epoch: number): void {
  process.stdout.write(`${file}: ${dtype}[${shape.join(',')}] as of epoch ${epoch}\n`)
}

async function fromFolder(
  dir: string,
  out: string,
  epoch: number | undefined,
  names: readonly string[] | undefined,
): Promise<void> {
  const folder = new ReadFolder(dir, epoch)
  try {
    const pages = names === undefined ? folder.pages() : names.map((name) => folder.page(name))
    for (const { name, dtype, shape } of pages) {
      const file = join(out, `${name}.npy`)
      await writeNpy(file, dtype, shape, async (offset, count) => folder.read(name, offset, count))
      say(file, dtype, shape, folder.epoch)
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
    const path = `/v1/pages/${encodeURIComponent(name)}/data?epoch=${epoch}`
    const { dtype, shape } = await remote.json<{ dtype: Dtype; shape: number[] }>(`${path}&offset=0&count=0`)
    const file = join(out, `${name}.npy`)
    await writeNpy(file, dtype, shape, async (offset, count) => {
      const response = await remote.request('GET', `${path}&offset=${offset}&count=${count}`)
      return DTYPE_INFO[dtype].view(await response.arrayBuffer(), 0, count)
    })
    say(file, dtype, shape, epoch)
  }
}

/** Pages as of an epoch: those that differ from the empty state, else those of now that were there then. */
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
