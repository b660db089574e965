/**
 * One seed of the simulation. Clients write; the machine dies at a random sync, with unsynced data kept,
 * dropped or torn; it is restarted and checked: acknowledged writes are there, others are there completely or
 * not at all, a repeated write happens once, and the digest is that of a full recompute. Throws what it finds
 * wrong.
 */
import assert from 'node:assert/strict'
import { EngineBus } from '../../src/engine/bus.js'
import { verifyPast } from '../../src/engine/history/verify.js'
import type { BusOptions } from '../../src/engine/types.js'
import { crc32c } from '../../src/ffi/library.js'
import { HistoryReader } from '../../src/store/history.js'
import { Draw } from '../lib/draw.js'
import { Scheduler, SIM_DIR, SimCatalog, simFolder, simWorld } from '../support/sim-world.js'
import { type CrashPolicy, type Sabotage, SimDisk, type SimDiskOptions } from '../support/simdisk.js'

const CLIENTS = 4
const ROW = 24
const LIVES = 4

interface Client {
  readonly id: number
  /** Acknowledged writes with their epochs, ascending. */
  acked: { count: number; epoch: number }[]
  /** The write in flight, or lost with the machine. */
  pending: { key: string; count: number; intent?: string } | undefined
  serial: number
}

export interface SimReport {
  readonly crashes: number
  readonly epochs: number
  readonly checkpoints: number
  /** Everything observed, in order. Equal seeds give equal traces. */
  readonly trace: readonly string[]
}

export async function simulate(seed: number, sabotage?: (draw: Draw) => Sabotage): Promise<SimReport> {
  return new Simulation(seed, sabotage).run()
}

