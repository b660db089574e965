/** `mmsb serve`: reads the flags. The server itself is loaded only once they are known to be valid. */
import { availableParallelism } from 'node:os'
import { BACKENDS, FSYNC_MODES } from '../../engine/arguments.js'
import type { BusOptions } from '../../engine/types.js'
import {
  CHECKPOINT_EVERY_BYTES,
  CHECKPOINT_EVERY_EPOCHS,
  DURABLE_HOLD_BYTES,
  DURABLE_HOLD_MS,
  HTTP_DEFAULT_PORT,
  SEGMENT_BYTES,
  SEGMENT_BYTES_MIN,
  THREADS_MAX,
} from '../../limits.js'
import { AUTH_FLAGS, authOf } from '../auth-flags.js'
import {
  type Address,
  addressOf,
  bytesOf,
  type CommandHelp,
  choiceOf,
  DATA_DIR_FLAG,
  dataDirOf,
  durationOf,
  type FlagTable,
  flagsOrHelp,
  type Given,
  HELP_FLAG,
  integerOf,
  originsOf,
  type ParsedFlags,
  UsageError,
} from '../flags.js'
import { LIMIT_FLAGS, limitsOf } from '../limit-flags.js'
import type { ServeOptions } from '../server.js'
import { AUDIT_FLAGS, auditOf } from '../serving/auditing.js'
import { otlpEndpointOf, TRACING_FLAGS } from '../serving/tracing.js'

const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const

const FLAGS: FlagTable = {
  config: {
    value: 'FILE',
    help: 'JSON file whose keys are the long names of these flags; what flags and environment variables give wins over it',
    env: 'MMSB_CONFIG',
    isOnlyFlag: true,
  },
  port: {
    value: 'PORT',
    help: 'port to listen on; 0 picks a free one',
    env: 'MMSB_PORT',
    standard: String(HTTP_DEFAULT_PORT),
  },
  host: { value: 'HOST', help: 'address to listen on', env: 'MMSB_HOST', standard: '127.0.0.1' },
  'admin-listen': {
    value: 'HOST:PORT',
    help: 'serve health and metrics there too, on a thread of their own; port 0 picks a free one',
    env: 'MMSB_ADMIN_LISTEN',
    standard: 'nowhere',
  },
  'data-dir': DATA_DIR_FLAG,
  backend: {
    value: 'NAME',
    help: 'auto, cpu or cuda',
    env: 'MMSB_BACKEND',
    standard: 'auto',
    choices: BACKENDS,
  },
  fsync: {
    value: 'WHEN',
    help: 'always, interval or off',
    env: 'MMSB_FSYNC',
    standard: 'always',
    choices: FSYNC_MODES,
  },
  'memory-limit': {
    value: 'SIZE',
    help: 'maximum bytes of all pages together, such as 8g',
    env: 'MMSB_MEMORY_LIMIT',
    standard: '8g',
  },
  threads: {
    value: 'N',
    help: 'number of native worker threads',
    env: 'MMSB_THREADS',
    standard: 'the number of cores',
  },
  'checkpoint-epochs': {
    value: 'N',
    help: 'make a checkpoint every N epochs; 0: never',
    env: 'MMSB_CHECKPOINT_EPOCHS',
    standard: String(CHECKPOINT_EVERY_EPOCHS),
  },
  'checkpoint-bytes': {
    value: 'SIZE',
    help: 'make a checkpoint every SIZE bytes of log; 0: never',
    env: 'MMSB_CHECKPOINT_BYTES',
    standard: `${CHECKPOINT_EVERY_BYTES / 1024 ** 2}m`,
  },
  'retain-epochs': {
    value: 'N',
    help: 'delete history older than the newest N epochs',
    env: 'MMSB_RETAIN_EPOCHS',
    standard: 'keep all',
  },
  'retain-bytes': {
    value: 'SIZE',
    help: 'delete history beyond the newest SIZE bytes of log',
    env: 'MMSB_RETAIN_BYTES',
    standard: 'keep all',
  },
  'retain-age': {
    value: 'TIME',
    help: 'delete history older than this, such as 12h or 7d',
    env: 'MMSB_RETAIN_AGE',
    standard: 'keep all',
  },
  'segment-bytes': {
    value: 'SIZE',
    help: 'maximum size of one log segment; history is deleted in whole segments',
    env: 'MMSB_SEGMENT_BYTES',
    standard: `${SEGMENT_BYTES / 1024 ** 2}m`,
  },
  'log-level': {
    value: 'LEVEL',
    help: LOG_LEVELS.join(', '),
    env: 'MMSB_LOG_LEVEL',
    standard: 'info',
    choices: LOG_LEVELS,
  },
  'allow-origin': {
    isList: true,
    value: 'ORIGINS',
    help: 'origins of web pages that may use this server, separated by commas, such as http://localhost:5173',
    env: 'MMSB_ALLOW_ORIGIN',
    standard: "the server's own",
  },
  'durable-hold': {
    value: 'TIME',
    help: 'how long history is kept for a durable subscription after its reader was last connected, such as 12h',
    env: 'MMSB_DURABLE_HOLD',
    standard: '7d',
  },
  'durable-hold-bytes': {
    value: 'SIZE',
    help: 'maximum bytes of log kept for a durable subscription',
    env: 'MMSB_DURABLE_HOLD_BYTES',
    standard: '4g',
  },
  ...LIMIT_FLAGS,
  'until-epoch': {
    value: 'N',
    help: 'open the folder as it was at epoch N, for reading only',
    isOnlyFlag: true,
  },
  cut: {
    help: 'with --until-epoch: discard the epochs after N first, and open for writing; what is cut goes to a folder cut-M beside the log',
    isOnlyFlag: true,
  },
  'read-only': { help: 'write nothing at all: refuse every write, let other readers open the folder too' },
  ...AUTH_FLAGS,
  ...AUDIT_FLAGS,
  ...TRACING_FLAGS,
  help: HELP_FLAG,
}

