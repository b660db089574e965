/**
 * `mmsb serve`: opens the bus, listens, and stops in order.
 *
 * Invariants: standard output has one line, when the server is ready; everything else goes to standard error. SIGTERM and SIGINT:
 * no new connections, what is under way is answered, WebSockets are closed with 1001, the log is closed, exit 0. A second
 * signal exits at once; the log is as safe as after a crash.
 */
import { availableParallelism } from 'node:os'
import { resolve } from 'node:path'
import type { FastifyBaseLogger } from 'fastify'
import { type Logger, pino } from 'pino'
import type { Bus as EngineBus } from '../engine/bus.js'
import type { BusOptions, FsyncMode } from '../engine/types.js'
import { VERSION } from '../engine/version.js'
import { boundPort, buildApp, type MmsbApp } from '../http/app.js'
import { type Guard, isLoopback, loopbackGuard, openGuard } from '../http/guard.js'
import { Bus } from '../index.js'
import { HTTP_DEFAULT_PORT, STOP_GRACE_MS } from '../limits.js'
import {
  bytesOf,
  choiceOf,
  describeFlags,
  type FlagTable,
  type Given,
  integerOf,
  parseFlags,
  StartError,
} from './flags.js'

export const SERVE_SUMMARY = 'serve the bus over HTTP and WebSocket'

const BACKENDS = ['auto', 'cpu', 'cuda'] as const
const FSYNC_MODES: readonly FsyncMode[] = ['always', 'interval', 'off']
const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const
const SECOND_SIGNAL_EXIT_CODE = 130

const FLAGS: FlagTable = {
  port: {
    value: 'PORT',
    help: 'port to listen on; 0 picks a free one',
    env: 'MMSB_PORT',
    standard: String(HTTP_DEFAULT_PORT),
  },
  host: { value: 'HOST', help: 'address to listen on', env: 'MMSB_HOST', standard: '127.0.0.1' },
  'data-dir': {
    value: 'DIR',
    help: 'where log and checkpoints lie',
    env: 'MMSB_DATA_DIR',
    standard: './data',
  },
  backend: { value: 'NAME', help: 'auto, cpu or cuda', env: 'MMSB_BACKEND', standard: 'auto' },
  fsync: { value: 'WHEN', help: 'always, interval or off', env: 'MMSB_FSYNC', standard: 'always' },
  'memory-limit': {
    value: 'SIZE',
    help: 'bound on the bytes of all pages, such as 8g',
    env: 'MMSB_MEMORY_LIMIT',
    standard: '8g',
  },
  threads: {
    value: 'N',
    help: 'native worker threads',
    env: 'MMSB_THREADS',
    standard: 'the number of cores',
  },
  'log-level': { value: 'LEVEL', help: LOG_LEVELS.join(', '), env: 'MMSB_LOG_LEVEL', standard: 'info' },
  insecure: {
    help: 'allow addresses other than loopback, and any Host and Origin: anyone who reaches the port may do anything',
  },
  help: { help: 'this text' },
}

interface ServeOptions {
  readonly port: number
  readonly host: string
  readonly logLevel: (typeof LOG_LEVELS)[number]
  readonly isInsecure: boolean
  readonly bus: BusOptions & { readonly dataDir: string }
}

export async function serve(args: readonly string[]): Promise<void> {
  const flags = parseFlags(args, FLAGS, process.env)
  if (flags.switches.has('help')) {
    process.stdout.write(`usage: mmsb serve [OPTIONS]\n\n${describeFlags(FLAGS)}\n`)
    return
  }
  const options = serveOptions(flags.values, flags.switches.has('insecure'))
  const logger = pino({ level: options.logLevel }, pino.destination({ dest: 2, sync: true }))
  const bus = await openBus(options, logger)
  let server: MmsbApp
  try {
    server = await listen(bus, options, logger)
  } catch (error) {
    await bus.close()
    throw error
  }
  stopOnSignal(server, bus, logger)
  const port = boundPort(server.app)
  logger.info(
    { version: VERSION, epoch: bus.epoch, dataDir: options.bus.dataDir, fsync: bus.status().fsync },
    'ready',
  )
  process.stdout.write(`mmsb listening on http://${authority(options.host)}:${port}\n`)
}

