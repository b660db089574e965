/**
 * One seed of the simulation. Clients write, make and delete pages, read and try out; epochs execute on this
 * thread or another; the clock jumps; the disk runs full, or a call of it fails. The machine dies at a random
 * sync, with unsynced data kept, dropped or torn, or the process is killed and the machine goes on. It is
 * started again and checked: acknowledged writes are there, others are there completely or not at all, a
 * repeated write happens once, and the digest is that of a full recompute. Throws what it finds wrong.
 */
import assert from 'node:assert/strict'
import { EngineBus } from '../../src/engine/bus.js'
import { verifyPast } from '../../src/engine/history/verify.js'
import type { BusOptions, CommitEvent } from '../../src/engine/types.js'
import { MmsbError } from '../../src/errors.js'
import { crc32c } from '../../src/ffi/library.js'
import { HistoryReader } from '../../src/store/history.js'
import { Draw } from '../lib/draw.js'
import { Scheduler, SIM_DIR, SimCatalog, simFolder, simWorld } from '../support/sim-world.js'
import { type CrashPolicy, type Sabotage, SimDisk, type SimDiskOptions } from '../support/simdisk.js'

const CLIENTS = 4
const ROW = 24
const LIVES = 5
/** What a what-if adds, far above what all clients count to. */
const MUCH = 1_000_000

interface Client {
  readonly id: number
  /** Acknowledged writes with their epochs, ascending. */
  acked: { count: number; epoch: number }[]
  /** The write in flight, or lost with the machine. */
  pending: { key: string; count: number; intent?: string } | undefined
  serial: number
  /** Whether its own page is there, after each acknowledged change, ascending. */
  own: { isThere: boolean; epoch: number }[]
  /** It is being made or deleted, and nobody knows whether that happened. */
  isOwnUnsure: boolean
}

export interface SimReport {
  readonly crashes: number
  readonly epochs: number
  readonly checkpoints: number
  /** How often the disk was full, a call of it failed, or a process was killed. */
  readonly full: number
  readonly faults: number
  readonly kills: number
  /** Everything observed, in order. Equal seeds give equal traces. */
  readonly trace: readonly string[]
}

export async function simulate(seed: number, sabotage?: (draw: Draw) => Sabotage): Promise<SimReport> {
  return new Simulation(seed, sabotage).run()
}

/** A call of the disk that fails, once. */
interface Fault {
  /** Calls before it. */
  left: number
  isDone: boolean
}

class Simulation {
  readonly #draw: Draw
  readonly #scheduler: Scheduler
  readonly #options: BusOptions
  readonly #sabotage: Sabotage | undefined
  readonly #digests = new Map<number, string>()
  /** The digest of every epoch that was published, by history and epoch. */
  readonly #published = new Map<string, string>()
  readonly #timestamps = new Map<number, number>()
  readonly #trace: string[] = []
  readonly #count = { crashes: 0, checkpoints: 0, full: 0, faults: 0, kills: 0 }
  #catalog = new SimCatalog()
  #clients: Client[]
  #durable = 0
  /** The machine did not die since the last process. */
  #isMachineAlive = false
  /** An epoch number that one history used for two states, or a time before that of the epoch before. */
  #wrong: string | undefined

