/**
 * Opening a bus: makes its parts in the order in which they depend on each other, and with a data folder
 * recovers what the folder holds.
 *
 * Invariant: when anything fails, memory is freed and the folder is closed again.
 */
import { randomBytes } from 'node:crypto'
import { availableParallelism } from 'node:os'
import { performance } from 'node:perf_hooks'
import { MmsbError } from '../errors.js'
import { NativeContext } from '../ffi/context.js'
import { allocateFile, crc32c, deviceCount, lockDescriptor } from '../ffi/library.js'
import { Graph } from '../graph/graph.js'
import { DURABLE_HOLD_BYTES, DURABLE_HOLD_MS, MEMORY_QUOTA_DEFAULT_BYTES } from '../limits.js'
import { LimitGuard, type Limits, OPERATOR_LIMITS } from '../operator-limits.js'
import { cursorsIn, cursorsOfReader } from '../store/cursors/cursors.js'
import { historyName, newGeneration } from '../store/history-file.js'
import { busFailed, textOf } from '../store/os/errors.js'
import { type ReadableStore, ReadOnlyStore } from '../store/read-only.js'
import { Store } from '../store/store.js'
import { checkBusOptions } from './arguments.js'
import { type Callbacks, callbacksOf } from './callbacks.js'
import { CheckpointScheduler } from './checkpoints/scheduler.js'
import { reportClockBehind, watchedHost } from './clock-watch.js'
import { commitAdmitted } from './commands/admitting.js'
import { Definitions } from './commands/definitions.js'
import { Committer } from './commit/committer.js'
import { Cursors } from './durable-cursors.js'
import { failOverToCpu } from './history/cpu-failover.js'
import { type DataFolder, Past } from './history/past.js'
import { type Recovered, recover } from './history/recovery.js'
import { type Host, REAL_HOST } from './host.js'
import type { EngineState } from './pages/engine-state.js'
import { PageReader } from './pages/page-reader.js'
import { PageTallies } from './pages/page-tallies.js'
import { pricePages } from './pages/price.js'
import { Registry } from './pages/registry.js'
import type { BusOptions, BusStatus, FsyncMode } from './types.js'

/** Where the pages are computed. */
export interface Device {
  backend: 'cpu' | 'cuda'
  /** Set once the device failed and the state moved to host memory. */
  loss: BusStatus['deviceLoss']
}

/** Readers of history: each returns the lowest epoch that it needs, or undefined. */
export type HistoryNeeds = Set<() => number | undefined>

export interface BusParts {
  readonly callbacks: Callbacks
  /** The history that the epochs belong to. */
  readonly historyId: string
  /** The operator's limits. */
  readonly limits: LimitGuard
  readonly fsync: FsyncMode
  readonly device: Device
  readonly state: EngineState
  readonly committer: Committer
  readonly pages: PageReader
  readonly tallies: PageTallies
  readonly definitions: Definitions
  readonly past: Past
  readonly needs: HistoryNeeds
  /** Set with a data folder. */
  readonly durable: DurableParts | undefined
}

export interface DurableParts {
  readonly store: ReadableStore
  readonly cursors: Cursors
  /** Undefined when the folder is only read. */
  readonly scheduler: CheckpointScheduler | undefined
}

/**
 * Throws INVALID_REQUEST for an unknown option or value, UNSUPPORTED_LOCATION for `cuda` without a device, an
 * error of the store when the folder is locked, damaged or not writable, and EPOCH_NOT_FOUND or
 * EPOCH_COMPACTED when it does not reach `untilEpoch`.
 */
