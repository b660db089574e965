/**
 * `mmsb events export FILE`: writes the change events of a range of epochs to a file. No server may have the
 * data folder open. `mmsb events replay FILE`: prints such a file, one line of JSON per epoch, in the form of
 * the stream's `change` messages.
 */
import { closeSync, fstatSync, fsyncSync, openSync, readSync, writeSync } from 'node:fs'
import { OfflineFolder } from '../../engine/history/offline-folder.js'
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
  type CommandHelp,
  DATA_DIR_FLAG,
  dataDirOf,
  epochOf,
  HELP_FLAG,
  helpText,
  JSON_FLAG,
  parseFlags,
  StartError,
  UsageError,
} from '../flags.js'
import { print, progress, reader, result } from '../output.js'

export const HELP: CommandHelp = {
  usage: `mmsb events export FILE [OPTIONS]
       mmsb events replay FILE`,
  flags: {
    'data-dir': DATA_DIR_FLAG,
    from: { value: 'EPOCH', help: 'first epoch', standard: '1' },
    to: { value: 'EPOCH', help: 'last epoch', standard: 'the newest' },
    json: JSON_FLAG,
    help: HELP_FLAG,
  },
  examples: [
    ['mmsb events export day.ev --data-dir ./data --from 1 --to 100', 'write the changes of 100 epochs'],
    ['mmsb events replay day.ev', 'print them, one line of JSON per epoch'],
  ],
  verbs: ['export', 'replay'],
  operands: 'files',
}

export async function events(args: readonly string[]): Promise<void> {
  const [verb, file, ...rest] = args
  if (args.includes('--help')) {
    process.stdout.write(helpText(HELP))
    return
  }
  if ((verb !== 'export' && verb !== 'replay') || file === undefined || file.startsWith('-')) {
    throw new UsageError('usage: mmsb events export FILE [OPTIONS], or mmsb events replay FILE')
  }
  if (verb === 'export') {
    exportEvents(file, rest)
    return
  }
  parseFlags(rest, { json: JSON_FLAG }, process.env)
  for (const event of eventsIn(file)) {
    print(lineOf(event))
    if (reader.isGone) return
  }
}

function exportEvents(file: string, args: readonly string[]): void {
  const flags = parseFlags(args, HELP.flags, process.env)
  const from = epochOf(flags, 'from', 1) ?? 1
  const folder = new OfflineFolder(dataDirOf(flags), from - 1)
  try {
    const to = epochOf(flags, 'to', 1) ?? folder.newestEpoch
    if (to < from || to > folder.newestEpoch) {
      throw new StartError(`there are no epochs ${from} to ${to}; the newest is ${folder.newestEpoch}`)
    }
    const fd = openSync(file, 'wx', 0o600)
    try {
      writeSync(fd, encodeEventHeader(from, to))
      const say = progress()
      folder.replayTo(to, (event) => {
        writeWhole(fd, encodeEpochEvent(event))
        say(() => `exported epoch ${event.epoch} of ${to}`)
      })
      fsyncSync(fd)
    } finally {
      closeSync(fd)
    }
    result(flags, { file, from, to }, `${file}: epochs ${from} to ${to}`)
  } finally {
    folder.close()
  }
}

function writeWhole(fd: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done)
}

/**
 * The events of a file, one epoch at a time. @throws MmsbError INVALID_REQUEST; StartError when the file is
 * cut short
 */
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
    const { from, to, hasSums } = decodeEventHeader(take(EVENT_FILE_HEADER_BYTES, 0))
    let at = EVENT_FILE_HEADER_BYTES
    for (let epoch = from; epoch <= to; epoch++) {
      const head = take(8, at)
      if (head.length < 8) throw new StartError(`${file}: the file ends before epoch ${epoch}`)
      const event = decodeEpochEvent(take(epochEventBytes(head), at), hasSums)
      if (event.epoch !== epoch)
        throw new StartError(`${file}: found epoch ${event.epoch} where epoch ${epoch} was expected`)
      at += epochEventBytes(head)
      yield event
    }
    if (fstatSync(fd).size !== at) throw new StartError(`${file}: bytes follow the last epoch, ${to}`)
  } finally {
    closeSync(fd)
  }
}

function lineOf({ epoch, changes }: EpochEvent): string {
  const list = changes.map(({ page, kind, dtype, shape, ranges, values }) => {
    const pairs = Array.from({ length: ranges.length / 2 }, (_, i) => [ranges[2 * i], ranges[2 * i + 1]])
    const created = kind === 'created' ? { dtype, shape } : {}
    const head = JSON.stringify({ page, kind, ...created, ranges: pairs }).slice(0, -1)
    return `${head},"values":${valuesToJsonText(dtype, values)}}`
  })
  return `{"type":"change","epoch":${epoch},"first":${epoch},"changes":[${list.join()}]}`
}