  constructor(seed: number, sabotage: ((draw: Draw) => Sabotage) | undefined) {
    const draw = new Draw(seed)
    this.#draw = draw
    this.#scheduler = new Scheduler(draw)
    this.#sabotage = sabotage?.(new Draw(seed + 1))
    this.#clients = Array.from({ length: CLIENTS }, (_, id) => ({
      id,
      acked: [],
      pending: undefined,
      serial: 0,
      own: [],
      isOwnUnsure: false,
    }))
    const retention = draw.pick([
      undefined,
      { maxEpochs: draw.int(5, 40) },
      { maxEpochs: draw.int(5, 40), maxAgeMs: draw.int(500, 100_000) },
    ])
    this.#options = {
      dataDir: SIM_DIR,
      backend: 'cpu',
      threads: draw.pick([1, 1, 2, 3]),
      fsync: draw.pick(['always', 'always', 'always', 'interval', 'off'] as const),
      segmentBytes: draw.pick([12, 20, 64]) * 1024,
      checkpoints: {
        everyEpochs: draw.pick([0, 6, 15, 40]),
        everyBytes: draw.pick([0, 20_000]),
        atClose: draw.chance(0.5),
      },
      ...(retention === undefined ? {} : { retention }),
    }
  }

  async run(): Promise<SimReport> {
    let disk = new SimDisk(this.#diskOptions(true))
    for (let life = 0; life < LIVES; life++) {
      const end = await this.#life(disk, life === LIVES - 1)
      assert.deepEqual(disk.spoilt, [], 'buffers are left alone while they are written')
      const options = this.#diskOptions(life < LIVES - 2)
      this.#isMachineAlive = end === 'killed' || this.#draw.chance(0.2)
      const policy: CrashPolicy = this.#draw.pick(['keep', 'drop', { seed: this.#draw.int(1, 1e9) }] as const)
      disk = this.#isMachineAlive ? disk.nextProcess(options) : disk.crash(policy, options)
      if (this.#draw.chance(0.1)) this.#catalog = new SimCatalog()
    }
    assert.equal(this.#wrong, undefined)
    return { ...this.#count, epochs: this.#digests.size, trace: this.#trace }
  }

  #diskOptions(mayDie: boolean): SimDiskOptions {
    return {
      schedule: this.#scheduler.add,
      zeroAhead: this.#draw.chance(0.3),
      ...(this.#draw.chance(0.3) ? { roomBytes: this.#draw.int(0, 60_000) } : {}),
      ...(mayDie && this.#draw.chance(0.8) ? { dieAtSync: this.#draw.int(3, 120) } : {}),
      ...(this.#sabotage === undefined ? {} : { sabotage: this.#sabotage }),
    }
  }

  /** One process, until the machine dies, the process ends or is killed, or a call of the disk fails. */
  async #life(disk: SimDisk, isLast: boolean): Promise<'ended' | 'killed'> {
    let bus: EngineBus | undefined
    const fault = isLast || this.#draw.chance(0.7) ? undefined : this.#faultIn(disk)
    const work = async (): Promise<void> => {
      bus = await this.#open(disk, fault)
      const opened = bus
      this.#check(opened, disk, isLast || this.#draw.chance(0.25))
      bus.onCommit((event) => this.#committed(opened, event))
      await this.#define(opened, disk)
      await Promise.all(this.#clients.map((client) => this.#use(opened, disk, client)))
      if (this.#draw.chance(0.6) || isLast) await opened.close()
    }
    const done = work().catch((error: unknown) => {
      const isExpected = disk.dead || (fault?.isDone === true && error instanceof MmsbError)
      if (!isExpected) throw error
    })
    let isKilled = false
    const killed = new Promise<void>((resolve) => {
      if (!isLast && this.#draw.chance(0.25)) this.#countDown(this.#draw.int(1, 150), resolve)
    }).then(() => {
      isKilled = !disk.dead
    })
    await this.#scheduler.until(Promise.race([done, disk.died, killed]))
    if (disk.dead) this.#count.crashes++
    if (isKilled) this.#count.kills++
    if (fault?.isDone === true) this.#count.faults++
    this.#trace.push(`${disk.dead ? 'off' : isKilled ? 'killed' : 'end'} ${disk.syncs} ${bus?.epoch}`)
    const end = isKilled ? 'killed' : 'ended'
    disk.fault = undefined
    disk.dead = true
    disk.burn()
    await this.#scheduler.until(done)
    this.#count.checkpoints += bus?.checkpoints().length ?? 0
    await this.#scheduler.until(Promise.resolve(bus?.close()).catch(() => {}))
    return end
  }

  #countDown(events: number, ended: () => void): void {
    this.#scheduler.add(() => (events === 0 ? ended() : this.#countDown(events - 1, ended)))
  }

  #faultIn(disk: SimDisk): Fault {
    const fault = { left: this.#draw.int(0, 150), isDone: false }
    disk.fault = (call) => {
      if (fault.isDone || fault.left-- > 0) return
      fault.isDone = true
      this.#trace.push(`EIO ${call}`)
      throw Object.assign(new Error(`EIO: ${call}`), { code: 'EIO' })
    }
    return fault
  }

  /** Opens the folder; again, when the opening was refused because the disk is full or a call failed. */
  async #open(disk: SimDisk, fault: Fault | undefined): Promise<EngineBus> {
    const hadFault = fault?.isDone === true
    const opening = (): Promise<EngineBus> =>
      EngineBus.open(this.#options, simWorld(disk, this.#catalog, this.#scheduler, this.#draw))
    try {
      return await this.#whenThereIsRoom(disk, opening)
    } catch (error) {
      const isByFault = fault?.isDone === true && !hadFault && error instanceof MmsbError
      if (!isByFault || disk.dead) throw error
      this.#trace.push('refused')
      assert.equal(disk.openCount, 0, 'a refused opening closes its files')
      return this.#whenThereIsRoom(disk, opening)
    }
  }

  /** Does it again, with a little more room, as long as the disk is full. */
  async #whenThereIsRoom<T>(disk: SimDisk, work: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await work()
      } catch (error) {
        if (!(error instanceof MmsbError) || error.code !== 'LOG_FULL') throw error
        this.#count.full++
        this.#trace.push('full')
        disk.roomBytes += this.#draw.int(0, 40_000)
      }
    }
  }

  #committed(bus: EngineBus, { epoch, timestampMs }: CommitEvent): void {
    const before = this.#timestamps.get(epoch - 1) ?? 0
    // What a listener throws is caught by the bus.
    if (timestampMs < before) this.#wrong = `epoch ${epoch} is of ${timestampMs}, the one before of ${before}`
    this.#timestamps.set(epoch, timestampMs)
    // The listener is called before the digest of the epoch is computed.
    queueMicrotask(() => {
      if (bus.epoch !== epoch) return
      const { digest, history } = bus.status()
      this.#digests.set(epoch, digest)
      const known = this.#published.get(`${history} ${epoch}`)
      this.#published.set(`${history} ${epoch}`, known ?? digest)
      if (known !== undefined && known !== digest) this.#wrong = `epoch ${epoch} twice in history ${history}`
      this.#trace.push(`${epoch} ${digest}`)
    })
  }

  async #define(bus: EngineBus, disk: SimDisk): Promise<void> {
    const steps = [
      () => bus.create('count', { dtype: 'u32', shape: [CLIENTS] }),
      () => bus.create('rows', { dtype: 'f64', shape: [CLIENTS, ROW] }),
      () => bus.derive('sum', { op: 'reduce', inputs: { x: 'count' }, fn: 'sum' }),
      () => bus.derive('step', { op: 'map', inputs: { x: 'rows' }, expr: 'x - prev(x)' }),
    ]
    for (const step of steps) await this.#whenThereIsRoom<unknown>(disk, step)
  }

  async #use(bus: EngineBus, disk: SimDisk, client: Client): Promise<void> {
    for (let left = this.#draw.int(3, 14); left > 0; left--) {
      if (this.#draw.chance(0.5)) this.#scheduler.add(() => this.#peek(bus, disk))
      const kind = this.#draw.int(0, 19)
      if (kind < 2) await this.#changeOwn(bus, disk, client)
      else if (kind === 2) await this.#tryOut(bus, client)
      else await this.#write(bus, disk, client)
      if (this.#options.fsync !== 'always')
        this.#durable = Math.max(this.#durable, bus.stats().log?.durableEpoch ?? 0)
      if (this.#draw.chance(0.1)) await this.#checkpoint(bus)
    }
  }

  async #write(bus: EngineBus, disk: SimDisk, client: Client): Promise<void> {
    const last = client.acked.at(-1)?.count ?? 0
    // A repeat is the same transaction, with the same intent.
    client.pending ??= {
      key: `${client.id}-${client.serial++}`,
      count: last + 1,
      ...(this.#draw.chance(0.2) ? { intent: 'x'.repeat(this.#draw.int(1, 3000)) } : {}),
    }
    const { key, count, intent } = client.pending
    const { epoch } = await this.#whenThereIsRoom(disk, () =>
      bus.transact({
        key,
        ops: [
          { page: 'count', offset: client.id, values: [1], merge: 'add' },
          { page: 'rows', offset: client.id * ROW, values: new Array(ROW).fill(count) },
        ],
        ...(intent === undefined ? {} : { intent }),
      }),
    )
    client.acked.push({ count, epoch })
    client.pending = undefined
  }

  /** Makes the client's own page, or deletes it. */
  async #changeOwn(bus: EngineBus, disk: SimDisk, client: Client): Promise<void> {
    const name = `own${client.id}`
    const isThere = client.own.at(-1)?.isThere === true
    client.isOwnUnsure = true
    const change = async (): Promise<{ epoch: number }> =>
      isThere
        ? bus.delete(name)
        : bus.create(name, { dtype: 'u16', shape: [this.#draw.int(1, 200)], fill: 7 })
    const { epoch } = await this.#whenThereIsRoom(disk, change)
    client.own.push({ isThere: !isThere, epoch })
    client.isOwnUnsure = false
  }

  async #tryOut(bus: EngineBus, client: Client): Promise<void> {
    const ops = [{ page: 'count', offset: client.id, values: [MUCH], merge: 'add' as const }]
    const { pages } = await bus.whatIf({ ops, read: ['sum'] })
    assert.ok(Number(pages.sum?.values[0]) >= MUCH, 'a what-if shows what it would do')
  }

  /** It may find the disk full; a failed checkpoint costs nothing else. */
  async #checkpoint(bus: EngineBus): Promise<void> {
    await bus.checkpoint().catch((error: unknown) => {
      if (!(error instanceof MmsbError) || error.code === 'BUS_FAILED') throw error
      this.#trace.push(`checkpoint ${error.code}`)
    })
  }

  /** A synchronous read while anything may be under way: a whole epoch with everything acknowledged. */
  #peek(bus: EngineBus, disk: SimDisk): void {
    if (disk.dead || bus.failure !== null) return
    let pages: [Uint32Array, BigUint64Array, Float64Array]
    try {
      pages = [bus.read('count') as never, bus.read('sum') as never, bus.read('rows') as never]
    } catch (error) {
      if (error instanceof MmsbError || disk.dead) return
      throw error
    }
    const [counts, [sum], rows] = pages
    assert.equal(
      Number(sum),
      counts.reduce((all, count) => all + count, 0),
      'a read in between sees a whole epoch',
    )
    for (const { id, acked } of this.#clients) {
      assert.ok((counts[id] as number) >= (acked.at(-1)?.count ?? 0), `client ${id}: an older epoch was read`)
      assert.equal(rows[id * ROW], counts[id], `client ${id}: half a transaction was read`)
    }
  }

  /** Checks the state after a start. */
  #check(bus: EngineBus, disk: SimDisk, wholly: boolean): void {
    const { epoch } = bus
    const acknowledged = Math.max(
      0,
      ...this.#clients.flatMap(({ acked, own }) => [acked.at(-1)?.epoch ?? 0, own.at(-1)?.epoch ?? 0]),
    )
    const isKept = this.#options.fsync === 'always' || this.#isMachineAlive
    const floor = isKept ? acknowledged : this.#durable
    assert.ok(epoch >= floor, `started at epoch ${epoch}, but epoch ${floor} was durable`)
    // What was recovered is durable from now on.
    this.#durable = epoch
    for (const client of this.#clients) this.#checkOwn(client, bus)
    for (const known of this.#timestamps.keys()) if (known > epoch) this.#timestamps.delete(known)
    if (!bus.hasPage('step')) {
      assert.equal(acknowledged, 0, 'pages are missing that were written')
      return
    }
    const counts = [...(bus.read('count') as Uint32Array)]
    const rows = bus.read('rows') as Float64Array
    for (const client of this.#clients) this.#checkClient(client, epoch, counts[client.id] as number, rows)
    assert.equal(
      Number((bus.read('sum') as BigUint64Array)[0]),
      counts.reduce((sum, count) => sum + count, 0),
    )
    const { digest } = bus.status()
    const seen = this.#digests.get(epoch)
    if (seen !== undefined) assert.equal(digest, seen, `the digest of epoch ${epoch}`)
    for (const known of this.#digests.keys()) if (known > epoch) this.#digests.delete(known)
    if (wholly) this.#checkPast(bus, disk)
  }

  #checkClient(client: Client, epoch: number, count: number, rows: Float64Array): void {
    client.acked = client.acked.filter((write) => write.epoch <= epoch)
    const acked = client.acked.at(-1)?.count ?? 0
    const { pending } = client
    const happened = pending !== undefined && count === pending.count && count === acked + 1
    assert.ok(count === acked || happened, `client ${client.id}: count ${count}, acknowledged ${acked}`)
    const row = rows.subarray(client.id * ROW, (client.id + 1) * ROW)
    assert.ok(
      row.every((value) => value === count),
      `client ${client.id}: half a transaction: ${row.join()} with count ${count}`,
    )
    // Writes rolled back with epochs that were not durable are made again.
    if (pending !== undefined && pending.count !== acked + 1) client.pending = undefined
  }

  #checkOwn(client: Client, bus: EngineBus): void {
    client.own = client.own.filter((change) => change.epoch <= bus.epoch)
    const wanted = client.own.at(-1)?.isThere === true
    const isThere = bus.hasPage(`own${client.id}`)
    assert.ok(
      isThere === wanted || client.isOwnUnsure,
      `client ${client.id}: its page is ${isThere ? '' : 'not '}there`,
    )
    if (isThere !== wanted) client.own.push({ isThere, epoch: bus.epoch })
    client.isOwnUnsure = false
  }

  /** Replays the whole log and compares every digest. */
  #checkPast(bus: EngineBus, disk: SimDisk): void {
    const { epoch, minEpoch, digest } = bus.status()
    const reader = new HistoryReader({ dir: SIM_DIR, crc32c, disk, checkpoints: simFolder(disk) })
    const found = verifyPast({ reader, from: minEpoch, to: epoch, digest: Buffer.from(digest, 'hex') })
    reader.close()
    assert.deepEqual(found.problems, [])
    assert.equal(found.divergence, null)
  }
}