export async function openParts(given: BusOptions, host: Host = REAL_HOST): Promise<BusParts> {
  checkBusOptions(given)
  const callbacks = callbacksOf(given.onNotice)
  const { onProgress = () => {} } = given
  const options = {
    ...given,
    onNotice: callbacks.notify,
    onProgress: callbacks.guard('onProgress', onProgress, undefined),
  }
  const limits = new LimitGuard(limitsFor(options))
  const wanted = options.backend ?? 'auto'
  const backend = wanted === 'auto' ? (deviceCount() > 0 ? 'cuda' : 'cpu') : wanted
  const memory = {
    quotaBytes: options.memoryLimitBytes ?? MEMORY_QUOTA_DEFAULT_BYTES,
    threads: options.threads ?? availableParallelism(),
  }
  // On a machine without a device, a log written with one can still be opened; new pages are checked when
  // defined.
  const context = new NativeContext({ backend, ...memory, hostMemoryOnly: backend === 'cpu' })
  const state = { registry: new Registry(), graph: new Graph(), context }
  const device: Device = { backend, loss: undefined }
  let folder: OpenedFolder | undefined
  const committer: Committer = new Committer(
    state,
    limits,
    (reason) => failOver({ state, committer, device, folder, onNotice: options.onNotice, memory, reason }),
    watchedHost(host, callbacks.notify),
  )
  try {
    const { dataDir } = options
    if (dataDir !== undefined)
      folder = await openFolder(
        dataDir,
        options,
        host,
        Math.min(memory.quotaBytes, limits.values.maxReplayBytes),
      )
    return await assemble({ host, options, callbacks, limits, state, device, committer, folder })
  } catch (error) {
    context.close()
    throw error
  }
}

/**
 * More memory for pages alone raises the limits of all their bytes and of replays too, unless
 * those are given.
 */
function limitsFor({ limits = {}, memoryLimitBytes = 0 }: BusOptions): Partial<Limits> {
  const { maxPageBytes, maxReplayBytes } = OPERATOR_LIMITS
  return {
    ...limits,
    maxPageBytes: limits.maxPageBytes ?? Math.max(maxPageBytes.standard, memoryLimitBytes),
    maxReplayBytes: limits.maxReplayBytes ?? Math.max(maxReplayBytes.standard, memoryLimitBytes),
  }
}

async function openFolder(
  dir: string,
  options: BusOptions,
  host: Host,
  quotaBytes: number,
): Promise<OpenedFolder> {
  const common = {
    dir,
    crc32c,
    lockDescriptor,
    ...(options.onNotice === undefined ? {} : { onNotice: options.onNotice }),
    ...(options.signal === undefined ? {} : { signal: options.signal }),
    ticksMs: () => host.ticksMs(),
  }
  const placed = (store: ReadableStore): Omit<DataFolder, 'isReadOnly'> => ({
    dir: store.dir,
    identity: store.identity,
    store,
    quotaBytes,
  })
  if (options.readOnly === true) {
    const { untilEpoch } = options
    const store = await ReadOnlyStore.open({ ...common, ...(untilEpoch === undefined ? {} : { untilEpoch }) })
    return { ...placed(store), isReadOnly: true, writable: undefined }
  }
  const store = await Store.open({
    ...common,
    fsync: options.fsync ?? 'always',
    allocate: allocateFile,
    ...(options.segmentBytes === undefined ? {} : { segmentBytes: options.segmentBytes }),
    ...host.store,
  })
  return { ...placed(store), isReadOnly: false, writable: store }
}

interface OpenedFolder extends DataFolder {
  /** Its store; undefined when it is only read. */
  readonly writable: Store | undefined
}

/** The history of a bus in memory: no other bus ever has the same. */
function unkeptHistory({ store: { random = randomBytes } }: Host): string {
  const busId = Buffer.from(random(16)).toString('hex')
  return historyName(busId, newGeneration(random))
}

interface Foundation {
  readonly host: Host
  readonly options: BusOptions
  readonly callbacks: Callbacks
  readonly limits: LimitGuard
  readonly state: EngineState
  readonly device: Device
  readonly committer: Committer
  readonly folder: OpenedFolder | undefined
}

