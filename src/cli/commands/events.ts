/**
 * `mmsb events export FILE`: the change events of a range of epochs of a folder nobody has open, as a file.
 * `mmsb events replay FILE`: reads one back and prints each epoch as a line of JSON, as the stream's `change` messages are.
 */
import { closeSync, fsyncSync, openSync, readSync, writeSync } from 'node:fs'
import { resolve } from 'node:path'
import { ReadFolder } from '../../engine/history/offline-folder.js'
import {
  decodeEpochEvent,
  decodeEventHeader,
  type EpochEvent,
  EVENT_FILE_HEADER_BYTES,
  encodeEpochEvent,
  encodeEventHeader,
  epochEventBytes,
} from '../../state/event-file.js'
import { valuesToJsonText } from '../../state/value.js'
import {
  DATA_DIR_FLAG,
  describeFlags,
  type FlagTable,
  integerOf,
  parseFlags,
  StartError,
  UsageError,
} from '../flags.js'

const EXPORT_FLAGS: FlagTable = {
  'data-dir': DATA_DIR_FLAG,
  from: { value: 'EPOCH', help: 'the first epoch', standard: '1' },
  to: { value: 'EPOCH', help: 'the last epoch', standard: 'the newest' },
}
const HELP = `usage: mmsb events export FILE [OPTIONS]
       mmsb events replay FILE

${describeFlags(EXPORT_FLAGS)}
  --help            this text
`

export async function events(args: readonly string[]): Promise<void> {
  const [verb, file, ...rest] = args
  if (args.includes('--help')) {
    process.stdout.write(HELP)
    return
  }
  if ((verb !== 'export' && verb !== 'replay') || file === undefined || file.startsWith('-')) {
    throw new UsageError('usage: mmsb events export FILE [OPTIONS], or mmsb events replay FILE')
  }
  if (verb === 'export') {
    exportEvents(file, rest)
    return
  }
  parseFlags(rest, {}, process.env)
  for (const event of eventsIn(file)) process.stdout.write(`${lineOf(event)}\n`)
}

function exportEvents(file: string, args: readonly string[]): void {
  const { values } = parseFlags(args, EXPORT_FLAGS, process.env)
  const epochOf = (name: string): number | undefined => {
    const given = values.get(name)
    return given === undefined ? undefined : integerOf(given, 1, Number.MAX_SAFE_INTEGER)
  }
  const from = epochOf('from') ?? 1
  const folder = new ReadFolder(resolve(values.get('data-dir')?.text ?? './data'), from - 1)
  try {
    const to = epochOf('to') ?? folder.newestEpoch
    if (to < from || to > folder.newestEpoch) {
      throw new StartError(`there are no epochs ${from} to ${to}; the newest is ${folder.newestEpoch}`)
    }
    const fd = openSync(file, 'wx')
    try {
      writeSync(fd, encodeEventHeader(from, to))
      folder.replayTo(to, (event) => writeWhole(fd, encodeEpochEvent(event)))
      fsyncSync(fd)
    } finally {
      closeSync(fd)
    }
    process.stdout.write(`${file}: epochs ${from} to ${to}\n`)
  } finally {
    folder.close()
  }
}

function writeWhole(fd: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done)
}

/** The events of a file, one epoch at a time. Throws INVALID_REQUEST, and StartError when it ends too early. */
export function* eventsIn(file: string): Generator<EpochEvent> {
  const fd = openSync(file, 'r')
  try {
    const take = (length: number, at: number): Uint8Array => {
      const bytes = new Uint8Array(length)
      let got = 0
      for (let read = -1; got < length && read !== 0; got += read)
        read = readSync(fd, bytes, got, length - got, at + got)
      return bytes.subarray(0, got)
    }
    const { from, to } = decodeEventHeader(take(EVENT_FILE_HEADER_BYTES, 0))
    let at = EVENT_FILE_HEADER_BYTES
    for (let epoch = from; epoch <= to; epoch++) {
      const head = take(8, at)
      if (head.length < 8) throw new StartError(`${file}: it ends before epoch ${epoch}`)
      const event = decodeEpochEvent(take(epochEventBytes(head), at))
      if (event.epoch !== epoch)
        throw new StartError(`${file}: epoch ${event.epoch} stands where ${epoch} should`)
      at += epochEventBytes(head)
      yield event
    }
  } finally {
    closeSync(fd)
  }
}

function lineOf({ epoch, changes }: EpochEvent): string {
  const list = changes.map(({ page, kind, dtype, ranges, values }) => {
    const pairs = Array.from({ length: ranges.length / 2 }, (_, i) => [ranges[2 * i], ranges[2 * i + 1]])
    const head = JSON.stringify({ page, kind, ranges: pairs }).slice(0, -1)
    return `${head},"values":${valuesToJsonText(dtype, values)}}`
  })
  return `{"type":"change","epoch":${epoch},"first":${epoch},"changes":[${list.join()}]}`
}
