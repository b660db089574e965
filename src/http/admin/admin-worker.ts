/** The thread of the admin listener: it listens, and answers while the main thread is held. */
import { parentPort, workerData } from 'node:worker_threads'
import type { FastifyBaseLogger } from 'fastify'
import { ADMIN_METRICS_WAIT_MS } from '../../limits.js'
import { LimitGuard } from '../../operator-limits.js'
import { createLogger } from '../observe/logging.js'
import { guardFor, isLoopback } from '../request/origin-guard.js'
import { type AdminApp, buildAdminApp } from './app.js'
import type { AdminData, FromAdmin, MetricsSnapshot, ToAdmin } from './messages.js'
import { stalledMs } from './pulse.js'

const data = workerData as AdminData
let { health } = data
let newest = data.snapshot
/** Called when metrics arrive; undefined while none are asked for. */
let collecting: { readonly done: Promise<void>; resolve(): void } | undefined

const tell = (message: FromAdmin): void => parentPort?.postMessage(message)

/** One question to the main thread at a time, however many callers wait. */
async function metrics(): Promise<MetricsSnapshot> {
  if (collecting === undefined) {
    const { promise: done, resolve } = promiseWithResolver()
    collecting = { done, resolve }
    tell({ type: 'collect' })
  }
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ADMIN_METRICS_WAIT_MS)
  })
  await Promise.race([collecting.done, late])
  clearTimeout(timer)
  return newest
}

function promiseWithResolver(): { readonly promise: Promise<void>; readonly resolve: () => void } {
  let resolve = (): void => {}
  const promise = new Promise<void>((settle) => {
    resolve = settle
  })
  return { promise, resolve }
}

/**
 * The names of --allow-host are those of a proxy, which is not in front of this listener. On an address that
 * other machines reach, probes and Prometheus ask by the address of a pod that nobody knows before.
 */
const allowedHosts = (): ReadonlySet<string> | undefined =>
  isLoopback(data.host) ? data.allowedHosts : undefined

async function start(): Promise<AdminApp> {
  const admin: AdminApp = await buildAdminApp({
    limits: new LimitGuard(data.limits),
    logger: createLogger(data.logLevel) as FastifyBaseLogger,
    guard: guardFor({ ...data, allowedHosts: allowedHosts() }, () => admin.port()),
    allowedOrigins: data.allowedOrigins,
    health: () => health,
    stalledMs: () => stalledMs(data.pulse),
    metrics,
  })
  await admin.listen(data.host, data.port)
  return admin
}

const started = start()
started.then(
  (admin) => tell({ type: 'listening', port: admin.port()! }),
  ({ code = '', message }: NodeJS.ErrnoException) => tell({ type: 'refused', code, message }),
)

parentPort?.on('message', (message: ToAdmin) => {
  if (message.type === 'health') health = message.health
  else if (message.type === 'metrics') {
    newest = message.snapshot ?? newest
    collecting?.resolve()
    collecting = undefined
  } else
    void started
      .then((admin) => admin.close())
      .catch(() => {})
      .then(() => tell({ type: 'closed' }))
})
