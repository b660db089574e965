/**
 * The server process: opens the bus, listens, and shuts down in order.
 *
 * Invariants: standard output gets one line, when the server is ready; everything else goes to standard
 * error. On SIGTERM and SIGINT the server accepts no new connections, answers the requests it has received,
 * closes WebSockets with 1001, closes the log and exits with 0. Idle connections do not delay this. A second
 * signal exits at once, which is as safe as a crash.
 */
import type { FastifyBaseLogger } from 'fastify'
import { type LevelWithSilent, type Logger, pino } from 'pino'
import { VERSION } from '../engine/version.js'
import { boundPort, buildApp, type MmsbApp } from '../http/app.js'
import { type Guard, loopbackGuard, openGuard } from '../http/request/origin-guard.js'
import { Bus, type BusOptions } from '../index.js'
import { STOP_GRACE_MS } from '../limits.js'
import { StartError } from './flags.js'

const SECOND_SIGNAL_EXIT_CODE = 130

export interface ServeOptions {
  readonly port: number
  readonly host: string
  readonly logLevel: LevelWithSilent
  /** Any host, any Host header, any Origin. */
  readonly isInsecure: boolean
  readonly allowedOrigins: ReadonlySet<string>
  readonly bus: BusOptions & { readonly dataDir: string }
}

/** Starts the server, which then runs until a signal. @throws StartError */
export async function startServer(options: ServeOptions): Promise<void> {
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
  const { epoch, fsync } = bus.status()
  logger.info({ version: VERSION, epoch, fsync, dataDir: options.bus.dataDir }, 'ready')
  process.stdout.write(`mmsb listening on http://${authority(options.host)}:${boundPort(server.app)}\n`)
}

async function openBus({ bus }: ServeOptions, logger: Logger): Promise<Bus> {
  try {
    return await Bus.open({ ...bus, onNotice: ({ level, message }) => logger[level](message) })
  } catch (error) {
    throw new StartError(`${bus.dataDir}: ${(error as Error).message}`, { cause: error })
  }
}

async function listen(bus: Bus, options: ServeOptions, logger: Logger): Promise<MmsbApp> {
  const { host, port, isInsecure, allowedOrigins } = options
  let server: MmsbApp | undefined
  const guard: Guard = isInsecure
    ? openGuard
    : loopbackGuard(host, () => (server === undefined ? undefined : boundPort(server.app)), allowedOrigins)
  server = await buildApp({ bus, guard, allowedOrigins, logger: logger as FastifyBaseLogger })
  try {
    await server.listen(host, port)
    return server
  } catch (error) {
    await server.close()
    const { code, message } = error as NodeJS.ErrnoException
    throw new StartError(code === 'EADDRINUSE' ? `port ${port} of ${host} is in use` : message, {
      cause: error,
    })
  }
}

function stopOnSignal(server: MmsbApp, bus: Bus, logger: Logger): void {
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
        logger.fatal({ err: error }, 'shutdown failed')
        process.exit(1)
      },
    )
  }
  process.on('SIGTERM', onSignal)
  process.on('SIGINT', onSignal)
}

/** Answers the requests in flight, for STOP_GRACE_MS at most, then closes the log. */
async function stop(server: MmsbApp, bus: Bus): Promise<void> {
  const cutOff = setTimeout(() => server.app.server.closeAllConnections(), STOP_GRACE_MS)
  await server.close()
  clearTimeout(cutOff)
  await bus.close()
}

/** A host as URLs write it: IPv6 in brackets. */
const authority = (host: string): string => (host.includes(':') ? `[${host.replace(/^\[|\]$/g, '')}]` : host)
