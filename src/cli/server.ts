/**
 * The server process: listens, opens the bus, serves it, and shuts down in order.
 *
 * Invariants: standard output gets one line when the server is ready, and before it one when the admin
 * listener listens; everything else goes to standard error. On SIGTERM and SIGINT the server accepts no new
 * connections, answers the requests it has received, closes WebSockets with 1001, closes the log and exits
 * with 0. Idle connections do not delay this.
 */
import type { FastifyBaseLogger } from 'fastify'
import type { LevelWithSilent, Logger } from 'pino'
import { type Host, REAL_HOST } from '../engine/host.js'
import { VERSION } from '../engine/version.js'
import { releaseMemorySoon } from '../ffi/library.js'
import { type AdminListener, startAdmin } from '../http/admin/listener.js'
import { buildApp, type MmsbApp } from '../http/app.js'
import type { Health, Report } from '../http/health.js'
import { createLogger } from '../http/observe/logging.js'
import type { Tracing } from '../http/observe/tracing.js'
import { guardFor } from '../http/request/origin-guard.js'
import { buildStartingApp, type StartingApp } from '../http/starting.js'
import { Bus, type BusOptions } from '../index.js'
import { LimitGuard } from '../operator-limits.js'
import { Access, type AccessFiles } from './access.js'
import { type Address, StartError } from './flags.js'
import { type AuditOptions, openAuditor } from './serving/auditing.js'
import { type Reread, reloadOnSignal } from './serving/reloading.js'
import { startTracing } from './serving/tracing.js'
import { type Stoppable, stopOnSignal } from './stopping.js'

export interface ServeOptions extends AccessFiles {
  readonly port: number
  readonly host: string
  readonly logLevel: LevelWithSilent
  /** Any host, any Host header, any Origin. */
  readonly isInsecure: boolean
  readonly allowedOrigins: ReadonlySet<string>
  /** Absent: no audit trail. */
  readonly audit?: AuditOptions
  readonly allowedHosts?: ReadonlySet<string> | undefined
  readonly trustedProxies?: readonly string[] | undefined
  /** Undefined: nothing is traced. */
  readonly otlpEndpoint?: string | undefined
  /** Where health and metrics are served by a thread of their own; absent: nowhere. */
  readonly admin?: Address
  readonly bus: BusOptions & { readonly dataDir: string }
}

/**
 * Starts the server, which then runs until a signal. `reread` reads the configuration again.
 * @throws StartError
 */
export async function startServer(options: ServeOptions, reread?: Reread): Promise<void> {
  releaseMemorySoon()
  const logger = createLogger(options.logLevel)
  const { otlpEndpoint } = options
  const tracing = otlpEndpoint === undefined ? undefined : await startTracing(otlpEndpoint, logger)
  const opening = new Opening(options, logger, tracing)
  let stoppable = beforeListening(opening)
  let admin: AdminListener | undefined
  stopOnSignal(() => endingWith(stoppable, admin), logger)
  const access = new Access(options, logger)
  const starting = await listen(options, access, opening, logger)
  const port = starting.port() as number
  stoppable = whileStarting(starting, opening)
  let report: Report = starting.report
  let bus: Bus
  try {
    admin = await listenForAdmin(options, () => report, logger)
    bus = await opening.open()
  } catch (error) {
    // The signal that ended it ends the process too.
    if (opening.isEnded) return
    await Promise.all([starting.close(), admin?.close()])
    throw error
  }
  const { audit } = options
  const { dataDir } = options.bus
  // A folder that is only read gets no trail.
  const auditor = bus.isReadOnly || audit === undefined ? undefined : openAuditor(dataDir, audit, logger)
  const server = await buildApp({
    bus,
    auditor,
    tracing,
    guard: guardFor(options, () => port),
    allowedOrigins: options.allowedOrigins,
    trustedProxies: options.trustedProxies,
    authenticator: access.authenticator,
    resource: access.resource,
    principalLimits: access.limits,
    tls: access.tls,
    logger: logger as FastifyBaseLogger,
    mayChangeLevel: reread !== undefined,
  })
  if (opening.isEnded) return
  await server.takeOver(starting)
  reloadOnSignal({ access, reread, renewTls: server.renewTls, logger, auditor })
  stoppable = whileOpen(server, bus, [auditor, tracing])
  report = server.report
  const { epoch, fsync, readOnly } = bus.status()
  logger.info({ version: VERSION, epoch, ...(readOnly ? { readOnly } : { fsync }), dataDir }, 'ready')
  process.stdout.write(
    `mmsb listening on ${access.tls === undefined ? 'http' : 'https'}://${authority(options.host)}:${port}\n`,
  )
}