export const HELP: CommandHelp = {
  usage: 'mmsb serve [OPTIONS]',
  flags: FLAGS,
  examples: [
    ['mmsb serve --data-dir ./data', 'serve ./data on http://127.0.0.1:7411'],
    ['mmsb serve --data-dir ./data --until-epoch 100', 'serve it as it was, for reading'],
  ],
}

export async function serve(args: readonly string[]): Promise<void> {
  const given = flagsOrHelp(args, HELP)
  if (given === undefined) return
  const flags = await withConfig(given, FLAGS)
  const options = serveOptions(flags)
  const until = cutOf(flags)
  if (until !== undefined) {
    const { cutBefore } = await import('../cut.js')
    await cutBefore(options.bus.dataDir, until, (line) => void process.stderr.write(`${line}\n`))
  }
  const { startServer } = await import('../server.js')
  if (!flags.values.has('config')) return await startServer(options)
  await startServer(options, async () => {
    const now = await withConfig(given, FLAGS)
    return { options: serveOptions(now), changedKeys: changedKeys(flags, now) }
  })
}

/** Flags, completed by the configuration file that they name. @throws UsageError */
export async function withConfig(flags: ParsedFlags, table: FlagTable): Promise<ParsedFlags> {
  const file = flags.values.get('config')?.text
  if (file === undefined) return flags
  const { completedBy, readConfig } = await import('../config/config-file.js')
  return completedBy(flags, readConfig(file, table))
}

/** The keys that have another value than before. */
function changedKeys(before: ParsedFlags, now: ParsedFlags): string[] {
  const settingIn = ({ values, switches }: ParsedFlags, name: string): string =>
    values.get(name)?.text ?? String(switches.has(name))
  return Object.keys(FLAGS).filter((name) => settingIn(before, name) !== settingIn(now, name))
}

const untilOf = ({ values }: ParsedFlags): number | undefined => {
  const value = values.get('until-epoch')
  return value === undefined ? undefined : integerOf(value, 0, Number.MAX_SAFE_INTEGER)
}

/** The epoch to cut behind, if there is to be a cut. @throws UsageError */
function cutOf(flags: ParsedFlags): number | undefined {
  if (!flags.switches.has('cut')) return undefined
  const until = untilOf(flags)
  if (until === undefined) throw new UsageError('--cut needs --until-epoch')
  if (flags.switches.has('read-only')) throw new UsageError('--cut writes; leave --read-only away')
  return until
}