/** @throws StartError */
function serveOptions(given: ReadonlyMap<string, Given>, isInsecure: boolean): ServeOptions {
  const read = <T>(name: string, parse: (value: Given) => T, otherwise: T): T => {
    const value = given.get(name)
    return value === undefined ? otherwise : parse(value)
  }
  const host = read('host', ({ text }) => text, '127.0.0.1')
  if (!isLoopback(host) && !isInsecure) {
    throw new StartError(
      `--host: ${host} can be reached from other machines, and this server has no authentication; use 127.0.0.1, or --insecure if the network is trusted`,
    )
  }
  const memoryLimitBytes = read<number | undefined>('memory-limit', bytesOf, undefined)
  return {
    port: read('port', (value) => integerOf(value, 0, 65_535), HTTP_DEFAULT_PORT),
    host,
    logLevel: read('log-level', (value) => choiceOf(value, LOG_LEVELS), 'info'),
    isInsecure,
    bus: {
      dataDir: resolve(read('data-dir', ({ text }) => text, './data')),
      backend: read('backend', (value) => choiceOf(value, BACKENDS), 'auto'),
      fsync: read('fsync', (value) => choiceOf(value, FSYNC_MODES), 'always'),
      threads: read('threads', (value) => integerOf(value, 1, 1024), availableParallelism()),
      ...(memoryLimitBytes === undefined ? {} : { memoryLimitBytes }),
    },
  }
}

async function openBus({ bus }: ServeOptions, logger: Logger): Promise<Bus> {
  try {
    return await Bus.open({ ...bus, onNotice: ({ level, message }) => logger[level](message) })
  } catch (error) {
    throw new StartError(`${bus.dataDir}: ${(error as Error).message}`, { cause: error })
  }
}

async function listen(bus: EngineBus, options: ServeOptions, logger: Logger): Promise<MmsbApp> {
  const { host, port, isInsecure } = options
  let server: MmsbApp | undefined
  const guard: Guard = isInsecure
    ? openGuard
    : loopbackGuard(host, () => (server === undefined ? undefined : boundPort(server.app)))
  server = await buildApp({ bus, guard, logger: logger as FastifyBaseLogger })
  try {
    await server.app.listen({ host, port })
    return server
  } catch (error) {
    await server.close()
    const { code, message } = error as NodeJS.ErrnoException
    throw new StartError(code === 'EADDRINUSE' ? `port ${port} of ${host} is in use` : message, {
      cause: error,
    })
  }
}

function stopOnSignal(server: MmsbApp, bus: EngineBus, logger: Logger): void {
  let isStopping = false
  const onSignal = (signal: NodeJS.Signals): void => {
    if (isStopping) process.exit(SECOND_SIGNAL_EXIT_CODE)
    isStopping = true
    logger.info({ signal }, 'stopping')
    stop(server, bus).then(
      () => {
        logger.info('stopped')
        process.exit(0)
      },
      (error: unknown) => {
        logger.fatal({ err: error }, 'could not stop in order')
        process.exit(1)
      },
    )
  }
  process.on('SIGTERM', onSignal)
  process.on('SIGINT', onSignal)
}

/** Answers what is under way, for STOP_GRACE_MS at most, then closes the log. */
async function stop(server: MmsbApp, bus: EngineBus): Promise<void> {
  const cutOff = setTimeout(() => server.app.server.closeAllConnections(), STOP_GRACE_MS)
  await server.close()
  clearTimeout(cutOff)
  await bus.close()
}

/** A host as it stands in a URL. */
const authority = (host: string): string => (host.includes(':') ? `[${host.replace(/^\[|\]$/g, '')}]` : host)