/** Opens the bus, and follows how far that has come. */
class Opening {
  readonly #options: ServeOptions
  readonly #logger: Logger
  readonly #host: Host
  readonly #ended = new AbortController()
  #progress = { percent: 0, reason: 'opening the data folder' }
  #opened: Promise<Bus> | undefined

  constructor(options: ServeOptions, logger: Logger, tracing: Tracing | undefined) {
    this.#options = options
    this.#host = tracing === undefined ? REAL_HOST : { ...REAL_HOST, onEpoch: tracing.epochs.note }
    this.#logger = logger
  }

  get health(): Health {
    const { isEnded } = this
    if (isEnded)
      return { state: 'stopping', percent: this.#progress.percent, reason: 'the server is stopping' }
    return { state: 'recovering', ...this.#progress }
  }

  get isEnded(): boolean {
    return this.#ended.signal.aborted
  }

  async open(): Promise<Bus> {
    const { bus } = this.#options
    const { signal } = this.#ended
    this.#opened = Bus.open(
      {
        ...bus,
        signal,
        onNotice: ({ level, message }) => this.#logger[level](message),
        onProgress: ({ percent, detail }) => {
          this.#progress = { percent, reason: detail }
        },
      },
      this.#host,
    )
    try {
      return await this.#opened
    } catch (error) {
      throw new StartError(`${bus.dataDir}: ${(error as Error).message}`, { cause: error })
    }
  }

  /** Ends opening. A bus that was open already is closed. */
  async end(): Promise<void> {
    this.#ended.abort()
    const bus = await this.#opened?.catch(() => undefined)
    await bus?.close()
  }
}

const beforeListening = (opening: Opening): Stoppable => ({
  closeServer: () => opening.end(),
  cutOff: () => {},
  closeBus: async () => {},
})

const whileStarting = (starting: StartingApp, opening: Opening): Stoppable => ({
  // Nothing that a client can wait for is under way.
  closeServer: () => opening.end(),
  cutOff: () => {},
  closeBus: () => starting.close(),
})

const whileOpen = (
  server: MmsbApp,
  bus: Bus,
  others: readonly ({ close(): Promise<void> } | undefined)[],
): Stoppable => ({
  closeServer: () => server.close(),
  cutOff: () => server.cutOff(),
  closeBus: async (graceMs) => {
    await Promise.all([bus.close({ graceMs }), ...others.map((other) => other?.close())])
  },
})

async function listen(
  options: ServeOptions,
  { tls, authenticator }: Access,
  opening: Opening,
  logger: Logger,
): Promise<StartingApp> {
  const { host, port, allowedOrigins, trustedProxies } = options
  const starting: StartingApp = await buildStartingApp({
    limits: new LimitGuard(options.bus.limits),
    health: () => opening.health,
    needsLogin: authenticator !== undefined,
    guard: guardFor(options, () => starting.port()),
    allowedOrigins,
    trustedProxies,
    tls,
    logger: logger as FastifyBaseLogger,
  })
  try {
    await starting.listen(host, port)
    return starting
  } catch (error) {
    await starting.close()
    throw listenError(error, host, port)
  }
}

/** Stops the admin listener last, so that it can be asked until then. */
const endingWith = (stoppable: Stoppable, admin: AdminListener | undefined): Stoppable => ({
  ...stoppable,
  closeBus: async (graceMs) => {
    await stoppable.closeBus(graceMs)
    await admin?.close()
  },
})

/** Starts the admin listener where one is wanted, and says where it listens. */
async function listenForAdmin(
  options: ServeOptions,
  report: () => Report,
  logger: Logger,
): Promise<AdminListener | undefined> {
  const { admin: address, isInsecure, allowedOrigins, allowedHosts, logLevel } = options
  if (address === undefined) return undefined
  const { host, port } = address
  try {
    const admin = await startAdmin({
      ...{ host, port, isInsecure, allowedOrigins, allowedHosts, logLevel, report },
      limits: new LimitGuard(options.bus.limits).values,
      onFault: (error) => logger.error({ err: error }, 'the admin listener failed'),
    })
    process.stdout.write(`mmsb admin listening on http://${authority(host)}:${admin.port}\n`)
    return admin
  } catch (error) {
    throw listenError(error, host, port)
  }
}

/** Why the server cannot listen. */
function listenError(error: unknown, host: string, port: number): StartError {
  const { code, message } = error as NodeJS.ErrnoException
  return new StartError(code === 'EADDRINUSE' ? `port ${port} of ${host} is in use` : message, {
    cause: error,
  })
}

/** A host as URLs write it: IPv6 in brackets. */
const authority = (host: string): string => (host.includes(':') ? `[${host.replace(/^\[|\]$/g, '')}]` : host)