/** How the folder is opened. @throws UsageError */
function openingOf(flags: ParsedFlags): Pick<BusOptions, 'readOnly' | 'untilEpoch'> {
  const untilEpoch = flags.switches.has('cut') ? undefined : untilOf(flags)
  if (untilEpoch !== undefined) return { readOnly: true, untilEpoch }
  return flags.switches.has('read-only') ? { readOnly: true } : {}
}

/** @throws UsageError */
export function serveOptions(flags: ParsedFlags): ServeOptions {
  const read: Read = (name, parse, otherwise) => {
    const value = flags.values.get(name)
    return value === undefined ? otherwise : parse(value)
  }
  const host = read('host', ({ text }) => text, '127.0.0.1')
  const admin = read<Address | undefined>('admin-listen', addressOf, undefined)
  const { isInsecure, ...access } = authOf(flags, [
    ['--host', host],
    ...(admin === undefined ? [] : ([['--admin-listen', admin.host]] as const)),
  ])
  const memoryLimitBytes = read<number | undefined>('memory-limit', bytesOf, undefined)
  return {
    port: read('port', (value) => integerOf(value, 0, 65_535), HTTP_DEFAULT_PORT),
    host,
    logLevel: read('log-level', (value) => choiceOf(value, LOG_LEVELS), 'info'),
    isInsecure,
    ...access,
    audit: auditOf(flags),
    otlpEndpoint: otlpEndpointOf(flags),
    ...(admin === undefined ? {} : { admin }),
    allowedOrigins: read('allow-origin', originsOf, new Set<string>()),
    bus: {
      dataDir: dataDirOf(flags),
      ...openingOf(flags),
      backend: read('backend', (value) => choiceOf(value, BACKENDS), 'auto'),
      fsync: read('fsync', (value) => choiceOf(value, FSYNC_MODES), 'always'),
      threads: read('threads', (value) => integerOf(value, 1, THREADS_MAX), availableParallelism()),
      limits: limitsOf(flags),
      durableHoldMs: read('durable-hold', durationOf, DURABLE_HOLD_MS),
      durableHoldBytes: read('durable-hold-bytes', bytesOf, DURABLE_HOLD_BYTES),
      ...(memoryLimitBytes === undefined ? {} : { memoryLimitBytes }),
      checkpoints: {
        everyEpochs: read('checkpoint-epochs', wholeNumber, CHECKPOINT_EVERY_EPOCHS),
        everyBytes: read(
          'checkpoint-bytes',
          (value) => (value.text === '0' ? 0 : bytesOf(value)),
          CHECKPOINT_EVERY_BYTES,
        ),
        atClose: true,
      },
      ...retentionOf(read),
    },
  }
}

/** @throws UsageError */
const wholeNumber = (value: Given): number => integerOf(value, 0, Number.MAX_SAFE_INTEGER)

type Read = <T>(name: string, parse: (value: Given) => T, otherwise: T) => T

/** @throws UsageError */
function retentionOf(read: Read): Pick<BusOptions, 'retention' | 'segmentBytes'> {
  const optional = (name: string, parse: (value: Given) => number): number | undefined =>
    read<number | undefined>(name, parse, undefined)
  const maxEpochs = optional('retain-epochs', (value) => integerOf(value, 1, Number.MAX_SAFE_INTEGER))
  const maxBytes = optional('retain-bytes', bytesOf)
  const maxAgeMs = optional('retain-age', durationOf)
  const retention = {
    ...(maxEpochs === undefined ? {} : { maxEpochs }),
    ...(maxBytes === undefined ? {} : { maxBytes }),
    ...(maxAgeMs === undefined ? {} : { maxAgeMs }),
  }
  const segmentBytes = read('segment-bytes', bytesOf, SEGMENT_BYTES)
  if (segmentBytes < SEGMENT_BYTES_MIN)
    throw new UsageError(`--segment-bytes: must be at least ${SEGMENT_BYTES_MIN}`)
  return {
    segmentBytes: Math.floor(segmentBytes / SEGMENT_ALIGN_BYTES) * SEGMENT_ALIGN_BYTES,
    ...(Object.keys(retention).length === 0 ? {} : { retention }),
  }
}

const SEGMENT_ALIGN_BYTES = 4096
