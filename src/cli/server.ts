/**
 * The server process: opens the bus, listens, and stops in order.
 *
 * Invariants: standard output has one line, when the server is ready; everything else goes to standard error. SIGTERM and SIGINT:
 * no new connections, what has been sent is answered, WebSockets are closed with 1001, the log is closed, exit 0; who sends
 * nothing does not hold it up. A second signal exits at once; the log is as safe as after a crash.
 */
import type { FastifyBaseLogger } from 'fastify'
import { type Logger, pino } from 'pino'
import { VERSION } from '../engine/version.js'
import { boundPort, buildApp, type MmsbApp } from '../http/app.js'
import { type Guard, loopbackGuard, openGuard } from '../http/request/origin-guard.js'
import { Bus } from '../index.js'
import { STOP_GRACE_MS } from '../limits.js'
import type { ServeOptions } from './commands/serve.js'
import { StartError } from './flags.js'

const SECOND_SIGNAL_EXIT_CODE = 130

/** Serves until a signal. @throws StartError */
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
        logger.fatal({ err: error }, 'could not stop in order')
        process.exit(1)
      },
    )
  }
  process.on('SIGTERM', onSignal)
  process.on('SIGINT', onSignal)
}

/** Answers what is under way, for STOP_GRACE_MS at most, then closes the log. */
async function stop(server: MmsbApp, bus: Bus): Promise<void> {
  const cutOff = setTimeout(() => server.app.server.closeAllConnections(), STOP_GRACE_MS)
  await server.close()
  clearTimeout(cutOff)
  await bus.close()
}

/** A host as it stands in a URL. */
const authority = (host: string): string => (host.includes(':') ? `[${host.replace(/^\[|\]$/g, '')}]` : host)