/** Recovers, and puts the other parts on top. Closes the folder when that fails. */
async function assemble({
  host,
  options,
  callbacks,
  limits,
  state,
  device,
  committer,
  folder,
}: Foundation): Promise<BusParts> {
  const hasDevice = (): boolean => device.backend !== 'cpu'
  const pages = new PageReader({ state, committer, hasDevice })
  const parts = (nextPageId: number): Omit<BusParts, 'durable'> => ({
    callbacks,
    historyId: folder?.store.history ?? unkeptHistory(host),
    limits,
    fsync: options.fsync ?? 'always',
    device,
    state,
    committer,
    pages,
    tallies: new PageTallies(state.registry),
    definitions: new Definitions(
      {
        state,
        limits,
        pages,
        // Compiling and writing may have paused since the last question.
        commit: (pending, admission) => {
          committer.lifecycle.refuseWrites()
          return commitAdmitted(committer, pending, admission, state)
        },
        refuseWrites: () => committer.lifecycle.refuseWrites(),
        hasDevice,
      },
      nextPageId,
    ),
    past: new Past({ committer, registry: state.registry, folder, limits }),
    needs: new Set(),
  })
  if (folder === undefined) return { ...parts(1), durable: undefined }
  const { store } = folder
  try {
    const recovered = await recover({ state, store, limits, options, host })
    reportClockBehind(host, recovered.timestampMs, callbacks.notify)
    committer.startFrom(recovered)
    if (folder.writable === undefined) committer.lifecycle.beReadOnly()
    else committer.attach(folder.writable)
    const base = parts(recovered.nextPageId)
    return { ...base, durable: await openDurableParts(base, folder, options, { ...recovered, host }) }
  } catch (error) {
    await store.close()
    options.signal?.throwIfAborted()
    if (error instanceof MmsbError) throw error
    throw busFailed(`the data folder ${store.dir} cannot be recovered: ${textOf(error)}`, error)
  }
}

async function openDurableParts(
  { historyId, state, committer, definitions, needs }: Omit<BusParts, 'durable'>,
  { store, writable }: OpenedFolder,
  options: BusOptions,
  { replayedBytes, host }: Recovered & { readonly host: Host },
): Promise<DurableParts> {
  const cursors = await Cursors.open({
    store:
      writable === undefined
        ? cursorsOfReader(store.dir)
        : cursorsIn(store.dir, () => store.refuseWhenLost()),
    nowMs: Date.now,
    newestEpoch: () => committer.epoch,
    history: historyId,
    bytesSince: (epoch) => store.bytesSince(epoch),
    holdMs: options.durableHoldMs ?? DURABLE_HOLD_MS,
    holdBytes: options.durableHoldBytes ?? DURABLE_HOLD_BYTES,
    onNotice: (message) => options.onNotice?.({ level: 'warn', message }),
  })
  if (writable === undefined) return { store, cursors, scheduler: undefined }
  needs.add(() => cursors.lowestNeeded())
  const scheduler = new CheckpointScheduler({
    state,
    committer,
    store: writable,
    options,
    needs,
    nextPageId: () => definitions.nextPageId,
    replayedBytes,
    ticksMs: () => host.ticksMs(),
  })
  return { store, cursors, scheduler }
}

interface Failover {
  readonly state: EngineState
  readonly committer: Committer
  readonly device: Device
  readonly folder: DataFolder | undefined
  readonly onNotice: BusOptions['onNotice']
  readonly memory: { readonly quotaBytes: number; readonly threads: number }
  readonly reason: string
}

/** Rebuilds the newest epoch in host memory. Throws BUS_FAILED when there is no log to rebuild it from. */
function failOver({ state, committer, device, folder, onNotice, memory, reason }: Failover): void {
  const { epoch, digest } = committer
  if (folder === undefined)
    throw new MmsbError('BUS_FAILED', `The device failed, and there is no log to rebuild from: ${reason}`)
  const startedMs = performance.now()
  const { dir, identity, isReadOnly } = folder
  failOverToCpu(state, { dir, identity, isReadOnly, epoch, digest, ...memory })
  pricePages(state)
  device.backend = 'cpu'
  device.loss = { epoch, reason }
  const ms = Math.round(performance.now() - startedMs)
  const message = `the device failed (${reason}): epoch ${epoch} was rebuilt on the CPU in ${ms} ms`
  onNotice?.({ level: 'error', message })
}