class Simulation {
  readonly #draw: Draw
  readonly #scheduler: Scheduler
  readonly #options: BusOptions
  readonly #sabotage: Sabotage | undefined
  readonly #digests = new Map<number, string>()
  /** The digest of every epoch that was published, by history and epoch. */
  readonly #published = new Map<string, string>()
  readonly #trace: string[] = []
  #catalog = new SimCatalog()
  #clients: Client[]
  #durable = 0
  /** An epoch number that one history used for two states. */
  #reused: string | undefined
  #crashes = 0
  #checkpoints = 0

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
    }))
    this.#options = {
      dataDir: SIM_DIR,
      backend: 'cpu',
      threads: 1,
      fsync: draw.pick(['always', 'always', 'always', 'interval', 'off'] as const),
      segmentBytes: draw.pick([12, 20, 64]) * 1024,
      checkpoints: {
        everyEpochs: draw.pick([0, 6, 15, 40]),
        everyBytes: draw.pick([0, 20_000]),
        atClose: draw.chance(0.5),
      },
      ...(draw.chance(0.5) ? { retention: { maxEpochs: draw.int(5, 40) } } : {}),
    }
  }

  async run(): Promise<SimReport> {
    let disk = new SimDisk(this.#diskOptions(true))
    for (let life = 0; life < LIVES; life++) {
      await this.#life(disk, life === LIVES - 1)
      const policy: CrashPolicy = this.#draw.pick(['keep', 'drop', { seed: this.#draw.int(1, 1e9) }] as const)
      disk = disk.crash(policy, this.#diskOptions(life < LIVES - 2))
      if (this.#draw.chance(0.1)) this.#catalog = new SimCatalog()
    }
    assert.equal(this.#reused, undefined)
    return {
      crashes: this.#crashes,
      epochs: this.#digests.size,
      checkpoints: this.#checkpoints,
      trace: this.#trace,
    }
  }

  #diskOptions(mayDie: boolean): SimDiskOptions {
    return {
      schedule: this.#scheduler.add,
      zeroAhead: this.#draw.chance(0.3),
      ...(mayDie ? { dieAtSync: this.#draw.int(3, 90) } : {}),
      ...(this.#sabotage === undefined ? {} : { sabotage: this.#sabotage }),
    }
  }

  /** One process, until the machine dies or the process ends cleanly. */
  async #life(disk: SimDisk, isLast: boolean): Promise<void> {
    let bus: EngineBus | undefined
    const work = async (): Promise<void> => {
      const world = simWorld(disk, this.#catalog, this.#scheduler, this.#draw)
      bus = await EngineBus.open(this.#options, world)
      bus.onCommit(({ epoch }) => this.#committed(bus as EngineBus, epoch))
      await this.#define(bus)
      this.#check(bus, disk, isLast || this.#draw.chance(0.25))
      await Promise.all(this.#clients.map((client) => this.#write(bus as EngineBus, client)))
      if (this.#draw.chance(0.6) || isLast) await bus.close()
    }
    const done = work().catch((error: unknown) => {
      if (!disk.dead) throw error
    })
    await this.#scheduler.until(Promise.race([done, disk.died]))
    if (disk.dead) this.#crashes++
    this.#trace.push(`${disk.dead ? 'off' : 'end'} ${disk.syncs} ${bus?.epoch}`)
    disk.dead = true
    disk.burn()
    await this.#scheduler.until(done)
    this.#checkpoints += bus?.checkpoints().length ?? 0
    await this.#scheduler.until(Promise.resolve(bus?.close()).catch(() => {}))
  }

  #committed(bus: EngineBus, epoch: number): void {
    // The listener is called before the digest of the epoch is computed.
    queueMicrotask(() => {
      if (bus.epoch !== epoch) return
      const { digest, history } = bus.status()
      this.#digests.set(epoch, digest)
      const known = this.#published.get(`${history} ${epoch}`)
      this.#published.set(`${history} ${epoch}`, known ?? digest)
      if (known !== undefined && known !== digest) this.#reused = `epoch ${epoch} twice in history ${history}`
      this.#trace.push(`${epoch} ${digest}`)
    })
  }

  async #define(bus: EngineBus): Promise<void> {
    await bus.create('count', { dtype: 'u32', shape: [CLIENTS] })
    await bus.create('rows', { dtype: 'f64', shape: [CLIENTS, ROW] })
    await bus.derive('sum', { op: 'reduce', inputs: { x: 'count' }, fn: 'sum' })
    await bus.derive('step', { op: 'map', inputs: { x: 'rows' }, expr: 'x - prev(x)' })
  }

  async #write(bus: EngineBus, client: Client): Promise<void> {
    const writes = this.#draw.int(3, 14)
    for (let i = 0; i < writes; i++) {
      const last = client.acked.at(-1)?.count ?? 0
      // A repeat is the same transaction, with the same intent.
      client.pending ??= {
        key: `${client.id}-${client.serial++}`,
        count: last + 1,
        ...(this.#draw.chance(0.2) ? { intent: 'x'.repeat(this.#draw.int(1, 3000)) } : {}),
      }
      const { key, count, intent } = client.pending
      const { epoch } = await bus.transact({
        key,
        ops: [
          { page: 'count', offset: client.id, values: [1], merge: 'add' },
          { page: 'rows', offset: client.id * ROW, values: new Array(ROW).fill(count) },
        ],
        ...(intent === undefined ? {} : { intent }),
      })
      client.acked.push({ count, epoch })
      client.pending = undefined
      if (this.#options.fsync !== 'always')
        this.#durable = Math.max(this.#durable, bus.stats().log?.durableEpoch ?? 0)
      if (this.#draw.chance(0.1)) await bus.checkpoint()
    }
  }

  /** Checks the state after a start. */
  #check(bus: EngineBus, disk: SimDisk, wholly: boolean): void {
    const { epoch } = bus
    const acknowledged = Math.max(0, ...this.#clients.map(({ acked }) => acked.at(-1)?.epoch ?? 0))
    const floor = this.#options.fsync === 'always' ? acknowledged : this.#durable
    assert.ok(epoch >= floor, `started at epoch ${epoch}, but epoch ${floor} was durable`)
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
